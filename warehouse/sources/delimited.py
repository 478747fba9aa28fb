"""Files of columns: tab-separated lines, and CSV as spreadsheets write it."""

import csv
import io
import re
from collections import deque
from collections.abc import Iterable, Iterator, Sequence

import orjson

from warehouse.errors import StorageError
from warehouse.sources.files import MAX_FIELD_CHARACTERS, SourceFile, printable
from warehouse.sources.foreign import likely_encoding
from warehouse.sources.left_out import BLANKS, RAW_BYTES, LeftOut, UnreadRow, _not_utf8


class _CsvLines:
    """The lines of a text, which can be given back, so that a quote that stays open costs one row.

    `number` is that of the last line that was taken, `row` the lines since `begin_row`. A
    byte that is not UTF-8 is a lone surrogate.
    """

    def __init__(self, blocks: Iterable[tuple[bytes, int]], address: str) -> None:
        self.number = 0
        self.row: list[str] = []
        self._address = address
        self._new = (
            line
            for block, _ in blocks
            for line in io.StringIO(block.decode(errors="surrogateescape"), newline="\n")
        )
        self._returned: deque[str] = deque()
        self._num_characters = self._num_taken = self._num_returned = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._returned.popleft() if self._returned else next(self._new)
        self.number += 1
        self.row.append(line)
        self._num_characters += len(line)
        if self._num_characters > MAX_FIELD_CHARACTERS and len(self.row) > 1:
            raise csv.Error("the row does not end")
        return _BLANK_BEHIND_QUOTE.sub('"', line) if '" ' in line else line

    def begin_row(self) -> int:
        """Forget the lines of the last row; the number of the first line of the next."""
        self.row.clear()
        self._num_taken += self._num_characters
        self._num_characters = 0
        return self.number + 1

    def give_back(self, num_kept: int) -> None:
        """Let all lines of the row but the first ones be taken once more."""
        again = self.row[num_kept:]
        num_new = self._num_taken + self._num_characters - self._num_returned
        self._num_returned += sum(map(len, again))
        if self._num_returned > FREE_REREAD_CHARACTERS + MAX_REREAD * num_new:
            raise StorageError(
                f"{printable(self._address)} is not CSV (its quotes do not match in many rows, the"
                f" last near line {self.number}): write it again."
            )
        del self.row[num_kept:]
        self._returned.extendleft(reversed(again))
        self.number -= len(again)

    def leave_out(self, left_out: LeftOut, line: int, reason: str, detail: str) -> None:
        """Note that the row cannot be read."""
        raw = "".join(self.row).rstrip("\r\n").encode(errors="surrogateescape")
        left_out.rows.append(UnreadRow(line, reason, detail, raw[:RAW_BYTES]))


def _header_of(
    text: _CsvLines, source: SourceFile, columns: Sequence[str]
) -> tuple[list[str], str]:
    """The names of the columns, and what separates them: what finds most of the columns.

    Spreadsheets name the separator in a first line `sep=;`, and leave names empty at the end.
    """
    address = printable(source.address)
    found: list[tuple[int, int, str, list[str]]] = []  # a place to stop, for each separator
    problem = ""
    separators: tuple[str, ...] = _SEPARATORS
    text.begin_row()
    for line in text:
        if told := _NAMED_SEPARATOR.fullmatch(line.strip("\r\n\ufeff")):
            separators = (told[1],)
        elif line.strip(BLANKS + "".join(separators) + '"'):
            break
    else:
        raise StorageError(f"{address} has no header: name the columns in line 1.")
    text.give_back(len(text.row) - 1)
    for separator in separators:
        begin = text.begin_row()
        reader = csv.reader(text, delimiter=separator, strict=True, skipinitialspace=True)
        try:
            names = [name.strip(BLANKS) for name in next(reader)]
            found.append((len(set(columns) & set(names)), len(text.row), separator, names))
        except csv.Error as error:
            problem = problem or str(error)
        text.give_back(0)
    if not found:
        raise StorageError(f"{address} is not CSV in line {begin} ({problem}): correct it.")
    num_known, num_lines, separator, names = max(found, key=lambda each: each[0])
    text.begin_row()
    for _ in range(num_lines):
        header = next(text)
    if _not_utf8("".join(names)):
        encoding = likely_encoding(header.encode(errors="surrogateescape"))
        way = f", from {encoding} as it seems (iconv -f {encoding} -t UTF-8)" if encoding else ""
        raise StorageError(f"{address} is not UTF-8 in line {begin}: convert it to UTF-8{way}.")
    while names and not names[-1]:
        names.pop()
    named = [name for name in names if name]
    if len(set(named)) < len(named):
        raise StorageError(f"{address} names a column twice: correct the header.")
    if not num_known:
        # What a link leads to is nobody's to show.
        shown = "" if source.leads_outside else f" {', '.join(map(repr, named))[:200]}"
        raise StorageError(
            f"{address} has none of the columns {', '.join(columns)}: line {begin} names{shown}."
            " Write the names of the columns there, or say what they are called (records.fields) or"
            " what the file holds (records.kind)."
        )
    return names, separator


def _csv_rows(
    text: _CsvLines, separator: str, width: int, left_out: LeftOut
) -> Iterator[list[str]]:
    """The rows that can be read; `text.row` are the lines of the last one."""
    rows = csv.reader(text, delimiter=separator, strict=True, skipinitialspace=True)
    while True:
        begin = text.begin_row()
        try:
            row = next(rows, None)
        except csv.Error as error:
            _leave_out_quote(text, begin, str(error), left_out)
            continue
        if row is None:
            return
        if _is_blank(row):
            continue  # of spreadsheets, which write an empty row as separators alone
        if len(row) == width or (len(row) > width and _is_blank(row[width:])):
            yield row
        elif len(text.row) > 1:
            problem = f"the row then has {len(row)} columns where the header has {width}"
            _leave_out_quote(text, begin, problem, left_out)
        else:
            problem = f"the row has {len(row)} columns where the header has {width}"
            text.leave_out(left_out, begin, "unequal_columns", problem)


def _is_blank(cells: list[str]) -> bool:
    return not any(cells) or not "".join(cells).strip(BLANKS)


def _leave_out_quote(text: _CsvLines, begin: int, problem: str, left_out: LeftOut) -> None:
    """Leave out the first line of a row, which goes on since a quote opens there; read the rest."""
    detail = f"the quotes of the row do not match ({problem})"
    if len(text.row) > 1:
        detail = f"a quote opens here that does not close before line {text.number} ({problem})"
    text.give_back(1)
    text.leave_out(left_out, begin, "not_csv", detail)


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


def csv_blocks(
    lines: Iterable[tuple[bytes, int]],
    source: SourceFile,
    columns: Sequence[str],
    block_bytes: int,
    left_out: LeftOut,
) -> Iterator[tuple[bytes, int]]:
    """Turn the lines of a CSV file into blocks of JSON lines."""
    # Of the whole process; the default refuses a text of 128 KiB.
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    text = _CsvLines(lines, source.address)
    names, separator = _header_of(text, source, columns)
    waiting: list[bytes] = []
    num_waiting = 0
    first = end = text.number + 1
    for row in _csv_rows(text, separator, len(names), left_out):
        number = text.number - len(text.row) + 1
        try:
            line = orjson.dumps(dict(zip(names, row, strict=False)))
        except TypeError:  # a lone surrogate stands for a byte that is not UTF-8
            text.leave_out(left_out, number, "not_utf8", "the row is not UTF-8")
            continue
        if not waiting:
            first = end = number
        waiting.append(b"\n" * (number - end) + line + b"\n" * len(text.row))
        num_waiting += len(waiting[-1])
        end = text.number + 1
        if num_waiting >= block_bytes:
            yield b"".join(waiting), first
            waiting, num_waiting = [], 0
    if waiting:
        yield b"".join(waiting), first


FREE_REREAD_CHARACTERS = 64 << 20  # of a .csv file, after quotes that stay open ...

MAX_REREAD = 8  # ... and times its size

_SEPARATORS = (",", ";", "\t", "|")  # of a .csv file

_NAMED_SEPARATOR = re.compile(r'"?sep=(.)"?', re.IGNORECASE)

# Such a blank does not count, not even within quotes, where it begins a field.
_BLANK_BEHIND_QUOTE = re.compile(r'(?<!")" +(?=[,;|\t\r\n]|$)')
