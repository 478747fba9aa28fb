"""Bytes of a source: encodings and compression."""

import zlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO, Protocol

import zstandard
from blake3 import blake3

from warehouse.errors import StorageError
from warehouse.sources.files import (
    FREE_EXPANSION_BYTES,
    MAX_EXPANSION,
    SourceFile,
    compression_of,
    printable,
)

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

BOM = b"\xef\xbb\xbf"


def byte_chunks(file: BinaryIO, source: SourceFile, chunk_bytes: int) -> Iterator[bytes]:
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
    wanted = compression_of(address)
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
    yield first.removeprefix(BOM)
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
                check_expansion(num_unpacked, num_packed, address)
                if text:
                    yield text
    if unpacker is not None:
        raise StorageError(f"{printable(address)} is cut short: fetch it again.")


def check_expansion(num_unpacked: int, num_packed: int, address: str) -> None:
    """Refuse a file that grows beyond all measure when it is unpacked."""
    if num_unpacked > max(FREE_EXPANSION_BYTES, MAX_EXPANSION * num_packed):
        raise StorageError(
            f"{printable(address)} unpacks to more than {MAX_EXPANSION} times its size,"
            " as no text does: unpack it yourself if it is sound."
        )
