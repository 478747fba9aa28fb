"""Sources: where data comes from, as blocks of whole lines.

A source is a file of one of these formats, by the end of its name, plain or compressed (`.gz`,
`.zst`):

- `.jsonl`, `.ndjson`, `.json`: one JSON object a line;
- `.txt`, `.tokens`, `.tsv`: columns separated by tabs, without a header and without quoting;
- `.csv`: a header, commas (or semicolons, tabs, bars), quotes (RFC 4180);
- `.conll`, `.bio`: a token and its tag a line among other columns, a blank line behind each
  sentence, comments (`#`);
- `.parquet`: one record a row.

All of them come out as lines of JSON, so that whoever reads them needs to know one format. A file
is read as a stream in bounded memory, and its bytes are compared with the digest that it was found
under: what changes while it is read is refused.

A large file of plain lines is found as several pieces, each with a digest of its own, which can be
read at the same time. Where it is cut depends on the bytes before the cut alone, so a file that
grows at its end keeps all its pieces but the last. A `.parquet` file is cut between row groups. The
others are read as one stream, in no more memory: a compressed file can be unpacked from its start
alone; in a `.csv` a line end may stand in a quoted field, and in a `.conll` within a sentence, so
that only who reads from the start knows where a record begins.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
from blake3 import blake3

from warehouse.errors import StorageError, one_line
from warehouse.sources.bytes import _decoded, _with_line_feeds, byte_chunks
from warehouse.sources.conll import TokenColumns, conll_blocks
from warehouse.sources.delimited import csv_blocks, tab_blocks
from warehouse.sources.files import (
    CONLL,
    LINES,
    PARQUET,
    TABS,
    SourceFile,
    _is_remote,
    _links,
    _open,
    compression_of,
    format_of,
    is_known,
    known_formats,
    printable,
    row_group_starts,
)
from warehouse.sources.foreign import BOM
from warehouse.sources.formats import parquet_blocks, refusing_arrays
from warehouse.sources.left_out import LeftOut

BLOCK_BYTES = 1 << 20

PIECE_BYTES = 64 << 20  # a piece ends with the line that reaches so far

MAX_LINE_BYTES = 64 << 20

MAX_DICTIONARY_BYTES = 4 << 20


# --- finding --------------------------------------------------------------------------------------


def find_sources(addresses: Sequence[str]) -> list[SourceFile]:
    """Every file that the addresses name, in their order, each once, in its pieces.

    An address is a path, a pattern (`data/*.jsonl`), a folder (all files of a known format below
    it, hidden ones excepted) or anything that fsspec opens (`s3://`, `hf://`, `https://`), also in
    chains (`zip://*.jsonl::archive.zip`, `simplecache::https://...`). Files of one pattern or
    folder are sorted. A link to a folder is followed, but each folder is entered once.

    Raises:
        StorageError: an address names nothing, or something that is no file of a known format or
            cannot be read.
    """
    if not addresses:
        raise StorageError("There is no source to read: name at least one file.")
    found: dict[str, bool] = {}
    for address in addresses:
        files = sorted(set(_expand(address)))
        for file, outside in zip(files, _lead_outside(files, address), strict=True):
            found.setdefault(file, outside)
    return [
        piece.model_copy(update={"leads_outside": True}) if outside else piece
        for file, outside in found.items()
        for piece in _pieces(file)
    ]


def _expand(address: str) -> list[str]:
    if "\0" in address or not address:
        raise StorageError(f"{printable(address)} is not an address: name a file.")
    if _is_remote(address):
        return _expand_remote(address)
    if os.path.isdir(address):
        found = _files_below(address)
        if not found:
            raise StorageError(
                f"The folder {printable(address)} holds no file to read: {known_formats()}."
            )
        return found
    if not os.path.lexists(address) and glob.has_magic(address):
        found = [path for path in _matching(address) if not os.path.isdir(path)]
        if not found:
            raise StorageError(
                f"No file matches {printable(address)}: put one there, or correct the pattern."
            )
        return found
    return [address]


def _lead_outside(files: Sequence[str], address: str) -> Iterator[bool]:
    """Which files are links, or below a link, to outside of the folder that the address names."""
    if _is_remote(address) and not address.startswith(("file://", "local://")):
        yield from (False for _ in files)
        return
    folder = address if os.path.isdir(address) else os.path.dirname(_without_magic(address))
    top = os.path.realpath(folder.partition("://")[2] or folder)
    places: dict[str, str] = {}
    for file in files:
        file = file.partition("://")[2] if _is_remote(file) else file
        place = os.path.dirname(file)
        if place not in places:
            places[place] = os.path.realpath(place)
        real = os.path.realpath(file) if os.path.islink(file) else os.path.join(places[place], "")
        yield not f"{real}/".startswith(os.path.join(top, ""))


def _without_magic(address: str) -> str:
    """An address up to the first part of it that is a pattern."""
    if os.path.lexists(address):
        return address
    parts = address.split("/")
    patterns = [i for i, part in enumerate(parts) if glob.has_magic(part)]
    return "/".join([*parts[: patterns[0]], ""]) if patterns else address


def _files_below(folder: str) -> list[str]:
    return [
        os.path.join(place, name)
        for place, names in _folders_below(folder)
        for name in names
        if not name.startswith(".") and is_known(name)
    ]


def _folders_below(folder: str) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, hidden ones excepted, each once, and the names of their files.

    So links that lead back to a folder above end.
    """
    entered: set[tuple[int, int]] = set()
    for place, subfolders, names in os.walk(folder, followlinks=True):
        status = os.stat(place)
        if (status.st_dev, status.st_ino) in entered:
            subfolders.clear()
            continue
        entered.add((status.st_dev, status.st_ino))
        subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
        yield place, names


def _matching(pattern: str) -> list[str]:
    """What matches a pattern, in which `**` stands for any folders."""
    # Not glob's own way, which follows links in a circle until a path is too long.
    pattern = _FOLDERS_TWICE.sub("**", pattern)
    before, star, after = f"/{pattern}".partition("/**/")
    if not star:
        if not pattern.endswith("/**") and pattern != "**":
            return glob.glob(pattern)
        before, after = f"/{pattern}".removesuffix("/**"), "*"
    top = before[1:] or ("/" if pattern.startswith("/") else "")
    return [
        path if top else path.removeprefix("./")
        for start in (glob.glob(top) if glob.has_magic(top) else [top or "."])
        for folder, _ in _folders_below(start)
        for path in _matching(os.path.join(glob.escape(folder), after))
    ]


def _expand_remote(address: str) -> list[str]:
    links, place = _links(address)
    for link in links:
        user, at, _ = link.partition("://")[2].partition("/")[0].rpartition("@")
        if at and ":" in user:
            raise StorageError(
                "The address of a source holds a password, which would be kept beside the data:"
                " give it by the environment, such as FSSPEC_FTP_USERNAME and FSSPEC_FTP_PASSWORD."
            )
    with _reading(address):
        system, path = fsspec.url_to_fs(address)
        scheme = links[place].partition("://")[0]
        if glob.has_magic(path) and not system.exists(path):
            found = [name for name in system.glob(path) if not system.isdir(name)]
        elif system.isdir(path):
            found = [name for name in system.find(path) if is_known(name)]
        else:
            return [address]
        if not found:
            raise StorageError(f"No file matches {printable(address)}: correct the address.")
        ends = [f"{scheme}://{str(name).removeprefix(f'{scheme}://')}" for name in found]
        return ["::".join([*links[:place], end, *links[place + 1 :]]) for end in ends]


def _pieces(address: str) -> Iterator[SourceFile]:
    """The file cut behind the first line end at or after every `PIECE_BYTES`, where it can be."""
    if address != address.encode(errors="replace").decode():
        raise StorageError(f"The name of {printable(address)} is not UTF-8: rename the file.")
    can_be_cut = format_of(address) in (LINES, TABS) and not compression_of(address)
    with _reading(address), _open(address) as file:
        if format_of(address) == PARQUET:
            yield from _parquet_pieces(address, file)
            return
        piece = _Piece(address)
        while chunk := file.read(BLOCK_BYTES):
            rest = memoryview(chunk)
            while can_be_cut and piece.num_bytes + len(rest) >= PIECE_BYTES:
                done = len(chunk) - len(rest)
                end = chunk.find(b"\n", done + max(0, PIECE_BYTES - piece.num_bytes - 1)) + 1 - done
                if end <= 0:
                    break
                piece.add(rest[:end], chunk.count(b"\n", done, done + end))
                yield piece.finish()
                piece = _Piece(address, piece.begin + piece.num_bytes, piece.next_line)
                rest = rest[end:]
            done = len(chunk) - len(rest)
            piece.add(rest, chunk.count(b"\n", done) if can_be_cut else 0)
        if piece.num_bytes or not piece.begin:
            yield piece.finish()


def _parquet_pieces(address: str, file: BinaryIO) -> Iterator[SourceFile]:
    """The file cut before the row group with which every `PIECE_BYTES` of values are complete.

    What the bytes of a row group mean stands at the end of the file, so each piece of several is
    told the columns.
    """
    bounds, layout = _parquet_cuts(file)
    file.seek(0)
    piece = _Piece(address, layout=layout)
    for end, next_line in bounds:
        while piece.begin + piece.num_bytes < end:
            wanted = min(BLOCK_BYTES, end - piece.begin - piece.num_bytes)
            if not (chunk := file.read(wanted)):
                break
            piece.add(memoryview(chunk), 0)
        yield piece.finish()
        piece = _Piece(address, end, next_line, layout)
    while chunk := file.read(BLOCK_BYTES):
        piece.add(memoryview(chunk), 0)
    yield piece.finish()


def _parquet_cuts(file: BinaryIO) -> tuple[list[tuple[int, int]], str]:
    """Where the file is cut: each time the byte and the row, from 1, behind it; and its columns.

    There is no cut in a small file, in one whose row groups are not in order, and in one that
    cannot be read, about which whoever reads it will complain.
    """
    try:
        footer = pq.read_metadata(file)
    except (pa.ArrowException, OSError):
        return [], ""
    starts = row_group_starts(footer)
    bounds: list[tuple[int, int]] = []
    num_bytes, next_line = 0, 1
    for group, start in enumerate(starts):
        if num_bytes >= PIECE_BYTES:
            bounds.append((start, next_line))
            num_bytes = 0
        num_bytes += footer.row_group(group).total_byte_size
        next_line += footer.row_group(group).num_rows
    if not bounds or starts != sorted(set(starts)):
        return [], ""
    codecs = [footer.row_group(0).column(i).compression for i in range(footer.num_columns)]
    return bounds, f"{footer.schema.to_arrow_schema()} {codecs}"


class _Piece:
    """A piece of a file that is being read for the first time."""

    def __init__(self, address: str, begin: int = 0, first_line: int = 1, layout: str = "") -> None:
        self.begin = begin
        self.next_line = self._first_line = first_line
        self.num_bytes = 0
        self._address = address
        self._digest = blake3()
        self._layout = layout

    def add(self, chunk: memoryview, num_lines: int) -> None:
        self._digest.update(chunk)
        self.num_bytes += len(chunk)
        self.next_line += num_lines

    def finish(self) -> SourceFile:
        return SourceFile(
            address=self._address,
            digest=self._digest.hexdigest(),
            num_bytes=self.num_bytes,
            begin=self.begin,
            first_line=self._first_line,
            layout=self._layout,
        )


_FOLDERS_TWICE = re.compile(r"(?<![^/])\*\*(/\*\*)+(?![^/])")


def blocks(
    source: SourceFile,
    columns: Sequence[str] = ("source", "target"),
    block_bytes: int = BLOCK_BYTES,
    token_columns: TokenColumns = TokenColumns(),  # noqa: B008
    left_out: LeftOut | None = None,
) -> Iterator[tuple[bytes, int]]:
    """A file or a piece as blocks of whole lines of JSON, each with the number of its first line.

    A line keeps the number that it has in the file; what takes several lines there (a quoted field
    of a `.csv`) is followed by blank ones. In a `.parquet` a row counts as a line.

    Args:
        source: what `find_sources` found.
        columns: the names of the columns of a file without a header, in order; more are ignored.
        block_bytes: about the size of a block, before it is made to end with a line.
        token_columns: which columns of a `.conll` file hold the tokens and the tags.
        left_out: takes what of a `.csv` or `.conll` file is in no block.

    Raises:
        StorageError: the file is empty, damaged, cut short, in another encoding than UTF-8,
            unpacks to too much, has a line over 64 MiB, or is not what it was when it was found.
    """
    address = source.address
    left_out = LeftOut() if left_out is None else left_out
    with _reading(address):
        form = format_of(address)
        if form == PARQUET:
            yield from parquet_blocks(source, columns, block_bytes)
            return
        with _open(address) as file:
            stream = byte_chunks(file, source, block_bytes)
            if not source.begin:  # what a file is, its first bytes say
                stream = _decoded(stream, address)
                if form != LINES:
                    stream = _with_line_feeds(stream)
            lines = _line_blocks(stream, source, block_bytes)
            if form == LINES:
                yield from refusing_arrays(lines, address)
            elif form == TABS:
                yield from tab_blocks(lines, columns)
            elif form == CONLL:
                yield from conll_blocks(
                    lines, address, columns, block_bytes, token_columns, left_out
                )
            else:
                yield from csv_blocks(lines, source, columns, block_bytes, left_out)


def _line_blocks(
    chunks: Iterable[bytes], source: SourceFile, block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Blocks that end with a line, of about `block_bytes`, and the number of their first line."""
    line = source.first_line
    waiting: list[bytes] = []
    num_waiting = 0
    for chunk in chunks:
        end = chunk.rfind(b"\n") + 1
        if end and num_waiting + end >= block_bytes // 2:
            block = b"".join([*waiting, chunk[:end]])
            yield block, line
            line += block.count(b"\n")
            waiting, num_waiting = [], 0
            chunk = chunk[end:]
        waiting.append(chunk)
        num_waiting += len(chunk)
        if num_waiting > block_bytes + MAX_LINE_BYTES:
            raise StorageError(
                f"{printable(source.address)} has a line over {MAX_LINE_BYTES >> 20} MiB near line"
                f" {line}: cut it."
            )
    if num_waiting:
        yield b"".join(waiting), line


def read_user_dictionary(address: str) -> list[tuple[int, str]]:
    """The entries of a user dictionary, one a line, each with the number of its line.

    Blanks around an entry do not count, empty lines neither.

    Raises:
        StorageError: the file cannot be read, is not UTF-8, or is over 4 MiB.
    """
    with _reading(address), _open(address) as file:
        content = file.read(MAX_DICTIONARY_BYTES + 1)
    if len(content) > MAX_DICTIONARY_BYTES:
        raise StorageError(
            f"{printable(address)} is over {MAX_DICTIONARY_BYTES >> 20} MiB, as no user dictionary"
            " is: name one."
        )
    entries: list[tuple[int, str]] = []
    for number, line in enumerate(content.removeprefix(BOM).split(b"\n"), 1):
        try:
            entry = line.decode().strip()
        except UnicodeDecodeError:
            raise StorageError(
                f"{printable(address)} is not UTF-8 in line {number}: convert it to UTF-8."
            ) from None
        if entry:
            entries.append((number, entry))
    return entries


# --- messages -------------------------------------------------------------------------------------


@contextmanager
def _reading(address: str) -> Iterator[None]:
    """What goes wrong with a file, as one sentence that names it."""
    remote = _is_remote(address)
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError:
        link = "leads to a file that" if not remote and os.path.islink(address) else ""
        raise StorageError(
            f"{' '.join(filter(None, (printable(address), link)))} does not exist: correct the"
            f" {'link' if link else 'address'}."
        ) from None
    except PermissionError:
        remedy = "check your credentials for it" if remote else "change its permissions"
        raise StorageError(f"{printable(address)} may not be read: {remedy}.") from None
    except ImportError as error:
        remedy = "pip install 'tidemill[s3]'" if address.startswith("s3://") else one_line(error)
        raise StorageError(
            f"{printable(address)} cannot be read, a package is missing: {remedy}."
        ) from error
    except Exception as error:
        # Every remote file system has its own classes of errors; a local file has these.
        if not remote and not isinstance(error, OSError | ValueError):
            raise
        remedy = "check the address and the network" if remote else "correct the address"
        raise StorageError(
            f"{printable(address)} cannot be read ({one_line(error)}): {remedy}."
        ) from error
