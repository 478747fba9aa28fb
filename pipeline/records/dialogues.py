"""Dialogues of two speakers."""

import re
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..text.normalise import normalise_batch
from ..text.utf8 import BLANKS, Utf8
from .json_lines import _Strings
from .rows import _TYPES, _Faults, _groups, _missing

_PREFIX = re.compile(rf"[Uu][Ss][Ee][Rr]([12])[{re.escape(BLANKS)}]*[：:]")


class Dialogues(NamedTuple):
    """R dialogues of U utterances in columns.

    `lines` int64 [R]: where each was read. `groups`: R times 32 hex digits. `topics`: R texts.
    `offsets` int64 [R + 1]: dialogue i owns the utterances and speakers
    `offsets[i]:offsets[i + 1]`. `speakers` int8 [U]: 0 for user1, 1 for user2. `utterances`: U
    texts without prefix.
    """

    lines: npt.NDArray[np.int64]
    groups: list[str]
    topics: Utf8
    offsets: npt.NDArray[np.int64]
    speakers: npt.NDArray[np.int8]
    utterances: Utf8


# --- dialogues ------------------------------------------------------------------------------------


def read_utterance(text: str) -> tuple[int, str] | None:
    """The speaker (0 for user1, 1 for user2) and the text of an utterance; None without either.

    The prefix is `user1` or `user2` in any case, optional blanks and a full-width or half-width
    colon. The text is all that follows, less `BLANKS` at both ends.
    """
    prefix = _PREFIX.match(text)
    if prefix is None:
        return None
    said = text[prefix.end() :].strip(BLANKS)
    return (int(prefix[1]) - 1, said) if said else None


def _fault_of_dialogue(row: Any, names: tuple[str, ...]) -> tuple[str, str] | None:
    if type(row) is not dict:
        return "not_object", f"the row is {_TYPES[type(row)]}, not an object"
    dialog = names[3]
    for name in names:
        if name not in row:
            return "missing_key", _missing(name, row)
        wanted = list if name == dialog else str
        if type(row[name]) is not wanted:
            return "wrong_type", f"{name!r} is {_TYPES[type(row[name])]}, not {_TYPES[wanted]}"
    for i, utterance in enumerate(row[dialog], 1):
        if type(utterance) is not str:
            kind = _TYPES[type(utterance)]
            return "wrong_type", f"item {i} of {dialog!r} is {kind}, not a string"
    return None


def _are_sound_dialogues(rows: list[Any], names: tuple[str, ...]) -> bool:
    """Whether no row has a fault."""
    *texts, dialog = names
    try:
        dialogs = [row[dialog] for row in rows]
        kinds = {type(row[name]) for name in texts for row in rows}
    except (KeyError, TypeError):
        return False
    if not (kinds <= {str} and set(map(type, dialogs)) <= {list}):
        return False
    return set(map(type, chain.from_iterable(dialogs))) <= {str}


def _dialogues(
    rows: list[Any],
    places: npt.NDArray[np.int64],
    names: tuple[str, ...],
    faults: _Faults,
    strings: _Strings,
) -> tuple[Dialogues, int]:
    topic, dialog = names[0], names[3]
    dialogs = [row[dialog] for row in rows]
    said = list(chain.from_iterable(dialogs))
    speakers, utterances, kept = _read_utterances(said, _standing(strings, rows, dialog, len(said)))
    ends = np.cumsum([0, *map(len, dialogs)])
    offsets = np.concatenate(([0], np.cumsum(kept)))[ends]
    filled = np.diff(offsets) > 0
    if not filled.all():
        for i in np.flatnonzero(~filled).tolist():
            number = len(dialogs[i])
            faults[int(places[i])] = (
                "no_utterances",
                f"none of its {number} utterances has a speaker and text"
                if number
                else f"{dialog!r} is empty",
            )
        rows = [row for row, keep in zip(rows, filled.tolist()) if keep]
        places = places[filled]
        offsets = np.concatenate(([0], offsets[1:][filled]))
    clean = normalise_batch(utterances, known_utf8=True)
    groups = _groups(clean.data, clean.offsets[offsets])
    topics = Utf8.of([row[topic] for row in rows])
    # Rows without utterances are rejected and counted as such, not as utterances that were dropped.
    num_dropped = int(len(said) - kept.sum()) - int(np.diff(ends)[~filled].sum())
    return Dialogues(places, groups, topics, offsets, speakers, utterances), num_dropped


# What nearly every utterance begins with, as the 8 or the first 6 bytes of a number.
_USER1, _USER2 = np.frombuffer("user1：user2：".encode(), "<u8")

_USER1_HALF, _USER2_HALF = np.frombuffer(b"user1:\0\0user2:\0\0", "<u8")

_SIX_BYTES = np.uint64(0xFFFF_FFFF_FFFF)


def _standing(strings: _Strings, rows: list[Any], dialog: str, num_said: int) -> _Strings:
    """Those of the strings that are the utterances of the rows.

    Where all rows have the same keys in the same order, and strings for all other values, they are
    known by their place. Other rows are written out anew, one utterance behind the other.
    """
    layouts = set(map(tuple, rows))
    if len(layouts) == 1:
        (layout,) = layouts
        per_row, before = 2 * len(layout) - 1, 2 * layout.index(dialog) + 1
        kinds = {type(row[key]) for key in layout if key != dialog for row in rows}
        if kinds == {str}:
            assert len(strings.starts) == num_said + per_row * len(rows)
            ends = np.cumsum([len(row[dialog]) + per_row for row in rows])
            starts = np.concatenate(([0], ends[:-1]))
            others = [starts + i for i in range(before)]
            others += [ends - i - 1 for i in range(per_row - before)]
            wanted = np.ones(len(strings.starts), bool)
            wanted[np.concatenate(others)] = False
            text, first, last, escaped = strings
            return _Strings(text, first[wanted], last[wanted], escaped[wanted])
    said = [text.encode() for row in rows for text in row[dialog]]
    ends = np.cumsum([len(text) for text in said], dtype=np.int64)
    starts = np.concatenate((np.zeros(1, np.int64), ends[:-1]))[: len(said)]
    return _Strings(b"".join(said), starts, ends, np.zeros(len(said), bool))


def _read_utterances(
    said: list[str], standing: _Strings
) -> tuple[npt.NDArray[np.int8], Utf8, npt.NDArray[np.bool_]]:
    """Speakers and texts of the utterances that `read_utterance` accepts; bool [U]: which it does.

    Those that begin with the usual prefix and have no blank at an end are cut out of the text in
    which they stand; only the others are read one by one.
    """
    text, starts, ends, escaped = standing
    codes = np.frombuffer(text + bytes(12), np.uint8)  # so that one can look beyond the end
    kept = np.ones(len(said), bool)
    usual, begins = _usual_texts(codes, starts, ends)
    usual &= ~escaped
    speakers = (codes[starts + 4] - np.uint8(ord("1"))).view(np.int8)
    texts = [text[begin:end] for begin, end in zip(begins.tolist(), ends.tolist())]
    for i in np.flatnonzero(~usual).tolist():
        parsed = read_utterance(said[i])
        if parsed is None:
            kept[i] = False
        else:
            speakers[i], texts[i] = parsed[0], parsed[1].encode()
    if not kept.all():
        speakers = speakers[kept]
        texts = [text for text, keep in zip(texts, kept.tolist()) if keep]
    return speakers, Utf8.of_bytes(texts), kept


def _usual_texts(
    codes: npt.NDArray[np.uint8], starts: npt.NDArray[np.int64], ends: npt.NDArray[np.int64]
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64]]:
    """Which utterances are usual, bool [U], and where their text begins, int64 [U].

    True only for `user1` or `user2`, a colon, and text without a blank at an end. Utterance i is
    `codes[starts[i]:ends[i]]`, with 12 bytes or more behind the last.
    """
    heads = np.lib.stride_tricks.sliding_window_view(codes, 8)[starts].view("<u8")[:, 0]
    full = (heads == _USER1) | (heads == _USER2)
    heads &= _SIX_BYTES
    begins = starts + np.where(full, 8, 6)
    usual: npt.NDArray[np.bool_] = full | (heads == _USER1_HALF) | (heads == _USER2_HALF)
    usual &= ends > begins

    def three_bytes(first: npt.NDArray[np.int64]) -> npt.NDArray[np.int32]:
        high, middle, low = (codes[first + i].astype(np.int32) for i in range(3))
        return high << 16 | middle << 8 | low

    after, before = three_bytes(begins), three_bytes(ends - 3)
    usual &= (after >> 16 > 0x20) & (before & 0xFF > 0x20)
    for two in (0xC285, 0xC2A0, 0xD89C):  # U+0085, U+00A0, U+061C
        usual &= (after >> 8 != two) & (before & 0xFFFF != two)
    for edge in (after, before):
        usual &= (edge != 0xE38080) & (edge != 0xEFBBBF)  # U+3000, U+FEFF
        for two in (0xE19A, 0xE1A0, 0xE280, 0xE281):  # U+1680, U+180E, U+2000 to U+207F
            usual &= edge >> 8 != two
    return usual, begins
