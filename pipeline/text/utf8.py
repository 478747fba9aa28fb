"""Columns of UTF-8 text as arrays of bytes and offsets."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError

# What str.isspace calls blank, and the characters without width or mark that hide at ends.
BLANKS = (
    "\t\n\v\f\r\x1c\x1d\x1e\x1f \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007"
    "\u2008\u2009\u200a\u2028\u2029\u202f\u205f\u3000"
    "\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2061\u2062"
    "\u2063\u2064\u2066\u2067\u2068\u2069\ufeff"
)
"""What is stripped from both ends of a text that is read, before any step of normalisation."""

# A batch is worked off in pieces of about this many bytes (some 400,000 Chinese characters), so
# that the memory needed does not grow with the batch.
_CHUNK_BYTES = 1_200_000

NUM_CODE_POINTS = 0x110000

Bytes = npt.NDArray[np.uint8]

CodePoints = npt.NDArray[np.uint32]

Offsets = npt.NDArray[np.int64]

Mask = npt.NDArray[np.bool_]


class Utf8(NamedTuple):
    """N texts, as the buffers of an Arrow string array hold them.

    `data`: uint8, the texts' UTF-8 bytes; `offsets`: int64 [N+1], text i is
    `data[offsets[i]:offsets[i + 1]]`. `offsets[0]` need not be 0.
    """

    data: Bytes
    offsets: Offsets

    @classmethod
    def of(cls, texts: Sequence[str]) -> "Utf8":
        """From strings. Raises `UnicodeEncodeError` for a lone surrogate."""
        return cls.of_bytes([text.encode() for text in texts])

    @classmethod
    def of_bytes(cls, texts: Sequence[bytes]) -> "Utf8":
        """From strings that are UTF-8 already."""
        return cls(np.frombuffer(b"".join(texts), np.uint8), offsets_of(list(map(len, texts))))

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.offsets) - 1

    def to_list(self) -> list[str]:
        """The N texts as strings."""
        data = self.data.tobytes()
        ends = self.offsets.tolist()
        return [data[a:b].decode() for a, b in pairwise(ends)]

    def rows(self, first: int, last: int) -> "Utf8":
        """Texts first to last - 1, without a copy of `data`."""
        return Utf8(self.data, self.offsets[first : last + 1])


# --- columns --------------------------------------------------------------------------------------


def chunks(offsets: Offsets) -> Iterator[tuple[int, int]]:
    """Ranges of rows of about `_CHUNK_BYTES` each, at least one row."""
    first, num_rows = 0, len(offsets) - 1
    while first < num_rows:
        last = int(np.searchsorted(offsets, offsets[first] + _CHUNK_BYTES, side="right")) - 1
        last = min(max(last, first + 1), num_rows)
        yield first, last
        first = last


def _decode(texts: Utf8) -> CodePoints:
    """uint32: the code points of all rows, one behind the other."""
    data = texts.data[texts.offsets[0] : texts.offsets[-1]].tobytes()
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        row = int(np.searchsorted(texts.offsets - texts.offsets[0], error.start, side="right")) - 1
        raise InputError(f"text {row} of the batch is not UTF-8: {error.reason}") from None
    return np.frombuffer(text.encode("utf-32-le"), np.uint32)


def first_bytes(texts: Utf8) -> Offsets:
    """int64 [characters + 1]: where each character begins, counted from the first row; the end."""
    data = texts.data[texts.offsets[0] : texts.offsets[-1]]
    # Every byte but 10xxxxxx begins a character.
    return np.append(np.flatnonzero((data & 0xC0) != 0x80), len(data))


def row_boundaries(texts: Utf8) -> Offsets:
    """int64 [N+1]: where the rows begin and end, counted in code points."""
    found: Offsets = np.searchsorted(first_bytes(texts), texts.offsets - texts.offsets[0])
    return found


def offsets_of(lengths: Sequence[int] | Offsets | Mask) -> Offsets:
    """Return the offsets ``[N + 1]`` of rows with these lengths ``[N]``."""
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def concatenate(pieces: Sequence[Utf8]) -> Utf8:
    """Return the rows of all pieces as one column."""
    data = [piece.data[piece.offsets[0] : piece.offsets[-1]] for piece in pieces]
    lengths = [np.diff(piece.offsets) for piece in pieces]
    return Utf8(np.concatenate(data), offsets_of(np.concatenate(lengths)))
