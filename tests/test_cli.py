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
import yaml

from flows.command import cli, commands
from flows.command.cli import main
from flows.command.answers import check_files
from flows.command.terminal import printable
from pipeline.errors import InputError

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
    assert isinstance(json.loads(first.out), dict)

    assert run(trained, "leaderboard", "demo", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
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
    profile = json.loads(profiled.out)
    assert profile["snapshot"].startswith(rows[0]["snapshot"])
    assert profile["num_rows"] == 400 and "Completed" not in profiled.err
    assert run(trained, "profile", "demo", *of_recipe, "--snapshot", profile["snapshot"][:8]) == 0
    shown = capsys.readouterr().out.replace("\n", "")
    assert "utterances" in shown and f"page: {profile['page']}" in shown
    assert Path(profile["page"]).read_text(encoding="utf-8").startswith("<!doctype html>")

    assert run(trained, "predict", "demo", "今天天气", "--top", "2", "--json") == 0
    (answer,) = json.loads(capsys.readouterr().out)
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
        assert "no registered model 'dmeo'" in (said := capsys.readouterr().err), said
        assert "there are demo" in said
    assert run(trained, "quarantine", "dmeo") == 2
    assert "there is data of demo" in capsys.readouterr().err
    assert run(trained, "predict", "demo", "a", "--top", "0") == 2
    assert "top is 0: it must be at least 1" in capsys.readouterr().err

    assert retrain(trained, "--variants", "gru", "--set", "text.unit=char") == 0
    assert "their perplexities do not compare" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("retrain", "dmeo"), "no deployment 'dmeo': choose from demo, next-word"),
        (
            ("retrain", "demo", "--set", "training.epochs=5"),
            "'epochs' is not one of accumulate_batches",
        ),
        (("retrain", "demo", "--set", "training.num_epochs"), "has no value"),
        (("retrain", "demo", "--set", "training.num_epochs=0"), "must be at least 1"),
        (("retrain", "demo", "--catalogue", "absent.yaml"), "absent.yaml cannot be read"),
        (("retrain", "demo", "--variants", "lsmt"), "lsmt"),
        (("retrain", "demo", "--variants", ""), "unknown variant ''"),
        (("retrain", "demo", "--set", "name=../x"), "name is '../x': the name of a model has"),
        (("retrain", "demo", "--source", "absent/*.jsonl"), "absent/*.jsonl"),
        (("ingest", "demo", "--source", "sample:poems"), "no sample:poems"),
        (("leaderboard", "demo"), "holds no models yet: run tidemill retrain demo"),
        (("predict", "demo", "text"), "holds no models yet"),
        (("predict", "demo"), "give texts"),
        (("predict", "demo", "--input", "a.txt"), "belong together"),
        (("rollback", "demo"), "holds no models yet"),
        (("predict", "demo", "--input", "absent", "--output", "b"), "there is no file absent"),
        (("quarantine", "demo"), "holds no data"),
        (("quarantine", "demo", "--samples", "-1"), "must be at least 0"),
        (("profile", "demo"), "demo holds no data: run tidemill ingest demo"),
        (("profile", "dmeo"), "no deployment 'dmeo'"),
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
    def fail(error: BaseException) -> Any:
        def command(parsed: object) -> int:
            raise error

        return command

    monkeypatch.setattr(commands, "doctor", fail(RuntimeError(ESCAPES)))
    assert main(["doctor"]) == 1
    shown = capsys.readouterr().err
    assert "Traceback" in shown and "\\x1b[31mred" in shown and "\x1b" not in shown
    monkeypatch.setattr(commands, "doctor", fail(InputError(ESCAPES)))
    assert main(["doctor"]) == 2
    assert capsys.readouterr().err == f"tidemill: {printable(ESCAPES)}\n"
    monkeypatch.setattr(commands, "doctor", fail(KeyboardInterrupt()))
    assert main(["doctor"]) == 130
    assert capsys.readouterr().err.count("the same command goes on from what is kept\n") == 1


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
    assert main(["ingest", "demo", "--warehouse", str(tmp_path)]) == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert last.startswith(f"tidemill: {tmp_path}: {os.strerror(code)}: {remedy}")


def test_the_version_and_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in (["--version"], ["deploy", "--help"], ["retrain", "--help"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert shown.startswith("tidemill ")
    assert "--warehouse" not in shown.partition("usage: tidemill retrain")[0]


def test_every_argument_explains_itself() -> None:
    commands = next(action for action in cli._parser()._actions if isinstance(action.choices, dict))
    assert isinstance(commands.choices, dict)
    for name, parser in commands.choices.items():
        assert [each.dest for each in parser._actions if not each.help] == [], name


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
            commands._check_port(taken.getsockname()[1])
    for port in (0, 65536):
        with pytest.raises(InputError, match="must be from 1 to 65535"):
            commands._check_port(port)


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
    report = json.loads(capsys.readouterr().out)
    assert (report["num_accepted"], report["num_rejected"]) == (40, 3)

    assert main(["quarantine", "translate-zh-en", "--json"]) == 0
    found = capsys.readouterr().out
    assert not set("\x1b\x07\u202e\x9b") & set(found)
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
    report = json.loads(capsys.readouterr().out)
    assert (report["num_before"], report["num_after"]) == (1, 0)
    assert report["ingest"]["num_accepted"] == 41

    assert main(["forget", name, "--match", "Bye", "--dry-run"]) == 0
    assert "rows would be forgotten: 1" in capsys.readouterr().out
    assert main(["forget", name, "--match", "Bye"]) == 0
    assert f"{name} is now" in capsys.readouterr().out
    assert main(["verify"]) == 0
    assert main(["compact", name]) == 0
    assert main(["gc", "--days", "0"]) == 0
    capsys.readouterr()
    (table,) = (tmp_path / "warehouse" / "tables").glob("*.parquet")
    table.write_bytes(table.read_bytes()[:-9])
    assert main(["verify", "--json"]) == 1
    (fault,) = json.loads(capsys.readouterr().out)
    assert fault["path"] == f"tables/{table.name}"


def test_doctor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--warehouse", str(tmp_path / "new")]) == 0
    checks = {check["subject"]: check for check in json.loads(capsys.readouterr().out)}
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
