"""Tagging: a label for every token of a text.

Shape letters: ``T`` time, ``B`` batch, ``H`` hidden, ``D`` directions, ``F`` features of a token.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...baselines.most_frequent import MostFrequentTag
from ...errors import InputError
from ...networks.recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ...networks.regularisation import FeatureDropout
from ...networks.variants import Baseline
from ...networks.words import Head, word_embedding
from ...text.config import TextConfig
from ...text.vocabulary import PAD
from ..batches import NOWHERE, Batch, Batches, Examples, bounded_batches, order_by_length
from ..models import EstimatedModel, TokenModel, TokenNetwork
from ..problem import Problem, refuse_attention, refuse_word_outputs


@dataclass(frozen=True)
class Tagging(Problem):
    """Many-to-many, aligned: named entities, or parts of speech (Graves 2012, section 2.3).

    Records without tags get jieba's parts of speech, so that any Chinese text is an example.

    Attributes:
        max_tokens: longer texts are left out of training; scores are of all texts.

    Raises:
        InputError: for fewer than one token.
    """

    kinds: ClassVar[tuple[str, ...]] = ("tagged", "dialogues")
    columns: ClassVar[tuple[str, ...]] = ("tokens", "tags")
    decides: ClassVar[str] = "entity_f1"
    baselines: ClassVar[tuple[str, ...]] = ("most_frequent",)

    name: Literal["tagging"] = "tagging"
    max_tokens: int = 200

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise InputError(f"problem.max_tokens is {self.max_tokens}: it must be at least 1")

    def check_text(self, text: TextConfig) -> None:
        if text.unit == "subword":
            raise InputError("tagging gives a label to each word: set text.unit to word")

    def check_recurrent(self, variant: Variant) -> None:
        refuse_attention(self.name, variant)

    def check_network(self, network: NetworkConfig) -> None:
        refuse_word_outputs(self.name, network)

    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "TokenTagger":
        num_words, num_labels = vocabulary_sizes
        return TokenTagger(num_words, num_labels, variant, network)

    def build_baseline(
        self, baseline: Baseline, vocabulary_sizes: Sequence[int]
    ) -> "MostFrequentTagger":
        return MostFrequentTagger(*vocabulary_sizes)

    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        lengths = examples.inputs.lengths
        return (lengths > 0) & (lengths <= self.max_tokens) if training else lengths > 0

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "TaggedBatches":
        rows = np.flatnonzero(self.usable(examples, training=True))
        buckets = order_by_length(examples.inputs.lengths[rows], batch_size, generator)
        return TaggedBatches(examples, [rows[bucket] for bucket in buckets])

    def scoring_batches(self, examples: Examples, batch_size: int) -> "TaggedBatches":
        rows = np.flatnonzero(self.usable(examples, training=False))
        batches = bounded_batches(examples.inputs.lengths[rows], batch_size, self.max_tokens)
        return TaggedBatches(examples, [rows[batch] for batch in batches])


class TaggedBatches(Batches):
    """Padded tokens ``[T, B]`` with their lengths, and a label for each, ``T * B``."""

    def __init__(self, examples: Examples, rows: list[NDArray[np.int64]]) -> None:
        assert examples.targets is not None
        self.tokens, self.labels, self.rows = examples.inputs, examples.targets, rows
        if self.tokens.resident:
            self.on_device = self.tokens.resident.spread(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        rows = self.rows[index]
        lengths = self.tokens.lengths[rows]
        if self.tokens.resident and self.labels.resident:
            width, on_device = int(lengths.max()), self.on_device[index]
            tags = self.labels.resident.padded(on_device, PAD, width)
            return Batch(
                (
                    self.tokens.resident.padded(on_device, PAD, width),
                    self.tokens.resident.lengths(on_device),
                ),
                tags.long().flatten(),
                NOWHERE,
                NOWHERE,
                int(lengths.sum()),
            )
        ids = np.ascontiguousarray(self.tokens.padded(rows, PAD).T.astype(np.int32))
        labels = self.labels.padded(rows, PAD, len(ids)).T.astype(np.int64)
        steps = np.arange(len(ids))[:, None]
        inside = steps < lengths
        return Batch(
            (torch.from_numpy(ids), torch.from_numpy(lengths)),
            torch.from_numpy(labels.ravel()),
            np.where(inside, rows, -1).ravel(),
            np.where(inside, self.labels.offsets[rows] + steps, -1).ravel(),
            int(inside.sum()),
        )


class TokenTagger(TokenNetwork):
    """Embedding, recurrent stack, and a layer that scores every label at every token."""

    def __init__(
        self, num_words: int, num_labels: int, variant: Variant, network: NetworkConfig
    ) -> None:
        super().__init__()
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
        return self.token_features(ids, lengths).flatten(0, 1), None

    def token_features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """What enters the output layer at tokens ``ids [T, B]`` of ``lengths [B]``: ``[T, B, F]``.

        Features beyond a row's length are meaningless.
        """
        outputs, _ = self.stack(self.dropout(self.embedding(ids)), lengths=lengths)
        scored: Tensor = self.head(outputs)
        return scored


class MostFrequentTagger(TokenModel, EstimatedModel):
    """Every token has the tag that its word has most often; its features are ids, ``F`` is 1."""

    def __init__(self, num_words: int, num_labels: int) -> None:
        super().__init__()
        self.tags = MostFrequentTag(num_words, num_labels)

    def estimate(self, examples: Examples) -> None:
        assert examples.targets is not None
        words, tags = (
            torch.from_numpy(side.values[side.positions].astype(np.int64))
            for side in (examples.inputs, examples.targets)
        )
        self.tags.estimate(words, tags)

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        return self.token_features(*batch.inputs).flatten(0, 1), None

    def token_features(self, ids: Tensor, lengths: Tensor) -> Tensor:
        """The tokens themselves, ``ids [T, B]``: ``[T, B, 1]``."""
        return ids[..., None]

    def logits(self, features: Tensor) -> Tensor:
        """Natural logarithms of the probabilities, float64."""
        logarithms: Tensor = self.tags(features[..., 0])
        return logarithms

    def summed_loss(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        """The batch's summed cross-entropy in nats; padding is free."""
        real = batch.targets != PAD
        words = batch.inputs[0].flatten()[real]
        return -self.tags.logarithms[words, batch.targets[real]].sum(), None
