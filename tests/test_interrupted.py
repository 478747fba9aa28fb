"""What is left when an ingest is killed, when the disk is full, and when two run at once.

python tests/test_interrupted.py 40      # as many kills, at random moments
"""

import json
import os
import random
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest

from flows.ingest import ingest_sources
from flows.prepare.tokens import tokenize
from flows.steps.steps import Steps
from flows.upkeep.verify import verify
from pipeline.records.contract import RecordsConfig
from pipeline.text.config import TextConfig
from warehouse.errors import StorageError
from warehouse.tables.tables import ASIDE, Tables

ROWS_A_FILE = 400


def write_file(folder: Path, number: int) -> None:
    folder.mkdir(exist_ok=True)
    said = [f"user{i % 2 + 1}：第{number}个文件的第{i}句话，今天天气不错。" for i in range(8)]
    rows = [
        {
            "topic": f"{number}-{i}",
            "user1": "甲",
            "user2": "乙",
            "dialog": [*said, f"user1：第{i}段"],
        }
        for i in range(ROWS_A_FILE)
    ]
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (folder / f"{number:03}.jsonl").write_text(text, encoding="utf-8")


def ingest_and_tokenize(root: Path, sources: Path) -> tuple[str, list[str]]:
    """The snapshot's id, and the digests of the tables of tokens."""
    steps = Steps(root)
    report = ingest_sources(steps, "talks", [str(sources)], RecordsConfig())
    tokens = [
        steps.run(
            tokenize,
            root=str(root),
            shard=shard,
            kind="dialogues",
            columns=["tokens"],
            text=TextConfig(),
            target_text=None,
        ).digest
        for shard in report.shards
    ]
    return report.snapshot.id, tokens


def in_a_child(work: Callable[[], object]) -> int:
    """Runs `work` in a fork of this process, which has imported everything; the child's pid."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def kill_at_random(folder: Path, num_kills: int, seed: int = 0) -> int:
    """Kill an ingest that often, each time with one more file to read; how many were in its midst.

    After each kill every snapshot must be whole, and the last one be that of before or of after.
    """
    draw = random.Random(seed)
    root, sources = folder / "warehouse", folder / "sources"
    write_file(sources, 0)
    ingest_and_tokenize(root, sources)
    tables = Tables(root)
    write_file(sources, 1)
    began = time.perf_counter()
    ingest_and_tokenize(root, sources)
    seconds = time.perf_counter() - began
    num_cut = 0
    for number in range(2, num_kills + 2):
        before = tables.head("talks")
        assert before is not None
        write_file(sources, number)
        child = in_a_child(lambda: ingest_and_tokenize(root, sources))
        time.sleep(draw.uniform(0, seconds))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        num_cut += os.WIFSIGNALED(status)
        head = tables.head("talks")
        assert head is not None
        # Files whose ingest was cut off come in with the next one.
        assert head == before or head.num_rows == (number + 1) * ROWS_A_FILE
        assert sum(tables.read(ref).num_rows for ref in tables.snapshot(head).refs) == head.num_rows
        assert tables.verify() == []
    disturbed = ingest_and_tokenize(root, sources)
    assert disturbed == ingest_and_tokenize(folder / "undisturbed", sources)
    assert verify(root) == []
    tables.collect_garbage(min_age_seconds=1e9)
    return num_cut


def test_kills_leave_the_last_snapshot_whole(tmp_path: Path) -> None:
    assert kill_at_random(tmp_path, num_kills=4) > 0


def test_two_ingests_at_once(tmp_path: Path) -> None:
    root, sources = tmp_path / "warehouse", tmp_path / "sources"
    for number in range(3):
        write_file(sources, number)
    children = [in_a_child(lambda: ingest_and_tokenize(root, sources)) for _ in range(3)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0, 0]
    tables = Tables(root)
    assert len(tables.log("talks")) == 1
    assert verify(root) == []
    undisturbed = ingest_and_tokenize(tmp_path / "other", sources)
    assert ingest_and_tokenize(root, sources) == undisturbed
    # Different files at once: both commit, one behind the other.
    halves = [tmp_path / "half0", tmp_path / "half1"]
    for number, half in enumerate(halves):
        write_file(half, 10 + number)
    children = [in_a_child(lambda half=half: ingest_and_tokenize(root, half)) for half in halves]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]
    assert [ref.num_rows for ref in tables.log("talks")] == [3 * ROWS_A_FILE, 400, 400]
    assert verify(root) == []


def full_disk(root: Path, sources: Path, num_bytes: int) -> str:
    """What an ingest says where no file may grow beyond so many bytes."""
    messages = get_context("fork").SimpleQueue()

    def work() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, resource.RLIM_INFINITY))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        try:
            ingest_and_tokenize(root, sources)
            messages.put("done")
        except (StorageError, OSError) as error:
            messages.put(str(error) if isinstance(error, StorageError) else f"no sentence: {error}")

    os.waitpid(in_a_child(work), 0)
    return str(messages.get())


def test_a_disk_that_refuses_is_told_in_a_sentence(tmp_path: Path) -> None:
    root, sources = tmp_path / "warehouse", tmp_path / "sources"
    write_file(sources, 0)
    before = ingest_and_tokenize(root, sources)
    for number in range(1, 3):
        write_file(sources, number)
    for num_bytes in (0, 200, 5_000):
        message = full_disk(root, sources, num_bytes)
        assert "cannot be written to" in message, message
        assert message.isprintable()
        head = Tables(root).head("talks")
        assert head is not None
        assert head.id == before[0]
        assert verify(root) == []
        assert not list((root / "tables").glob(f"{ASIDE}*"))
    assert full_disk(root, sources, 10_000_000) == "done"
    assert ingest_and_tokenize(root, sources) == ingest_and_tokenize(tmp_path / "other", sources)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="needs to mount a disk")
def test_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from flows.command.cli import main

    sources, disk = tmp_path / "sources", tmp_path / "disk"
    write_file(sources, 0)
    disk.mkdir()
    if os.system(f"mount -t tmpfs -o size=256k tmpfs {disk} 2>/dev/null"):
        pytest.skip("this user may not mount a disk")
    try:
        command = ["ingest", "demo", "--warehouse", str(disk / "w"), "--source"]
        assert main([*command, str(sources)]) == 0
        for number in range(1, 40):
            write_file(sources, number)
        assert main([*command, str(sources)]) == 1
        said = capsys.readouterr().err
        assert "No space left on device" in said.splitlines()[-1]
        assert "free some space" in said.splitlines()[-1]
        assert "Traceback" not in said
        assert [ref.num_rows for ref in Tables(disk / "w").log("demo")] == [ROWS_A_FILE]
        assert verify(disk / "w") == []
    finally:
        os.system(f"umount {disk}")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        num_cut = kill_at_random(Path(folder), int(sys.argv[1]))
    sys.stdout.write(f"{num_cut} of {sys.argv[1]} were cut off in their midst; all is whole\n")
