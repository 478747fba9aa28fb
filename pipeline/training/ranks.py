"""One training in several processes, each with a part of every batch: data parallelism.

The processes hold the same weights. Each computes the gradient of its own columns of a batch, torch
adds the gradients up (Li et al. 2020, "PyTorch Distributed"), and each takes the same step. What
starts them says so by torch's own variables, as torchrun does; here nothing is started.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import torch
from torch import Tensor, distributed, nn
from torch.futures import Future
from torch.nn.parallel import DistributedDataParallel

from ..errors import InputError
from ..networks.recurrent import Hidden
from ..problems.batches import Batch
from ..problems.models import Model

LONGEST_WAIT = 48
"""Half hours, torch's default, that a process waits for another: one of them validates alone."""

Objective = Callable[[Batch, Hidden | None], tuple[Tensor, Tensor, Hidden | None]]


def check_processes(num_processes: int, device: torch.device) -> None:
    """Refuse more processes than can train together here.

    Raises:
        InputError: with how many can.
    """
    if num_processes == 1:
        return
    if not distributed.is_available():
        raise InputError("this build of torch cannot distribute: set training.num_processes=1")
    if device.type == "cuda" and num_processes > torch.cuda.device_count():
        raise InputError(
            f"training.num_processes is {num_processes}, and each takes a GPU of its own, of which "
            f"there are {torch.cuda.device_count()}: lower it, or set device to cpu"
        )


def num_gpus(device: torch.device) -> int:
    """How many GPUs trainings can be divided among; 0 where ``device`` is none."""
    return torch.cuda.device_count() if device.type == "cuda" else 0


@contextmanager
def joined(device: torch.device, local_rank: int) -> Iterator[None]:
    """Inside, this process is one of those that torchrun started; a GPU is that of its number."""
    from torch.distributed.constants import default_pg_timeout

    if device.type == "cuda":
        torch.cuda.set_device(local_rank)
    distributed.init_process_group(
        "nccl" if device.type == "cuda" else "gloo",
        timeout=default_pg_timeout * LONGEST_WAIT,
    )
    try:
        yield
    finally:
        distributed.destroy_process_group()


class Ranks:
    """The processes that train one model: this one is number ``rank`` of ``size``.

    What is exchanged here is small: the gradients are torch's business. Alone, nothing is exchanged
    and every value is given back as it is.
    """

    def __init__(self, device: torch.device) -> None:
        together = distributed.is_available() and distributed.is_initialized()
        self.rank = distributed.get_rank() if together else 0
        self.size = distributed.get_world_size() if together else 1
        self.device = device

    def columns(self, num_columns: int, rank: int | None = None) -> slice:
        """Which columns of a batch are this process's, or those of another ``rank``.

        The first process has one as soon as there is any.
        """
        number = self.rank if rank is None else rank
        first, end = (-(-num_columns * each // self.size) for each in (number, number + 1))
        return slice(first, end)

    def part(self, batch: Batch) -> Batch:
        """This process's columns of a batch."""
        return batch if self.size == 1 else batch.part(self.columns(batch.num_columns))

    def total(self, value: Tensor) -> Tensor:
        """The sum of every process's ``value``."""
        if self.size == 1:
            return value
        value = value.clone()
        distributed.all_reduce(value)
        return value

    def agreed(self, value: float) -> float:
        """What the first process's ``value`` is."""
        if self.size == 1:
            return value
        shared = torch.tensor(value, dtype=torch.float64, device=self.device)
        distributed.broadcast(shared, src=0)
        return float(shared)

    def stacked(self, value: Tensor) -> Tensor:
        """Every process's ``value`` of one shape, in their order: ``[size, ...]``."""
        if self.size == 1:
            return value[None]
        own = value.to(self.device).contiguous()
        found = [torch.empty_like(own) for _ in range(self.size)]
        distributed.all_gather(found, own)
        return torch.stack(found).to(value.device)

    def whole(self, hidden: Hidden | None) -> Hidden | None:
        """The hidden state of all columns, from every process's own: parts ``[L * D, B, H]``."""
        if self.size == 1 or hidden is None:
            return hidden
        widths = self.stacked(torch.tensor(hidden[0].shape[1])).tolist()
        parts = []
        for part in hidden:
            filled = part.new_zeros((part.shape[0], max(widths), *part.shape[2:]))
            filled[:, : part.shape[1]] = part
            found = self.stacked(filled)
            columns = [each[:, :width] for each, width in zip(found, widths, strict=True)]
            parts.append(torch.cat(columns, dim=1))
        return tuple(parts)

    def objective(self, model: Model) -> Objective:
        """The model's objective, whose gradients are added up over all processes."""
        if self.size == 1:
            return model.objective
        together = DistributedDataParallel(
            _Objective(model),
            # Without it torch rearranges its buckets after the first step, and with them the order
            # in which more than two processes add: a training that goes on would end with other
            # bits than one that was never cut off.
            find_unused_parameters=True,
        )
        together.register_comm_hook(None, lambda state, bucket: _added_up(bucket.buffer()))
        return together

    def adding_up(self, objective: Objective, now: bool) -> AbstractContextManager[None]:
        """Inside, gradients are added up only if ``now``; else they stay with their process."""
        if now or not isinstance(objective, DistributedDataParallel):
            return nullcontext()
        waiting: AbstractContextManager[None] = objective.no_sync()
        return waiting


class _Objective(nn.Module):
    """What torch's data parallelism calls: a model's objective as its ``forward``."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, Tensor, Hidden | None]:
        if not batch.num_columns:
            # The last batch of an epoch may be too small for all: a gradient of zeros is added.
            weights = [each for each in self.model.parameters() if each.requires_grad]
            nothing = torch.stack([each.sum() for each in weights]).sum() * 0.0
            return nothing, nothing.detach(), None
        objective, loss, hidden = self.model.objective(batch, hidden)
        return objective, loss.detach(), hidden


def _added_up(gradients: Tensor) -> Future[Tensor]:
    """The sum over all processes: losses are already divided by all targets."""
    work = distributed.all_reduce(gradients, async_op=True)
    assert work is not None
    summed: Future[Tensor] = work.get_future().then(lambda done: done.value()[0])
    return summed
