"""What a forecast has to beat: the last value, the last season, a line through the past.

Shape letters: ``T`` steps of a window, ``B`` windows, ``p`` order. A window holds the values before
the one that is asked for, the latest last; everything is float64 in the series' own unit.
"""

import torch
from torch import Tensor, nn

from ..errors import InputError


def last_value(windows: Tensor) -> Tensor:
    """The naive forecast: ``windows [T, B]`` to the next values ``[B]``, as they are now."""
    return windows[-1]


def seasonal_naive(windows: Tensor, period: int) -> Tensor:
    """The same step of the season before: ``windows [T, B]``, ``T >= period``, to ``[B]``."""
    return windows[-period]


class Repetition(nn.Module):
    """The value of ``period`` steps ago; a period of 1 is the last value. It learns nothing.

    Raises:
        InputError: for a period below 1.
    """

    def __init__(self, period: int) -> None:
        super().__init__()
        if period < 1:
            raise InputError(f"the period of a season is {period}: it must be at least 1")
        self.order = period

    def forward(self, windows: Tensor) -> Tensor:
        """``windows [T, B]`` to the next values ``[B]``."""
        if self.order == 1:
            return last_value(windows)
        return seasonal_naive(windows, self.order)


class Autoregression(nn.Module):
    """``x_t = c + a_1 x_(t-1) + ... + a_p x_(t-p)``, by least squares (d2l 9.1: order ``p``).

    Attributes:
        coefficients: ``a_p, ..., a_1``, in the order of a window, float64 ``[p]``.
        intercept: ``c``, float64 scalar.

    Raises:
        InputError: for an order below 1.
    """

    coefficients: Tensor
    intercept: Tensor

    def __init__(self, order: int) -> None:
        super().__init__()
        if order < 1:
            raise InputError(f"the order of an autoregression is {order}: it must be at least 1")
        self.order = order
        self.register_buffer("coefficients", torch.zeros(order, dtype=torch.float64))
        self.register_buffer("intercept", torch.zeros((), dtype=torch.float64))

    def estimate(self, windows: Tensor, targets: Tensor) -> None:
        """Fit to ``windows [T, B]``, ``T >= p``, and the values behind them, ``targets [B]``.

        Of the many solutions that a constant series has, for example, it is that with the smallest
        coefficients.
        """
        rows = windows[-self.order :].T.double().cpu()
        goals = targets.double().cpu()
        # Around the means the intercept falls out, and is not what is made small.
        means, mean = rows.mean(0), goals.mean()
        found = torch.linalg.lstsq(rows - means, (goals - mean)[:, None], driver="gelsd")
        solution = found.solution[:, 0]
        self.coefficients = solution.to(self.coefficients)
        self.intercept = (mean - means @ solution).to(self.intercept)

    def forward(self, windows: Tensor) -> Tensor:
        """``windows [T, B]`` to the next values, float64 ``[B]``."""
        return self.coefficients @ windows[-self.order :].double() + self.intercept
