"""The page of forecasts: equal for equal forecasts, without the values that have none."""

from pathlib import Path

from flows.pages.forecast_curves import ForecastCurve, draw_forecast_curves
from flows.steps.steps import Steps


def test_forecasts_are_drawn_with_what_was_observed(tmp_path: Path) -> None:
    rows = [
        {"place": "1", "value": "10", "one step": "nan", "recursive": "nan", "steps ahead": "1"},
        {"place": "2", "value": "12", "one step": "11.5", "recursive": "11.5", "steps ahead": "1"},
        {"place": "3", "value": "11", "one step": "12.5", "recursive": "12", "steps ahead": "2"},
    ]
    curves = [ForecastCurve(variant=name, samples=rows) for name in ("gru", "last_value")]
    drawn = Steps(tmp_path).run(draw_forecast_curves, name="sales<b>", forecasts=curves, design="0")
    page = (tmp_path / drawn.page.path).read_text("utf-8")
    assert all(name in page for name in ("observed", "gru", "last_value", "sales&lt;b&gt;"))
    assert (tmp_path / drawn.picture.path).read_bytes().startswith(b"\x89PNG")
    again = Steps(tmp_path).run(draw_forecast_curves, name="sales<b>", forecasts=curves, design="0")
    assert again == drawn
