"""Files of a source: names, formats, sizes."""

import os
import stat
from pathlib import Path
from typing import Any, BinaryIO

import fsspec
from pydantic import BaseModel

from warehouse.errors import StorageError

MAX_FIELD_CHARACTERS = 8 << 20  # of a .csv file; a quote that is never closed reads so far

MAX_SENTENCE_LINES = 100_000  # of a .conll file

MAX_EXPANSION = 200  # times its size that a compressed file may unpack to ...

FREE_EXPANSION_BYTES = 64 << 20  # ... once it has unpacked to this much

LINES, TABS, _CSV, CONLL, PARQUET = "json lines", "tabs", "csv", "conll", "parquet"

_FORMATS = {
    ".jsonl": LINES,
    ".ndjson": LINES,
    ".json": LINES,
    ".txt": TABS,
    ".tokens": TABS,
    ".tsv": TABS,
    ".csv": _CSV,
    ".conll": CONLL,
    ".bio": CONLL,
    ".parquet": PARQUET,
}

_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}


class SourceFile(BaseModel, frozen=True):
    """A file to read, or a piece of one.

    `digest` is the BLAKE3 (hex) of its `num_bytes` bytes. They begin at byte `begin` of the file,
    with line `first_line`. `layout` says what the columns are in a piece of a `.parquet` file, in
    whose bytes that does not stand.
    """

    address: str
    digest: str
    num_bytes: int
    begin: int = 0
    first_line: int = 1
    layout: str = ""

    def cache_digest(self) -> str:
        """The identity of what is read from it, wherever it lies."""
        kind = f"{format_of(self.address)} {compression_of(self.address)}"
        return f"{kind} {self.digest} {self.first_line} {self.layout}"


def row_group_starts(footer: Any) -> list[int]:
    """The byte with which each row group begins."""
    starts = []
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        columns = [group.column(i) for i in range(group.num_columns)]
        pages = [(each.dictionary_page_offset, each.data_page_offset) for each in columns]
        starts.append(min((page for both in pages for page in both if page), default=0))
    return starts


def _open(address: str) -> BinaryIO:
    if "://" in address:
        remote: BinaryIO = fsspec.open(address, "rb").open()
        return remote
    # Opening a pipe waits for whoever writes to it, so look before.
    if not stat.S_ISREG(os.stat(address).st_mode):
        raise StorageError(f"{printable(address)} is not a regular file: name one.")
    return Path(address).open("rb")


def is_known(name: str) -> bool:
    """Return whether the name ends as a format that can be read does."""
    return os.path.splitext(_without_compression(name))[1].lower() in _FORMATS


def _without_compression(address: str) -> str:
    return os.path.splitext(address)[0] if compression_of(address) else address


def compression_of(address: str) -> str:
    """Return the compression that the name ends in; empty without one."""
    return _COMPRESSIONS.get(os.path.splitext(address)[1].lower(), "")


def format_of(address: str) -> str:
    """Return the format that the name ends in."""
    form = _FORMATS.get(os.path.splitext(_without_compression(address))[1].lower())
    if form is None or (form == PARQUET and compression_of(address)):
        raise StorageError(
            f"{printable(address)} is not a file that can be read: {known_formats()}."
        )
    return form


def known_formats() -> str:
    """Return the endings that can be read, for messages."""
    return f"names end in {', '.join(_FORMATS)}, with or without {' or '.join(_COMPRESSIONS)}"


def printable(address: str) -> str:
    """An address, safe to print."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in address[:500])
