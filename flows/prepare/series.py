"""Series at ingest and on the profile: how their times follow one another."""

from collections.abc import Mapping, Sequence

from pydantic import BaseModel

from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from pipeline.errors import InputError
from pipeline.series import SeriesTimes, by_series, remarks_on_times
from pipeline.times import MixedTimesError
from warehouse.sources.files import printable
from warehouse.tables.example_schemas import read_all
from warehouse.tables.handles import TableRef
from warehouse.tables.record_schemas import SERIES
from warehouse.tables.tables import Tables

Place = tuple[str, int]
"""The digest of a file, and a line of it."""


class TimesReport(BaseModel, frozen=True):
    """How the times of all series follow one another.

    ``places`` are those of the observations that ``series`` names by a number. ``fault`` says why
    the times of a series have no order, where they have none, and ``fault_places`` where.
    """

    series: tuple[SeriesTimes, ...] = ()
    places: dict[int, Place] = {}
    fault: str = ""
    fault_places: tuple[Place, ...] = ()


@cached_task()
def order_series(root: str, shards: Sequence[TableRef]) -> TimesReport:
    """Put the observations of each series in order, and count what is odd about their times."""
    rows = read_all(Tables(root), shards, SERIES)
    times = rows.column("time").to_pylist()

    def place(row: int) -> Place:
        return rows.column("file")[row].as_py(), rows.column("line")[row].as_py()

    try:
        found = by_series(rows.column("series").to_pylist(), times)
    except MixedTimesError as error:
        return TimesReport(fault=str(error), fault_places=tuple(map(place, error.rows)))
    series = tuple(SeriesTimes.of(each, times) for each in found)
    named = {row: place(row) for each in series for row in (*each.repeated, *each.unsorted)}
    return TimesReport(series=series, places=named)


def series_remarks(
    steps: Steps, shards: Sequence[TableRef], addresses: Mapping[str, str]
) -> tuple[str, ...]:
    """What is odd about the times of series, a sentence each.

    Args:
        addresses: the digest of each file, or piece of one, and its address.

    Raises:
        InputError: the times of a series have no common order.
    """
    report: TimesReport = steps.run(order_series, shards=shards)

    def shown(place: Place) -> str:
        return f"{printable(addresses.get(place[0], place[0][:12]))} line {place[1]}"

    if report.fault:
        where = " and ".join(map(shown, report.fault_places))
        raise InputError(f"{report.fault} ({where})")
    return tuple(
        remarks_on_times(report.series, {row: shown(place) for row, place in report.places.items()})
    )
