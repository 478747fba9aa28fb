"""Times of observations: what is written, what kind of time it is, and its place in order.

| kind | written as | place |
| --- | --- | --- |
| days | 2020-01-31, 2020/1/31, 2020.1.31, 20200131, 2020年1月31日 | days since 1970 |
| months | 2020-01, 2020/1, 2020.1, 202001, 2020年1月 | months since year 0 |
| quarters | 2020Q1, 2020-Q1, 2020 q1, 2020年1季度 | quarters since year 0 |
| weeks | 2020-W05, 2020W5 (ISO 8601) | weeks since 1970 |
| clock times | 2020-01-31T12:00, 2020-01-31 12:00:00.5 | nanoseconds since 1970 |
| clock times with a zone | 2020-01-31T12:00Z, 2020-01-31 20:00+08:00 | the same, in UTC |
| numbers | 2020, -3, 0.25, 1e3 | the number, exact |

Some texts have two readings: 2020.1 is a month or a number, 20200131 a day or a number. The times
of a series decide together: the first kind above that all of them can be is meant.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from fractions import Fraction
from functools import lru_cache

import numpy as np

from .errors import InputError

Place = int | Fraction

DAYS, MONTHS, QUARTERS, WEEKS = "days", "months", "quarters", "weeks"
CLOCK, ZONED = "clock times without a zone", "clock times with a zone"
NUMBERS = "numbers"
KINDS = (DAYS, MONTHS, QUARTERS, WEEKS, CLOCK, ZONED, NUMBERS)
"""Kinds of time; of two that all times of a series can be, the first is meant."""

FORMS = (
    "2020-01-31, 2020-01, 2020Q1, 2020-W05, 2020-01-31T12:00, 2020-01-31T12:00+08:00, a year, or"
    " a number"
)
"""How times can be written, for messages."""

SECOND = 10**9
DAY = 86_400 * SECOND
"""Nanoseconds of a second and of a day."""

_DATE = re.compile(
    r"(\d{4})([-/.])(\d{1,2})(?:\2(\d{1,2})"
    r"(?:(?:[Tt]| +)(\d{1,2})(?::(\d{2})(?::(\d{2})(?:[.,](\d{1,9}))?)?)?"
    r" *([Zz]|UTC|[+-]\d{2}(?::?\d{2})?)?)?)?",
    re.ASCII,
)
_PART = re.compile(r"(\d{4})[-/. ]?([QqWw])(\d{1,2})", re.ASCII)
_COMPACT = re.compile(r"([12]\d{3})(\d{2})(\d{2})?", re.ASCII)
_NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d{1,3})?", re.ASCII)
_MAX_DIGITS = 40


class MixedTimesError(InputError):
    """Times of one series are of different kinds; ``rows`` are the places of two that are."""

    def __init__(self, message: str, rows: tuple[int, int]) -> None:
        super().__init__(message)
        self.rows = rows


@lru_cache(maxsize=1 << 16)
def readings(text: str) -> Mapping[str, Place]:
    """Each kind of time that a text can be, and its place among times of that kind.

    It is empty where the text has no place in time: for a date that does not exist, for days and
    months without a year, for words.
    """
    text = _plain(text)
    found: dict[str, Place] = {}
    if date := _DATE.fullmatch(text):
        year, _, month, day, *clock = date.groups()
        if day is None:
            if 1 <= int(month) <= 12:
                found[MONTHS] = int(year) * 12 + int(month) - 1
        elif (days := _days(year, month, day)) is not None:
            if clock[0] is None:
                found[DAYS] = days
            elif (moment := _moment(days, *clock)) is not None:
                found[ZONED if clock[-1] else CLOCK] = moment
    elif part := _PART.fullmatch(text):
        year, letter, number = int(part[1]), part[2].upper(), int(part[3])
        if letter == "Q" and 1 <= number <= 4:
            found[QUARTERS] = year * 4 + number - 1
        elif letter == "W" and number >= 1:
            first, next_first = _first_week(year), _first_week(year + 1)
            if first + number - 1 < next_first:
                found[WEEKS] = first + number - 1
    elif compact := _COMPACT.fullmatch(text):
        year, month, day = compact.groups()
        if day is not None and (days := _days(year, month, day)) is not None:
            found[DAYS] = days
        elif day is None and 1 <= int(month) <= 12:
            found[MONTHS] = int(year) * 12 + int(month) - 1
    if _NUMBER.fullmatch(text) and (exact := _number(text)) is not None:
        found[NUMBERS] = exact
    return found


def places_of(times: Sequence[str]) -> tuple[str, list[Place]]:
    """The kind of times that all of these are, and the place of each.

    Raises:
        MixedTimesError: for times of different kinds.
        InputError: for a time that has no place.
    """
    found = [readings(time) for time in times]
    kinds = set(KINDS)
    for row, each in enumerate(found):
        if not each:
            raise InputError(f"time {times[row][:40]!r} has no place in time: write {FORMS}")
        kinds &= each.keys()
        if not kinds:
            other = next((i for i in range(row) if found[i].keys().isdisjoint(each)), 0)
            said = [f"{times[i][:40]!r} ({_first(found[i])})" for i in (other, row)]
            raise MixedTimesError(
                f"{said[0]} and {said[1]} are different kinds of time: write all times of a series"
                " in one way",
                (other, row),
            )
    kind = _first(kinds)
    return kind, [each[kind] for each in found]


def _first(kinds: Iterable[str]) -> str:
    """The kind that is meant; numbers where there is no time at all."""
    return min(kinds, key=KINDS.index, default=NUMBERS)


def _plain(text: str) -> str:
    """The text in half-width characters, with the separators of ISO 8601."""
    text = unicodedata.normalize("NFKC", text).strip()
    if "年" in text:
        text = re.sub(r"年第?([1-4])季度?$", r"Q\1", text)
        text = re.sub(r"日 *", " ", re.sub("[年月] *", "-", text)).strip(" -")
    return text


def _days(year: str, month: str, day: str) -> int | None:
    """Days from 1970-01-01; None for a date that does not exist."""
    try:
        date = np.datetime64(f"{year}-{int(month):02}-{int(day):02}", "D")
    except ValueError:
        return None
    return int(date.astype(np.int64))


def _moment(
    days: int,
    hour: str,
    minute: str | None,
    second: str | None,
    fraction: str | None,
    zone: str | None,
) -> int | None:
    """Nanoseconds from 1970-01-01, in UTC where a zone is given; None for no time of a day."""
    hours, minutes, seconds = int(hour), int(minute or 0), int(second or 0)
    part = int((fraction or "").ljust(9, "0"))
    # ISO 8601 also calls midnight 24:00 of the day before.
    if hours > 24 or minutes > 59 or seconds > 59 or (hours == 24 and minutes + seconds + part):
        return None
    offset = 0
    if zone and zone not in ("Z", "z", "UTC"):
        away = int(zone[1:3]), int(zone[3:].removeprefix(":") or 0)
        if away[0] > 23 or away[1] > 59:
            return None
        offset = (away[0] * 60 + away[1]) * (-1 if zone[0] == "-" else 1)
    whole = ((days * 24 + hours) * 60 + minutes - offset) * 60 + seconds
    return whole * SECOND + part


def _first_week(year: int) -> int:
    """The week, counted from that of 1970-01-01, in which the ISO year begins."""
    # Week 1 is that of January 4; 1970-01-01 was a Thursday.
    date = np.datetime64(f"{year:04}-01-04", "D") if year < 10_000 else np.datetime64("9999-12-31")
    days = int(date.astype(np.int64)) + (4 if year == 10_000 else 0)
    return (days + 3) // 7


def _number(text: str) -> Place | None:
    """The number, exact; None for one of very many digits."""
    number = Decimal(text)
    if number and not (len(text) <= 2 * _MAX_DIGITS and abs(number.adjusted()) <= _MAX_DIGITS):
        return None
    exact = Fraction(number)
    return exact.numerator if exact.denominator == 1 else exact
