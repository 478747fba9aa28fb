"""The tasks from records to ids: tokenize, divide, build the vocabulary, encode.

A series needs none of that but to be divided: its values are its ids.

Each is cached by content, so that a new file costs the cutting of that file alone, and another
vocabulary size cuts nothing again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from pydantic import BaseModel

from flows.caching import Steps, cached_task
from pipeline.errors import InputError
from pipeline.part_of_speech import PartOfSpeechTagger
from pipeline.problems import Problem, Seq2Seq
from pipeline.records import SPLITS, SplitsConfig
from pipeline.segmentation import (
    Segmenter,
    deleted_words,
    dictionary_digest,
    packaged_jieba,
    packaged_segmenter,
)
from pipeline.segmentation import Tables as DictionaryTables
from pipeline.series import by_series, seasonal_scale
from pipeline.splits import (
    Documents,
    dialogue_documents,
    divide_in_order,
    divide_pairs,
    divide_texts,
    pair_documents,
    rehearsed,
    reply_pairs,
    text_documents,
    text_keys,
)
from pipeline.subwords import Subwords
from pipeline.text import TextConfig, Tokenizer, Utf8, check_user_word, normalise, uncut_batch
from pipeline.vocabulary import (
    SUBWORDS,
    UNK,
    VOCABULARIES,
    Spelling,
    Vocabulary,
    VocabularyConfig,
    coverage_by_size,
)
from warehouse.arrays import Arrays
from warehouse.checkpoints import CheckpointRef, Checkpoints
from warehouse.columns import count_words, dictionary_column, utf8_column
from warehouse.examples import (
    LABEL_CUT,
    LABELS,
    PAIRS_CUT,
    TAGS_CUT,
    UTTERANCES,
    id_table,
    json_table,
    labelled_rows,
    of_each_utterance,
    pair_rows,
    paired_by,
    read_all,
    row_texts,
    series_table,
    tagged_rows,
    utterance_rows,
    utterance_texts,
    with_tokens,
    words_table,
)
from warehouse.records import SERIES
from warehouse.sources import printable, read_user_dictionary
from warehouse.tables import TableRef, Tables


class SplitRefs(BaseModel, frozen=True):
    """The token tables of the three splits, and how many rows were left out of them and why."""

    train: TableRef
    valid: TableRef
    test: TableRef
    num_duplicates: int
    num_leaks: int
    num_near_copies: int
    num_near_duplicates: int

    @property
    def tables(self) -> dict[str, TableRef]:
        """Split -> table."""
        return {name: getattr(self, name) for name in SPLITS}

    def with_tables(self, tables: Mapping[str, TableRef]) -> "SplitRefs":
        """The same splits, in other tables."""
        return self.model_copy(update=tables)


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


class RehearsalReport(BaseModel, frozen=True):
    """Ids of a training split without a part of what the model knows already; rows of each."""

    ids: TableRef
    num_new: int
    num_known: int
    num_rehearsed: int


def texts_of(
    problem: Problem, text: TextConfig, target_text: TextConfig | None
) -> tuple[TextConfig, ...]:
    """How each side of the texts that a problem learns from is cut; none for series."""
    if isinstance(problem, Seq2Seq):
        return (text, target_text or text)
    return (text,) if problem.columns else ()


def with_user_dictionary(
    text: TextConfig, target_text: TextConfig | None, address: str | None
) -> tuple[TextConfig, TextConfig | None]:
    """The settings with the entries of a user dictionary among their words, where jieba cuts.

    The entries themselves are part of the settings from here on: of the keys under which results
    are kept, and of the checkpoint, so that a prediction cuts as the training did.

    Raises:
        StorageError: the file cannot be read.
        InputError: an entry is wrong, or none of the texts is cut by jieba.
    """
    if not address:
        return text, target_text
    entries = read_user_dictionary(address)
    configs = [text] if target_text is None else [text, target_text]
    if not any(config.uses_jieba for config in configs):
        raise InputError("user_dictionary needs language zh and unit word: it goes to jieba")
    changed = []
    for config in configs:
        if config.uses_jieba:
            for line, entry in entries:
                try:
                    check_user_word(entry, config)
                except InputError as error:
                    raise InputError(f"{printable(address)} line {line}: {error}") from None
            words = (*config.user_words, *(entry for _, entry in entries))
            config = replace(config, user_words=words)
        changed.append(config)
    return changed[0], changed[1] if target_text else None


@dataclass(frozen=True)
class Cut:
    """Records cut into tokens: a table for each shard, the splits, a vocabulary a column."""

    tokens: tuple[TableRef, ...]
    splits: SplitRefs
    vocabularies: tuple[VocabularyRef, ...]


def cut_and_divide(
    steps: Steps,
    shards: Sequence[TableRef],
    kind: str,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
    splits: SplitsConfig,
    vocabulary: VocabularyConfig,
    start: CheckpointRef | None = None,
) -> Cut:
    """From records to vocabularies: tokenize, divide, count; every step a cached task.

    The vocabularies, and what cuts into subwords, are those of ``start`` where it is given; what
    is new comes behind.
    """
    root = str(steps.root)
    tokens = tokens_of(steps, shards, kind, columns, texts)
    divided: SplitRefs = steps.run(
        divide, root=root, shards=tokens, kind=kind, columns=columns, splits=splits
    )
    subwords: dict[str, TableRef] = {}
    for place, (column, text) in enumerate(zip(columns, texts, strict=False)):
        if text.unit == "subword":
            subwords[column] = (
                steps.run(
                    keep_subwords, label=column, root=root, checkpoint=start, which=SUBWORDS[place]
                )
                if start
                else steps.run(
                    learn_subwords,
                    label=column,
                    root=root,
                    train=divided.train,
                    column=column,
                    text=text,
                )
            )
            divided = divided.with_tables(
                {
                    split: steps.run(
                        cut_into_subwords,
                        label=f"{column} {split}",
                        root=root,
                        rows=rows,
                        column=column,
                        subwords=subwords[column],
                    )
                    for split, rows in divided.tables.items()
                }
            )
    vocabularies: list[VocabularyRef] = []
    for place, column in enumerate(columns):
        counted: dict[str, Any] = {
            "label": column,
            "root": root,
            "train": divided.train,
            "column": column,
            # Every label counts, however rare.
            "vocabulary": VocabularyConfig() if column in LABELS else vocabulary,
            "subwords": subwords.get(column),
        }
        vocabularies.append(
            steps.run(extend_vocabulary, checkpoint=start, which=VOCABULARIES[place], **counted)
            if start
            else steps.run(build_vocabulary, **counted)
        )
    return Cut(tuple(tokens), divided, tuple(vocabularies))


def tokens_of(
    steps: Steps,
    shards: Sequence[TableRef],
    kind: str,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
) -> list[TableRef]:
    """The table of tokens of each of these shards of records."""
    return [
        steps.run(
            tokenize,
            label=shard.digest[:8],
            root=str(steps.root),
            shard=shard,
            kind=kind,
            columns=columns,
            text=texts[0],
            target_text=texts[-1] if kind == "pairs" else None,
        )
        for shard in shards
    ]


def _tokens_schema(kind: str, columns: Sequence[str]) -> Any:
    """What records of a kind become for a problem that reads these columns."""
    if "label" in columns:
        return LABEL_CUT
    if "tags" in columns:
        return TAGS_CUT
    return PAIRS_CUT if kind == "pairs" else UTTERANCES


@cached_task()
def tokenize(
    root: str,
    shard: TableRef,
    kind: str,
    columns: Sequence[str],
    text: TextConfig,
    target_text: TextConfig | None,
) -> TableRef:
    """Cut one shard of records into tokens.

    Of dialogues a label is the topic, and tags are jieba's parts of speech.
    """
    tables = Tables(root)
    batches = tables.batches(shard)
    schema = _tokens_schema(kind, columns)
    rows: Iterator[Any]
    if kind == "tagged":
        rows = (_normalised_tags(batch, text) for batch in batches)
    elif schema is TAGS_CUT:
        tagger = PartOfSpeechTagger(text)
        rows = (
            tagged_rows(
                of_each_utterance(batch, "group"),
                *tagger.tag(batch.column("utterances").flatten().to_pylist()),
            )
            for batch in batches
        )
    else:
        tokenizer = tokenizer_of(root, text)
        if kind == "labelled":
            rows = (
                labelled_rows(
                    batch.column("group"),
                    _cut(tokenizer, utf8_column(batch.column("text"))),
                    batch.column("label"),
                )
                for batch in batches
            )
        elif schema is LABEL_CUT:
            rows = (
                labelled_rows(
                    of_each_utterance(batch, "group"),
                    _cut(tokenizer, utterance_texts(batch)),
                    of_each_utterance(batch, "topic"),
                )
                for batch in batches
            )
        elif kind == "pairs":
            target_tokenizer = tokenizer_of(root, target_text or text)
            rows = (
                pair_rows(
                    batch,
                    _cut(tokenizer, utf8_column(batch.column("source"))),
                    _cut(target_tokenizer, utf8_column(batch.column("target"))),
                )
                for batch in batches
            )
        else:
            rows = (
                utterance_rows(batch, _cut(tokenizer, utterance_texts(batch))) for batch in batches
            )
    return tables.write(rows, schema)


def _cut(tokenizer: Tokenizer, texts: tuple[Any, Any]) -> tuple[Any, Any, Any]:
    """The tokens of a column; what is cut into subwords stays whole until they are learnt."""
    if tokenizer.config.unit == "subword":
        normalised, token_offsets, list_offsets = uncut_batch(Utf8(*texts), tokenizer.config)
    else:
        normalised, token_offsets, list_offsets = tokenizer.tokenize_batch(Utf8(*texts))
    return normalised.data, token_offsets, list_offsets


def _normalised_tags(batch: Any, text: TextConfig) -> Any:
    """Tagged texts as they are cut, each token as predictions will see it."""
    tokens = [
        [normalise(token, text.normalisation) or token for token in row]
        for row in batch.column("tokens").to_pylist()
    ]
    return tagged_rows(batch.column("group"), tokens, batch.column("tags").to_pylist())


def tokenizer_of(root: str, text: TextConfig) -> Tokenizer:
    """A tokenizer; one that cuts Chinese words has the warehouse's tables of jieba's dictionary."""
    if not text.uses_jieba:
        return Tokenizer(text)
    return Tokenizer(text, _stored_segmenter(root, text.user_words))


@lru_cache(maxsize=4)
def _stored_segmenter(root: str, user_words: tuple[str, ...]) -> Segmenter:
    """As ``packaged_segmenter``, with tables that are made once and then mapped from files."""
    arrays = Arrays(root)
    key = dictionary_digest(user_words)
    found = arrays.load(key)
    if found is None:
        arrays.save(key, packaged_segmenter(user_words).tables.to_arrays())
        return packaged_segmenter(user_words)
    return Segmenter(
        DictionaryTables.from_arrays(found),
        lambda: packaged_jieba(user_words),
        deleted_words(user_words),
    )


@cached_task()
def divide(
    root: str, shards: Sequence[TableRef], kind: str, columns: Sequence[str], splits: SplitsConfig
) -> SplitRefs:
    """Gather all shards and divide their rows: no row twice, nothing held out in training.

    A problem of pairs makes pairs of dialogues: an utterance and the reply to it. Running text is
    divided in its order, and lines that repeat stay.
    """
    tables = Tables(root)
    rows = read_all(tables, shards, _tokens_schema(kind, columns))
    if kind == "text":
        division = divide_in_order(rows.num_rows, splits)
    else:
        groups = rows.column("group").to_pylist()
        documents = _documents(rows, groups, kind)
        if "source" in columns and kind == "dialogues":
            turns, speakers = (rows.column(name).to_numpy() for name in ("turn", "speaker"))
            said, replies = reply_pairs(groups, turns, speakers)
            rows = paired_by(rows, said, replies)
            groups = rows.column("group").to_pylist()
            documents = Documents(documents.texts, documents.of_rows[said])
        if len(columns) == 2:
            first, second = (_row_keys(rows.column(side)) for side in columns)
            division = divide_pairs(
                groups, first, second, documents, splits, sides_alone_leak=kind == "pairs"
            )
        else:
            turns = rows.column("turn").to_numpy()
            division = divide_texts(groups, turns, documents, splits)
    refs = {name: tables.write([rows.take(taken)]) for name, taken in division.rows.items()}
    return SplitRefs(
        **refs,
        num_duplicates=division.num_duplicates,
        num_leaks=division.num_leaks,
        num_near_copies=division.num_near_copies,
        num_near_duplicates=division.num_near_duplicates,
    )


def _documents(rows: Any, groups: list[str], kind: str) -> Documents:
    """What near copies are told by: dialogues as a whole, pairs with both sides, else the text."""
    if kind == "pairs":
        return pair_documents(_row_utf8(rows.column("source")), _row_utf8(rows.column("target")))
    texts = _row_utf8(rows.column("tokens"))
    if kind == "dialogues":
        turned = "turn" in rows.column_names
        turns = rows.column("turn").to_numpy() if turned else np.arange(rows.num_rows)
        return dialogue_documents(groups, turns, texts)
    return text_documents(texts)


def _row_utf8(column: Any) -> Utf8:
    """The text of each row of tokens."""
    data, starts, _ = row_texts(column)
    return Utf8(data, starts)


@cached_task()
def divide_series(
    root: str, shards: Sequence[TableRef], splits: SplitsConfig, period: int
) -> SplitRefs:
    """Gather the observations of each series in the order of time, and divide them there.

    A row of a split holds all values up to the split's end, since what comes before it is known
    then; its targets are the values of the split alone. Of two observations of one time the one
    read later counts, and is a correction.
    """
    tables = Tables(root)
    rows = read_all(tables, shards, SERIES)
    names, values, corrected = by_series(
        rows.column("series").to_pylist(),
        rows.column("time").to_pylist(),
        rows.column("value").to_numpy(),
    )
    bounds = [divide_in_order(len(each), splits).rows for each in values]
    scales = [
        seasonal_scale(each[: len(rows["train"])], period)
        for each, rows in zip(values, bounds, strict=True)
    ]
    refs = {}
    for split in SPLITS:
        taken = [rows[split] for rows in bounds]
        ends = [int(where[-1]) + 1 if len(where) else 0 for where in taken]
        refs[split] = tables.write(
            [
                series_table(
                    names,
                    [each[:end] for each, end in zip(values, ends, strict=True)],
                    [each[where] for each, where in zip(values, taken, strict=True)],
                    scales,
                )
            ]
        )
    return SplitRefs(
        **refs, num_duplicates=corrected, num_leaks=0, num_near_copies=0, num_near_duplicates=0
    )


def _row_keys(column: Any) -> Any:
    """A key of each row of tokens: of their letters, and of how many they are."""
    data, starts, lengths = row_texts(column)
    return text_keys(Utf8(data, starts)) ^ (lengths.astype(np.uint64) << np.uint64(32))


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
        _row_utf8(table.column(column))
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


@cached_task()
def encode(
    root: str,
    rows: TableRef,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
    vocabularies: Sequence[VocabularyRef],
) -> TableRef:
    """Ids of one split, ``TEXT_IDS`` or ``PAIR_IDS``, of columns that were cut as ``texts`` say."""
    tables = Tables(root)
    known = [read_vocabulary(tables, ref) for ref in vocabularies]
    table = tables.read(rows, columns)
    if columns[-1] in LABELS:
        return tables.write([labelled_ids(table, columns, known)])
    spelling = spelling_beyond(tables, vocabularies[-1], known[-1])
    return tables.write([encoded_rows(table, columns, known, spelling, Tokenizer(texts[-1]))])


def leave_out_known(
    steps: Steps,
    cut: Cut,
    ids: TableRef,
    shards: Sequence[TableRef],
    kind: str,
    columns: Sequence[str],
    texts: Sequence[TextConfig],
    splits: SplitsConfig,
    share: float,
    seed: int,
) -> RehearsalReport:
    """The training split's ids with a share alone of the rows that a model learnt from ``shards``.

    They are divided again as they were then, which is cached: a row that was held out is new.
    """
    root = str(steps.root)
    tokens = tokens_of(steps, shards, kind, columns, texts)
    before: SplitRefs = steps.run(
        divide, label="before", root=root, shards=tokens, kind=kind, columns=columns, splits=splits
    )
    report: RehearsalReport = steps.run(
        rehearse,
        root=root,
        rows=cut.splits.train,
        ids=ids,
        known=before.train,
        share=share,
        seed=seed,
    )
    return report


@cached_task()
def rehearse(
    root: str, rows: TableRef, ids: TableRef, known: TableRef, share: float, seed: int
) -> RehearsalReport:
    """Take rows out of ``ids`` whose group is among the ``known`` ones, all but a share of them."""
    tables = Tables(root)
    groups, before = (
        tables.read(ref, ["group"]).column("group").to_pylist() for ref in (rows, known)
    )
    old, learnt = rehearsed(groups, set(before), share, seed)
    return RehearsalReport(
        ids=tables.write([tables.read(ids).take(np.flatnonzero(learnt))]),
        num_new=int((~old).sum()),
        num_known=int(old.sum()),
        num_rehearsed=int((old & learnt).sum()),
    )


def labelled_ids(rows: Any, columns: Sequence[str], vocabularies: Sequence[Vocabulary]) -> Any:
    """The ids of a table of tokens and labels."""
    encoded: dict[str, tuple[Any, Any]] = {}
    for name, column, vocabulary in zip(("inputs", "targets"), columns, vocabularies, strict=True):
        dictionary, indices, offsets = dictionary_column(rows.column(column))
        encoded[name] = (vocabulary.ids_of(dictionary)[indices], offsets)
    nothing = np.zeros(len(offsets), np.int64)
    encoded["characters"] = encoded["spelling"] = (np.zeros(0), nothing)
    return id_table(encoded)


def encoded_rows(
    rows: Any,
    columns: Sequence[str],
    vocabularies: Sequence[Vocabulary],
    spelling: Spelling,
    tokenizer: Tokenizer,
) -> Any:
    """The ids of a table of tokens; the last column, cut by ``tokenizer``, is the predicted one."""
    encoded: dict[str, tuple[Any, Any]] = {}
    for name, column, vocabulary in zip(("inputs", "targets"), columns, vocabularies, strict=False):
        dictionary, indices, offsets = dictionary_column(rows.column(column))
        ids = vocabulary.ids_of(dictionary)
        encoded[name] = (ids[indices], offsets)
    unknown = np.flatnonzero(ids == UNK)
    costs = np.zeros(len(ids), np.float32)
    costs[unknown] = spelling.nats([dictionary[index] for index in unknown])
    encoded["characters"] = (tokenizer.characters(dictionary, indices, offsets), offsets)
    encoded["spelling"] = (costs[indices], offsets)
    return id_table(encoded)


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
