"""Averages of a model's weights over its training.

An average is kept beside the weights that are trained, and never trained itself.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

AVERAGES = ("none", "moving", "triggered", "last", "best")

POOLED = ("last", "best")
"""Those that are made at the end, of the weights of whole epochs."""


class WeightAverage:
    """The average of one training.

    ``moving`` is exponential: after step ``t`` the average takes over ``1 - d`` of the weights,
    ``d = min(decay, (1 + t) / (10 + t))``, so that it is not held back by the first weights (the
    warm-up of TensorFlow's ExponentialMovingAverage). ``triggered`` is the plain mean of all steps
    since :meth:`trigger` (averaged SGD: Polyak and Juditsky 1992; Merity, Keskar and Socher 2018,
    section 3). ``last`` and ``best`` are means over epochs (Vaswani et al. 2017, section 6.1).

    Attributes:
        num_averaged: steps in the running average.
        pool: epoch -> its validation loss, of the epochs whose weights are kept.
    """

    def __init__(self, kind: str, decay: float, num_epochs: int, model: nn.Module) -> None:
        self.kind, self.decay, self.num_epochs = kind, decay, num_epochs
        self.weights = dict(model.named_parameters())
        self.average: dict[str, Tensor] = {}
        self.num_averaged = 0
        self.pool: dict[int, float] = {}
        self._pooled: dict[int, dict[str, Tensor]] = {}
        if kind == "moving":
            self.trigger()

    def trigger(self) -> None:
        """Begin to average, with nothing averaged yet."""
        self.average = self._copy()
        self.num_averaged = 0

    @property
    def running(self) -> bool:
        """Whether steps are averaged at present."""
        return bool(self.average)

    @torch.no_grad()
    def after_step(self) -> None:
        """Take the weights after an optimizer step into the running average."""
        if not self.average:
            return
        self.num_averaged += 1
        if self.kind == "moving":
            kept = min(self.decay, (1 + self.num_averaged) / (10 + self.num_averaged))
        else:
            kept = 1 - 1 / self.num_averaged
        for name, weight in self.weights.items():
            self.average[name].lerp_(weight, 1 - kept)

    def after_epoch(self, epoch: int, loss: float) -> None:
        """Keep an epoch's weights for a pooled average where it counts."""
        if self.kind not in POOLED:
            return
        self.pool[epoch] = loss
        self._pooled[epoch] = self._copy()
        if len(self.pool) > self.num_epochs:
            order = (lambda each: -each) if self.kind == "last" else self.pool.__getitem__
            dropped = max(self.pool, key=order)
            del self.pool[dropped], self._pooled[dropped]

    @contextmanager
    def running_weights(self) -> Iterator[None]:
        """Inside, the model has the running average for weights, where there is one."""
        with self._in_place_of(self.average):
            yield

    @contextmanager
    def pooled_weights(self) -> Iterator[None]:
        """Inside, the model has the mean of the pool's epochs for weights."""
        mean = {
            name: torch.stack([weights[name] for weights in self._pooled.values()]).mean(0)
            for name in self.weights
        }
        with self._in_place_of(mean):
            yield

    @contextmanager
    def _in_place_of(self, others: Mapping[str, Tensor]) -> Iterator[None]:
        own = self._copy() if others else {}
        self._load(others)
        try:
            yield
        finally:
            self._load(own)

    def _copy(self) -> dict[str, Tensor]:
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    @torch.no_grad()
    def _load(self, others: Mapping[str, Tensor]) -> None:
        for name, value in others.items():
            self.weights[name].copy_(value)

    def tensors(self) -> dict[str, Tensor]:
        """What a training state must hold of it, beside ``num_averaged`` and ``pool``."""
        kept = {f"average/{name}": value for name, value in self.average.items()}
        for epoch, weights in self._pooled.items():
            kept |= {f"pool/{epoch}/{name}": value for name, value in weights.items()}
        return kept

    def restore(
        self, tensors: Mapping[str, Tensor], num_averaged: int, pool: Mapping[int, float]
    ) -> None:
        """Go back to what :meth:`tensors`, ``num_averaged`` and ``pool`` were."""

        def under(prefix: str) -> dict[str, Tensor]:
            return {
                name: tensors[prefix + name].to(weight.device).clone()
                for name, weight in self.weights.items()
                if prefix + name in tensors
            }

        self.average, self.num_averaged = under("average/"), num_averaged
        self.pool = dict(pool)
        self._pooled = {epoch: under(f"pool/{epoch}/") for epoch in pool}
