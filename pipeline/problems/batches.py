"""Examples and the batches that are made of them."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..text.vocabulary import EOS, PAD
from .ragged import Ragged, Resident

NOWHERE = np.zeros(0, np.int64)
"""Rows and positions of a batch that was made on a device."""


@dataclass(frozen=True)
class Examples:
    """The encoded rows of one split.

    Attributes:
        inputs: token ids of each text, or of each source sentence.
        targets: token ids of each target sentence, where the problem has pairs.
        characters: characters of every predicted token, flat, aligned with the values of
            ``targets`` (of ``inputs`` where there are none). Empty where no text is predicted.
        spelling: nats that spelling out a predicted token costs beyond its id: 0 for known words.
        scales: of series, what an error is measured by, one for each row; empty elsewhere.
    """

    inputs: Ragged
    targets: Ragged | None = None
    characters: NDArray[np.generic] = field(default_factory=lambda: np.zeros(0, np.int16))
    spelling: NDArray[np.generic] = field(default_factory=lambda: np.zeros(0, np.float32))
    scales: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    @property
    def predicted(self) -> Ragged:
        """The side whose tokens are predicted."""
        return self.inputs if self.targets is None else self.targets

    def to(self, device: torch.device) -> "Examples":
        """The same examples, whose batches are made on ``device``, from data that lie there once.

        Such batches do not say which example and position a target is of: only losses are computed
        of them.
        """
        targets = None if self.targets is None else self.targets.to(device)
        return replace(self, inputs=self.inputs.to(device), targets=targets)


@dataclass(frozen=True)
class Batch:
    """What one step reads.

    Attributes:
        inputs: the problem's own tensors; the last dimension of each is the batch, ``B``.
        targets: the ids to predict, int64 ``[N]``; ``PAD`` is not scored. Column by column: where
            each has several, they are ``[T, B]`` end to end.
        rows: which example each target belongs to, ``[N]`` (int64, -1 for padding); empty where
            the batch was made on a device.
        positions: where each target stands in the flat values of the predicted side, ``[N]``; -1
            for padding and for the end of a sequence, which has no character of its own; empty
            where ``rows`` is.
        num_targets: targets that are scored.
        carries_hidden: the next batch starts from the state in which this one ends.
        rate: what the learning rate is multiplied by for this step.
        share: of a part of a batch, its share of the columns; 1 of a whole one.
    """

    inputs: tuple[Tensor, ...]
    targets: Tensor
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]
    num_targets: int
    carries_hidden: bool = False
    rate: float = 1.0
    share: float = 1.0

    @property
    def num_columns(self) -> int:
        """``B``."""
        return self.inputs[0].shape[-1]

    def part(self, columns: slice) -> "Batch":
        """Some columns, for one of several processes that share the batch.

        ``num_targets`` stays that of the whole batch, so that the parts' losses per target add up
        to the batch's.
        """
        first, end, _ = columns.indices(self.num_columns)
        return replace(
            self,
            inputs=tuple(each[..., columns] for each in self.inputs),
            targets=self.targets.view(-1, self.num_columns)[:, columns].flatten(),
            rows=NOWHERE,
            positions=NOWHERE,
            share=(end - first) / self.num_columns,
        )

    def to(self, device: torch.device) -> "Batch":
        """The same batch with its tensors on ``device``."""
        return Batch(
            tuple(tensor.to(device, non_blocking=True) for tensor in self.inputs),
            self.targets.to(device, non_blocking=True),
            self.rows,
            self.positions,
            self.num_targets,
            self.carries_hidden,
            self.rate,
            self.share,
        )


class Batches(Sequence[Batch]):
    """The batches of one epoch in order; batch ``i`` is made when it is asked for."""

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def __getitem__(self, index: int) -> Batch: ...  # type: ignore[override]


def order_by_length(
    lengths: NDArray[np.int64], batch_size: int, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Rows in batches of like length, so that padding is rare; batches in random order.

    A random fraction added to each length mixes rows of equal length anew in every epoch.
    """
    keys = lengths + generator.random(len(lengths))
    order = np.argsort(keys, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    return [batches[index] for index in generator.permutation(len(batches))]


def bounded_batches(
    widths: NDArray[np.int64], batch_size: int, usual_width: int
) -> list[NDArray[np.int64]]:
    """Rows by rising width, fewer in a batch where they are very wide: memory stays bounded."""
    batches: list[NDArray[np.int64]] = []
    rows: list[int] = []
    for row in np.argsort(widths, kind="stable").tolist():
        if rows and (
            len(rows) == batch_size or (len(rows) + 1) * widths[row] > batch_size * usual_width
        ):
            batches.append(np.array(rows))
            rows = []
        rows.append(row)
    return [*batches, np.array(rows)] if rows else batches


def padded_texts(texts: Ragged, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Whole texts as a network reads them: ids ``[T, B]`` and lengths ``[B]``.

    Each is closed by ``<eos>``, so that an empty one has a step to read.
    """
    lengths = texts.lengths[rows]
    ids = texts.padded(rows, PAD, int(lengths.max()) + 1).astype(np.int32)
    ids[np.arange(len(rows)), lengths] = EOS
    return torch.from_numpy(np.ascontiguousarray(ids.T)), torch.from_numpy(lengths + 1)


def resident_texts(texts: Resident, rows: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """As :func:`padded_texts`, on a device; the longest row has ``width`` tokens."""
    lengths = texts.lengths(rows)
    ids = texts.padded(rows, PAD, width + 1)
    return ids.scatter_(0, lengths[None], EOS), lengths + 1
