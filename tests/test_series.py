"""Series: their order, the scale of their errors, and numbers as a person writes them."""

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.series import (
    Chronology,
    SeriesTimes,
    by_series,
    read_numbers,
    remarks_on_times,
    seasonal_scale,
    with_gaps,
)
from pipeline.times import MixedTimesError

NAN = float("nan")


def ordered(times: list[str], names: list[str] | None = None) -> list[Chronology]:
    return by_series(names or [""] * len(times), times)


def steps(times: list[str]) -> tuple[str, list[int]]:
    (series,) = ordered(times)
    return series.step, series.missing.tolist()


def test_observations_are_put_in_order_and_corrected() -> None:
    a, b = ordered(["10", "2020-02", "9", "10.0", "1e2"], ["a", "b", "a", "a", "a"])
    assert (a.name, a.order.tolist()) == ("a", [2, 3, 4])
    assert (a.repeated.tolist(), a.unsorted.tolist()) == ([0], [2])
    assert (b.name, b.order.tolist(), b.step) == ("b", [1], "")


def test_months_without_zeros_are_in_the_order_of_time() -> None:
    times = [f"{year}-{month}" for year in (2010, 2011) for month in range(1, 13)]
    (series,) = ordered(times)
    assert series.order.tolist() == list(range(24))
    assert (series.step, series.missing.sum(), len(series.unsorted)) == ("1 month", 0, 0)


def test_mixed_kinds_of_time_are_refused_with_their_rows() -> None:
    with pytest.raises(MixedTimesError, match=r"'a': '2020-01' \(months\) and '2020'") as error:
        ordered(["5", "2020-01", "2020"], ["b", "a", "a"])
    assert error.value.rows == (1, 2)
    with pytest.raises(InputError, match=r"'b': time 'once' has no place in time: write 2020-01"):
        ordered(["2020-01", "once"], ["a", "b"])


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        (["2020-01", "2020-02", "2020-05", "2020-06"], ("1 month", [0, 0, 2, 0])),
        (["2019Q4", "2020Q1", "2020Q4"], ("1 quarter", [0, 0, 2])),
        (["2020-W52", "2020-W53", "2021-W01", "2021-W03"], ("1 week", [0, 0, 0, 1])),
        (["1949", "1950", "1953"], ("1", [0, 0, 2])),
        (["0.5", "1", "2.5"], ("0.5", [0, 0, 2])),
        # The end of each month, and the first day of each quarter, are as far apart as the next.
        (["2020-01-31", "2020-02-29", "2020-03-31", "2020-06-30"], ("1 month", [0, 0, 0, 2])),
        (["2020-01-01", "2020-04-01", "2020-07-01", "2021-01-01"], ("3 months", [0, 0, 0, 1])),
        (["2020-01-03", "2020-01-10", "2020-01-17", "2020-01-31"], ("7 days", [0, 0, 0, 1])),
        # From Friday to Monday is one business day; the next Tuesday is missing.
        (
            ["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-08", "2020-01-09"],
            ("1 business day", [0, 0, 0, 1, 0]),
        ),
        (["2020-01-04", "2020-01-05", "2020-01-07", "2020-01-08"], ("1 day", [0, 0, 1, 0])),
        (["2020-01-01 00:00", "2020-01-01 00:15", "2020-01-01 01:00"], ("15 minutes", [0, 0, 2])),
        # Midnight where summer time begins on March 29.
        (
            [f"2020-03-{day}T00:00+0{1 + (day > 29)}:00" for day in (27, 28, 29, 30, 31)],
            ("1 day", [0, 0, 0, 0, 0]),
        ),
        (["1", "2", "30", "31.5", "700"], ("", [0, 0, 0, 0, 0])),
        (["1"], ("", [0])),
    ],
)
def test_missing_steps_are_counted(times: list[str], expected: tuple[str, list[int]]) -> None:
    assert steps(times) == expected


def test_a_step_is_about_what_most_steps_are() -> None:
    times = [f"2020-01-01T10:{time}" for time in ("00:01", "05:00", "10:02", "20:01")]
    assert steps(times) == ("302 seconds", [0, 0, 0, 1])
    assert steps(["1", "2", "1e39"])[1] == [0, 0, 10**12]


@given(st.sets(st.integers(0, 400), min_size=2), st.randoms())
def test_all_that_is_missing_is_missing_in_a_gap(days: set[int], random: Random) -> None:
    times = [str(np.datetime64("2019-12-01") + day) for day in days]
    random.shuffle(times)
    (series,) = ordered(times)
    assert [times[row] for row in series.order] == sorted(times)
    assert len(series.missing) == len(times) and (series.missing >= 0).all()
    if series.step == "1 day":
        assert series.missing.sum() == max(days) - min(days) + 1 - len(days)


def test_what_is_odd_about_times_is_said() -> None:
    times = ["2020-01", "2020-03", "2020-02", "2020-02", "2020-07"]
    (series,) = ordered(times, ["a"] * 5)
    said = remarks_on_times([SeriesTimes.of(series, times)], {2: "a.csv line 4"})
    gaps, repeated, unsorted = said
    assert gaps == (
        "Series 'a' misses 3 of its steps of 1 month: 3 between 2020-03 and 2020-07. No window runs"
        " across a gap, unless problem.fill is previous or linear."
    )
    assert "1 observation whose time is repeated later (a.csv line 4)" in repeated
    assert "1 observation after one of a later time (a.csv line 4)" in unsorted
    irregular = SeriesTimes.of(ordered(["1", "2", "30", "700"])[0], ["1", "2", "30", "700"])
    assert "The series has no regular step: its 4 values" in remarks_on_times([irregular])[0]
    regular = SeriesTimes.of(ordered(["1", "2", "3"])[0], ["1", "2", "3"])
    assert remarks_on_times([regular]) == []
    assert remarks_on_times([irregular] * 12)[-1].startswith("2 more series")


@pytest.mark.parametrize(
    ("fill", "inputs"),
    [
        ("none", [1, 2, NAN, 5, NAN, 9, 10]),
        ("previous", [1, 2, 2, 2, 5, 5, 5, 5, 9, 10]),
        ("linear", [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]),
    ],
)
def test_gaps_are_marked_or_filled(fill: str, inputs: list[float]) -> None:
    values, missing = np.array([1.0, 2, 5, 9, 10]), np.array([0, 0, 2, 3, 0])
    known, observed, places = with_gaps(values, missing, fill)
    assert known.tolist() == pytest.approx(inputs, nan_ok=True)
    assert observed[places].tolist() == values.tolist()
    assert np.isfinite(observed).sum() == len(values) and len(observed) == len(known)
    empty = with_gaps(np.zeros(0), np.zeros(0, np.int64), fill)
    assert [len(each) for each in empty] == [0, 0, 0]


def test_more_is_not_filled_than_was_observed() -> None:
    values, missing = np.array([1.0, 2, 3]), np.array([0, 0, 10**15])
    assert len(with_gaps(values, missing, "none")[0]) == 4
    with pytest.raises(InputError, match=r"too many to be filled: set problem\.fill=none"):
        with_gaps(values, missing, "previous")


def test_the_scale_is_the_error_of_the_seasonal_naive_forecast() -> None:
    assert seasonal_scale(np.array([1.0, 2.0, 4.0, 3.0]), 2) == pytest.approx((3 + 1) / 2)
    assert seasonal_scale(np.array([1.0, 3.0]), 12) == 2.0
    assert seasonal_scale(np.array([5.0, 5.0]), 1) == 1.0
    assert seasonal_scale(np.array([]), 1) == 1.0
    # No change is taken across a gap.
    assert seasonal_scale(np.array([1.0, 2.0, NAN, 9.0, 12.0]), 1) == pytest.approx((1 + 3) / 2)


@pytest.mark.parametrize("text", ["1 2.5 -3", " 1, 2.5,-3 ", "[1; 2.5; -3]", "1，2.5、-3\n"])
def test_numbers_are_read_as_people_write_them(text: str) -> None:
    assert read_numbers(text).tolist() == [1.0, 2.5, -3.0]


@pytest.mark.parametrize("text", ["1 zwei", "nan", "1 inf", ""])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match="is no number"):
        read_numbers(text)
