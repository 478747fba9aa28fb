"""Classification: one label for a whole text.

Shape letters: ``T`` time, ``B`` batch, ``H`` hidden, ``D`` directions, ``F`` features of a text.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...baselines.most_frequent import MostFrequentClass
from ...errors import InputError, choose_from
from ...networks.recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ...networks.regularisation import FeatureDropout
from ...networks.variants import Baseline
from ...networks.words import Head, word_embedding
from ..batches import (
    NOWHERE,
    Batch,
    Batches,
    Examples,
    bounded_batches,
    order_by_length,
    padded_texts,
    resident_texts,
)
from ..models import EstimatedModel, TokenModel, TokenNetwork
from ..problem import Problem, refuse_attention, refuse_word_outputs
from ..ragged import Ragged

POOLINGS = ("last", "mean", "max")


@dataclass(frozen=True)
class Classification(Problem):
    """Many-to-one: a text is read, then its label is named (d2l 16.2).

    The label of an utterance of a dialogue is the dialogue's topic.

    Attributes:
        pooling: what of the top layer's states the label is read from: ``last`` takes the state
            after the last word, and of the backward direction that after the first; ``mean`` and
            ``max`` take all states of the text together.
        max_tokens: of a longer text the first ``max_tokens`` words are read.

    Raises:
        InputError: for an unknown pooling or fewer than one word.
    """

    kinds: ClassVar[tuple[str, ...]] = ("labelled", "dialogues")
    columns: ClassVar[tuple[str, ...]] = ("tokens", "label")
    decides: ClassVar[str] = "macro_f1"
    baselines: ClassVar[tuple[str, ...]] = ("most_frequent",)

    name: Literal["classification"] = "classification"
    pooling: str = "last"
    max_tokens: int = 500

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise InputError(
                f"unknown problem.pooling {self.pooling!r}: {choose_from(self.pooling, POOLINGS)}"
            )
        if self.max_tokens < 1:
            raise InputError(f"problem.max_tokens is {self.max_tokens}: it must be at least 1")

    def check_recurrent(self, variant: Variant) -> None:
        refuse_attention(self.name, variant)

    def check_network(self, network: NetworkConfig) -> None:
        refuse_word_outputs(self.name, network)

    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "TextClassifier":
        num_words, num_labels = vocabulary_sizes
        return TextClassifier(num_words, num_labels, variant, network, self.pooling)

    def build_baseline(
        self, baseline: Baseline, vocabulary_sizes: Sequence[int]
    ) -> "MostFrequentClassifier":
        return MostFrequentClassifier(vocabulary_sizes[1])

    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        assert examples.targets is not None
        return examples.targets.lengths > 0

    def resident(self, examples: Examples, device: torch.device) -> Examples:
        """Texts are cut before they go, not in every epoch."""
        return replace(examples, inputs=self.cut(examples.inputs)).to(device)

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "LabelledBatches":
        texts = self.cut(examples.inputs)
        rows = order_by_length(texts.lengths, batch_size, generator)
        return LabelledBatches(texts, examples, rows)

    def scoring_batches(self, examples: Examples, batch_size: int) -> "LabelledBatches":
        texts = self.cut(examples.inputs)
        rows = bounded_batches(texts.lengths + 1, batch_size, self.max_tokens + 1)
        return LabelledBatches(texts, examples, rows)

    def cut(self, texts: Ragged) -> Ragged:
        """The texts up to ``max_tokens`` words."""
        kept = np.minimum(texts.lengths, self.max_tokens)
        if (kept == texts.lengths).all():
            return texts
        return Ragged.of([row[: self.max_tokens] for row in texts])


class LabelledBatches(Batches):
    """Padded texts ``[T, B]`` with their lengths, and the label of each, ``[B]``."""

    def __init__(self, texts: Ragged, examples: Examples, rows: list[NDArray[np.int64]]) -> None:
        assert examples.targets is not None
        self.texts, self.labels, self.rows = texts, examples.targets, rows
        if texts.resident:
            self.on_device = texts.resident.spread(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        rows = self.rows[index]
        if self.texts.resident and self.labels.resident:
            width, on_device = int(self.texts.lengths[rows].max()), self.on_device[index]
            labels_there = self.labels.resident
            return Batch(
                resident_texts(self.texts.resident, on_device, width),
                labels_there.values[labels_there.offsets[on_device]].long(),
                NOWHERE,
                NOWHERE,
                len(rows),
            )
        positions = self.labels.offsets[rows]
        labels = self.labels.values[positions].astype(np.int64)
        return Batch(
            padded_texts(self.texts, rows), torch.from_numpy(labels), rows, positions, len(rows)
        )


class TextClassifier(TokenNetwork):
    """Embedding, recurrent stack, and a layer that scores every label; ids are ``[T, B]``."""

    def __init__(
        self,
        num_words: int,
        num_labels: int,
        variant: Variant,
        network: NetworkConfig,
        pooling: str,
    ) -> None:
        super().__init__()
        self.pooling = pooling
        self.embedding = word_embedding(num_words, network)
        self.dropout = FeatureDropout(network.dropout)
        self.stack = RecurrentStack(
            self.embedding.size,
            network.hidden_size,
            variant,
            network.dropout,
            network.layer_norm,
        )
        self.head = Head(self.stack.output_size, num_labels, network.dropout)

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        ids, lengths = batch.inputs
        return self.text_features(ids, lengths), None

    def inside(self, batch: Batch) -> Tensor:
        return _inside(*batch.inputs)

    def text_features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """What enters the output layer for texts ``ids [T, B]`` of ``lengths [B]``: ``[B, F]``."""
        outputs, final = self.stack(self.dropout(self.embedding(ids)), lengths=lengths)
        if self.pooling == "last":
            pooled = torch.cat(tuple(final[0][-self.stack.num_directions :]), dim=-1)
        else:
            inside = _inside(ids, lengths)[..., None]
            if self.pooling == "mean":
                pooled = (outputs * inside).sum(0) / lengths[:, None]
            else:
                pooled = outputs.masked_fill(~inside, -torch.inf).amax(0)
        scored: Tensor = self.head(pooled)
        return scored


def _inside(ids: Tensor, lengths: Tensor) -> Tensor:
    return torch.arange(len(ids), device=ids.device)[:, None] < lengths


class MostFrequentClassifier(TokenModel, EstimatedModel):
    """Every text has the label that most texts have; there are no features, ``F`` is 0."""

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.labels = MostFrequentClass(num_labels)

    def estimate(self, examples: Examples) -> None:
        assert examples.targets is not None
        labels = examples.targets.values[examples.targets.positions]
        self.labels.estimate(torch.from_numpy(labels.astype(np.int64)))

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        return self.text_features(*batch.inputs), None

    def text_features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """Nothing of texts ``ids [T, B]`` but how many there are: ``[B, 0]``."""
        return lengths.new_empty(len(lengths), 0)

    def logits(self, features: Tensor) -> Tensor:
        """Natural logarithms of the probabilities, float64."""
        logarithms: Tensor = self.labels(len(features))
        return logarithms.clone()

    def summed_loss(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        """The batch's summed cross-entropy in nats."""
        return -self.labels.logarithms[batch.targets].sum(), None
