"""The settings of a training."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..errors import InputError, choose_from
from .averaging import AVERAGES
from .precision import PRECISIONS

OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "sgd": torch.optim.SGD,
    "adam": torch.optim.Adam,
    "adamw": torch.optim.AdamW,
}

SCHEDULES = ("constant", "plateau", "cosine", "step")


@dataclass(frozen=True)
class TrainingConfig:
    """How a model is fitted.

    Attributes:
        num_epochs: passes over the training split, at most.
        batch_size: sentences, windows or streams of a batch.
        accumulate_batches: batches of a step: their gradients are added up, each weighed by its
            share of the targets, so that a step is what one batch with all of them would give.
        num_processes: that train one model together, each on its own columns of every batch (its
            streams or rows): on GPUs one each, on CPUs with the threads divided among them. Without
            dropout the losses are those of one process, but for the order of sums; the random
            numbers of each are a stream of its own, seeded by ``seed`` and its number.
        optimizer: ``sgd``, ``adam`` (Kingma and Ba 2015) or ``adamw`` (Loshchilov and Hutter 2019).
        learning_rate: at the start.
        schedule: ``constant``; ``plateau`` multiplies by ``decay`` after every epoch that is not
            better on validation; ``step`` after every epoch; ``cosine`` falls to 0 over all epochs.
        decay: the factor of ``plateau`` and ``step``.
        weight_decay: as the optimizer defines it.
        precision: of the products in training. ``fp32``; ``tf32`` rounds their factors to 10 bits,
            on a GPU; ``bf16`` and ``fp16`` are mixed precision (Micikevicius et al. 2018), ``fp16``
            for a GPU and with scaled gradients. Validation and scores are of fp32 in any case.
        cuda_graph: on a GPU, a step is recorded once and replayed, which takes less of the host;
            for problems whose batches have one shape.
        clip_norm: the gradient's norm is cut to it (Pascanu, Mikolov and Bengio 2013; d2l 9.5);
            None leaves it alone.
        patience: epochs without a better validation loss until training stops; None never stops.
        divergence_factor: training stops where the validation loss is above so many times the best
            for ``divergence_epochs`` epochs in a row; None waits for a loss that is no number.
        divergence_epochs: how many.
        averaging: which weights are validated and kept. ``none``: those of an epoch's end.
            ``moving``: their exponential moving average over steps (Polyak and Juditsky 1992; as in
            TensorFlow). ``triggered``: NT-ASGD, their mean over the steps since the validation loss
            stagnated (Merity, Keskar and Socher 2018, algorithm 1; there of plain SGD). ``last``,
            ``best``: at the end, the mean of the last or best epochs' weights is kept where it is
            better than the best epoch's (Vaswani et al. 2017, section 6.1).
        averaging_decay: of ``moving``, the share of the average that a step leaves.
        averaging_epochs: of ``last`` and ``best``, how many; ``triggered`` begins when a loss is no
            better than that of more than so many epochs before.
        seed: of initial weights, data order and dropout.

    Raises:
        InputError: for a value outside its range, with the valid ones.
    """

    num_epochs: int = 10
    batch_size: int = 64
    accumulate_batches: int = 1
    num_processes: int = 1
    optimizer: str = "adam"
    learning_rate: float = 0.001
    schedule: str = "constant"
    decay: float = 0.5
    weight_decay: float = 0.0
    precision: str = "fp32"
    cuda_graph: bool = False
    clip_norm: float | None = 1.0
    patience: int | None = 3
    divergence_factor: float | None = None
    divergence_epochs: int = 2
    averaging: str = "none"
    averaging_decay: float = 0.999
    averaging_epochs: int = 5
    seed: int = 1

    def __post_init__(self) -> None:
        for name, choices in (
            ("optimizer", tuple(OPTIMIZERS)),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("averaging", AVERAGES),
        ):
            if getattr(self, name) not in choices:
                raise InputError(
                    f"unknown training.{name} {getattr(self, name)!r}: "
                    f"{choose_from(getattr(self, name), choices)}"
                )
        for name in (
            "num_epochs",
            "batch_size",
            "accumulate_batches",
            "num_processes",
            "divergence_epochs",
            "averaging_epochs",
        ):
            if getattr(self, name) < 1:
                raise InputError(f"training.{name} is {getattr(self, name)}: it must be at least 1")
        if self.batch_size < self.num_processes:
            raise InputError(
                f"training.batch_size is {self.batch_size}, too small to be divided among "
                f"training.num_processes ({self.num_processes}): raise it, or lower the processes"
            )
        if self.cuda_graph:
            for name, only in (("num_processes", 1), ("accumulate_batches", 1)):
                if getattr(self, name) != only:
                    raise InputError(
                        f"training.cuda_graph records a step of one batch in one process: set it "
                        f"to false, or training.{name}={only}"
                    )
            if self.precision == "fp16":
                raise InputError(
                    "training.cuda_graph does not record the scaled gradients of "
                    "training.precision=fp16: set it to false, or choose bf16"
                )
        if self.patience is not None and self.patience < 1:
            raise InputError(f"training.patience is {self.patience}: at least 1, or null for never")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"training.learning_rate is {self.learning_rate}: it must be above 0")
        if not 0 <= self.seed < 2**63:
            raise InputError(f"training.seed is {self.seed}: it must be from 0 to 2**63 - 1")
        if not 0 < self.decay < 1:
            raise InputError(f"training.decay is {self.decay}: it must be between 0 and 1")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise InputError(f"training.clip_norm is {self.clip_norm}: above 0, or null for none")
        if not 0 <= self.weight_decay < math.inf:
            raise InputError(f"training.weight_decay is {self.weight_decay}: it must be 0 or above")
        if self.divergence_factor is not None and not 1 < self.divergence_factor < math.inf:
            raise InputError(
                f"training.divergence_factor is {self.divergence_factor}: above 1, or null for none"
            )
        if not 0 < self.averaging_decay < 1:
            raise InputError(
                f"training.averaging_decay is {self.averaging_decay}: it must be between 0 and 1"
            )
        if (
            self.averaging == "triggered"
            and self.patience is not None
            and self.patience <= self.averaging_epochs
        ):
            raise InputError(
                f"training.averaging=triggered waits {self.averaging_epochs + 1} epochs for a "
                f"better loss, but training.patience ends after {self.patience}: raise patience, "
                f"set it to null, or lower training.averaging_epochs"
            )
