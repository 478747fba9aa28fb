"""Series: their order, the scale of their errors, and numbers as a person writes them."""

import numpy as np
import pytest

from pipeline.errors import InputError
from pipeline.series import by_series, read_numbers, seasonal_scale


def test_observations_are_put_in_order_and_corrected() -> None:
    names, values, corrected = by_series(
        ["a", "b", "a", "a", "a"],
        ["10", "2020-02", "9", "10", "1e2"],
        np.array([1.0, 5.0, 2.0, 3.0, 4.0]),
    )
    assert names == ["a", "b"]
    assert [each.tolist() for each in values] == [[2.0, 3.0, 4.0], [5.0]]
    assert corrected == 1


def test_dates_are_ordered_as_text() -> None:
    _, (values,), _ = by_series(["", ""], ["1949-10", "1949-02"], np.array([1.0, 2.0]))
    assert values.tolist() == [2.0, 1.0]


def test_the_scale_is_the_error_of_the_seasonal_naive_forecast() -> None:
    assert seasonal_scale(np.array([1.0, 2.0, 4.0, 3.0]), 2) == pytest.approx((3 + 1) / 2)
    assert seasonal_scale(np.array([1.0, 3.0]), 12) == 2.0
    assert seasonal_scale(np.array([5.0, 5.0]), 1) == 1.0
    assert seasonal_scale(np.array([]), 1) == 1.0


@pytest.mark.parametrize("text", ["1 2.5 -3", " 1, 2.5,-3 ", "[1; 2.5; -3]", "1，2.5、-3\n"])
def test_numbers_are_read_as_people_write_them(text: str) -> None:
    assert read_numbers(text).tolist() == [1.0, 2.5, -3.0]


@pytest.mark.parametrize("text", ["1 zwei", "nan", "1 inf", ""])
def test_what_is_no_number_is_named(text: str) -> None:
    with pytest.raises(InputError, match="is no number"):
        read_numbers(text)
