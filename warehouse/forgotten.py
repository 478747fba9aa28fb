"""Rows that their owner has withdrawn, known by digests alone, so that they never come back.

    root/forgotten.json     group -> digests of its rows; digests of rejected lines

A row is known by its texts, wherever it stands: the same text in another file, on another line or
under another topic is the same row. The file holds no text.
"""

import codecs
import hashlib
import html
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from warehouse.durable import permitted, replace_file
from warehouse.errors import StorageError

_FORMAT = 1
_NO_GROUP = ""
_ABOUT_THE_ROW = frozenset({"file", "group", "topic", "row_time"})
"""Columns of text that are not the row's own."""


class Forgotten:
    """The withdrawn rows of one warehouse, as they were when this was made."""

    def __init__(self, root: str | Path) -> None:
        """Raises StorageError where the list cannot be read: then nothing may be ingested."""
        self._path = Path(root) / "forgotten.json"
        self.rows: dict[str, set[str]] = {}
        self.lines: set[str] = set()
        try:
            with permitted(self._path):
                record = json.loads(self._path.read_bytes())
            if record["format"] != _FORMAT:
                raise StorageError(f"{self._path} was written by a newer version: update this one.")
            self.rows = {group: set(digests) for group, digests in record["rows"].items()}
            self.lines = set(record["lines"])
        except FileNotFoundError:
            pass
        except StorageError:
            raise
        except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
            raise StorageError(
                f"{self._path} is damaged, so withdrawn rows could come back: restore it."
            ) from error

    def add(self, batch: pa.RecordBatch) -> None:
        """Remember every row of a batch of records."""
        for group, digest in row_keys(batch):
            self.rows.setdefault(group, set()).add(digest)

    def add_line(self, raw: bytes) -> None:
        """Remember a rejected line."""
        self.lines.add(_line_digest(raw))

    def save(self) -> None:
        """Make the list durable; raises StorageError where it cannot be written."""
        record = {
            "format": _FORMAT,
            "rows": {group: sorted(digests) for group, digests in sorted(self.rows.items())},
            "lines": sorted(self.lines),
        }
        replace_file(self._path, json.dumps(record).encode())

    def without(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The rows of a batch of records that nobody has withdrawn."""
        if not self.rows:
            return batch
        suspects = [i for i, group in enumerate(_groups(batch)) if group in self.rows]
        if not suspects:
            return batch
        few = batch.take(pa.array(suspects, pa.int64()))
        withdrawn = {
            i
            for i, (group, digest) in zip(suspects, row_keys(few), strict=True)
            if digest in self.rows[group]
        }
        kept = [i for i in range(batch.num_rows) if i not in withdrawn]
        return batch.take(pa.array(kept, pa.int64()))

    def holds_line(self, raw: bytes) -> bool:
        """Whether a rejected line was withdrawn."""
        return bool(self.lines) and _line_digest(raw) in self.lines

    def holds_group_of(self, batch: pa.RecordBatch) -> bool:
        """Whether a row of the batch, cut or not, may come from a withdrawn one."""
        return not self.rows.keys().isdisjoint(_groups(batch))


class Sought:
    """A text to be found however it is written.

    It may be escaped as in JSON or HTML, several times over, written in full-width or half-width
    characters, and composed or decomposed as Unicode allows. In the bytes of a line it may also be
    encoded as GB18030 or UTF-16.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        plain = _decoded(text)[-1]
        # A text that means only blanks would be found everywhere: it is taken as it is written.
        self.plain = plain if plain.strip() else text

    def is_in(self, said: str) -> bool:
        """Whether a text holds it."""
        if self.text in said or self.plain in said:
            return True
        return any(self.plain in each for each in _decoded(said))

    def is_in_line(self, raw: bytes) -> bool:
        """Whether a line of a file holds it, as far as the line is kept."""
        return any(
            self.is_in(part.decode(encoding, "replace"))
            for encoding in _encodings_of(raw)
            # The end of a line in UTF-16 may belong to its first character.
            for part in ((raw, raw[1:]) if encoding.startswith("utf-16") else (raw,))
        )


_MAX_LAYERS = 8
"""How many times over a text may be escaped."""
_JSON_ESCAPE = re.compile(r'\\(?:[uU]([0-9a-fA-F]{4})|(["\\/bfnrt]))')
_JSON_CHARACTERS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}


def _decoded(text: str) -> list[str]:
    """A text with one layer of escapes after the other taken off, each time normalised (NFKC)."""
    layers = [unicodedata.normalize("NFKC", text)]
    for _ in range(_MAX_LAYERS):
        plain = unicodedata.normalize("NFKC", html.unescape(_without_json_escapes(layers[-1])))
        if plain == layers[-1]:
            break
        layers.append(plain)
    return layers


def _without_json_escapes(text: str) -> str:
    if "\\" not in text:
        return text
    found = _JSON_ESCAPE.sub(
        lambda match: (
            chr(int(match[1], 16)) if match[1] else _JSON_CHARACTERS.get(match[2], match[2])
        ),
        text,
    )
    # Two halves of a surrogate pair are one character.
    return found.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _encodings_of(raw: bytes) -> Sequence[str]:
    try:
        # The end of a line that was cut may be half a character.
        codecs.getincrementaldecoder("utf-8")().decode(raw)
    except UnicodeDecodeError:
        return ("utf-8", *OTHER_ENCODINGS)
    return ("utf-8", *OTHER_ENCODINGS[1:]) if b"\0" in raw else ("utf-8",)


OTHER_ENCODINGS = ("gb18030", "utf-16-le", "utf-16-be")
"""What a line that is not UTF-8 is also searched as; what has a NUL may be UTF-16 all the same."""


def is_utf8(raw: bytes) -> bool:
    """Whether a line, of which the end may be cut, is UTF-8."""
    return "gb18030" not in _encodings_of(raw)


def holding(batch: pa.RecordBatch, sought: Sought) -> pa.BooleanArray:
    """Bool [rows]: which rows have a text somewhere in their texts, the topic included.

    In rows of tokens it may reach over several, with or without blanks between them.
    """
    found = np.zeros(batch.num_rows, bool)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if field.name in ("file", "group"):
            continue
        if pa.types.is_string(field.type):
            found |= _texts_holding(column, sought)
        elif pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            parents = pc.list_parent_indices(column).to_numpy()
            found[parents[_texts_holding(column.flatten(), sought)]] = True
            if field.name == "tokens":
                for separator in ("", " "):
                    found |= _texts_holding(pc.binary_join(column, separator), sought)
    return pa.array(found)


def _texts_holding(texts: pa.StringArray, sought: Sought) -> npt.NDArray[np.bool_]:
    """Bool [N]: which texts hold it; only those that may are looked at one by one."""
    # Decomposed, since Arrow 25 leaves out the composition of NFKC.
    plain = pc.utf8_normalize(pa.array([sought.plain]), "NFKD")[0].as_py()
    similar = pc.match_substring(pc.utf8_normalize(texts, "NFKD"), plain)
    escaped = pc.match_substring_regex(texts, r"[&\\＆＼﹠﹨]")  # in full width, too
    found: npt.NDArray[np.bool_] = np.array(
        pc.fill_null(pc.match_substring(texts, sought.text), False)
    )
    maybe = np.array(pc.fill_null(pc.or_(similar, escaped), False))
    for row in np.flatnonzero(maybe & ~found).tolist():
        found[row] = sought.is_in(texts[row].as_py())
    return found


def texts_of(batch: pa.RecordBatch) -> Iterator[str]:
    """Every text of every row that is the row's own."""
    for row in _own_texts(batch):
        for value in row:
            each = value if isinstance(value, list) else [value]
            yield from (text for text in each if isinstance(text, str))


def row_keys(batch: pa.RecordBatch) -> Iterator[tuple[str, str]]:
    """The group and the digest by which each row of a batch of records is known."""
    return zip(_groups(batch), _digests(batch), strict=True)


def _groups(batch: pa.RecordBatch) -> list[str]:
    if "group" not in batch.schema.names:
        return [_NO_GROUP] * batch.num_rows
    groups: list[str] = batch.column("group").to_pylist()
    return groups


def _own_texts(batch: pa.RecordBatch) -> list[list[Any]]:
    """The texts of each row; all values but its place, where a row has no text."""
    names = [
        field.name
        for field in batch.schema
        if field.name not in _ABOUT_THE_ROW
        and (
            pa.types.is_string(field.type)
            or (pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type))
        )
    ] or [name for name in batch.schema.names if name not in ("file", "line", "group")]
    columns = [batch.column(name).to_pylist() for name in names]
    return [list(row) for row in zip(*columns, strict=True)]


def _digests(batch: pa.RecordBatch) -> list[str]:
    return [
        hashlib.blake2b(json.dumps(row).encode(), digest_size=16).hexdigest()
        for row in _own_texts(batch)
    ]


def _line_digest(raw: bytes) -> str:
    return hashlib.blake2b(raw, digest_size=16).hexdigest()
