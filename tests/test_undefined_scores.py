"""Runs whose scores are easily counted wrong: rare tags, and scores that nothing defines."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from seqeval.metrics import f1_score

from flows.command.cli import main
from flows.retrain import RetrainReport, retrain
from pipeline.problems import Tagging
from pipeline.records.contract import RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from warehouse.registry.registry import Registry

Run = Callable[..., RetrainReport]


@pytest.fixture
def run(warehouse: Path) -> Run:
    def call(source: Path, **changes: Any) -> RetrainReport:
        settings: dict[str, Any] = {
            "name": "tags",
            "problem": Tagging(),
            "sources": [str(source)],
            "variants": ["most_frequent"],
            "records": RecordsConfig("tagged"),
            "splits": SplitsConfig(by="chronological"),
            "text": TextConfig(),
            "warehouse": str(warehouse),
            **changes,
        }
        report: RetrainReport = retrain.fn(**settings)
        return report

    return call


def tagged(path: Path, rows: list[str]) -> Path:
    """Rows such as ``李明/B-PER 来/O``, one text each."""
    lines = []
    for row in rows:
        tokens, tags = zip(*(pair.rsplit("/", 1) for pair in row.split()), strict=True)
        lines.append(json.dumps({"tokens": tokens, "tags": tags}, ensure_ascii=False) + "\n")
    path.write_text("".join(lines), encoding="utf-8")
    return path


def spelt_out(number: int) -> str:
    """A word that no other number has, so that texts are no copies of each other."""
    return "".join(chr(0x4E00 + 97 * int(digit) + place) for place, digit in enumerate(f"{number}"))


def test_an_entity_type_of_the_last_rows_counts_as_seqeval_counts_it(
    run: Run, shared_data: Path
) -> None:
    report = run(shared_data / "faults" / "tags-new-entity-late.jsonl")
    assert report.variants[0].metrics["test/entity_f1"] == pytest.approx(0.8)


def test_tags_without_prefixes_are_scored_as_spans(run: Run, shared_data: Path) -> None:
    report = run(shared_data / "faults" / "tags-without-prefix.jsonl")
    metrics = report.variants[0].metrics
    # As seqeval counts them with I- before each. In test every prediction is O: all are missed.
    assert metrics["valid/entity_f1"] == pytest.approx(0.6190476190476191)
    assert metrics["test/entity_f1"] == 0.0


def test_unseen_tags_beside_known_ones_are_read_as_they_are_written(
    run: Run, tmp_path: Path, warehouse: Path
) -> None:
    """Two entities of unseen tags, side by side, and one that begins with a known tag."""
    known = [f"李明/B-PER 见/O {spelt_out(n)}/O 张/B-LOC" for n in range(18)]
    late = "李明/B-PER 爱/B-NEW 的/I-NEW 书/B-NEW 张/B-LOC 庄/I-LOC"
    report = run(tagged(tmp_path / "late.jsonl", [*known, late, late + " 。/O"]))
    wanted = [[pair.rsplit("/", 1)[1] for pair in late.split()]]
    # Words that training has not are O, as most are.
    given = [["B-PER", "O", "O", "O", "B-LOC", "O"]]
    metrics = report.variants[0].metrics
    assert metrics["test/entity_f1"] == pytest.approx(f1_score(wanted, given))
    (version,) = Registry(warehouse).versions("tags")
    assert "scheme:prefixes" in version.tags["signature.entity_f1"]


def test_an_undefined_score_is_shown_and_never_promoted(
    run: Run, tmp_path: Path, warehouse: Path, capsys: pytest.CaptureFixture[str], own_logging: None
) -> None:
    """Neither validation nor test holds an entity, and none is found there."""
    rows = [f"李明/B-PER 见/O {spelt_out(n)}/O" for n in range(30)]
    rows += [f"我/O 见/O {spelt_out(n)}/O" for n in range(100, 110)]
    report = run(tagged(tmp_path / "none.jsonl", rows))
    assert math.isnan(report.variants[0].metrics["test/entity_f1"])
    assert report.champion is None
    assert "is undefined" in report.reason and "nan" not in report.reason.lower()
    registry = Registry(warehouse)
    assert registry.champion("tags") is None
    (version,) = registry.versions("tags")
    assert "F1 undefined" in version.headline
    assert "nan" not in version.description
    assert not {"test/entity_f1", "valid/entity_f1"} & set(version.metrics)
    assert all(map(math.isfinite, version.metrics.values()))
    root = ("--warehouse", str(warehouse))
    assert main(["leaderboard", "tags", *root]) == 0
    shown = capsys.readouterr().out
    assert "undefined" in shown and "nan" not in shown
    assert main(["leaderboard", "tags", "--json", *root]) == 0
    (row,) = json.loads(capsys.readouterr().out)
    assert row["metrics"]["test/entity_f1"] is None
    # A champion that a person chose stays where nothing can be compared.
    registry.promote("tags", version.version, "chosen by hand")
    assert run(tmp_path / "none.jsonl").champion == version.version
