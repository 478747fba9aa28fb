"""What all kinds of records share: fields, groups, rejected rows."""

import hashlib
from itertools import pairwise
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

KINDS: dict[str, tuple[str, ...]] = {
    "dialogues": ("topic", "user1", "user2", "dialog"),
    "text": ("text",),
    "pairs": ("source", "target"),
    "labelled": ("text", "label"),
    "tagged": ("tokens", "tags"),
    "series": ("time", "value", "series"),
}
"""The kinds of records and the names that their contract has."""

RAW_BYTES = 4096
"""How much of a rejected line is kept."""

_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    NoneType: "null",
}


# --- what a block of lines becomes ----------------------------------------------------------------


class Rejected(NamedTuple):
    """A row that was refused.

    `reason` is a key of `REASONS`, `detail` a sentence fit to be shown, `raw` the first `RAW_BYTES`
    bytes of the line.
    """

    line: int
    reason: str
    detail: str
    raw: bytes


_Faults = dict[int, tuple[str, str]]  # place of a line in the block -> reason and detail


def _missing(name: str, row: dict[str, Any]) -> str:
    """Which key a row lacks, and the kind of records whose keys it has."""
    known = [kind for kind, contract in KINDS.items() if all(key in row for key in contract)]
    if known:
        kind = max(known, key=lambda each: len(KINDS[each]))
        return f"there is no {name!r}; its keys are those of {kind}: set records.kind={kind}"
    return f"there is no {name!r}"


# --- groups, splits, verdicts ---------------------------------------------------------------------


def _groups(data: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]) -> list[str]:
    """BLAKE2b-128 of each `data[offsets[i]:offsets[i + 1]]`, in hex.

    Data is normalised text, of a dialogue all utterances one behind the other: rows that say the
    same have the same group and fall into the same split.
    """
    text = data.data
    bounds = offsets.tolist()
    blake2b = hashlib.blake2b
    return [blake2b(text[a:b], digest_size=16).hexdigest() for a, b in pairwise(bounds)]
