"""Encoder and decoder: a sentence in, a sentence of another length out.

Shape letters: ``S`` source steps, ``T`` target steps, ``B`` batch, ``K`` hypotheses of a sentence,
``E`` embedding, ``H`` hidden, ``D`` directions of the encoder, ``L`` layers, ``V`` target words.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..errors import InputError
from ..recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ..vocabulary import BOS, EOS, PAD
from .problem import (
    Batch,
    Batches,
    Examples,
    Problem,
    TokenNetwork,
    WordHead,
    bounded_batches,
    order_by_length,
    padded_texts,
    word_embedding,
)

ATTENTIONS = ("dot", "additive")


@dataclass(frozen=True)
class Seq2Seq(Problem):
    """Many-to-many of different lengths: translation, or the reply to an utterance.

    The encoder's last state starts the decoder, and its top layer is fed to the decoder at every
    step as the context (Cho et al. 2014; d2l 10.7). Variants with ``-attention`` also weigh all
    source states by the decoder's output before each word is scored (Luong, Pham and Manning 2015,
    section 3.1, without input feeding). Training forces the teacher's words; padding is free.

    Attributes:
        attention: ``dot`` scores keys by a scaled product (Luong's *general*), ``additive`` by
            ``v . tanh(W q + U k)`` (Bahdanau, Cho and Bengio 2015). For ``-attention`` variants.
        max_tokens: pairs with a longer side are left out of training; scores are of all pairs.

    Raises:
        InputError: for an unknown attention or fewer than one token.
    """

    kinds: ClassVar[tuple[str, ...]] = ("pairs", "dialogues")
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    decides: ClassVar[str] = "bleu"

    name: Literal["seq2seq"] = "seq2seq"
    attention: str = "dot"
    max_tokens: int = 50

    def __post_init__(self) -> None:
        if self.attention not in ATTENTIONS:
            raise InputError(
                f"unknown problem.attention {self.attention!r}: choose from {', '.join(ATTENTIONS)}"
            )
        if self.max_tokens < 1:
            raise InputError(f"problem.max_tokens is {self.max_tokens}: it must be at least 1")

    def check_recurrent(self, variant: Variant) -> None:
        """Every variant makes sense: only the encoder ever reads in both directions."""

    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "EncoderDecoder":
        source_size, target_size = vocabulary_sizes
        return EncoderDecoder(source_size, target_size, variant, network, self.attention)

    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        assert examples.targets is not None
        sources, targets = examples.inputs.lengths, examples.targets.lengths
        if not training:
            return np.ones(len(sources), bool)
        return (sources > 0) & (sources <= self.max_tokens) & (targets <= self.max_tokens)

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "PairBatches":
        assert examples.targets is not None
        fits = np.flatnonzero(self.usable(examples, training=True))
        sources, targets = examples.inputs.lengths[fits], examples.targets.lengths[fits]
        # Among targets of one length the source decides, so that neither side is padded much.
        keys = targets * (self.max_tokens + 1) + sources
        buckets = order_by_length(keys, batch_size, generator)
        return PairBatches(examples, [fits[bucket] for bucket in buckets])

    def scoring_batches(self, examples: Examples, batch_size: int) -> "PairBatches":
        assert examples.targets is not None
        widths = np.maximum(examples.inputs.lengths, examples.targets.lengths) + 1
        return PairBatches(examples, bounded_batches(widths, batch_size, self.max_tokens + 1))


class PairBatches(Batches):
    """Padded pairs: source ``[S, B]`` with lengths, decoder input ``[T, B]``, targets ``T * B``."""

    def __init__(self, examples: Examples, rows: list[NDArray[np.int64]]) -> None:
        assert examples.targets is not None
        self.sources, self.targets = examples.inputs, examples.targets
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        rows = self.rows[index]
        source, source_lengths = padded_texts(self.sources, rows)
        target_lengths = self.targets.lengths[rows]
        width = int(target_lengths.max())
        words = self.targets.padded(rows, PAD, width + 1).astype(np.int32)
        steps = np.arange(width + 1)
        shifted = np.concatenate((np.full((len(rows), 1), BOS, np.int32), words[:, :-1]), axis=1)
        positions = np.where(
            steps < target_lengths[:, None], self.targets.offsets[rows][:, None] + steps, -1
        )
        words[np.arange(len(rows)), target_lengths] = EOS
        inside = steps <= target_lengths[:, None]
        return Batch(
            (source, source_lengths, torch.from_numpy(np.ascontiguousarray(shifted.T))),
            torch.from_numpy(words.T.astype(np.int64).ravel()),
            np.where(inside, rows[:, None], -1).T.ravel(),
            positions.T.ravel(),
            int(inside.sum()),
        )


class Memory(NamedTuple):
    """What the decoder knows of ``B`` source sentences.

    Attributes:
        context: the encoder's last state, ``[B, D * H]``.
        keys: projected source states, ``[B, S, H]``; empty without attention.
        values: source states, ``[B, S, D * H]``; empty without attention.
        mask: True where a source step is padding, ``[B, S]``.
    """

    context: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor

    def of(self, sentences: Tensor) -> "Memory":
        """The memory of some of the sentences, by index or mask."""
        return Memory(*(part[sentences] for part in self))


class Attention(nn.Module):
    """Weights over source states for every query; the beams of a sentence are just more queries."""

    def __init__(self, kind: str, key_size: int, query_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.key = nn.Linear(key_size, query_size, bias=False)
        self.combine = nn.Linear(key_size + query_size, query_size, bias=False)
        if kind == "additive":
            self.query = nn.Linear(query_size, query_size)
            self.vector = nn.Linear(query_size, 1, bias=False)

    def forward(self, queries: Tensor, memory: Memory) -> Tensor:
        """``queries [B, K, H]`` to attentional features ``[B, K, H]`` (Luong 2015, equation 5)."""
        values = torch.bmm(self.weights(queries, memory), memory.values)
        return torch.tanh(self.combine(torch.cat((values, queries), dim=-1)))

    def weights(self, queries: Tensor, memory: Memory) -> Tensor:
        """The share of each source step in each query's context: ``[B, K, S]``."""
        if self.kind == "additive":
            sums = self.query(queries)[:, :, None] + memory.keys[:, None]
            scores: Tensor = self.vector(torch.tanh(sums))[..., 0]
        else:
            scores = torch.bmm(queries, memory.keys.mT) / math.sqrt(queries.shape[-1])
        return scores.masked_fill(memory.mask[:, None], -torch.inf).softmax(-1)


class EncoderDecoder(TokenNetwork):
    """An encoder stack, a decoder stack of as many layers, attention where the variant has it."""

    def __init__(
        self,
        source_size: int,
        target_size: int,
        variant: Variant,
        network: NetworkConfig,
        attention: str,
    ) -> None:
        super().__init__()
        size = network.hidden_size
        self.dropout = nn.Dropout(network.dropout)
        self.source_embedding = word_embedding(source_size, network)
        self.encoder = RecurrentStack(network.embedding_size, size, variant, network.dropout)
        context_size = self.encoder.output_size
        num_states = self.encoder.cell.num_states if variant.bidirectional else 0
        self.bridges = nn.ModuleList(nn.Linear(context_size, size) for _ in range(num_states))
        forward = Variant(variant.cell, variant.num_layers, kernel=variant.kernel)
        self.target_embedding = word_embedding(target_size, network)
        self.decoder = RecurrentStack(
            network.embedding_size + context_size, size, forward, network.dropout
        )
        self.attention = Attention(attention, context_size, size) if variant.attention else None
        self.head = WordHead(self.target_embedding, size, network)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Hidden]:
        """Read ``source [S, B]``: the memory, and the decoder's first state ``[L, B, H]``."""
        outputs, final = self.encoder(self.dropout(self.source_embedding(source)), lengths=lengths)
        top = final[0][-self.encoder.num_directions :]
        context = torch.cat(tuple(top), dim=-1)
        mask = torch.arange(len(source), device=source.device) >= lengths[:, None]
        values = keys = outputs.new_empty((source.shape[1], 0, 0))
        if self.attention is not None:
            values = self.dropout(outputs).transpose(0, 1)
            keys = self.attention.key(values)
        return Memory(context, keys, values, mask), self._bridged(final)

    def _bridged(self, final: Hidden) -> Hidden:
        """The encoder's state for the decoder: parts ``[L * D, B, H]`` to ``[L, B, H]``.

        Two directions become one by a learnt layer for each part of the state, under a tanh for h
        (Bahdanau, Cho and Bengio 2015, appendix A.2.2); an LSTM's c has no bounds to keep.
        """
        if not self.bridges:
            return final
        pairs = (part.unflatten(0, (-1, 2)).movedim(1, 2).flatten(2) for part in final)
        h, *others = (bridge(part) for bridge, part in zip(self.bridges, pairs, strict=True))
        return torch.tanh(h), *others

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        source, lengths, words = batch.inputs
        memory, start = self.encode(source, lengths)
        embedded = self.dropout(self.target_embedding(words))
        context = memory.context.expand(len(words), -1, -1)
        outputs, _ = self.decoder(torch.cat((embedded, context), dim=-1), start)
        if self.attention is not None:
            outputs = self.attention(outputs.transpose(0, 1), memory).transpose(0, 1)
        return self.head(outputs).flatten(0, 1), None

    def step(self, words: Tensor, hidden: Hidden, memory: Memory) -> tuple[Tensor, Hidden]:
        """One step of search: ``words [B, K]`` to logits ``[B, K, V]`` and the next state.

        ``hidden`` has parts ``[L, B * K, H]``; ``memory`` is one copy for all hypotheses.
        """
        num_sentences, num_hypotheses = words.shape
        context = memory.context[:, None].expand(-1, num_hypotheses, -1)
        inputs = torch.cat((self.target_embedding(words), context), dim=-1).flatten(0, 1)
        outputs, hidden = self.decoder(inputs[None], hidden)
        queries = outputs[0].unflatten(0, (num_sentences, num_hypotheses))
        if self.attention is not None:
            queries = self.attention(queries, memory)
        return self.logits(self.head(queries)), hidden
