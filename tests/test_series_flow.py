"""Series and labels from files to the profile: what is unusual is named, and where."""

import csv
import json
from pathlib import Path

import pytest

from flows.ingest import IngestReport, ingest_sources
from flows.prepare.splits import SplitRefs, cut_and_divide, divide_series
from flows.profile import profile_series, profile_snapshot, read_profile
from flows.quarantine import quarantined_rows
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.profile import Profile, as_markdown, key_figures, remarks
from pipeline.records.contract import RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig
from warehouse.tables.tables import Tables

SERIES = RecordsConfig("series", max_rejected=1.0)
IN_ORDER = SplitsConfig(by="chronological", valid=0.2, test=0.2)


def table(path: Path, *rows: str) -> str:
    path.write_text("".join(f"{row}\n" for row in ("time,value,series", *rows)), "utf-8")
    return str(path)


def run(warehouse: Path, *sources: str) -> IngestReport:
    return ingest_sources(Steps(warehouse), "sales", list(sources), SERIES)


def divided(warehouse: Path, report: IngestReport, fill: str = "none") -> SplitRefs:
    refs: SplitRefs = Steps(warehouse).run(
        divide_series,
        root=str(warehouse),
        shards=report.shards,
        splits=IN_ORDER,
        period=1,
        fill=fill,
    )
    return refs


def profiled(warehouse: Path, report: IngestReport, fill: str = "none") -> Profile:
    steps = Steps(warehouse)
    made = profile_series(steps, report, divided(warehouse, report, fill))
    return read_profile(warehouse, made.data)


def test_what_is_unusual_is_named_with_file_and_line(warehouse: Path, tmp_path: Path) -> None:
    a = table(tmp_path / "a.csv", "2020-1,1,x", "2020-3,3,x", "someday,9,x", "2020-02,2,x")
    b = table(tmp_path / "b.csv", "2020-2,5,x", "2020-07,7,x", "2020-01,1,y", "2020-02,,y")
    report = run(warehouse, a, b)
    assert (report.num_accepted, report.rejected_by_reason) == (6, {"not_time": 1, "not_number": 1})
    assert [(row["address"], row["line"]) for row in quarantined_rows(warehouse, "sales")] == [
        (a, 4),
        (b, 5),
    ]
    gaps, repeated, unsorted = report.remarks
    assert gaps.startswith("Series 'x' misses 3 of its steps of 1 month: 3 between 2020-3 and 2020")
    assert f"1 observation whose time is repeated later ({a} line 5)" in repeated
    assert f"1 observation after one of a later time ({a} line 5)" in unsorted
    # It is found again with what is kept, and on the profile.
    assert run(warehouse, a, b).remarks == report.remarks
    profile = profiled(warehouse, report)
    assert [each.times.num for each in profile.series if each.times] == [4, 1]
    figures = key_figures(profile)
    assert (figures["gaps"], figures["missing steps"], figures["repeated times"]) == ("1", "3", "1")
    assert gaps in remarks(profile)
    assert "problem.fill is previous" in "".join(as_markdown(profile))


def test_mixed_kinds_of_time_are_refused_with_their_lines(warehouse: Path, tmp_path: Path) -> None:
    a = table(tmp_path / "a.csv", "2020-01,1,x", "2020,2,y")
    b = table(tmp_path / "b.csv", "2020-02,1,x", "2021,2,x")
    with pytest.raises(InputError, match=r"series 'x': '2020-01' \(months\) and '2021' \(num") as e:
        run(warehouse, a, b)
    assert str(e.value).endswith(f"({a} line 2 and {b} line 3)")
    assert Tables(warehouse).head("sales") is None
    with pytest.raises(InputError, match=r"'Jan 2020', which has no place in time: write 2020-01"):
        run(warehouse, table(tmp_path / "c.csv", "Jan 2020,1,x", "Feb 2020,2,x"))


@pytest.mark.parametrize("fill", ["none", "previous", "linear"])
def test_splits_and_profile_do_not_depend_on_the_fill(
    warehouse: Path, tmp_path: Path, fill: str
) -> None:
    times = [f"{year}-{month}" for year in (2019, 2021) for month in range(1, 13)]
    rows = [f"{time},{at},x" for at, time in enumerate(times)]
    report = run(warehouse, table(tmp_path / "a.csv", *rows[:7], *rows[9:]))
    refs = divided(warehouse, report, fill)
    tables = Tables(warehouse)
    targets = {
        name: [value for value in tables.read(ref)["targets"][0].as_py() if value == value]
        for name, ref in refs.tables.items()
    }
    assert targets == {
        "train": [0, 1, 2, 3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15],
        "valid": [16, 17, 18, 19],
        "test": [20, 21, 22, 23],
    }
    (train,) = tables.read(refs.train)["inputs"].to_pylist()
    assert len(train) == {"none": 14 + 2}.get(fill, 14 + 2 + 12)
    assert sum(value != value for value in train) == {"none": 2}.get(fill, 0)
    profile = profiled(warehouse, report, fill)
    assert profile.splits == {"train": 14, "valid": 4, "test": 4}
    (series,) = profile.series
    assert (series.num, series.train_end, series.valid_end) == (22, 14, 18)
    assert [value for _, value in series.points] == [
        value for each in targets.values() for value in each
    ]


def test_a_profile_says_which_texts_have_several_labels(warehouse: Path, tmp_path: Path) -> None:
    rows = [(f"第{i}家店", "好") for i in range(20)]
    rows += [("好吃", "好"), ("好吃", "坏"), ("好吃 ", "坏"), ("[x](y)", "1"), ("[x](y)", "1.0")]
    path = tmp_path / "a.jsonl"
    lines = [json.dumps({"text": text, "label": label}) for text, label in rows]
    path.write_text("\n".join(lines), encoding="utf-8")
    report = ingest_sources(Steps(warehouse), "labels", [str(path)], RecordsConfig("labelled"))
    profile = labels_profiled(warehouse, report)
    assert (profile.contradictions.num_texts, profile.contradictions.num_rows) == (2, 5)
    assert profile.contradictions.examples == (
        ("好吃", (("坏", 2), ("好", 1))),
        ("[x](y)", (("1", 1), ("1.0", 1))),
    )
    assert key_figures(profile)["texts with several labels"] == "2 (in 5 rows)"
    several, alike = (each for each in remarks(profile) if "label" in each)
    assert several == (
        "2 texts occur with more than one label, in 5 rows: '好吃' as 坏 and 好, '[x](y)' as 1 and"
        " 1.0."
    )
    assert alike.startswith("The labels '1' and '1.0' are different labels")
    assert "\\[x\\]\\(y\\)" in "\n".join(as_markdown(profile))


def labels_profiled(warehouse: Path, report: IngestReport) -> Profile:
    steps, texts = Steps(warehouse), [TextConfig(unit="char")]
    columns = ["tokens", "label"]
    cut = cut_and_divide(
        steps, report.shards, "labelled", columns, texts, SplitsConfig(), VocabularyConfig()
    )
    made = profile_snapshot(steps, report, "labelled", columns, texts, cut)
    return read_profile(warehouse, made.data)


def test_real_files_with_faults(warehouse: Path, shared_data: Path) -> None:
    faults = shared_data / "faults"
    report = run(warehouse, str(faults / "months-not-padded.csv"))
    assert report.remarks == ()
    (test,) = Tables(warehouse).read(divided(warehouse, report).test)["targets"].to_pylist()
    with open(faults / "months-not-padded.csv", encoding="utf-8") as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    assert test == values[-len(test) :] and test == sorted(test)

    (gaps,) = run(warehouse, str(faults / "months-with-gaps.csv")).remarks
    assert "12 between 2012-12 and 2014-01, 12 between 2015-12 and 2017-01" in gaps

    report = run(warehouse, str(faults / "times-mixed.csv"))
    assert (report.num_accepted, report.num_rejected, len(report.remarks)) == (5, 4, 3)
    assert [row["line"] for row in quarantined_rows(warehouse, "sales")] == [5, 7, 8, 9]

    source = str(faults / "labels-contradicting.jsonl")
    report = ingest_sources(Steps(warehouse), "labels", [source], RecordsConfig("labelled"))
    found = labels_profiled(warehouse, report).contradictions
    assert 2 * found.num_texts == found.num_rows == report.num_accepted
