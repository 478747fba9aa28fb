"""Language modelling: every token of a stream from all tokens before it.

Shape letters: ``T`` time, ``B`` streams, ``V`` vocabulary, ``H`` hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...errors import InputError, choose_from
from ...networks.recurrent import Hidden, NetworkConfig, Variant
from ...networks.variants import Baseline
from ...text.vocabulary import BOS, EOS, PAD
from ..batches import NOWHERE, Batch, Batches, Examples
from ..models import NgramModel, TextModel
from ..problem import Problem, refuse_attention
from ..ragged import Ragged

PARTITIONS = ("sequential", "random")

DEVIATION = 5
"""Of the lengths of batches where they vary, in steps."""

ALL = slice(None)
"""All columns or steps of a grid."""


@dataclass(frozen=True)
class LanguageModel(Problem):
    """Many-to-many over a stream: texts end to end, ``<eos>`` after each.

    Attributes:
        bptt: steps that gradients flow back (truncated back-propagation through time; d2l 9.7).
        bptt_varies: batches are of different lengths: about ``bptt``, or with probability 0.05
            about half, by a normal distribution of deviation 5, at least 5; a batch's learning rate
            grows with its length (Merity, Keskar and Socher 2018, section 4.1).
        partition: ``sequential`` batches follow on each other, ``random`` ones hold pieces of
            ``bptt`` steps from anywhere (d2l 9.3.3). For training; scores are of sequential ones.
        carry_hidden: a batch starts from the state in which the one before it ended; otherwise
            every batch starts from zeros.
        scoring_streams: into how many streams a split is cut when it is scored. The first token of
            a stream is predicted from the token before it alone.

    Raises:
        InputError: for a number below 1, an unknown partition, or a random one with a state
            to carry or with lengths that vary.
    """

    kinds: ClassVar[tuple[str, ...]] = ("dialogues", "text")
    decides: ClassVar[str] = "bits_per_character"
    fixed_shapes: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("ngram",)

    name: Literal["language_model"] = "language_model"
    bptt: int = 35
    bptt_varies: bool = False
    partition: str = "sequential"
    carry_hidden: bool = True
    scoring_streams: int = 16

    def __post_init__(self) -> None:
        for name in ("bptt", "scoring_streams"):
            if getattr(self, name) < 1:
                raise InputError(f"problem.{name} is {getattr(self, name)}: it must be at least 1")
        if self.partition not in PARTITIONS:
            raise InputError(
                f"unknown problem.partition {self.partition!r}: "
                f"{choose_from(self.partition, PARTITIONS)}"
            )
        for name in ("carry_hidden", "bptt_varies"):
            if self.partition == "random" and getattr(self, name):
                raise InputError(
                    f"problem.partition=random puts pieces of the stream beside each other that do "
                    f"not follow on each other: set problem.{name}=false"
                )

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

    def widest(self) -> "LanguageModel":
        """Beyond five deviations a length is no more to be expected than a fault of the memory."""
        if not self.bptt_varies:
            return self
        return replace(self, bptt=self.bptt + 5 * DEVIATION, bptt_varies=False)

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "StreamBatches | PieceBatches":
        """Streams cut anew at a random offset in every epoch (d2l 9.3), so that the cuts move."""
        stream = _stream(examples)
        offset = int(generator.integers(max(1, min(self.bptt, len(stream)))))
        if self.partition == "random":
            return PieceBatches(stream, batch_size, self.bptt, offset, generator)
        return StreamBatches(
            stream,
            batch_size,
            self.bptt,
            self.carry_hidden,
            offset,
            generator if self.bptt_varies else None,
        )

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

    def __len__(self) -> int:
        return len(self.targets)

    def grid(self, num_columns: int, offset: int) -> "_Grid":
        """The stream from ``offset`` on in columns."""
        return _Grid(self, num_columns, offset)


def _stream(examples: Examples) -> "_Stream | _ResidentStream":
    if examples.inputs.resident:
        return _ResidentStream(examples.inputs)
    return _read_stream(examples.inputs)


def _read_stream(texts: Ragged) -> _Stream:
    lengths = texts.lengths
    inside = np.ones(int(lengths.sum()) + len(texts), bool)
    inside[np.cumsum(lengths + 1) - 1] = False
    positions = np.full(len(inside), -1, np.int64)
    positions[inside] = texts.positions
    targets = np.full(len(inside), EOS, np.int32)
    targets[inside] = texts.values[texts.positions]
    inputs = np.concatenate((np.array([EOS], np.int32), targets))[:-1]
    return _Stream(inputs, targets, np.repeat(np.arange(len(texts)), lengths + 1), positions)


class _Grid:
    """A stream from ``offset`` on as columns of equal length, ``[T, B]``; the last is padded."""

    def __init__(self, stream: _Stream, num_columns: int, offset: int) -> None:
        num_targets = len(stream.targets) - offset
        self.num_columns = max(1, min(num_columns, num_targets))
        self.num_steps = -(-num_targets // self.num_columns)
        self.inputs = self._columns(stream.inputs[offset:], EOS)
        self.targets = self._columns(stream.targets[offset:], PAD)
        self.rows = self._columns(stream.rows[offset:], -1)
        self.positions = self._columns(stream.positions[offset:], -1)

    def _columns(self, values: NDArray[Any], fill: int) -> NDArray[Any]:
        padding = self.num_steps * self.num_columns - len(values)
        filled = np.concatenate((values, np.full(padding, fill, values.dtype)))
        return np.ascontiguousarray(filled.reshape(self.num_columns, self.num_steps).T)

    def spread(self, parts: list[NDArray[np.int64]]) -> list[Any]:
        """Numbers of columns, for batches of them."""
        return parts

    def batch(self, steps: slice, columns: Any, carries_hidden: bool, rate: float = 1.0) -> Batch:
        """The batch of some steps of all columns, or of some that :meth:`spread` gave."""
        part = (steps, columns)
        targets = torch.from_numpy(self.targets[part].astype(np.int64).ravel())
        return Batch(
            (torch.from_numpy(self.inputs[part]),),
            targets,
            self.rows[part].ravel(),
            self.positions[part].ravel(),
            int((targets != PAD).sum()),
            carries_hidden,
            rate,
        )


class _ResidentStream:
    """As :class:`_Stream`, of texts that lie on a device."""

    def __init__(self, texts: Ragged) -> None:
        self.texts = texts
        self.num_values = int(texts.lengths.sum())

    def __len__(self) -> int:
        return self.num_values + len(self.texts)

    def grid(self, num_columns: int, offset: int) -> "_ResidentGrid":
        """The stream from ``offset`` on in columns."""
        texts = self.texts.resident
        assert texts is not None
        grid = _ResidentGrid(len(self) - offset, num_columns)
        device = texts.values.device
        rows = torch.arange(len(self.texts), device=device)
        # Every text is followed by one <eos>, the last one by padding.
        places = torch.arange(self.num_values, device=device) + rows.repeat_interleave(
            texts.lengths(rows), output_size=self.num_values
        )
        targets = torch.full((offset + grid.num_cells,), PAD, dtype=torch.int32, device=device)
        targets[: len(self)] = EOS
        first = int(self.texts.offsets[0])
        targets.scatter_(0, places, texts.values[first : first + self.num_values].int())
        inputs = torch.cat((targets.new_full((1,), EOS), targets[:-1]))
        inputs[len(self) :] = EOS
        grid.inputs, grid.targets = (
            each[offset:].view(grid.num_columns, grid.num_steps).T for each in (inputs, targets)
        )
        return grid


class _ResidentGrid:
    """As :class:`_Grid`, on a device: batches are views of one stream; ids there are never PAD."""

    inputs: Tensor
    targets: Tensor

    def __init__(self, num_targets: int, num_columns: int) -> None:
        self.num_targets = num_targets
        self.num_columns = max(1, min(num_columns, num_targets))
        self.num_steps = -(-num_targets // self.num_columns)
        self.num_cells = self.num_columns * self.num_steps

    def spread(self, parts: list[NDArray[np.int64]]) -> list[Any]:
        """Numbers of columns, for batches of them."""
        whole = torch.from_numpy(np.concatenate(parts)).to(self.inputs.device)
        on_device = whole.split([len(part) for part in parts])
        return list(zip(parts, on_device, strict=True))

    def batch(self, steps: slice, columns: Any, carries_hidden: bool, rate: float = 1.0) -> Batch:
        """As of :class:`_Grid`."""
        numbers: NDArray[np.int64] = np.arange(self.num_columns)
        place: Any = columns
        if columns is not ALL:
            numbers, place = columns
        begin, end, _ = steps.indices(self.num_steps)
        real = np.clip(self.num_targets - numbers * self.num_steps, begin, end) - begin
        return Batch(
            (self.inputs[steps, place],),
            self.targets[steps, place].long().flatten(),
            NOWHERE,
            NOWHERE,
            int(real.sum()),
            carries_hidden,
            rate,
        )


class StreamBatches(Batches):
    """Windows of ``bptt`` steps over ``B`` parallel streams; the last may be shorter.

    With a ``generator`` their lengths vary (:attr:`LanguageModel.bptt_varies`).
    """

    def __init__(
        self,
        stream: _Stream | _ResidentStream,
        num_streams: int,
        bptt: int,
        carry_hidden: bool,
        offset: int,
        generator: np.random.Generator | None = None,
    ) -> None:
        self.grid = stream.grid(num_streams, offset)
        self.bptt = bptt
        self.carry_hidden = carry_hidden
        self.varies = generator is not None
        self.starts = [0]
        while self.starts[-1] < self.grid.num_steps:
            length = bptt
            if generator is not None:
                mean = bptt if generator.random() < 0.95 else bptt / 2
                length = max(min(5, bptt), int(generator.normal(mean, DEVIATION)))
            self.starts.append(min(self.starts[-1] + length, self.grid.num_steps))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        first, end = self.starts[index : index + 2]
        rate = (end - first) / self.bptt if self.varies else 1.0
        return self.grid.batch(slice(first, end), ALL, self.carry_hidden, rate)


class PieceBatches(Batches):
    """Pieces of at most ``bptt`` steps in random order, ``B`` of them a batch (d2l 9.3.3)."""

    def __init__(
        self,
        stream: _Stream | _ResidentStream,
        batch_size: int,
        bptt: int,
        offset: int,
        generator: np.random.Generator,
    ) -> None:
        self.grid = stream.grid(-(-(len(stream) - offset) // bptt), offset)
        order = generator.permutation(self.grid.num_columns)
        firsts = range(0, len(order), batch_size)
        self.parts = self.grid.spread([order[first : first + batch_size] for first in firsts])

    def __len__(self) -> int:
        return len(self.parts)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.grid.batch(ALL, self.parts[index], carries_hidden=False)


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
        outputs, hidden = self.stack.step(self.embedding(words.flatten())[None], hidden)
        return self.logits(self.head(outputs[0])).unflatten(0, words.shape), hidden


class StreamNgramModel(NgramModel):
    """Every position of a stream is predicted from the ``n - 1`` ids there; ids are ``[T, B]``.

    Its state is one part of ``[1, B, n - 2]``: the ids that stand before the next input.
    """

    def estimate(self, examples: Examples) -> None:
        stream = _read_stream(examples.inputs)
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
