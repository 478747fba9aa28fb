"""A training step as one CUDA graph: its kernels are recorded once and launched together.

A step of a small recurrent network is hundreds of kernels that take less time than a host needs to
launch them one by one. A recording keeps the addresses of what they read and write and the numbers
that the host gave them. So batches and states are copied to places of their own before each replay,
only batches of the recorded shape are replayed, and what changes from step to step (the learning
rate, counters of the optimizer, random numbers) lies on the device.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from ..errors import InputError
from ..networks.recurrent import Hidden, NetworkConfig
from ..problems.batches import Batch
from ..problems.problem import Problem

WARM_UP = 3
"""Steps of a shape before it is recorded, in which libraries set themselves up."""


def check_recordable(problem: Problem, network: NetworkConfig, device: torch.device) -> None:
    """Refuse a training whose steps cannot be replayed.

    Raises:
        InputError: with the remedy.
    """
    remedy = "set training.cuda_graph=false"
    if device.type != "cuda":
        raise InputError(
            f"training.cuda_graph needs a GPU, and the device is {device.type}: {remedy}"
        )
    if not problem.fixed_shapes:
        raise InputError(
            f"training.cuda_graph replays batches of one shape, and those of {problem.name} are as "
            f"long as their texts: {remedy}"
        )
    if network.output == "adaptive":
        raise InputError(
            f"network.output=adaptive asks in every step which words are rare, which "
            f"training.cuda_graph cannot: {remedy}, or network.output=full"
        )


@contextmanager
def own_stream(device: torch.device) -> Iterator[None]:
    """Inside, kernels go to a stream of their own, as a recording demands."""
    before = torch.cuda.current_stream(device)
    stream = torch.cuda.Stream(device)
    stream.wait_stream(before)
    with torch.cuda.stream(stream):
        yield
    before.wait_stream(stream)


def record(work: Callable[[], None]) -> Callable[[], None]:
    """What launches again all kernels of ``work``, which are recorded and do not run now."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
        work()
    replay: Callable[[], None] = graph.replay
    return replay


class RecordedStep:
    """``step`` of a batch on its device, from the state before it to the one behind it.

    Args:
        step: reads nothing back from the device.
    """

    def __init__(self, step: Callable[[Batch, Hidden | None], Hidden | None]) -> None:
        self.step = step
        self._shape: tuple[object, ...] = ()
        self._num_seen = 0
        self._replay: Callable[[], None] | None = None

    def __call__(self, batch: Batch, hidden: Hidden | None) -> Hidden | None:
        """As ``step``; a batch of the recorded shape is replayed."""
        shape = _shape(batch)
        if self._replay is None:
            self._num_seen = self._num_seen + 1 if shape == self._shape else 1
            self._shape = shape
            # Behind the beginning of an epoch the state is there that a recording needs.
            if self._num_seen <= WARM_UP or (hidden is None and batch.carries_hidden):
                return self.step(batch, hidden)
            self._record(batch, hidden)
        if shape != self._shape:
            return self.step(batch, hidden)
        assert self._replay is not None
        for place, tensor in zip(_tensors(self._batch), _tensors(batch), strict=True):
            place.copy_(tensor)
        for index, part in enumerate(self._before or ()):
            part.zero_() if hidden is None else part.copy_(hidden[index])
        self._replay()
        return self._after

    def _record(self, batch: Batch, hidden: Hidden | None) -> None:
        inputs = tuple(each.clone() for each in batch.inputs)
        self._batch = replace(batch, inputs=inputs, targets=batch.targets.clone())
        self._before = hidden and tuple(part.clone() for part in hidden)
        self._after: Hidden | None = None

        def work() -> None:
            self._after = self.step(self._batch, self._before)

        self._replay = record(work)


def _tensors(batch: Batch) -> tuple[Tensor, ...]:
    return (*batch.inputs, batch.targets)


def _shape(batch: Batch) -> tuple[object, ...]:
    """All of a batch that a recording holds, but for what is copied."""
    shapes = [tuple(each.shape) for each in _tensors(batch)]
    return (*shapes, batch.num_targets, batch.carries_hidden, batch.share)
