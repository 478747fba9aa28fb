"""Pairs: a text in two languages."""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..text.normalise import normalise_batch
from ..text.utf8 import BLANKS, Utf8
from .rows import _TYPES, _groups, _missing


class Pairs(NamedTuple):
    """R sentence pairs in columns: `lines` int64 [R], R groups, R sources and R targets."""

    lines: npt.NDArray[np.int64]
    groups: list[str]
    sources: Utf8
    targets: Utf8


# --- pairs ----------------------------------------------------------------------------------------


def _fault_of_pair(row: Any, names: tuple[str, ...]) -> tuple[str, str] | None:
    if type(row) is not dict:
        return "not_object", f"the row is {_TYPES[type(row)]}, not an object"
    for name in names:
        if name not in row:
            return "missing_key", _missing(name, row)
        if type(row[name]) is not str:
            return "wrong_type", f"{name!r} is {_TYPES[type(row[name])]}, not a string"
    for name in names:
        if not row[name].strip(BLANKS):
            return "empty_side", f"{name!r} is empty"
    return None


def _are_sound_pairs(rows: list[Any], names: tuple[str, ...]) -> bool:
    """Whether no row has a fault."""
    try:
        return all(row[name].strip(BLANKS) for name in names for row in rows)
    except (KeyError, TypeError, AttributeError):
        return False


def _pairs(rows: list[Any], places: npt.NDArray[np.int64], names: tuple[str, ...]) -> Pairs:
    sources, targets = (Utf8.of([row[name].strip(BLANKS) for row in rows]) for name in names)
    clean = normalise_batch(sources)
    return Pairs(places, _groups(clean.data, clean.offsets), sources, targets)
