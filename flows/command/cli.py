"""The command ``tidemill``: parse, call, print. Exit codes: 0 done, 1 a bug or a finding, 2 the
person's mistake (one sentence on stderr), 130 interrupted.

``retrain`` and ``ingest`` run a flow in this process. Where PREFECT_API_URL (or the active profile)
names a server, that is a flow run which the server records. Where none is named, Prefect would
start a server of its own for 8 to 10 seconds and drop it again, with most of its records; here the
flow's function is called as it is, and ``Steps`` keeps the same results under the same keys.

Text from data is shown with every control character escaped, and never read as markup.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from flows.command import commands
from flows.command.commands import FAILED, OK
from flows.command.terminal import log_to_stderr, printable
from flows.environment import warehouse_root
from pipeline.errors import InputError
from pipeline.splits.splits import SPLIT_BY
from warehouse.errors import FORBIDDEN, FULL, StorageError, remedy_of

MISTAKE, INTERRUPTED = 2, 130

QUIET = {
    "DO_NOT_TRACK": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_EXTRA_LOGGERS": "flows,pipeline,warehouse",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",
}
"""No telemetry; our own log lines belong to the flow run, if there is one. What is set stays."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    parsed = _parser().parse_args(arguments)
    log_to_stderr()
    command: Callable[[argparse.Namespace], int] = parsed.command
    try:
        code = command(parsed)
        # A reader who has gone is met here, not when Python closes the stream.
        sys.stdout.flush()
        return code
    except (InputError, StorageError) as error:
        print(f"tidemill: {printable(str(error))}", file=sys.stderr)  # noqa: T201
        return MISTAKE
    except KeyboardInterrupt:
        print(  # noqa: T201
            "tidemill: interrupted: the same command goes on from what is kept", file=sys.stderr
        )
        return INTERRUPTED
    except BrokenPipeError:
        # Whoever read our output has enough of it; nothing more may be written, not even at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except Exception as error:
        if isinstance(error, OSError) and error.errno in FULL | FORBIDDEN:
            where = error.filename or warehouse_root(getattr(parsed, "warehouse", None))
            sentence = f"{where}: {error.strerror}: {remedy_of(error)}"
            print(f"tidemill: {printable(sentence)}", file=sys.stderr)  # noqa: T201
            return MISTAKE
        print(printable(traceback.format_exc(), keep="\n"), end="", file=sys.stderr)  # noqa: T201
        return FAILED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidemill", description="Train, compare and register recurrent sequence models."
    )
    parser.add_argument("--version", action="version", version=f"tidemill {_own_version()}")
    subparsers = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = ""
    ) -> argparse.ArgumentParser:
        added = subparsers.add_parser(name, help=summary, description=f"{summary}{more}")
        added.set_defaults(command=run)
        return added

    def of_warehouse(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--warehouse",
            metavar="DIR",
            help="the folder that keeps everything (default: $TIDEMILL_WAREHOUSE, else .warehouse)",
        )

    def as_json(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--json", action="store_true", help="print JSON, nothing else, on stdout"
        )

    def of_catalogue(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "--catalogue", metavar="FILE", help="another file of deployments than prefect.yaml"
        )

    def of_deployment(added: argparse.ArgumentParser) -> None:
        added.add_argument(
            "name", metavar="NAME", help="a deployment of prefect.yaml, such as demo"
        )
        added.add_argument(
            "--source",
            nargs="+",
            action="extend",
            metavar="PATH_OR_GLOB",
            help="these files instead of the deployment's own: paths, folders, patterns, "
            "addresses such as hf://, or sample:NAME",
        )
        added.add_argument(
            "--set",
            nargs="+",
            action="extend",
            metavar="KEY=VALUE",
            default=[],
            help="change single settings of the deployment, such as training.num_epochs=5 or "
            "records.max_rejected=0.2",
        )

    def of_model(added: argparse.ArgumentParser) -> None:
        added.add_argument("name", metavar="NAME", help="a registered model, such as demo")

    retrain = command(
        "retrain",
        commands.retrain,
        "train and compare the variants of a deployment, in this process",
    )
    of_deployment(retrain)
    retrain.add_argument(
        "--variants",
        metavar="A,B",
        help="these instead of the deployment's own, such as lstm,gru-2,bilstm",
    )
    retrain.add_argument(
        "--snapshot",
        metavar="ID",
        help="train on this snapshot as it is and read no source: the beginning of the id that "
        "every version shows",
    )
    retrain.add_argument(
        "--extend-from",
        metavar="VERSION",
        help="go on learning from the champion (champion) or a version's number: its words keep "
        "their ids and weights, and new ones come behind them",
    )
    retrain.add_argument(
        "--split",
        choices=SPLIT_BY,
        help="hold out by a hash that never moves a record, or the records that came last "
        "(default: as the deployment says, else hash)",
    )
    retrain.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        help="what computes: cuda is a GPU, auto takes one where there is one (default: auto)",
    )
    retrain.add_argument(
        "--parallel",
        type=int,
        metavar="N",
        help="train so many variants at once, each in a process of its own (default: 1)",
    )
    retrain.add_argument(
        "--resume",
        choices=("auto", "never"),
        help="auto goes on with a training that was cut off, never starts it anew (default: auto)",
    )
    of_catalogue(retrain)
    of_warehouse(retrain)
    as_json(retrain)

    ingest = command(
        "ingest", commands.ingest, "check and store the sources of a deployment, no training"
    )
    of_deployment(ingest)
    of_catalogue(ingest)
    of_warehouse(ingest)
    as_json(ingest)

    profile = command(
        "profile",
        commands.profile,
        "what a snapshot holds: lengths, words, scripts, drift; as a table and as a page",
    )
    profile.add_argument("name", metavar="NAME", help="a deployment whose data was ingested")
    profile.add_argument(
        "--snapshot",
        metavar="ID",
        default="",
        help="how its id begins (default: the newest)",
    )
    profile.add_argument("--open", action="store_true", help="show the page in the browser")
    of_catalogue(profile)
    of_warehouse(profile)
    as_json(profile)

    quarantine = command(
        "quarantine",
        commands.quarantine,
        "show the rows that were rejected, by reason, and take them in again",
    )
    of_deployment(quarantine)
    quarantine.add_argument(
        "--samples", type=int, default=3, help="rows shown of each reason (default: 3)"
    )
    what = quarantine.add_mutually_exclusive_group()
    what.add_argument(
        "--export", type=Path, metavar="FILE", help="write them as JSON lines, to correct their raw"
    )
    what.add_argument(
        "--retry",
        nargs="?",
        type=Path,
        const=Path(),
        metavar="FILE",
        help="ingest again after the sources or the settings were corrected, or take in the "
        "corrected rows of FILE, which --export wrote",
    )
    of_catalogue(quarantine)
    of_warehouse(quarantine)
    as_json(quarantine)

    forget = command(
        "forget",
        commands.forget,
        "take rows that their owner withdraws out of everything",
        ": tables, snapshots, quarantine, what was made of them; no ingest brings them back",
    )
    forget.add_argument("name", metavar="NAME", help="whose data is searched for the rows")
    forget.add_argument(
        "--match", metavar="TEXT", default="", help="rows with this in one of their texts"
    )
    forget.add_argument(
        "--line",
        nargs="+",
        action="extend",
        default=[],
        metavar="FILE:LINE",
        help="rows that were read there, such as talks.jsonl:12",
    )
    forget.add_argument("--dry-run", action="store_true", help="only say what would go")
    of_warehouse(forget)
    as_json(forget)

    verify = command("verify", commands.verify, "read everything that is kept and rehash it")
    of_warehouse(verify)
    as_json(verify)

    gc = command("gc", commands.gc, "remove what no snapshot, result or registered version needs")
    gc.add_argument(
        "--days",
        type=float,
        default=30.0,
        help="results, older snapshots and unfinished trainings stay so long (default: 30)",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    of_warehouse(gc)
    as_json(gc)

    compact = command("compact", commands.compact, "merge the small tables of a snapshot into few")
    compact.add_argument("name", metavar="NAME", help="a deployment whose data was ingested")
    of_warehouse(compact)
    as_json(compact)

    leaderboard = command(
        "leaderboard", commands.leaderboard, "all versions of a model and their scores"
    )
    of_model(leaderboard)
    of_warehouse(leaderboard)
    as_json(leaderboard)

    predict = command("predict", commands.predict, "answers of the champion, or of another version")
    of_model(predict)
    predict.add_argument(
        "texts", nargs="*", metavar="TEXT", help="texts to continue, translate or answer"
    )
    predict.add_argument(
        "--input",
        type=Path,
        metavar="FILE",
        help="a file of texts instead: one a line, or .jsonl with the key text",
    )
    predict.add_argument(
        "--output", type=Path, metavar="FILE", help="where the answers to --input go, as JSONL"
    )
    which = predict.add_mutually_exclusive_group()
    which.add_argument(
        "--version",
        type=int,
        metavar="NUMBER",
        help="the version that answers, by its number on the leaderboard (default: the champion)",
    )
    which.add_argument(
        "--variant", help="the newest version of this variant answers, such as lstm-2"
    )
    predict.add_argument("--top", type=int, help="candidates for each text (default: the model's)")
    predict.add_argument(
        "--set",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="a parameter of the model's predict, such as beam=5, temperature=0.5 or horizon=24",
    )
    of_warehouse(predict)
    as_json(predict)

    type_ = command(
        "type",
        commands.type_as_you_go,
        "the likeliest next words as you type, line by line from stdin",
        "; an empty line begins a new text, /undo takes the last word back, Ctrl-D ends",
    )
    of_model(type_)
    type_.add_argument("--version", type=int, metavar="NUMBER", help="default: the champion")
    type_.add_argument("--top", type=int, default=5, help="words to suggest (default: 5)")
    of_warehouse(type_)
    type_.add_argument(
        "--json", action="store_true", help="print a JSON object a line, nothing else, on stdout"
    )

    export = command(
        "export",
        commands.export,
        "a next-word model as a folder that needs onnxruntime and numpy alone",
        ": a graph of one step, a vocabulary and a small client",
    )
    of_model(export)
    export.add_argument(
        "folder", metavar="DIR", type=Path, help="the folder to make; an older export is replaced"
    )
    export.add_argument("--version", type=int, metavar="NUMBER", help="default: the champion")
    export.add_argument(
        "--precision",
        default="int8",
        help="int8 is small and fast and is compared with the model first, fp32 is exact "
        "(default: int8)",
    )
    of_warehouse(export)
    as_json(export)

    search = command("search", commands.search, "one text by greedy, beam and exhaustive search")
    of_model(search)
    search.add_argument("text", metavar="TEXT", help="a text to continue, translate or answer")
    search.add_argument(
        "--max-tokens", type=int, default=6, help="words of an answer, at most (default: 6)"
    )
    search.add_argument("--version", type=int, metavar="NUMBER", help="default: the champion")
    of_warehouse(search)
    as_json(search)

    rollback = command(
        "rollback",
        commands.rollback,
        "make the previous champion the champion again",
        "; a second rollback swaps the two back",
    )
    of_model(rollback)
    of_warehouse(rollback)

    promote = command(
        "promote", commands.promote, "make a version the champion, whatever it scored"
    )
    of_model(promote)
    promote.add_argument(
        "version", metavar="VERSION", type=int, help="its number on the leaderboard"
    )
    promote.add_argument(
        "--reason",
        default="promoted by hand",
        help="what the leaderboard shall say about it (default: promoted by hand)",
    )
    of_warehouse(promote)

    ui = command("ui", commands.ui, "show runs and models in the browser")
    ui.add_argument(
        "--port",
        type=int,
        default=5000,
        help="the port of 127.0.0.1 that serves the pages (default: 5000)",
    )
    of_warehouse(ui)

    doctor = command("doctor", commands.doctor, "check libraries, device, warehouse and servers")
    of_warehouse(doctor)
    as_json(doctor)

    deploy = command(
        "deploy", commands.deploy, "send the catalogue to the Prefect server, with schedules"
    )
    of_catalogue(deploy)
    return parser


def _own_version() -> str:
    try:
        return version("tidemill")
    except PackageNotFoundError:
        return "(not installed)"


if __name__ == "__main__":
    sys.exit(main())
