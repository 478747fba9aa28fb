"""The whole chain in one process: what is redone, who wins, what survives a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flows.environment import SAMPLES
from flows.retrain import RetrainReport, retrain
from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.problems import Classification, Forecasting, LanguageModel, NextWord, Seq2Seq
from pipeline.records.contract import RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig
from pipeline.training.config import TrainingConfig
from warehouse.checkpoints import read_checkpoint
from warehouse.registry.registry import Registry

Run = Callable[..., RetrainReport]


def sample_lines(name: str, first: int, last: int) -> str:
    lines = (SAMPLES / name).read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(lines[first:last])


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "monday.jsonl").write_text(sample_lines("dialogues.jsonl", 0, 40), encoding="utf-8")
    (folder / "tuesday.jsonl").write_text(sample_lines("dialogues.jsonl", 40, 70), encoding="utf-8")
    return folder


SETTINGS: dict[str, Any] = {
    "name": "words",
    "problem": NextWord(window=3),
    "variants": ["gru"],
    "network": NetworkConfig(8, 12, 0.1),
    "training": TrainingConfig(num_epochs=2, learning_rate=0.01),
    "text": TextConfig(unit="char"),
}


@pytest.fixture
def run(inbox: Path, warehouse: Path) -> Run:
    def call(**changes: Any) -> RetrainReport:
        settings = {"sources": [str(inbox)], "warehouse": str(warehouse), **SETTINGS, **changes}
        report: RetrainReport = retrain.fn(**settings)
        return report

    return call


def states(report: RetrainReport) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for step in report.steps:
        found.setdefault(step.task, set()).add(step.state)
    return found


def redone(report: RetrainReport) -> set[str]:
    return {task for task, found in states(report).items() if "Completed" in found}


def test_a_second_run_does_nothing_and_registers_nothing(run: Run, warehouse: Path) -> None:
    first = run(variants=["gru", "rnn_tanh"])
    assert redone(first) == {
        "ingest_file", "tokenize", "divide", "build_vocabulary", "measure_coverage", "encode",
        "count_usable", "count_shard", "summarise", "draw_profile", "train", "score",
        "draw_learning_curves",
    }  # fmt: skip
    second = run(variants=["gru", "rnn_tanh"])
    assert redone(second) == set()
    assert [one.version for one in second.variants] == [one.version for one in first.variants]
    assert not any(one.new for one in second.variants)
    assert len(Registry(warehouse).versions("words")) == 2
    assert second.champion == first.champion
    # Every version shows the data that it was trained on, and how all of them learnt.
    for version in Registry(warehouse).versions("words"):
        assert version.tags["profile"] == first.profile.page.path
        assert version.tags["learning_curves"].startswith("learning_curves/")


def test_another_way_to_score_trains_nothing(run: Run) -> None:
    first = run()
    changed = run(overrides={"evaluation.num_samples": 3})
    assert redone(changed) == {"score"}
    assert [one.version for one in changed.variants] == [one.version for one in first.variants]


def test_how_a_training_is_kept_changes_no_result(run: Run) -> None:
    run()
    again = run(save_every_steps=3, resume="never")
    assert redone(again) == set()


def test_regularisation_trains_again_and_nothing_else(run: Run) -> None:
    first = run()
    changed = run(overrides={"regularisation.weight_drop": 0.3})
    assert redone(changed) == {"train", "score", "draw_learning_curves"}
    assert changed.variants[0].version != first.variants[0].version


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"resume": "always"}, "auto, never"),
        ({"save_every_steps": 0}, "at least 1"),
        ({"network": NetworkConfig(8, 12, layer_norm=True)}, "name the variant gru-textbook"),
        ({"variants": ["bilstm"], "problem": LanguageModel()}, "reads the word"),
    ],
)
def test_what_does_not_go_together_is_refused_before_any_work(
    run: Run, warehouse: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(**changes)
    assert not any(warehouse.iterdir()), "no data was read"


def test_another_vocabulary_size_cuts_nothing_again(run: Run) -> None:
    run()
    changed = run(vocabulary=VocabularyConfig(max_size=100))
    assert states(changed)["tokenize"] == states(changed)["ingest_file"] == {"Cached"}
    assert {"build_vocabulary", "encode", "train"} <= redone(changed)


def test_a_new_file_costs_the_cutting_of_that_file(run: Run, inbox: Path) -> None:
    run()
    (inbox / "wednesday.jsonl").write_text(
        sample_lines("dialogues.jsonl", 70, 90), encoding="utf-8"
    )
    changed = run()
    for task in ("ingest_file", "tokenize"):
        found = [step.state for step in changed.steps if step.task == task]
        assert found.count("Completed") == 1
        assert "Cached" in found


def test_one_more_variant_trains_that_variant(run: Run) -> None:
    run()
    changed = run(variants=["gru", "lstm"])
    found = {step.label: step.state for step in changed.steps if step.task == "train"}
    assert found == {"gru": "Cached", "lstm": "Completed"}


def test_the_same_data_makes_the_same_model_anywhere(run: Run, tmp_path: Path) -> None:
    here = run()
    there = run(warehouse=str(tmp_path / "elsewhere"))
    assert here.ingest.snapshot.id == there.ingest.snapshot.id
    digests = [
        {path.name for path in (root / "checkpoints").iterdir() if not path.name.startswith(".")}
        for root in (tmp_path / "warehouse", tmp_path / "elsewhere")
    ]
    assert digests[0] == digests[1]
    assert len(digests[0]) == 1


def test_the_champion_is_the_best_on_validation_and_says_why(run: Run, warehouse: Path) -> None:
    report = run(variants=["gru", "rnn_relu"])
    best = min(report.variants, key=lambda one: one.metrics["valid/bits_per_character"])
    assert report.champion == best.version
    assert best.variant in report.reason
    assert "There was no champion before" in report.reason
    champion = Registry(warehouse).champion("words")
    assert champion is not None
    assert champion.version == best.version
    assert report.reason in champion.description


def test_a_better_challenger_takes_over_and_an_equal_one_does_not(
    run: Run, warehouse: Path
) -> None:
    first = run()
    hardly = run(training=TrainingConfig(num_epochs=2, learning_rate=0.0099))
    assert hardly.champion == first.champion
    assert "it stays" in hardly.reason
    better = run(training=TrainingConfig(num_epochs=8, learning_rate=0.02))
    assert better.champion == better.variants[0].version != first.champion
    assert "paired bootstrap, p = 0.001" in better.reason
    back = Registry(warehouse).rollback("words")
    assert back.version == first.champion
    again = run(training=TrainingConfig(num_epochs=8, learning_rate=0.02))
    assert again.champion == first.champion, "what was rolled back is not promoted again"


def test_a_baseline_is_champion_until_a_network_beats_it(run: Run, warehouse: Path) -> None:
    network = run()
    baseline = run(variants=["ngram-3"])
    registry = Registry(warehouse)
    assert network.champion != baseline.champion == baseline.variants[0].version
    assert baseline.reason.startswith("ngram-3 (version")
    assert baseline.variants[0].metrics["size/parameters"] > 0
    answers = registry.load("words").predict([sample_lines("dialogues.jsonl", 0, 1)[-30:-20]])
    assert answers["prediction"].str.len().tolist() == [1]
    again = run(variants=["ngram-3", "gru"])
    assert again.champion == baseline.champion
    assert redone(again) == {"draw_learning_curves"}  # both together were not drawn before


def test_a_champion_whose_checkpoint_is_lost_is_scored_from_the_registry(
    run: Run, warehouse: Path
) -> None:
    run()
    shutil.rmtree(warehouse / "checkpoints")
    better = run(training=TrainingConfig(num_epochs=8, learning_rate=0.02))
    assert "paired bootstrap" in better.reason


def test_a_champion_with_another_cut_of_the_text_is_compared_all_the_same(run: Run) -> None:
    first = run()
    changed = run(
        text=TextConfig(unit="char", lowercase=True),
        training=TrainingConfig(num_epochs=8, learning_rate=0.02),
    )
    assert [step.label for step in changed.steps if step.task == "score"][-1] == "champion valid"
    assert changed.champion != first.champion


def test_a_variant_that_breaks_down_does_not_cost_the_others(run: Run) -> None:
    report = run(
        variants=["gru", "rnn_relu"],
        training=TrainingConfig(
            num_epochs=1, optimizer="sgd", learning_rate=1e6, clip_norm=None, seed=3
        ),
    )
    failed = {one.variant: one.failure for one in report.variants}
    assert "diverged" in failed["rnn_relu"]
    assert failed["gru"] == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"problem": LanguageModel(), "variants": ["gru", "bilstm"]}, "bidirectional"),
        ({"variants": ["gru", "transformer"]}, "unknown variant 'transformer'"),
        ({"variants": ["ngram-5"]}, "problem.window is 3; take ngram-4"),
        ({"variants": ["last_value"]}, "of the baselines it takes ngram"),
        ({"variants": []}, "variants is empty"),
        ({"device": "abacus"}, "auto, cpu, cuda"),
        ({"records": RecordsConfig(kind="pairs")}, "next_word cannot learn from pairs"),
        ({"overrides": {"training.epochs": 3}}, "num_epochs"),
        ({"overrides": {"network.hidden_size": 0}}, "hidden_size"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    run: Run, warehouse: Path, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        run(**changes)
    assert list(warehouse.iterdir()) == []


@pytest.mark.parametrize("empty", ["valid", "test"])
def test_an_empty_split_is_refused_before_anything_is_trained(
    run: Run, warehouse: Path, empty: str
) -> None:
    splits = SplitsConfig(**{"valid": 0.2, "test": 0.2, empty: 0.0})
    with pytest.raises(InputError, match=f"the {empty} split has 0 rows.*splits.valid"):
        run(splits=splits)
    assert not (warehouse / "checkpoints").exists()


def test_a_machine_without_git_publishes_all_the_same(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert run().champion == 1


def test_translation_with_and_without_attention(run: Run, tmp_path: Path, warehouse: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(sample_lines("pairs.jsonl", 0, 120), encoding="utf-8")
    report = run(
        name="translate",
        problem=Seq2Seq(),
        sources=[str(pairs)],
        variants=["gru", "bigru-attention"],
        records=RecordsConfig(kind="pairs", fields={"source": "zh", "target": "en"}),
        target_text=TextConfig(language="en"),
    )
    for one in report.variants:
        assert {"test/bleu", "test/bleu_greedy", "test/chrf", "test/perplexity"} <= set(one.metrics)
    assert len(report.vocabularies) == 2
    registry = Registry(warehouse)
    for version in registry.versions("translate"):
        kept = read_checkpoint(registry.checkpoint_directory(version))
        assert 0.5 < kept.config["length_ratio"] < 5


def test_replies_are_learnt_from_dialogues(run: Run) -> None:
    report = run(name="reply", problem=Seq2Seq())
    assert report.splits.train.num_rows > 100
    assert report.variants[0].metrics["test/perplexity"] > 1


def test_a_language_model_of_characters(run: Run) -> None:
    report = run(name="language", problem=LanguageModel(bptt=20))
    metrics = report.variants[0].metrics
    assert metrics["test/bits_per_character"] > 1
    assert metrics["test/unknown_rate"] < 0.2


def test_baselines_of_a_series_are_champion_and_predict(
    run: Run, tmp_path: Path, warehouse: Path
) -> None:
    rows = [{"time": f"{at:03}", "value": 50 + at % 4 * 10 + at / 2} for at in range(80)]
    values = tmp_path / "values.jsonl"
    values.write_text("".join(map(json.dumps, rows)).replace("}", "}\n"), encoding="utf-8")
    report = run(
        name="values",
        problem=Forecasting(window=8, period=4, horizon=4),
        sources=[str(values)],
        variants=["last_value", "seasonal_naive-4", "autoregression-5"],
        records=RecordsConfig(kind="series"),
        splits=SplitsConfig(by="chronological"),
    )
    errors = [one.metrics["test/mae"] for one in report.variants]
    assert errors == pytest.approx([15.25, 2.0, 0.0], abs=1e-6)
    assert report.champion == report.variants[2].version
    answers = Registry(warehouse).load("values").predict(["61 71 81 51.5 63 73 83 53.5"])
    assert float(answers["prediction"][0]) == pytest.approx(65, abs=1e-3)


def test_the_most_frequent_label_is_a_version(run: Run, tmp_path: Path, warehouse: Path) -> None:
    lines = [{"text": text, "label": "song" if "唱" in text else "talk"} for text in LABELLED]
    labelled = tmp_path / "labelled.jsonl"
    labelled.write_text("".join(map(json.dumps, lines)).replace("}", "}\n"), encoding="utf-8")
    settings = {"sources": [str(labelled)], "splits": SplitsConfig(valid=0.3, test=0.3)}
    report = run(
        name="labels",
        problem=Classification(),
        variants=["most_frequent"],
        records=RecordsConfig(kind="labelled"),
        **settings,
    )
    assert 0.5 < report.variants[0].metrics["test/accuracy"] < 1
    answers = Registry(warehouse).load("labels").predict(["唱什么"])
    assert answers["prediction"].tolist() == ["talk"]


LABELLED = [
    f"{who}{doing}{what}"
    for who in ("我", "你", "他", "她们", "大家")
    for doing in ("喜欢", "唱", "说", "想")
    for what in ("什么", "中文", "歌", "得很好")
]


KILLED = """
import sys
sys.path.insert(0, {root!r})
import flows.training.train
flows.training.train.SECONDS_BETWEEN_STATES = 0.0
from tests.test_retrain import SETTINGS
from flows.retrain import retrain
from pipeline.training.loop import TrainingConfig
retrain.fn(**SETTINGS | {{
    "sources": [{inbox!r}], "warehouse": {warehouse!r},
    "training": TrainingConfig(num_epochs=2, learning_rate=0.01),
}})
"""


def test_a_training_killed_at_any_moment_goes_on_and_ends_with_the_same_bits(
    run: Run, inbox: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = run(warehouse=str(tmp_path / "undisturbed"))
    killed = tmp_path / "killed"
    script = KILLED.format(
        root=str(Path(__file__).parent.parent), inbox=str(inbox), warehouse=str(killed)
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(killed.glob("states/*/0*4")) and time.monotonic() < deadline:
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kept = list(killed.glob("states/*/*/scalars.json"))
    assert kept
    assert json.loads(kept[0].read_text())["step"] > 0

    monkeypatch.setattr("flows.training.train.SECONDS_BETWEEN_STATES", 1e9)
    resumed = run(warehouse=str(killed))
    names = [
        {path.name for path in (root / "checkpoints").iterdir() if not path.name.startswith(".")}
        for root in (tmp_path / "undisturbed", killed)
    ]
    assert names[0] == names[1]
    assert whole.variants[0].metrics["test/perplexity"] == pytest.approx(
        resumed.variants[0].metrics["test/perplexity"], rel=0, abs=0
    )
    assert not list(killed.glob("states/*/*")), "a finished training leaves no state"


def test_a_budget_becomes_a_batch_size_that_is_written_down(run: Run, warehouse: Path) -> None:
    report = run(training_memory_gb=0.003)
    (version,) = Registry(warehouse).versions("words")
    found = int(version.params["training.batch_size"])
    assert found != SETTINGS["training"].batch_size
    again = run(training=replace(SETTINGS["training"], batch_size=found))
    assert states(again)["train"] == {"Cached"}, "the number says it all"
    assert [each.version for each in again.variants] == [each.version for each in report.variants]
    larger = run(training_memory_gb=0.004)
    assert states(larger)["find_batch_size"] == states(larger)["train"] == {"Completed"}
    assert states(run(training_memory_gb=0.003))["find_batch_size"] == {"Cached"}
    for budget in (0, -1, float("inf"), float("nan")):
        with pytest.raises(InputError, match="must be above 0, for example 8"):
            run(training_memory_gb=budget)
    with pytest.raises(InputError, match="for a batch of one"):
        run(training_memory_gb=0.0001)
