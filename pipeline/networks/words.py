"""Words into features and features into scores of words: embeddings and output layers."""

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..text.vocabulary import PAD, SPECIALS, UNK
from .recurrent import NetworkConfig
from .regularisation import FeatureDropout, Regularised
from .softmax import AdaptiveSoftmax, FullSoftmax


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
