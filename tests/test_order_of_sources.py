"""Chronological splits follow the order of the sources, or a time of the rows; hash splits do not.

Ten daily files of ten rows: by time the first eight train, the ninth validates, the tenth tests.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flows.ingest import IngestReport, ingest_sources, ingested_snapshot
from flows.prepare.splits import cut_and_divide, divide_series
from flows.quarantine import quarantined_rows
from flows.steps.steps import Steps
from flows.upkeep.compact import compact
from pipeline.errors import InputError
from pipeline.records.contract import RecordsConfig
from pipeline.splits.division import order_of_arrival
from pipeline.splits.splits import SPLITS, SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig
from warehouse.ingests import keep_mended_rows
from warehouse.tables.tables import Tables

BY_TIME = SplitsConfig(by="chronological")
BY_HASH = SplitsConfig()
CHARACTERS = "天地玄黄宇宙洪荒日月盈昃辰宿列张寒来暑往秋收冬藏闰余成岁律吕调阳云腾致雨露结为霜"


def name_of(day: int, row: int) -> str:
    """A text of this row that comes near no other one."""
    picked = [CHARACTERS[(7 * day + 3 * row + k * (day + 2) + k * k * row) % 40] for k in range(9)]
    return f"{day:02}{row:02}" + "".join(picked)


ROWS: dict[str, Callable[[int, int], dict[str, Any]]] = {
    "dialogues": lambda day, row: {
        "topic": "天",
        "user1": "甲",
        "user2": "乙",
        "dialog": [f"user1：{name_of(day, row)}", f"user2：好{name_of(day, row)}"],
    },
    "text": lambda day, row: {"text": name_of(day, row)},
    "pairs": lambda day, row: {"source": name_of(day, row), "target": f"t{day:02}{row:02}"},
    "labelled": lambda day, row: {"text": name_of(day, row), "label": f"{row % 2}"},
    "tagged": lambda day, row: {"tokens": list(name_of(day, row)), "tags": ["n"] * 13},
}
COLUMNS = {
    "dialogues": ("tokens",),
    "text": ("tokens",),
    "pairs": ("source", "target"),
    "labelled": ("tokens", "label"),
    "tagged": ("tokens", "tags"),
}
EVERY_KIND = pytest.mark.parametrize("kind", list(ROWS))


def write(path: Path, rows: Sequence[Any]) -> str:
    lines = [each if isinstance(each, str) else json.dumps(each) for each in rows]
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return str(path)


def daily(folder: Path, kind: str, days: Sequence[int] = range(1, 11)) -> list[str]:
    """A file for each day; their names say nothing of their order."""
    return [
        write(folder / f"{day * 7 % 11}.jsonl", [ROWS[kind](day, row) for row in range(10)])
        for day in days
    ]


def ingest(root: Path, sources: list[str], kind: str, **settings: Any) -> IngestReport:
    return ingest_sources(Steps(root), "daily", sources, RecordsConfig(kind, **settings))


def divided(
    root: Path, report: IngestReport, kind: str, splits: SplitsConfig = BY_TIME
) -> dict[str, Any]:
    """The table of each split."""
    cut = cut_and_divide(
        Steps(root),
        report.shards,
        kind,
        COLUMNS[kind],
        (TextConfig(unit="char"),) * (2 if kind == "pairs" else 1),
        splits,
        VocabularyConfig(),
        files=report.files,
    )
    return {split: Tables(root).read(ref) for split, ref in cut.splits.tables.items()}


def days(tables: dict[str, Any], kind: str) -> dict[str, list[int]]:
    """The days of the rows of each split, in their order, each once."""
    found = {}
    for split, table in tables.items():
        texts = ["".join(row) for row in table.column(COLUMNS[kind][0]).to_pylist()]
        numbers = [int(text.removeprefix("好")[:2]) for text in texts]
        found[split] = [
            day for place, day in enumerate(numbers) if not place or numbers[place - 1] != day
        ]
    return found


IN_TIME = {"train": [1, 2, 3, 4, 5, 6, 7, 8], "valid": [9], "test": [10]}


@EVERY_KIND
def test_the_last_of_ten_files_is_the_test_split(
    kind: str, warehouse: Path, tmp_path: Path
) -> None:
    report = ingest(warehouse, daily(tmp_path, kind), kind)
    assert days(divided(warehouse, report, kind), kind) == IN_TIME


@EVERY_KIND
def test_the_order_given_last_counts_though_the_snapshot_is_the_same(
    kind: str, warehouse: Path, tmp_path: Path
) -> None:
    sources = daily(tmp_path, kind)
    first = ingest(warehouse, sources[::-1], kind)
    assert days(divided(warehouse, first, kind), kind)["test"] == [1]
    second = ingest(warehouse, sources, kind)
    assert second.snapshot == first.snapshot
    assert days(divided(warehouse, second, kind), kind) == IN_TIME
    # What a profile or a retraining of a snapshot reads.
    kept = ingested_snapshot(Steps(warehouse), "daily", first.snapshot.id)
    assert days(divided(warehouse, kept, kind), kind) == IN_TIME


def test_an_older_snapshot_keeps_the_order_of_its_commit(warehouse: Path, tmp_path: Path) -> None:
    sources = daily(tmp_path, "labelled")
    first = ingest(warehouse, sources, "labelled")
    ingest(warehouse, sources[:1], "labelled")
    kept = ingested_snapshot(Steps(warehouse), "daily", first.snapshot.id)
    assert days(divided(warehouse, kept, "labelled"), "labelled") == IN_TIME


def test_official_files_of_a_tagged_corpus_stay_train_dev_and_test(
    warehouse: Path, tmp_path: Path
) -> None:
    sources = []
    for name, first, num in (("train", 0, 80), ("dev", 80, 10), ("test", 90, 10)):
        sentences = [
            "".join(f"{token}\tO\n" for token in name_of(row // 10, row % 10))
            for row in range(first, first + num)
        ]
        path = tmp_path / f"{name}.conll"
        path.write_text("\n".join(sentences), encoding="utf-8")
        sources.append(str(path))
    report = ingest(warehouse, sources, "tagged")
    tables = divided(warehouse, report, "tagged")
    found = {
        split: ["".join(row) for row in table.column("tokens").to_pylist()]
        for split, table in tables.items()
    }
    every = [name_of(row // 10, row % 10) for row in range(100)]
    assert found == {"train": every[:80], "valid": every[80:90], "test": every[90:]}


def test_a_file_given_twice_counts_where_it_first_stands(warehouse: Path, tmp_path: Path) -> None:
    sources = daily(tmp_path, "pairs")
    again = tmp_path / "again.jsonl"
    again.write_bytes(Path(sources[0]).read_bytes())
    report = ingest(warehouse, [*sources, str(again)], "pairs")
    assert days(divided(warehouse, report, "pairs"), "pairs") == IN_TIME


@pytest.mark.parametrize("kind", ["dialogues", "pairs", "labelled", "tagged"])
def test_tables_that_were_merged_keep_the_order_of_their_files(
    kind: str, warehouse: Path, tmp_path: Path
) -> None:
    sources = daily(tmp_path, kind)
    ingest(warehouse, sources, kind)
    assert compact(warehouse, "daily").num_after == 1
    report = ingest(warehouse, sources, kind)
    assert len(report.shards) == 1
    assert days(divided(warehouse, report, kind), kind) == IN_TIME


@EVERY_KIND
def test_a_mended_row_stands_where_it_was_rejected(
    kind: str, warehouse: Path, tmp_path: Path
) -> None:
    sources = daily(tmp_path, kind)
    sound = ROWS[kind](1, 0)
    write(Path(sources[0]), ["no JSON", *(ROWS[kind](1, row) for row in range(1, 10))])
    ingest(warehouse, sources, kind)
    (rejected,) = quarantined_rows(warehouse, "daily")
    mended = {(rejected["file"], rejected["line"]): json.dumps(sound)}
    keep_mended_rows(warehouse, "daily", mended)
    report = ingest(warehouse, sources, kind)
    assert report.num_accepted == 100
    assert days(divided(warehouse, report, kind), kind) == IN_TIME


def test_observations_of_one_time_are_corrected_by_the_file_given_later(
    warehouse: Path, tmp_path: Path
) -> None:
    sources = [
        write(
            tmp_path / f"{day * 7 % 11}.jsonl",
            [{"time": f"{time:03}", "value": 100 * day + time} for time in range(day, day + 2)],
        )
        for day in range(1, 11)
    ]
    expected = [100 * day + day for day in range(1, 11)]
    for given, first in (
        (sources, expected),
        (sources[::-1], [101, *(value - 100 for value in expected[1:])]),
    ):
        report = ingest(warehouse, given, "series")
        refs = Steps(warehouse).run(
            divide_series,
            shards=report.shards,
            splits=BY_TIME,
            period=1,
            files=report.files,
        )
        values = Tables(warehouse).read(refs.test).column("inputs")[0].as_py()
        assert values[:10] == first


# --- by the time of a row -------------------------------------------------------------------------


def dated(kind: str, day: int, row: int) -> dict[str, Any]:
    return {**ROWS[kind](day, row), "date": f"2024-{day:02}-01T{row:02}:00:00+08:00"}


@EVERY_KIND
def test_rows_follow_their_times_whatever_the_order_of_files_and_lines(
    kind: str, warehouse: Path, tmp_path: Path
) -> None:
    sources = [
        write(
            tmp_path / f"{part}.jsonl",
            [dated(kind, day, row) for day in range(10, 0, -1) for row in range(part, 10, 2)],
        )
        for part in (1, 0)
    ]
    report = ingest(warehouse, sources, kind, time_field="date")
    assert days(divided(warehouse, report, kind), kind) == IN_TIME
    # Without the setting the field is one of those that nobody asks for.
    plain = ingest(warehouse, sources, kind)
    assert days(divided(warehouse, plain, kind), kind) != IN_TIME


def test_a_time_in_a_column_of_a_csv_file(warehouse: Path, tmp_path: Path) -> None:
    lines = [
        f"{name_of(day, row)},{row % 2},{day}.{row}"
        for day in range(10, 0, -1)
        for row in range(10)
    ]
    source = write(tmp_path / "days.csv", ["text,label,day", *lines])
    report = ingest(warehouse, [source], "labelled", time_field="day")
    assert days(divided(warehouse, report, "labelled"), "labelled") == IN_TIME


def test_a_row_whose_time_has_no_order_is_rejected_with_its_line(
    warehouse: Path, tmp_path: Path
) -> None:
    rows = [dated("pairs", 1, row) for row in range(10)]
    rows[3]["date"], rows[5]["date"] = "soon", None
    del rows[7]["date"]
    source = write(tmp_path / "a.jsonl", rows)
    report = ingest(warehouse, [source], "pairs", time_field="date", max_rejected=0.5)
    assert report.num_accepted == 7
    rejected = quarantined_rows(warehouse, "daily")
    assert [(row["line"], row["reason"]) for row in rejected] == [
        (4, "not_time"),
        (6, "wrong_type"),
        (8, "missing_key"),
    ]


def test_times_of_rows_are_read_as_those_of_series_are() -> None:
    place = np.zeros(3, np.int64)
    times = ["2024-05-01T00:00+01:00", "2023-12-31T23:00Z", "2023-12-31 20:00-05:00"]
    assert order_of_arrival(place, place, times).tolist() == [1, 2, 0]
    assert order_of_arrival(place, place, ["2010-10", "2010-9", "2009-11"]).tolist() == [2, 1, 0]
    # Rows of one time stand as they are given.
    assert order_of_arrival(place, place, ["10", "9", "1e1"]).tolist() == [1, 0, 2]
    with pytest.raises(InputError, match=r"records\.time_field: .* are different kinds of time"):
        order_of_arrival(place, place, ["2024-05-01", "7", "8"])


def test_a_series_has_a_time_already() -> None:
    with pytest.raises(InputError, match=r"records\.fields\.time"):
        RecordsConfig("series", time_field="date")


# --- what does not move ---------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["dialogues", "pairs", "labelled", "tagged"])
def test_hash_splits_do_not_depend_on_the_order_of_the_files(
    kind: str, warehouse: Path, tmp_path: Path
) -> None:
    sources = daily(tmp_path, kind)
    first = ingest(warehouse, sources, kind)
    before = divided(warehouse, first, kind, BY_HASH)
    again = ingest(warehouse, sources[::-1], kind)
    assert again.snapshot == first.snapshot
    assert again.shards == first.shards
    assert divided(warehouse, again, kind, BY_HASH) == before


GOLDEN = {
    "dialogues": ("2ca34058ec5c", "cef80889a0ad 9e8dccca6227 6b964dc5863a"),
    "pairs": ("6e95cdf75254", "def003eaf53a fbacb1a52a74 b7a27b9640ea"),
    "labelled": ("f17596e87923", "cc259839600b c9c3d1a6a7fe eddcbf7027b3"),
    "tagged": ("745ba53e4213", "104ee0d65f73 e6ed2b2de770 b1350a5db308"),
}
"""Kind -> the beginnings of the snapshot's id and of the three splits' digests."""


@pytest.mark.parametrize("kind", list(GOLDEN))
def test_snapshots_and_hash_splits_are_what_they_always_were(
    kind: str, warehouse: Path, tmp_path: Path
) -> None:
    report = ingest(warehouse, daily(tmp_path, kind), kind)
    tables = divided(warehouse, report, kind, BY_HASH)
    written = [Tables(warehouse).write([tables[split]]).digest[:12] for split in SPLITS]
    assert (report.snapshot.id[:12], " ".join(written)) == GOLDEN[kind]
