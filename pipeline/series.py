"""Series of numbers: in order, with their gaps, scaled, and read from what a person writes.

Shape letters: ``N`` observed values, ``T`` values of a series, gaps included.
"""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .times import (
    CLOCK,
    DAY,
    DAYS,
    MONTHS,
    QUARTERS,
    SECOND,
    WEEKS,
    ZONED,
    MixedTimesError,
    Place,
    places_of,
)


@dataclass(frozen=True)
class Gap:
    """A place in a series where steps are missing: between which times, and how many."""

    after: str
    before: str
    num_missing: int


class Chronology(NamedTuple):
    """The observations of one series in the order of time.

    Attributes:
        order: which observation is each value of the series, int64 ``[T]``.
        missing: steps that are missing before each value, int64 ``[T]``; 0 before the first.
        step: the time from one value to the next, such as "1 month"; empty where most values do
            not follow one another in equal steps, and no steps are known to be missing.
        repeated: observations in whose place a later one of the same time counts, int64.
        unsorted: observations that are read after one of a later time, int64.
    """

    name: str
    order: NDArray[np.int64]
    missing: NDArray[np.int64]
    step: str
    repeated: NDArray[np.int64]
    unsorted: NDArray[np.int64]

    def gap(self, place: int, times: Sequence[str]) -> Gap:
        """The gap before a value, from the times of all observations."""
        after, before = (times[row] for row in self.order[place - 1 : place + 1].tolist())
        return Gap(after, before, int(self.missing[place]))


def by_series(names: Sequence[str], times: Sequence[str]) -> list[Chronology]:
    """The observations of each series in the order of time, in the order in which series appear.

    Of two observations of one time the one that stands later counts, however the time is written.

    Raises:
        MixedTimesError: the times of a series are of different kinds; its rows are observations.
        InputError: a time has no place in time.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(names):
        rows.setdefault(name, []).append(row)
    return [_chronology(name, [times[row] for row in of], of) for name, of in rows.items()]


def _chronology(name: str, times: Sequence[str], rows: Sequence[int]) -> Chronology:
    of = f"series {name!r}: " if name else ""
    try:
        kind, places = places_of(times)
    except MixedTimesError as error:
        one, other = error.rows
        raise MixedTimesError(f"{of}{error}", (rows[one], rows[other])) from None
    except InputError as error:
        raise InputError(f"{of}{error}") from None
    latest: dict[Place, int] = {}
    repeated, unsorted = [], []
    end = places[0]
    for row, place in zip(rows, places, strict=True):
        if place in latest:
            repeated.append(latest[place])
        elif place < end:
            unsorted.append(row)
        latest[place] = row
        end = max(end, place)
    ordered = sorted(latest)
    missing, step = _missing_steps(kind, ordered)
    return Chronology(
        name,
        np.array([latest[place] for place in ordered], np.int64),
        np.array(missing, np.int64),
        step,
        np.array(repeated, np.int64),
        np.array(unsorted, np.int64),
    )


NUM_SHOWN = 10
"""Gaps, and observations of each kind, that are named of a series; the others are counted."""


@dataclass(frozen=True)
class SeriesTimes:
    """How the times of a series follow one another.

    Attributes:
        num: values, each at a time of its own.
        first, last: their times, as they are written.
        step: the time from one to the next; empty where most steps differ.
        num_gaps, num_missing: gaps, and the steps that are missing in them all; ``gaps``: the
            longest of them, in the order of time.
        num_repeated, repeated: observations in whose place a later one of the same time counts, and
            the first of them.
        num_unsorted, unsorted: observations that are read after one of a later time, and the first
            of them.
    """

    name: str
    num: int
    first: str
    last: str
    step: str
    num_gaps: int
    num_missing: int
    gaps: tuple[Gap, ...]
    num_repeated: int
    repeated: tuple[int, ...]
    num_unsorted: int
    unsorted: tuple[int, ...]

    @classmethod
    def of(cls, series: Chronology, times: Sequence[str]) -> "SeriesTimes":
        """From a series in order, and the times of all observations."""
        places = np.flatnonzero(series.missing)
        longest = np.argsort(-series.missing[places], kind="stable")[:NUM_SHOWN]
        return cls(
            name=series.name,
            num=len(series.order),
            first=times[series.order[0]],
            last=times[series.order[-1]],
            step=series.step,
            num_gaps=len(places),
            num_missing=int(series.missing.sum()),
            gaps=tuple(series.gap(place, times) for place in sorted(places[longest].tolist())),
            num_repeated=len(series.repeated),
            repeated=tuple(series.repeated[:NUM_SHOWN].tolist()),
            num_unsorted=len(series.unsorted),
            unsorted=tuple(series.unsorted[:NUM_SHOWN].tolist()),
        )


def remarks_on_times(
    series: Sequence[SeriesTimes], places: Mapping[int, str] | None = None
) -> list[str]:
    """Sentences on series whose times are unusual, of the first ``NUM_SHOWN`` of them.

    Args:
        places: where each observation that ``series`` names stands, for people.
    """
    odd = [
        each
        for each in series
        if each.num_gaps
        or each.num_repeated
        or each.num_unsorted
        or (not each.step and each.num > 2)
    ]
    found = [sentence for each in odd[:NUM_SHOWN] for sentence in _remarks_on(each, places or {})]
    if len(odd) > NUM_SHOWN:
        found.append(f"{len(odd) - NUM_SHOWN:,} more series have gaps or times out of order.")
    return found


def _remarks_on(series: SeriesTimes, places: Mapping[int, str]) -> Iterator[str]:
    of = f"Series {series.name!r}" if series.name else "The series"

    def where(rows: Sequence[int], count: int) -> str:
        named = [places[row] for row in rows if row in places]
        more = f" and {count - len(named):,} more" if count > len(named) else ""
        return f" ({', '.join(named)}{more})" if named else ""

    if series.num_gaps:
        gaps = ", ".join(
            f"{gap.num_missing:,} between {gap.after} and {gap.before}" for gap in series.gaps
        )
        more = f", and {n:,} more gaps" if (n := series.num_gaps - len(series.gaps)) else ""
        yield (
            f"{of} misses {series.num_missing:,} of its steps of {series.step}: {gaps}{more}. No"
            " window runs across a gap, unless problem.fill is previous or linear."
        )
    if not series.step and series.num > 2:
        yield (
            f"{of} has no regular step: its {series.num:,} values are taken one after the other,"
            " and no gap is known."
        )
    if series.num_repeated:
        yield (
            f"{of} has {_observations(series.num_repeated)} whose time is repeated later"
            f"{where(series.repeated, series.num_repeated)}; the later one counts."
        )
    if series.num_unsorted:
        yield (
            f"{of} has {_observations(series.num_unsorted)} after one of a later time"
            f"{where(series.unsorted, series.num_unsorted)}; all are put in the order of time."
        )


def _observations(count: int) -> str:
    return f"{count:,} observation{'s' * (count != 1)}"


_SIZES: dict[str, int] = {
    "day": DAY,
    "hour": 3_600 * SECOND,
    "minute": 60 * SECOND,
    "second": SECOND,
    "millisecond": SECOND // 1_000,
    "microsecond": SECOND // 1_000_000,
    "nanosecond": 1,
}
_MOST_MISSING = 10**12
"""As far as missing steps are counted, so that all of them are a number of 64 bits."""
_LEAST_MONTH = 28
"""Days of the shortest month."""


def _missing_steps(kind: str, places: list[Place]) -> tuple[list[int], str]:
    """Steps that are missing before each of rising places, and what a step is.

    The step is the median distance, if at least half of the distances are within a quarter of it.
    """
    if len(places) < 2:
        return [0] * len(places), ""
    unit, counted = _in_units(kind, places)
    distances = _distances(counted)
    step = sorted(distances)[(len(distances) - 1) // 2]
    if 2 * sum(3 * step <= 4 * each <= 5 * step for each in distances) < len(distances):
        return [0] * len(places), ""
    missing = [
        min((2 * each + step) // (2 * step) - 1, _MOST_MISSING) if 2 * each >= 3 * step else 0
        for each in distances
    ]
    if unit == "nanosecond":
        unit = next(of for of, size in _SIZES.items() if step % size == 0)
        step //= _SIZES[unit]
    shown = f"{step}" if isinstance(step, int) else f"{float(step):g}"
    return [0, *missing], f"{shown} {unit}{'s' * (step != 1)}" if unit else shown


def _in_units(kind: str, places: list[Place]) -> tuple[str, list[Place]]:
    """What to count the time between observations in, and their places so counted.

    Days that lie at least a month apart are counted in months, and days of which none is on a
    weekend in business days, so that months of different lengths and weekends are no gaps.
    """
    if kind in (CLOCK, ZONED):
        if len({place % DAY for place in places}) == 1:
            return _in_units(DAYS, [place // DAY for place in places])
        # Midnights of a time zone with summer time differ by an hour in UTC.
        months = _months([place // DAY for place in places])
        return ("month", months) if months else ("nanosecond", places)
    if kind == DAYS:
        if months := _months(places):
            return "month", months
        weekdays = [(place + 3) % 7 for place in places]  # Monday is 0; 1970-01-01 was a Thursday
        if max(weekdays) < 5 and min(_distances(places)) == 1 and places[-1] - places[0] > 4:
            weeks = [(place + 3) // 7 for place in places]
            days = [week * 5 + day for week, day in zip(weeks, weekdays, strict=True)]
            return "business day", days
        return "day", places
    return {MONTHS: "month", QUARTERS: "quarter", WEEKS: "week"}.get(kind, ""), places


def _months(days: list[Place]) -> list[Place]:
    """The month of each day, if every day has one of its own and they are not weeks apart."""
    distances = _distances(days)
    if min(distances) < _LEAST_MONTH or all(each % 7 == 0 for each in distances):
        return []
    months = np.array(days, "datetime64[D]").astype("datetime64[M]").astype(np.int64).tolist()
    return months if len(set(months)) == len(months) else []


def _distances(places: list[Place]) -> list[Place]:
    return [after - before for before, after in pairwise(places)]


# --- values ---------------------------------------------------------------------------------------

FILLS = ("none", "previous", "linear")
"""What can stand in the place of missing steps."""


def with_gaps(
    values: NDArray[np.float64], missing: NDArray[np.int64], fill: str
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.int64]]:
    """A series with its missing steps, marked or filled.

    Args:
        values: in the order of time, ``[N]``.
        missing: steps that are missing before each value, ``[N]``.
        fill: "none" marks a gap by one NaN, however long it is; "previous" repeats the value before
            the gap; "linear" draws a line from the value before the gap to the one after it.

    Returns:
        What a window may hold, ``[T]``, NaN for a gap that is not filled; what was observed,
        ``[T]``, NaN elsewhere; and the place of each value in them, ``[N]``.

    Raises:
        InputError: more steps are missing than there are values.
    """
    if fill != "none" and missing.sum() > len(values):
        raise InputError(
            f"{missing.sum():,} steps are missing among {len(values):,} values, too many to be"
            " filled: set problem.fill=none"
        )
    if not len(values):
        return values, values, np.zeros(0, np.int64)
    width = np.minimum(missing, 1) if fill == "none" else missing
    places = np.arange(len(values)) + np.cumsum(width)
    length = int(places[-1]) + 1
    observed = np.full(length, np.nan)
    observed[places] = values
    if fill == "previous":
        return np.repeat(values, np.append(width[1:], 0) + 1), observed, places
    if fill == "linear":
        return np.interp(np.arange(length), places, values), observed, places
    return observed, observed, places


def seasonal_scale(values: NDArray[np.float64], period: int) -> float:
    """The mean absolute error of the seasonal naive forecast of ``values [T]`` within them.

    It is what a scaled error is measured by (Hyndman and Koehler 2006, section 2.4). Where the
    series is too short for its season, or repeats itself exactly, it falls back to the mean change
    from one value to the next, and then to 1. No difference is taken across a NaN.
    """
    stretches = np.split(values, np.flatnonzero(np.isnan(values)))
    for lag in (period, 1):
        changes = [each[lag:] - each[:-lag] for each in stretches if len(each) > lag]
        found = np.abs(np.concatenate([np.zeros(0), *changes]))
        found = found[np.isfinite(found)]
        if len(found) and found.mean() > 0:
            return float(found.mean())
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
