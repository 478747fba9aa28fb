"""Forecasts without a network, on series whose answer is known."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pipeline.baselines.series import Autoregression, Repetition, last_value, seasonal_naive
from pipeline.errors import InputError


def windows_of(series: NDArray[np.float64], size: int) -> tuple[Tensor, Tensor]:
    """All windows of ``size`` values, ``[T, B]``, and the values behind them, ``[B]``."""
    rows = np.lib.stride_tricks.sliding_window_view(series, size + 1)
    return torch.from_numpy(rows[:, :-1].T.copy()), torch.from_numpy(rows[:, -1].copy())


def test_the_naive_forecasts() -> None:
    windows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    assert last_value(windows).tolist() == [5, 6]
    assert seasonal_naive(windows, 3).tolist() == [1, 2]
    assert Repetition(1)(windows).tolist() == [5, 6]
    assert Repetition(2)(windows).tolist() == [3, 4]


def test_a_season_repeats_without_error() -> None:
    windows, targets = windows_of(np.tile([3.0, 1.0, 4.0, 1.0, 5.0], 6), 7)
    assert torch.equal(Repetition(5)(windows), targets)


def test_an_autoregression_finds_the_coefficients_of_its_series() -> None:
    generator = np.random.default_rng(1)
    series = list(generator.normal(size=3))
    for _ in range(60):
        series.append(100 + 0.5 * series[-1] - 0.7 * series[-2] + 0.3 * series[-3])
    windows, targets = windows_of(np.array(series), 5)
    model = Autoregression(3)
    model.estimate(windows, targets)
    assert model.coefficients.tolist() == pytest.approx([0.3, -0.7, 0.5], abs=1e-6)
    assert model.intercept.item() == pytest.approx(100, abs=1e-4)
    assert model(windows).numpy() == pytest.approx(targets.numpy(), abs=1e-8)


def test_an_autoregression_is_numpys_least_squares(shared_data: Path) -> None:
    text = (shared_data / "series" / "airline-passengers.csv").read_text(encoding="utf-8")
    values = [line.rsplit(",", 1)[1] for line in text.splitlines()[1:] if "," in line]
    windows, targets = windows_of(np.array(values, float), 12)
    model = Autoregression(12)
    model.estimate(windows, targets)
    design = np.column_stack((windows.T.numpy(), np.ones(len(targets))))
    expected = np.linalg.lstsq(design, targets.numpy(), rcond=None)[0]
    found = [*model.coefficients.tolist(), model.intercept.item()]
    assert found == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("series", [np.full(20, 7.0), np.zeros(20), np.arange(20.0)])
def test_a_series_that_many_lines_fit_is_forecast_all_the_same(series: NDArray[np.float64]) -> None:
    windows, targets = windows_of(series, 4)
    model = Autoregression(4)
    model.estimate(windows, targets)
    assert model(windows).numpy() == pytest.approx(targets.numpy(), abs=1e-5)
    assert model.coefficients.abs().max().item() < 10


def test_fewer_windows_than_coefficients_are_enough() -> None:
    windows, targets = windows_of(np.array([3.0, 1.0, 4.0, 1.0, 5.0, 9.0]), 4)
    model = Autoregression(4)
    model.estimate(windows, targets)
    assert model(windows).numpy() == pytest.approx(targets.numpy(), abs=1e-5)


def test_its_buffers_are_the_whole_model() -> None:
    windows, targets = windows_of(np.random.default_rng(2).normal(size=40), 6)
    trained, loaded = Autoregression(6), Autoregression(6)
    trained.estimate(windows, targets)
    loaded.load_state_dict(trained.state_dict())
    assert torch.equal(loaded(windows), trained(windows))
    assert not list(trained.parameters())


@pytest.mark.parametrize("model", [Repetition, Autoregression])
def test_nothing_looks_back_less_than_one_step(model: type) -> None:
    with pytest.raises(InputError, match="at least 1"):
        model(0)
