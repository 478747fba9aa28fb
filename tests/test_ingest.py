import csv
import gzip
import json
import random
import shutil
import signal
import subprocess
import sys
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from blake3 import blake3

from flows.ingest import IngestReport, ingest, ingest_sources, ingested_snapshot
from flows.quarantine import quarantined_rows
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.records.contract import RecordsConfig
from warehouse.errors import StorageError
from warehouse.ingests import SourceChanges, keep_mended_rows
from warehouse.sources.sources import find_sources
from warehouse.tables.record_schemas import DIALOGUES, PAIRS, QUARANTINE
from warehouse.tables.tables import ASIDE, Tables

ROOT = Path(__file__).resolve().parent.parent
HOSTILE = ROOT.parent / "shared" / "data" / "hostile"
LENIENT = RecordsConfig(max_rejected=1.0)
EN_ZH = RecordsConfig("pairs", {"source": "en", "target": "zh"}, max_rejected=1.0)
REVIEWS = RecordsConfig("labelled", {"text": "review"}, max_rejected=1.0, labels=("0", "1"))
READERS = {"dialog": LENIENT, "pairs": EN_ZH, "tsv-pairs": EN_ZH, "reviews": REVIEWS}


def line(number: int, num_utterances: int = 3) -> str:
    said = [f"user{i % 2 + 1}：第{number}段的第{i}句。" for i in range(num_utterances)]
    return json.dumps(
        {"topic": f"话题{number % 3}", "user1": "甲", "user2": "乙", "dialog": said},
        ensure_ascii=False,
    )


def write(path: Path, *lines: str) -> str:
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_text("".join(f"{each}\n" for each in lines), encoding="utf-8")
    return str(path)


def run(root: Path, *sources: str, records: RecordsConfig | None = None) -> IngestReport:
    return ingest_sources(Steps(root), "talks", list(sources), records or RecordsConfig())


def states(root: Path, *sources: str) -> list[str]:
    steps = Steps(root)
    ingest_sources(steps, "talks", list(sources), RecordsConfig())
    return [state.state for state in steps.states]


def test_dialogues_become_a_table(warehouse: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", line(1, 2), "", line(2, 3))
    report = run(warehouse, source)
    assert (report.num_accepted, report.num_rejected, report.quarantine) == (2, 0, ())
    tables = Tables(warehouse)
    (shard,) = report.shards
    table = tables.read(shard)
    assert table.schema.equals(DIALOGUES)
    assert table.select(["line", "topic", "speakers", "utterances"]).to_pylist() == [
        {
            "line": 1,
            "topic": "话题1",
            "speakers": [0, 1],
            "utterances": ["第1段的第0句。", "第1段的第1句。"],
        },
        {
            "line": 3,
            "topic": "话题2",
            "speakers": [0, 1, 0],
            "utterances": ["第2段的第0句。", "第2段的第1句。", "第2段的第2句。"],
        },
    ]
    assert set(table["file"].to_pylist()) == {blake3(Path(source).read_bytes()).hexdigest()}
    snapshot = tables.snapshot(report.snapshot)
    assert snapshot.refs == report.shards
    assert snapshot.meta["sources"] == [source]
    assert tables.head("talks") == report.snapshot


def test_a_flow_does_the_same(warehouse: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", line(1))
    report = ingest.fn("talks", [source], RecordsConfig(), str(warehouse))
    assert report.changes == SourceChanges(added=(source,))
    assert run(warehouse, source) == report.model_copy(update={"changes": SourceChanges()})


def test_what_is_known_is_not_read_again(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", line(1))
    b = write(tmp_path / "b.jsonl", line(2))
    first = run(warehouse, a, b)
    assert states(warehouse, a, b) == ["Cached", "Cached"]
    assert run(warehouse, a, b) == first.model_copy(update={"changes": SourceChanges()})
    # Elsewhere, under another name, in another order: the same content.
    moved = shutil.copy(a, tmp_path / "z.jsonl")
    assert states(warehouse, b, str(moved)) == ["Cached", "Cached"]
    assert run(warehouse, b, str(moved)).snapshot == first.snapshot
    # A new file costs one new shard.
    c = write(tmp_path / "c.jsonl", line(3))
    assert states(warehouse, a, b, c) == ["Cached", "Cached", "Completed"]
    assert run(warehouse, a, b, c).snapshot.number == 2
    # Equal content counts once.
    twice = run(warehouse, a, b, str(moved))
    assert (twice.num_accepted, twice.snapshot.id) == (2, first.snapshot.id)
    # A table that was lost or damaged is made again.
    (warehouse / first.shards[0].path).write_bytes(b"damaged")
    assert states(warehouse, a, b) == ["Completed", "Cached"]
    assert Tables(warehouse).verify() == []


def test_the_snapshot_is_the_same_everywhere(warehouse: Path, tmp_path: Path) -> None:
    lines = [line(i) for i in range(50)]
    here = run(warehouse, write(tmp_path / "here" / "a.jsonl", *lines))
    there = run(tmp_path / "elsewhere", write(tmp_path / "there" / "b.jsonl", *lines))
    assert here.snapshot == there.snapshot


def test_rejected_rows_are_kept_with_the_reason(warehouse: Path, tmp_path: Path) -> None:
    long = '{"topic": "' + "长" * 5_000
    lines = [line(1), "not json", *[line(i) for i in range(60)], "{}", long]
    source = write(tmp_path / "a.jsonl", *lines)
    report = run(warehouse, source)
    assert (report.num_accepted, report.num_rejected) == (61, 3)
    assert report.rejected_by_reason == {"not_json": 2, "missing_key": 1}
    tables = Tables(warehouse)
    (quarantine,) = report.quarantine
    table = tables.read(quarantine)
    assert table.schema.equals(QUARANTINE)
    assert table["line"].to_pylist() == [2, 63, 64]
    assert table["reason"].to_pylist() == ["not_json", "missing_key", "not_json"]
    assert table["raw"].to_pylist() == [b"not json", b"{}", long.encode()[:4096]]
    assert set(table["address"].to_pylist()) == {source}
    tables.collect_garbage(min_age_seconds=0)
    assert tables.intact(quarantine)


def test_too_many_rejected_rows_are_refused(warehouse: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", line(1), "x", "{}", "{}", line(2))
    with pytest.raises(InputError) as raised:
        run(warehouse, source)
    message = str(raised.value)
    assert "3 of 5 rows were rejected (60.0%; at most 5.0% may be)" in message
    assert "a key is missing (2), not JSON (1)" in message
    assert f"{source} line 2: " in message
    kept = Path(message.partition("rejected rows are kept in ")[2].partition(")")[0])
    assert pq.read_table(kept).num_rows == 3
    assert Tables(warehouse).head("talks") is None
    assert run(warehouse, source, records=LENIENT).num_accepted == 2
    # The allowance is over all files, but no file may be wholly bad.
    good = write(tmp_path / "good.jsonl", *[line(i) for i in range(100)])
    assert run(warehouse, source, good).num_rejected == 3
    bad = write(tmp_path / "bad.jsonl", "x")
    with pytest.raises(InputError, match=r"bad.jsonl: 1 of 1 rows were rejected"):
        run(warehouse, good, bad)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "does not exist"),
        (b"", "is empty"),
        (b"\n \r\n\n", "has no rows"),
        (line(1).encode("utf-16"), "is UTF-16"),
        ((line(1) + "\n").encode("gbk") * 3, "3 of 3 rows were rejected .*not UTF-8"),
        (b"\x7fELF" + random.Random(0).randbytes(5_000), "is a program"),
        (random.Random(0).randbytes(5_000), "rows were rejected"),
    ],
)
def test_a_file_without_rows_is_one_sentence(
    warehouse: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises((InputError, StorageError), match=f"{path}.* ?{message}") as raised:
        run(warehouse, str(path), records=LENIENT)
    assert str(raised.value).isprintable()
    assert Tables(warehouse).head("talks") is None


def test_nothing_of_a_half_file_is_committed(warehouse: Path, tmp_path: Path) -> None:
    whole = gzip.compress("".join(line(i) + "\n" for i in range(30_000)).encode())
    (tmp_path / "a.jsonl.gz").write_bytes(whole[:-100])
    with pytest.raises(StorageError, match="cut short"):
        run(warehouse, str(tmp_path / "a.jsonl.gz"))
    assert list((warehouse / "tables").iterdir()) == []


def test_pairs_come_from_any_format(warehouse: Path, tmp_path: Path) -> None:
    rows = [{"en": "Hi, you.", "zh": "嗨。"}, {"en": '"Bye"', "zh": "再见。"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    write(tmp_path / "a.txt", *("\t".join(row.values()) for row in rows))
    write(tmp_path / "a.csv", "zh,en", '嗨。,"Hi, you."', '再见。,"""Bye"""')
    for name in ("a.parquet", "a.jsonl", "a.txt", "a.csv"):
        report = run(warehouse, str(tmp_path / name), records=EN_ZH)
        table = Tables(warehouse).read(report.shards[0])
        assert table.schema.equals(PAIRS)
        assert table["source"].to_pylist() == ["Hi, you.", '"Bye"']
        assert table["target"].to_pylist() == ["嗨。", "再见。"]


def expectations() -> list[dict[str, str]]:
    if not HOSTILE.is_dir():
        return []
    with (HOSTILE / "EXPECT.tsv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


@pytest.mark.skipif(not expectations(), reason="needs the hostile files in ../shared/data")
@pytest.mark.parametrize("expected", expectations(), ids=lambda row: row["file"])
def test_hostile_files(warehouse: Path, expected: dict[str, str]) -> None:
    source = str(HOSTILE / expected["file"])
    records = READERS[expected["reader"]]
    if not int(expected["rows_accepted"] or 0):
        with pytest.raises((InputError, StorageError)) as raised:
            run(warehouse, source, records=records)
        assert source in str(raised.value)
        assert str(raised.value).isprintable()
        return
    report = run(warehouse, source, records=records)
    assert report.num_accepted == int(expected["rows_accepted"])
    assert report.num_rejected == int(expected["rows_rejected"])
    assert report.num_accepted + report.num_rejected == int(expected["rows_seen"])
    tables = Tables(warehouse)
    (shard,) = report.shards
    table = tables.read(shard)
    table.validate(full=True)
    if expected["reader"] == "dialog":
        num_utterances = sum(map(len, table["utterances"].to_pylist()))
        assert num_utterances == int(expected["utterances_accepted"])
    quarantined = sum(tables.read(ref).num_rows for ref in report.quarantine)
    assert quarantined == report.num_rejected
    for ref in report.quarantine:
        assert all(detail.isprintable() for detail in tables.read(ref)["detail"].to_pylist())


@pytest.mark.parametrize(
    ("name", "content", "accepted", "rejected"),
    [
        ("newlines.jsonl", f"{line(1)}\r\n{line(2)}\n\r\n{line(3)}\r{line(4)}\n", 2, 1),
        ("numbers.jsonl", f'{line(1)[:-1]}, "n": 1e999}}\n{line(2)[:-1]}, "n": -0.0}}', 1, 1),
        ("integers.jsonl", f'{line(1)[:-1]}, "n": 1{"0" * 5_000}}}\n{line(2)}', 1, 1),
        ("keys.jsonl", f'{line(1)[:-1]}, "x": {{"a": 1, "a": 2}}}}\n{line(2)}', 1, 1),
        ("escaped-keys.jsonl", f'{line(1)[:-1]}, "t\\u006fpic": "b"}}\n{line(2)}', 1, 1),
        ("marks.jsonl", f"\ufeff{line(1)}\n\ufeff{line(2)}\n{line(3)}", 2, 1),
        ("arrays.jsonl", f"{line(2)}\n[{line(1)}]\n", 1, 1),
        ("comments.jsonl", f"// five rows\n{line(1)}\n", 1, 1),
        ("commas.jsonl", f"{line(1)},\n{line(2)},\n{line(3)}", 1, 2),
        ("quotes.jsonl", f"{line(1)}\n{line(2)}".replace("句", '\\\\\\u0022\\"'), 2, 0),
        ("unended.jsonl", line(1), 1, 0),
        ("tags.jsonl", line(1).replace("句", "\U000e0041\u202e<b>\x7f"), 1, 0),
        ("big.jsonl.gz", gzip.compress(line(1).encode()) * 3, 1, 0),
        ("members.jsonl.gz", gzip.compress(f"{line(1)}\n".encode()) * 3, 3, 0),
    ],
)
def test_odd_files(
    warehouse: Path, tmp_path: Path, name: str, content: str | bytes, accepted: int, rejected: int
) -> None:
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    if name.startswith("big"):  # three rows on one line
        with pytest.raises(InputError, match="not JSON"):
            run(warehouse, str(path), records=LENIENT)
        return
    report = run(warehouse, str(path), records=LENIENT)
    assert (report.num_accepted, report.num_rejected) == (accepted, rejected)


def test_odd_addresses(warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "loop.jsonl").symlink_to(tmp_path / "loop.jsonl")
    (tmp_path / "dangling.jsonl").symlink_to(tmp_path / "nowhere")
    (tmp_path / "empty.jsonl.gz").write_bytes(b"")
    (tmp_path / "nothing.jsonl.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "twice.jsonl.gz").write_bytes(gzip.compress(gzip.compress(line(1).encode())))
    (tmp_path / "a.csv").write_text('topic,user1\n"a,b\nc,d\n')
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "notes.md").write_text("nothing to read")
    (tmp_path / "folder" / "again").symlink_to(tmp_path / "folder")
    with zipfile.ZipFile(tmp_path / "zip.jsonl", "w") as file:
        file.writestr("a.jsonl", line(1))
    for name, message in (
        ("loop.jsonl", "cannot be read"),
        ("dangling.jsonl", "does not exist"),
        ("empty.jsonl.gz", "is empty"),
        ("nothing.jsonl.gz", "has no rows"),
        ("twice.jsonl.gz", "packed twice"),
        ("a.csv", r"quotes that do not match .* line 2"),
        ("folder", "holds no file to read"),
        ("zip.jsonl", "is a zip archive: unpack it"),
        ("folder/notes.md", "is not a file that can be read"),
        ("*.parquet", "No file matches"),
    ):
        with pytest.raises((InputError, StorageError), match=message) as raised:
            run(warehouse, str(tmp_path / name), records=LENIENT)
        assert str(raised.value).isprintable()
        assert str(tmp_path) in str(raised.value)
    # Gone between the finding and the reading.
    a, b = (write(tmp_path / f"{name}.jsonl", line(1), name) for name in "ab")
    found = find_sources([a, b])
    Path(b).unlink()
    monkeypatch.setattr("flows.ingest.find_sources", lambda _: found)
    with pytest.raises(StorageError, match=r"b\.jsonl does not exist"):
        run(warehouse, a, b, records=LENIENT)
    # Longer by then: what was found is read, the rest with the next ingest.
    write(Path(b), line(1), "b", line(2))
    assert run(warehouse, a, b, records=LENIENT).num_accepted == 2


def test_real_dialogues(warehouse: Path, shared_data: Path) -> None:
    names = ("hundredcv.sample", "hundredcv.first-row", "kdconv.dev", "crosswoz.val")
    sources = [str(shared_data / "dialogues" / f"{name}.jsonl") for name in names]
    report = run(warehouse, *sources)
    assert (report.num_accepted, report.num_rejected) == (189 + 1 + 450 + 500, 0)
    utterances = [
        Tables(warehouse).read(shard, ["utterances"])["utterances"].combine_chunks().flatten()
        for shard in report.shards
    ]
    kept = sum(map(len, utterances))
    rows = [each for path in sources for each in Path(path).read_text("utf-8").split("\n") if each]
    given = map(json.loads, rows)
    assert kept + report.num_dropped_utterances == sum(len(row["dialog"]) for row in given)
    assert report.num_dropped_utterances < 10


INGESTER = """
import sys
import zipfile
from pathlib import Path
from flows.steps.steps import Steps
from flows.ingest import ingest_sources
from pipeline.records.contract import RecordsConfig
print("ready", flush=True)
report = ingest_sources(Steps(Path(sys.argv[1])), "talks", [sys.argv[2]], RecordsConfig())
print(report.snapshot.id, flush=True)
"""


def test_a_killed_ingest_leaves_nothing_half(warehouse: Path, tmp_path: Path) -> None:
    sources = tmp_path / "sources"
    for i in range(3):
        write(sources / f"{i}.jsonl", *[line(3_000 * i + j) for j in range(3_000)])
    undisturbed = run(tmp_path / "undisturbed", str(sources)).snapshot
    tables = Tables(warehouse)
    for turn in range(2):
        child = subprocess.Popen(
            [sys.executable, "-c", INGESTER, str(warehouse), str(sources)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        # Each time one file further: kill when that many tables have their names.
        while child.poll() is None and len(list(warehouse.glob("tables/*.parquet"))) <= turn:
            pass
        child.send_signal(signal.SIGKILL)
        child.wait()
        child.stdout.close()
        assert tables.log("talks") in ([], [undisturbed])
        assert tables.verify() == []
    assert run(warehouse, str(sources)).snapshot == undisturbed
    tables.collect_garbage(min_age_seconds=0)
    assert not list((warehouse / "tables").glob(f"{ASIDE}*"))
    assert len(list(warehouse.glob("tables/*.parquet"))) == 3


# --- many small files, links, small faults


def small_files(folder: Path, numbers: range) -> str:
    for number in numbers:
        write(folder / f"{number:04d}.jsonl", line(number, 1), *(["bad"] if number == 7 else []))
    return str(folder)


def rows_in_order(root: Path, report: IngestReport) -> list[tuple[str, int]]:
    tables = [Tables(root).read(shard, ["file", "line"]) for shard in report.shards]
    return [(row["file"], row["line"]) for table in tables for row in table.to_pylist()]


def test_many_small_files_share_tables(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.ingest.MANY_FILES", 30)
    monkeypatch.setattr("flows.ingest.PACK_FILES", 8)
    folder = small_files(tmp_path / "in", range(60))
    report = run(warehouse, folder, records=LENIENT)
    assert (report.num_accepted, report.num_rejected) == (60, 1)
    assert 3 <= len(report.shards) <= 20
    digests = {blake3(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}
    assert {file for file, _ in rows_in_order(warehouse, report)} == digests
    (rejected,) = quarantined_rows(warehouse, "talks")
    assert rejected["address"].endswith("0007.jsonl")
    assert (rejected["line"], rejected["raw"]) == (2, b"bad")
    # Elsewhere and under other names: the same.
    for number, path in enumerate(sorted(Path(folder).iterdir(), reverse=True)):
        (tmp_path / "there").mkdir(exist_ok=True)
        shutil.copy(path, tmp_path / "there" / f"{number}.jsonl")
    there = run(tmp_path / "elsewhere", str(tmp_path / "there"), records=LENIENT)
    assert there.snapshot == report.snapshot

    # Nothing new is nothing read; a file more or less is one table of them.
    def states(root: Path) -> list[str]:
        steps = Steps(root)
        ingest_sources(steps, "talks", [folder], LENIENT)
        return [state.state for state in steps.states]

    assert set(states(warehouse)) == {"Cached"}
    small_files(tmp_path / "in", range(60, 61))
    assert states(warehouse).count("Completed") <= 2
    (Path(folder) / "0003.jsonl").unlink()
    assert states(warehouse).count("Completed") <= 2
    # A file without a sound row is still refused by its name, and one that cannot be read too.
    write(Path(folder) / "0061.jsonl", "bad")
    with pytest.raises(InputError, match=r"0061\.jsonl: 1 of 1 rows were rejected"):
        run(warehouse, folder, records=LENIENT)
    (Path(folder) / "0061.jsonl").write_bytes(b"")
    with pytest.raises(StorageError, match=r"0061\.jsonl is empty"):
        run(warehouse, folder, records=LENIENT)


def test_many_small_files_keep_their_order_where_it_means_something(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.ingest.MANY_FILES", 5)
    monkeypatch.setattr("flows.ingest.PACK_FILES", 4)
    text = RecordsConfig("text")
    for number in range(40):
        write(tmp_path / "in" / f"{number:02d}.txt", *(f"{number}.{i}" for i in range(2)))
    write(tmp_path / "in" / "20.txt", *(f"20.{i}" for i in range(20_000)))  # not small
    report = run(warehouse, str(tmp_path / "in"), records=text)
    shown = [
        row
        for shard in report.shards
        for (row,) in Tables(warehouse).read(shard)["utterances"].to_pylist()
    ]
    assert len(report.shards) < 40
    numbers = [tuple(map(int, row.split("."))) for row in shown]
    assert numbers == sorted(numbers) and len(numbers) == 78 + 20_000


def test_a_corrected_row_of_many_small_files_is_taken_in(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flows.ingest.MANY_FILES", 5)
    folder = small_files(tmp_path / "in", range(20))
    write(tmp_path / "in" / "0008.jsonl", line(8), "worse")
    run(warehouse, folder, records=LENIENT)
    first, second = sorted(quarantined_rows(warehouse, "talks"), key=lambda row: row["raw"])
    keep_mended_rows(warehouse, "talks", {(first["file"], first["line"]): line(100)})
    report = run(warehouse, folder, records=LENIENT)
    assert (report.num_accepted, report.num_rejected, report.num_mended) == (21, 1, 1)
    assert report.rejected_by_reason == {"not_json": 1}
    assert quarantined_rows(warehouse, "talks") == [second]


def test_a_summary_shows_the_beginning_of_long_lists(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = run(warehouse, small_files(tmp_path / "in", range(25)), records=LENIENT)
    summary = json.loads(json.dumps(report.summary()))
    assert len(summary["changes"]["added"]) == len(summary["shards"]) == 10
    assert summary["num_changes"]["added"] == summary["num_shards"] == 25
    assert summary["num_accepted"] == 25


def test_the_text_behind_a_link_out_of_the_folder_is_not_kept(
    warehouse: Path, tmp_path: Path
) -> None:
    write(tmp_path / "secrets" / "keys", "password=hunter2", line(1))
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").symlink_to("../secrets/keys")
    for source in (str(tmp_path / "in"), f"{tmp_path}/in/*.jsonl", f"{tmp_path}/in/a.jsonl"):
        report = run(warehouse, source, records=LENIENT)
        assert (report.num_accepted, report.num_rejected) == (1, 1)
        (row,) = quarantined_rows(warehouse, "talks")
        assert (row["line"], row["reason"], row["raw"]) == (1, "not_json", b"")
        assert "the file is a link out of its folder" in row["detail"]
    with pytest.raises(InputError) as raised:
        run(warehouse, str(tmp_path / "in"))
    assert "hunter2" not in str(raised.value)
    assert all(b"hunter2" not in path.read_bytes() for path in warehouse.rglob("*.json"))
    # Nor is the first line of a table shown as its header.
    (tmp_path / "in" / "a.csv").symlink_to("../secrets/keys")
    with pytest.raises(StorageError, match="has none of the columns") as refused:
        run(warehouse, str(tmp_path / "in" / "a.csv"), records=EN_ZH)
    assert "hunter2" not in str(refused.value)
    # The file itself, named as it is, is nobody's secret.
    shutil.copy(tmp_path / "secrets" / "keys", tmp_path / "secrets" / "keys.jsonl")
    run(warehouse, str(tmp_path / "secrets" / "keys.jsonl"), records=LENIENT)
    assert quarantined_rows(warehouse, "talks")[0]["raw"] == b"password=hunter2"


def test_comments_are_counted(warehouse: Path, tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("# id = 1\n1\t我\tO\tx\n2\t去\tB-LOC\ty\n", "utf-8")
    tagged = RecordsConfig("tagged", tag_column=3)
    report = run(warehouse, str(tmp_path / "a.conll"), records=tagged)
    (shard,) = report.shards
    table = Tables(warehouse).read(shard)
    assert table["tokens"].to_pylist() == [["我", "去"]]
    assert table["tags"].to_pylist() == [["O", "B-LOC"]]
    assert table["line"].to_pylist() == [2]
    assert report.num_comments == 1
    assert ingested_snapshot(Steps(warehouse), "talks", report.snapshot.id).num_comments == 1


def test_another_encoding_is_named(warehouse: Path, tmp_path: Path) -> None:
    for name, encoding in (("a.jsonl", "gb18030"), ("a.csv", "big5")):
        header = "en,zh\n" if name == "a.csv" else ""
        row = "Hi,天氣很好\n" if name == "a.csv" else f"{line(1)}\n"
        (tmp_path / name).write_bytes((header + row * 3).encode(encoding))
        records = EN_ZH if name == "a.csv" else LENIENT
        with pytest.raises(InputError, match=f"3 of 3 .* iconv -f {encoding.upper()} -t UTF-8"):
            run(warehouse, str(tmp_path / name), records=records)


TAGGED = RecordsConfig("tagged", max_rejected=1.0)
TIMES = RecordsConfig("series", max_rejected=1.0)
FAULTS = {
    "blank-ideographic.conll": (TAGGED, 2),
    "token-with-blank.conll": (TAGGED, 2),
    "comments-and-ids.conll": (TAGGED, 2),
    "months-not-padded.csv": (TIMES, 132),
    "months-with-gaps.csv": (TIMES, 108),
    "times-mixed.csv": (TIMES, 9),
    "withdrawn-escaped.jsonl": (LENIENT, 2),
    "labels-contradicting.jsonl": (RecordsConfig("labelled", max_rejected=1.0), 0),
    "tags-new-entity-late.jsonl": (TAGGED, 0),
    "tags-without-prefix.jsonl": (TAGGED, 0),
}


@pytest.mark.parametrize("name", FAULTS)
def test_small_faults_lose_no_row(warehouse: Path, shared_data: Path, name: str) -> None:
    records, num_rows = FAULTS[name]
    path = shared_data / "faults" / name
    report = run(warehouse, str(path), records=records)
    num_lines = len(path.read_bytes().splitlines())
    assert report.num_accepted + report.num_rejected == (num_rows or num_lines)
    tokens = [
        row
        for shard in report.shards
        if records.kind == "tagged"
        for row in Tables(warehouse).read(shard)["tokens"].to_pylist()
    ]
    expected = {
        "blank-ideographic.conll": [["我", "在", "北京"], ["他", "去", "上海"]],
        "token-with-blank.conll": [["New York", "is", "big"], ["他", "去"]],
        "comments-and-ids.conll": [["我", "去"], ["#", "号"]],
    }
    if name in expected:
        assert tokens == expected[name]
        assert report.num_comments == (4 if name == "comments-and-ids.conll" else 0)


def test_a_folder_with_bad_files_is_refused_by_the_first(
    warehouse: Path, shared_data: Path
) -> None:
    with pytest.raises(StorageError, match=r"folder/empty\.jsonl is empty"):
        run(warehouse, str(shared_data / "faults" / "folder"))
