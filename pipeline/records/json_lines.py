"""Lines of JSON, parsed in blocks."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from .rows import _Faults


def _parse(lines: list[bytes]) -> tuple[list[Any], Sequence[int], _Faults]:
    """The values of all lines that are JSON, their places, and the faults of the others."""
    rows: list[Any] = []
    failed: dict[int, tuple[str, int]] = {}
    remaining = iter(lines)
    while len(rows) + len(failed) < len(lines):
        try:
            # When a line fails, the list keeps the rows before it and the iterator stands behind
            # it: so a bad line costs one exception, and the good ones cost nothing more.
            rows.extend(map(orjson.loads, remaining))
        except orjson.JSONDecodeError as error:
            # Not the error itself: through it the lines and rows of a block would stay in memory.
            failed[len(rows) + len(failed)] = (error.msg, error.pos)
    if not failed:
        return rows, range(len(lines)), {}
    faults = {
        i: _fault_of_line(lines[i], *error) for i, error in failed.items() if lines[i].strip()
    }
    return rows, [i for i in range(len(lines)) if i not in failed], faults


def _fault_of_line(line: bytes, problem: str, position: int) -> tuple[str, str]:
    try:
        line.decode()
    except UnicodeDecodeError as error:
        return "not_utf8", f"byte {error.start + 1} of the line is not UTF-8"
    # Where lines end with CR alone, a whole file is one line.
    remedy = "; end lines with LF, not with CR alone" if b"\r" in line.rstrip(b"\r") else ""
    if "infinity" in problem:
        problem = "a number is beyond 1.8e308, the largest that 64 bits keep,"
    return "not_json", f"{problem} at character {position + 1} of the line{remedy}"


_INTEGERS = 2**53
"""From here on not every whole number is a float of 64 bits."""


def _has_inexact(row: dict[str, Any], names: tuple[str, ...], line: bytes) -> bool:
    """Whether a number that was read for a field may be another one than was written.

    Whole numbers beyond 64 bits are read as the nearest float, and numbers next to 0 as 0.
    """
    for name in names:
        value = row.get(name)
        if type(value) is not float or 0 < abs(value) < _INTEGERS:
            continue
        if value or len(line) > 300 or b"e-" in line.lower():
            return True
    return False


def _read_exactly(row: dict[str, Any], line: bytes) -> Any:
    """The row with whole numbers of any length, and NaN for a number that cannot be kept."""
    try:
        return json.loads(line, parse_float=_float_or_nan)
    except RecursionError:  # this reader nests less deeply
        return {key: math.nan if type(value) is float else value for key, value in row.items()}


def _float_or_nan(text: str) -> float:
    value = float(text)
    return value if value or _is_zero(text) else math.nan


def _is_zero(text: str) -> bool:
    """Whether a text that is read as 0 is 0."""
    return not any(c.isdecimal() and int(c) for c in text.lower().partition("e")[0])


class _Strings(NamedTuple):
    """S strings of valid JSON, keys and values in the order in which they stand there.

    String i, less its quotes, is `text[starts[i]:ends[i]]`; `escaped` bool [S]: whether that is not
    yet what it says.
    """

    text: bytes
    starts: npt.NDArray[np.int64]
    ends: npt.NDArray[np.int64]
    escaped: npt.NDArray[np.bool_]


def _strings(text: bytes) -> _Strings:
    quotes = np.flatnonzero(np.frombuffer(text, np.uint8) == ord('"'))
    escapes = _places(text, b"\\")
    if len(escapes):
        if (np.diff(escapes) == 1).any():
            # An escaped backslash escapes nothing; what is put in its place is of the same length.
            codes = np.frombuffer(text.replace(b"\\\\", b"__"), np.uint8)
        else:
            codes = np.frombuffer(text, np.uint8)
        quotes = quotes[codes[quotes - 1] != ord("\\")]
    starts, ends = quotes[::2] + 1, quotes[1::2]
    escaped = np.zeros(len(starts), bool)
    escaped[np.searchsorted(starts, escapes, side="right") - 1] = True
    return _Strings(text, starts, ends, escaped)


def _places(text: bytes, byte: bytes) -> npt.NDArray[np.int64]:
    """Where a byte stands that is rare in most texts."""
    places: list[int] = []
    place = text.find(byte)
    while place >= 0 and len(places) < 1_000:
        places.append(place)
        place = text.find(byte, place + 1)
    if place >= 0:
        return np.flatnonzero(np.frombuffer(text, np.uint8) == byte[0])
    return np.array(places, np.int64)


def _num_strings(value: Any) -> int:
    """The strings in a parsed value, keys too."""
    count = 0
    waiting = [value]
    while waiting:
        value = waiting.pop()
        kind = type(value)
        if kind is str:
            count += 1
        elif kind is dict:
            count += len(value)
            waiting.extend(value.values())
        elif kind is list:
            num_flat = list(map(type, value)).count(str)
            count += num_flat
            if num_flat < len(value):
                waiting.extend(item for item in value if type(item) is not str)
    return count
