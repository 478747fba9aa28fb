"""Forecast curves: the test split and the forecasts of each variant of a retraining."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from flows.pages.design import design_digest
from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from warehouse.files import PageRef, keep_file
from warehouse.registry.registry import Registry
from warehouse.registry.versions import Version


class ForecastCurve(BaseModel, frozen=True):
    """The samples of one evaluation: values and forecasts as text."""

    variant: str
    samples: list[dict[str, str]]


def show_forecast_curves(
    steps: Steps,
    registry: Registry,
    name: str,
    forecasts: Sequence[tuple[Version, Sequence[Mapping[str, str]]]],
) -> PageRef:
    """Draw the test split and the forecasts of all variants, and attach them to each version."""
    drawn: PageRef = steps.run(
        draw_forecast_curves,
        name=name,
        forecasts=[
            ForecastCurve(variant=version.variant, samples=list(map(dict, samples)))
            for version, samples in forecasts
        ],
        design=design_digest(),
    )
    files = {"forecasts.html": drawn.page, "forecasts.png": drawn.picture}
    paths = {file: Path(steps.root) / ref.path for file, ref in files.items()}
    for version, _ in forecasts:
        # A version keeps the page of its own retraining, which may have had more variants.
        registry.attach(version, "forecasts", drawn.page.path, paths, replace=False)
    return drawn


@cached_task()
def draw_forecast_curves(
    root: str, name: str, forecasts: Sequence[ForecastCurve], design: str
) -> PageRef:
    """The page and the PNG: one plot of the next value, one of several steps ahead.

    Args:
        design: the digest of the templates.
    """
    # matplotlib takes half a second to import, and is needed only for new forecasts.
    from flows.pages.html import render
    from flows.pages.plots import Plot, as_png, curves, drawable

    def points(samples: Sequence[Mapping[str, str]], column: str) -> list[tuple[float, float]]:
        found = [(float(each["place"]), float(each[column])) for each in samples]
        return [(place, value) for place, value in found if value == value]  # no NaN

    def plot(title: str, column: str) -> Plot:
        lines = {"observed": points(forecasts[0].samples, "value")}
        lines |= {each.variant: points(each.samples, column) for each in forecasts}
        return curves(title, "position in the test split", lines)

    one_step = plot("One step ahead", "one step")
    ahead = plot("Several steps ahead, up to the horizon", "recursive")
    page = render("forecast_curves.html", name=name, one_step=one_step, ahead=ahead)
    picture = as_png([one_step, ahead], f"Forecasts: {drawable(name)}", width=5.4, height=3.6)
    return PageRef(
        page=keep_file(root, "forecast_curves", "html", page.encode()),
        picture=keep_file(root, "forecast_curves", "png", picture),
    )
