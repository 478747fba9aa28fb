"""Columns of Arrow as plain arrays and back, without a copy where there is none to make.

N texts are their UTF-8 bytes and the N + 1 positions between them; N lists of numbers their flat
values and N + 1 positions; N lists of words a dictionary, an index a word, and N + 1 positions.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from warehouse.errors import StorageError

Bytes = npt.NDArray[np.uint8]

Offsets = npt.NDArray[np.int64]


def utf8_column(column: pa.Array | pa.ChunkedArray) -> tuple[Bytes, Offsets]:
    """N strings as their bytes and the N + 1 positions between them; no copy for one chunk.

    String i is `data[offsets[i]:offsets[i + 1]]`.
    """
    parts: list[Bytes] = []
    positions: list[Offsets] = []
    for array in _chunks(column):
        assert is_text(array.type), f"{array.type} is not text"
        offsets = offsets_of(array)
        buffer = array.buffers()[2]
        data = (
            np.frombuffer(buffer, np.uint8)
            if buffer is not None and buffer.size
            else np.empty(0, np.uint8)
        )
        parts.append(data[int(offsets[0]) : int(offsets[-1])])
        positions.append(offsets - offsets[0])
    return _joined(parts, positions, np.dtype(np.uint8))


# pa.array() imports pandas to look whether it was given one of its arrays: half a second of CPU.


def number_array(values: npt.NDArray[Any], kind: pa.DataType) -> pa.Array:
    """Numbers as an Arrow array of the type `kind`."""
    fitting = np.ascontiguousarray(values, kind.to_pandas_dtype())
    return pa.Array.from_buffers(kind, len(fitting), [None, pa.py_buffer(fitting)])


def strings_array(texts: Sequence[str] | Sequence[bytes]) -> pa.StringArray:
    """N strings, or N times bytes that the caller knows not to be text."""
    parts = [text.encode() if isinstance(text, str) else text for text in texts]
    offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
    return string_array(np.frombuffer(b"".join(parts), np.uint8), offsets)


def string_array(data: Bytes, offsets: Offsets) -> pa.StringArray:
    """N strings from UTF-8 bytes and the N + 1 positions between them; the bytes are not copied.

    Raises:
        StorageError: the text is over 2 GiB, more than one array can address.
    """
    if len(offsets) and offsets[-1] > np.iinfo(np.int32).max:
        raise StorageError("More than 2 GiB of text do not fit one array: use smaller batches.")
    assert len(offsets) and offsets[-1] <= len(data), "positions beyond the text"
    buffers = [
        None,
        pa.py_buffer(offsets.astype(np.int32)),
        pa.py_buffer(np.ascontiguousarray(data)),
    ]
    return pa.StringArray.from_buffers(len(offsets) - 1, buffers[1], buffers[2])


def tokens_array(data: Bytes, token_offsets: Offsets, list_offsets: Offsets) -> pa.ListArray:
    """N lists of tokens: row i owns the tokens `list_offsets[i]:list_offsets[i + 1]`."""
    return pa.ListArray.from_arrays(
        pa.array(list_offsets.astype(np.int32)), string_array(data, token_offsets)
    )


def list_array(
    values: npt.NDArray[Any], offsets: Offsets, kind: pa.DataType | None = None
) -> pa.ListArray:
    """N lists of numbers, of the type `kind`: row i is `values[offsets[i]:offsets[i + 1]]`."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), pa.array(values, kind))


def ragged_column(
    table: pa.Table | pa.RecordBatch, column: str
) -> tuple[npt.NDArray[Any], Offsets]:
    """A column of N lists of numbers as its flat values and the N + 1 positions between them."""
    parts: list[npt.NDArray[Any]] = []
    positions: list[Offsets] = []
    values_type = table.schema.field(column).type.value_type
    for array in _chunks(table.column(column)):
        offsets = offsets_of(array)
        values = array.values[int(offsets[0]) : int(offsets[-1])]
        parts.append(values.to_numpy(zero_copy_only=False))
        positions.append(offsets - offsets[0])
    return _joined(parts, positions, np.dtype(values_type.to_pandas_dtype()))


def count_words(
    batches: Iterable[pa.RecordBatch | pa.Table], column: str
) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The distinct words of a column of strings or of lists of strings, and how often each occurs.

    The most frequent comes first; equal counts are in the order of code points. Memory is bounded
    by the number of distinct words.
    """
    merged = pa.table({"values": pa.array([], pa.string()), "counts": pa.array([], pa.int64())})
    waiting = [merged]
    num_waiting = 0
    for batch in batches:
        for array in _chunks(batch.column(column)):
            words = array.flatten() if pa.types.is_list(array.type) else array
            counted = words.value_counts()
            waiting.append(
                pa.table({"values": counted.field("values"), "counts": counted.field("counts")})
            )
            num_waiting += len(counted)
        if num_waiting > max(1 << 20, 2 * merged.num_rows):
            merged = _sum_counts(waiting)
            waiting, num_waiting = [merged], 0
    merged = _sum_counts(waiting).sort_by([("counts", "descending"), ("values", "ascending")])
    return merged.column("values").to_pylist(), merged.column("counts").to_numpy()


def dictionary_column(
    column: pa.Array | pa.ChunkedArray,
) -> tuple[list[str], npt.NDArray[np.int32], Offsets]:
    """A column of N lists of strings as (distinct strings, an index for each string, offsets).

    String j of the column is `dictionary[indices[j]]`; row i owns `offsets[i]:offsets[i + 1]`.
    """
    parts: list[pa.Array] = []
    positions: list[Offsets] = []
    for array in _chunks(column):
        offsets = offsets_of(array)
        parts.append(array.values[int(offsets[0]) : int(offsets[-1])])
        positions.append(offsets - offsets[0])
    words = pa.chunked_array(parts, column.type.value_type).combine_chunks().dictionary_encode()
    return words.dictionary.to_pylist(), words.indices.to_numpy(), _joined_offsets(positions)


def _sum_counts(parts: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(parts).group_by("values").aggregate([("counts", "sum")])
    return pa.table({"values": summed["values"], "counts": summed["counts_sum"]})


def _chunks(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]


def offsets_of(array: pa.Array) -> Offsets:
    """The N + 1 positions of a string, binary or list array, honouring its own offset."""
    wide = pa.types.is_large_string(array.type) or pa.types.is_large_binary(array.type)
    kind = np.dtype(np.int64 if wide else np.int32)
    buffer = array.buffers()[1]
    if buffer is None or not buffer.size:
        return np.zeros(1, np.int64)
    offsets = np.frombuffer(buffer, kind, len(array) + 1, array.offset * kind.itemsize)
    return offsets.astype(np.int64)


def _joined(
    parts: list[npt.NDArray[Any]], positions: list[Offsets], kind: np.dtype[Any]
) -> tuple[npt.NDArray[Any], Offsets]:
    if len(parts) == 1:
        return parts[0], positions[0]
    return np.concatenate([*parts, np.empty(0, kind)]), _joined_offsets(positions)


def _joined_offsets(positions: list[Offsets]) -> Offsets:
    lengths = [np.diff(offsets) for offsets in positions]
    return np.concatenate([np.zeros(1, np.int64), *lengths]).cumsum()


def is_text(kind: pa.DataType) -> bool:
    """Whether values of a type are text or bytes."""
    return bool(
        pa.types.is_string(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_large_binary(kind)
    )


def is_flat(kind: pa.DataType) -> bool:
    """Whether values of a type are numbers or truth values."""
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    )
