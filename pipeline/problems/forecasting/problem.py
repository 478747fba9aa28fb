"""Forecasting: the next value of a series from the values before it.

Shape letters: ``T`` values of a window, ``B`` windows, ``H`` hidden, ``D`` directions, ``M`` values
to forecast, ``S`` steps ahead.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ...baselines.series import Autoregression, Repetition
from ...errors import InputError
from ...networks.recurrent import Hidden, NetworkConfig, RecurrentStack, Variant
from ...networks.regularisation import FeatureDropout
from ...networks.variants import Baseline
from ...series import FILLS
from ..batches import NOWHERE, Batch, Batches, Examples
from ..models import EstimatedModel, Model
from ..problem import Problem, refuse_attention


@dataclass(frozen=True)
class Forecasting(Problem):
    """Many-to-one over a series: a window of ``window`` values gives the next (d2l 9.1).

    Attributes:
        window: values that a forecast is made from.
        period: observations of a season, by whose naive forecast errors are scaled.
        horizon: steps ahead that are scored by feeding forecasts back.
        difference: forecasts are learnt as the change from the value so many steps before: 1 from
            the last value, ``period`` from that of a season ago (Box and Jenkins 1970), 0 as they
            are.
        log: learn logarithms, where changes are shares of the value; all values must be above 0.
        fill: what stands in a window for steps that are missing in a series: "none" (no window runs
            across a gap), "previous" (the value before the gap) or "linear" (a line from the value
            before the gap to the one after it). What is filled is never forecast or scored.

    Raises:
        InputError: for a number outside its range, a difference beyond the window, or a fill that
            there is not.
    """

    kinds: ClassVar[tuple[str, ...]] = ("series",)
    columns: ClassVar[tuple[str, ...]] = ()
    num_texts: ClassVar[int] = 0
    decides: ClassVar[str] = "mase"
    fixed_shapes: ClassVar[bool] = True
    baselines: ClassVar[tuple[str, ...]] = ("last_value", "seasonal_naive", "autoregression")
    loss: ClassVar[str] = "squared error"
    input_vectors: ClassVar[str] = ""
    regularisations: ClassVar[tuple[str, ...]] = ("locked_dropout", "weight_drop")

    name: Literal["forecasting"] = "forecasting"
    window: int = 24
    period: int = 12
    horizon: int = 12
    difference: int = 0
    log: bool = False
    fill: str = "none"

    def __post_init__(self) -> None:
        for name in ("window", "period", "horizon"):
            if getattr(self, name) < 1:
                raise InputError(f"problem.{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.difference <= self.window:
            raise InputError(
                f"problem.difference is {self.difference}: it must be from 0 to "
                f"problem.window ({self.window})"
            )
        if self.fill not in FILLS:
            raise InputError(f"unknown problem.fill {self.fill!r}: choose from {', '.join(FILLS)}")

    def check_recurrent(self, variant: Variant) -> None:
        refuse_attention(self.name, variant)

    def check_network(self, network: NetworkConfig) -> None:
        if network.tied:
            raise InputError("forecasting has no embedding to tie: set network.tied=false")
        if network.embedding != "learned":
            raise InputError("forecasting has no words to embed: set network.embedding=learned")
        if network.output != "full":
            raise InputError("forecasting has no words to score: set network.output=full")

    def build_recurrent(
        self, variant: Variant, network: NetworkConfig, vocabulary_sizes: Sequence[int]
    ) -> "Forecaster":
        return RecurrentForecaster(variant, network, self.difference, self.log)

    def check_baseline(self, baseline: Baseline) -> None:
        super().check_baseline(baseline)
        if baseline.order > self.window:
            raise InputError(
                f"forecasting cannot use {baseline.name}: it looks {baseline.order} values back, "
                f"and problem.window is {self.window}"
            )

    def build_baseline(
        self, baseline: Baseline, vocabulary_sizes: Sequence[int]
    ) -> "RepeatingForecaster | LinearForecaster":
        if baseline.kind == "autoregression":
            return LinearForecaster(baseline.order, self.difference, self.log, self.fill)
        return RepeatingForecaster(baseline.order)

    def usable(self, examples: Examples, *, training: bool) -> NDArray[np.bool_]:
        if self.log and (examples.inputs.values.astype(np.float64) <= 0).any():
            raise InputError("problem.log needs values above 0, and there are others: set it false")
        rows, _ = self._targets(examples)
        return np.bincount(rows, minlength=len(examples.inputs)) > 0

    def training_batches(
        self, examples: Examples, batch_size: int, generator: np.random.Generator
    ) -> "SeriesBatches":
        rows, steps = self._targets(examples)
        order = generator.permutation(len(rows))
        return SeriesBatches(examples, rows[order], steps[order], self.window, batch_size)

    def scoring_batches(self, examples: Examples, batch_size: int) -> "SeriesBatches":
        return SeriesBatches(examples, *self._targets(examples), self.window, batch_size)

    def _targets(self, examples: Examples) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Which values a whole window stands before: their series, and where in the series.

        A window with a gap in it is not whole.
        """
        assert examples.targets is not None
        sizes = examples.targets.lengths
        rows = np.repeat(np.arange(len(sizes)), sizes)
        steps = examples.inputs.lengths[rows] - (np.cumsum(sizes)[rows] - np.arange(len(rows)))
        chosen = (steps >= self.window) & self._can_be_forecast(examples)
        places = examples.inputs.offsets[rows] + steps
        # Gaps before each place: as many as before the window means that none is in it.
        gaps = np.concatenate(([0], np.cumsum(np.isnan(examples.inputs.values))))
        chosen[chosen] = gaps[places[chosen]] == gaps[places[chosen] - self.window]
        return rows[chosen], steps[chosen]

    def _can_be_forecast(self, examples: Examples) -> NDArray[np.bool_]:
        """Which values of a split are targets, ``[M]``: those that were observed.

        The value at the end of a line is none: it can be read off the line.
        """
        assert examples.targets is not None
        values = examples.targets.values[examples.targets.positions].astype(np.float64)
        observed: NDArray[np.bool_] = np.isfinite(values)
        if self.fill != "linear" or not len(observed):
            return observed
        # The value before a split is always observed.
        before: NDArray[np.bool_] = np.append(True, observed[:-1])
        sizes = examples.targets.lengths
        before[(np.cumsum(sizes) - sizes)[sizes > 0]] = True
        observed &= before
        return observed

    def recursive_forecasts(
        self, model: "Forecaster", examples: Examples, device: torch.device
    ) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Forecasts up to ``horizon`` steps ahead, each fed back as the last value.

        The split's values are cut into stretches of ``horizon``, anew after every gap; what stands
        before a stretch is known, what stands in it is not.

        Returns:
            A forecast of every value of the split, ``[M]``, not a number where none could be made;
            and how many steps ahead of what is known each stands, from 1.
        """
        assert examples.targets is not None
        rows, steps = self._targets(examples)
        sizes = examples.targets.lengths
        offsets = np.cumsum(sizes) - sizes
        targets = self._can_be_forecast(examples)
        ahead = _steps_ahead(targets, offsets[sizes > 0], self.horizon)
        forecasts = np.full(len(targets), np.nan)
        known = examples.inputs.lengths - sizes
        places = offsets[rows] + steps - known[rows]
        begins = ahead[places] == 1
        if begins.any():
            ends = examples.inputs.offsets[rows] + steps
            windows = examples.inputs.values[ends[begins] + np.arange(-self.window, 0)[:, None]]
            ready = torch.from_numpy(windows.astype(np.float64)).to(device)
            found = forecast(model, ready, self.horizon).cpu().numpy()
            stretch = np.cumsum(ahead == 1) - 1
            column = np.full(stretch[-1] + 1, -1)
            column[stretch[places[begins]]] = np.arange(begins.sum())
            made = column[stretch] >= 0
            forecasts[made] = found[ahead[made] - 1, column[stretch[made]]]
        return forecasts, ahead


def _steps_ahead(
    targets: NDArray[np.bool_], begins: NDArray[np.int64], horizon: int
) -> NDArray[np.int64]:
    """How many steps ahead of what is known each value stands, from 1 to ``horizon``: ``[M]``.

    A count begins with each series, which ``begins`` says, after what is no target, and after
    ``horizon``.
    """
    first = ~targets | np.append(True, ~targets[:-1])[: len(targets)]
    first[begins] = True
    places = np.arange(len(targets))
    ahead: NDArray[np.int64] = (
        places - np.maximum.accumulate(np.where(first, places, 0))
    ) % horizon + 1
    return ahead


class SeriesBatches(Batches):
    """Windows ``[T, B]`` and the values behind them ``[B]``, float64 as they were observed."""

    def __init__(
        self,
        examples: Examples,
        rows: NDArray[np.int64],
        steps: NDArray[np.int64],
        window: int,
        batch_size: int,
    ) -> None:
        assert examples.targets is not None
        self.series, self.rows = examples.inputs, rows
        known = examples.inputs.lengths - examples.targets.lengths
        self.positions = examples.targets.offsets[rows] + steps - known[rows]
        self.window, self.batch_size = window, batch_size
        self.places = examples.inputs.offsets[rows] + steps
        if self.series.resident:
            self.on_device = self.series.resident.spread(
                [self.places[part] for part in map(self._part, range(len(self)))]
            )

    def _part(self, index: int) -> slice:
        return slice(index * self.batch_size, (index + 1) * self.batch_size)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.batch_size)

    def __getitem__(self, index: int) -> Batch:  # type: ignore[override]
        if not 0 <= index < len(self):
            raise IndexError(index)
        if self.series.resident:
            values, there = self.series.resident.values, self.on_device[index]
            before = there + torch.arange(-self.window, 0, device=there.device)[:, None]
            return Batch(
                (values[before].double(),), values[there].double(), NOWHERE, NOWHERE, len(there)
            )
        part = self._part(index)
        rows, positions, places = self.rows[part], self.positions[part], self.places[part]
        windows = self.series.values[places + np.arange(-self.window, 0)[:, None]]
        values = self.series.values[places].astype(np.float64)
        return Batch(
            (torch.from_numpy(windows.astype(np.float64)),),
            torch.from_numpy(values),
            rows,
            positions,
            len(rows),
        )


class Forecaster(Model):
    """A model of the next value."""

    def forward(self, windows: Tensor) -> Tensor:
        """The value behind ``windows [T, B]``, in the unit of the series: ``[B]``."""
        raise NotImplementedError

    def summed_loss(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        """The squared error in the unit of the series."""
        error: Tensor = self(batch.inputs[0]) - batch.targets
        return error.square().sum(), None


class RecurrentForecaster(Forecaster):
    """A recurrent stack over a window of scaled values, and a layer that gives the next.

    Attributes:
        mean, deviation: of the training split's values (or their logarithms), float64 scalars.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, variant: Variant, network: NetworkConfig, difference: int, log: bool
    ) -> None:
        super().__init__()
        self.difference, self.log = difference, log
        self.stack = RecurrentStack(
            1, network.hidden_size, variant, network.dropout, network.layer_norm
        )
        self.dropout = FeatureDropout(network.dropout)
        self.output = nn.Linear(self.stack.output_size, 1)
        nn.init.zeros_(self.output.bias)
        self.register_buffer("mean", torch.zeros((), dtype=torch.float64))
        self.register_buffer("deviation", torch.ones((), dtype=torch.float64))

    def prepare(self, examples: Examples) -> None:
        values = torch.from_numpy(examples.inputs.values[examples.inputs.positions])
        values = values[values.isfinite()]
        values = values.log() if self.log else values
        self.mean.copy_(values.mean())
        deviation = values.std(correction=0)
        self.deviation.copy_(deviation if deviation > 0 else torch.ones_like(deviation))

    def forward(self, windows: Tensor) -> Tensor:
        values = self.scaled_forecast(self._scaled(windows)) * self.deviation + self.mean
        return values.exp() if self.log else values

    def summed_loss(self, batch: Batch, hidden: Hidden | None) -> tuple[Tensor, None]:
        """The squared error in standard deviations of the training split."""
        forecasts = self.scaled_forecast(self._scaled(batch.inputs[0]))
        return (forecasts - self._scaled(batch.targets)).square().sum(), None

    def scaled_forecast(self, windows: Tensor) -> Tensor:
        """The value behind scaled ``windows [T, B]``, scaled as they are: ``[B]``."""
        _, final = self.stack(windows.to(self.output.weight.dtype)[..., None])
        top = torch.cat(tuple(final[0][-self.stack.num_directions :]), dim=-1)
        change: Tensor = self.output(self.dropout(top))[:, 0].double()
        return change + windows[-self.difference] if self.difference else change

    def _scaled(self, values: Tensor) -> Tensor:
        return ((values.log() if self.log else values) - self.mean) / self.deviation


class RepeatingForecaster(Forecaster, EstimatedModel):
    """The value of some steps before the one asked for."""

    def __init__(self, period: int) -> None:
        super().__init__()
        self.model = Repetition(period)

    def estimate(self, examples: Examples) -> None:
        """There is nothing to learn."""

    def forward(self, windows: Tensor) -> Tensor:
        values: Tensor = self.model(windows)
        return values


class LinearForecaster(Forecaster, EstimatedModel):
    """An autoregression of what the networks learn too: of logarithms and changes where so set."""

    def __init__(self, order: int, difference: int, log: bool, fill: str) -> None:
        super().__init__()
        self.difference, self.log, self.fill = difference, log, fill
        self.model = Autoregression(order)

    def estimate(self, examples: Examples) -> None:
        """From every value of the split that has as many before it as it takes to forecast it."""
        problem = Forecasting(window=max(self.model.order, self.difference), fill=self.fill)
        (batch,) = problem.scoring_batches(examples, len(examples.inputs.values))
        windows, values = (
            each.log() if self.log else each for each in (batch.inputs[0], batch.targets)
        )
        self.model.estimate(
            windows, values - windows[-self.difference] if self.difference else values
        )

    def forward(self, windows: Tensor) -> Tensor:
        windows = windows.log() if self.log else windows
        values: Tensor = self.model(windows)
        values = values + windows[-self.difference] if self.difference else values
        return values.exp() if self.log else values


@torch.inference_mode()
def forecast(model: Forecaster, windows: Tensor, num_steps: int) -> Tensor:
    """The ``num_steps`` values behind ``windows [T, B]``, each fed back: ``[S, B]``."""
    was_training = model.training
    model.eval()
    values = []
    for _ in range(num_steps):
        values.append(model(windows))
        windows = torch.cat((windows[1:], values[-1][None]))
    model.train(was_training)
    return torch.stack(values)


@torch.inference_mode()
def score_values(
    problem: Problem, model: Forecaster, examples: Examples, batch_size: int, device: torch.device
) -> NDArray[np.float64]:
    """A forecast of every value of a split from those before it, ``[M]``.

    It is not a number where no whole window stands before the value.
    """
    assert examples.targets is not None
    was_training = model.training
    model.eval()
    forecasts = np.full(len(examples.targets.values), np.nan)
    for batch in problem.scoring_batches(examples, batch_size):
        forecasts[batch.positions] = model(batch.to(device).inputs[0]).cpu().numpy()
    model.train(was_training)
    return forecasts[examples.targets.positions]
