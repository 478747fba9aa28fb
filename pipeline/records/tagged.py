"""Tokens with a tag each."""

from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..text.normalise import normalise_batch
from ..text.utf8 import BLANKS, Utf8
from .rows import _TYPES, _groups, _missing


class Tagged(NamedTuple):
    """R tagged texts in columns: text i owns the tokens and tags `offsets[i]:offsets[i + 1]`."""

    lines: npt.NDArray[np.int64]
    groups: list[str]
    offsets: npt.NDArray[np.int64]
    tokens: Utf8
    tags: Utf8


def _fault_of_tagged(row: Any, names: tuple[str, ...]) -> tuple[str, str] | None:
    if type(row) is not dict:
        return "not_object", f"the row is {_TYPES[type(row)]}, not an object"
    for name in names:
        if name not in row:
            return "missing_key", _missing(name, row)
        if type(row[name]) is not list:
            return "wrong_type", f"{name!r} is {_TYPES[type(row[name])]}, not a list"
        for i, item in enumerate(row[name], 1):
            if type(item) is not str:
                return "wrong_type", f"item {i} of {name!r} is {_TYPES[type(item)]}, not a string"
            if not item.strip(BLANKS):
                return "empty_text", f"item {i} of {name!r} is empty"
    tokens, tags = (len(row[name]) for name in names)
    if tokens != tags:
        return "unequal_lengths", f"there are {tokens} tokens and {tags} tags"
    return None if tokens else ("empty_text", f"{names[0]!r} is empty")


def _tagged(rows: list[Any], places: npt.NDArray[np.int64], names: tuple[str, ...]) -> Tagged:
    tokens, tags = (Utf8.of(list(chain.from_iterable(row[name] for row in rows))) for name in names)
    offsets = np.cumsum([0, *(len(row[names[0]]) for row in rows)])
    whole = Utf8.of(["".join(row[names[0]]) for row in rows])
    clean = normalise_batch(whole)
    return Tagged(places, _groups(clean.data, clean.offsets), offsets, tokens, tags)
