"""Running text, a line a row."""

from typing import Any

import numpy as np
import numpy.typing as npt

from ..text.normalise import normalise_batch
from ..text.utf8 import BLANKS, Utf8
from .dialogues import Dialogues
from .rows import _TYPES, _groups, _missing

# --- text, labelled, tagged, series ---------------------------------------------------------------


def _fault_of_text(row: Any, names: tuple[str, ...]) -> tuple[str, str] | None:
    if type(row) is not dict:
        return "not_object", f"the row is {_TYPES[type(row)]}, not an object"
    name = names[0]
    if name not in row:
        return "missing_key", _missing(name, row)
    if type(row[name]) is not str:
        return "wrong_type", f"{name!r} is {_TYPES[type(row[name])]}, not a string"
    return None if row[name].strip(BLANKS) else ("empty_text", f"{name!r} is empty")


def _texts(rows: list[Any], places: npt.NDArray[np.int64], names: tuple[str, ...]) -> Dialogues:
    texts = Utf8.of([row[names[0]].strip(BLANKS) for row in rows])
    clean = normalise_batch(texts)
    return Dialogues(
        places,
        _groups(clean.data, clean.offsets),
        Utf8.of([""] * len(rows)),
        np.arange(len(rows) + 1, dtype=np.int64),
        np.zeros(len(rows), np.int8),
        texts,
    )
