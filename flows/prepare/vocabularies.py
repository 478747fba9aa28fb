"""The tasks that build, extend and measure vocabularies and subwords."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from pydantic import BaseModel

from flows.steps.keys import cached_task
from pipeline.text.config import TextConfig
from pipeline.text.subwords import Subwords
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.utf8 import Utf8
from pipeline.text.vocabulary import Spelling, Vocabulary, VocabularyConfig, coverage_by_size
from warehouse.checkpoints import CheckpointRef, Checkpoints
from warehouse.tables.columns import count_words
from warehouse.tables.example_schemas import json_table, row_texts, with_tokens, words_table
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables


class VocabularyRef(BaseModel, frozen=True):
    """A vocabulary: the first ``num_words`` rows of the training split's counted words.

    ``num_tokens`` are the running words of the training split, ``unknown_rate`` the share of them
    that the vocabulary leaves out. ``subwords`` is what the words were cut by, where they are
    subwords. ``num_kept`` of its ids, specials included, are those of the model that it extends.
    """

    counts: TableRef
    num_words: int
    num_tokens: int
    unknown_rate: float
    subwords: TableRef | None = None
    num_kept: int = 0

    def cache_digest(self) -> str:
        """The identity of the words, of their ids, of the words left out, and of the cut."""
        cut = f":{self.subwords.digest}" if self.subwords else ""
        kept = f":{self.num_kept} kept" if self.num_kept else ""
        return f"{self.counts.digest}:{self.num_words}{cut}{kept}"

    def intact(self, root: str) -> bool:
        """Whether the tables are there and whole."""
        return self.counts.intact(root) and (not self.subwords or self.subwords.intact(root))


class SizeCoverage(BaseModel, frozen=True):
    """Which share of the running words of the training split the most frequent words make up."""

    num_words: int
    share: float


class CoverageReport(BaseModel, frozen=True):
    """What a vocabulary covers: the share of unknown words in each split.

    ``coverage_by_size`` says it of vocabularies of other sizes, for the training split.
    """

    column: str
    num_words: int
    unknown_rates: dict[str, float]
    coverage_by_size: list[SizeCoverage]


def row_utf8(column: Any) -> Utf8:
    """The text of each row of tokens."""
    data, starts, _ = row_texts(column)
    return Utf8(data, starts)


@cached_task()
def learn_subwords(root: str, train: TableRef, column: str, text: TextConfig) -> TableRef:
    """Learn the subwords of one column from the texts of the training split, and of no other."""
    tables = Tables(root)
    texts = ("".join(tokens) for tokens in word_rows(tables, train, column))
    subwords = Subwords.train(texts, text.subword_size)
    return tables.write([json_table(subwords.to_json())])


@cached_task()
def cut_into_subwords(root: str, rows: TableRef, column: str, subwords: TableRef) -> TableRef:
    """The rows of a split with one column, whose texts were whole, cut into subwords."""
    tables = Tables(root)
    # The texts are normalised already, and twice is not once: "&amp;lt;" would become "<".
    as_it_is = TextConfig(unit="subword", normalisation=())
    tokenizer = Tokenizer(as_it_is, subwords=read_subwords(tables, subwords))
    table = tables.read(rows)
    normalised, token_offsets, list_offsets = tokenizer.tokenize_batch(
        row_utf8(table.column(column))
    )
    return tables.write(
        [with_tokens(table, column, (normalised.data, token_offsets, list_offsets))]
    )


def read_subwords(tables: Tables, ref: TableRef) -> Subwords:
    """What was learnt of subwords."""
    return Subwords.from_json(tables.read(ref).column("json")[0].as_py())


@cached_task()
def build_vocabulary(
    root: str,
    train: TableRef,
    column: str,
    vocabulary: VocabularyConfig,
    subwords: TableRef | None = None,
) -> VocabularyRef:
    """Count the words of the training split and choose those that get an id.

    Of subwords all do: one that training holds only inside of longer ones may stand alone later.
    """
    tables = Tables(root)
    words, counts = count_words(tables.batches(train, [column]), column)
    if subwords:
        inside = sorted(set(read_subwords(tables, subwords).pieces) - set(words))
        words, counts = [*words, *inside], np.append(counts, np.zeros(len(inside), np.int64))
        chosen = Vocabulary(words)
    else:
        chosen = Vocabulary.build(words, counts, vocabulary)
    # Words come by falling count, then by code point: a vocabulary is always a head of them.
    assert chosen.words == tuple(words[: len(chosen.words)])
    coverage = chosen.coverage(words, counts)
    return VocabularyRef(
        counts=tables.write([words_table(words, counts)]),
        num_words=len(chosen.words),
        num_tokens=coverage.num_tokens,
        unknown_rate=coverage.unknown_rate,
        subwords=subwords,
    )


@cached_task()
def extend_vocabulary(
    root: str,
    train: TableRef,
    column: str,
    vocabulary: VocabularyConfig,
    checkpoint: CheckpointRef,
    which: str,
    subwords: TableRef | None = None,
) -> VocabularyRef:
    """The vocabulary of a trained model, and behind it what is new in the training split.

    Every word of the model keeps its id, whether or not it still occurs, so row i of a matrix of
    weights is word i's in the old model and in the new one: ``num_kept`` rows are copied, the rest
    are new. ``which`` is the vocabulary's name in the checkpoint.
    """
    tables = Tables(root)
    old = Vocabulary.from_json(Checkpoints(root).load(checkpoint).vocabularies[which])
    words, counts = count_words(tables.batches(train, [column]), column)
    extended = old.extend(words, counts, vocabulary)
    coverage = extended.coverage(words, counts)
    counted = dict(zip(words, counts.tolist(), strict=True))
    left_out = [word for word in words if word not in extended]
    ordered = [*extended.words, *left_out]
    return VocabularyRef(
        counts=tables.write(
            [words_table(ordered, np.array([counted.get(word, 0) for word in ordered], np.int64))]
        ),
        num_words=len(extended.words),
        num_tokens=coverage.num_tokens,
        unknown_rate=coverage.unknown_rate,
        subwords=subwords,
        num_kept=len(old),
    )


@cached_task()
def keep_subwords(root: str, checkpoint: CheckpointRef, which: str) -> TableRef:
    """The subwords of a trained model, whose vocabulary is extended: it cuts as it always did."""
    found = Checkpoints(root).load(checkpoint).vocabularies[which]
    return Tables(root).write([json_table(Subwords.from_json(found).to_json())])


@cached_task()
def measure_coverage(
    root: str, splits: Mapping[str, TableRef], column: str, vocabulary: VocabularyRef
) -> CoverageReport:
    """How much of each split a vocabulary covers, and how much one of another size would cover."""
    tables = Tables(root)
    known = read_vocabulary(tables, vocabulary)
    unknown_rates, by_size = {}, {}
    for split, rows in splits.items():
        words, counts = count_words(tables.batches(rows, [column]), column)
        unknown_rates[split] = known.coverage(words, counts).unknown_rate
        if split == "train":
            by_size = coverage_by_size(counts)
    return CoverageReport(
        column=column,
        num_words=len(known.words),
        unknown_rates=unknown_rates,
        coverage_by_size=[SizeCoverage(num_words=n, share=each) for n, each in by_size.items()],
    )


def read_vocabulary(tables: Tables, ref: VocabularyRef) -> Vocabulary:
    """The words that have an id."""
    words = tables.read(ref.counts, ["word"]).column("word")
    return Vocabulary(words.slice(0, ref.num_words).to_pylist())


def spelling_beyond(tables: Tables, ref: VocabularyRef, vocabulary: Vocabulary) -> Spelling:
    """What a word outside of ``vocabulary`` costs to spell, from the words that ``ref`` counted."""
    counted = tables.read(ref.counts)
    return Spelling.build(
        counted.column("word").to_pylist(), counted.column("count").to_numpy(), vocabulary
    )


def word_rows(tables: Tables, rows: TableRef, column: str) -> Iterator[list[str]]:
    """The tokens of each row of a split, as strings."""
    for batch in tables.batches(rows, [column]):
        yield from batch.column(column).to_pylist()
