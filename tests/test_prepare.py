"""The tasks from records to ids."""

from pathlib import Path
from typing import Any

import pytest

from flows import prepare
from flows.catalogue import SAMPLES
from flows.retrain import RetrainReport, retrain
from pipeline.errors import InputError
from pipeline.prediction import Predictor
from pipeline.problems import NextWord
from pipeline.recurrent import NetworkConfig
from pipeline.segmentation import dictionary_digest, packaged_segmenter
from pipeline.subwords import Subwords
from pipeline.text import TextConfig, Utf8
from pipeline.training import TrainingConfig
from pipeline.vocabulary import VocabularyConfig
from warehouse.checkpoints import read_checkpoint
from warehouse.errors import StorageError
from warehouse.registry import Registry
from warehouse.tables import Tables


def forget_tables() -> None:
    """As a new process starts: nothing but the warehouse knows jieba's dictionary."""
    prepare._stored_segmenter.cache_clear()


def cut(root: Path, config: TextConfig, text: str) -> list[str]:
    data, token_offsets, _ = prepare.tokenizer_of(str(root), config).tokenize_batch(Utf8.of([text]))
    return Utf8(data.data, token_offsets).to_list()


def test_tables_are_made_once_and_mapped_then(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget_tables()
    config = TextConfig(user_words=("杭研大厦",))
    text = "他来到了网易杭研大厦"
    first = cut(warehouse, config, text)
    assert first == ["他", "来到", "了", "网易", "杭研大厦"]
    assert cut(warehouse, TextConfig(), text) == ["他", "来到", "了", "网易", "杭研", "大厦"]
    assert len(list((warehouse / "arrays").iterdir())) == 2

    def never(user_words: tuple[str, ...]) -> None:
        raise AssertionError("the stored tables were not taken")

    monkeypatch.setattr(prepare, "packaged_segmenter", never)
    forget_tables()
    assert cut(warehouse, config, text) == first
    forget_tables()


def test_damaged_tables_are_made_anew(warehouse: Path) -> None:
    forget_tables()
    first = cut(warehouse, TextConfig(), "我来到北京清华大学")
    file = warehouse / "arrays" / dictionary_digest() / "scores.npy"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000] + b"\0" * 1000 + whole[2000:])
    forget_tables()
    assert cut(warehouse, TextConfig(), "我来到北京清华大学") == first
    assert file.read_bytes() == whole
    forget_tables()


def test_a_dictionary_is_told_by_its_words() -> None:
    digests = {dictionary_digest(words) for words in [(), ("杭研",), ("杭", "研"), ("研", "杭")]}
    assert len(digests) == 4
    assert dictionary_digest() == dictionary_digest()
    assert packaged_segmenter().tables.num_words > 300_000


def dialogues(first: int, last: int) -> str:
    lines = (SAMPLES / "dialogues.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    return "".join(lines[first:last])


@pytest.fixture
def inbox(tmp_path: Path) -> Path:
    folder = tmp_path / "inbox"
    folder.mkdir()
    (folder / "monday.jsonl").write_text(dialogues(0, 50), encoding="utf-8")
    return folder


def retrained(inbox: Path, warehouse: Path, **changes: Any) -> RetrainReport:
    settings = {
        "name": "words",
        "problem": NextWord(window=3),
        "sources": [str(inbox)],
        "variants": ["gru"],
        "network": NetworkConfig(8, 12, 0.1),
        "training": TrainingConfig(num_epochs=1, learning_rate=0.01),
        "text": TextConfig(unit="char"),
        "warehouse": str(warehouse),
    }
    report: RetrainReport = retrain.fn(**(settings | changes))
    return report


def ids_of(report: RetrainReport, warehouse: Path) -> list[str]:
    """The names, which are those of their content, of everything that a training reads."""
    found = [each.cache_digest() for each in report.vocabularies]
    return [*found, *(table.digest for table in report.splits.tables.values())]


def test_subwords_go_from_files_to_predictions(inbox: Path, warehouse: Path) -> None:
    text = TextConfig(unit="subword", subword_size=1_000)
    report = retrained(inbox, warehouse, text=text)
    tasks = [step.task for step in report.steps]
    assert tasks.count("learn_subwords") == 1 and tasks.count("cut_into_subwords") == 3
    tables = Tables(warehouse)
    learnt = report.vocabularies[0].subwords
    assert learnt is not None
    subwords = prepare.read_subwords(tables, learnt)

    # Learnt from the training split and from nothing else.
    written = {
        split: ["".join(tokens) for tokens in prepare.word_rows(tables, rows, "tokens")]
        for split, rows in report.splits.tables.items()
    }
    assert subwords == Subwords.train(written["train"], 1_000)
    assert max(len(piece) for row in written["train"] for piece in subwords.cut(row)) > 1

    # The split is that of characters: the unit has no say in who is held out.
    plain = retrained(inbox, warehouse)
    for split, rows in plain.splits.tables.items():
        texts = ["".join(tokens) for tokens in prepare.word_rows(tables, rows, "tokens")]
        assert texts == written[split]

    # What the checkpoint cuts by is what the training text was cut by.
    version = next(v for v in Registry(warehouse).versions("words") if v.version == 1)
    checkpoint = read_checkpoint(Registry(warehouse).checkpoint_directory(version))
    predictor = Predictor.from_checkpoint(
        checkpoint.config, checkpoint.weights, checkpoint.vocabularies
    )
    for split, rows in report.splits.tables.items():
        cut_in_training = list(prepare.word_rows(tables, rows, "tokens"))
        assert predictor.tokenized(written[split]) == cut_in_training
    assert len(Registry(warehouse).load("words", version=1).predict(["今天", "你好"])) == 2
    needed = [
        "tokenizers" in path.read_text() for path in warehouse.rglob("artifacts/requirements.txt")
    ]
    assert sorted(needed) == [False, True]
    again = retrained(inbox, warehouse, text=text)
    assert {step.state for step in again.steps} == {"Cached"}


def test_a_snapshot_gives_the_same_ids_bit_for_bit(inbox: Path, warehouse: Path) -> None:
    first = retrained(inbox, warehouse)
    (inbox / "tuesday.jsonl").write_text(dialogues(50, 70), encoding="utf-8")
    second = retrained(inbox, warehouse)
    assert ids_of(second, warehouse) != ids_of(first, warehouse)
    (inbox / "monday.jsonl").unlink()
    again = retrained(inbox, warehouse, snapshot=first.ingest.snapshot.id[:12])
    assert again.ingest.snapshot.id == first.ingest.snapshot.id
    assert ids_of(again, warehouse) == ids_of(first, warehouse)
    # Only the champion of the second run has not seen this validation split yet.
    assert {step.label for step in again.steps if step.state != "Cached"} <= {"champion valid"}
    assert not again.variants[0].new
    with pytest.raises(StorageError, match="snapshot"):
        retrained(inbox, warehouse, snapshot="0123")


def test_coverage_is_reported_of_each_split(inbox: Path, warehouse: Path) -> None:
    report = retrained(inbox, warehouse, vocabulary=VocabularyConfig(max_size=100))
    (coverage,) = report.coverage
    assert coverage.column == "tokens" and coverage.num_words == 96
    assert list(coverage.unknown_rates) == ["train", "valid", "test"]
    assert coverage.unknown_rates["train"] == report.vocabularies[0].unknown_rate
    assert coverage.unknown_rates["test"] == pytest.approx(
        report.variants[0].metrics["test/unknown_rate"]
    )
    assert coverage.coverage_by_size[-1].share == 1.0
    version = Registry(warehouse).versions("words")[0]
    assert "96 words have an id" in version.description
    assert "near copies" in version.description


def test_a_model_goes_on_learning_with_every_word_where_it_was(
    inbox: Path, warehouse: Path
) -> None:
    first = retrained(inbox, warehouse, vocabulary=VocabularyConfig(max_size=200))
    (inbox / "tuesday.jsonl").write_text(dialogues(50, 90), encoding="utf-8")
    grown = {"vocabulary": VocabularyConfig(max_size=250), "extend_from": "champion"}
    second = retrained(inbox, warehouse, **grown)
    (extended,) = second.vocabularies
    tables = Tables(warehouse)
    old = prepare.read_vocabulary(tables, first.vocabularies[0])
    new = prepare.read_vocabulary(tables, extended)
    assert extended.num_kept == len(old) == 200 and len(new) == 250
    assert new.words[: len(old.words)] == old.words
    # The most frequent of the new words were taken, and the rest is still known to be left out.
    counted = tables.read(extended.counts)
    counts = dict(zip(counted.column("word").to_pylist(), counted.column("count").to_pylist()))
    added, left_out = new.words[len(old.words) :], list(counts)[len(new.words) :]
    assert min(counts[word] for word in added) >= max(counts[word] for word in left_out)
    assert sum(counts.values()) == extended.num_tokens
    assert extended.unknown_rate == pytest.approx(
        sum(counts[word] for word in left_out) / extended.num_tokens
    )

    # With nothing left to learn by, the weights of the old words are those of the champion.
    still = {"training": TrainingConfig(num_epochs=1, learning_rate=1e-9)}
    third = retrained(inbox, warehouse, **(grown | still), extend_from="1")  # type: ignore[arg-type]
    weights = []
    for version in (first.variants[0].version, third.variants[0].version):
        info = next(v for v in Registry(warehouse).versions("words") if v.version == version)
        folder = Registry(warehouse).checkpoint_directory(info)
        weights.append(read_checkpoint(folder).weights["embedding.weight"])
    assert weights[1].shape[0] == 250
    assert (weights[1][:200] - weights[0]).abs().max() < 1e-6


def test_what_cannot_be_extended_is_refused_before_any_work(inbox: Path, warehouse: Path) -> None:
    with pytest.raises(InputError, match=r"words has no champion to extend \(it has none\)"):
        retrained(inbox, warehouse, extend_from="champion")
    retrained(inbox, warehouse)
    with pytest.raises(InputError, match=r"no version 7 to extend \(its versions are 1\)"):
        retrained(inbox, warehouse, extend_from="7")
    with pytest.raises(InputError, match='its variant is "gru", and "lstm" is asked for'):
        retrained(inbox, warehouse, extend_from="champion", variants=["lstm"])
    with pytest.raises(InputError, match="its text is"):
        retrained(inbox, warehouse, extend_from="champion", text=TextConfig())


def test_an_extended_model_cuts_subwords_as_it_always_did(inbox: Path, warehouse: Path) -> None:
    text = TextConfig(unit="subword", subword_size=1_000)
    first = retrained(inbox, warehouse, text=text)
    (inbox / "tuesday.jsonl").write_text(dialogues(50, 90), encoding="utf-8")
    second = retrained(inbox, warehouse, text=text, extend_from="champion")
    old, new = first.vocabularies[0], second.vocabularies[0]
    assert old.subwords and new.subwords and old.subwords.digest == new.subwords.digest
    assert new.num_kept == old.num_words + 4
