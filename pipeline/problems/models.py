"""What the training loop asks of a model, and what models of tokens share."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from ..baselines.ngram import KneserNey
from ..errors import InputError
from ..networks.recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ..networks.regularisation import FeatureDropout, Penalties, RegularisationConfig, Regularised
from ..networks.softmax import AdaptiveSoftmax, FullSoftmax
from ..networks.words import Head, WordHead, word_embedding
from ..text.vocabulary import PAD, SPECIALS, UNK
from .batches import Batch, Examples


class Model(nn.Module, ABC):
    """What the training loop knows of a model: the loss of a batch.

    Attributes:
        num_steps: optimizer steps taken so far; the loop says so before each, for what changes as
            training goes on.
    """

    num_steps: int = 0

    @abstractmethod
    def summed_loss(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, Hidden | None]:
        """The batch's loss summed over its targets (a scalar), and the next batch's state."""

    @torch.no_grad()
    def begin_from(self, weights: Mapping[str, Tensor], vocabulary_sizes: Sequence[int]) -> None:
        """Overwrite fresh weights by given ones, as far as those reach.

        Weights that are not given stay fresh, and so do values that are NaN, and the rows of words
        that a vocabulary (now of ``vocabulary_sizes``) has more than when the weights were made:
        words keep their ids, new ones stand behind them.

        Raises:
            InputError: for a weight that this model does not have, or has in another shape.
        """
        own, grown = self.state_dict(), self.grown_sizes(vocabulary_sizes)
        for name, given in weights.items():
            if name not in own or given.dim() != own[name].dim():
                raise InputError(
                    f"the weights to begin from have {name}, which this network has not: train "
                    f"the same variant with the same network settings"
                )
            for old, new in zip(given.shape, own[name].shape, strict=True):
                if old != new and not (old < new and new in grown):
                    raise InputError(
                        f"the weights to begin from have {name} of {tuple(given.shape)}, this "
                        f"network of {tuple(own[name].shape)}: give it the same sizes"
                    )
            part = own[name][tuple(slice(size) for size in given.shape)]
            part.copy_(torch.where(given.isnan(), part, given.to(part)))

    def grown_sizes(self, vocabulary_sizes: Sequence[int]) -> set[int]:
        """Sizes of weights that are larger where a vocabulary has more words."""
        return set(vocabulary_sizes)

    def prepare(self, examples: Examples) -> None:
        """Take what a model must know of the training split before it is trained, as scales."""

    def regularise(self, config: RegularisationConfig) -> None:
        """Train under ``config`` from now on; whether it suits is for ``Problem`` to say."""
        for module in self.modules():
            if isinstance(module, Regularised):
                module.regularisation = config

    def objective(
        self, batch: Batch, hidden: Hidden | None
    ) -> tuple[Tensor, Tensor, Hidden | None]:
        """What a training step descends.

        Returns:
            The loss per target with all penalties (a scalar with a gradient), the batch's summed
            loss without any, and the next batch's state.
        """
        loss, hidden = self.summed_loss(batch, hidden)
        return loss / max(batch.num_targets, 1), loss, hidden


class EstimatedModel(Model):
    """A baseline: it is counted or solved in one go, and has no gradient.

    All that it learns is in its buffers. Where it scores words, logits are natural logarithms of
    probabilities already.
    """

    @abstractmethod
    def estimate(self, examples: Examples) -> None:
        """Learn from the training split, once and whole."""


class Standing(NamedTuple):
    """How ``N`` targets stand among all words or labels; specials do not compete.

    Attributes:
        nats: negative log-probability, float64 ``[N]``.
        higher: how many words are likelier than the target, ``[N]``.
        equal: how many others are as likely, ``[N]``.
        best: the likeliest word, ``[N]``; ``UNK`` where there is none.
    """

    nats: Tensor
    higher: Tensor
    equal: Tensor
    best: Tensor


class TokenModel(Model):
    """A model that scores every word of a vocabulary in two steps, so that they come in chunks."""

    @abstractmethod
    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, Hidden | None]:
        """What the scores of every predicted position are made from.

        Returns:
            ``[N, F]`` in the order of ``batch.targets``, and the state that the next batch starts
            from (detached), or None where batches do not follow on each other.
        """

    @abstractmethod
    def logits(self, features: Tensor) -> Tensor:
        """The scores of all words from ``features [..., F]``: ``[..., V]``, a new tensor."""

    def standing(self, features: Tensor, targets: Tensor) -> Standing:
        """Where each of ``targets [N]`` stands among the words after ``features [N, F]``."""
        logits = self.logits(features)
        chosen = logits.gather(1, targets[:, None])
        nats = -chosen[:, 0].double()
        if not isinstance(self, EstimatedModel):
            nats += logits.logsumexp(1)
        words = logits[:, len(SPECIALS) :]
        # A vocabulary may know no word at all, and spell every one.
        known_words = words.shape[1] > 0
        best = _argmax(words) + len(SPECIALS) if known_words else torch.full_like(targets, UNK)
        return Standing(nats, _num_true(words > chosen), _num_true(words == chosen) - 1, best)


class TokenNetwork(TokenModel):
    """A network whose last layer scores every word or label."""

    head: "Head"
    label_smoothing: float = 0.0
    penalties: Penalties | None = None

    stack: RecurrentStack

    @property
    def last_stack(self) -> RecurrentStack:
        """The stack whose outputs are scored; the temporal penalty is of them."""
        return self.stack

    def logits(self, features: Tensor) -> Tensor:
        scores: Tensor = self.head.output(features)
        return scores

    def summed_loss(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, Hidden | None]:
        """The batch's summed cross-entropy in nats."""
        features, hidden = self.features(batch, hidden)
        return self.head.output.summed_loss(features, batch.targets), hidden

    def inside(self, batch: Batch) -> Tensor:
        """Which outputs of the last stack are of a sequence and not of padding, bool ``[T, B]``."""
        return batch.targets.view(-1, batch.num_columns) != PAD

    def grown_sizes(self, vocabulary_sizes: Sequence[int]) -> set[int]:
        sizes = super().grown_sizes(vocabulary_sizes)
        if isinstance(self.head.output, AdaptiveSoftmax):
            # New words stand behind all others: they join the rarest.
            sizes |= {size - self.head.output.cutoffs[-2] for size in vocabulary_sizes}
        return sizes

    def regularise(self, config: RegularisationConfig) -> None:
        super().regularise(config)
        self.label_smoothing = config.label_smoothing
        if config.activation_penalty or config.temporal_penalty:
            self.penalties = Penalties(config, self.last_stack, self.head.dropout)

    def objective(
        self, batch: Batch, hidden: Hidden | None
    ) -> tuple[Tensor, Tensor, Hidden | None]:
        if not self.label_smoothing and self.penalties is None:
            return super().objective(batch, hidden)
        if self.penalties is not None:
            self.penalties.forget()
        features, hidden = self.features(batch, hidden)
        loss = self.head.output.summed_loss(features, batch.targets)
        total = loss
        if self.label_smoothing:
            assert isinstance(self.head.output, FullSoftmax)
            spread = loss + summed_advantage(features, self.head.output, batch.targets)
            total = torch.lerp(loss, spread, self.label_smoothing)
        mean = total / max(batch.num_targets, 1)
        if self.penalties is not None:
            scored = batch.targets.view(-1, batch.num_columns) != PAD
            mean = mean + self.penalties.sum(scored, self.inside(batch)) * batch.share
        return mean, loss, hidden


def summed_advantage(features: Tensor, output: nn.Linear, targets: Tensor) -> Tensor:
    """How far each target's logit stands above the mean logit of its row, summed; PAD is free.

    Cross-entropy against the uniform distribution is cross-entropy against the target plus this:
    so label smoothing needs no logits beside the target's, ``w_t . f + b_t``.
    """
    real = (targets != PAD)[:, None]
    with torch.autocast(features.device.type, enabled=False):
        features = features.to(output.weight.dtype)
        chosen = (functional.embedding(targets, output.weight) * features * real).sum()
        mean = ((features @ output.weight.mean(0))[:, None] * real).sum()
        biases = ((output.bias[targets] - output.bias.mean())[:, None] * real).sum()
    return chosen - mean + biases


# On a CPU, torch takes seven times as long for either: together more than the output layer itself.


def _num_true(mask: Tensor) -> Tensor:
    if mask.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(mask.numpy(), axis=1))
    return mask.sum(1)


def _argmax(scores: Tensor) -> Tensor:
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(1))
    return scores.argmax(1)


class TextModel(TokenNetwork):
    """Embedding, recurrent stack and word head over one text."""

    def __init__(self, num_words: int, variant: Variant, network: NetworkConfig) -> None:
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
        self.head = WordHead(self.embedding, self.stack.output_size, network)


class NgramModel(TokenModel, EstimatedModel):
    """An n-gram model of order ``n``; its features are contexts, ids ``[N, n - 1]``."""

    def __init__(self, order: int, num_words: int) -> None:
        super().__init__()
        self.ngrams = KneserNey(order, num_words)

    def logits(self, features: Tensor) -> Tensor:
        """Natural logarithms of the probabilities, float64."""
        logarithms: Tensor = self.ngrams(features)
        return logarithms

    def standing(self, features: Tensor, targets: Tensor) -> Standing:
        """The same as of all logits, from the words that were seen behind a context alone."""
        return Standing(*self.ngrams.standing(features, targets, len(SPECIALS)))

    def summed_loss(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, Hidden | None]:
        """The batch's summed cross-entropy in nats, of the targets alone."""
        contexts, hidden = self.features(batch, hidden)
        real = batch.targets != PAD
        return -self.ngrams.log_probability(contexts[real], batch.targets[real]).sum(), hidden
