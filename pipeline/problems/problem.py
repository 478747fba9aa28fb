"""What every problem has in common: its examples, its batches, and how tokens are scored.

Shape letters: ``B`` batch, ``T`` time, ``N`` predicted positions of a batch, ``F`` features that
enter the output layer, ``V`` vocabulary.

A problem is a frozen dataclass: its fields are its settings, its methods say how it is learnt. The
training loop, the evaluation and the search know only what stands here.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from ..errors import InputError
from ..networks.recurrent import NetworkConfig, Variant
from ..networks.regularisation import RegularisationConfig
from ..networks.variants import Baseline
from ..text.config import TextConfig
from .batches import Batches, Examples
from .models import EstimatedModel, Model


def refuse_word_outputs(problem: str, network: NetworkConfig) -> None:
    """Labels are no words of the text, and few: they share no weights and have no rare ones.

    Raises:
        InputError: where the network would score them as words.
    """
    if network.tied:
        raise InputError(
            f"{problem} cannot tie the output layer to the embedding, labels are no words of the "
            f"text: set network.tied=false"
        )
    if network.output != "full":
        raise InputError(
            f"{problem} cannot use network.output={network.output}, which is for words, not for "
            f"labels: set network.output=full"
        )


@dataclass(frozen=True)
class Problem(ABC):
    """What is learnt. Subclasses carry ``name`` as a field, so that a recipe can name them."""

    name: str

    kinds: ClassVar[tuple[str, ...]]
    """The kinds of records that it learns from."""
    columns: ClassVar[tuple[str, ...]] = ("tokens",)
    """The columns of tokens that it reads, the predicted one last; each has its vocabulary."""
    num_texts: ClassVar[int] = 1
    """How many of ``columns`` are texts that a tokenizer cuts, the first ones; 0 for series."""
    loss: ClassVar[str] = "nats"
    """The unit of the training loss."""
    decides: ClassVar[str] = "bits_per_character"
    """The metric by which a champion is chosen, measured on validation."""
    baselines: ClassVar[tuple[str, ...]] = ()
    """The kinds of baselines that make sense here."""
    fixed_shapes: ClassVar[bool] = False
    """Whether all batches of an epoch but the last have one shape."""
    input_vectors: ClassVar[str] = "embedding.weight"
    """The weight that holds the vectors of the words read; empty where no words are."""
    regularisations: ClassVar[tuple[str, ...]] = tuple(
        each.name for each in fields(RegularisationConfig)
    )
    """The settings of :class:`RegularisationConfig` that act on its models."""

    def check(self, variant: Variant | Baseline) -> None:
        """Refuse a variant that makes no sense here.

        Raises:
            InputError: with the reason.
        """
        if isinstance(variant, Variant):
            self.check_recurrent(variant)
        else:
            self.check_baseline(variant)

    @abstractmethod
    def check_recurrent(self, variant: Variant) -> None:
        """Refuse a recurrent network that makes no sense here, as :meth:`check` does."""

    def check_baseline(self, baseline: Baseline) -> None:
        """Refuse a baseline that makes no sense here, as :meth:`check` does."""
        if baseline.kind not in self.baselines:
            known = ", ".join(self.baselines)
            raise InputError(
                f"{self.name} cannot use {baseline.name}: "
                + (f"of the baselines it takes {known}" if known else "it has no baselines")
            )

    def texts(self, text: TextConfig, target_text: TextConfig | None) -> tuple[TextConfig, ...]:
        """Return how each text that it reads is tokenized; none for series."""
        return (text, target_text or text)[: self.num_texts]

    def check_text(self, text: TextConfig) -> None:
        """Refuse a way to tokenize that makes no sense here.

        Raises:
            InputError: with the reason.
        """
        del text

    def check_network(self, network: NetworkConfig) -> None:
        """Refuse sizes and regularisation that make no sense here.

        Raises:
            InputError: with the reason.
        """
        del network

    def build(
        self,
        variant: Variant | Baseline,
        network: NetworkConfig,
        vocabulary_sizes: Sequence[int],
    ) -> Model:
        """A new model; ``vocabulary_sizes`` holds ``V`` of each of ``columns``."""
        if isinstance(variant, Variant):
            return self.build_recurrent(variant, network, vocabulary_sizes)
        return self.build_baseline(variant, vocabulary_sizes)

    @abstractmethod
    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> Model:
        """A new recurrent network, as :meth:`build` makes it."""

    def build_baseline(self, baseline: Baseline, vocabulary_sizes: Sequence[int]) -> EstimatedModel:
        """A new baseline of one of the kinds ``baselines``, as :meth:`build` makes it."""
        raise NotImplementedError(f"{self.name} has no baseline {baseline.kind}")

    @abstractmethod
    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        """The rows that can be trained on, or scored: bool ``[N]``."""

    def length_ratio(self, examples: Examples) -> float | None:
        """How long an output may be for its input; None where outputs are no texts of their own."""
        return None

    def resident(self, examples: Examples, device: torch.device) -> Examples:
        """``examples`` for batches that are made on ``device``."""
        return examples.to(device)

    def widest(self) -> "Problem":
        """The same problem, of which every epoch has the widest batch that this one may have."""
        return self

    @abstractmethod
    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> Batches:
        """The batches of one epoch, shuffled by ``generator``."""

    @abstractmethod
    def scoring_batches(self, examples: Examples, batch_size: int) -> Batches:
        """Batches in which every target of the split comes exactly once."""


def refuse_attention(problem: str, variant: Variant) -> None:
    """Attention needs a source to attend to.

    Raises:
        InputError: where the variant has it.
    """
    if variant.attention:
        raise InputError(
            f"{problem} cannot use {variant.name}: attention reads a source sentence, and only "
            f"seq2seq has one; drop -attention"
        )


def digest_seed(*parts: object) -> int:
    """A 63-bit seed from its parts, the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
