"""The pages, from the real templates, with hostile text in every value that comes from data."""

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flows.pages import design
from flows.pages.design import design_digest, templates
from flows.pages.forecast_curves import ForecastCurve, draw_forecast_curves
from flows.pages.html import render
from flows.pages.learning_curves import LearningCurve, draw_learning_curves
from flows.pages.profile_page import as_page
from flows.steps.steps import Steps
from pipeline.profile import (
    QUANTILES,
    Drift,
    Lengths,
    Mover,
    Origin,
    Profile,
    SeriesProfile,
    TextProfile,
    VocabularyProfile,
)

VOID = {"meta", "br"}
INSIDE_SVG = {"g", "text", "tspan", "use", "path", "defs", "clippath", "rect", "style", "metadata"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onload='alert(1)",
    "</style></title><b>",
    "{{ 7 * 7 }}{% raw %}",
    "&lt;b&gt;&amp;",
    "\u202etxt.exe",
    "שלום <i>",
    "a\x1b[2J\x00",
    "W" * 90,
    "超" * 90,
    "😀 👩‍👩‍👧",
    "\ud800",
    " ",
    "",
]


class Page(HTMLParser):
    """The elements of a page, its text, and the labels of its figures."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: dict[str, int] = {}
        self.labels: list[str] = []
        self.text = ""
        self.open: list[str] = []
        self.svg_outside_figure = 0
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert not any(name.startswith("on") or name == "src" for name, _ in attrs)
        self.elements[tag] = self.elements.get(tag, 0) + 1
        if tag == "svg" and "figure" not in self.open:
            self.svg_outside_figure += 1
        if tag == "figure":
            values = dict(attrs)
            assert values["role"] == "img"
            self.labels.append(values["aria-label"] or "")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements[tag] = self.elements.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def profile_with(text: str) -> tuple[Profile, Origin]:
    """A profile that has every section, with ``text`` wherever data can put one."""
    lengths = Lengths(9, 90, 10.0, 0, 40, (1,) * len(QUANTILES), ((0, 9, 5), (10, 40, 4)))
    drift = Drift(0.3, 0.01, 5, 0.25, (Mover(text, 0.01, 0.02, 0.1), Mover("b", 0.02, 0.01, 0.1)))
    of_texts = TextProfile(
        "texts",
        lengths,
        lengths,
        2,
        1,
        ((text, 50), ("￭b", 40)),
        ((0, 0.0), (90, 2.0)),
        ((1, 0.5), (2, 1.0)),
        {"Han": 50, "Latin": 40},
        {"Han": 8, "Latin": 1},
        drift,
        drift,
    )
    points = tuple((place, float(place)) for place in range(1, 10))
    profile = Profile(
        kind="labelled",
        num_rows=9,
        texts=(of_texts,),
        vocabularies=(VocabularyProfile("texts", 2, {"train": 0.0, "valid": 0.1, "test": 0.2}),),
        series=(SeriesProfile(text, 9, 5.0, 1e9, -1.0, 1e9, points, 5, 7),),
        categories={text: ((text, 5), ("b", 4))},
        splits={"train": 5, "valid": 2, "test": 2},
        left_out={"exact duplicates": 3},
        rejected={text: 2},
        num_dropped_utterances=1,
    )
    return profile, Origin(text, "0" * 64, 2, 1, (text,))


def learning_curves(root: Path, text: str) -> str:
    curve = LearningCurve(
        variant=text,
        history=[{"epoch": 1, "seconds": 1.0, "metrics": {"train/loss": 2.0, "valid/loss": 0.001}}],
        best_epoch=1,
        num_parameters=3,
        seconds=1.0,
        stopped=text,
    )
    ref = Steps(root).run(
        draw_learning_curves, name=text, unit="nats", learnt=[curve, curve], design=""
    )
    return (root / ref.page.path).read_text(encoding="utf-8")


def forecast_curves(root: Path, text: str) -> str:
    row = {"place": "1", "value": "10", "one step": "9", "recursive": "nan"}
    curves = [ForecastCurve(variant=text, samples=[row])]
    ref = Steps(root).run(draw_forecast_curves, name=text, forecasts=curves, design="")
    return (root / ref.page.path).read_text(encoding="utf-8")


def pages_of(root: Path, text: str) -> dict[str, str]:
    return {
        "profile": as_page(*profile_with(text)),
        "learning_curves": learning_curves(root, text),
        "forecast_curves": forecast_curves(root, text),
    }


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The templates alone, in milliseconds; ``test_plots`` tries any text in a plot."""
    monkeypatch.setattr("flows.pages.html.as_svg", lambda plot, height: "<svg></svg>")
    monkeypatch.setattr("flows.pages.plots.as_png", lambda *args, **settings: b"")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Page]:
    pages = pages_of(tmp_path_factory.mktemp("plain"), "word")
    return {name: Page(page) for name, page in pages.items()}


def assert_harmless(pages: dict[str, str], plain: dict[str, Page]) -> None:
    for name, text in pages.items():
        page = Page(text)
        # Inside of an SVG, the number of elements depends on the text.
        for tag in (page.elements.keys() | plain[name].elements.keys()) - INSIDE_SVG:
            assert page.elements.get(tag) == plain[name].elements.get(tag), (name, tag)
        assert not [c for c in text if not c.isprintable() and c != "\n"]
        text.encode()


@pytest.mark.usefixtures("undrawn")
@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_is_text(text: str, plain: dict[str, Page], tmp_path: Path) -> None:
    assert_harmless(pages_of(tmp_path, text), plain)


def test_hostile_text_in_plots_is_text(plain: dict[str, Page], tmp_path: Path) -> None:
    assert_harmless(pages_of(tmp_path, "".join(HOSTILE[:3])), plain)


@pytest.mark.usefixtures("undrawn")
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(st.sampled_from("<>\"'&/={}%#$\\`;ab \u202e\u200b\n\t超😀\ud800"), max_size=70))
def test_any_text_is_text(
    plain: dict[str, Page], tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    assert_harmless(pages_of(tmp_path_factory.mktemp("any"), text), plain)


@pytest.mark.usefixtures("undrawn")
def test_text_can_be_read_where_it_is_escaped(tmp_path: Path) -> None:
    for name, text in pages_of(tmp_path, HOSTILE[0]).items():
        assert HOSTILE[0] in Page(text).text, name
    assert "{{ 7 * 7 }}" in Page(as_page(*profile_with(HOSTILE[4]))).text


def test_a_page_has_no_script_and_requests_nothing(tmp_path: Path) -> None:
    for text in pages_of(tmp_path, "word").values():
        assert "script" not in Page(text).elements
        policy = "default-src 'none'; style-src 'unsafe-inline'"
        assert f'<meta http-equiv="Content-Security-Policy" content="{policy}">' in text
        # An address is only a namespace or a part of the page itself.
        assert not re.search(r"""(?:src|href|action)=["'](?!#)|url\((?!#)|@import""", text)


def test_every_chart_has_a_text_alternative(plain: dict[str, Page]) -> None:
    for page in plain.values():
        assert page.elements["svg"] == page.elements["figure"] == len(page.labels)
        assert page.svg_outside_figure == 0
        assert all("chart: " in label or "Histogram: " in label for label in page.labels)
        assert len(set(page.labels)) == len(page.labels)


def test_a_page_has_a_dark_version_and_a_version_for_paper(tmp_path: Path) -> None:
    for text in pages_of(tmp_path, "word").values():
        assert "@media screen and (prefers-color-scheme: dark)" in text
        assert "@media print" in text and "color-scheme: light dark" in text
        assert 'name="viewport"' in text


def test_equal_values_make_equal_bytes(tmp_path: Path) -> None:
    first = pages_of(tmp_path, "超 <b>")
    assert first == pages_of(tmp_path, "超 <b>")


def test_a_page_does_not_depend_on_the_fonts_of_the_machine(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = as_page(*profile_with("超长"))
    monkeypatch.setattr("flows.pages.plots.font_families", lambda: ["DejaVu Sans", "DejaVu Serif"])
    assert as_page(*profile_with("超长")) == before


def test_a_value_that_a_template_misses_is_an_error() -> None:
    with pytest.raises(Exception, match="is undefined"):
        render("forecast_curves.html")


def test_a_changed_template_draws_the_page_again(
    warehouse: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = Steps(warehouse)

    def draw() -> None:
        settings: dict[str, Any] = {"root": str(warehouse), "name": "x", "unit": "nats"}
        steps.run(draw_learning_curves, **settings, learnt=[], design=design_digest())

    draw()
    draw()
    changed = {**templates(), "style.css": templates()["style.css"] + " "}
    monkeypatch.setattr(design, "templates", lambda: changed)
    design_digest.cache_clear()
    draw()
    monkeypatch.undo()
    design_digest.cache_clear()
    assert [step.state for step in steps.states] == ["Completed", "Cached", "Completed"]
