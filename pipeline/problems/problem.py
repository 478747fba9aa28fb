"""What every problem has in common: its examples, its batches, and how tokens are scored.

Shape letters: ``B`` batch, ``T`` time, ``N`` predicted positions of a batch, ``F`` features that
enter the output layer, ``V`` vocabulary.

A problem is a frozen dataclass: its fields are its settings, its methods say how it is learnt. The
training loop, the evaluation and the search know only what stands here.
"""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..baselines.ngram import KneserNey
from ..errors import InputError
from ..ragged import Ragged, Resident
from ..recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ..regularisation import FeatureDropout, Penalties, RegularisationConfig, Regularised
from ..softmax import AdaptiveSoftmax, FullSoftmax, chunk_rows
from ..variants import Baseline
from ..vocabulary import EOS, PAD, SPECIALS, UNK

NOWHERE = np.zeros(0, np.int64)
"""Rows and positions of a batch that was made on a device."""

UNRANKED = 2**31 - 1
"""The rank of a word that is on no list."""


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


@dataclass(frozen=True)
class Problem(ABC):
    """What is learnt. Subclasses carry ``name`` as a field, so that a recipe can name them."""

    name: str

    kinds: ClassVar[tuple[str, ...]]
    """The kinds of records that it learns from."""
    columns: ClassVar[tuple[str, ...]] = ("tokens",)
    """The columns of tokens that it reads, the predicted one last; each has its vocabulary."""
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


@dataclass(frozen=True)
class TokenScores:
    """How a model scored every target of a split, flat, in the order of its batches.

    Attributes:
        nats: negative log-probability of each target, float64 ``[N]``.
        ranks: how many words the model would offer before the target (of equally likely words,
            half), int64 ``[N]``. Specials are never offered, and an unknown target is ``UNRANKED``:
            no list of words contains it; so is everything where scores are no numbers.
        best: the likeliest word or label that is no special, int64 ``[N]``; ``UNK`` where there is
            none.
        rows, positions: as in :class:`Batch`.
    """

    nats: NDArray[np.float64]
    ranks: NDArray[np.int64]
    best: NDArray[np.int64]
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]


@torch.inference_mode()
def score_tokens(
    problem: Problem, model: TokenModel, examples: Examples, batch_size: int, device: torch.device
) -> TokenScores:
    """Score every target of ``examples`` once with the model in evaluation mode."""
    was_training = model.training
    model.eval()
    parts: list[tuple[NDArray[Any], ...]] = []
    hidden: Hidden | None = None
    for batch in problem.scoring_batches(examples, batch_size):
        batch = batch.to(device)
        features, hidden = model.features(batch, hidden)
        real = batch.targets != PAD
        kept = real.cpu().numpy()
        scores = _nats_ranks_best(model, features[real], batch.targets[real])
        parts.append((*scores, batch.rows[kept], batch.positions[kept]))
    model.train(was_training)
    if not parts:
        empty = np.zeros(0, np.int64)
        return TokenScores(np.zeros(0), empty, empty, empty, empty)
    return TokenScores(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _nats_ranks_best(
    model: TokenModel, features: Tensor, targets: Tensor
) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    nats, ranks, best = [], [], []
    size = chunk_rows(features)
    for rows, goals in zip(features.split(size), targets.split(size), strict=True):
        standing = model.standing(rows, goals)
        known = (goals != UNK) & standing.nats.isfinite()
        rank = standing.higher + (standing.equal + 1) // 2
        nats.append(standing.nats)
        ranks.append(torch.where(known, rank, UNRANKED))
        best.append(standing.best)
    if not nats:
        return np.zeros(0), np.zeros(0, np.int64), np.zeros(0, np.int64)
    return tuple(torch.cat(parts).cpu().numpy() for parts in (nats, ranks, best))  # type: ignore[return-value]


# On a CPU, torch takes seven times as long for either: together more than the output layer itself.


def _num_true(mask: Tensor) -> Tensor:
    if mask.device.type == "cpu":
        return torch.from_numpy(np.count_nonzero(mask.numpy(), axis=1))
    return mask.sum(1)


def _argmax(scores: Tensor) -> Tensor:
    if scores.device.type == "cpu":
        return torch.from_numpy(scores.numpy().argmax(1))
    return scores.argmax(1)


class Head(nn.Module):
    """The last layers of a model that scores words or labels: dropout and ``output``.

    Calling it gives what enters ``output``; logits come from ``output`` itself, in chunks.
    """

    output: FullSoftmax | AdaptiveSoftmax

    def __init__(
        self, num_features: int, num_outputs: int, dropout: float, cutoffs: Sequence[int] = ()
    ) -> None:
        super().__init__()
        self.dropout = FeatureDropout(dropout)
        if cutoffs:
            self.output = AdaptiveSoftmax(num_features, num_outputs, cutoffs)
        else:
            self.output = FullSoftmax(num_features, num_outputs)

    def forward(self, features: Tensor) -> Tensor:
        """What enters ``output``: ``[..., F]``."""
        dropped: Tensor = self.dropout(features)
        return dropped


class WordHead(Head):
    """A head over words, whose weights may be the embedding's; a projection then makes them fit."""

    def __init__(self, embedding: "WordInput", num_features: int, network: NetworkConfig) -> None:
        size = embedding.size if network.tied else num_features
        super().__init__(size, embedding.num_words, network.dropout, network.cutoffs)
        self.projection: nn.Module = nn.Identity()
        if size != num_features:
            self.projection = nn.Linear(num_features, size, bias=False)
        if isinstance(embedding, Embedding) and network.tied:
            self.output.weight = embedding.weight

    def forward(self, features: Tensor) -> Tensor:
        projected: Tensor = self.projection(super().forward(features))
        return projected


class WordInput(Regularised, ABC):
    """How tokens enter a network; called with ids ``[T, B]`` it gives ``[T, B, size]``.

    Attributes:
        num_words: ``V``.
        size: features of an embedded token.
    """

    num_words: int
    size: int

    @abstractmethod
    def vectors(self, ids: Tensor) -> Tensor:
        """The vectors of ``ids [T, B]``, ``[T, B, size]``."""

    def forward(self, ids: Tensor) -> Tensor:
        """The vectors of ``ids [T, B]``, ``[T, B, size]``; in training some words are lost."""
        config = self.regularisation
        if self.training and config.word_dropout:
            lost = torch.rand(ids.shape, device=ids.device) < config.word_dropout
            ids = ids.masked_fill(lost & (ids >= len(SPECIALS)), UNK)
        vectors = self.vectors(ids)
        if self.training and config.embedding_dropout:
            mask = self.kept("words", (self.num_words, 1), vectors, config.embedding_dropout)
            vectors = vectors * functional.embedding(ids, mask)
        return vectors


class Embedding(WordInput, nn.Embedding):
    """Vectors ``[V, E]``, uniform in +-0.1 at first (Zaremba, Sutskever and Vinyals 2014)."""

    def __init__(self, num_words: int, size: int, frozen: bool = False) -> None:
        nn.Embedding.__init__(self, num_words, size, padding_idx=PAD)
        self.num_words, self.size = num_words, size
        nn.init.uniform_(self.weight, -0.1, 0.1)
        self.weight.requires_grad_(not frozen)

    def vectors(self, ids: Tensor) -> Tensor:
        return nn.Embedding.forward(self, ids)


class OneHot(WordInput):
    """A token as ``V`` features, one of them 1 (d2l 9.5); nothing is learnt here."""

    one: Tensor

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.num_words = self.size = num_words
        self.register_buffer("one", torch.ones(()), persistent=False)

    def vectors(self, ids: Tensor) -> Tensor:
        return functional.one_hot(ids.long(), self.num_words).to(self.one.dtype)


def word_embedding(num_words: int, network: NetworkConfig) -> WordInput:
    """How the tokens of a vocabulary of ``V`` words enter a network."""
    if network.embedding == "one_hot":
        return OneHot(num_words)
    return Embedding(num_words, network.embedding_size, network.embedding == "frozen")


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


def digest_seed(*parts: object) -> int:
    """A 63-bit seed from its parts, the same in every process."""
    text = "\x1f".join(str(part) for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest()) >> 1
