import json
import os
from pathlib import Path

import pytest

from flows.ingest import ingest_sources, ingested_snapshot
from flows.prepare.tokens import tokenize
from flows.quarantine import export_quarantine, quarantined_rows, retry_quarantine
from flows.steps.steps import Steps
from flows.upkeep.compact import compact
from flows.upkeep.forget import forget
from flows.upkeep.garbage import collect_garbage
from flows.upkeep.verify import verify
from pipeline.errors import InputError
from pipeline.records.contract import RecordsConfig
from pipeline.text.config import TextConfig
from tests.test_ingest import LENIENT, line, run, states, write
from warehouse.errors import StorageError
from warehouse.files import keep_file
from warehouse.forgotten import Forgotten
from warehouse.ingests import SourceChanges
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables, WithdrawnError

PAIRS = RecordsConfig("pairs", max_rejected=1.0)


def everything(root: Path) -> bytes:
    """All that is kept, tables as the text of their rows."""
    tables = Tables(root)
    found = b""
    for path in sorted(root.rglob("*")):
        if path.suffix == ".parquet":
            ref = TableRef(digest="", num_rows=0, num_bytes=0, path=str(path.relative_to(root)))
            found += json.dumps(tables.read(ref).to_pydict(), default=repr).encode()
        elif path.is_file():
            found += path.read_bytes()
    return found


def tokens_of(steps: Steps, shards: tuple[TableRef, ...], kind: str = "dialogues") -> None:
    for shard in shards:
        steps.run(
            tokenize,
            root=str(steps.root),
            shard=shard,
            kind=kind,
            columns=["source", "target"] if kind == "pairs" else ["tokens"],
            text=TextConfig(),
            target_text=TextConfig() if kind == "pairs" else None,
        )


def secret(number: int, what: str = "我的名字是王小明。") -> str:
    said = [f"user1：{what}", f"user2：第{number}个秘密。"]
    row = {"topic": "私事", "user1": "甲", "user2": "乙", "dialog": said}
    return json.dumps(row, ensure_ascii=False)


def test_forgotten_rows_leave_everything(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", *[line(i) for i in range(30)], secret(1), '{"x": "王小明"}')
    b = write(tmp_path / "b.jsonl", *[line(i) for i in range(30, 60)])
    first = run(warehouse, a, records=LENIENT)
    second = run(warehouse, a, b, records=LENIENT)
    other = ingest_sources(Steps(warehouse), "others", [a], LENIENT)
    steps = Steps(warehouse)
    tokens_of(steps, second.shards)
    page = warehouse / "profiles" / second.snapshot.id[:16] / "page.html"
    page.parent.mkdir(parents=True)
    page.write_text("王小明", encoding="utf-8")
    keep_file(warehouse, "forecast_curves", "html", "王小明".encode())
    said = json.dumps("王小明").strip('"').encode()
    assert said in everything(warehouse)

    plan = forget(warehouse, "talks", match="王小明", dry_run=True)
    assert (plan.num_rows, plan.num_rejected, plan.dry_run) == (1, 1, True)
    assert set(plan.places) == {f"{a}:31", f"{a}:32"}
    assert Tables(warehouse).head("talks") == second.snapshot

    report = forget(warehouse, "talks", match="王小明")
    assert (report.num_rows, report.num_rejected) == (1, 1)
    assert set(report.snapshots) == {first.snapshot.id, second.snapshot.id, other.snapshot.id}
    assert (report.num_files, report.num_results) == (plan.num_files, plan.num_results)
    kept = everything(warehouse)
    assert said not in kept
    assert "王小明".encode() not in kept
    tables = Tables(warehouse)
    assert tables.verify() == []
    assert [ref.num_rows for ref in tables.log("talks")] == [60]
    assert [ref.num_rows for ref in tables.log("others")] == [30]
    for id_ in (first.snapshot.id, second.snapshot.id[:12]):
        with pytest.raises(WithdrawnError, match="withdrawn"):
            ingested_snapshot(steps, "talks", id_)

    # The same files do not bring them back, and the file without them costs nothing.
    steps = Steps(warehouse)
    again = ingest_sources(steps, "talks", [a, b], LENIENT)
    assert [state.state for state in steps.states] == ["Completed", "Cached"]
    assert (again.num_accepted, again.num_rejected, again.num_withdrawn) == (60, 1, 1)
    assert again.snapshot.id == report.heads["talks"]
    assert ingested_snapshot(steps, "talks", again.snapshot.id[:8]).shards == again.shards
    tokens_of(steps, again.shards)
    # Neither does a copy elsewhere, on another line.
    c = write(tmp_path / "c.jsonl", line(99), secret(1))
    assert run(warehouse, a, b, c, records=LENIENT).num_accepted == 61
    kept = everything(warehouse)
    assert said not in kept
    assert "王小明".encode() not in kept
    # A second call finds nothing more.
    assert forget(warehouse, "talks", match="王小明").snapshots == ()


def test_a_text_is_forgotten_however_it_is_written(warehouse: Path, tmp_path: Path) -> None:
    rejected = ["\\u674e\\u660E", "&#26446;&#x660e;", "李明" + "x" * 5_000]
    sound = ["user1：我是李明。", "user1：我是&#26446;明。", "user1：Ｌｉ Ｍｉｎｇ，李明"]
    rows = [json.dumps({"topic": "", "user1": "", "user2": "", "dialog": [each]}) for each in sound]
    bad = [f'{{"user1": "{each}"}}' for each in rejected]
    gbk = '{"user1": "李明"}'.encode("gb18030")
    a = write(tmp_path / "a.jsonl", *rows, *bad, *[line(i) for i in range(5)])
    with open(a, "ab") as file:
        file.write(gbk)
    run(warehouse, a, records=LENIENT)
    plan = forget(warehouse, "talks", match="李明", dry_run=True)
    report = forget(warehouse, "talks", match="李明")
    assert report.places == plan.places and report.not_searched == plan.not_searched
    assert (report.num_rows, report.num_rejected) == (3, 4)
    assert len(report.not_searched) == 4
    assert "1 rejected lines are longer than the 4,096 bytes" in report.not_searched[1]
    assert "1 rejected lines are not UTF-8" in report.not_searched[2]
    kept = everything(warehouse)
    for each in (*rejected[:2], "李明", gbk.decode("gb18030")):
        assert each.encode() not in kept and json.dumps(each)[1:-1].encode() not in kept
    again = run(warehouse, a, records=LENIENT)
    assert (again.num_accepted, again.num_withdrawn) == (5, 3)
    assert forget(warehouse, "talks", match="李明").num_rejected == 0


def test_a_corrected_row_is_forgotten_however_it_is_written(
    warehouse: Path, tmp_path: Path
) -> None:
    a = write(tmp_path / "a.jsonl", line(1), "nonsense", "{}")
    run(warehouse, a, records=LENIENT)
    out = tmp_path / "rows.jsonl"
    export_quarantine(warehouse, "talks", out)
    rows = [json.loads(each) for each in out.read_text("utf-8").splitlines()]
    rows[0]["raw"] = json.dumps(json.loads(secret(1)), ensure_ascii=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    retry_quarantine(Steps(warehouse), "talks", [a], LENIENT, out)
    assert b"738b" in everything(warehouse)
    assert forget(warehouse, "talks", match="王小明").num_rows == 1
    assert b"738b" not in everything(warehouse)
    assert run(warehouse, a, records=LENIENT).num_accepted == 1


def test_withdrawn_rows_of_a_real_file_are_found(warehouse: Path, shared_data: Path) -> None:
    run(warehouse, str(shared_data / "faults" / "withdrawn-escaped.jsonl"), records=LENIENT)
    report = forget(warehouse, "talks", match="李明")
    assert (report.num_rows, report.num_rejected) == (1, 1)


def test_a_list_of_withdrawn_rows_that_cannot_be_read_stops_everything(tmp_path: Path) -> None:
    (tmp_path / "forgotten.json").write_text('{"format": 2}')
    with pytest.raises(StorageError, match="was written by a newer version"):
        Forgotten(tmp_path)
    (tmp_path / "forgotten.json").write_text("{")
    with pytest.raises(StorageError, match="is damaged, so withdrawn rows could come back"):
        Forgotten(tmp_path)


def test_rows_are_forgotten_by_their_line(warehouse: Path, tmp_path: Path) -> None:
    rows = [{"source": "hi", "target": f"嗨{i}"} for i in range(5)]
    a = write(tmp_path / "a.jsonl", *map(json.dumps, rows), json.dumps(rows[2]))
    steps = Steps(warehouse)
    report = ingest_sources(steps, "mt", [a], PAIRS)
    tokens_of(steps, report.shards, "pairs")
    gone = forget(warehouse, "mt", lines=["a.jsonl:3"])
    assert (gone.num_rows, gone.places) == (1, (f"{a}:3",))
    (shard,) = ingest_sources(Steps(warehouse), "mt", [a], PAIRS).shards
    kept = Tables(warehouse).read(shard)["target"].to_pylist()
    assert kept == ["嗨0", "嗨1", "嗨3", "嗨4"]  # its copy on line 6 too, no other of this source
    with pytest.raises(InputError, match=r"FILE:LINE"):
        forget(warehouse, "mt", lines=["a.jsonl"])
    with pytest.raises(InputError, match="say which rows"):
        forget(warehouse, "mt", match=" ")
    with pytest.raises(InputError, match="no data of 'nobody' yet: run tidemill ingest nobody"):
        forget(warehouse, "nobody", match="x")


def test_everything_can_be_forgotten(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", secret(1))
    run(warehouse, a)
    keep_file(warehouse, "profiles/abc", "html", "<p>秘密".encode())
    assert forget(warehouse, "talks", match="秘密").heads == {}
    assert not list(warehouse.glob("profiles/*"))
    with pytest.raises(InputError, match="every row was withdrawn"):
        run(warehouse, a)
    assert run(warehouse, a, write(tmp_path / "b.jsonl", line(1))).num_accepted == 1


def test_nothing_is_forgotten_under_a_running_ingest(warehouse: Path, tmp_path: Path) -> None:
    run(warehouse, write(tmp_path / "a.jsonl", secret(1)))
    with Tables(warehouse).held(alone=False):
        for call in (
            lambda: forget(warehouse, "talks", match="秘密"),
            lambda: collect_garbage(warehouse, 0),
            lambda: compact(warehouse, "talks"),
        ):
            with pytest.raises(StorageError, match="is in use"):
                call()
    assert forget(warehouse, "talks", match="秘密").num_rows == 1


def test_a_refused_ingest_shows_its_quarantine(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", line(1), "x", "{}")
    with pytest.raises(InputError, match="2 of 3 rows"):
        run(warehouse, a)
    assert [row["line"] for row in quarantined_rows(warehouse, "talks")] == [2, 3]
    collect_garbage(warehouse, 0)
    assert [row["raw"] for row in quarantined_rows(warehouse, "talks")] == [b"x", b"{}"]
    # Mended where it is, it is simply read again.
    write(tmp_path / "a.jsonl", line(1), line(2), line(3))
    report = retry_quarantine(Steps(warehouse), "talks", [a], RecordsConfig())
    assert (report.num_before, report.num_after, report.ingest.num_accepted) == (2, 0, 3)
    assert quarantined_rows(warehouse, "talks") == []


def test_other_settings_take_rows_in_again(warehouse: Path, tmp_path: Path) -> None:
    rows = [{"source": "hi", "target": "嗨"}, {"source": "bye", "zh": "再见"}]
    a = write(tmp_path / "a.jsonl", *map(json.dumps, rows))
    ingest_sources(Steps(warehouse), "mt", [a], PAIRS)
    records = RecordsConfig("pairs", {"target": "zh"}, max_rejected=1.0)
    report = retry_quarantine(Steps(warehouse), "mt", [a], records)
    assert (report.num_before, report.num_after) == (1, 1)
    (shard,) = report.ingest.shards
    assert Tables(warehouse).read(shard)["source"].to_pylist() == ["bye"]


def test_mended_rows_take_their_place(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", line(1), line(2)[:-2], "nonsense", "{}", line(3))
    b = write(tmp_path / "b.jsonl", line(4))
    run(warehouse, a, records=LENIENT)
    out = tmp_path / "rows.jsonl"
    assert export_quarantine(warehouse, "talks", out) == 3
    with pytest.raises(InputError, match="exists already"):
        export_quarantine(warehouse, "talks", out)
    rows = [json.loads(each) for each in out.read_text("utf-8").splitlines()]
    rows[0]["raw"] += "]}"
    rows[1]["raw"] = '{"topic": "still wrong"}'
    out.write_text("".join(json.dumps(row) + "\n" for row in rows[:2]), "utf-8")
    report = retry_quarantine(Steps(warehouse), "talks", [a], LENIENT, out)
    assert (report.num_before, report.num_after) == (3, 2)
    assert list(report.still_wrong.values()) == ["there is no 'user1'"]
    assert (report.ingest.num_accepted, report.ingest.num_mended) == (3, 1)
    # They stay, beside other files and without the file of corrections.
    out.unlink()
    later = run(warehouse, a, b, records=LENIENT)
    assert (later.num_accepted, later.num_rejected, later.num_mended) == (4, 2, 1)
    tables = Tables(warehouse)
    places = {
        (row["line"], tuple(row["utterances"][:1]))
        for shard in later.shards
        for row in tables.read(shard).to_pylist()
    }
    assert (2, ("第2段的第0句。",)) in places
    # Once the file itself is mended, its rows are read from there, once.
    write(tmp_path / "a.jsonl", line(1), line(2), line(3))
    assert run(warehouse, a, b, records=LENIENT).num_accepted == 4
    # Who withdraws a mended row withdraws it for good.
    write(tmp_path / "a.jsonl", line(1), line(2)[:-2], "nonsense", "{}", line(3))
    assert run(warehouse, a, records=LENIENT).num_accepted == 3
    forget(warehouse, "talks", match="第2段的第1句")
    assert run(warehouse, a, records=LENIENT).num_accepted == 2
    for content, message in (("{}", "no rejected row"), ("\xff", "no rejected row")):
        out.write_text(content, "utf-8")
        with pytest.raises(InputError, match=message):
            retry_quarantine(Steps(warehouse), "talks", [a], LENIENT, out)


def test_changes_of_the_files_are_told(warehouse: Path, tmp_path: Path) -> None:
    a, b, c, d = (
        write(tmp_path / f"{n}.jsonl", line(i), line(i + 9)) for i, n in enumerate("abcd")
    )
    assert run(warehouse, a, b, c, d).changes == SourceChanges(added=(a, b, c, d))
    assert run(warehouse, a, b, c, d).changes == SourceChanges()
    write(Path(a), line(0), line(9), line(50))
    write(Path(b), line(1))
    Path(c).rename(e := tmp_path / "e.jsonl")
    Path(d).unlink()
    new = write(tmp_path / "f.jsonl", line(77))
    report = run(warehouse, a, b, str(e), new)
    assert report.changes == SourceChanges(
        added=(new,), grown=(a,), shrunk=(b,), renamed={c: str(e)}, removed=(d,)
    )
    assert report.num_accepted == 3 + 1 + 2 + 1
    write(Path(b), line(2))
    changed = run(warehouse, a, b, str(e), new)
    assert changed.changes == SourceChanges(changed=(b,))
    with pytest.raises(StorageError, match=r"d\.jsonl does not exist"):
        run(warehouse, a, d)


def test_a_file_that_grows_costs_its_end(
    warehouse: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("warehouse.sources.sources.PIECE_BYTES", 20_000)
    monkeypatch.setattr("flows.ingest.LARGE_BYTES", 1_000)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)  # macOS has none
    lines = [line(i) for i in range(400)]
    lines[333] = "broken"
    a = write(tmp_path / "a.jsonl", *lines)
    assert os.path.getsize(a) > 60_000
    first = run(warehouse, a, records=LENIENT)
    assert (first.num_accepted, first.num_rejected) == (399, 1)
    num_pieces = len(first.shards)
    assert num_pieces > 3
    assert [row["line"] for row in quarantined_rows(warehouse, "talks")] == [334]
    tables = Tables(warehouse)
    numbers = sorted(
        number for ref in first.shards for number in tables.read(ref)["line"].to_pylist()
    )
    assert numbers == [i for i in range(1, 401) if i != 334]
    with open(a, "a", encoding="utf-8") as file:
        file.write("".join(f"{line(i)}\n" for i in range(400, 500)))
    steps = Steps(warehouse)
    grown = ingest_sources(steps, "talks", [a], LENIENT)
    done = [state.state for state in steps.states]
    assert done.count("Cached") == num_pieces - 1
    assert grown.num_accepted == 499
    assert grown.changes == SourceChanges(grown=(a,))
    # What it is does not depend on whether it was read at once or as it grew.
    assert run(tmp_path / "other", a, records=LENIENT).snapshot.id == grown.snapshot.id


def test_a_snapshot_is_read_again(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", line(1), "x", line(2))
    first = run(warehouse, a, records=LENIENT)
    write(Path(a), line(3))
    run(warehouse, a)
    Path(a).unlink()
    steps = Steps(warehouse)
    again = ingested_snapshot(steps, "talks", first.snapshot.id[:12])
    assert again == first.model_copy(update={"changes": SourceChanges()})
    with pytest.raises(StorageError, match="is no snapshot of 'talks'; the last ones are"):
        ingested_snapshot(steps, "talks", "0" * 64)
    (warehouse / first.shards[0].path).unlink()
    with pytest.raises(StorageError, match="is missing or damaged"):
        ingested_snapshot(steps, "talks", first.snapshot.id)


def test_damage_is_named(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", *[line(i) for i in range(20)], "x")
    report = run(warehouse, a, records=LENIENT)
    steps = Steps(warehouse)
    tokens_of(steps, report.shards)
    for folder in ("profiles/0123", "learning_curves", "forecast_curves"):
        keep_file(warehouse, folder, "html", b"<!doctype html>")
    assert verify(warehouse) == []
    kinds = ("tables/*.parquet", "results/tokenize/*", "snapshots/talks/*.json")
    for kind in (*kinds, "profiles/*/*", "learning_curves/*", "forecast_curves/*"):
        path = min(warehouse.glob(kind))
        sound = path.read_bytes()
        place = 200 if path.suffix == ".parquet" else len(sound) // 2
        path.write_bytes(sound[:place] + bytes([sound[place] ^ 255]) + sound[place + 1 :])
        faults = verify(warehouse)
        relative = path.relative_to(warehouse).as_posix()
        assert relative in [fault.path for fault in faults], kind
        path.write_bytes(sound)
    assert verify(warehouse) == []


def test_what_nothing_reaches_goes(warehouse: Path, tmp_path: Path) -> None:
    a = write(tmp_path / "a.jsonl", *[line(i) for i in range(20)])
    first = run(warehouse, a)
    tokens_of(Steps(warehouse), first.shards)
    write(Path(a), line(1))
    second = run(warehouse, a)
    (warehouse / "tables" / ".aside-x").write_bytes(b"half")
    for report in (first, second):
        keep_file(warehouse, f"profiles/{report.snapshot.id[:16]}", "html", b"<p>")
    assert collect_garbage(warehouse).num_bytes == 0  # all of it is young
    plan = collect_garbage(warehouse, 0, dry_run=True)
    assert len(list(warehouse.glob("tables/*.parquet"))) == 3
    done = collect_garbage(warehouse, 0)
    assert done == plan.model_copy(update={"dry_run": False})
    assert (done.num_snapshots, done.num_tables, done.num_leftovers) == (1, 2, 1)
    assert (done.num_results, done.num_pages) == (3, 1)
    assert [each.name for each in warehouse.glob("profiles/*")] == [second.snapshot.id[:16]]
    assert [path.stem for path in warehouse.glob("tables/*")] == [second.shards[0].digest]
    assert Tables(warehouse).log("talks") == [second.snapshot]
    assert verify(warehouse) == []
    assert run(warehouse, a).snapshot == second.snapshot
    with pytest.raises(InputError, match="--days"):
        collect_garbage(warehouse, -1)


def test_small_tables_are_merged(warehouse: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.jsonl", line(i), line(i + 50)) for i in range(10)]
    before = run(warehouse, *files)
    report = compact(warehouse, "talks")
    assert (report.num_before, report.num_after) == (10, 1)
    assert report.snapshot.num_rows == before.num_accepted == 20
    # The next ingest keeps the merged table, and reads no file again.
    assert states(warehouse, *files) == ["Cached"] * 10
    assert run(warehouse, *files).snapshot == report.snapshot
    new = write(tmp_path / "new.jsonl", line(99))
    grown = run(warehouse, *files, new)
    assert (len(grown.shards), grown.num_accepted) == (2, 21)
    assert compact(warehouse, "talks").num_after == 1
    assert run(warehouse, *files, new).num_accepted == 21
    # Without one of its files the merged table would hold too much.
    fewer = run(warehouse, *files[1:], new)
    assert (len(fewer.shards), fewer.num_accepted) == (10, 19)
    assert verify(warehouse) == []


def test_one_new_file_costs_one_task(warehouse: Path, tmp_path: Path) -> None:
    files = [write(tmp_path / f"{i}.jsonl", line(i)) for i in range(100)]
    run(warehouse, *files)
    new = write(tmp_path / "new.jsonl", line(100))
    done = states(warehouse, *files, new)
    assert (done.count("Cached"), done.count("Completed")) == (100, 1)
