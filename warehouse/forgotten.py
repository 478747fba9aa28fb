"""Rows that their owner has withdrawn, known by digests alone, so that they never come back.

    root/forgotten.json     group -> digests of its rows; digests of rejected lines

A row is known by its texts, wherever it stands: the same text in another file, on another line or
under another topic is the same row. The file holds no text.
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from warehouse.durable import permitted, replace_file
from warehouse.errors import StorageError

_FORMAT = 1
_NO_GROUP = ""
_ABOUT_THE_ROW = frozenset({"file", "group", "topic"})  # columns of text that are not the row's own


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


def holding(batch: pa.RecordBatch, text: str) -> pa.BooleanArray:
    """Bool [rows]: which rows have `text` somewhere in their texts, the topic included."""
    found = pa.array([False] * batch.num_rows)
    for field, column in zip(batch.schema, batch.columns, strict=True):
        if field.name in ("file", "group"):
            continue
        if pa.types.is_string(field.type):
            found = pc.or_(found, pc.match_substring(column, text))
        elif pa.types.is_list(field.type) and pa.types.is_string(field.type.value_type):
            hits = pc.match_substring(column.flatten(), text)
            rows = pc.list_parent_indices(column).filter(hits)
            numbers = pa.array(range(batch.num_rows), rows.type)
            found = pc.or_(found, pc.is_in(numbers, value_set=rows))
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
