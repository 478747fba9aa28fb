"""Tables of records as they are ingested, one schema a kind, and of rows that were rejected."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.tables.columns import Bytes, Offsets, number_array, string_array, strings_array
from warehouse.tables.tables import PLAIN

DIALOGUES = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("group", pa.string(), metadata=PLAIN),
        pa.field("topic", pa.string()),
        pa.field("speakers", pa.list_(pa.int8())),
        pa.field("utterances", pa.list_(pa.string()), metadata=PLAIN),
    ]
)

PAIRS = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("group", pa.string(), metadata=PLAIN),
        pa.field("source", pa.string(), metadata=PLAIN),
        pa.field("target", pa.string(), metadata=PLAIN),
    ]
)

QUARANTINE = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("address", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("reason", pa.string()),
        pa.field("detail", pa.string()),
        pa.field("raw", pa.binary(), metadata=PLAIN),
    ]
)

LABELLED = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("group", pa.string()),
        pa.field("text", pa.string()),
        pa.field("label", pa.string()),
    ]
)

TAGGED = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("group", pa.string()),
        pa.field("tokens", pa.list_(pa.string())),
        pa.field("tags", pa.list_(pa.string())),
    ]
)

SERIES = pa.schema(
    [
        pa.field("file", pa.string()),
        pa.field("line", pa.int64()),
        pa.field("series", pa.string()),
        pa.field("time", pa.string()),
        pa.field("value", pa.float64()),
    ]
)

ROW_TIME = pa.field("row_time", pa.string())
"""The last column of records whose rows have a time of their own, by which they can be ordered."""

Texts = tuple[Bytes, Offsets]


def dialogues_batch(
    file: str,
    lines: npt.NDArray[np.int64],
    groups: Sequence[str],
    topics: tuple[Bytes, Offsets],
    speakers: npt.NDArray[np.int8],
    utterances: tuple[Bytes, Offsets],
    offsets: Offsets,
) -> pa.RecordBatch:
    """Dialogues as a batch of the schema `DIALOGUES`.

    Row i came from line `lines[i]` of the file with the digest `file` and owns the utterances and
    speakers `offsets[i]:offsets[i + 1]`.
    """
    bounds = number_array(offsets, pa.int32())
    return pa.RecordBatch.from_arrays(
        [
            pa.repeat(file, len(lines)),
            number_array(lines, pa.int64()),
            strings_array(groups),
            string_array(*topics),
            pa.ListArray.from_arrays(bounds, number_array(speakers, pa.int8())),
            pa.ListArray.from_arrays(bounds, string_array(*utterances)),
        ],
        schema=DIALOGUES,
    )


def pairs_batch(
    file: str,
    lines: npt.NDArray[np.int64],
    groups: Sequence[str],
    sources: tuple[Bytes, Offsets],
    targets: tuple[Bytes, Offsets],
) -> pa.RecordBatch:
    """Sentence pairs as a batch of the schema `PAIRS`."""
    return pa.RecordBatch.from_arrays(
        [
            pa.repeat(file, len(lines)),
            number_array(lines, pa.int64()),
            strings_array(groups),
            string_array(*sources),
            string_array(*targets),
        ],
        schema=PAIRS,
    )


def quarantine_batch(
    file: str,
    address: str,
    lines: Sequence[int],
    reasons: Sequence[str],
    details: Sequence[str],
    raw: Sequence[bytes],
) -> pa.RecordBatch:
    """Rejected rows as a batch of the schema `QUARANTINE`."""
    return pa.RecordBatch.from_arrays(
        [
            pa.repeat(file, len(lines)),
            pa.repeat(address, len(lines)),
            number_array(np.array(lines), pa.int64()),
            strings_array(reasons),
            strings_array(details),
            strings_array(raw).view(pa.binary()),
        ],
        schema=QUARANTINE,
    )


def labelled_batch(
    file: str,
    lines: npt.NDArray[np.int64],
    groups: Sequence[str],
    texts: Texts,
    labels: Texts,
) -> pa.RecordBatch:
    """Labelled texts, row i from line ``lines[i]`` of the file with the digest ``file``."""
    columns = [pa.array(groups, pa.string()), string_array(*texts), string_array(*labels)]
    return _batch(file, lines, columns, LABELLED)


def tagged_batch(
    file: str,
    lines: npt.NDArray[np.int64],
    groups: Sequence[str],
    offsets: Offsets,
    tokens: Texts,
    tags: Texts,
) -> pa.RecordBatch:
    """Tagged texts: row i owns the tokens and tags ``offsets[i]:offsets[i + 1]``."""
    bounds = pa.array(offsets.astype(np.int32))
    lists = [pa.ListArray.from_arrays(bounds, string_array(*side)) for side in (tokens, tags)]
    return _batch(file, lines, [pa.array(groups, pa.string()), *lists], TAGGED)


def series_batch(
    file: str,
    lines: npt.NDArray[np.int64],
    names: Texts,
    times: Texts,
    values: npt.NDArray[np.float64],
) -> pa.RecordBatch:
    """Observations: of which series, when, and what."""
    return _batch(
        file, lines, [string_array(*names), string_array(*times), pa.array(values)], SERIES
    )


def _batch(
    file: str, lines: npt.NDArray[np.int64], columns: Sequence[Any], schema: pa.Schema
) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays(
        [pa.repeat(file, len(lines)), pa.array(lines, pa.int64()), *columns], schema=schema
    )
