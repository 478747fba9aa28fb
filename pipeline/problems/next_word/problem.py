"""The input method's problem: the next word from the words just typed.

Shape letters: ``T`` words of the window, ``B`` windows, ``V`` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError
from ...networks.recurrent import Hidden, NetworkConfig, Variant
from ...networks.variants import Baseline
from ...text.vocabulary import BOS
from ..batches import NOWHERE, Batch, Batches, Examples
from ..models import NgramModel, TextModel
from ..problem import Problem, refuse_attention
from ..ragged import Ragged, Resident


@dataclass(frozen=True)
class NextWord(Problem):
    """Many-to-one: a window of ``window`` words predicts the word behind it.

    Where a text begins, the window is filled up with ``<bos>`` on the left, so that every word of a
    text is learnt and scored, the first one too, and windows of any size are scored on the same
    words.

    Raises:
        InputError: for a window below 1.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dialogues", "text")
    decides: ClassVar[str] = "bits_per_character"
    fixed_shapes: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("ngram",)

    name: Literal["next_word"] = "next_word"
    window: int = 5

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"problem.window is {self.window}: it must be at least 1")

    def check_recurrent(self, variant: Variant) -> None:
        refuse_attention(self.name, variant)

    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "WindowModel":
        return WindowModel(vocabulary_sizes[0], variant, network)

    def check_baseline(self, baseline: Baseline) -> None:
        super().check_baseline(baseline)
        if baseline.order - 1 > self.window:
            raise InputError(
                f"next_word cannot use {baseline.name}: it looks at {baseline.order - 1} words, "
                f"and problem.window is {self.window}; take ngram-{self.window + 1} or lower"
            )

    def build_baseline(
        self, baseline: Baseline, vocabulary_sizes: Sequence[int]
    ) -> "WindowNgramModel":
        return WindowNgramModel(baseline.order, vocabulary_sizes[0])

    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        return examples.inputs.lengths > 0

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "WindowBatches":
        targets = generator.permutation(examples.inputs.positions)
        return WindowBatches(examples.inputs, targets, self.window, batch_size)

    def scoring_batches(self, examples: Examples, batch_size: int) -> "WindowBatches":
        return WindowBatches(examples.inputs, examples.inputs.positions, self.window, batch_size)


class WindowBatches(Batches):
    """Windows gathered from the flat ids of all texts."""

    def __init__(
        self, texts: Ragged, targets: NDArray[np.int64], window: int, batch_size: int
    ) -> None:
        self.texts = texts
        self.targets = targets
        self.window = window
        self.batch_size = batch_size
        if texts.resident:
            parts = [
                targets[first : first + batch_size] for first in range(0, len(targets), batch_size)
            ]
            self.on_device = texts.resident.spread(parts)

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.texts.resident:
            return self._resident(self.texts.resident, self.on_device[index])
        targets = self.targets[index * self.batch_size : (index + 1) * self.batch_size]
        rows = np.searchsorted(self.texts.offsets, targets, side="right") - 1
        words = targets + np.arange(-self.window, 0)[:, None]
        inside = words >= self.texts.offsets[rows]
        ids = np.where(inside, self.texts.values[np.where(inside, words, 0)], BOS)
        goals = self.texts.values[targets].astype(np.int64)
        return Batch(
            (torch.from_numpy(ids.astype(np.int32)),),
            torch.from_numpy(goals),
            rows,
            targets,
            len(targets),
        )

    def _resident(self, texts: Resident, targets: Tensor) -> Batch:
        rows = torch.searchsorted(texts.offsets, targets, right=True) - 1
        words = targets + torch.arange(-self.window, 0, device=targets.device)[:, None]
        ids = texts.gather(words, words >= texts.offsets[rows], BOS)
        goals = texts.values[targets].long()
        return Batch((ids,), goals, NOWHERE, NOWHERE, len(targets))


class WindowModel(TextModel):
    """The word behind a window from the top layer's final state; ids are ``[T, B]``.

    The final state of the backward direction, where there is one, is the one it has after reading
    the window's first word.
    """

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        return self.window_features(batch.inputs[0]), None

    def inside(self, batch: Batch) -> Tensor:
        return torch.ones_like(batch.inputs[0], dtype=torch.bool)  # a window is full of words

    def window_features(self, ids: Tensor) -> Tensor:
        """What enters the output layer for windows ``ids [T, B]``: ``[B, F]``."""
        _, final = self.stack(self.dropout(self.embedding(ids)))
        top = final[0][-self.stack.num_directions :]
        scored: Tensor = self.head(torch.cat(tuple(top), dim=-1))
        return scored

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Natural logarithms of the next word's probabilities after ``ids [T, B]``: ``[B, V]``."""
        return self.logits(self.window_features(ids)).log_softmax(-1)


class WindowNgramModel(NgramModel):
    """The word behind a window from the last ``n - 1`` words of it; ids are ``[T, B]``."""

    def estimate(self, examples: Examples) -> None:
        texts = examples.inputs
        first = np.zeros(int(texts.lengths.sum()) + len(texts), bool)
        first[np.cumsum(texts.lengths + 1) - texts.lengths - 1] = True
        ids = np.full(len(first), BOS, np.int32)
        ids[~first] = texts.values[texts.positions]
        self.ngrams.estimate(ids, first)

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        return self._contexts(batch.inputs[0]), None

    def _contexts(self, ids: Tensor) -> Tensor:
        return ids[len(ids) - self.ngrams.num_context :].T

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Natural logarithms of the next word's probabilities after ``ids [T, B]``: ``[B, V]``."""
        return self.logits(self._contexts(ids))
