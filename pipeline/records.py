"""Records: what one row of a source is, how lines become rows, and which split a row belongs to.

Kinds of records, as JSON lines:

- `dialogues`: `{"topic": str, "user1": str, "user2": str, "dialog": ["user1：text", ...]}`
- `text`: `{"text": str}`, running text in order; read as dialogues of one utterance
- `pairs`: `{"source": str, "target": str}`
- `labelled`: `{"text": str, "label": str}`
- `tagged`: `{"tokens": [str, ...], "tags": [str, ...]}`, one tag a token
- `series`: `{"time": str, "value": number, "series": str}`, one observation; `series` may be absent

A row that breaks the contract is rejected with its line, a reason and its raw bytes; it never stops
the others. A block of lines is worked off in columns at a time, and only what does not fit the
common shape is looked at row by row: `read_utterance` and the `_fault_of_...` functions are the
definition, everything else is how to get there fast.

Shape letters: R rows, U utterances.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import chain, pairwise
from types import NoneType
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from .errors import InputError
from .text import BLANKS, Utf8, normalise_batch

KINDS: dict[str, tuple[str, ...]] = {
    "dialogues": ("topic", "user1", "user2", "dialog"),
    "text": ("text",),
    "pairs": ("source", "target"),
    "labelled": ("text", "label"),
    "tagged": ("tokens", "tags"),
    "series": ("time", "value", "series"),
}
"""The kinds of records and the names that their contract has."""
IN_ORDER = ("text", "series")
"""Kinds whose rows mean something only in their order."""

REASONS = {
    "not_utf8": "not UTF-8",
    "not_json": "not JSON",
    "repeated_key": "a key given twice",
    "not_object": "not a JSON object",
    "missing_key": "a key is missing",
    "wrong_type": "a value of the wrong type",
    "no_utterances": "no utterance with a speaker and text",
    "empty_side": "an empty source or target",
    "empty_text": "an empty text",
    "empty_label": "an empty label",
    "unknown_label": "a label that is not among records.labels",
    "unequal_lengths": "not one tag for each token",
    "not_number": "a value that is no finite number",
}
"""Why a row is rejected: the code and what it says."""

SPLITS = ("train", "valid", "test")
_OTHER_FILE = {
    "missing_key": "Say what the file holds (records.kind), or what its fields are called "
    "(records.fields)",
    "not_json": "Write a JSON object a line, or end the file's name as its format does, such as "
    ".csv or .txt",
    "not_object": "Write a JSON object a line",
    "unknown_label": "Add its labels to records.labels",
}
"""What to do about a file all of whose rows are rejected, for one reason above all."""
RAW_BYTES = 4096
"""How much of a rejected line is kept."""

_PREFIX = re.compile(rf"[Uu][Ss][Ee][Rr]([12])[{re.escape(BLANKS)}]*[：:]")
_TYPES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a truth value",
    NoneType: "null",
}


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecordsConfig:
    """What the rows of the sources are.

    - `kind`: one of `KINDS`.
    - `fields`: the names that the files use where they differ from the contract's, for instance
      `{"source": "zh", "target": "en"}`.
    - `max_rejected`: the share of rows that may be rejected before the whole ingest is refused.
    - `labels`: of labelled records, the labels that there may be; any where it is empty.

    Raises `InputError` for a value that cannot work.
    """

    kind: str = "dialogues"
    fields: dict[str, str] = field(default_factory=dict)
    max_rejected: float = 0.05
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f"there is no kind of records {self.kind!r}: use {', '.join(KINDS)}")
        contract = KINDS[self.kind]
        for name in self.fields:
            if name not in contract:
                raise InputError(
                    f"{self.kind} have no field {name!r}: name one of {', '.join(contract)}"
                )
        names = list(self.file_fields.values())
        for name in names:
            if names.count(name) > 1:
                raise InputError(
                    f"two fields of {self.kind} cannot both be {name!r} in the file: give each its"
                    " own name"
                )
        if self.labels and self.kind != "labelled":
            raise InputError(f"records.labels are of labelled records, and these are {self.kind}")
        if not 0 <= self.max_rejected <= 1:
            raise InputError(
                f"max_rejected is a share of the rows from 0 to 1, not {self.max_rejected}"
            )

    @property
    def file_fields(self) -> dict[str, str]:
        """The contract's name of every field, in order, and its name in the files."""
        return {name: self.fields.get(name, name) for name in KINDS[self.kind]}


SPLIT_BY = ("hash", "chronological")


@dataclass(frozen=True)
class SplitsConfig:
    """Which share of the groups is kept from training, and how it is chosen.

    - `valid`, `test`: shares from 0 to 1.
    - `salt`: another salt draws other groups (at most 64 bytes of UTF-8).
    - `by`: "hash" (of the group: nothing ever changes its split) or "chronological" (the groups
      that arrived last are the test split, those before them the validation split; as data grows,
      what was held out comes into training).
    - `similarity`: texts whose three-character shingles have at least this Jaccard similarity (0.5
      to 1) are near duplicates; one of a text that is held out is never trained on.
    - `near_duplicates`: what to do with near duplicates inside of training: "keep" them or "drop"
      all but the first.

    Raises `InputError` for a value that cannot work.
    """

    valid: float = 0.1
    test: float = 0.1
    salt: str = "tidemill"
    by: str = "hash"
    similarity: float = 0.8
    near_duplicates: str = "keep"

    def __post_init__(self) -> None:
        if not (0 <= self.valid <= 1 and 0 <= self.test <= 1 and self.valid + self.test <= 1):
            raise InputError(
                "the shares valid and test lie between 0 and 1, together too, and are not"
                f" {self.valid} and {self.test}"
            )
        if len(self.salt.encode()) > 64:
            raise InputError("the salt of the splits is longer than 64 bytes: take a shorter one")
        if self.by not in SPLIT_BY:
            raise InputError(f"unknown splits.by {self.by!r}: choose from {', '.join(SPLIT_BY)}")
        if not 0.5 <= self.similarity <= 1:
            raise InputError(f"splits.similarity is {self.similarity}: give 0.5 to 1")
        if self.near_duplicates not in ("keep", "drop"):
            raise InputError(
                f"splits.near_duplicates is {self.near_duplicates!r}: use keep or drop"
            )


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


class Pairs(NamedTuple):
    """R sentence pairs in columns: `lines` int64 [R], R groups, R sources and R targets."""

    lines: npt.NDArray[np.int64]
    groups: list[str]
    sources: Utf8
    targets: Utf8


class Labelled(NamedTuple):
    """R labelled texts in columns: `lines` int64 [R], R groups, R texts and R labels."""

    lines: npt.NDArray[np.int64]
    groups: list[str]
    texts: Utf8
    labels: Utf8


class Tagged(NamedTuple):
    """R tagged texts in columns: text i owns the tokens and tags `offsets[i]:offsets[i + 1]`."""

    lines: npt.NDArray[np.int64]
    groups: list[str]
    offsets: npt.NDArray[np.int64]
    tokens: Utf8
    tags: Utf8


class Series(NamedTuple):
    """R observations in columns: of which series, when, and the value, float64 [R]."""

    lines: npt.NDArray[np.int64]
    names: Utf8
    times: Utf8
    values: npt.NDArray[np.float64]


Records = Dialogues | Pairs | Labelled | Tagged | Series


class Block(NamedTuple):
    """What a block of lines holds; `num_rows` counts accepted and rejected rows, no blank line."""

    records: Records
    rejected: list[Rejected]
    num_rows: int
    num_dropped_utterances: int


def read_block(block: bytes, first_line: int, config: RecordsConfig) -> Block:
    """Read whole lines of JSON.

    Lines end at LF; a CR before it does not count, blank lines are skipped. A row is rejected that
    is not UTF-8 or not JSON (NaN, lone surrogates, numbers beyond 1.8e308 and nesting beyond 1,024
    levels are not), gives a key twice in one object, lacks a field or has one of another type. Keys
    that the contract does not name are ignored.

    Args:
        block: lines; only the last line of a file may lack its LF.
        first_line: the number of the first line in its file, from 1.
        config: what the rows are.
    """
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    rows, places, faults = _parse(lines)
    num_rows = len(rows) + len(faults)
    names = tuple(config.file_fields.values())
    fault_of, is_sound = _checks(config)
    if not is_sound(rows, names):
        rows, places = _without(rows, places, faults, lambda row, _: fault_of(row, names))
    text = block if len(rows) == len(lines) else b"\n".join([lines[i] for i in places])
    strings = _strings(text)
    if len(strings.starts) != _num_strings_of(rows, names, config.kind):
        rows, places = _without(
            rows,
            places,
            faults,
            lambda row, i: (
                None
                if len(_strings(lines[i]).starts) == _num_strings(row)
                else ("repeated_key", "a key is given twice in one object")
            ),
        )
        text = b"\n".join([lines[i] for i in places])
        strings = _strings(text)
    where = np.array(places, np.int64)
    num_dropped = 0
    records: Records
    if config.kind == "dialogues":
        records, num_dropped = _dialogues(rows, where, names, faults, strings)
    elif config.kind == "labelled":
        records = _labelled(rows, where, names, config.labels)
    else:
        records = _READERS[config.kind](rows, where, names)
    rejected = [
        Rejected(first_line + i, reason, detail, lines[i].removesuffix(b"\r")[:RAW_BYTES])
        for i, (reason, detail) in sorted(faults.items())
    ]
    records = records._replace(lines=records.lines + first_line)
    return Block(records, rejected, num_rows, num_dropped)


_Faults = dict[int, tuple[str, str]]  # place of a line in the block -> reason and detail


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
    return "not_json", f"{problem} at character {position + 1} of the line{remedy}"


def _without(
    rows: list[Any],
    places: Sequence[int],
    faults: _Faults,
    fault_of: Callable[[Any, int], tuple[str, str] | None],
) -> tuple[list[Any], list[int]]:
    """The rows without fault and their places; the faults of the others are noted."""
    good_rows: list[Any] = []
    good_places: list[int] = []
    for row, place in zip(rows, places):
        fault = fault_of(row, place)
        if fault is None:
            good_rows.append(row)
            good_places.append(place)
        else:
            faults[place] = fault
    return good_rows, good_places


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


# A repeated key cannot be seen in what was parsed, where the last one wins. But then strings are
# missing.


def _num_strings_of(rows: list[Any], names: tuple[str, ...], kind: str) -> int:
    """The strings in all rows, which are sound."""
    if kind == "dialogues" and set(map(len, rows)) == {len(names)}:
        num_texts = 2 * len(names) - 1  # four keys, and three values beside the list
        return num_texts * len(rows) + sum(len(row[names[3]]) for row in rows)
    return sum(map(_num_strings, rows))


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


def _missing(name: str, row: dict[str, Any]) -> str:
    """Which key a row lacks, and the kind of records whose keys it has."""
    known = [kind for kind, contract in KINDS.items() if all(key in row for key in contract)]
    if known:
        kind = max(known, key=lambda each: len(KINDS[each]))
        return f"there is no {name!r}; its keys are those of {kind}: set records.kind={kind}"
    return f"there is no {name!r}"


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


def _is_label(value: Any) -> bool:
    return type(value) in (str, int, bool) or (type(value) is float and value.is_integer())


def _fault_of_labelled(
    row: Any, names: tuple[str, ...], labels: tuple[str, ...]
) -> tuple[str, str] | None:
    fault = _fault_of_text(row, names)
    if fault is not None:
        return fault
    name = names[1]
    if name not in row:
        return "missing_key", _missing(name, row)
    if not _is_label(row[name]):
        kind = _TYPES[type(row[name])]
        return "wrong_type", f"{name!r} is {kind}, not a string or a whole number"
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


_FaultOf = Callable[[Any, tuple[str, ...]], tuple[str, str] | None]


def _checks(
    config: RecordsConfig,
) -> tuple[_FaultOf, Callable[[list[Any], tuple[str, ...]], bool]]:
    """What is wrong with a row of this kind, and whether no row of a list has a fault."""
    if config.kind == "dialogues":
        return _fault_of_dialogue, _are_sound_dialogues
    if config.kind == "pairs":
        return _fault_of_pair, _are_sound_pairs
    fault_of: _FaultOf = {
        "text": _fault_of_text,
        "labelled": lambda row, names: _fault_of_labelled(row, names, config.labels),
        "tagged": _fault_of_tagged,
        "series": _fault_of_observation,
    }[config.kind]
    return fault_of, lambda rows, names: all(fault_of(row, names) is None for row in rows)


_READERS: dict[str, Callable[[list[Any], npt.NDArray[np.int64], tuple[str, ...]], Records]] = {
    "text": _texts,
    "pairs": _pairs,
    "tagged": _tagged,
    "series": _observations,
}


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


def split_of(groups: Iterable[str], config: SplitsConfig) -> npt.NDArray[np.str_]:
    """The split of each group: "train", "valid" or "test", as an array of strings.

    It is decided by a keyed hash of the group alone, so that a row never changes its split while
    others come and go, and equal rows are always in the same one.
    """
    key = config.salt.encode()
    draws = [
        int.from_bytes(hashlib.blake2b(group.encode(), digest_size=8, key=key).digest(), "big")
        for group in groups
    ]
    shares = np.array(draws, np.float64) / 2.0**64
    held_out = np.where(shares < config.test, "test", "valid")
    return np.where(shares < config.test + config.valid, held_out, "train")


def check_rejected(
    sources: str, num_accepted: int, reasons: Counter[str], example: str, config: RecordsConfig
) -> None:
    """Refuse sources of which too many rows were rejected, or none is left.

    Args:
        sources: what was read, as the message shall name it.
        num_accepted: rows that were accepted.
        reasons: how many rows were rejected for each key of `REASONS`.
        example: where one of them is and what is wrong with it.
        config: what was allowed.

    Raises:
        InputError: with the counts and the most frequent reasons.
    """
    num_rejected = reasons.total()
    num_rows = num_accepted + num_rejected
    if num_rows == 0:
        raise InputError(f"{sources} has no rows: pass a file that holds {config.kind}")
    if num_accepted and num_rejected <= config.max_rejected * num_rows:
        return
    frequent = ", ".join(f"{REASONS[code]} ({n})" for code, n in reasons.most_common(3))
    share = num_rejected / num_rows
    allowed = f"at most {config.max_rejected:.1%} may be" if num_accepted else "none is left"
    reason = reasons.most_common(1)[0][0]
    remedy = "Correct the rows"
    if reason == "not_utf8":
        remedy = "Convert the file to UTF-8 (iconv)"
    elif not num_accepted:
        # Not one row fits: the file is another one than was said, not full of slips.
        remedy = _OTHER_FILE.get(reason, remedy)
    if num_accepted:
        remedy += f" or allow more: --set records.max_rejected={math.ceil(share * 100) / 100:g}"
    raise InputError(
        f"{sources}: {num_rejected} of {num_rows} rows were rejected ({share:.1%}; {allowed}):"
        f" {frequent}; for instance {example}. {remedy}."
    )
