"""Times as people write them: their kind and their place, and what has none."""

import datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import InputError
from pipeline.times import (
    CLOCK,
    DAY,
    DAYS,
    KINDS,
    MONTHS,
    NUMBERS,
    QUARTERS,
    WEEKS,
    ZONED,
    MixedTimesError,
    places_of,
    readings,
)

MONDAYS = datetime.date(1969, 12, 29)


@pytest.mark.parametrize(
    ("kind", "forms"),
    [
        (DAYS, ["2020-01-05", "2020-1-5", "2020/1/5", "2020.01.05", "20200105", "2020年1月5日"]),
        (DAYS, ["２０２０-01-05", " 2020-1-05 "]),
        (MONTHS, ["1949-01", "1949-1", "1949/01", "1949.1", "1949.01", "194901", "1949年1月"]),
        (QUARTERS, ["2020Q3", "2020-Q3", "2020 q3", "2020年第3季度", "2020年3季度"]),
        (WEEKS, ["1949-W05", "1949W05", "1949-W5", "1949-w5"]),
        (
            CLOCK,
            ["2020-01-31T24:00", "2020-02-01 00:00:00.000", "2020/2/1 0:00", "2020年2月1日 0:00"],
        ),
        (ZONED, ["2020-01-31T12:00Z", "2020-01-31 20:00+08:00", "2020-01-31T07:30:00,0-0430"]),
        (ZONED, ["2020-01-31T12:00:00 UTC", "2020-01-31T12Z"]),
        (NUMBERS, ["7", "07", "7.0", "+7", "0.7e1", "70e-1"]),
        (NUMBERS, ["1949", "1949年"]),
    ],
)
def test_one_time_has_one_place_however_it_is_written(kind: str, forms: list[str]) -> None:
    found = [readings(form) for form in forms]
    assert len({each[kind] for each in found}) == 1
    assert all(kind == min(each, key=KINDS.index) for each in found)


@pytest.mark.parametrize(
    "text",
    [
        *("", "not a date", "nan", "inf", "1,200", "1_000", "--", "0x10", "Ⅳa"),
        *("2020-13", "2020-00", "2020-02-30", "2020-1-0", "2020-01-01T25:00", "2020-01-01T24:01"),
        *("2020-01-01T12:60", "2020-01-01T12:00+24:00", "2020-01-01T12:00 CET", "12:00"),
        *("01/02/2020", "31.12.2020", "Jan 2020", "2020Q5", "2020Q0", "2020-W54", "2021-W53"),
        *("2020-01/05", "20-01-05", "12020-01", "2020-", "1e999", "1" * 100, "9" * 42),
        *("2020-01-01T00:00:00.0000000001", "2020-01-01T12:00PM"),
    ],
)
def test_what_has_no_place_has_no_reading(text: str) -> None:
    assert not readings(text)


def test_times_decide_together_what_they_are() -> None:
    # A month where all may be months; a number where one cannot be.
    assert places_of(["1949.9", "1949.10", "1949.2"])[0] == MONTHS
    kind, places = places_of(["1949.9", "1949.10", "1949.2", "1949.13"])
    assert kind == NUMBERS and places[1] < places[3] < places[2] < places[0]
    assert places_of(["20200131", "20200201"]) == (DAYS, [18292, 18293])
    assert places_of(["20200131", "20200132"])[0] == NUMBERS
    assert places_of(["9007199254740993", "9007199254740992"])[1] == [2**53 + 1, 2**53]
    for mixed in (
        ["2020-01", "2020"],
        ["2020-01-01", "2020-01"],
        ["2020-01-01", "2020-01-01T00:00"],
        ["2020-01-01T00:00", "2020-01-01T00:00Z"],
        ["2020Q1", "2020-W01"],
    ):
        with pytest.raises(MixedTimesError, match="are different kinds of time") as error:
            places_of([mixed[0], *mixed])
        assert error.value.rows == (0, 2)
    with pytest.raises(InputError, match="'soon' has no place in time: write 2020-01-31"):
        places_of(["2020-01", "soon"])


@settings(max_examples=300)
@given(st.dates(), st.sampled_from(["{0.year:04}-{0.month}-{0.day}", "{0:%Y/%m/%d}", "{0}"]))
def test_days_are_those_of_the_calendar(day: datetime.date, form: str) -> None:
    written = form.format(day) if "%Y" not in form else str(day).replace("-", "/")
    assert readings(written)[DAYS] == (day - datetime.date(1970, 1, 1)).days


@settings(max_examples=300)
@given(st.dates(datetime.date(1, 1, 8), datetime.date(9999, 12, 26)))
def test_weeks_are_those_of_iso_8601(day: datetime.date) -> None:
    year, week, _ = day.isocalendar()
    assert readings(f"{year:04}-W{week:02}")[WEEKS] == (day - MONDAYS).days // 7
    last = datetime.date(year, 12, 28).isocalendar().week
    assert not readings(f"{year:04}-W{last + 1}")


zones = st.integers(-23 * 60, 23 * 60).map(
    lambda minutes: datetime.timezone(datetime.timedelta(minutes=minutes))
)


@settings(max_examples=300)
@given(
    st.datetimes(
        datetime.datetime(2, 1, 1),  # noqa: DTZ001
        datetime.datetime(9998, 1, 1),  # noqa: DTZ001
        timezones=zones,
    ),
    st.sampled_from(["T", " "]),
)
def test_zones_are_taken_to_utc(moment: datetime.datetime, between: str) -> None:
    since = moment - datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
    nanoseconds = since.days * DAY + since.seconds * 10**9 + since.microseconds * 1_000
    assert readings(moment.isoformat(between)) == {ZONED: nanoseconds}
    local = moment.replace(tzinfo=None)
    assert readings(local.isoformat(between)).keys() == {CLOCK}


@settings(max_examples=500)
@given(st.text(max_size=30) | st.from_regex(r"[0-9TQWZ:.,+/eE -]{1,25}", fullmatch=True))
def test_any_text_is_read_or_is_not(text: str) -> None:
    for kind, place in readings(text).items():
        assert kind in KINDS
        assert place == place  # a number, and not NaN


@settings(max_examples=300)
@given(st.integers(-(10**39), 10**39), st.integers(0, 10**9 - 1), st.integers(-9, 9))
def test_numbers_are_exact(whole: int, part: int, exponent: int) -> None:
    from fractions import Fraction

    text = f"{whole}.{part:09}e{exponent}"
    place = readings(text).get(NUMBERS)
    sign = -1 if text.startswith("-") else 1
    exact = (whole + sign * Fraction(part, 10**9)) * Fraction(10) ** exponent
    assert place == exact or (place is None and abs(exact) >= 10**40)
