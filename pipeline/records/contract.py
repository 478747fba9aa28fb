"""Records: what one row of a source is, how lines become rows, and which split a row belongs to.

Kinds of records, as JSON lines:

- `dialogues`: `{"topic": str, "user1": str, "user2": str, "dialog": ["user1：text", ...]}`
- `text`: `{"text": str}`, running text in order; read as dialogues of one utterance
- `pairs`: `{"source": str, "target": str}`
- `labelled`: `{"text": str, "label": str}`
- `tagged`: `{"tokens": [str, ...], "tags": [str, ...]}`, one tag a token
- `series`: `{"time": str, "value": number, "series": str}`, one observation; `series` may be absent

A label is a text: 1, 1.0, "1" and " 1" are the label 1; "007" and "1.0" are labels of their own.
Times and names of series are texts in the same way. A number is kept exactly or its row is
rejected; the digits of a fraction are rounded to 64 bits.

A row that breaks the contract is rejected with its line, a reason and its raw bytes; it never stops
the others. A block of lines is worked off in columns at a time, and only what does not fit the
common shape is looked at row by row: `read_utterance` and the `_fault_of_...` functions are the
definition, everything else is how to get there fast.

Shape letters: R rows, U utterances.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError, choose_from
from ..text.utf8 import BLANKS
from ..times import FORMS, readings
from .dialogues import Dialogues, _are_sound_dialogues, _dialogues, _fault_of_dialogue
from .json_lines import _has_inexact, _num_strings, _parse, _read_exactly, _strings
from .labelled import Labelled, _fault_of_labelled, _labelled
from .pairs import Pairs, _are_sound_pairs, _fault_of_pair, _pairs
from .rows import _TYPES, KINDS, RAW_BYTES, Rejected, _Faults
from .series import Series, _fault_of_observation, _observations
from .tagged import Tagged, _fault_of_tagged, _tagged
from .texts import _fault_of_text, _texts

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
    "not_exact": "a number with more digits than can be kept",
    "not_time": "a time that has no place in the order of time",
    "not_csv": "quotes that do not match",
    "unequal_columns": "another number of columns",
}
"""Why a row is rejected: the code and what it says."""

_OTHER_FILE = {
    "missing_key": "Say what the file holds (records.kind), or what its fields are called "
    "(records.fields)",
    "not_json": "Write a JSON object a line, or end the file's name as its format does, such as "
    ".csv or .txt",
    "not_object": "Write a JSON object a line",
    "unknown_label": "Add its labels to records.labels",
    "not_time": "Write times in one of these forms, or name their field in records.fields",
}
"""What to do about a file all of whose rows are rejected, for one reason above all."""


# --- settings -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RecordsConfig:
    """What the rows of the sources are.

    - `kind`: one of `KINDS`.
    - `fields`: the names that the files use where they differ from the contract's, for instance
      `{"source": "zh", "target": "en"}`.
    - `max_rejected`: the share of rows that may be rejected before the whole ingest is refused.
    - `labels`: of labelled records, the labels that there may be; any where it is empty.
    - `time_field`: the field of the files that holds the time of a row, by which a chronological
      split orders rows; where it is empty, they stand in the order of the sources.
    - `token_column`, `tag_column`: of tagged records in `.conll` files, which columns hold the
      tokens and the tags, from 1; negative numbers count from the last, -1. `token_column` 0 is the
      second column where the first one numbers the tokens, else the first.

    Raises `InputError` for a value that cannot work.
    """

    kind: str = "dialogues"
    fields: dict[str, str] = field(default_factory=dict)
    max_rejected: float = 0.05
    labels: tuple[str, ...] = ()
    time_field: str = ""
    token_column: int = 0
    tag_column: int = -1

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(
                f"there is no kind of records {self.kind!r}: {choose_from(self.kind, KINDS)}"
            )
        if self.time_field and self.kind == "series":
            raise InputError(
                "records.time_field is of records without a time of their own: name the field of"
                " a series by records.fields.time"
            )
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
        if (self.token_column, self.tag_column) != (0, -1) and self.kind != "tagged":
            raise InputError(
                "records.token_column and records.tag_column are of tagged records, and these are"
                f" {self.kind}"
            )
        if self.tag_column == 0 or self.token_column == self.tag_column:
            raise InputError(
                f"records.tag_column is {self.tag_column}: give the number of a column from 1, or"
                " from the last, -1, other than records.token_column"
            )
        if not 0 <= self.max_rejected <= 1:
            raise InputError(
                f"max_rejected is a share of the rows from 0 to 1, not {self.max_rejected}"
            )

    @property
    def file_fields(self) -> dict[str, str]:
        """The contract's name of every field, in order, and its name in the files."""
        return {name: self.fields.get(name, name) for name in KINDS[self.kind]}


Records = Dialogues | Pairs | Labelled | Tagged | Series


class Block(NamedTuple):
    """What a block of lines holds; `num_rows` counts accepted and rejected rows, no blank line.

    `times` are those of the records, where the contract names their field.
    """

    records: Records
    rejected: list[Rejected]
    num_rows: int
    num_dropped_utterances: int
    times: list[str] | None = None


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
    if config.kind in ("labelled", "series"):
        for i, row in enumerate(rows):
            if type(row) is dict and _has_inexact(row, names, lines[places[i]]):
                rows[i] = _read_exactly(row, lines[places[i]])
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
    times = None
    if config.time_field:
        given = [str(row[config.time_field]).strip(BLANKS) for row in rows]
        times = dict(zip(places, given, strict=True))
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
    kept = None if times is None else [times[place] for place in records.lines.tolist()]
    records = records._replace(lines=records.lines + first_line)
    return Block(records, rejected, num_rows, num_dropped, kept)


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


# A repeated key cannot be seen in what was parsed, where the last one wins. But then strings are
# missing.


def _num_strings_of(rows: list[Any], names: tuple[str, ...], kind: str) -> int:
    """The strings in all rows, which are sound."""
    if kind == "dialogues" and set(map(len, rows)) == {len(names)}:
        num_texts = 2 * len(names) - 1  # four keys, and three values beside the list
        return num_texts * len(rows) + sum(len(row[names[3]]) for row in rows)
    return sum(map(_num_strings, rows))


_FaultOf = Callable[[Any, tuple[str, ...]], tuple[str, str] | None]


_AreSound = Callable[[list[Any], tuple[str, ...]], bool]


def _fault_of_row_time(row: dict[str, Any], name: str) -> tuple[str, str] | None:
    if name not in row:
        return "missing_key", f"there is no {name!r}, which records.time_field names"
    if type(row[name]) not in (str, int, float):
        return "wrong_type", f"{name!r} is {_TYPES[type(row[name])]}, not a time"
    text = str(row[name]).strip(BLANKS)
    if readings(text):
        return None
    return "not_time", f"{name!r} is {text[:40]!r}, which has no place in time: write {FORMS}"


def _checks(config: RecordsConfig) -> tuple[_FaultOf, _AreSound]:
    """What is wrong with a row of this kind, and whether no row of a list has a fault."""
    fault_of, is_sound = _checks_of_kind(config)
    if not config.time_field:
        return fault_of, is_sound
    name = config.time_field
    return (
        lambda row, names: fault_of(row, names) or _fault_of_row_time(row, name),
        lambda rows, names: (
            is_sound(rows, names) and all(_fault_of_row_time(row, name) is None for row in rows)
        ),
    )


def _checks_of_kind(config: RecordsConfig) -> tuple[_FaultOf, _AreSound]:
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
