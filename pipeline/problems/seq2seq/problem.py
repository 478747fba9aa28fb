"""Encoder and decoder: a sentence in, a sentence of another length out.

Shape letters: ``S`` source steps, ``T`` target steps, ``B`` batch, ``K`` hypotheses of a sentence,
``E`` embedding, ``H`` hidden, ``D`` directions of the encoder, ``L`` layers, ``V`` target words.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ...errors import InputError, choose_from
from ...networks.recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ...networks.regularisation import FeatureDropout, one_sequence
from ...networks.words import WordHead, word_embedding
from ...text.vocabulary import BOS, EOS, PAD
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
from ..models import TokenNetwork
from ..problem import Problem
from ..ragged import Resident

ATTENTIONS = ("dot", "additive")

CONTEXTS = ("every", "first")

SCHEDULES = ("constant", "linear", "exponential", "inverse_sigmoid")

EXTRA_WORDS = 5
"""Words that an output may have beyond its share of the source's, whatever the source."""

LONGER = 0.001
"""The share of training targets that an output of greatest length may be shorter than."""

TANH_GAIN = nn.init.calculate_gain("tanh")
"""5 / 3: what weights under a tanh are multiplied by at first, since it makes signals smaller."""


@dataclass(frozen=True)
class Seq2Seq(Problem):
    """Many-to-many of different lengths: translation, or the reply to an utterance.

    The encoder's last state starts the decoder, and its top layer is fed to the decoder at every
    step as the context (Cho et al. 2014; d2l 10.7). Variants with ``-attention`` also weigh all
    source states by the decoder's output before each word is scored (Luong, Pham and Manning 2015,
    section 3.1). Padding is free.

    Attributes:
        attention: ``dot`` scores keys by a scaled product (Luong's *general*), ``additive`` by
            ``v . tanh(W q + U k)`` (Bahdanau, Cho and Bengio 2015). For ``-attention`` variants.
        context: ``every`` feeds the context to the decoder at every step, ``first`` gives the
            decoder nothing but its first state (Sutskever, Vinyals and Le 2014).
        input_feeding: what attention made of a step enters the decoder at the next one (Luong et
            al. 2015, section 3.3). The decoder then goes word by word, which takes longer.
        teacher_forcing: share of the decoder's inputs in training that are the target's words (d2l
            10.7); the others are the words that the model finds likeliest (scheduled sampling:
            Bengio, Vinyals, Jaitly and Shazeer 2015, section 2.4), each drawn by itself.
        teacher_forcing_schedule: how the share falls from there as training goes on: ``constant``,
            ``linear``, ``exponential`` or ``inverse_sigmoid`` (the same, figure 2).
        teacher_forcing_steps: optimizer steps until it has fallen to half.
        max_tokens: pairs with a longer side are left out of training; scores are of all pairs.

    Raises:
        InputError: for an unknown attention, context or schedule, a share outside [0, 1], or fewer
            than one token or step.
    """

    kinds: ClassVar[tuple[str, ...]] = ("pairs", "dialogues")
    columns: ClassVar[tuple[str, ...]] = ("source", "target")
    num_texts: ClassVar[int] = 2
    decides: ClassVar[str] = "bleu"
    input_vectors: ClassVar[str] = "source_embedding.weight"

    name: Literal["seq2seq"] = "seq2seq"
    attention: str = "dot"
    context: str = "every"
    input_feeding: bool = False
    teacher_forcing: float = 1.0
    teacher_forcing_schedule: str = "constant"
    teacher_forcing_steps: int = 1000
    max_tokens: int = 50

    def __post_init__(self) -> None:
        for name, choices in (
            ("attention", ATTENTIONS),
            ("context", CONTEXTS),
            ("teacher_forcing_schedule", SCHEDULES),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"unknown problem.{name} {getattr(self, name)!r}: "
                    f"{choose_from(getattr(self, name), choices)}"
                )
        for name in ("max_tokens", "teacher_forcing_steps"):
            if getattr(self, name) < 1:
                raise InputError(f"problem.{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.teacher_forcing <= 1:
            raise InputError(
                f"problem.teacher_forcing is {self.teacher_forcing}: it must be in [0, 1]"
            )

    def check_recurrent(self, variant: Variant) -> None:
        """Only input feeding asks for a kind of variant: one with attention to feed.

        Every direction makes sense, since only the encoder ever reads in both.
        """
        if self.input_feeding and not variant.attention:
            raise InputError(
                f"problem.input_feeding feeds what attention made, and {variant.name} has none: "
                f"name the variant {variant.name}-attention"
            )

    def teacher_share(self, num_steps: int) -> float:
        """The share of teacher's words after ``num_steps`` optimizer steps."""
        if self.teacher_forcing_schedule == "constant":
            return self.teacher_forcing
        done = num_steps / self.teacher_forcing_steps
        if self.teacher_forcing_schedule == "linear":
            return self.teacher_forcing * max(0.0, 1 - done / 2)
        if self.teacher_forcing_schedule == "exponential":
            return self.teacher_forcing * math.exp(-done * math.log(2))
        # k / (k + exp(i / k)) is half where i = k log k.
        k = _inverse_of_k_log_k(self.teacher_forcing_steps)
        exponent = min(num_steps / k, 700.0)
        return self.teacher_forcing * k / (k + math.exp(exponent))

    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "EncoderDecoder":
        source_size, target_size = vocabulary_sizes
        return EncoderDecoder(source_size, target_size, variant, network, self)

    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        assert examples.targets is not None
        sources, targets = examples.inputs.lengths, examples.targets.lengths
        if not training:
            return np.ones(len(sources), bool)
        return (sources > 0) & (sources <= self.max_tokens) & (targets <= self.max_tokens)

    def length_ratio(self, examples: Examples) -> float:
        """Words of a target for each of its source, beside ``EXTRA_WORDS``, at most.

        Of the training pairs, all but one in a thousand are within. For words of one language and
        another this is 1 to 2, for words and characters more; where the source says nothing of the
        target's length, as in dialogues, it is so large that only ``max_tokens`` is a limit.
        """
        assert examples.targets is not None
        rows = self.usable(examples, training=True)
        sources, targets = examples.inputs.lengths[rows], examples.targets.lengths[rows]
        ratios = np.maximum(targets - EXTRA_WORDS, 0) / sources
        return float(np.quantile(ratios, 1 - LONGER))

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


def _inverse_of_k_log_k(value: float) -> float:
    """The ``k`` above 1 with ``k log k = value``, by Newton's method from above."""
    k = math.e + value
    for _ in range(60):
        k -= (k * math.log(k) - value) / (math.log(k) + 1)
    return k


class PairBatches(Batches):
    """Padded pairs: source ``[S, B]`` with lengths, decoder input ``[T, B]``, targets ``T * B``."""

    def __init__(self, examples: Examples, rows: list[NDArray[np.int64]]) -> None:
        assert examples.targets is not None
        self.sources, self.targets = examples.inputs, examples.targets
        self.rows = rows
        if self.sources.resident:
            self.on_device = self.sources.resident.spread(rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        rows = self.rows[index]
        if self.sources.resident and self.targets.resident:
            return self._resident(self.sources.resident, self.targets.resident, index)
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

    def _resident(self, sources: Resident, targets: Resident, index: int) -> Batch:
        rows, on_device = self.rows[index], self.on_device[index]
        source, source_lengths = resident_texts(
            sources, on_device, int(self.sources.lengths[rows].max())
        )
        lengths = self.targets.lengths[rows]
        words = targets.padded(on_device, PAD, int(lengths.max()) + 1)
        shifted = torch.cat((words.new_full((1, len(rows)), BOS), words[:-1]))
        words = words.scatter_(0, targets.lengths(on_device)[None], EOS)
        return Batch(
            (source, source_lengths, shifted),
            words.long().flatten(),
            NOWHERE,
            NOWHERE,
            int(lengths.sum()) + len(rows),
        )


class Memory(NamedTuple):
    """What the decoder knows of ``B`` source sentences.

    Attributes:
        context: the encoder's last state, ``[B, D * H]``.
        keys: projected source states, ``[B, S, H]``; empty without attention.
        values: source states as they enter the attentional features, ``[B, S, H]``; empty without
            attention.
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
    """Weights over source states for every query; the beams of a sentence are just more queries.

    ``combine`` begins as in Glorot and Bengio (2010, equation 16), times ``TANH_GAIN``. As torch
    begins a linear layer, attentional features would be a third as large, and every word is scored
    from these: a first epoch then teaches much less (docs/ablation.md).
    """

    def __init__(self, kind: str, key_size: int, query_size: int) -> None:
        super().__init__()
        self.kind = kind
        self.key = nn.Linear(key_size, query_size, bias=False)
        self.combine = nn.Linear(key_size + query_size, query_size, bias=False)
        if kind == "additive":
            self.query = nn.Linear(query_size, query_size)
            self.vector = nn.Linear(query_size, 1, bias=False)
        nn.init.xavier_uniform_(self.combine.weight, TANH_GAIN)

    def forward(self, queries: Tensor, memory: Memory) -> Tensor:
        """``queries [B, K, H]`` to attentional features ``[B, K, H]`` (Luong 2015, equation 5).

        ``tanh(W [c; q])`` of a context ``c``, the weighted sum of source states: ``W`` is applied
        to the states, once for a sentence, and their sum taken afterwards.
        """
        of_query = self.combine.weight[:, -queries.shape[-1] :]
        contexts = torch.bmm(self.weights(queries, memory), memory.values)
        return torch.tanh(contexts + functional.linear(queries, of_query))

    def keys_and_values(self, states: Tensor) -> tuple[Tensor, Tensor]:
        """What queries meet of source states ``[B, S, D * H]``: ``[B, S, H]`` each."""
        of_state = self.combine.weight[:, : states.shape[-1]]
        return self.key(states), functional.linear(states, of_state)

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
        problem: Seq2Seq,
    ) -> None:
        super().__init__()
        size = network.hidden_size
        self.problem = problem
        self.dropout = FeatureDropout(network.dropout)
        self.source_embedding = word_embedding(source_size, network)
        self.encoder = RecurrentStack(
            self.source_embedding.size, size, variant, network.dropout, network.layer_norm
        )
        context_size = self.encoder.output_size
        num_states = self.encoder.cell.num_states if variant.bidirectional else 0
        self.bridges = nn.ModuleList(nn.Linear(context_size, size) for _ in range(num_states))
        forward = Variant(variant.cell, variant.num_layers, kernel=variant.kernel)
        self.target_embedding = word_embedding(target_size, network)
        fed = (context_size if problem.context == "every" else 0) + (
            size if problem.input_feeding else 0
        )
        self.decoder = RecurrentStack(
            self.target_embedding.size + fed, size, forward, network.dropout, network.layer_norm
        )
        self.attention = (
            Attention(problem.attention, context_size, size) if variant.attention else None
        )
        self.head = WordHead(self.target_embedding, size, network)

    def encode(self, source: Tensor, lengths: Tensor) -> tuple[Memory, Hidden]:
        """Read ``source [S, B]``: the memory, and the decoder's first state ``[L, B, H]``.

        With input feeding the state has one part more, ``[1, B, H]``: what attention made last.
        """
        outputs, final = self.encoder(self.dropout(self.source_embedding(source)), lengths=lengths)
        top = final[0][-self.encoder.num_directions :]
        context = torch.cat(tuple(top), dim=-1)
        mask = torch.arange(len(source), device=source.device) >= lengths[:, None]
        values = keys = outputs.new_empty((source.shape[1], 0, 0))
        if self.attention is not None:
            states = self.dropout(outputs).transpose(0, 1)
            keys, values = self.attention.keys_and_values(states)
        start = self._bridged(final)
        if self.problem.input_feeding:
            start = (*start, torch.zeros_like(start[0][:1]))
        return Memory(context, keys, values, mask), start

    @property
    def last_stack(self) -> RecurrentStack:
        return self.decoder

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
        share = self.problem.teacher_share(self.num_steps) if self.training else 1.0
        if self.problem.input_feeding or share < 1:
            with one_sequence(self):
                return self._word_by_word(words, start, memory, share), None
        inputs = self.dropout(self.target_embedding(words))
        if self.problem.context == "every":
            context = memory.context.expand(len(words), -1, -1)
            inputs = torch.cat((inputs, context), dim=-1)
        outputs, _ = self.decoder(inputs, start)
        if self.attention is not None:
            outputs = self.attention(outputs.transpose(0, 1), memory).transpose(0, 1)
        return self.head(outputs).flatten(0, 1), None

    def _word_by_word(self, words: Tensor, hidden: Hidden, memory: Memory, share: float) -> Tensor:
        """As :meth:`features`, one word after the other; ``share`` of ``words [T, B]`` is read.

        The others are replaced by the likeliest word of the step before. Which words to read has
        no gradient.
        """
        queries: list[Tensor] = []
        for step, embedded in enumerate(self.dropout(self.target_embedding(words))):
            if step and share < 1:
                with torch.no_grad():
                    own = self.head.output(self.head(queries[-1].transpose(0, 1))).argmax(-1)
                forced = torch.rand(own.shape[1:], device=own.device) < share
                drawn = self.dropout(self.target_embedding(own))[0]
                embedded = torch.where(forced[:, None], embedded, drawn)
            query, hidden = self._query(embedded[:, None], hidden, memory, self.decoder)
            queries.append(query)
        scored: Tensor = self.head(torch.cat(queries, dim=1).transpose(0, 1))
        return scored.flatten(0, 1)

    def step(self, words: Tensor, hidden: Hidden, memory: Memory) -> tuple[Tensor, Hidden]:
        """One step of search: ``words [B, K]`` to logits ``[B, K, V]`` and the next state.

        ``hidden`` has parts ``[L, B * K, H]``; ``memory`` is one copy for all hypotheses.
        """
        embedded = self.target_embedding(words)
        queries, hidden = self._query(embedded, hidden, memory, self.decoder.step)
        return self.logits(self.head(queries)), hidden

    def _query(
        self,
        embedded: Tensor,
        hidden: Hidden,
        memory: Memory,
        decode: Callable[[Tensor, Hidden], tuple[Tensor, Hidden]],
    ) -> tuple[Tensor, Hidden]:
        """One word of ``K`` hypotheses, ``embedded [B, K, E]``: what is scored, ``[B, K, H]``."""
        num_sentences, num_hypotheses = embedded.shape[:2]
        parts = [embedded.flatten(0, 1)]
        if self.problem.context == "every":
            context = memory.context[:, None].expand(-1, num_hypotheses, -1)
            parts.append(context.flatten(0, 1))
        if self.problem.input_feeding:
            *state, fed = hidden
            parts.append(fed[0])
            hidden = tuple(state)
        outputs, hidden = decode(torch.cat(parts, dim=-1)[None], hidden)
        queries = outputs[0].unflatten(0, (num_sentences, num_hypotheses))
        if self.attention is not None:
            queries = self.attention(queries, memory)
        if self.problem.input_feeding:
            hidden = (*hidden, queries.flatten(0, 1)[None])
        return queries, hidden
