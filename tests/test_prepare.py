"""The tasks from records to ids."""

import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from flows.environment import SAMPLES
from flows.ingest import ingest_sources
from flows.prepare import splits, tokens, vocabularies
from flows.prepare.splits import SplitRefs
from flows.prepare.tokens import with_user_dictionary
from flows.retrain import RetrainReport, retrain
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.prediction import load_predictor
from pipeline.problems import NextWord
from pipeline.records.contract import RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.segmentation import dictionary_digest, packaged_segmenter
from pipeline.text.subwords import Subwords
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.utf8 import Utf8
from pipeline.text.vocabulary import VocabularyConfig
from pipeline.training.config import TrainingConfig
from warehouse.checkpoints import Checkpoint, read_checkpoint
from warehouse.errors import StorageError
from warehouse.registry.registry import Registry
from warehouse.tables.tables import Tables


def forget_tables() -> None:
    """As a new process starts: nothing but the warehouse knows jieba's dictionary."""
    tokens._stored_segmenter.cache_clear()


def cut(root: Path, config: TextConfig, text: str) -> list[str]:
    data, token_offsets, _ = tokens.tokenizer_of(str(root), config).tokenize_batch(Utf8.of([text]))
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

    monkeypatch.setattr(tokens, "packaged_segmenter", never)
    forget_tables()
    assert cut(warehouse, config, text) == first
    forget_tables()


def test_a_user_dictionary_becomes_part_of_the_settings(warehouse: Path, tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("\ufeff杭研大厦 5 n\r\n\n  网易 0 \n来到了".encode())
    plain = TextConfig(user_words=("云计算",))
    text, target = with_user_dictionary(plain, TextConfig(language="en"), str(file))
    assert text == TextConfig(user_words=("云计算", "杭研大厦 5 n", "网易 0", "来到了"))
    assert target == TextConfig(language="en")
    assert with_user_dictionary(plain, None, "") == (plain, None)
    forget_tables()
    expected = ["他", "来到了", "网", "易", "杭研大厦"]
    assert Tokenizer(TextConfig(**asdict(text))).tokenize("他来到了网易杭研大厦") == expected
    for _ in range(2):  # with tables that are made, and with stored ones
        assert cut(warehouse, text, "他来到了网易杭研大厦") == expected
        forget_tables()


@pytest.mark.parametrize(
    ("content", "config", "message"),
    [
        (None, {}, "words.txt does not exist"),
        ("云计算\n张 三\n".encode(), {}, r"words.txt line 2: the user word '张 三' can never"),
        ("云计算\n张三".encode("gbk"), {}, "words.txt is not UTF-8 in line 1"),
        (b"x" * (5 << 20), {}, "is over 4 MiB"),
        (b"a\n\x1b[31m", {}, r"words.txt line 2: the user word '\\x1b\[31m'"),
        ("云计算\n云计算 5".encode(), {}, "'云计算' is given twice"),
        ("云计算".encode(), {"unit": "char"}, "user_dictionary needs language zh and unit word"),
    ],
)
def test_a_wrong_user_dictionary_is_refused(
    tmp_path: Path, content: bytes | None, config: dict[str, str], message: str
) -> None:
    if content is not None:
        (tmp_path / "words.txt").write_bytes(content)
    with pytest.raises((InputError, StorageError), match=message) as raised:
        with_user_dictionary(TextConfig(**config), None, str(tmp_path / "words.txt"))
    assert str(raised.value).isprintable()


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


def ids_of(report: RetrainReport) -> list[str]:
    """The names, which are those of their content, of everything that a training reads."""
    found = [each.cache_digest() for each in report.vocabularies]
    return [*found, *(table.digest for table in report.splits.tables.values())]


# Reading a record strips white space and zero-width characters off its ends; here is none.
DIRTY = [
    "<p>今天ＡＢＣ１２３％，&amp;lt;天气　很好！</p>",
    "我\u200b在网易杭研大厦\t上班，e\u0301\ufeff  he’s here.",
    "It's   10:30 &quot;now&quot;, <b>Tom</b>!",
    "面条好吃。",
]


@pytest.mark.parametrize(
    "text",
    [
        TextConfig(),
        TextConfig(hmm=False, user_words=("杭研大厦",), normalisation=("tags", "nfc")),
        TextConfig(unit="char", lowercase=True),
        TextConfig(language="en"),
        TextConfig(language="en", unit="whitespace", normalisation=()),
    ],
)
def test_predictions_see_text_exactly_as_training_did(
    tmp_path: Path, warehouse: Path, text: TextConfig
) -> None:
    said = [f"user{turn % 2 + 1}：{each}" for turn, each in enumerate(DIRTY)]
    row = {"topic": "t", "user1": "a", "user2": "b", "dialog": said}
    (tmp_path / "dirty.jsonl").write_text(json.dumps(row), encoding="utf-8")
    steps = Steps(warehouse)
    sources = [str(tmp_path / "dirty.jsonl")]
    shards = ingest_sources(steps, "dirty", sources, RecordsConfig()).shards
    (table,) = tokens.tokens_of(steps, shards, "dialogues", ("tokens",), (text,))
    trained_on = list(vocabularies.word_rows(Tables(warehouse), table, "tokens"))
    # A checkpoint keeps the settings as JSON, and a predictor makes its tokenizer of them.
    kept = TextConfig(**json.loads(json.dumps(asdict(text))))
    assert [Tokenizer(kept).tokenize(each) for each in DIRTY] == trained_on
    assert len({len(row) for row in trained_on}) > 1


def texts_of(warehouse: Path, splits: SplitRefs) -> dict[str, list[str]]:
    """The texts of each split, put together from their tokens."""
    return {
        split: ["".join(row) for row in vocabularies.word_rows(Tables(warehouse), rows, "tokens")]
        for split, rows in splits.tables.items()
    }


def checkpoint_of(warehouse: Path, report: RetrainReport) -> Checkpoint:
    registry = Registry(warehouse)
    (version,) = (v for v in registry.versions("words") if v.version == report.variants[0].version)
    return read_checkpoint(registry.checkpoint_directory(version))


def test_subwords_go_from_files_to_predictions_and_stay(inbox: Path, warehouse: Path) -> None:
    text = TextConfig(unit="subword", subword_size=1_000)
    report = retrained(inbox, warehouse, text=text)
    tables = Tables(warehouse)
    learnt = report.vocabularies[0].subwords
    assert learnt is not None
    subwords = vocabularies.read_subwords(tables, learnt)

    # Learnt from the training split and from nothing else.
    written = texts_of(warehouse, report.splits)
    assert subwords == Subwords.train(written["train"], 1_000)
    assert max(len(piece) for row in written["train"] for piece in subwords.cut(row)) > 1

    # Every piece has an id, also one that stands alone in no text of the training split.
    known = vocabularies.read_vocabulary(tables, report.vocabularies[0])
    assert set(subwords.pieces) <= set(known.words)
    seen = set("".join(written["train"]))
    for text_held_out in written["test"]:
        for piece in subwords.cut(text_held_out):
            assert piece in known or piece not in seen

    # The unit has no say in what is held out.
    characters = splits.cut_and_divide(
        Steps(warehouse),
        report.ingest.shards,
        "dialogues",
        ("tokens",),
        (TextConfig(unit="char"),),
        SplitsConfig(),
        VocabularyConfig(),
    )
    assert texts_of(warehouse, characters.splits) == written

    # What the checkpoint cuts by is what the training text was cut by.
    checkpoint = checkpoint_of(warehouse, report)
    predictor = load_predictor(checkpoint.config, checkpoint.weights, checkpoint.vocabularies)
    for split, rows in report.splits.tables.items():
        assert predictor.tokenized(written[split]) == list(
            vocabularies.word_rows(tables, rows, "tokens")
        )
    assert len(Registry(warehouse).load("words", version=1).predict(["今天", "你好"])) == 2
    (needed,) = warehouse.rglob("artifacts/requirements.txt")
    assert "tokenizers==" in needed.read_text()

    # A model that goes on learning cuts as it always did.
    (inbox / "tuesday.jsonl").write_text(dialogues(50, 90), encoding="utf-8")
    extended = retrained(inbox, warehouse, text=text, extend_from="champion").vocabularies[0]
    assert extended.subwords and extended.subwords.digest == learnt.digest
    assert extended.num_kept == report.vocabularies[0].num_words + 4


def test_a_snapshot_gives_the_same_ids_bit_for_bit(inbox: Path, warehouse: Path) -> None:
    limited = VocabularyConfig(max_size=100)
    first = retrained(inbox, warehouse, vocabulary=limited)
    (coverage,) = first.coverage
    assert coverage.column == "tokens" and coverage.num_words == 96
    assert list(coverage.unknown_rates) == ["train", "valid", "test"]
    assert coverage.unknown_rates["train"] == first.vocabularies[0].unknown_rate
    assert coverage.unknown_rates["test"] == pytest.approx(
        first.variants[0].metrics["test/unknown_rate"]
    )
    assert coverage.coverage_by_size[-1].share == 1.0
    version = Registry(warehouse).versions("words")[0]
    assert "96 words have an id" in version.description
    assert "near copies" in version.description

    (inbox / "tuesday.jsonl").write_text(dialogues(50, 70), encoding="utf-8")
    second = retrained(inbox, warehouse, vocabulary=limited)
    assert ids_of(second) != ids_of(first)
    (inbox / "monday.jsonl").unlink()
    snapshot = first.ingest.snapshot.id
    again = retrained(inbox, warehouse, vocabulary=limited, snapshot=snapshot[:12])
    assert again.ingest.snapshot.id == snapshot
    assert ids_of(again) == ids_of(first)
    # Only the champion of the second run has not seen this validation split yet.
    assert {step.label for step in again.steps if step.state != "Cached"} <= {"champion valid"}
    assert not again.variants[0].new
    with pytest.raises(StorageError, match="snapshot"):
        retrained(inbox, warehouse, snapshot="0123")


def test_a_model_goes_on_learning_with_every_word_where_it_was(
    inbox: Path, warehouse: Path
) -> None:
    with pytest.raises(
        InputError, match="words has no champion to extend, since it has no versions yet"
    ):
        retrained(inbox, warehouse, extend_from="champion")
    first = retrained(inbox, warehouse, vocabulary=VocabularyConfig(max_size=200))
    (inbox / "tuesday.jsonl").write_text(dialogues(50, 90), encoding="utf-8")
    second = retrained(
        inbox,
        warehouse,
        vocabulary=VocabularyConfig(max_size=250),
        extend_from="champion",
        # With hardly a step, weights stay what they begin as.
        training=TrainingConfig(num_epochs=1, learning_rate=1e-9),
    )
    (extended,) = second.vocabularies
    tables = Tables(warehouse)
    old = vocabularies.read_vocabulary(tables, first.vocabularies[0])
    new = vocabularies.read_vocabulary(tables, extended)
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
    before, after = (checkpoint_of(warehouse, each).weights for each in (first, second))
    assert after["embedding.weight"].shape[0] == 250
    assert (after["embedding.weight"][:200] - before["embedding.weight"]).abs().max() < 1e-6

    # Of what the first run learnt, none or a part is learnt again; what was held out stays so.
    counts = {}
    for share in (0.0, 0.5):
        again = retrained(
            inbox,
            warehouse,
            vocabulary=VocabularyConfig(max_size=250),
            extend_from="1",
            rehearsal=share,
        )
        version = Registry(warehouse).versions("words")[0]
        line = next(one for one in version.description.splitlines() if "continues version" in one)
        assert line.startswith("- continues version 1, with ")
        counts[share] = [int(number) for number in re.findall(r"\d+", line)[1:]]
        num_new, num_rehearsed, num_known = counts[share]
        assert num_known == first.splits.train.num_rows
        assert num_new == again.splits.train.num_rows - num_known
        assert version.metrics["data/train_rows"] == num_new + num_rehearsed
        assert again.splits == second.splits
    assert counts[0.0][1] == 0 < counts[0.5][1] < counts[0.5][2]
    with pytest.raises(InputError, match="set extend_from"):
        retrained(inbox, warehouse, rehearsal=0.5)
    with pytest.raises(InputError, match="from 0"):
        retrained(inbox, warehouse, extend_from="champion", rehearsal=1.5)

    with pytest.raises(InputError, match=r"no version 7 to extend: choose from champion, 1"):
        retrained(inbox, warehouse, extend_from="7")
    with pytest.raises(InputError, match='its variant is "gru", and "lstm" is asked for'):
        retrained(inbox, warehouse, extend_from="champion", variants=["lstm"])
    with pytest.raises(InputError, match="its text is"):
        retrained(inbox, warehouse, extend_from="champion", text=TextConfig())
