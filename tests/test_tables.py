import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from warehouse.errors import StorageError
from warehouse.tables.tables import ASIDE, Tables, snapshot_id

ROOT = Path(__file__).resolve().parent.parent
SCHEMA = pa.schema([("name", pa.string()), ("ids", pa.list_(pa.int32())), ("score", pa.float64())])


def table(num_rows: int, seed: int = 0) -> pa.Table:
    random = np.random.default_rng(seed)
    return pa.table(
        {
            "name": [f"名字 {seed} {i}" for i in range(num_rows)],
            "ids": [random.integers(0, 99, i % 4).tolist() for i in range(num_rows)],
            "score": random.random(num_rows),
        },
        schema=SCHEMA,
    )


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# --- tables


def test_what_is_written_is_read_back(warehouse: Path) -> None:
    tables = Tables(warehouse)
    written = table(1000)
    ref = tables.write(written.to_batches(max_chunksize=64), SCHEMA)
    assert tables.read(ref).equals(written)
    assert tables.read(ref, ["score"]).equals(written.select(["score"]))
    assert ref.num_rows == 1000
    assert ref.num_bytes > 1000 * 8
    batches = list(tables.batches(ref, ["ids"], batch_rows=300))
    assert [batch.num_rows for batch in batches] == [300, 300, 300, 100]
    assert pa.Table.from_batches(batches).equals(written.select(["ids"]))


def test_digest_depends_on_content_not_on_batches(warehouse: Path, tmp_path: Path) -> None:
    tables = Tables(warehouse)
    whole = table(500)
    ref = tables.write([whole])
    assert tables.write(whole.to_batches(max_chunksize=7), SCHEMA) == ref
    assert tables.write([whole.slice(0, 123), whole.slice(123)], SCHEMA) == ref
    assert Tables(tmp_path / "elsewhere").write([whole]) == ref
    assert tables.write([tables.read(ref)]) == ref
    assert names(warehouse / "tables") == [f"{ref.digest}.parquet"]


@pytest.mark.parametrize(
    ("left", "right"),
    [
        ({"a": ["xy", "z"]}, {"a": ["x", "yz"]}),
        ({"a": ["x", "y"]}, {"b": ["x", "y"]}),
        ({"a": [[1, 2], []]}, {"a": [[1], [2]]}),
        ({"a": [[["p"], ["q"]]]}, {"a": [[["p", "q"]]]}),
        ({"a": pa.array([1], pa.int32())}, {"a": pa.array([1], pa.int64())}),
        ({"a": pa.array([], pa.int32())}, {"a": pa.array([], pa.int64())}),
        ({"a": ["x"], "b": ["y"]}, {"a": ["y"], "b": ["x"]}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"a": [b"x"]}, {"a": ["x"]}),
        ({"a": [True]}, {"a": [False]}),
    ],
)
def test_different_content_has_different_digests(
    warehouse: Path, left: dict[str, object], right: dict[str, object]
) -> None:
    tables = Tables(warehouse)
    assert tables.write([pa.table(left)]).digest != tables.write([pa.table(right)]).digest


def test_digest_is_the_same_on_every_machine(warehouse: Path) -> None:
    # A golden value: were it to change, every cached result and snapshot would be orphaned.
    ref = Tables(warehouse).write([pa.table({"a": ["一", "two"], "b": [[1, 2], []]})])
    assert ref.digest == ("e73a75460058ca1602e9c901f0267bb83b4906bcef7c984e935fecb2e76fad06")


def test_a_null_is_refused(warehouse: Path) -> None:
    with pytest.raises(StorageError, match="'a' holds nulls"):
        Tables(warehouse).write([pa.table({"a": ["x", None]})])
    with pytest.raises(StorageError, match="'a' holds nulls"):
        Tables(warehouse).write([pa.table({"a": [["x", None]]})])
    assert names(warehouse / "tables") == []


def test_an_empty_table_needs_a_schema(warehouse: Path) -> None:
    tables = Tables(warehouse)
    ref = tables.write([], SCHEMA)
    assert tables.read(ref).equals(SCHEMA.empty_table())
    assert list(tables.batches(ref)) == [] or sum(b.num_rows for b in tables.batches(ref)) == 0
    with pytest.raises(StorageError, match="schema"):
        tables.write([])


def test_an_unfinished_write_leaves_nothing(warehouse: Path) -> None:
    def batches():  # type: ignore[no-untyped-def]
        yield table(40_000)
        raise RuntimeError("the source broke")

    with pytest.raises(RuntimeError, match="the source broke"):
        Tables(warehouse).write(batches(), SCHEMA)
    assert names(warehouse / "tables") == []


def test_row_groups_are_bounded(warehouse: Path) -> None:
    tables = Tables(warehouse)
    ref = tables.write([table(70_000)])
    footer = pq.read_metadata(warehouse / ref.path)
    assert max(footer.row_group(i).num_rows for i in range(footer.num_row_groups)) <= 32_768
    assert footer.row_group(0).column(0).compression == "ZSTD"


def test_damage_is_noticed(warehouse: Path) -> None:
    tables = Tables(warehouse)
    ref = tables.write([table(2000)])
    path = warehouse / ref.path
    whole = path.read_bytes()

    path.write_bytes(whole[: len(whole) // 2])
    assert not tables.intact(ref)
    with pytest.raises(StorageError, match="damaged"):
        tables.read(ref)

    flipped = bytearray(whole)
    flipped[200] ^= 1
    path.write_bytes(flipped)
    with pytest.raises(StorageError, match="damaged"):
        tables.read(ref)
    assert [fault.path for fault in tables.verify([ref])] == [ref.path]

    path.unlink()
    assert not tables.intact(ref)
    with pytest.raises(StorageError, match="missing"):
        tables.read(ref)

    other = tables.write([table(2000, seed=1)])
    os.replace(warehouse / other.path, path)
    assert not tables.intact(ref)

    assert tables.write([table(2000)]) == ref
    assert tables.intact(ref)
    assert tables.verify([ref]) == []


def test_an_unknown_column_is_named(warehouse: Path) -> None:
    tables = Tables(warehouse)
    ref = tables.write([table(1)])
    with pytest.raises(StorageError, match=r"no column 'nme'; it has name, ids, score"):
        tables.read(ref, ["nme"])


def test_a_root_that_is_a_file_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "root").write_text("")
    with pytest.raises(StorageError, match="cannot be written"):
        Tables(tmp_path / "root").write([table(1)])
    with pytest.raises(StorageError, match="not a folder"):
        Tables("s3://bucket/root")


# --- snapshots


def test_snapshot_id_is_of_content(warehouse: Path, tmp_path: Path) -> None:
    tables, elsewhere = Tables(warehouse), Tables(tmp_path / "elsewhere")
    a, b = tables.write([table(3, 1)]), tables.write([table(3, 2)])
    first = tables.commit("talks", [a, b], {"note": "here"})
    second = elsewhere.commit(
        "other", [elsewhere.write([table(3, 2)]), elsewhere.write([table(3, 1)])]
    )
    assert first.id == second.id == snapshot_id([b, a, a])
    assert (first.number, first.num_rows) == (1, 6)


def test_commits_form_a_log(warehouse: Path) -> None:
    tables = Tables(warehouse)
    a, b = tables.write([table(3, 1)]), tables.write([table(3, 2)])
    assert tables.head("talks") is None
    assert tables.log("talks") == []
    first = tables.commit("talks", [a], {"num_rejected": 1})
    assert tables.commit("talks", [a], {"num_rejected": 1}) == first
    second = tables.commit("talks", [a, b])
    assert tables.head("talks") == second
    assert tables.log("talks") == [first, second]
    assert tables.names() == ["talks"]
    assert tables.snapshot(first).refs == (a,)
    assert tables.snapshot(first.id).meta == {"num_rejected": 1}
    assert set(tables.snapshot(second).refs) == {a, b}
    third = tables.commit("talks", [a])
    assert (third.id, third.number) == (first.id, 3)
    with pytest.raises(StorageError, match="no snapshot"):
        tables.snapshot("0" * 64)


@pytest.mark.parametrize("name", ["", "..", "../up", "a/b", ".hidden", "a\n", "x" * 101, "名/字"])
def test_a_name_cannot_leave_its_folder(warehouse: Path, name: str) -> None:
    with pytest.raises(StorageError, match="cannot be the name"):
        Tables(warehouse).commit(name, [])


def test_a_chinese_name_is_a_name(warehouse: Path) -> None:
    assert Tables(warehouse).commit("闲聊-2.1", []).number == 1


def test_a_missing_table_is_not_committed(warehouse: Path) -> None:
    tables = Tables(warehouse)
    ref = tables.write([table(3)])
    (warehouse / ref.path).unlink()
    with pytest.raises(StorageError, match="not committed"):
        tables.commit("talks", [ref])
    assert tables.head("talks") is None


def test_a_damaged_record_is_named(warehouse: Path) -> None:
    tables = Tables(warehouse)
    tables.commit("talks", [tables.write([table(3)])])
    path = warehouse / "snapshots" / "talks" / "000000000001.json"
    whole = path.read_text()
    for damaged in ("", "[]", "{}", whole.replace('"id": "', '"id": "0')):
        path.write_text(damaged)
        with pytest.raises(StorageError, match="000000000001"):
            tables.head("talks")
        with pytest.raises(StorageError, match="Nothing was removed"):
            tables.collect_garbage(min_age_seconds=0)


def test_two_committers_at_once_both_succeed(warehouse: Path) -> None:
    refs = [Tables(warehouse).write([table(2, seed)]) for seed in range(40)]
    numbers: list[int] = []

    def commit(mine: list[int]) -> None:
        tables = Tables(warehouse)
        numbers.extend(tables.commit("talks", [refs[i]]).number for i in mine)

    threads = [threading.Thread(target=commit, args=[range(k, 40, 4)]) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 41))
    tables = Tables(warehouse)
    assert {tables.snapshot(ref).refs[0] for ref in tables.log("talks")} == set(refs)


def test_garbage_is_what_no_snapshot_names(warehouse: Path) -> None:
    tables = Tables(warehouse)
    kept, attached, asked, lost = (tables.write([table(3, seed)]) for seed in range(4))
    tables.commit("talks", [kept], attached=[attached])
    remainder = warehouse / "tables" / f"{ASIDE}x"
    remainder.write_bytes(b"half")
    (warehouse / "tables" / "notes.txt").write_text("a person's")
    assert tables.collect_garbage(keep=[asked]).num_files == 0
    assert tables.intact(lost)
    assert tables.collect_garbage(keep=[asked], min_age_seconds=0).num_files == 2
    assert not tables.intact(lost)
    assert not remainder.exists()
    assert all(tables.intact(ref) for ref in (kept, attached, asked))
    assert (warehouse / "tables" / "notes.txt").exists()
    assert tables.verify() == []


COMMITTER = """
import sys
import pyarrow as pa
from warehouse.tables.tables import Tables
tables = Tables(sys.argv[1])
print("ready", flush=True)
for number in range(int(sys.argv[2])):
    rows = pa.table({"n": [number] * 5_000, "text": [f"row {number} {i}" for i in range(5_000)]})
    refs = [tables.write([rows]), tables.write([rows.slice(0, 10)])]
    done = tables.commit("talks", refs, {"number": number}, attached=refs[:1])
    print(done.id, flush=True)
"""


def run_committer(root: Path, num_commits: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", COMMITTER, str(root), str(num_commits)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def test_a_killed_writer_never_leaves_half_a_snapshot(warehouse: Path, tmp_path: Path) -> None:
    tables = Tables(warehouse)
    acknowledged: set[str] = set()
    for i in range(5):
        writer = run_committer(warehouse, 10_000)
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
        for _ in range(i):
            acknowledged.add(writer.stdout.readline().strip())
        end = time.perf_counter() + 0.003 * i
        while time.perf_counter() < end:
            pass
        writer.send_signal(signal.SIGKILL)
        acknowledged |= set(writer.stdout.read().split())
        writer.wait()
        writer.stdout.close()
        assert tables.verify() == []
        log = tables.log("talks")
        assert [ref.number for ref in log] == list(range(1, len(log) + 1))
        assert acknowledged <= {ref.id for ref in log}
        for ref in log:
            assert sum(tables.read(each).num_rows for each in tables.snapshot(ref).refs) == 5_010

    # What a rerun makes is what an undisturbed run elsewhere makes.
    digests = []
    for root in (warehouse, tmp_path / "undisturbed"):
        writer = run_committer(root, 4)
        assert writer.stdout is not None
        digests.append(writer.stdout.read())
        writer.stdout.close()
        assert writer.wait() == 0
    assert digests[0] == digests[1]
    tables.collect_garbage(min_age_seconds=0)
    assert not list((warehouse / "tables").glob(f"{ASIDE}*"))
    assert tables.verify() == []


def test_a_record_is_readable_by_people(warehouse: Path) -> None:
    tables = Tables(warehouse)
    tables.commit("talks", [tables.write([table(3)])], {"sources": ["对话.jsonl"]})
    path = warehouse / "snapshots" / "talks" / "000000000001.json"
    assert json.loads(path.read_text())["meta"] == {"sources": ["对话.jsonl"]}
    assert "对话" in path.read_text()
