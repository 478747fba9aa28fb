"""Forecast curves: what each variant of a retraining said the held-out values would be."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from pydantic import BaseModel

from flows.steps.keys import cached_task
from flows.steps.steps import Steps
from warehouse.files import PageRef, keep_file
from warehouse.registry import Registry, Version


class ForecastCurve(BaseModel, frozen=True):
    """The samples that an evaluation of forecasts kept: values and forecasts as text."""

    variant: str
    samples: list[dict[str, str]]


def show_forecast_curves(
    steps: Steps,
    registry: Registry,
    name: str,
    forecasts: Sequence[tuple[Version, Sequence[Mapping[str, str]]]],
) -> PageRef:
    """Draw the test split and what all variants forecast, and show it with each version."""
    drawn: PageRef = steps.run(
        draw_forecast_curves,
        name=name,
        forecasts=[
            ForecastCurve(variant=version.variant, samples=list(map(dict, samples)))
            for version, samples in forecasts
        ],
    )
    files = {"forecasts.html": drawn.page, "forecasts.png": drawn.picture}
    paths = {file: Path(steps.root) / ref.path for file, ref in files.items()}
    for version, _ in forecasts:
        # A version keeps those of the retraining that made it, which may have had more variants.
        registry.attach(version, "forecasts", drawn.page.path, paths, replace=False)
    return drawn


@cached_task()
def draw_forecast_curves(root: str, name: str, forecasts: Sequence[ForecastCurve]) -> PageRef:
    """The page and the picture: one plot of the next value, one of several steps ahead."""
    # matplotlib takes half a second to import, and is needed only where something is new.
    from flows.pages.html import document, figure, grid, section
    from flows.pages.plots import Plot, as_png, curves

    def points(samples: Sequence[Mapping[str, str]], column: str) -> list[tuple[float, float]]:
        found = [(float(each["place"]), float(each[column])) for each in samples]
        return [(place, value) for place, value in found if value == value]  # no NaN

    def plot(title: str, column: str) -> Plot:
        lines = {"observed": points(forecasts[0].samples, "value")}
        lines |= {each.variant: points(each.samples, column) for each in forecasts}
        return curves(title, "value of the test split", lines, markers=True)

    one_step = plot("The next value", "one step")
    ahead = plot("Forecasts fed back, up to the horizon", "recursive")
    body = grid(
        figure(one_step, "Each value of the test split, forecast from those before it", 3.4),
        figure(ahead, "The same without the values since the last horizon began", 3.4),
    )
    about = "The test split, and what every variant of one retraining forecast."
    page = document(f"Forecasts: {name}", about, [section("Forecasts", body)])
    picture = as_png([one_step, ahead], f"Forecasts: {name}", width=5.4, height=3.6)
    return PageRef(
        page=keep_file(root, "forecast_curves", "html", page.encode()),
        picture=keep_file(root, "forecast_curves", "png", picture),
    )
