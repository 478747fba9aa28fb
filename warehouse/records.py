"""Tables of labelled texts, of tagged texts and of series, as they are ingested.

Those of dialogues and pairs stand in :mod:`warehouse.tables`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.tables import Bytes, Offsets, string_array

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

Texts = tuple[Bytes, Offsets]


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
