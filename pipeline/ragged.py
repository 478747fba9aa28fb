"""Rows of different lengths in two flat arrays, and the gathers that batch them without a loop.

Shape letters: ``N`` rows, ``B`` rows of a batch, ``T`` the longest row of the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Ragged:
    """Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    ``values`` holds the rows end to end, ``offsets`` (int64, ``N + 1``) where each begins: the
    layout of an Arrow list column, so that a table's column comes in without a copy.
    """

    values: NDArray[np.generic]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        assert self.offsets.ndim == self.values.ndim == 1 and len(self.offsets) >= 1
        assert self.offsets[0] >= 0 and self.offsets[-1] <= len(self.values)

    @classmethod
    def of(cls, rows: Sequence[Sequence[int]] | Sequence[NDArray[np.generic]]) -> "Ragged":
        """Join rows of ids (int32)."""
        lengths = np.fromiter((len(row) for row in rows), np.int64, len(rows))
        arrays = [np.asarray(row, np.int32) for row in rows]
        values = np.concatenate(arrays) if arrays else np.zeros(0, np.int32)
        return cls(values, np.concatenate(([0], np.cumsum(lengths))))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.generic]:
        return self.values[self.offsets[row] : self.offsets[row + 1]]

    def __iter__(self) -> Iterator[NDArray[np.generic]]:
        return (self[row] for row in range(len(self)))

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """The length of every row, ``[N]``; do not change it."""
        return np.diff(self.offsets)

    @property
    def positions(self) -> NDArray[np.int64]:
        """Where each value of each row stands in ``values``, row after row."""
        lengths = self.lengths
        shifts = np.repeat(self.offsets[:-1] - np.cumsum(lengths) + lengths, lengths)
        return shifts + np.arange(int(lengths.sum()))

    def padded(
        self, rows: NDArray[np.int64], pad: int, width: int | None = None
    ) -> NDArray[np.generic]:
        """The named rows side by side, ``[B, T]``, short ones filled up with ``pad`` at the end.

        ``width`` fixes ``T``; longer rows are cut at it.
        """
        lengths = self.lengths[rows]
        longest = int(lengths.max(initial=0)) if width is None else width
        padded = np.full((len(rows), longest), pad, self.values.dtype)
        # Where the values go in the flat batch, and where they come from: one step a value.
        taken = np.minimum(lengths, longest)
        ends = np.cumsum(taken)
        steps = np.arange(int(taken.sum()))
        begins = ends - taken
        to = steps + np.repeat(np.arange(len(rows)) * longest - begins, taken)
        padded.ravel()[to] = self.values[steps + np.repeat(self.offsets[rows] - begins, taken)]
        return padded
