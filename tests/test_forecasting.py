"""Windows of series with gaps: what they hold, and what is forecast from them."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.networks.variants import parse_variant
from pipeline.problems.batches import Examples
from pipeline.problems.forecasting.problem import Forecaster, Forecasting, score_values
from pipeline.problems.ragged import Ragged
from pipeline.series import FILLS, with_gaps
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit

CPU = torch.device("cpu")
NAN = float("nan")


def examples_of(
    series: list[tuple[list[float], list[int]]], num_targets: list[int], fill: str
) -> Examples:
    """A split that holds the last observed values of each series, from values and missing steps."""
    inputs, targets = [], []
    for (values, missing), num in zip(series, num_targets, strict=True):
        known, observed, places = with_gaps(np.array(values), np.array(missing, np.int64), fill)
        begin = int(places[-num - 1]) + 1 if num < len(values) else 0
        inputs.append(known)
        targets.append(observed[begin:])
    sides = [
        Ragged(np.concatenate(side), np.cumsum([0, *map(len, side)])) for side in (inputs, targets)
    ]
    return Examples(*sides, scales=np.ones(len(series)))


def windows_of(problem: Forecasting, examples: Examples) -> list[tuple[list[float], float]]:
    return [
        (window, target)
        for batch in problem.scoring_batches(examples, 3)
        for window, target in zip(batch.inputs[0].T.tolist(), batch.targets.tolist(), strict=True)
    ]


GAP = ([1.0, 2, 3, 7, 8, 9, 10], [0, 0, 0, 3, 0, 0, 0])


@pytest.mark.parametrize(
    ("fill", "expected"),
    [
        ("none", [([1, 2], 3), ([7, 8], 9), ([8, 9], 10)]),
        (
            "previous",
            [([1, 2], 3), ([3, 3], 7), ([3, 7], 8), ([7, 8], 9), ([8, 9], 10)],
        ),
        # 7 could be read off the line to it.
        ("linear", [([1, 2], 3), ([6, 7], 8), ([7, 8], 9), ([8, 9], 10)]),
    ],
)
def test_no_window_runs_across_a_gap_unless_it_is_filled(
    fill: str, expected: list[tuple[list[float], float]]
) -> None:
    problem = Forecasting(window=2, fill=fill)
    assert windows_of(problem, examples_of([GAP], [7], fill)) == expected


series = st.lists(
    st.tuples(
        st.floats(1, 9),
        st.sampled_from([0, 0, 0, 1]),
    ),
    min_size=1,
    max_size=30,
).map(lambda rows: ([row[0] for row in rows], [0, *(row[1] for row in rows[1:])]))


@given(st.lists(series, min_size=1, max_size=4), st.integers(1, 4), st.randoms())
def test_windows_are_whole_and_targets_are_observed(
    many: list[tuple[list[float], list[int]]], window: int, random: object
) -> None:
    sizes = [random.randint(0, len(values)) for values, _ in many]  # type: ignore[attr-defined]
    found = {}
    for fill in FILLS:
        problem = Forecasting(window=window, horizon=3, fill=fill)
        examples = examples_of(many, sizes, fill)
        found[fill] = windows_of(problem, examples)
        assert np.isfinite([value for before, _ in found[fill] for value in before]).all()
        assert {target for _, target in found[fill]} <= {v for values, _ in many for v in values}
        shuffled = problem.training_batches(examples, 2, np.random.default_rng(0))
        assert sum(len(batch.targets) for batch in shuffled) == len(found[fill])
        # Fed back, forecasts are made of the same values at most.
        recursive, ahead = problem.recursive_forecasts(_Last(), examples, CPU)
        one_step = score_values(problem, _Last(), examples, 8, CPU)
        assert np.isfinite(one_step[np.isfinite(recursive) & (ahead == 1)]).all()
        assert (recursive[ahead == 1] == one_step[ahead == 1])[
            np.isfinite(recursive[ahead == 1])
        ].all()
    assert len(found["none"]) <= len(found["linear"]) <= len(found["previous"])
    # Where nothing is missing, nothing changes.
    gapless = [(values, [0] * len(values)) for values, _ in many]
    one, *others = (
        windows_of(Forecasting(window=window, fill=fill), examples_of(gapless, sizes, fill))
        for fill in FILLS
    )
    assert all(each == one for each in others)


class _Last(Forecaster):
    def forward(self, windows: torch.Tensor) -> torch.Tensor:
        return windows[-1]


def test_stretches_of_forecasts_begin_anew_after_a_gap() -> None:
    problem = Forecasting(window=2, horizon=2)
    examples = examples_of(
        [([1.0, 2, 3, 4, 5, 9, 8, 7, 6], [0, 0, 0, 0, 0, 4, 0, 0, 0])], [7], "none"
    )
    recursive, ahead = problem.recursive_forecasts(_Last(), examples, CPU)
    # 3 and 4 from 2; 5 from 4; the gap; 9 and 8 have no window before them, 7 and 6 do.
    np.testing.assert_array_equal(recursive, [2, 2, 4, NAN, NAN, NAN, 8, 8])
    assert ahead.tolist() == [1, 2, 1, 1, 1, 2, 1, 2]


@pytest.mark.parametrize("name", ["autoregression-2", "gru"])
@pytest.mark.parametrize("fill", FILLS)
def test_models_learn_from_series_with_gaps(name: str, fill: str) -> None:
    values = [float(at) for at in (*range(1, 20), *range(40, 60), *range(63, 80))]
    missing = [0] * len(values)
    missing[19], missing[39] = 20, 3
    problem = Forecasting(window=4, horizon=2, log=True, fill=fill)
    examples = examples_of([(values, missing)], [len(values)], fill)
    fitted = fit(
        problem,
        parse_variant(name),
        NetworkConfig(1, 4, 0.0),
        TrainingConfig(num_epochs=2),
        examples,
        examples,
        [],
        device=CPU,
    )
    assert np.isfinite(fitted.history[-1]["metrics"]["valid/loss"])
    assert all(tensor.isfinite().all() for tensor in fitted.weights.values())


def test_logarithms_see_values_beside_a_gap() -> None:
    examples = examples_of([([1.0, 2, -3, 4], [0, 0, 1, 0])], [4], "none")
    with pytest.raises(InputError, match="above 0"):
        Forecasting(window=1, log=True).usable(examples, training=True)


def test_a_fill_that_there_is_not_is_refused() -> None:
    with pytest.raises(InputError, match=r"'mean': choose from none, previous, linear"):
        Forecasting(fill="mean")
