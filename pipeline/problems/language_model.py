"""Language modelling: every token of a stream from all tokens before it.

Shape letters: ``T`` time, ``B`` streams, ``V`` vocabulary, ``H`` hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..errors import InputError
from ..recurrent import Hidden, NetworkConfig, Variant
from ..variants import Baseline
from ..vocabulary import BOS, EOS, PAD
from .problem import (
    Batch,
    Batches,
    Examples,
    NgramModel,
    Problem,
    TextModel,
    refuse_attention,
)


@dataclass(frozen=True)
class LanguageModel(Problem):
    """Many-to-many over a stream: texts end to end, ``<eos>`` after each.

    Attributes:
        bptt: steps that gradients flow back (truncated back-propagation through time; d2l 9.7).
        carry_hidden: a batch starts from the state in which the one before it ended; otherwise
            every batch starts from zeros.
        scoring_streams: into how many streams a split is cut when it is scored. The first token of
            a stream is predicted from the token before it alone.

    Raises:
        InputError: for a number below 1.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dialogues", "text")
    decides: ClassVar[str] = "bits_per_character"
    baselines: ClassVar[tuple[str, ...]] = ("ngram",)

    name: Literal["language_model"] = "language_model"
    bptt: int = 35
    carry_hidden: bool = True
    scoring_streams: int = 16

    def __post_init__(self) -> None:
        for name in ("bptt", "scoring_streams"):
            if getattr(self, name) < 1:
                raise InputError(f"problem.{name} is {getattr(self, name)}: it must be at least 1")

    def check_recurrent(self, variant: Variant) -> None:
        refuse_attention(self.name, variant)
        if variant.bidirectional:
            raise InputError(
                f"language_model cannot use {variant.name}: a bidirectional network reads the word "
                f"that it is asked for; take {variant.name.removeprefix('bi')}, or the problem "
                f"next_word, whose window ends before the word"
            )

    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "StreamModel":
        return StreamModel(vocabulary_sizes[0], variant, network)

    def build_baseline(
        self, baseline: Baseline, vocabulary_sizes: Sequence[int]
    ) -> "StreamNgramModel":
        return StreamNgramModel(baseline.order, vocabulary_sizes[0])

    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        return np.ones(len(examples.inputs), bool)

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "StreamBatches":
        """Streams cut anew at a random offset in every epoch (d2l 9.3), so that the cuts move."""
        stream = _stream(examples)
        offset = int(generator.integers(max(1, min(self.bptt, len(stream.targets)))))
        return StreamBatches(stream, batch_size, self.bptt, self.carry_hidden, offset)

    def scoring_batches(self, examples: Examples, batch_size: int) -> "StreamBatches":
        """Streams by ``scoring_streams``, not by ``batch_size``: a score depends on the cut."""
        return StreamBatches(_stream(examples), self.scoring_streams, self.bptt, True, 0)


@dataclass(frozen=True)
class _Stream:
    """Texts end to end. ``inputs[i]`` is the token before ``targets[i]``; all are ``[N]``."""

    inputs: NDArray[np.int32]
    targets: NDArray[np.int32]
    rows: NDArray[np.int64]
    positions: NDArray[np.int64]


def _stream(examples: Examples) -> _Stream:
    texts = examples.inputs
    lengths = texts.lengths
    inside = np.ones(int(lengths.sum()) + len(texts), bool)
    inside[np.cumsum(lengths + 1) - 1] = False
    positions = np.full(len(inside), -1, np.int64)
    positions[inside] = texts.positions
    targets = np.full(len(inside), EOS, np.int32)
    targets[inside] = texts.values[texts.positions]
    inputs = np.concatenate((np.array([EOS], np.int32), targets))[:-1]
    return _Stream(inputs, targets, np.repeat(np.arange(len(texts)), lengths + 1), positions)


class StreamBatches(Batches):
    """Windows of ``bptt`` steps over ``B`` parallel streams; the last may be shorter."""

    def __init__(
        self, stream: _Stream, num_streams: int, bptt: int, carry_hidden: bool, offset: int
    ) -> None:
        num_targets = len(stream.targets) - offset
        num_streams = max(1, min(num_streams, num_targets))
        self.num_steps = -(-num_targets // num_streams)
        padding = self.num_steps * num_streams - num_targets
        self.inputs = self._columns(stream.inputs[offset:], padding, EOS, num_streams)
        self.targets = self._columns(stream.targets[offset:], padding, PAD, num_streams)
        self.rows = self._columns(stream.rows[offset:], padding, -1, num_streams)
        self.positions = self._columns(stream.positions[offset:], padding, -1, num_streams)
        self.bptt = bptt
        self.carry_hidden = carry_hidden

    def _columns(
        self, values: NDArray[Any], padding: int, fill: int, num_streams: int
    ) -> NDArray[Any]:
        filled = np.concatenate((values, np.full(padding, fill, values.dtype)))
        return np.ascontiguousarray(filled.reshape(num_streams, self.num_steps).T)

    def __len__(self) -> int:
        return -(-self.num_steps // self.bptt)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        steps = slice(index * self.bptt, (index + 1) * self.bptt)
        targets = torch.from_numpy(self.targets[steps].astype(np.int64).ravel())
        return Batch(
            (torch.from_numpy(self.inputs[steps]),),
            targets,
            self.rows[steps].ravel(),
            self.positions[steps].ravel(),
            int((targets != PAD).sum()),
            self.carry_hidden,
        )


class StreamModel(TextModel):
    """Every position of a stream is predicted from the state there; ids are ``[T, B]``."""

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, Hidden | None]:
        (ids,) = batch.inputs
        outputs, final = self.stack(self.dropout(self.embedding(ids)), hidden)
        carried = tuple(part.detach() for part in final) if batch.carries_hidden else None
        return self.head(outputs).flatten(0, 1), carried

    def read(self, ids: Tensor) -> Hidden:
        """The state after reading ``ids [T, B]`` from the beginning: parts ``[L, B, H]``."""
        if not len(ids):
            return self.stack.initial_hidden(ids.shape[1])
        final: Hidden = self.stack(self.embedding(ids))[1]
        return final

    def step(self, words: Tensor, hidden: Hidden, memory: object) -> tuple[Tensor, Hidden]:
        """One step of generation: ``words [B, K]`` to logits ``[B, K, V]`` and the next state.

        ``hidden`` has parts ``[L, B * K, H]``. There is no source, so ``memory`` is not read.
        """
        outputs, hidden = self.stack(self.embedding(words.flatten())[None], hidden)
        return self.logits(self.head(outputs[0])).unflatten(0, words.shape), hidden


class StreamNgramModel(NgramModel):
    """Every position of a stream is predicted from the ``n - 1`` ids there; ids are ``[T, B]``.

    Its state is one part of ``[1, B, n - 2]``: the ids that stand before the next input.
    """

    def estimate(self, examples: Examples) -> None:
        stream = _stream(examples)
        ids = np.concatenate((stream.inputs[:1], stream.targets))
        self.ngrams.estimate(ids, np.arange(len(ids)) == 0)

    def features(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, Hidden | None]:
        (ids,) = batch.inputs
        contexts, following = self._contexts(ids, hidden)
        return contexts.flatten(0, 1), following if batch.carries_hidden else None

    def _contexts(self, ids: Tensor, hidden: Hidden | None) -> tuple[Tensor, Hidden]:
        """The ids up to each of ``ids [T, B]``: ``[T, B, n - 1]``, and the next state."""
        size = self.ngrams.num_context
        kept = max(size - 1, 0)
        # Before a stream stands nothing that is known.
        before = ids.new_full((kept, ids.shape[1]), BOS) if hidden is None else hidden[0][0].T
        history = torch.cat((before, ids))
        steps = torch.arange(len(ids), device=ids.device)[:, None]
        contexts = history[steps + torch.arange(size, device=ids.device)].movedim(1, 2)
        return contexts, (history[len(history) - kept :].T[None],)

    def read(self, ids: Tensor) -> Hidden:
        """The state after reading ``ids [T, B]`` from the beginning."""
        return self._contexts(ids, None)[1]

    def step(self, words: Tensor, hidden: Hidden, memory: object) -> tuple[Tensor, Hidden]:
        """One step of generation, as :meth:`StreamModel.step`."""
        contexts, hidden = self._contexts(words.flatten()[None], hidden)
        return self.logits(contexts[0]).unflatten(0, words.shape), hidden
