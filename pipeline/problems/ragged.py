"""Rows of different lengths in two flat arrays, and the gathers that batch them without a loop.

Shape letters: ``N`` rows, ``B`` rows of a batch, ``T`` the longest row of the batch.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True)
class Ragged:
    """Row ``i`` is ``values[offsets[i]:offsets[i + 1]]``.

    ``values`` holds the rows end to end, ``offsets`` (int64, ``N + 1``) where each begins: the
    layout of an Arrow list column, so that a table's column comes in without a copy. ``resident``
    is the same on a device, where :meth:`to` put it.
    """

    values: NDArray[np.generic]
    offsets: NDArray[np.int64]
    resident: "Resident | None" = None

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

    def to(self, device: torch.device) -> "Ragged":
        """The same rows, which also lie on ``device``."""
        # torch.tensor copies: these arrays may be mapped from files that nobody may write to.
        tensors = (torch.tensor(each).to(device) for each in (self.values, self.offsets))
        return replace(self, resident=Resident(*tensors))

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


@dataclass(frozen=True)
class Resident:
    """What :class:`Ragged` holds, as tensors on a device; nothing here waits for the device."""

    values: Tensor
    offsets: Tensor

    def lengths(self, rows: Tensor) -> Tensor:
        """The lengths of the named rows, ``[B]``."""
        return self.offsets[rows + 1] - self.offsets[rows]

    def padded(self, rows: Tensor, pad: int, width: int) -> Tensor:
        """The named rows side by side, time first, ``[T, B]`` with ``T = width``.

        Short rows are filled up with ``pad`` at the end, longer ones are cut.
        """
        steps = torch.arange(width, device=rows.device)[:, None]
        return self.gather(self.offsets[rows] + steps, steps < self.lengths(rows), pad)

    def gather(self, places: Tensor, inside: Tensor, pad: int) -> Tensor:
        """The values at ``places`` where those are ``inside``, and ``pad`` elsewhere."""
        if not len(self.values):
            return self.values.new_full(places.shape, pad)
        return torch.where(inside, self.values[torch.where(inside, places, 0)], pad)

    def spread(self, parts: list[NDArray[np.int64]]) -> list[Tensor]:
        """Index arrays on the device: one copy for all of them, so that none waits for it later."""
        whole = np.concatenate(parts) if parts else np.zeros(0, np.int64)
        on_device = torch.from_numpy(whole).to(self.values.device)
        return list(on_device.split([len(part) for part in parts])) if parts else []
