"""The command line: what it prints, where, and with which exit code."""

import errno
import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml
from pydantic import TypeAdapter

from flows.command import outputs
from flows.command.answers import check_files
from flows.command.cli import app, main
from flows.command.exit_codes import EXPLAINED, MISTAKE, NOTHING_YET
from flows.command.options import deployment_names
from flows.command.servers import _check_port
from flows.command.terminal import printable
from pipeline.errors import InputError, NothingYetError

ROOT = Path(__file__).resolve().parent.parent

ESCAPES = "\x1b[31mred\x07 [bold]\u202e\x9b2J"


pytestmark = pytest.mark.usefixtures("own_logging")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with two tiny models of the bundled sample, made by the command itself."""
    folder = tmp_path_factory.mktemp("trained")
    content = yaml.safe_load((ROOT / "prefect.yaml").read_text(encoding="utf-8"))
    demo = content["deployments"][0]
    demo["parameters"] |= {
        "network": {"embedding_size": 8, "hidden_size": 8},
        "training": {"num_epochs": 1, "batch_size": 256},
        "vocabulary": {"max_size": 300},
    }
    (folder / "prefect.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder


def run(trained: Path, *arguments: str) -> int:
    return main([*arguments, "--warehouse", str(trained / "warehouse")])


def retrain(trained: Path, *arguments: str) -> int:
    file = str(trained / "prefect.yaml")
    return run(trained, "retrain", "demo", "--catalogue", file, *arguments)


@pytest.mark.slow
def test_from_training_to_rollback(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert retrain(trained, "--variants", "gru,lstm", "--json") == 0
    first = capsys.readouterr()
    printed("retrain", first.out)

    assert run(trained, "leaderboard", "demo", "--json") == 0
    rows = printed("leaderboard", capsys.readouterr().out)
    assert sorted(row["variant"] for row in rows) == ["gru", "lstm"]
    assert [row["champion"] for row in rows].count(True) == 1
    assert all(any(name.startswith("test/") for name in row["metrics"]) for row in rows)
    assert {(row["unit"], len(row["snapshot"])) for row in rows} == {("word", 12)}
    assert [bool(row["reason"]) for row in rows] == [row["champion"] for row in rows]

    assert retrain(trained, "--variants", "gru,lstm") == 0
    second = capsys.readouterr()
    assert "champion" in second.out and "Cached" in second.err
    assert "data" in second.out and rows[0]["snapshot"][:8] in second.out
    assert "do not compare" not in second.out
    assert "Completed" not in "".join(line for line in second.err.splitlines() if "fit" in line)
    assert run(trained, "leaderboard", "demo", "--json") == 0
    assert json.loads(capsys.readouterr().out) == rows

    of_recipe = ("--catalogue", str(trained / "prefect.yaml"))
    assert run(trained, "profile", "demo", *of_recipe, "--json") == 0
    profiled = capsys.readouterr()
    profile = printed("profile", profiled.out)
    assert profile["snapshot"].startswith(rows[0]["snapshot"])
    assert profile["num_rows"] == 400 and "Completed" not in profiled.err
    assert run(trained, "profile", "demo", *of_recipe, "--snapshot", profile["snapshot"][:8]) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "utterances" in shown and f"page: {profile['page']}" in shown
    assert Path(profile["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")

    assert run(trained, "predict", "demo", "今天天气", "--top", "2", "--json") == 0
    (answer,) = printed("predict", capsys.readouterr().out)
    assert answer["text"] == "今天天气" and len(answer["candidates"]) == 2

    texts = trained / "texts.txt"
    texts.write_text(f"今天天气\n\n{ESCAPES}\n", encoding="utf-8")
    answers = trained / "answers.jsonl"
    files = ("--input", str(texts), "--output", str(answers))
    assert run(trained, "predict", "demo", "--variant", "lstm", *files) == 0
    lines = answers.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["text"] for line in lines] == ["今天天气", "", ESCAPES]
    capsys.readouterr()

    assert run(trained, "predict", "demo", ESCAPES) == 0
    shown = capsys.readouterr().out
    assert "\\x1b[31mred\\x07 [bold]\\u202e\\x9b2J" in shown.replace("\n", "")
    assert not set("\x1b\x07\u202e\x9b") & set(shown)

    assert run(trained, "predict", "demo", "a", "--version", "99") == 2
    said = capsys.readouterr().err
    assert "demo has no version '99': Its versions are 1 (gru" in said and "2 (lstm" in said
    (best,) = (row["version"] for row in rows if row["champion"])
    assert run(trained, "promote", "demo", "champion") == 2
    assert (
        f"no version 'champion': did you mean {best}? Its versions are" in capsys.readouterr().err
    )
    assert run(trained, "predict", "demo", "a", "--version", "champoin") == 2
    assert f"did you mean {best}?" in capsys.readouterr().err
    assert run(trained, "predict", "demo", "a", "--variant", "ltsm") == 2
    assert (
        "no variant 'ltsm': did you mean lstm? The choices are gru, lstm" in capsys.readouterr().err
    )
    assert run(trained, "predict", "demo", "a", "--set", "tpo=2") == 2
    assert "no parameter 'tpo': did you mean top? The choices are" in capsys.readouterr().err
    assert run(trained, "predict", "demo", "a", "--set", "top=2", "top=3") == 2
    assert "write --set top=3" in capsys.readouterr().err
    snapshot = rows[0]["snapshot"][:8]
    wrong = snapshot[:-1] + ("0" if snapshot[-1] != "0" else "1")
    assert run(trained, "profile", "demo", *of_recipe, "--snapshot", wrong) == 2
    assert f"did you mean {rows[0]['snapshot']}?" in capsys.readouterr().err
    assert retrain(trained, "--extend-from", "champoin") == 2
    assert "did you mean champion? The choices are champion, 1, 2" in capsys.readouterr().err
    assert run(trained, "rollback", "demo") == 2
    capsys.readouterr()
    assert run(trained, "leaderboard", "demo") == 0
    shown = capsys.readouterr().out
    (last,) = (line for line in shown.splitlines() if "last retraining" in line)
    assert "UTC: " in last and "It stays the champion." in last
    assert "scores: on the test split; the champion is chosen on the validation split" in shown
    assert "side by side: http://127.0.0.1:5000/#/experiments/" in shown
    for command in (("leaderboard", "dmeo"), ("rollback", "dmeo"), ("promote", "dmeo", "1")):
        assert run(trained, *command) == 2
        said = capsys.readouterr().err
        assert "no registered model of 'dmeo': did you mean demo?" in said, said
    assert run(trained, "leaderboard", "topic", "--json") == NOTHING_YET
    assert capsys.readouterr().out == "[]\n"
    assert run(trained, "quarantine", "dmeo") == 2
    assert "no data of 'dmeo': did you mean demo?" in capsys.readouterr().err
    of_recipe = (*of_recipe, "--set", "vocabulary.max_size=10", "--json")
    assert run(trained, "profile", "demo", *of_recipe) == 0
    assert printed("profile", capsys.readouterr().out)["vocabularies"][0]["num_words"] <= 10
    assert run(trained, "predict", "demo", "a", "--top", "0") == 2
    assert "top is 0: it must be at least 1" in capsys.readouterr().err

    assert retrain(trained, "--variants", "gru", "--set", "text.unit=char") == 0
    assert "their perplexities do not compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("retrian", "demo"), "'retrian': did you mean retrain? The choices are retrain, ingest"),
        (("retrain", "dmeo"), "'dmeo': did you mean demo? The choices are demo, next-word"),
        (("retrain",), "Missing argument 'NAME'. Run tidemill retrain --help"),
        (("retrain", "demo", "--sorce", "a"), "--sorce: did you mean --source? The choices are"),
        (("retrain", "demo", "--parallel", "x"), "Invalid value for '--parallel'"),
        (("retrain", "demo", "--set", "a=1", "b=2"), "Repeat an option before each of its values"),
        (("retrain", "demo", "--split", "hsah"), "did you mean hash? The choices are hash, chron"),
        (("retrain", "demo", "--device", "cdua"), "did you mean cuda? The choices are auto, cpu"),
        (
            ("retrain", "demo", "--resume", "nevr"),
            "did you mean never? The choices are auto, never",
        ),
        (("retrain", "demo", "--variants", "gru-atention"), "did you mean gru-attention?"),
        (("retrain", "demo", "--variants", "ngram"), "did you mean ngram-2?"),
        (
            ("retrain", "demo", "--set", "training.epochs=5"),
            "'epochs' is not one of accumulate_batches",
        ),
        (
            ("retrain", "demo", "--set", "num_epochs=3"),
            "did you mean training.num_epochs? 'num_epochs' is not one of device, evaluation",
        ),
        (("retrain", "demo", "--set", "training.num_epoch=3"), "did you mean training.num_epochs?"),
        (("retrain", "demo", "--set", "trainig.seed=3"), "did you mean training.seed?"),
        (("retrain", "demo", "--set", "text.unit=chra"), "did you mean char? The choices are"),
        (("retrain", "demo", "--set", "snapshot=1e345678"), "snapshot is inf: it must be a text"),
        (("retrain", "demo", "--set", "snapshot=null"), "snapshot is null: it must be a text"),
        (("retrain", "demo", "--set", "vectors=12"), "write it in double quotes"),
        (("profile", "demo", "--set", "num_epochs=3"), "did you mean training.num_epochs?"),
        (("retrain", "demo", "--set", "training.num_epochs"), "has no value"),
        (("retrain", "demo", "--set", "training.num_epochs=0"), "must be at least 1"),
        (("retrain", "demo", "--catalogue", "absent.yaml"), "absent.yaml cannot be read"),
        (("retrain", "demo", "--variants", "lsmt"), "lsmt"),
        (("retrain", "demo", "--variants", ""), "unknown variant ''"),
        (("retrain", "demo", "--set", "name=../x"), "name is '../x': the name of a model has"),
        (("retrain", "demo", "--source", "absent/*.jsonl"), "absent/*.jsonl"),
        (("ingest", "demo", "--source", "sample:poems"), "no sample:poems"),
        (("schema", "leaderbord"), "did you mean leaderboard? The choices are"),
        (("quarantine", "dmeo"), "no data of 'dmeo': did you mean demo?"),
        (("quarantine", "demo", "rows.jsonl"), "tidemill quarantine demo --retry rows.jsonl"),
        (("quarantine", "demo", "--retry", "--export", "rows.jsonl"), "exclude each other"),
        (("predict", "demo", "a", "--version", "1", "--variant", "gru"), "exclude each other"),
        (("predict", "demo"), "give texts"),
        (("predict", "demo", "--input", "a.txt"), "belong together"),
        (("predict", "demo", "--input", "absent", "--output", "b"), "there is no file absent"),
        (("quarantine", "demo", "--samples", "-1"), "must be at least 0"),
        (("profile", "dmeo"), "no deployment 'dmeo'"),
        (("forget", "dmeo", "--match", "x"), "no data of 'dmeo': did you mean demo?"),
        (("deploy",), "no Prefect server is configured"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TIDEMILL_WAREHOUSE", str(tmp_path))
    assert main(arguments) == 2
    shown = capsys.readouterr()
    (line,) = [line for line in shown.err.splitlines() if line.startswith("tidemill: ")]
    assert message in line
    assert shown.out == "" and "Traceback" not in shown.err


@pytest.mark.parametrize(
    ("arguments", "empty", "message"),
    [
        (("leaderboard", "demo"), "[]", "holds no models yet: run tidemill retrain demo"),
        (("predict", "demo", "text"), "[]", "holds no models yet"),
        (("search", "demo", "text"), "[]", "holds no models yet"),
        (("export", "demo", "folder"), "null", "holds no models yet"),
        (("rollback", "demo"), None, "holds no models yet"),
        (("promote", "demo", "1"), None, "holds no models yet"),
        (("quarantine", "demo"), "[]", "no data of 'demo' yet: run tidemill ingest demo"),
        (("profile", "demo"), "null", "no data of 'demo' yet: run tidemill ingest demo"),
        (("compact", "demo"), "null", "no data of 'demo' yet: run tidemill ingest demo"),
        (("compact", "mine"), "null", "no data of 'mine' yet: run tidemill ingest mine"),
        (("forget", "demo", "--match", "x"), "null", "no data of 'demo' yet"),
    ],
)
def test_nothing_there_yet_has_an_exit_code_and_an_empty_json(
    arguments: tuple[str, ...],
    empty: str | None,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("TIDEMILL_WAREHOUSE", str(tmp_path))
    assert main([*arguments, *(["--json"] if empty else [])]) == NOTHING_YET
    shown = capsys.readouterr()
    assert shown.out.strip() == (empty or "")
    assert message in shown.err.splitlines()[-1] and "Traceback" not in shown.err


def test_names_of_deployments_complete() -> None:
    assert [name for name, _ in deployment_names("t")] == [
        *("translate-zh-en", "translate-en-zh", "topic", "time-machine")
    ]
    environment = {
        **os.environ,
        "_TIDEMILL_COMPLETE": "complete_bash",
        "COMP_WORDS": "tidemill retrain dem",
        "COMP_CWORD": "2",
    }
    command = [sys.executable, "-m", "flows.command.cli"]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.stdout.split() == ["demo"]


def test_the_help_loads_nothing_slow_and_a_slow_command_says_so_first(tmp_path: Path) -> None:
    slow = ("prefect", "mlflow", "torch", "pandas", "pyarrow", "numpy")
    code = (
        "import sys; from flows.command.cli import main; main(['retrain', '--help']);"
        f"print([name for name in {slow} if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert result.stdout.splitlines()[-1] == "[]", result.stderr
    # The line comes before the import: here the import never ends.
    (tmp_path / "prefect.py").write_text("raise KeyboardInterrupt")
    command = [sys.executable, "-m", "flows.command.cli", "retrain", "demo"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert result.stderr.startswith("Loading Prefect, MLflow and PyTorch ...\n")
    assert result.returncode == 130


def test_a_server_that_does_not_answer(tmp_path: Path) -> None:
    environment = {**os.environ, "PREFECT_API_URL": "http://127.0.0.1:1/api"}
    command = [
        sys.executable,
        "-m",
        "flows.command.cli",
        "ingest",
        "demo",
        "--warehouse",
        str(tmp_path),
    ]
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert result.returncode == 2
    assert "http://127.0.0.1:1/api does not answer" in result.stderr


def test_a_bug_shows_its_traceback_and_ctrl_c_does_not(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(error: BaseException) -> None:
        def diagnose(root: Path) -> Any:
            raise error

        monkeypatch.setattr("flows.command.doctor.diagnose", diagnose)

    fail(RuntimeError(ESCAPES))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "\\x1b[31mred" in shown and "\x1b" not in shown
    fail(InputError(ESCAPES))
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err.endswith(f"\ntidemill: {printable(ESCAPES)}\n")
    fail(NothingYetError("nothing"))
    assert main(["doctor"]) == 3
    assert capsys.readouterr().err.endswith("\ntidemill: nothing\n")
    fail(EOFError("cut"))
    assert main(["doctor"]) == 1
    assert "EOFError: cut" in capsys.readouterr().err
    fail(KeyboardInterrupt())
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err.count("Run the same command again to resume.\n") == 1


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.ENOSPC, "free some space, or choose another warehouse"),
        (errno.EROFS, "make it writable, or choose another warehouse"),
    ],
)
def test_a_full_or_read_only_disk_is_one_sentence(
    code: int,
    remedy: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def fail(*_: object) -> Any:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr("flows.steps.locks.ProcessLocks._open_locked", fail)
    assert main(["ingest", "demo", "--warehouse", str(tmp_path)]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"tidemill: {tmp_path}: {os.strerror(code)}: {remedy}")


def test_the_version_and_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["deploy", "--help"], ["retrain", "-h"]):
        assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert shown.startswith("tidemill ")
    before, _, after = shown.partition("Usage: tidemill retrain")
    assert "--warehouse" not in before and "--warehouse" in after
    assert main([]) == MISTAKE
    shown = " ".join(capsys.readouterr().out.split())
    assert "Train, compare and register" in shown and EXPLAINED in shown


def test_every_argument_explains_itself() -> None:
    for name, command in commands().items():
        assert command.help, name
        assert [each.name for each in command.params if not each.help] == [], name


def test_every_json_has_a_schema() -> None:
    """And a command that prints a list prints an empty one where nothing is stored yet."""
    with_json = {
        name: command
        for name, command in commands().items()
        if any("--json" in each.opts for each in command.params)
    }
    assert with_json.keys() == outputs.OUTPUTS.keys()
    for name, command in with_json.items():
        schema = outputs.json_schema(name)
        shapes = [each.get("type") for each in schema.get("anyOf", [schema])]
        assert ("array" in shapes or name == "type") == (
            command.callback.__name__ in outputs.LISTS
        ), name


def commands() -> dict[str, Any]:
    return dict(typer.main.get_command(app).commands)  # type: ignore[attr-defined]


def printed(command: str, output: str) -> Any:
    """What ``--json`` printed, once its schema has accepted it."""
    value = json.loads(output)
    TypeAdapter(outputs.OUTPUTS[command]()).validate_json(output)
    return value


def test_answers_never_replace_what_they_must_not(tmp_path: Path) -> None:
    source, link = tmp_path / "a.txt", tmp_path / "link"
    source.write_text("a")
    link.symlink_to("a.txt")
    check_files(source, tmp_path / "new.jsonl")
    for target, message in (
        (source, "is --input as well"),
        (link, "is --input as well"),
        (tmp_path, "is not a file"),
        (tmp_path / "absent" / "b", "the folder of .* does not exist"),
    ):
        with pytest.raises(InputError, match=message):
            check_files(source, target)


def test_a_port_that_cannot_be_used_is_refused() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(InputError, match=r"in use.*: choose another with --port"):
            _check_port(taken.getsockname()[1])
    for port in (0, 65536):
        with pytest.raises(InputError, match="must be from 1 to 65535"):
            _check_port(port)


def test_ingest_and_what_it_rejected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEMILL_WAREHOUSE", str(tmp_path / "warehouse"))
    good = [json.dumps({"zh": f"你好{i}。", "en": f"Hello {i}."}) for i in range(40)]
    source = tmp_path / "pairs.jsonl"
    bad = ["{" + ESCAPES, '{"zh": 1}', "[]"]
    source.write_text("\n".join([*good, *bad, ""]), encoding="utf-8")
    arguments = ["translate-zh-en", "--source", str(source)]
    assert main(["ingest", *arguments, "--set", "records.max_rejected=0.2", "--json"]) == 0
    report = printed("ingest", capsys.readouterr().out)
    assert (report["num_accepted"], report["num_rejected"]) == (40, 3)

    assert main(["quarantine", "translate-zh-en", "--json"]) == 0
    found = capsys.readouterr().out
    assert not set("\x1b\x07\u202e\x9b") & set(found)
    printed("quarantine", found)
    assert sum(reason["num_rows"] for reason in json.loads(found)) == 3
    raw = [row["raw"] for reason in json.loads(found) for row in reason["samples"]]
    assert "{" + ESCAPES in raw

    assert main(["quarantine", "translate-zh-en"]) == 0
    shown = capsys.readouterr().out
    assert "pairs.jsonl:41" in shown.replace("\n", "") and "\x1b" not in shown

    assert main(["ingest", *arguments]) == 2
    assert "max_rejected" in capsys.readouterr().err


def test_rows_leave_and_come_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TIDEMILL_WAREHOUSE", str(tmp_path / "warehouse"))
    name = "translate-zh-en"
    source, out = tmp_path / "pairs.jsonl", tmp_path / "rows.jsonl"
    good = [json.dumps({"zh": f"你好{i}。", "en": f"Hello {i}."}) for i in range(40)]
    source.write_text("\n".join([*good, '{"zh": "再见。"}', ""]), encoding="utf-8")
    assert main(["ingest", name, "--source", str(source)]) == 0
    assert re.search(rf"files added +1: {re.escape(str(source)[:20])}", capsys.readouterr().out)

    assert main(["quarantine", name, "--export", str(out)]) == 0
    mended = out.read_text("utf-8").replace("再见。", '再见。\\", \\"en\\": \\"Bye.')
    out.write_text(mended, "utf-8")
    capsys.readouterr()
    assert main(["quarantine", name, "--retry", str(out), "--json"]) == 0
    report = printed("quarantine", capsys.readouterr().out)
    assert (report["num_before"], report["num_after"]) == (1, 0)
    assert report["ingest"]["num_accepted"] == 41

    assert main(["forget", name, "--match", "Bye", "--dry-run"]) == 0
    assert "rows would be forgotten: 1" in capsys.readouterr().out
    assert main(["forget", name, "--match", "Bye", "--dry-run", "--json"]) == 0
    printed("forget", capsys.readouterr().out)
    assert main(["forget", name, "--match", "Bye"]) == 0
    assert f"{name} is now" in capsys.readouterr().out
    assert main(["verify"]) == 0
    assert main(["compact", name]) == 0
    assert main(["gc", "--days", "0"]) == 0
    capsys.readouterr()
    for command in (["verify"], ["compact", name], ["gc", "--dry-run"]):
        assert main([*command, "--json"]) == 0
        printed(command[0], capsys.readouterr().out)
    (table,) = (tmp_path / "warehouse" / "tables").glob("*.parquet")
    table.write_bytes(table.read_bytes()[:-9])
    assert main(["verify", "--json"]) == 1
    (fault,) = printed("verify", capsys.readouterr().out)
    assert fault["path"] == f"tables/{table.name}"


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--warehouse", str(tmp_path / "new")]) == 0
    checks = {check["subject"]: check for check in printed("doctor", capsys.readouterr().out)}
    assert {"prefect", "torch", "device", "warehouse", "prefect server"} <= set(checks)
    assert not (tmp_path / "new").exists()

    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "mlflow.db").write_bytes(b"no database" * 100)
    assert main(["doctor", "--warehouse", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "WRONG" in shown and "mlflow.db" in shown


def test_a_reader_who_has_enough_is_no_error(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "flows.command.cli",
        "doctor",
        "--json",
        "--warehouse",
        str(tmp_path),
    ]
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        restore_signals=True,
        text=True,
    )
    assert process.stdout is not None and process.stderr is not None
    process.stdout.close()
    errors = process.stderr.read()
    process.stderr.close()
    assert process.wait(timeout=120) in (0, -signal.SIGPIPE), errors
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今天　天气", "今天　天气"),
        ("a\nb\r\t", "a\\nb\\r\\t"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("\u202egnirts\u2028", "\\u202egnirts\\u2028"),
        ("\ud800", "\\ud800"),
    ],
)
def test_nothing_unescaped_reaches_the_terminal(text: str, expected: str) -> None:
    assert printable(text) == expected
