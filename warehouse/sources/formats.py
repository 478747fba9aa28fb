"""Formats of source files: lines, CSV, CoNLL, Parquet."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import StorageError, one_line
from warehouse.sources.bytes import byte_chunks, check_expansion
from warehouse.sources.files import SourceFile, _open, printable, row_group_starts
from warehouse.sources.foreign import _foreign


def refusing_arrays(
    lines: Iterable[tuple[bytes, int]], address: str
) -> Iterator[tuple[bytes, int]]:
    """Pass lines through; refuse what begins as JSON over several lines."""
    is_first = True
    for block, line in lines:
        if is_first and block.strip():
            is_first = False
            first, *others = (text for text in block.split(b"\n") if text.strip())
            # One bad row does not make the file something else.
            has_rows = bool(others) and _is_json_object(others[0])
            if not has_rows and re.match(rb"\s*\[\s*(\{|$)", first):
                raise StorageError(
                    f"{printable(address)} is one JSON array: write one object a line instead"
                    " (jq -c .[])."
                )
            if not has_rows and first.strip() == b"{":
                raise StorageError(
                    f"{printable(address)} has JSON objects of several lines: write one object a"
                    " line instead (jq -c .)."
                )
        yield block, line


def parquet_blocks(
    source: SourceFile, columns: Sequence[str], block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Read a Parquet file as blocks of JSON lines."""
    address = source.address
    with _open(address) as file:
        for number, chunk in enumerate(byte_chunks(file, source, max(block_bytes, 1_024))):
            if number == 0 and not source.begin and chunk[:4] not in (b"PAR1", b"PARE"):
                what, remedy = _foreign(chunk) or ("another file", "rename it, or write it again")
                raise StorageError(
                    f"{printable(address)} is not Parquet, as its name says, but {what}: {remedy}."
                )
        file.seek(0)
        line = source.first_line
        num_unpacked = 0
        try:
            # Without a buffer, or with one for all columns, a whole row group would be in memory.
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=block_bytes)
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise StorageError(
                    f"{printable(address)} names a column twice: write it with other names."
                )
            end = source.begin + source.num_bytes
            starts = row_group_starts(table.metadata)
            groups = [i for i, start in enumerate(starts) if source.begin <= start < end]
            sizes = [table.metadata.row_group(i) for i in groups]
            row_bytes = sum(each.total_byte_size for each in sizes) / max(
                1, sum(each.num_rows for each in sizes)
            )
            for batch in table.iter_batches(
                batch_size=int(min(1_000, max(1, 4 * block_bytes // max(1.0, row_bytes)))),
                row_groups=groups,
                columns=list(columns) if set(columns) <= set(names) else None,
                use_threads=False,
            ):
                num_unpacked += batch.nbytes
                check_expansion(num_unpacked, source.num_bytes, address)
                rows = batch.to_pylist()
                yield b"\n".join(orjson.dumps(row, default=_plain) for row in rows), line
                line += batch.num_rows
        except StorageError:
            raise
        except (pa.ArrowException, OSError, TypeError, ValueError) as error:
            raise StorageError(
                f"{printable(address)} is not sound Parquet ({one_line(error)}): write it again."
            ) from error


def _plain(value: Any) -> Any:
    """What JSON has for a value of a column that has no type of JSON; bytes are often text."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"binary": value[:32].hex()}


def _is_json_object(line: bytes) -> bool:
    try:
        return isinstance(orjson.loads(line), dict)
    except orjson.JSONDecodeError:
        return False
