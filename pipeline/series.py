"""Series of numbers: in order, scaled, and read from what a person writes.

Shape letters: ``N`` observations, ``T`` values of a series.
"""

import math
import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .errors import InputError


def by_series(
    names: Sequence[str], times: Sequence[str], values: NDArray[np.float64]
) -> tuple[list[str], list[NDArray[np.float64]], int]:
    """The values of each series in the order of time.

    Times that are all numbers are ordered as numbers, others as text, as dates in ISO 8601 are. Of
    two observations of one time the one that stands later counts.

    Returns:
        The names of the series, in the order in which they appear; their values, ``[T]`` each; and
        how many observations gave way to later ones.
    """
    found: dict[str, dict[str, float]] = {name: {} for name in names}
    for name, time, value in zip(names, times, values.tolist(), strict=True):
        found[name][time] = value
    ordered = [
        np.array([observed[time] for time in sorted(observed, key=_key_of(observed))])
        for observed in found.values()
    ]
    return list(found), ordered, len(names) - sum(map(len, ordered))


def _key_of(times: dict[str, float]) -> "type[float] | None":
    try:
        if all(math.isfinite(float(time)) for time in times):
            return float
    except ValueError:
        pass
    return None


def seasonal_scale(values: NDArray[np.float64], period: int) -> float:
    """The mean absolute error of the seasonal naive forecast of ``values [T]`` within them.

    It is what a scaled error is measured by (Hyndman and Koehler 2006, section 2.4). Where the
    series is too short for its season, or repeats itself exactly, it falls back to the mean change
    from one value to the next, and then to 1.
    """
    for lag in (period, 1):
        if len(values) > lag:
            scale = float(np.abs(values[lag:] - values[:-lag]).mean())
            if scale > 0:
                return scale
    return 1.0


def read_numbers(text: str) -> NDArray[np.float64]:
    """The numbers of a text, apart by blanks, commas or semicolons, float64 ``[T]``.

    Raises:
        InputError: for what is no finite number.
    """
    values = []
    for part in re.split(r"[\s,;，；、]+", text.strip(" \t\r\n,;[]")):
        try:
            value = float(part)
        except ValueError:
            value = math.nan
        if not math.isfinite(value):
            raise InputError(
                f"{part[:40]!r} is no number: give the last values of the series, apart by blanks"
            )
        values.append(value)
    return np.array(values)
