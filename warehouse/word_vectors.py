"""Word vectors that were trained elsewhere, in the text format of word2vec.

The first line says how many words there are and how many numbers each has; then a line a word: the
word, a blank, its numbers with blanks between them.
"""

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import BinaryIO, cast

import fsspec
import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel

from warehouse.errors import StorageError, one_line

MAX_LINE_BYTES = 1 << 20


class VectorFile(BaseModel, frozen=True):
    """A file of word vectors: what it says of itself, and the sha256 of its bytes."""

    address: str
    digest: str
    num_words: int
    size: int

    def cache_digest(self) -> str:
        """The identity of the vectors, wherever they lie."""
        return self.digest


def find_vectors(address: str) -> VectorFile:
    """The file of word vectors at a path or another address that fsspec knows; `.gz` is unpacked.

    Raises:
        StorageError: where it is missing, or its first line is not that of the format.
    """
    digest = hashlib.sha256()
    with _opened(address, compression=None) as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    with _opened(address) as file:
        counts = file.readline(MAX_LINE_BYTES).split()
    if len(counts) != 2 or not all(count.isdigit() and int(count) > 0 for count in counts):
        raise StorageError(
            f"{address}, line 1: the text format of word2vec begins with two counts, of words and "
            f"of numbers a word, such as `20000 300`; add that line, or give another file."
        )
    num_words, size = map(int, counts)
    return VectorFile(address=address, digest=digest.hexdigest(), num_words=num_words, size=size)


def read_vectors(file: VectorFile, words: Sequence[str]) -> NDArray[np.float32]:
    """The vectors of `words`, `[len(words), size]`; the rows of words without one are NaN.

    Raises:
        StorageError: for a line that is not a word and its numbers, or a file that is cut short.
    """
    rows = {word.encode(): row for row, word in enumerate(words)}
    vectors = np.full((len(words), file.size), np.nan, np.float32)
    number = 1
    with _opened(file.address) as opened:
        opened.readline(MAX_LINE_BYTES)
        while line := opened.readline(MAX_LINE_BYTES):
            number += 1
            row = rows.pop(line.partition(b" ")[0], None)
            # Only what is wanted is parsed: most files have far more words than a vocabulary.
            if row is not None:
                vectors[row] = _numbers(file, number, line)
    if number - 1 < file.num_words:
        raise StorageError(
            f"{file.address} says it has {file.num_words} words and ends after {number - 1}: it is "
            f"cut short, or in the binary format; fetch it again, as text."
        )
    return vectors


def _numbers(file: VectorFile, number: int, line: bytes) -> NDArray[np.float32]:
    try:
        found = np.array(line.split()[1:], np.float32)
    except ValueError:
        found = np.zeros(0, np.float32)
    if len(found) != file.size or not np.isfinite(found).all():
        raise StorageError(
            f"{file.address}, line {number}: a word must be followed by {file.size} numbers; "
            f"mend the line, or fetch the file again, as text."
        )
    return found


@contextmanager
def _opened(address: str, compression: str | None = "infer") -> Iterator[BinaryIO]:
    try:
        with fsspec.open(address, "rb", compression=compression) as file:
            yield cast(BinaryIO, file)
    except StorageError:
        raise  # a ValueError too, but one that says already what is wrong
    except (OSError, EOFError, ValueError, ImportError) as error:
        raise StorageError(
            f"the word vectors {address} cannot be read ({one_line(error)}); check the address."
        ) from error
