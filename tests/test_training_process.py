"""The process that trains, seen from its parent: what it leaves, and when it ends."""

import json
import os
import subprocess
import sys
from pathlib import Path

from flows.training.processes import JOB, OUTCOME

ROOT = Path(__file__).resolve().parent.parent


def start(folder: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, "-m", "flows.training.training_process", str(folder)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )


def test_whatever_goes_wrong_is_left_as_an_outcome(tmp_path: Path) -> None:
    (tmp_path / JOB).write_text('{"problem": {"name": "none"}}', encoding="utf-8")
    with start(tmp_path) as process:
        assert process.stdout is not None
        assert process.stdout.read() == b"", "no traceback among the lines for the parent"
        assert process.wait() == 1
    left = json.loads((tmp_path / OUTCOME.format(rank=0)).read_text(encoding="utf-8"))
    assert left["error"] == "ValidationError"
    assert "'none'" in left["message"]
    assert left["traceback"].startswith("Traceback")
    assert sorted(path.name for path in tmp_path.iterdir()) == [JOB, OUTCOME.format(rank=0)]


def test_it_ends_with_its_parent_and_leaves_no_folder(tmp_path: Path) -> None:
    folder = tmp_path / "job"
    folder.mkdir()
    # Nobody writes the job, so that the process waits for it.
    os.mkfifo(folder / JOB)
    with start(folder) as process:
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(120) == -9
    assert not folder.exists()
