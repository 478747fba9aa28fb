"""Observations of time series."""

import math
import re
from decimal import Decimal
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..text.utf8 import BLANKS, Utf8
from ..times import FORMS, readings
from .json_lines import _INTEGERS, _is_zero
from .labelled import _fault_of_label, _label_of
from .rows import _TYPES, _missing


class Series(NamedTuple):
    """R observations in columns: of which series, when, and the value, float64 [R]."""

    lines: npt.NDArray[np.int64]
    names: Utf8
    times: Utf8
    values: npt.NDArray[np.float64]


def _fault_of_observation(row: Any, names: tuple[str, ...]) -> tuple[str, str] | None:
    if type(row) is not dict:
        return "not_object", f"the row is {_TYPES[type(row)]}, not an object"
    time, value, series = names
    for name in (time, value):
        if name not in row:
            return "missing_key", _missing(name, row)
    for name in (time, series):
        given = row.get(name, "")
        if type(given) is str:
            continue
        if type(given) is bool or _fault_of_label(given, name) is not None:
            kind = "a number with a fraction" if type(given) is float else _TYPES[type(given)]
            return "wrong_type", f"{name!r} is {kind}: write a string or a whole number"
    return _fault_of_time(_label_of(row[time], ()), time) or _fault_of_value(row[value], value)


def _fault_of_time(text: str, name: str) -> tuple[str, str] | None:
    if not text:
        return "not_time", f"{name!r} is empty"
    if readings(text):
        return None
    return "not_time", f"{name!r} is {text[:40]!r}, which has no place in time: write {FORMS}"


def _fault_of_value(value: Any, name: str) -> tuple[str, str] | None:
    if type(value) not in (str, int, float):
        return "wrong_type", f"{name!r} is {_TYPES[type(value)]}, not a number"
    try:
        # Python reads "1_000" as a number, and nobody else does.
        number = math.nan if type(value) is str and "_" in value else float(value)
    except (ValueError, OverflowError):
        number = math.nan
    if 0 < abs(number) < _INTEGERS:
        return None
    text = str(value).strip(BLANKS)
    if not text:
        return "not_number", f"{name!r} is empty: leave the row out, or give its value"
    if type(value) is float and math.isnan(value):
        return "not_exact", f"{name!r} is a number that 64 bits cannot tell from 0"
    if not math.isfinite(number):
        separated = re.fullmatch(r"[+-]?\d{1,3}([ ,.'\u00a0\u202f]\d{3})+([.,]\d+)?", text)
        remedy = ": write numbers without separators between thousands" if separated else ""
        return "not_number", f"{name!r} is {text[:40]!r}, no finite number{remedy}"
    if not _is_kept(text, number):
        return "not_exact", f"{name!r} is {text[:40]!r}, of which 64 bits do not keep all digits"
    return None


def _is_kept(text: str, number: float) -> bool:
    """Whether a number is the one that was written, less the digits of a fraction.

    A whole number may be written with as many digits as tell it from its neighbours, and zeros.
    """
    if number == 0:
        return _is_zero(text)
    return "e" in text.lower() or Decimal(text) in (Decimal(number), Decimal(repr(number)))


def _observations(rows: list[Any], places: npt.NDArray[np.int64], names: tuple[str, ...]) -> Series:
    time, value, series = names
    return Series(
        places,
        Utf8.of([_label_of(row.get(series, ""), ()) for row in rows]),
        Utf8.of([_label_of(row[time], ()) for row in rows]),
        np.array([float(row[value]) for row in rows], np.float64),
    )
