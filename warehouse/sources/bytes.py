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
from warehouse.sources.foreign import _TAR_MARK, BOM, _container_of, _foreign, _wide_encoding


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
    found = _container_of(first)
    if wanted and found != wanted:
        what, remedy = _foreign(first) or (f"{found} file" if found else "", "rename it")
        but = f", but {what}" if what else ""
        raise StorageError(
            f"{printable(address)} is not {wanted}, as its name says{but}: {remedy}."
        )
    if wanted:
        text = _with_head(_unpacked(_followed_by(first, chunks), wanted, address))
        first = next(text, b"")
        if _container_of(first):
            raise StorageError(
                f"{printable(address)} is packed twice ({_container_of(first)} within {wanted}):"
                " unpack it once."
            )
    else:
        text = chunks
        if found:
            raise StorageError(
                f"{printable(address)} is a {found} file under another name: rename it or unpack"
                " it."
            )
    if foreign := _foreign(first):
        raise StorageError(f"{printable(address)} is {foreign[0]}: {foreign[1]}.")
    if encoding := _wide_encoding(first):
        raise StorageError(
            f"{printable(address)} is {encoding}: convert it to UTF-8"
            f" (iconv -f {encoding} -t UTF-8)."
        )
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
    unpacker: _Unpacker = zstandard.ZstdDecompressor(
        max_window_size=MAX_WINDOW_BYTES
    ).decompressobj()
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
                        f"{printable(address)} {_packing_fault(str(error))}."
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


MAX_WINDOW_BYTES = 128 << 20  # of zstd


def _with_line_feeds(chunks: Iterator[bytes]) -> Iterator[bytes]:
    """The same text; where its lines end with CR alone, with LF in its place."""
    first = next(chunks, b"")
    if b"\n" not in first and b"\r" in first[:-1]:
        yield first.replace(b"\r", b"\n")
        yield from (chunk.replace(b"\r", b"\n") for chunk in chunks)
    else:
        yield first
        yield from chunks


def _packing_fault(problem: str) -> str:
    """What is wrong with a packed file, and what to do, from what its library says."""
    if "too much memory" in problem:
        return (
            f"needs more than the {MAX_WINDOW_BYTES >> 20} MiB of memory that are allowed to unpack"
            " it (its zstd window): pack it again without --long and --ultra"
        )
    if "Dictionary mismatch" in problem:
        return "is packed with a zstd dictionary that is not in it: pack it again without one"
    return f"is damaged ({problem}): fetch it again"
