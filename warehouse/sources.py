"""Sources: where data comes from, as blocks of whole lines.

A source is a file of one of these formats, by the end of its name, plain or compressed (`.gz`,
`.zst`):

- `.jsonl`, `.ndjson`, `.json`: one JSON object a line;
- `.txt`, `.tokens`, `.tsv`: columns separated by tabs, without a header and without quoting;
- `.csv`: a header, commas, quotes (RFC 4180);
- `.conll`, `.bio`: a token and its tag a line, a blank line behind each sentence;
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

import csv
import glob
import io
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import fsspec
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import zstandard
from blake3 import blake3
from pydantic import BaseModel

from warehouse.errors import StorageError, one_line

BLOCK_BYTES = 1 << 20
PIECE_BYTES = 64 << 20  # a piece ends with the line that reaches so far
MAX_LINE_BYTES = 64 << 20
MAX_DICTIONARY_BYTES = 4 << 20
MAX_FIELD_CHARACTERS = 8 << 20  # of a .csv file; a quote that is never closed reads so far
MAX_SENTENCE_LINES = 100_000  # of a .conll file
MAX_EXPANSION = 200  # times its size that a compressed file may unpack to ...
FREE_EXPANSION_BYTES = 64 << 20  # ... once it has unpacked to this much

_LINES, _TABS, _CSV, _CONLL, _PARQUET = "json lines", "tabs", "csv", "conll", "parquet"
_FORMATS = {
    ".jsonl": _LINES,
    ".ndjson": _LINES,
    ".json": _LINES,
    ".txt": _TABS,
    ".tokens": _TABS,
    ".tsv": _TABS,
    ".csv": _CSV,
    ".conll": _CONLL,
    ".bio": _CONLL,
    ".parquet": _PARQUET,
}
_COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
_MAGICS = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"PAR1": "parquet",
    b"7z\xbc\xaf\x27\x1c": "7z",
}
_TAR_MARK = slice(257, 262)  # where "ustar" stands in the head of an archive
_ENCODINGS = {  # the longer marks first
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
    b"{\x00": "UTF-16 or UTF-32",
    b"\x00{": "UTF-16",
    b"\x00\x00\x00{": "UTF-32",
}
_BOM = b"\xef\xbb\xbf"


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
        kind = f"{_format_of(self.address)} {_compression_of(self.address)}"
        return f"{kind} {self.digest} {self.first_line} {self.layout}"


# --- finding --------------------------------------------------------------------------------------


def find_sources(addresses: Sequence[str]) -> list[SourceFile]:
    """Every file that the addresses name, in their order, each once, in its pieces.

    An address is a path, a pattern (`data/*.jsonl`), a folder (all files of a known format below
    it, hidden ones excepted) or anything that fsspec opens (`s3://`, `hf://`, `https://`). Files of
    one pattern or folder are sorted.

    Raises:
        StorageError: an address names nothing, or something that is no file of a known format or
            cannot be read.
    """
    if not addresses:
        raise StorageError("There is no source to read: name at least one file.")
    found = dict.fromkeys(file for address in addresses for file in sorted(_expand(address)))
    return [piece for address in found for piece in _pieces(address)]


def _expand(address: str) -> list[str]:
    if "\0" in address or not address:
        raise StorageError(f"{printable(address)} is not an address: name a file.")
    if "://" in address:
        return _expand_remote(address)
    if os.path.isdir(address):
        found = _files_below(address)
        if not found:
            raise StorageError(
                f"The folder {printable(address)} holds no file to read: {_known_formats()}."
            )
        return found
    if not os.path.lexists(address) and glob.has_magic(address):
        found = [path for path in glob.glob(address, recursive=True) if not os.path.isdir(path)]
        if not found:
            raise StorageError(
                f"No file matches {printable(address)}: put one there, or correct the pattern."
            )
        return found
    return [address]


def _files_below(folder: str) -> list[str]:
    found: list[str] = []
    for place, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in subfolders if not name.startswith(".")]
        visible = [name for name in names if not name.startswith(".")]
        found += [os.path.join(place, name) for name in visible if _is_known(name)]
    return found


def _expand_remote(address: str) -> list[str]:
    user, at, _ = address.split("://", 1)[1].partition("/")[0].rpartition("@")
    if at and ":" in user:
        raise StorageError(
            "The address of a source holds a password, which would be kept beside the data: give "
            "it by the environment, such as FSSPEC_FTP_USERNAME and FSSPEC_FTP_PASSWORD."
        )
    with _reading(address):
        system, path = fsspec.url_to_fs(address)
        scheme = address.partition("://")[0]
        if glob.has_magic(path) and not system.exists(path):
            found = [name for name in system.glob(path) if not system.isdir(name)]
        elif system.isdir(path):
            found = [name for name in system.find(path) if _is_known(name)]
        else:
            return [address]
        if not found:
            raise StorageError(f"No file matches {printable(address)}: correct the address.")
        return [f"{scheme}://{str(name).removeprefix(f'{scheme}://')}" for name in found]


def _pieces(address: str) -> Iterator[SourceFile]:
    """The file cut behind the first line end at or after every `PIECE_BYTES`, where it can be."""
    if address != address.encode(errors="replace").decode():
        raise StorageError(f"The name of {printable(address)} is not UTF-8: rename the file.")
    can_be_cut = _format_of(address) in (_LINES, _TABS) and not _compression_of(address)
    with _reading(address), _open(address) as file:
        if _format_of(address) == _PARQUET:
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
    starts = _row_group_starts(footer)
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


def _row_group_starts(footer: Any) -> list[int]:
    """The byte with which each row group begins."""
    starts = []
    for index in range(footer.num_row_groups):
        group = footer.row_group(index)
        columns = [group.column(i) for i in range(group.num_columns)]
        pages = [(each.dictionary_page_offset, each.data_page_offset) for each in columns]
        starts.append(min((page for both in pages for page in both if page), default=0))
    return starts


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


def _open(address: str) -> BinaryIO:
    if "://" in address:
        remote: BinaryIO = fsspec.open(address, "rb").open()
        return remote
    # Opening a pipe waits for whoever writes to it, so look before.
    if not stat.S_ISREG(os.stat(address).st_mode):
        raise StorageError(f"{printable(address)} is not a regular file: name one.")
    return Path(address).open("rb")


def _is_known(name: str) -> bool:
    return os.path.splitext(_without_compression(name))[1].lower() in _FORMATS


def _without_compression(address: str) -> str:
    return os.path.splitext(address)[0] if _compression_of(address) else address


def _compression_of(address: str) -> str:
    return _COMPRESSIONS.get(os.path.splitext(address)[1].lower(), "")


def _format_of(address: str) -> str:
    form = _FORMATS.get(os.path.splitext(_without_compression(address))[1].lower())
    if form is None or (form == _PARQUET and _compression_of(address)):
        raise StorageError(
            f"{printable(address)} is not a file that can be read: {_known_formats()}."
        )
    return form


def _known_formats() -> str:
    return f"names end in {', '.join(_FORMATS)}, with or without {' or '.join(_COMPRESSIONS)}"


# --- reading --------------------------------------------------------------------------------------


def blocks(
    source: SourceFile,
    columns: Sequence[str] = ("source", "target"),
    block_bytes: int = BLOCK_BYTES,
) -> Iterator[tuple[bytes, int]]:
    """A file or a piece as blocks of whole lines of JSON, each with the number of its first line.

    A line keeps the number that it has in the file; what takes several lines there (a quoted field
    of a `.csv`) is followed by blank ones. In a `.parquet` a row counts as a line.

    Args:
        source: what `find_sources` found.
        columns: the names of the columns of a file without a header, in order; more are ignored.
        block_bytes: about the size of a block, before it is made to end with a line.

    Raises:
        StorageError: the file is empty, damaged, cut short, in another encoding than UTF-8,
            unpacks to too much, has a line over 64 MiB, or is not what it was when it was found.
    """
    address = source.address
    with _reading(address):
        form = _format_of(address)
        if form == _PARQUET:
            yield from _parquet_blocks(source, columns, block_bytes)
            return
        with _open(address) as file:
            stream = _chunks(file, source, block_bytes)
            if not source.begin:  # what a file is, its first bytes say
                stream = _decoded(stream, address)
            lines = _line_blocks(stream, source, block_bytes)
            if form == _LINES:
                yield from _refusing_arrays(lines, address)
            elif form == _TABS:
                yield from _tab_blocks(lines, columns)
            elif form == _CONLL:
                yield from _conll_blocks(lines, address, columns, block_bytes)
            else:
                yield from _csv_blocks(lines, address, columns, block_bytes)


def _chunks(file: BinaryIO, source: SourceFile, chunk_bytes: int) -> Iterator[bytes]:
    """The bytes of the piece; at its end they must be those that it was named by."""
    if not source.num_bytes:
        raise StorageError(f"{printable(source.address)} is empty: there is nothing to read.")
    digest, remaining = blake3(), source.num_bytes
    if source.begin:
        file.seek(source.begin)
    while remaining and (chunk := file.read(min(chunk_bytes, remaining))):
        digest.update(chunk)
        remaining -= len(chunk)
        yield chunk
    if remaining or digest.hexdigest() != source.digest:
        raise StorageError(
            f"{printable(source.address)} was changed while it was read: read it again."
        )


def _decoded(chunks: Iterator[bytes], address: str) -> Iterator[bytes]:
    """The bytes of the text: unpacked if its name says so, without a mark of the encoding."""
    wanted = _compression_of(address)
    chunks = _with_head(chunks)
    first = next(chunks)
    found = next((name for magic, name in _MAGICS.items() if first.startswith(magic)), "")
    if wanted and found != wanted:
        raise StorageError(f"{printable(address)} is not {wanted}, as its name says: rename it.")
    if found and not wanted:
        raise StorageError(
            f"{printable(address)} is a {found} file under another name: rename it or unpack it."
        )
    if wanted:
        text = _with_head(_unpacked(_followed_by(first, chunks), wanted, address))
        first = next(text, b"")
    else:
        text = chunks
    for mark, encoding in _ENCODINGS.items():
        if first.startswith(mark):
            raise StorageError(f"{printable(address)} is {encoding}: convert it to UTF-8.")
    if first[_TAR_MARK] == b"ustar":
        raise StorageError(f"{printable(address)} is a tar archive: unpack it.")
    yield first.removeprefix(_BOM)
    yield from text


def _followed_by(first: bytes, rest: Iterable[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _with_head(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same bytes; the first chunk is long enough to tell what they are."""
    head = b""
    for chunk in chunks:
        head += chunk
        if len(head) >= _TAR_MARK.stop:
            yield head
            break
    else:
        if head:
            yield head
    yield from chunks


class _Unpacker(Protocol):
    def decompress(self, data: bytes) -> bytes: ...

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...


# So little at a time, because a byte may unpack to a thousand of gzip and to 32,768 of zstd.
_UNPACK_BYTES = {"gzip": 16 << 10, "zstd": 1 << 10}


def _new_unpacker(compression: str) -> _Unpacker:
    if compression == "gzip":
        return zlib.decompressobj(wbits=31)
    unpacker: _Unpacker = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompressobj()
    return unpacker


def _unpacked(chunks: Iterable[bytes], compression: str, address: str) -> Iterator[bytes]:
    """The content of all members of a gzip file or all frames of a zstd file."""
    step = _UNPACK_BYTES[compression]
    unpacker: _Unpacker | None = None
    num_packed = num_unpacked = 0
    for chunk in chunks:
        for begin in range(0, len(chunk), step):
            piece = chunk[begin : begin + step]
            num_packed += len(piece)
            while piece:
                if unpacker is None:
                    if compression == "gzip" and not (piece := piece.lstrip(b"\0")):
                        break  # gzip files may be padded
                    unpacker = _new_unpacker(compression)
                try:
                    text = unpacker.decompress(piece)
                except (zlib.error, zstandard.ZstdError) as error:
                    raise StorageError(
                        f"{printable(address)} is damaged ({error}): fetch it again."
                    ) from error
                piece = b""
                if unpacker.eof:
                    piece, unpacker = unpacker.unused_data, None
                num_unpacked += len(text)
                _check_expansion(num_unpacked, num_packed, address)
                if text:
                    yield text
    if unpacker is not None:
        raise StorageError(f"{printable(address)} is cut short: fetch it again.")


def _check_expansion(num_unpacked: int, num_packed: int, address: str) -> None:
    if num_unpacked > max(FREE_EXPANSION_BYTES, MAX_EXPANSION * num_packed):
        raise StorageError(
            f"{printable(address)} unpacks to more than {MAX_EXPANSION} times its size,"
            " as no text does: unpack it yourself if it is sound."
        )


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


def _refusing_arrays(
    lines: Iterable[tuple[bytes, int]], address: str
) -> Iterator[tuple[bytes, int]]:
    for block, line in lines:
        if line == 1 and block.lstrip()[:1] == b"[" and block.lstrip()[1:].lstrip()[:1] == b"{":
            raise StorageError(
                f"{printable(address)} is one JSON array: write one object a line instead."
            )
        yield block, line


def _tab_blocks(
    lines: Iterable[tuple[bytes, int]], columns: Sequence[str]
) -> Iterator[tuple[bytes, int]]:
    # Where a line is one text, a tab in it is just a blank.
    most = -1 if len(columns) > 1 else 0

    def as_json(line: bytes) -> bytes:
        if not line.strip():
            return b""
        try:
            values = line.removesuffix(b"\r").decode().split("\t", most)
        except UnicodeDecodeError:
            return line  # whoever reads it will say what is wrong with it
        return orjson.dumps(dict(zip(columns, values, strict=False)))

    for block, line in lines:
        yield b"\n".join(map(as_json, block.split(b"\n"))), line


def _conll_blocks(
    lines: Iterable[tuple[bytes, int]], address: str, columns: Sequence[str], block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """Sentences of a token a line, its tag in the last column, a blank line behind each sentence.

    A sentence stands where its first line stood. One with a line that has no tag has fewer tags
    than tokens, so that whoever reads it rejects it.
    """
    waiting: list[bytes] = []
    num_waiting = 0
    first = end = 1  # lines of the file: where what is waiting begins, and where it ends
    sentence: list[bytes] = []

    def closed(number: int) -> None:
        nonlocal num_waiting, end, sentence
        text = _sentence(sentence, columns) + b"\n" * (number - end)
        waiting.append(text)
        num_waiting, end, sentence = num_waiting + len(text), number, []

    number = 1
    for block, start in lines:
        for number, line in enumerate(block.removesuffix(b"\n").split(b"\n"), start):
            if line.strip():
                if len(sentence) == MAX_SENTENCE_LINES:
                    raise StorageError(
                        f"{printable(address)} has no blank line in the {MAX_SENTENCE_LINES:,} "
                        f"lines before line {number}: separate its sentences by blank lines."
                    )
                if not sentence:
                    waiting.append(b"\n" * (number - end))
                    end = number
                sentence.append(line)
            elif sentence:
                closed(number)
                if num_waiting >= block_bytes:
                    yield b"".join(waiting), first
                    waiting, num_waiting, first = [], 0, end
    if sentence:
        closed(number + 1)
    if waiting:
        yield b"".join(waiting), first


def _sentence(lines: list[bytes], columns: Sequence[str]) -> bytes:
    """One line of JSON; a line that is not UTF-8 stands for the sentence that it spoils."""
    tokens: list[str] = []
    tags: list[str] = []
    for line in lines:
        try:
            fields = line.decode().split()
        except UnicodeDecodeError:
            return line
        if fields[0] != "-DOCSTART-":
            tokens.append(fields[0])
            tags.extend(fields[-1:] if len(fields) > 1 else ())
    return orjson.dumps(dict(zip(columns, (tokens, tags), strict=False))) if tokens else b""


def _csv_blocks(
    lines: Iterable[tuple[bytes, int]], address: str, columns: Sequence[str], block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    def decoded() -> Iterator[str]:
        for block, first in lines:
            try:
                yield from io.StringIO(block.decode(), newline="\n")
            except UnicodeDecodeError as error:
                number = first + block.count(b"\n", 0, error.start)
                raise StorageError(
                    f"{printable(address)} is not UTF-8 in line {number}: convert it to UTF-8."
                ) from None

    # Of the whole process; the default refuses a text of 128 KiB.
    csv.field_size_limit(MAX_FIELD_CHARACTERS)
    rows = csv.reader(decoded(), strict=True)
    waiting: list[bytes] = []
    num_waiting = 0
    first = 2
    try:
        header = next(rows, None)
        if header is None or not any(header):
            raise StorageError(f"{printable(address)} has no header: name the columns in line 1.")
        if len(set(header)) < len(header):
            raise StorageError(f"{printable(address)} names a column twice: correct the header.")
        for separator, name in ((";", "semicolons"), ("\t", "tabs")):
            if not set(columns) & set(header) and set(columns) & set(header[0].split(separator)):
                raise StorageError(
                    f"{printable(address)} is separated by {name}: write commas, with quotes"
                    " around what holds one."
                )
        first = end = rows.line_num + 1
        for row in rows:
            if row and len(row) != len(header):
                # Not an object, so that it is rejected; which column is wrong cannot be known.
                text = orjson.dumps(row)
            else:
                text = orjson.dumps(dict(zip(header, row, strict=True))) if row else b""
            waiting.append(text + b"\n" * (rows.line_num + 1 - end))
            num_waiting += len(waiting[-1])
            end = rows.line_num + 1
            if num_waiting >= block_bytes:
                yield b"".join(waiting), first
                waiting, num_waiting, first = [], 0, end
    except csv.Error as error:
        raise StorageError(
            f"{printable(address)} is not CSV near line {rows.line_num} ({error}): correct it."
        ) from None
    if waiting:
        yield b"".join(waiting), first


def _parquet_blocks(
    source: SourceFile, columns: Sequence[str], block_bytes: int
) -> Iterator[tuple[bytes, int]]:
    address = source.address
    with _open(address) as file:
        for _ in _chunks(file, source, block_bytes):
            pass
        file.seek(0)
        line = source.first_line
        num_unpacked = 0
        try:
            # Without a buffer, or with one for all columns, a whole row group would be in memory.
            table = pq.ParquetFile(file, pre_buffer=False, buffer_size=block_bytes)
            names = table.schema_arrow.names
            if len(set(names)) < len(names):
                raise StorageError(
                    f"{printable(address)} names a column twice: write it with other names."
                )
            end = source.begin + source.num_bytes
            starts = _row_group_starts(table.metadata)
            groups = [i for i, start in enumerate(starts) if source.begin <= start < end]
            sizes = [table.metadata.row_group(i) for i in groups]
            row_bytes = sum(each.total_byte_size for each in sizes) / max(
                1, sum(each.num_rows for each in sizes)
            )
            for batch in table.iter_batches(
                batch_size=int(min(1_000, max(1, 4 * block_bytes // max(1.0, row_bytes)))),
                row_groups=groups,
                columns=list(columns) if set(columns) <= set(names) else None,
                use_threads=False,
            ):
                num_unpacked += batch.nbytes
                _check_expansion(num_unpacked, source.num_bytes, address)
                rows = batch.to_pylist()
                yield b"\n".join(orjson.dumps(row, default=_plain) for row in rows), line
                line += batch.num_rows
        except StorageError:
            raise
        except (pa.ArrowException, OSError, TypeError, ValueError) as error:
            raise StorageError(
                f"{printable(address)} is not sound Parquet ({one_line(error)}): write it again."
            ) from error


def _plain(value: Any) -> Any:
    """What JSON has for a value of a column that has no type of JSON; bytes are often text."""
    if not isinstance(value, bytes):
        return str(value)
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"binary": value[:32].hex()}


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
    for number, line in enumerate(content.removeprefix(_BOM).split(b"\n"), 1):
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
    remote = "://" in address
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError:
        raise StorageError(f"{printable(address)} does not exist: correct the address.") from None
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


def printable(address: str) -> str:
    """An address, safe to print."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in address[:500])
