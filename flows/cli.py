"""The command ``tidemill``: parse, call, print. Exit codes: 0 done, 1 a bug or a finding, 2 the
person's mistake (one sentence on stderr), 130 interrupted.

``retrain`` and ``ingest`` run a flow in this process. Where PREFECT_API_URL (or the active profile)
names a server, that is a flow run which the server records. Where none is named, Prefect would
start a server of its own for 8 to 10 seconds and drop it again, with most of its records; here the
flow's function is called as it is, and ``Steps`` keeps the same results under the same keys.

Text from data is shown with every control character escaped, and never read as markup.
"""

import argparse
import json
import logging
import math
import os
import shlex
import socket
import subprocess
import sys
import traceback
import webbrowser
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from flows.catalogue import (
    apply_overrides,
    catalogue,
    checked,
    setting,
    signature_of,
    source_addresses,
    tracking_uri,
    warehouse_root,
)
from pipeline.errors import InputError
from pipeline.records import SPLIT_BY
from warehouse.errors import FORBIDDEN, FULL, StorageError, remedy_of

if TYPE_CHECKING:
    from prefect import Flow

    from flows.ingest import IngestReport
    from warehouse.registry import Registry

OK, FAILED, MISTAKE, INTERRUPTED = 0, 1, 2, 130
WIDTH_OF_FILES = 160
"""Columns of a table that is not shown on a terminal."""
MAX_FILES_SHOWN = 3
MAX_RAW_SHOWN = 60
"""Characters of a rejected row that the table shows; --json has all that was kept."""
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
    _log_to_stderr()
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


def printable(text: str, keep: str = "") -> str:
    """``text`` with every character that a terminal may act on written as an escape."""
    return "".join(
        c if c.isprintable() or c in keep or c == "\N{IDEOGRAPHIC SPACE}" else _escape(c)
        for c in text
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="tidemill", description="Train, compare and register recurrent sequence models."
    )
    parser.add_argument("--version", action="version", version=f"tidemill {_own_version()}")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, more: str = ""
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=f"{summary}{more}")
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
        "retrain", _retrain, "train and compare the variants of a deployment, in this process"
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
        "--resume",
        choices=("auto", "never"),
        help="auto goes on with a training that was cut off, never starts it anew (default: auto)",
    )
    of_catalogue(retrain)
    of_warehouse(retrain)
    as_json(retrain)

    ingest = command("ingest", _ingest, "check and store the sources of a deployment, no training")
    of_deployment(ingest)
    of_catalogue(ingest)
    of_warehouse(ingest)
    as_json(ingest)

    profile = command(
        "profile",
        _profile,
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
        _quarantine,
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
        _forget,
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

    verify = command("verify", _verify, "read everything that is kept and rehash it")
    of_warehouse(verify)
    as_json(verify)

    gc = command("gc", _gc, "remove what no snapshot, result or registered version needs")
    gc.add_argument(
        "--days",
        type=float,
        default=30.0,
        help="results, older snapshots and unfinished trainings stay so long (default: 30)",
    )
    gc.add_argument("--dry-run", action="store_true", help="only say what would go")
    of_warehouse(gc)
    as_json(gc)

    compact = command("compact", _compact, "merge the small tables of a snapshot into few")
    compact.add_argument("name", metavar="NAME", help="a deployment whose data was ingested")
    of_warehouse(compact)
    as_json(compact)

    leaderboard = command("leaderboard", _leaderboard, "all versions of a model and their scores")
    of_model(leaderboard)
    of_warehouse(leaderboard)
    as_json(leaderboard)

    predict = command("predict", _predict, "answers of the champion, or of another version")
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
        _type,
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
        _export,
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

    search = command("search", _search, "one text by greedy, beam and exhaustive search")
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
        _rollback,
        "make the previous champion the champion again",
        "; a second rollback swaps the two back",
    )
    of_model(rollback)
    of_warehouse(rollback)

    promote = command("promote", _promote, "make a version the champion, whatever it scored")
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

    ui = command("ui", _ui, "show runs and models in the browser")
    ui.add_argument(
        "--port",
        type=int,
        default=5000,
        help="the port of 127.0.0.1 that serves the pages (default: 5000)",
    )
    of_warehouse(ui)

    doctor = command("doctor", _doctor, "check libraries, device, warehouse and servers")
    of_warehouse(doctor)
    as_json(doctor)

    deploy = command("deploy", _deploy, "send the catalogue to the Prefect server, with schedules")
    of_catalogue(deploy)
    return parser


def _own_version() -> str:
    try:
        return version("tidemill")
    except PackageNotFoundError:
        return "(not installed)"


# --- commands -------------------------------------------------------------------------------------


def _retrain(parsed: argparse.Namespace) -> int:
    parameters = catalogue(parsed.catalogue).parameters_of(parsed.name)
    if parsed.source:
        parameters["sources"] = parsed.source
    if parsed.variants is not None:
        parameters["variants"] = [each.strip() for each in parsed.variants.split(",")]
    if parsed.device:
        parameters["device"] = parsed.device
    if parsed.resume:
        parameters["resume"] = parsed.resume
    if parsed.warehouse:
        parameters["warehouse"] = parsed.warehouse
    overrides = dict(setting(each) for each in parsed.set)
    if parsed.snapshot:
        parameters["snapshot"] = parsed.snapshot
    if parsed.extend_from:
        parameters["extend_from"] = parsed.extend_from
    if parsed.split:
        overrides["splits.by"] = parsed.split
    from flows.retrain import retrain

    signature = signature_of(retrain)
    arguments = checked(apply_overrides(parameters, overrides, signature), signature)
    report = _run(retrain, arguments)
    if parsed.json:
        _print_json(report.model_dump(mode="json"))
    else:
        _print_leaderboard(_registry(parsed), report.name, report.reason)
    return OK


def _ingest(parsed: argparse.Namespace) -> int:
    from flows.ingest import ingest

    arguments = _ingest_arguments(parsed)
    report = _run(ingest, {**arguments, "warehouse": parsed.warehouse})
    if parsed.json:
        _print_json(report.model_dump(mode="json"))
    else:
        _print_ingest(report)
    return OK


def _ingest_arguments(parsed: argparse.Namespace) -> dict[str, Any]:
    """Name, sources and records of a deployment, as the command line changes them."""
    from flows.ingest import ingest

    parameters = catalogue(parsed.catalogue).parameters_of(parsed.name)
    overrides = dict(setting(each) for each in parsed.set)
    signature = signature_of(ingest)
    if any(key.partition(".")[0] not in signature.parameters for key in overrides):
        # Settings of a training are looked at too, for which torch and MLflow are loaded: seconds.
        from flows.retrain import retrain

        signature = signature_of(retrain)
    else:
        names = [name for name in signature.parameters if name in parameters]
        parameters = {name: parameters[name] for name in names}
    arguments = checked(apply_overrides(parameters, overrides, signature), signature)
    return {
        "name": arguments["name"],
        "sources": source_addresses(parsed.source or arguments["sources"]),
        "records": arguments["records"],
    }


def _print_ingest(report: "IngestReport") -> None:
    rows: list[tuple[str, Any]] = [
        ("snapshot", report.snapshot.id),
        ("rows accepted", report.num_accepted),
        ("rows rejected", report.num_rejected),
        *((f"  {reason}", count) for reason, count in report.rejected_by_reason.items()),
        ("utterances dropped", report.num_dropped_utterances),
    ]
    if report.num_withdrawn:
        rows.append(("rows withdrawn", report.num_withdrawn))
    if report.num_mended:
        rows.append(("rows mended", report.num_mended))
    changes = report.changes.model_dump(mode="json")
    changes["renamed"] = [f"{old} -> {new}" for old, new in changes["renamed"].items()]
    for what, addresses in changes.items():
        shown = ", ".join(addresses[:MAX_FILES_SHOWN])
        more = f" and {n} more" if (n := len(addresses) - MAX_FILES_SHOWN) > 0 else ""
        if addresses:
            rows.append((f"files {what}", f"{len(addresses)}: {shown}{more}"))
    _print_table(("", ""), [(key, str(value)) for key, value in rows])


def _profile(parsed: argparse.Namespace) -> int:
    from dataclasses import asdict

    from flows.prepare import texts_of, with_user_dictionary
    from flows.profile import profile, read_profile
    from flows.retrain import retrain
    from pipeline.profile import key_figures, remarks

    signature = signature_of(retrain)
    parameters = catalogue(parsed.catalogue).parameters_of(parsed.name)
    recipe = checked(apply_overrides(parameters, {}, signature), signature)
    problem = recipe["problem"]
    text, target_text = with_user_dictionary(
        recipe["text"], recipe["target_text"], recipe["user_dictionary"]
    )
    root = warehouse_root(parsed.warehouse)
    made = _run(
        profile,
        {
            "name": recipe["name"],
            "kind": recipe["records"].kind,
            "columns": list(problem.columns),
            "texts": list(texts_of(problem, text, target_text)),
            "splits": recipe["splits"],
            "vocabulary": recipe["vocabulary"],
            "period": getattr(problem, "period", 1),
            "snapshot": parsed.snapshot,
            "warehouse": parsed.warehouse,
        },
    )
    found = read_profile(root, made.data)
    page = (root / made.page.path).absolute()
    if parsed.json:
        _print_json({"snapshot": made.snapshot.id, "page": str(page), **asdict(found)})
    else:
        _print_table(("", ""), list(key_figures(found).items()))
        for each in remarks(found):
            _say(f"- {each}")
        _say(f"page: {page}")
    if parsed.open:
        webbrowser.open(page.as_uri())
    return OK


def _quarantine(parsed: argparse.Namespace) -> int:
    from flows.ingest import export_quarantine, last_ingest, quarantined_rows

    if parsed.samples < 0:
        raise InputError(f"--samples is {parsed.samples}: it must be at least 0")
    root = warehouse_root(parsed.warehouse)
    if parsed.retry is not None:
        return _retry(parsed, root)
    if parsed.export:
        num_rows = export_quarantine(root, parsed.name, parsed.export)
        _say(
            f"wrote {num_rows} rows to {parsed.export}: correct their raw, then run "
            f"tidemill quarantine {parsed.name} --retry {parsed.export}"
        )
        return OK
    rows = quarantined_rows(root, parsed.name)
    by_reason: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_reason.setdefault(row["reason"], []).append(
            {
                "address": row["address"],
                "line": row["line"],
                "detail": row["detail"],
                "raw": row["raw"].decode("utf-8", "backslashreplace"),
            }
        )
    reasons = sorted(by_reason.items(), key=lambda item: (-len(item[1]), item[0]))
    refused = last_ingest(root, parsed.name).refused
    if parsed.json:
        _print_json(
            [
                {"reason": reason, "num_rows": len(found), "samples": found[: parsed.samples]}
                for reason, found in reasons
            ]
        )
        return OK
    if refused:
        _say(f"{parsed.name}: the last ingest was refused")
    if not rows:
        _say(f"{parsed.name}: no row was rejected")
        return OK
    cells = [
        (
            *((reason, str(len(found))) if not index else ("", "")),
            f"{row['address']}:{row['line']}",
            row["detail"],
            row["raw"][:MAX_RAW_SHOWN],
        )
        for reason, found in reasons
        for index, row in enumerate(found[: parsed.samples])
    ]
    _print_table(("reason", "rows", "where", "what is wrong", "begins"), cells, right=("rows",))
    return OK


def _retry(parsed: argparse.Namespace, root: Path) -> int:
    from flows.caching import Steps
    from flows.ingest import last_ingest, retry_quarantine

    arguments = _ingest_arguments(parsed)
    given = last_ingest(root, arguments["name"]).given
    if given and not parsed.source:
        arguments["sources"] = list(given)
    mended = parsed.retry if parsed.retry != Path() else None
    report = retry_quarantine(Steps(root), **arguments, mended=mended)
    if parsed.json:
        _print_json(report.model_dump(mode="json"))
        return OK
    _say(f"{report.num_before} rows were rejected before, {report.num_after} are now")
    for place, detail in report.still_wrong.items():
        _say(f"still wrong, {place}: {detail}")
    _print_ingest(report.ingest)
    return OK


def _forget(parsed: argparse.Namespace) -> int:
    from flows.upkeep import forget

    root = warehouse_root(parsed.warehouse)
    report = forget(root, parsed.name, parsed.match, parsed.line, parsed.dry_run)
    if parsed.json:
        _print_json(report.model_dump(mode="json"))
        return OK
    would = "would be " if report.dry_run else ""
    shown = ", ".join(report.places[:MAX_FILES_SHOWN])
    more = f" and {n} more" if (n := len(report.places) - MAX_FILES_SHOWN) > 0 else ""
    where = f" ({shown}{more})" if shown else ""
    _say(f"rows {would}forgotten: {report.num_rows}{where}")
    _say(f"rejected lines {would}forgotten: {report.num_rejected}")
    _say(
        f"snapshots that can{' no longer' if not would else 'not'} be read: "
        f"{', '.join(each[:12] for each in report.snapshots) or 'none'}"
    )
    for name, head in report.heads.items():
        _say(f"{name} is now {head}")
    _say(f"files and results {would}removed: {report.num_files} and {report.num_results}")
    if report.versions:
        _say(
            f"trained on these rows, and not changed, nor the samples that MLflow shows of them: "
            f"{', '.join(report.versions)}; retrain, then delete them if their owner wishes so:"
        )
        for version, command in sorted(report.versions.items()):
            _say(f"  {version}: {command}")
        _say(f"then: tidemill gc --days 0 --warehouse {shlex.quote(str(root))}")
    return OK


def _verify(parsed: argparse.Namespace) -> int:
    from flows.upkeep import verify

    root = warehouse_root(parsed.warehouse)
    faults = verify(root)
    if parsed.json:
        _print_json([fault.model_dump(mode="json") for fault in faults])
    elif faults:
        _print_table(("damaged", "what is wrong"), [(each.path, each.problem) for each in faults])
    else:
        _say(f"{root}: everything is what its name says")
    return FAILED if faults else OK


def _gc(parsed: argparse.Namespace) -> int:
    from flows.upkeep import collect_garbage

    report = collect_garbage(warehouse_root(parsed.warehouse), parsed.days, parsed.dry_run)
    if parsed.json:
        _print_json(report.model_dump(mode="json"))
        return OK
    counts = {
        key.removeprefix("num_"): value
        for key, value in report.model_dump().items()
        if key.startswith("num_") and key != "num_bytes" and value
    }
    what = ", ".join(f"{value} {key}" for key, value in counts.items()) or "nothing"
    _say(f"{'would remove' if report.dry_run else 'removed'} {what}: {report.num_bytes:,} bytes")
    return OK


def _compact(parsed: argparse.Namespace) -> int:
    from flows.upkeep import compact

    report = compact(warehouse_root(parsed.warehouse), parsed.name)
    if parsed.json:
        _print_json(report.model_dump(mode="json"))
    else:
        _say(f"{report.num_before} tables became {report.num_after}: {report.snapshot.id}")
    return OK


def _leaderboard(parsed: argparse.Namespace) -> int:
    registry = _registry(parsed)
    rows = _leaderboard_rows(registry, parsed.name)
    if not rows:
        known = f"there are {', '.join(names)}" if (names := registry.names()) else ""
        raise InputError(
            f"there is no registered model {parsed.name!r}: "
            f"{known or f'run tidemill retrain {parsed.name}'}"
        )
    if parsed.json:
        _print_json(rows)
    else:
        _print_leaderboard(registry, parsed.name)
    return OK


def _predict(parsed: argparse.Namespace) -> int:
    if bool(parsed.texts) == bool(parsed.input):
        raise InputError("give texts to predict from, or a file of them with --input")
    if bool(parsed.input) != bool(parsed.output):
        raise InputError("--input and --output belong together")
    from flows.predict import check_files, predict_file, predict_texts

    if parsed.input:
        check_files(parsed.input, parsed.output)
    registry = _registry(parsed)
    model = registry.load(parsed.name, version=parsed.version, variant=parsed.variant)
    parameters = dict(map(setting, parsed.set))
    if parsed.top is not None:
        parameters["top"] = parsed.top
    if parsed.input:
        num_texts = predict_file(model, parsed.input, parsed.output, parameters)
        summary = {"version": model.info.version, "num_texts": num_texts}
        if parsed.json:
            _print_json(summary)
        else:
            _say(f"answered {num_texts} texts in {parsed.output}")
        return OK
    answers = predict_texts(model, parsed.texts, parameters)
    if parsed.json:
        _print_json(answers)
    else:
        rows = [
            (answer["text"] if not rank else "", each["text"], f"{each['score']:.4f}")
            for answer in answers
            for rank, each in enumerate(answer["candidates"])
        ]
        _print_table(("text", "candidate", "score"), rows, right=("score",))
    return OK


def _type(parsed: argparse.Namespace) -> int:
    from flows.typing_aid import open_session, suggestions

    registry = _registry(parsed)
    session = open_session(registry, registry.find(parsed.name, parsed.version))
    session.suggest(parsed.top)  # nobody who types waits for what the first answer loads
    prompt = "> " if sys.stdin.isatty() else ""
    try:
        print(prompt, end="", file=sys.stderr, flush=True)  # noqa: T201
        for each in suggestions(session, sys.stdin.buffer, parsed.top):
            if parsed.json:
                line = json.dumps(_finite(each.to_dict()), ensure_ascii=False, allow_nan=False)
                print(_printable_json(line), flush=True)  # noqa: T201
            else:
                _say("  ".join(f"{one.text} {one.score:.3f}" for one in each.candidates))
                sys.stdout.flush()
            print(prompt, end="", file=sys.stderr, flush=True)  # noqa: T201
    except KeyboardInterrupt:
        pass  # that is how one stops typing
    if prompt:
        print(file=sys.stderr)  # noqa: T201
    return OK


def _export(parsed: argparse.Namespace) -> int:
    from flows.export import export

    registry = _registry(parsed)
    version = registry.find(parsed.name, parsed.version)
    root = warehouse_root(parsed.warehouse)
    report = export(root, registry, version, parsed.folder, parsed.precision)
    if parsed.json:
        _print_json(report.model_dump(mode="json"))
        return OK
    _say(
        f"version {report.version} ({report.variant}) of {parsed.name} is in {report.folder}: "
        f"{report.precision}, {report.num_bytes:,} bytes"
    )
    if report.overlap is None:
        _say("its validation rows are gone: nothing was compared")
    else:
        _say(
            f"of the model's ten likeliest words it offers {report.overlap:.2%}, after "
            f"{report.num_words:,} words of validation"
        )
    return OK


def _search(parsed: argparse.Namespace) -> int:
    from flows.predict import search_texts

    registry = _registry(parsed)
    version = registry.find(parsed.name, parsed.version)
    results = search_texts(registry, version, parsed.text, parsed.max_tokens)
    if parsed.json:
        _print_json([asdict(each) for each in results])
        return OK
    rows = [
        (
            each.search,
            each.text if each.finished else "(gave up)",
            f"{each.log_probability:.3f}" if each.finished else "",
            f"{each.score:.3f}" if each.finished else "",
            f"{each.num_hypotheses:,}",
        )
        for each in results
    ]
    titles = ("search", "answer", "log P", "score", "prefixes")
    _print_table(titles, rows, right=titles[2:])
    return OK


def _rollback(parsed: argparse.Namespace) -> int:
    champion = _registry(parsed).rollback(parsed.name)
    _say(f"version {champion.version} ({champion.variant}) is the champion of {parsed.name} again")
    return OK


def _promote(parsed: argparse.Namespace) -> int:
    _registry(parsed).promote(parsed.name, parsed.version, parsed.reason)
    _say(f"version {parsed.version} is the champion of {parsed.name}")
    return OK


def _ui(parsed: argparse.Namespace) -> int:
    registry = _registry(parsed)
    command = registry.server_command(port=parsed.port)
    _check_port(parsed.port)
    _say(f"http://127.0.0.1:{parsed.port}  (Ctrl-C ends it)")
    environment = {**os.environ, **registry.server_environment()}
    with subprocess.Popen(command, env=environment) as server:
        try:
            code = server.wait()
        except KeyboardInterrupt:
            server.terminate()
            server.wait()
            return OK
    return code if code >= 0 else 128 - code  # as shells say which signal ended it


def _check_port(port: int) -> None:
    """Raises InputError where no server can listen on a port of 127.0.0.1."""
    if not 1 <= port <= 65535:
        raise InputError(f"--port is {port}: it must be from 1 to 65535")
    with socket.socket() as tried:
        # As servers do: a port whose last connection was just closed is free.
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind(("127.0.0.1", port))
        except OSError as error:
            raise InputError(
                f"port {port} cannot be used ({error.strerror}): choose another with --port"
            ) from error


def _doctor(parsed: argparse.Namespace) -> int:
    from flows.doctor import diagnose

    checks = diagnose(warehouse_root(parsed.warehouse))
    if parsed.json:
        _print_json([vars(check) for check in checks])
    else:
        _print_table(
            ("", "subject", "found", "remedy"),
            [
                ("ok" if c.right else "WRONG", c.subject, c.found, "" if c.right else c.remedy)
                for c in checks
            ],
        )
    return OK if all(check.right for check in checks) else FAILED


def _deploy(parsed: argparse.Namespace) -> int:
    from flows.deploy import deploy

    deploy(catalogue(parsed.catalogue), tell=_say)
    return OK


# --- calling --------------------------------------------------------------------------------------


def _run(flow: "Flow[..., Any]", arguments: Mapping[str, Any]) -> Any:
    from flows.deploy import server_address

    run: Callable[..., Any] = flow if server_address() else flow.fn
    return run(**arguments)


def _registry(parsed: argparse.Namespace) -> "Registry":
    """The registry to read from; InputError where nothing was ever published to it."""
    root, server = warehouse_root(parsed.warehouse), tracking_uri()
    if server is None and not (root / "mlflow").is_dir():
        raise InputError(
            f"{root} holds no models yet: run tidemill retrain demo, or name another warehouse"
        )
    from warehouse.registry import Registry

    return Registry(root, server)


def _leaderboard_rows(registry: "Registry", name: str) -> list[dict[str, Any]]:
    return [
        {
            "version": each.version,
            "variant": each.variant,
            "champion": each.champion,
            "metrics": each.metrics,
            "reason": each.tags.get("promotion_reason", ""),
            "unit": each.params.get("text.unit", ""),
            "snapshot": each.tags.get("snapshot", "")[:12],
        }
        for each in registry.versions(name)
    ]


# --- printing -------------------------------------------------------------------------------------


def _console() -> Console:
    width = None if sys.stdout.isatty() else WIDTH_OF_FILES
    return Console(markup=False, highlight=False, emoji=False, width=width)


def _say(text: str) -> None:
    _console().print(Text(printable(text)), soft_wrap=True)


def _print_json(value: Any) -> None:
    text = json.dumps(_finite(value), ensure_ascii=False, indent=2, allow_nan=False)
    print(_printable_json(text))  # noqa: T201


def _printable_json(text: str) -> str:
    return "".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text)


def _finite(value: Any) -> Any:
    """JSON has no NaN and no infinity: null stands for them."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(each) for each in value]
    return value


def _print_table(
    columns: Sequence[str], rows: Iterable[Sequence[str]], right: Sequence[str] = ()
) -> None:
    table = Table(box=None, pad_edge=False, show_header=any(columns))
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    _console().print(table)


def _print_leaderboard(registry: "Registry", name: str, why: str = "") -> None:
    """The versions of a model as a table, which is champion and why, and where to see more.

    ``why`` is today's reason; where it is absent, the one that was written down at the promotion.
    """
    versions = registry.versions(name)
    scores = sorted({key for each in versions for key in each.metrics if key.startswith("test/")})
    shown = [*scores, "size/parameters", "speed/training_seconds"]
    titles = [*(key.removeprefix("test/") for key in scores), "parameters", "seconds"]
    origins = {
        (
            each.tags.get("snapshot", ""),
            each.tags.get("vocabulary", ""),
            each.params.get("text.unit", ""),
        )
        for each in versions
    }
    _print_table(
        ("version", "variant", "", *titles, "data"),
        [
            (
                str(each.version),
                each.variant,
                "champion" if each.champion else "",
                *(_number(each.metrics.get(key)) for key in shown),
                each.tags.get("snapshot", "")[:8],
            )
            for each in versions
        ],
        right=("version", *titles),
    )
    for each in versions:
        if each.champion:
            _say(f"champion: {why or each.tags.get('promotion_reason', 'no reason is known')}")
    if len(origins) > 1 and "test/perplexity" in scores:
        _say(
            "These versions differ in data, in the unit of text or in vocabulary: their "
            "perplexities do not compare; bits per character do where the data is the same."
        )
    _say(f"pages: tidemill ui, then {registry.page(name)}")


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


class _PrintableFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record), keep="\n")


def _log_to_stderr() -> None:
    """Our packages' progress on stderr, one line each."""
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    for package in ("flows", "pipeline", "warehouse"):
        log = logging.getLogger(package)
        log.setLevel(logging.INFO)
        log.handlers = [handler]
        log.propagate = False


if __name__ == "__main__":
    sys.exit(main())
