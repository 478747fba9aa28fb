"""Files of a source: names, formats, sizes."""

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
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
    whose bytes that does not stand. A file that `leads_outside` is a link from the folder of the
    source to elsewhere: whoever may put a link there may not be meant to see what it leads to.
    """

    address: str
    digest: str
    num_bytes: int
    begin: int = 0
    first_line: int = 1
    layout: str = ""
    leads_outside: bool = False

    def cache_digest(self) -> str:
        """The identity of what is read from it, wherever it lies."""
        kind = f"{format_of(self.address)} {compression_of(self.address)}"
        place = " outside" if self.leads_outside else ""
        return f"{kind} {self.digest} {self.first_line} {self.layout}{place}"


def row_group_starts(footer: Any) -> list[int]:
    """The byte with which each row group begins."""
    starts = []
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        columns = [group.column(i) for i in range(group.num_columns)]
        pages = [(each.dictionary_page_offset, each.data_page_offset) for each in columns]
        starts.append(min((page for both in pages for page in both if page), default=0))
    return starts


@contextmanager
def _open(address: str) -> Iterator[BinaryIO]:
    if _is_remote(address):
        # A file in an archive is readable as long as this object of fsspec is kept.
        with fsspec.open(address, "rb") as remote:
            yield remote
        return
    # Opening a pipe waits for whoever writes to it, so look before.
    mode = os.stat(address).st_mode
    if not stat.S_ISREG(mode):
        what = _NO_FILES.get(stat.S_IFMT(mode), "something else")
        raise StorageError(
            f"{printable(address)} is {what}, not a regular file: name a file, or copy what it"
            " gives into one."
        )
    with Path(address).open("rb") as file:
        yield file


def is_known(name: str) -> bool:
    """Return whether the name ends as a format that can be read does."""
    return os.path.splitext(_without_compression(name))[1].lower() in _FORMATS


def _without_compression(name: str) -> str:
    base, ending = os.path.splitext(name)
    return base if ending.lower() in _COMPRESSIONS else name


def compression_of(address: str) -> str:
    """Return the compression that the name ends in; empty without one."""
    return _COMPRESSIONS.get(os.path.splitext(_name_of(address))[1].lower(), "")


def format_of(address: str) -> str:
    """Return the format that the name ends in."""
    ending = os.path.splitext(_without_compression(_name_of(address)))[1].lower()
    form = _FORMATS.get(ending)
    if form is None and ending in _FOREIGN_NAMES:
        what, remedy = _FOREIGN_NAMES[ending]
        raise StorageError(f"{printable(address)} is {what} by its name: {remedy}.")
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


_UNPACK = "unpack it"

_ZIP = "unpack it, or name a file in it: zip://NAME::ARCHIVE"

_SPREADSHEET = "save it as CSV UTF-8"

_FOREIGN_NAMES = {
    ".zip": ("a zip archive", _ZIP),
    ".tar": ("a tar archive", _UNPACK),
    ".tgz": ("a tar archive", _UNPACK),
    ".7z": ("a 7z archive", _UNPACK),
    ".rar": ("a rar archive", _UNPACK),
    ".bz2": ("a bzip2 file", "unpack it (bunzip2)"),
    ".xz": ("an xz file", "unpack it (unxz)"),
    ".lz4": ("an lz4 file", "unpack it (unlz4)"),
    ".xlsx": ("an Excel workbook", _SPREADSHEET),
    ".xls": ("an Excel workbook", _SPREADSHEET),
    ".ods": ("a spreadsheet", _SPREADSHEET),
    ".pdf": ("a PDF document", "save its text"),
}

_NO_FILES = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def _is_remote(address: str) -> bool:
    """Whether fsspec opens it: it has a scheme, or is a chain of several (`zip://a::b`)."""
    scheme = address.partition("::")[0]
    return "://" in address or (
        scheme != address and scheme in fsspec.available_protocols() and not os.path.exists(address)
    )


def _links(address: str) -> tuple[list[str], int]:
    """The links of a chained address, and which of them holds the path of the file.

    That is the first one with a path: `simplecache::s3://a/b.jsonl` caches what the second names.
    """
    links = address.split("::") if _is_remote(address) else [address]
    return links, next((i for i, link in enumerate(links) if link.partition("://")[2]), 0)


def _name_of(address: str) -> str:
    """The end of an address by which the format is known."""
    links, place = _links(address)
    scheme, _, path = links[place].partition("://")
    if scheme in ("http", "https"):
        return path.partition("?")[0].partition("#")[0]
    return links[place]
