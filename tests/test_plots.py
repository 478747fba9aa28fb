import io
import math
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import matplotlib
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import font_manager
from matplotlib.axes import Axes
from PIL import Image

from flows.pages import plots
from flows.pages.plots import (
    LINE_COLOURS,
    LINE_MARKERS,
    PALETTE,
    Write,
    as_png,
    as_svg,
    bars,
    changes,
    curves,
    drawable,
    histogram,
    visible,
)


def texts_of(svg: str) -> list[str]:
    """What a reader reads in a picture."""
    return [
        "".join(element.itertext())
        for element in ElementTree.fromstring(svg).iter("{http://www.w3.org/2000/svg}text")
    ]


@pytest.fixture
def latin_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine with no font but the one that comes with matplotlib."""
    own = [each for each in font_manager.fontManager.ttflist if each.name == plots.LATIN_FONT]
    monkeypatch.setattr(font_manager.fontManager, "ttflist", own)
    plots.chinese_font.cache_clear()
    yield
    plots.chinese_font.cache_clear()


def test_text_stays_text() -> None:
    svg = as_svg(bars("Words", "of 1,000", [("的", 60.0), ("什么", 3.0)]))
    assert {"Words", "of 1,000", "的", "什么"} <= set(texts_of(svg))
    assert svg == as_svg(bars("Words", "of 1,000", [("的", 60.0), ("什么", 3.0)]))


def test_words_are_no_markup_and_no_formula() -> None:
    words = [
        "<script>alert(1)</script>",
        "$\\frac{1}{0}$",
        "a&b",
        '"',
        "\u202eevil\x1b[2J",
        " ",
        "",
    ]
    svg = as_svg(bars("Words", "of 1,000", [(word, 1.0) for word in words]))
    shown = texts_of(svg)
    assert "<script" not in svg
    assert {"<script>alert(1)</s…", "$\\frac{1}{0}$", "a&b", '"', "␣"} <= set(shown)
    assert "\\u202eevil\\x1b[2J" in shown


@settings(max_examples=15)
@given(st.text(max_size=25))
def test_any_text_can_be_drawn(text: str) -> None:
    plot = bars("Words", "of 1,000", [(text, 1.0)])
    ElementTree.fromstring(as_svg(plot))
    with Image.open(io.BytesIO(as_png([plot], drawable(text)))) as picture:
        picture.verify()


def test_every_kind_of_plot_draws_something_and_nothing() -> None:
    for plot in (
        histogram("Lengths", "tokens", [(0, 9, 4), (10, 500, 2)], {"median": 3}),
        histogram("Lengths", "tokens", [], {}),
        histogram("Lengths", "tokens", [(5, 5, 1)], {}),
        bars("Words", "of 1,000", []),
        changes("Moved", "of 1,000", [("酒店", 0.0, 2.0), ("电影", 3.0, 0.5)]),
        changes("Moved", "of 1,000", []),
        curves("Coverage", "tokens", {"": [(1, 0.1), (10, 1.0)]}, log_x=True, share=True),
        curves("Loss", "epoch", {"gru": [(1, 2.0)], "lstm": []}, log_y=True, mark=(1, "best")),
        curves("Loss", "epoch", {"gru": [(1, 2.0)]}, dashed={"gru": [(1, 1.0), (2, 0.5)]}),
    ):
        assert ElementTree.fromstring(as_svg(plot)) is not None


def test_what_is_longer_than_all_bins_is_said() -> None:
    svg = as_svg(histogram("Lengths", "tokens", [(0, 9, 4), (10, 500, 2)], {"median": 3}))
    assert {"10 or more: 2", "median 3"} <= set(texts_of(svg))


def test_the_style_does_not_outlive_a_plot() -> None:
    before = dict(matplotlib.rcParams)
    as_svg(bars("Words", "of 1,000", [("a", 1.0)]))
    as_png([bars("Words", "of 1,000", [("a", 1.0)])], "one")
    assert dict(matplotlib.rcParams) == before


def test_chinese_is_drawn_where_a_font_has_it() -> None:
    if plots.chinese_font() is None:
        pytest.skip("no installed font has Chinese characters")
    assert drawable("什么 OK") == "什么 OK"
    assert plots.font_note() == ""
    # A character of another plane, and one that is none, are written as escapes.
    assert re.fullmatch(r"a(\\U0010fffd)b\\u202e", drawable("a\U0010fffdb\u202e"))


@pytest.mark.usefixtures("latin_only")
def test_without_a_chinese_font_code_points_are_drawn_and_the_picture_says_so(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    assert plots.chinese_font() is None
    assert drawable("什么 OK") == "\\u4ec0\\u4e48 OK"
    assert "No Chinese font" in plots.font_note()
    plot = bars("Words", "of 1,000", [("的", 60.0)])
    with Image.open(io.BytesIO(as_png([plot], "one"))) as picture:
        picture.verify()
    # A page's reader has fonts of their own.
    assert "的" in texts_of(as_svg(plot))
    assert not [each for each in recwarn if "Glyph" in str(each.message)]


def test_every_colour_of_an_svg_can_be_changed_by_the_page() -> None:
    words = [("#0b69a8", 1.0), ('style="#0b69a8"', 2.0)]
    svg = as_svg(bars("Words", "per 1,000", words))
    tags = "".join(re.findall(r"<[^<>]+>", svg))
    assert not re.findall(r"#[0-9a-f]{6}", re.sub(r"var\(--\w+, #[0-9a-f]{6}\)", "", tags))
    assert set(re.findall(r"var\(--(\w+)", tags)) <= set(PALETTE)
    assert {word for word, _ in words} <= set(texts_of(svg))  # text that looks like a colour


def test_lines_differ_by_more_than_colour() -> None:
    """Two lines of one colour have two markers, and no two lines of twenty have both the same."""
    points = [(x, float(x)) for x in range(40)]
    seen: list[tuple[str, str, int]] = []

    def plot(axes: Axes, write: Write) -> None:
        curves("Loss", "epoch", {f"v{n}": points for n in range(20)})(axes, write)
        for line in axes.get_lines():
            every = line.get_markevery()
            assert isinstance(every, tuple)
            seen.append((str(line.get_color()), str(line.get_marker()), len(points[every[0] :])))

    as_svg(plot)
    assert len({(colour, marker) for colour, marker, _ in seen}) == 20
    assert math.gcd(len(LINE_COLOURS), len(LINE_MARKERS)) == 1
    assert all(num > 30 for *_, num in seen)


def test_a_legend_is_below_the_plot_and_inside_the_figure() -> None:
    points = [(1, 1.0), (2, 2.0)]
    for num in (2, 12):
        names = [f"autoregression-{n}" for n in range(num)]
        svg = as_svg(curves("Loss", "epoch", dict.fromkeys(names, points)), height=3.4)
        places = dict(re.findall(r'<text style="[^"]*" x="[\d.]+" y="([\d.]+)"[^>]*>([^<]+)', svg))
        bottom = {text: float(y) for y, text in places.items()}
        assert set(names) & set(bottom) or num == 12
        assert all(bottom["epoch"] < y < 3.4 * 72 for text, y in bottom.items() if text in names)


def test_labels_show_what_has_no_ink() -> None:
    assert visible("你好") == "你好"
    assert visible(" ") == "␣"
    assert visible("a b") == "a b"
    assert visible("\u3000\n") == "\\u3000\\n"
    assert visible("长" * 30) == "长" * 19 + "…"
    assert visible("\ud800") == "\\ud800"
