"""The tasks from records to ids: tokenize, divide, build the vocabulary, encode.

A series needs none of that but to be divided: its values are its ids.

Each is cached by content, so that a new file costs the cutting of that file alone, and another
vocabulary size cuts nothing again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel

from flows.prepare.tokens import tokens_of, tokens_schema
from flows.prepare.vocabularies import (
    VocabularyRef,
    build_vocabulary,
    cut_into_subwords,
    extend_vocabulary,
    keep_subwords,
    learn_subwords,
    row_utf8,
)
from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.series import by_series, seasonal_scale, with_gaps
from pipeline.splits.division import (
    Documents,
    dialogue_documents,
    divide_in_order,
    divide_pairs,
    divide_texts,
    order_of_arrival,
    pair_documents,
    rehearsed,
    reply_pairs,
    text_documents,
    text_keys,
)
from pipeline.splits.splits import SPLITS, SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.utf8 import Utf8
from pipeline.text.vocabulary import SUBWORDS, VOCABULARIES, VocabularyConfig
from warehouse.checkpoints import CheckpointRef
from warehouse.tables.example_schemas import (
    LABELS,
    paired_by,
    places_of_rows,
    read_all,
    row_texts,
    series_table,
)
from warehouse.tables.handles import TableRef
from warehouse.tables.record_schemas import SERIES
from warehouse.tables.tables import Tables


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


class RehearsalReport(BaseModel, frozen=True):
    """Ids of a training split without a part of what the model knows already; rows of each."""

    ids: TableRef
    num_new: int
    num_known: int
    num_rehearsed: int


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
    files: Sequence[str] = (),
) -> Cut:
    """From records to vocabularies: tokenize, divide, count; every step a cached task.

    ``files`` are the digests of the sources in their order, as ``IngestReport`` has them.

    The vocabularies, and what cuts into subwords, are those of ``start`` where it is given; what
    is new comes behind.
    """
    tokens = tokens_of(steps, shards, kind, columns, texts)
    divided: SplitRefs = steps.run(
        divide,
        shards=tokens,
        kind=kind,
        columns=columns,
        splits=splits,
        arrival=_arrival(shards, files, splits),
    )
    subwords: dict[str, TableRef] = {}
    for place, (column, text) in enumerate(zip(columns, texts, strict=False)):
        if text.unit == "subword":
            subwords[column] = (
                steps.run(keep_subwords, label=column, checkpoint=start, which=SUBWORDS[place])
                if start
                else steps.run(
                    learn_subwords,
                    label=column,
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


class Arrival(BaseModel, frozen=True):
    """What tells the order of time: tables of records, and the digests of their files in order."""

    records: tuple[TableRef, ...]
    files: tuple[str, ...]


def _arrival(
    shards: Sequence[TableRef], files: Sequence[str], splits: SplitsConfig
) -> Arrival | None:
    """The order of time, where a split follows it."""
    if splits.by != "chronological":
        return None
    return Arrival(records=tuple(shards), files=tuple(files))


@cached_task()
def divide(
    root: str,
    shards: Sequence[TableRef],
    kind: str,
    columns: Sequence[str],
    splits: SplitsConfig,
    arrival: Arrival | None = None,
) -> SplitRefs:
    """Gather all shards and divide their rows: no row twice, nothing held out in training.

    With ``arrival`` rows come in the order of time, whatever the order of the shards.

    A problem of pairs makes pairs of dialogues: an utterance and the reply to it. Running text is
    divided in its order, and lines that repeat stay.
    """
    tables = Tables(root)
    rows = _in_time(tables, read_all(tables, shards, tokens_schema(kind, columns)), arrival)
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


def _in_time(tables: Tables, rows: Any, arrival: Arrival | None) -> Any:
    """The rows in the order of time."""
    if arrival is None:
        return rows
    order = order_of_arrival(*places_of_rows(tables, arrival.records, arrival.files))
    return rows.take(order)


def _documents(rows: Any, groups: list[str], kind: str) -> Documents:
    """What near copies are told by: dialogues as a whole, pairs with both sides, else the text."""
    if kind == "pairs":
        return pair_documents(row_utf8(rows.column("source")), row_utf8(rows.column("target")))
    texts = row_utf8(rows.column("tokens"))
    if kind == "dialogues":
        turned = "turn" in rows.column_names
        turns = rows.column("turn").to_numpy() if turned else np.arange(rows.num_rows)
        return dialogue_documents(groups, turns, texts)
    return text_documents(texts)


@cached_task()
def divide_series(
    root: str,
    shards: Sequence[TableRef],
    splits: SplitsConfig,
    period: int,
    fill: str = "none",
    files: Sequence[str] = (),
) -> SplitRefs:
    """Gather the observations of each series in the order of time, and divide them there.

    A row of a split holds all values up to the split's end, since what comes before it is known
    then; its targets are the values of the split alone, NaN where none was observed. Missing steps
    are marked or filled as ``with_gaps`` does by ``fill``. Of two observations of one time the one
    read later counts, and is a correction.

    Raises:
        InputError: the times of a series have no common order, or too much would be filled.
    """
    tables = Tables(root)
    arrival = Arrival(records=tuple(shards), files=tuple(files))
    rows = _in_time(tables, read_all(tables, shards, SERIES), arrival)
    observed = rows.column("value").to_numpy()
    chronologies = by_series(rows.column("series").to_pylist(), rows.column("time").to_pylist())
    inputs: dict[str, list[Any]] = {split: [] for split in SPLITS}
    targets: dict[str, list[Any]] = {split: [] for split in SPLITS}
    scales = []
    for series in chronologies:
        values = observed[series.order]
        try:
            known, wanted, places = with_gaps(values, series.missing, fill)
        except InputError as error:
            raise InputError(f"series {series.name!r}: {error}") from None
        begin = 0
        for split, taken in divide_in_order(len(values), splits).rows.items():
            end = int(places[taken[-1]]) + 1 if len(taken) else 0
            inputs[split].append(known[:end])
            targets[split].append(wanted[begin:end])
            begin = max(begin, end)
            if split == "train":
                marked, *_ = with_gaps(values[: len(taken)], series.missing[: len(taken)], "none")
                scales.append(seasonal_scale(marked, period))
    names = [series.name for series in chronologies]
    refs = {
        split: tables.write([series_table(names, inputs[split], targets[split], scales)])
        for split in SPLITS
    }
    corrected = sum(len(series.repeated) for series in chronologies)
    return SplitRefs(
        **refs, num_duplicates=corrected, num_leaks=0, num_near_copies=0, num_near_duplicates=0
    )


def _row_keys(column: Any) -> Any:
    """A key of each row of tokens: of their letters, and of how many they are."""
    data, starts, lengths = row_texts(column)
    return text_keys(Utf8(data, starts)) ^ (lengths.astype(np.uint64) << np.uint64(32))


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
    files: Sequence[str] = (),
) -> RehearsalReport:
    """The training split's ids with a share alone of the rows that a model learnt from ``shards``.

    They are divided again as they were then, which is cached: a row that was held out is new.
    """
    tokens = tokens_of(steps, shards, kind, columns, texts)
    before: SplitRefs = steps.run(
        divide,
        label="before",
        shards=tokens,
        kind=kind,
        columns=columns,
        splits=splits,
        arrival=_arrival(shards, files, splits),
    )
    report: RehearsalReport = steps.run(
        rehearse,
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
