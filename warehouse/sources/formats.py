"""Formats of source files: lines, CSV, CoNLL, Parquet."""

import csv
import io
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from warehouse.errors import StorageError, one_line
from warehouse.sources.bytes import byte_chunks, check_expansion
from warehouse.sources.files import (
    MAX_FIELD_CHARACTERS,
    MAX_SENTENCE_LINES,
    SourceFile,
    _open,
    printable,
    row_group_starts,
)


def refusing_arrays(
    lines: Iterable[tuple[bytes, int]], address: str
) -> Iterator[tuple[bytes, int]]:
    """Pass lines through; refuse a file that is one JSON array."""
    for block, line in lines:
        if line == 1 and block.lstrip()[:1] == b"[" and block.lstrip()[1:].lstrip()[:1] == b"{":
            raise StorageError(
                f"{printable(address)} is one JSON array: write one object a line instead."
            )
        yield block, line


def tab_blocks(
    lines: Iterable[tuple[bytes, int]], columns: Sequence[str]
) -> Iterator[tuple[bytes, int]]:
    """Turn lines of tab-separated values into blocks of JSON lines."""
    # Where a line is one text, a tab in it is just a blank.
    most = -1 if len(columns) > 1 else 0

    def as_json(line: bytes) -> bytes:
        if not line.strip():
            return b""
        try:
            values = line.removesuffix(b"\r").decode().split("\t", most)
        except UnicodeDecodeError:
            return line  # whoever reads it will say what is wrong with it
        return orjson.dumps(dict(zip(columns, values, strict=False)))

    for block, line in lines:
        yield b"\n".join(map(as_json, block.split(b"\n"))), line


def conll_blocks(
    lines: Iterable[tuple[bytes, int]], address: str, columns: Sequence[str], block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Sentences of a token a line, its tag in the last column, a blank line behind each sentence.

    A sentence stands where its first line stood. One with a line that has no tag has fewer tags
    than tokens, so that whoever reads it rejects it.
    """
    waiting: list[bytes] = []
    num_waiting = 0
    first = end = 1  # lines of the file: where what is waiting begins, and where it ends
    sentence: list[bytes] = []

    def closed(number: int) -> None:
        nonlocal num_waiting, end, sentence
        text = _sentence(sentence, columns) + b"\n" * (number - end)
        waiting.append(text)
        num_waiting, end, sentence = num_waiting + len(text), number, []

    number = 1
    for block, start in lines:
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start):
            if line.strip():
                if len(sentence) == MAX_SENTENCE_LINES:
                    raise StorageError(
                        f"{printable(address)} has no blank line in the {MAX_SENTENCE_LINES:,} "
                        f"lines before line {number}: separate its sentences by blank lines."
                    )
                if not sentence:
                    waiting.append(b"\n" * (number - end))
                    end = number
                sentence.append(line)
            elif sentence:
                closed(number)
                if num_waiting >= block_bytes:
                    yield b"".join(waiting), first
                    waiting, num_waiting, first = [], 0, end
    if sentence:
        closed(number + 1)
    if waiting:
        yield b"".join(waiting), first


def _sentence(lines: list[bytes], columns: Sequence[str]) -> bytes:
    """One line of JSON; a line that is not UTF-8 stands for the sentence that it spoils."""
    tokens: list[str] = []
    tags: list[str] = []
    for line in lines:
        try:
            fields = line.decode().split()
        except UnicodeDecodeError:
            return line
        if fields[0] != "-DOCSTART-":
            tokens.append(fields[0])
            tags.extend(fields[-1:] if len(fields) > 1 else ())
    return orjson.dumps(dict(zip(columns, (tokens, tags), strict=False))) if tokens else b""


def csv_blocks(
    lines: Iterable[tuple[bytes, int]], address: str, columns: Sequence[str], block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Turn the lines of a CSV file into blocks of JSON lines."""

    def decoded() -> Iterator[str]:
        for block, first in lines:
            try:
                yield from io.StringIO(block.decode(), newline="\n")
            except UnicodeDecodeError as error:
                number = first + block.count(b"\n", 0, error.start)
                raise StorageError(
                    f"{printable(address)} is not UTF-8 in line {number}: convert it to UTF-8."
                ) from None

    # Of the whole process; the default refuses a text of 128 KiB.
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    rows = csv.reader(decoded(), strict=True)
    waiting: list[bytes] = []
    num_waiting = 0
    first = 2
    try:
        header = next(rows, None)
        if header is None or not any(header):
            raise StorageError(f"{printable(address)} has no header: name the columns in line 1.")
        if len(set(header)) < len(header):
            raise StorageError(f"{printable(address)} names a column twice: correct the header.")
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if not set(columns) & set(header) and set(columns) & set(header[0].split(separator)):
                raise StorageError(
                    f"{printable(address)} is separated by {name}: write commas, with quotes"
                    " around what holds one."
                )
        first = end = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(header):
                # Not an object, so that it is rejected; which column is wrong cannot be known.
                text = orjson.dumps(row)
            else:
                text = orjson.dumps(dict(zip(header, row, strict=True))) if row else b""
            waiting.append(text + b"\n" * (rows.line_num + 1 - end))
            num_waiting += len(waiting[-1])
            end = rows.line_num + 1
            if num_waiting >= block_bytes:
                yield b"".join(waiting), first
                waiting, num_waiting, first = [], 0, end
    except csv.Error as error:
        raise StorageError(
            f"{printable(address)} is not CSV near line {rows.line_num} ({error}): correct it."
        ) from None
    if waiting:
        yield b"".join(waiting), first


def parquet_blocks(
    source: SourceFile, columns: Sequence[str], block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Read a Parquet file as blocks of JSON lines."""
    address = source.address
    with _open(address) as file:
        for _ in byte_chunks(file, source, block_bytes):
            pass
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
