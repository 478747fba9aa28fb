"""The largest batch whose training stays within so much memory, by counting, not by trying.

A few steps are taken with a small batch while every tensor is counted as it comes and goes. The
small batch has a prime number of columns that divides nothing else, so that the size of a tensor
says whether it grows with the batch: from one run follows how much any batch takes, at every moment
of a step. Nothing is measured, and layers compute in the form that does not depend on the machine,
so that the same settings and data give the same batch size everywhere.

What is counted are tensors: weights, gradients, the optimizer's state, the copies that a training
keeps, the batch, and all that a step makes on its way, and a tenth for what an allocator cannot
use. What Python, torch and a GPU's driver take for themselves (0.3 to 0.6 GB) comes on top, and so
does the corpus where it lies on a GPU.

Shape letters: ``B`` batch, ``T`` time, ``N`` predicted positions, ``V`` vocabulary.
"""

import weakref
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from ..errors import InputError
from ..networks import cpu_layers
from ..networks.recurrent import NetworkConfig, Variant
from ..networks.regularisation import RegularisationConfig
from ..networks.softmax import GPU_CHUNK_ROWS, logits_room
from ..problems.batches import NOWHERE, Batch, Examples
from ..problems.models import Model, TokenNetwork
from ..problems.problem import Problem
from .config import TrainingConfig
from .loop import Loop
from .ranks import Ranks

GB = 10**9

PRIMES = (61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127)

MULTIPLE = 8
"""What a batch size is rounded down to, where it is larger: matrix units like it."""

HOLES = 1.1
"""What an allocator takes for a byte that is asked of it."""

CPU = torch.device("cpu")


class BatchSize(NamedTuple):
    """A batch size, and the bytes that a step with it takes in each process."""

    batch_size: int
    num_bytes: int


@dataclass(frozen=True)
class StepMemory:
    """What a training step takes, by the columns of its batch.

    Attributes:
        moments: pairs of bytes that are there at a moment: whatever the batch, and a column's.
        num_rows: positions that a column predicts.
        row_bytes: what the logits of one position take.
    """

    moments: frozenset[tuple[int, float]]
    num_rows: int
    row_bytes: int

    def of(self, num_columns: int) -> int:
        """The most that is there at any moment, bytes."""
        logits = min(self.num_rows * num_columns, GPU_CHUNK_ROWS) * self.row_bytes
        most = max(fixed + each * num_columns for fixed, each in self.moments)
        return int(HOLES * (logits + most))


def largest_batch_size(
    memory_gb: float,
    problem: Problem,
    variant: Variant,
    network: NetworkConfig,
    config: TrainingConfig,
    training: Examples,
    vocabulary_sizes: Sequence[int],
    regularisation: RegularisationConfig = RegularisationConfig(),  # noqa: B008
) -> BatchSize:
    """The largest batch of a training that takes at most ``memory_gb`` in each of its processes.

    The widest batch that the data can make decides. Beyond 8 it is a multiple of 8 (for each
    process), and no more than an epoch has columns.

    Raises:
        InputError: where not even a batch of one fits.
    """
    widest, num_columns = widest_batch(problem, training)
    memory = step_memory(
        problem, variant, network, config, vocabulary_sizes, regularisation, widest
    )
    budget, num_processes = int(memory_gb * GB), config.num_processes
    if memory.of(1) > budget:
        raise InputError(
            f"{variant.name} needs {memory.of(1) / GB:.3f} GB for a batch of one, and "
            f"training_memory_gb is {memory_gb:g}: raise it, or make the network smaller "
            f"(network.hidden_size, network.embedding_size, vocabulary.max_size)"
        )
    fits, too_large = 1, max(2, -(-num_columns // num_processes) + 1)
    while too_large - fits > 1:
        middle = (fits + too_large) // 2
        fits, too_large = (middle, too_large) if memory.of(middle) <= budget else (fits, middle)
    fits -= fits % MULTIPLE if fits > MULTIPLE else 0
    return BatchSize(fits * num_processes, memory.of(fits))


def widest_batch(problem: Problem, training: Examples) -> tuple[Batch, int]:
    """A batch of the longest rows of an epoch, and how many columns its batches have together."""
    rows = -(-len(training.inputs) // 64)
    batches = problem.widest().training_batches(training, rows, np.random.default_rng(0))
    widest, widths, num_columns = 0, 0, 0
    for index, batch in enumerate(batches):
        num_columns += batch.num_columns
        width = sum(each.numel() for each in batch.inputs) // batch.num_columns
        if width > widths:
            widest, widths = index, width
    return batches[widest], num_columns


def step_memory(
    problem: Problem,
    variant: Variant,
    network: NetworkConfig,
    config: TrainingConfig,
    vocabulary_sizes: Sequence[int],
    regularisation: RegularisationConfig,
    widest: Batch,
) -> StepMemory:
    """What a training's steps take, from a few of them on a CPU with a small batch.

    ``widest`` is a batch of its longest rows, as :func:`widest_batch` finds it.
    """
    # Half precision takes less than what is counted; in which form depends on the machine.
    alone = replace(config, precision="fp32", num_processes=1, cuda_graph=False)
    with torch.random.fork_rng(devices=[]), cpu_layers.everywhere():
        torch.manual_seed(config.seed)
        model = problem.build(variant, network, vocabulary_sizes)
        model.regularise(regularisation)
        sizes = [each.numel() for each in model.parameters()]
        prime = next(each for each in PRIMES if all(size % each for size in sizes))
        batch = _of_columns(widest, prime, network)
        row_bytes = 4 * _num_outputs(model)
        live = _LiveMemory(prime, ignored=logits_room(len(batch.targets), row_bytes // 4))
        with live:
            _take_steps(problem, variant, model, alone, batch)
    in_buckets = 0
    if config.num_processes > 1:
        in_buckets = sum(each.nbytes for each in model.parameters() if each.requires_grad)
    return StepMemory(
        frozenset((fixed + in_buckets, each / prime) for fixed, each in live.moments),
        len(batch.targets) // prime,
        row_bytes,
    )


def _take_steps(
    problem: Problem, variant: Variant, model: Model, config: TrainingConfig, batch: Batch
) -> None:
    """What takes memory in a training: its steps, and the copies of weights that it keeps."""
    loop = Loop(problem, variant, model, config, CPU, Ranks(CPU))
    # What is kept at the end of an epoch, of the last of them.
    loop.keep_weights()
    if config.averaging == "triggered":
        loop.average.trigger()
    for epoch in range(config.averaging_epochs):
        loop.average.after_epoch(epoch, 0.0)
    # The first step makes the optimizer's state; in the last, what is scheduled by steps has
    # come to its end.
    for step in (0, 10**9):
        loop.counters.step = step
        loop.step([batch] * min(config.accumulate_batches, 2), 0.0)
    loop.snapshot()


def _num_outputs(model: Model) -> int:
    """How many logits a position has at once; 0 where no words or labels are scored."""
    if not isinstance(model, TokenNetwork):
        return 0
    return max(
        each.out_features for each in model.head.output.modules() if isinstance(each, nn.Linear)
    )


def _of_columns(batch: Batch, num_columns: int, network: NetworkConfig) -> Batch:
    """A batch like this one with so many columns."""
    columns = torch.arange(num_columns) % batch.num_columns
    targets = batch.targets.view(-1, batch.num_columns)[:, columns].flatten()
    if network.cutoffs:
        # The group of rare words that takes the most, and all of them in it.
        targets = torch.full_like(targets, network.cutoffs[0])
    return replace(
        batch,
        inputs=tuple(each[..., columns] for each in batch.inputs),
        targets=targets,
        rows=NOWHERE,
        positions=NOWHERE,
        num_targets=len(targets),
    )


class _LiveMemory(TorchDispatchMode):
    """Inside, every tensor that is made is counted until it is gone.

    Attributes:
        prime: columns of the batch.
        ignored: memory that does not count.
        moments: bytes of what does not grow with the batch and of what does, after each operation.
    """

    def __init__(self, prime: int, ignored: Tensor) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.prime, self.ignored = prime, ignored
        self.moments: set[tuple[int, int]] = set()
        self.sizes: dict[int, int] = {}
        self.fixed = self.growing = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, made)):
            if isinstance(each, Tensor) and each.layout == torch.strided:
                self._note(each.untyped_storage())
        self.moments.add((self.fixed, self.growing))
        return made

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = id(storage)
        if key in self.sizes or storage.data_ptr() == self.ignored.data_ptr():
            return
        self.sizes[key] = size = storage.nbytes()
        self._count(size, 1)
        weakref.finalize(storage, self._gone, key)

    def _gone(self, key: int) -> None:
        self._count(self.sizes.pop(key), -1)

    def _count(self, size: int, sign: int) -> None:
        if not size % self.prime:
            self.growing += sign * size
        else:
            self.fixed += sign * size
