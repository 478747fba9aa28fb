"""Errors of forecasts, one step and several steps ahead."""

import numpy as np
from numpy.typing import NDArray

from ...errors import InputError
from ...metrics import METRICS, Statistics
from ..batches import Examples
from ..predictor import Predictor
from ..scores import SCORING_ROWS, Scores
from .problem import Forecaster, Forecasting, score_values

SHOWN_VALUES = 120
"""The last values of a split, whose forecasts are kept for people to look at."""


def score_forecasts(problem: Forecasting, predictor: Predictor, examples: Examples) -> Scores:
    """Errors of the next value, and of values up to ``horizon`` steps ahead.

    Rows of the statistics are the values of the split.
    """
    assert examples.targets is not None and isinstance(predictor.model, Forecaster)
    actual = examples.targets.values[examples.targets.positions].astype(np.float64)
    scales = np.repeat(examples.scales, examples.targets.lengths)
    one_step = score_values(problem, predictor.model, examples, SCORING_ROWS, predictor.device)
    recursive, ahead = problem.recursive_forecasts(predictor.model, examples, predictor.device)
    if not np.isfinite(one_step).any():
        raise InputError(
            f"forecasting has nothing to score: no value of the split has {problem.window} values "
            f"before it without a gap; add data, lower problem.window, or set problem.fill"
        )

    def summed(errors: NDArray[np.float64]) -> Statistics:
        made = np.isfinite(errors)
        return np.stack((np.where(made, errors, 0.0), made.astype(np.float64)), axis=1)

    errors = one_step - actual
    statistics = {
        "mae": summed(np.abs(errors)),
        "rmse": summed(errors**2),
        "mase": summed(np.abs(errors) / scales),
        "mase_recursive": summed(np.abs(recursive - actual) / scales),
    }
    samples = [
        {
            "place": str(row + 1),
            "value": f"{actual[row]:.6g}",
            "one step": f"{one_step[row]:.6g}",
            "recursive": f"{recursive[row]:.6g}",
            "steps ahead": str(ahead[row]),
        }
        for row in range(max(0, len(actual) - SHOWN_VALUES), len(actual))
    ]
    metrics = {name: METRICS[name].score(each) for name, each in statistics.items()}
    return Scores(metrics, statistics, {}, samples)
