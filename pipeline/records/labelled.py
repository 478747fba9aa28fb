"""Texts with a label."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..text.normalise import normalise_batch
from ..text.utf8 import BLANKS, Utf8
from .json_lines import _INTEGERS
from .rows import _TYPES, _groups, _missing
from .texts import _fault_of_text


class Labelled(NamedTuple):
    """R labelled texts in columns: `lines` int64 [R], R groups, R texts and R labels."""

    lines: npt.NDArray[np.int64]
    groups: list[str]
    texts: Utf8
    labels: Utf8


def _label_of(value: Any, labels: tuple[str, ...]) -> str:
    """A label as text: a whole number and a truth value have one, nothing else but a string.

    What writes whole numbers as 1.0 means 1, unless that is a label of its own.
    """
    if type(value) is bool:
        return "true" if value else "false"
    if type(value) is not str:
        return str(int(value))
    label = value.strip(BLANKS)
    if labels and label not in labels:
        whole = label.rstrip("0").removesuffix(".")
        return whole if whole in labels and "." in label else label
    return label


def _fault_of_label(value: Any, name: str) -> tuple[str, str] | None:
    if type(value) in (str, int, bool):
        return None
    if type(value) is not float or not (value.is_integer() or math.isnan(value)):
        return "wrong_type", f"{name!r} is {_TYPES[type(value)]}, not a string or a whole number"
    if not abs(value) < _INTEGERS:
        return "not_exact", f"{name!r} is a number whose digits cannot all be kept: write a string"
    return None


def _fault_of_labelled(
    row: Any, names: tuple[str, ...], labels: tuple[str, ...]
) -> tuple[str, str] | None:
    fault = _fault_of_text(row, names)
    if fault is not None:
        return fault
    name = names[1]
    if name not in row:
        return "missing_key", _missing(name, row)
    if (fault := _fault_of_label(row[name], name)) is not None:
        return fault
    label = _label_of(row[name], labels)
    if not label:
        return "empty_label", f"{name!r} is empty"
    if labels and label not in labels:
        return "unknown_label", f"{name!r} is not one of {', '.join(labels)}"
    return None


def _labelled(
    rows: list[Any],
    places: npt.NDArray[np.int64],
    names: tuple[str, ...],
    allowed: tuple[str, ...],
) -> Labelled:
    texts = Utf8.of([row[names[0]].strip(BLANKS) for row in rows])
    clean = normalise_batch(texts)
    labels = Utf8.of([_label_of(row[names[1]], allowed) for row in rows])
    return Labelled(places, _groups(clean.data, clean.offsets), texts, labels)
