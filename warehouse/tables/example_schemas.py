"""What lies between records and a model: tables of tokens, of splits and of ids.

UTTERANCES  one row an utterance, cut into tokens
PAIRS_CUT   one row a pair, both sides cut into tokens
LABEL_CUT   one row a text, cut into tokens, and its label
TAGS_CUT    one row a text, cut into tokens, and a tag for each
TEXT_IDS    one row a text: ids, and what each id stands for in characters
PAIR_IDS    one row a pair: ids of both sides, and the same for the target side; of labels no such
SERIES_ROWS one row a series: its values up to the end of a split, and which of them are the split's
VECTORS     a vector for each id of a vocabulary, empty where there is none
WORDS       the words of a training split and how often each occurs
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.tables.columns import (
    Bytes,
    Offsets,
    list_array,
    ragged_column,
    tokens_array,
    utf8_column,
)
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables

_TOKENS = pa.list_(pa.string())

UTTERANCES = pa.schema(
    [
        pa.field("group", pa.string()),
        pa.field("turn", pa.int32()),
        pa.field("speaker", pa.int8()),
        pa.field("tokens", _TOKENS),
    ]
)

PAIRS_CUT = pa.schema(
    [
        pa.field("group", pa.string()),
        pa.field("source", _TOKENS),
        pa.field("target", _TOKENS),
    ]
)

VECTORS = pa.schema([pa.field("vector", pa.list_(pa.float32()))])

_GROUPED_TOKENS = [pa.field("group", pa.string()), pa.field("tokens", _TOKENS)]

LABEL_CUT = pa.schema([*_GROUPED_TOKENS, pa.field("label", _TOKENS)])

TAGS_CUT = pa.schema([*_GROUPED_TOKENS, pa.field("tags", _TOKENS)])

LABELS = ("label", "tags")
"""Columns that hold no text, but what is said of it."""

TEXT_IDS = pa.schema(
    [
        pa.field("inputs", pa.list_(pa.int32())),
        pa.field("characters", pa.list_(pa.int32())),
        pa.field("spelling", pa.list_(pa.float32())),
    ]
)

PAIR_IDS = TEXT_IDS.insert(1, pa.field("targets", pa.list_(pa.int32())))

SERIES_ROWS = pa.schema(
    [
        pa.field("series", pa.string()),
        pa.field("inputs", pa.list_(pa.float64())),
        pa.field("targets", pa.list_(pa.float64())),
        pa.field("scale", pa.float64()),
    ]
)

WORDS = pa.schema([pa.field("word", pa.string()), pa.field("count", pa.int64())])

Tokens = tuple[Bytes, Offsets, Offsets]
"""Bytes of the tokens, where each token begins in them, and where each row begins among tokens."""


def utterance_texts(batch: pa.RecordBatch) -> tuple[Bytes, Offsets]:
    """Every utterance of a batch of dialogues, one behind the other, as bytes and positions."""
    return utf8_column(batch.column("utterances").flatten())


def utterance_rows(batch: pa.RecordBatch, tokens: Tokens) -> pa.RecordBatch:
    """A batch of ``UTTERANCES`` from a batch of dialogues and the tokens of its utterances."""
    starts = batch.column("utterances").offsets.to_numpy()
    parents = pc.list_parent_indices(batch.column("utterances")).to_numpy()
    turns = np.arange(len(parents)) - (starts[:-1] - starts[0])[parents]
    return pa.RecordBatch.from_arrays(
        [
            of_each_utterance(batch, "group"),
            pa.array(turns, pa.int32()),
            batch.column("speakers").flatten(),
            tokens_array(*tokens),
        ],
        schema=UTTERANCES,
    )


def pair_rows(batch: pa.RecordBatch, sources: Tokens, targets: Tokens) -> pa.RecordBatch:
    """A batch of ``PAIRS_CUT`` from a batch of pairs and the tokens of both sides."""
    return pa.RecordBatch.from_arrays(
        [batch.column("group"), tokens_array(*sources), tokens_array(*targets)],
        schema=PAIRS_CUT,
    )


def labelled_rows(groups: pa.Array, tokens: Tokens, labels: pa.Array) -> pa.RecordBatch:
    """A batch of ``LABEL_CUT``: a group, the tokens and a label for each row."""
    ends = pa.array(np.arange(len(labels) + 1, dtype=np.int32))
    return pa.RecordBatch.from_arrays(
        [groups, tokens_array(*tokens), pa.ListArray.from_arrays(ends, labels)], schema=LABEL_CUT
    )


def tagged_rows(
    groups: pa.Array, tokens: Sequence[Sequence[str]], tags: Sequence[Sequence[str]]
) -> pa.RecordBatch:
    """A batch of ``TAGS_CUT``: a group, the tokens and a tag for each of them for each row."""
    sides = [pa.array(side, _TOKENS) for side in (tokens, tags)]
    return pa.RecordBatch.from_arrays([groups, *sides], schema=TAGS_CUT)


def of_each_utterance(batch: pa.RecordBatch, column: str) -> pa.Array:
    """What a column says of the dialogue of each utterance of a batch of dialogues."""
    return batch.column(column).take(pc.list_parent_indices(batch.column("utterances")))


def series_table(
    names: Sequence[str],
    inputs: Sequence[npt.NDArray[np.float64]],
    targets: Sequence[npt.NDArray[np.float64]],
    scales: Sequence[float],
) -> pa.Table:
    """A table of ``SERIES_ROWS``."""
    return pa.table(
        [
            pa.array(names, pa.string()),
            *(pa.array(side, pa.list_(pa.float64())) for side in (inputs, targets)),
            pa.array(scales, pa.float64()),
        ],
        schema=SERIES_ROWS,
    )


def read_all(tables: Tables, refs: Sequence[TableRef], schema: pa.Schema) -> pa.Table:
    """Several tables of one schema as one, in the order given, each column in one piece."""
    parts = [tables.read(ref) for ref in refs]
    return pa.concat_tables([schema.empty_table(), *parts]).combine_chunks()


FILE_DIGITS = 32
"""How much of the digest of a file or piece tells it from all others."""


def places_of_rows(
    tables: Tables, records: Sequence[TableRef], files: Sequence[str]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], list[str] | None]:
    """Where the rows that were cut from ``records``, one table after another, come from: ``[N]``.

    Args:
        files: digests of files and pieces in their order, ``FILE_DIGITS`` of each.

    Returns:
        Which file each row is from; its line there, that of the whole dialogue of an utterance; and
        its time, where records have one. Files that are not among ``files`` come after them, table
        by table.
    """
    order = pa.array(files, pa.string())
    places, lines, times = [], [], []
    for number, ref in enumerate(records):
        names = tables.schema(ref).names
        wanted = [name for name in ("file", "line", "speakers", "row_time") if name in names]
        table = tables.read(ref, wanted)
        known = pc.index_in(pc.utf8_slice_codeunits(table.column("file"), 0, FILE_DIGITS), order)
        place = pc.fill_null(known, len(files) + number).to_numpy().astype(np.int64)
        repeats = np.ones(table.num_rows, np.int64)
        if "speakers" in wanted:
            repeats = pc.list_value_length(table.column("speakers")).to_numpy()
        places.append(np.repeat(place, repeats))
        lines.append(np.repeat(table.column("line").to_numpy(), repeats))
        if "row_time" in wanted:
            given = table.column("row_time").to_pylist()
            times += [given[row] for row in np.repeat(np.arange(len(given)), repeats)]
    return (
        np.concatenate([np.zeros(0, np.int64), *places]),
        np.concatenate([np.zeros(0, np.int64), *lines]),
        times or None,
    )


def with_tokens(table: pa.Table, column: str, tokens: Tokens) -> pa.Table:
    """A table with other tokens in one of its columns."""
    place = table.schema.get_field_index(column)
    return table.set_column(place, table.schema.field(place), tokens_array(*tokens))


def json_table(text: str) -> pa.Table:
    """One text of JSON as a table."""
    return pa.table({"json": pa.array([text], pa.string())})


def row_texts(column: pa.ChunkedArray) -> tuple[Bytes, Offsets, Offsets]:
    """The tokens of each row end to end: bytes, where each row begins, how many tokens it has."""
    lists = column.combine_chunks()
    data, starts = utf8_column(lists.flatten())
    rows = lists.offsets.to_numpy().astype(np.int64)
    return data, starts[rows - rows[0]], np.diff(rows)


def paired_by(table: pa.Table, first: npt.NDArray[Any], second: npt.NDArray[Any]) -> pa.Table:
    """Pairs of utterances: rows ``first`` of ``UTTERANCES`` and the ``second`` that answer them."""
    tokens = table.column("tokens")
    return pa.table(
        [table.column("group").take(first), tokens.take(first), tokens.take(second)],
        schema=PAIRS_CUT,
    )


def id_table(columns: Mapping[str, tuple[npt.NDArray[Any], Offsets]]) -> pa.Table:
    """A table of ``TEXT_IDS``, or of ``PAIR_IDS`` where there are targets, from its columns."""
    schema = PAIR_IDS if "targets" in columns else TEXT_IDS
    return pa.table(
        [list_array(*columns[name], schema.field(name).type.value_type) for name in schema.names],
        schema=schema,
    )


def token_table(columns: Sequence[str], sides: Sequence[Sequence[Sequence[str]]]) -> pa.Table:
    """Rows of tokens, for each column a list of rows."""
    return pa.table([pa.array(side, _TOKENS) for side in sides], names=list(columns))


def vectors_table(vectors: npt.NDArray[np.float32]) -> pa.Table:
    """Vectors `[V, E]` as a table of `VECTORS`; a row of NaN becomes an empty list."""
    given = ~np.isnan(vectors[:, 0])
    offsets = np.concatenate(([0], np.cumsum(given * vectors.shape[1])))
    return pa.table([list_array(vectors[given].ravel(), offsets, pa.float32())], schema=VECTORS)


def vectors_of(table: pa.Table) -> npt.NDArray[np.float32]:
    """What :func:`vectors_table` was made of."""
    values, offsets = ragged_column(table, "vector")
    lengths = np.diff(offsets)
    vectors = np.full((len(lengths), max(int(lengths.max(initial=0)), 1)), np.nan, np.float32)
    vectors[lengths > 0] = values.reshape(-1, vectors.shape[1])
    return vectors


def words_table(words: Sequence[str], counts: npt.NDArray[np.int64]) -> pa.Table:
    """Counted words as a table of ``WORDS``."""
    return pa.table([pa.array(words, pa.string()), pa.array(counts, pa.int64())], schema=WORDS)


def merged_words(
    tables: Tables, refs: Sequence[TableRef]
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The words of several tables of ``WORDS``, counted together, the most frequent first."""
    parts = [WORDS.empty_table(), *(tables.read(ref) for ref in refs)]
    summed = pa.concat_tables(parts).group_by("word").aggregate([("count", "sum")])
    ordered = summed.sort_by([("count_sum", "descending"), ("word", "ascending")])
    return ordered.column("word").to_pylist(), ordered.column("count_sum").to_numpy()


def contradicting_labels(
    tables: Tables, refs: Sequence[TableRef], num_examples: int
) -> tuple[int, int, list[tuple[str, list[tuple[str, int]]]]]:
    """Texts of labelled records that have more than one label.

    Returns:
        How many distinct texts, by their groups; how many rows have one of them; and examples: a
        text and its labels with how often each occurs, the texts of most rows first.
    """
    groups: dict[str, dict[str, int]] = {}
    rows = pa.concat_tables(
        pa.Table.from_batches(tables.batches(ref, ["group", "label"])) for ref in refs
    )
    counted = rows.group_by(["group", "label"]).aggregate([([], "count_all")])
    several = counted.group_by("group").aggregate([([], "count_all")])
    wanted = several.filter(pc.greater(several["count_all"], 1))["group"]
    for row in counted.filter(pc.is_in(counted["group"], value_set=wanted)).to_pylist():
        groups.setdefault(row["group"], {})[row["label"]] = row["count_all"]
    order = sorted(groups, key=lambda group: (-sum(groups[group].values()), group))
    shown = dict.fromkeys(order[:num_examples], "")
    for ref in refs if shown else ():
        for batch in tables.batches(ref, ["group", "text"]):
            found = batch.filter(pc.is_in(batch["group"], value_set=pa.array(list(shown))))
            for row in found.to_pylist():
                shown[row["group"]] = shown[row["group"]] or row["text"]
    examples = [(text, sorted(groups[group].items())) for group, text in shown.items()]
    return len(groups), sum(sum(each.values()) for each in groups.values()), examples


def statistics_table(statistics: Mapping[str, npt.NDArray[np.float64]]) -> pa.Table:
    """What scores are made of, row by row: a column of lists ``[N, S]`` for each metric."""
    columns = {}
    for name, rows in statistics.items():
        offsets = np.arange(len(rows) + 1, dtype=np.int64) * rows.shape[1]
        columns[name] = list_array(rows.ravel(), offsets, pa.float64())
    return pa.table(columns)


def statistics_of(table: pa.Table, name: str) -> npt.NDArray[np.float64]:
    """One metric's statistics ``[N, S]`` from what :func:`statistics_table` made."""
    values, offsets = ragged_column(table, name)
    return values.reshape(len(offsets) - 1, -1)
