"""The input method's problem: the next word from the words just typed.

Shape letters: ``T`` words of the window, ``B`` windows, ``V`` vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError
from ..ragged import Ragged
from ..recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ..vocabulary import BOS
from .problem import (
    Batch,
    Batches,
    Examples,
    Problem,
    TokenModel,
    WordScorer,
    refuse_attention,
    word_embedding,
)


@dataclass(frozen=True)
class NextWord(Problem):
    """Many-to-one: a window of ``window`` words predicts the word behind it.

    Training also learns from the beginning of a text, where the window is filled up with ``<bos>``
    on the left, so that a prediction is possible from the first word on. Scores are of full windows
    only, as the exercise defines them.

    Raises:
        InputError: for a window below 1.
    """

    decides: ClassVar[str] = "bits_per_character"

    name: Literal["next_word"] = "next_word"
    window: int = 5

    def __post_init__(self) -> None:
        if self.window < 1:
            raise InputError(f"problem.window is {self.window}: it must be at least 1")

    def check(self, variant: Variant) -> None:
        refuse_attention(self.name, variant)

    def build(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "WindowModel":
        return WindowModel(vocabulary_sizes[0], variant, network)

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "WindowBatches":
        targets = generator.permutation(_target_positions(examples.inputs, 1))
        return WindowBatches(examples.inputs, targets, self.window, batch_size)

    def scoring_batches(self, examples: Examples, batch_size: int) -> "WindowBatches":
        targets = _target_positions(examples.inputs, self.window)
        return WindowBatches(examples.inputs, targets, self.window, batch_size)


def _target_positions(texts: Ragged, num_before: int) -> NDArray[np.int64]:
    """Where in the flat values a word has at least ``num_before`` words before it in its text."""
    lengths = texts.lengths
    starts = np.repeat(texts.offsets[:-1], lengths)
    positions = np.repeat(texts.offsets[:-1] - np.cumsum(lengths) + lengths, lengths) + np.arange(
        int(lengths.sum())
    )
    return positions[positions - starts >= num_before]


class WindowBatches(Batches):
    """Windows gathered from the flat ids of all texts."""

    def __init__(
        self, texts: Ragged, targets: NDArray[np.int64], window: int, batch_size: int
    ) -> None:
        self.texts = texts
        self.targets = targets
        self.window = window
        self.batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self.targets) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
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


class WindowModel(TokenModel):
    """Embedding, recurrent stack, word scorer on the top layer's final state, over ``[T, B]`` ids.

    The final state of the backward direction, where there is one, is the one it has after reading
    the window's first word.
    """

    def __init__(self, num_words: int, variant: Variant, network: NetworkConfig) -> None:
        super().__init__()
        self.embedding = word_embedding(num_words, network)
        self.dropout = nn.Dropout(network.dropout)
        self.stack = RecurrentStack(
            network.embedding_size, network.hidden_size, variant, network.dropout
        )
        self.scorer = WordScorer(self.embedding, self.stack.output_size, network)

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        return self.window_features(batch.inputs[0]), None

    def window_features(self, ids: Tensor) -> Tensor:
        """What enters the output layer for windows ``ids [T, B]``: ``[B, F]``."""
        _, final = self.stack(self.dropout(self.embedding(ids)))
        top = final[0][-self.stack.num_directions :]
        scored: Tensor = self.scorer(torch.cat(tuple(top), dim=-1))
        return scored

    def log_probabilities(self, ids: Tensor) -> Tensor:
        """Natural logarithms of the next word's probabilities after ``ids [T, B]``: ``[B, V]``."""
        logits: Tensor = self.scorer.output(self.window_features(ids))
        return logits.log_softmax(-1)
