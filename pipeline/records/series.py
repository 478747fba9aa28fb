"""Observations of time series."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..text.utf8 import BLANKS, Utf8
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
        if type(row.get(name, "")) not in (str, int):
            kind = _TYPES[type(row[name])]
            return "wrong_type", f"{name!r} is {kind}, not a string or a whole number"
    if type(row[value]) not in (str, int, float):
        return "wrong_type", f"{value!r} is {_TYPES[type(row[value])]}, not a number"
    try:
        # Python reads "1_000" as a number, and nobody else does.
        finite = "_" not in str(row[value]) and math.isfinite(float(row[value]))
    except (ValueError, OverflowError):
        finite = False
    return None if finite else ("not_number", f"{value!r} is no finite number")


def _observations(rows: list[Any], places: npt.NDArray[np.int64], names: tuple[str, ...]) -> Series:
    time, value, series = names
    return Series(
        places,
        Utf8.of([str(row.get(series, "")).strip(BLANKS) for row in rows]),
        Utf8.of([str(row[time]).strip(BLANKS) for row in rows]),
        np.array([float(row[value]) for row in rows], np.float64),
    )
