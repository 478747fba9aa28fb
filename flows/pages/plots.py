"""Plots for people, as SVG for pages and as PNG for viewers of images.

Drawing stands in flows/ because what it makes is for showing: ``pipeline`` computes the numbers and
must run where there is no matplotlib, ``warehouse`` keeps files without knowing what is on them.
Nothing here knows Prefect, so a script for a document draws with the same functions.

A plot is a function that draws on axes. It never touches pyplot, whose current figure is a global
of the process. In an SVG text stays text, and the reader's browser draws it with the reader's
fonts. A PNG needs a font here: where none of the installed ones has Chinese characters they are
written as code points, and the picture says so; a box that stands for nothing is never drawn.
"""

import io
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any
from unicodedata import east_asian_width

from matplotlib import font_manager, rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

Write = Callable[[str], str]
"""Makes a text from data fit to be drawn."""

Plot = Callable[[Axes, Write], None]
"""Draws on axes; every text from data goes through the function that it is given."""

BLUE, ORANGE, GREY, PALE, INK = "#2563a8", "#c2570c", "#6b7280", "#e5e7eb", "#1f2933"

COLOURS = (
    *(BLUE, ORANGE, "#2e7d4f", "#8b3f8f", "#b8860b", "#0e7c86", "#a33b3b", GREY),
    *("#e06aa4", "#7a9a01", "#4b3b8f", "#7fb2e5"),
)

_MANY_LINES = 6
"""From so many lines on their names stand beside the plot, where they hide nothing."""

_MANY_POINTS = 30
"""From so many points on a line shows no single ones."""

LATIN_FONT = "DejaVu Sans"
"""It comes with matplotlib, so it is always there."""

CHINESE_FONTS = (
    "Noto Sans CJK SC",
    "Noto Sans SC",
    "Source Han Sans SC",
    "Source Han Sans CN",
    "PingFang SC",
    "Hiragino Sans GB",
    "Heiti SC",
    "STHeiti",
    "Microsoft YaHei",
    "WenQuanYi Micro Hei",
    "WenQuanYi Zen Hei",
    "SimHei",
    "Noto Serif CJK SC",
    "Source Han Serif SC",
    "SimSun",
    "AR PL UMing CN",
    "Droid Sans Fallback",
    "Arial Unicode MS",
    "Noto Sans CJK TC",
    "Noto Sans CJK JP",
)
"""The best first; the last ones draw Chinese with the shapes of other countries."""

_SAMPLE = "的我你是了不在一有這們說"
"""A font for Chinese has all of these, simplified and traditional."""

_LONGEST_LABEL = 20

_FONT_SIZE = 8.5  # points

_HEAD = 0.4  # inches above the plots of a picture


# --- text -----------------------------------------------------------------------------------------


@cache
def chinese_font() -> str | None:
    """The installed font that draws Chinese best, by its name; None where there is none."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    likely = sorted(name for name in installed if "CJK" in name or "Han" in name)
    for name in (*CHINESE_FONTS, *likely):
        if name in installed and all(_has(name, char) for char in _SAMPLE):
            return name
    return None


def font_families() -> list[str]:
    """The families that draw a text, the first that has a character draws it."""
    found = chinese_font()
    return [LATIN_FONT, found] if found else [LATIN_FONT]


@cache
def _has(family: str, char: str) -> bool:
    path = font_manager.findfont(family, fallback_to_default=False)
    return bool(font_manager.get_font(path).get_char_index(ord(char)))


def visible(text: str, longest: int = _LONGEST_LABEL) -> str:
    """A text from data as a label: what has no ink is shown, and what is too long is cut."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    if not cut.strip(" "):
        return "␣" * len(cut)
    return "".join(c if c.isprintable() else _escape(c) for c in cut)


def drawable(text: str) -> str:
    """A label without a character that no font here can draw: those are written as escapes."""
    return "".join(
        c if any(_has(family, c) for family in font_families()) else _escape(c)
        for c in visible(text)
    )


def font_note() -> str:
    """What a picture has to say about its fonts; empty where Chinese can be drawn."""
    if chinese_font():
        return ""
    return (
        "No font with Chinese characters is installed where this was drawn (Noto Sans CJK is one): "
        "they are written as code points."
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# --- figures --------------------------------------------------------------------------------------


def as_svg(plot: Plot, width: float = 4.7, height: float = 2.9) -> str:
    """A plot as an ``<svg>`` element for a page; equal plots give equal text.

    Args:
        width, height: in inches, to which the letters are in proportion; it scales to the page.
    """
    out = io.StringIO()
    with _style():
        figure = Figure(figsize=(width, height))
        axes = figure.add_subplot()
        plot(axes, visible)
        _place(figure, axes, 0, 0, width, height)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    return text[text.index("<svg") :]


def as_png(
    plots: Sequence[Plot],
    title: str,
    columns: int = 2,
    width: float = 4.7,
    height: float = 3.2,
) -> bytes:
    """Plots side by side as one picture.

    Args:
        title: above all; text from data in it must be ``drawable`` already.
        columns: plots in a row.
        width, height: of each plot, in inches.
    """
    out = io.BytesIO()
    columns = min(columns, len(plots))
    rows = -(-len(plots) // columns)
    note = font_note()
    with _style():
        figure = Figure(figsize=(width * columns, height * rows + _HEAD))
        heading = "\n".join(filter(None, (title, note)))
        top = 1 - 0.1 / (height * rows + _HEAD)
        figure.text(0.01, top, heading, va="top", fontsize=11, linespacing=1.4)
        for place, plot in enumerate(plots):
            axes = figure.add_subplot(rows, columns, place + 1)
            plot(axes, drawable)
            row, column = divmod(place, columns)
            _place(figure, axes, column * width, (rows - 1 - row) * height, width, height)
        figure.savefig(out, format="png", dpi=120, metadata={"Software": None})
    return out.getvalue()


def _place(
    figure: Figure, axes: Axes, left: float, bottom: float, width: float, height: float
) -> None:
    """Give axes their place on the figure, in inches, with room for what stands around them.

    matplotlib's own layouts measure every letter, in the fonts of this machine, and take longer
    than the drawing. The width of a label is known well enough from its characters, and then an
    SVG is the same wherever it is drawn.
    """
    ticks = axes.yaxis.get_major_formatter().format_ticks(axes.yaxis.get_majorticklocs().tolist())
    labels = max((_width_of(text) for text in ticks), default=0.0)
    around_left = 0.14 + labels + (0.24 if axes.get_ylabel() else 0.0)
    around_bottom, around_top, around_right = 0.52, 0.3, 0.16
    legend = axes.get_legend()
    names = [text.get_text() for text in legend.get_texts()] if legend else []
    if len(names) >= _MANY_LINES:
        around_right += 0.45 + 0.8 * max(map(_width_of, names))
    inner_width = width - around_left - around_right
    inner_height = height - around_bottom - around_top
    whole = figure.get_size_inches()
    axes.set_position(
        (
            (left + around_left) / whole[0],
            (bottom + around_bottom) / whole[1],
            inner_width / whole[0],
            inner_height / whole[1],
        )
    )
    axes.xaxis.set_label_coords(0.5, -0.26 / inner_height)
    axes.yaxis.set_label_coords(-(around_left - 0.18) / inner_width, 0.5)


def _width_of(label: str) -> float:
    """About how wide a tick's label is, in inches."""
    ems = sum(1.0 if east_asian_width(c) in "WF" else 0.64 for c in label)
    return ems * _FONT_SIZE / 72


@contextmanager
def _style() -> Iterator[None]:
    settings: Any = {
        "font.family": font_families(),
        "font.size": _FONT_SIZE,
        "axes.titlesize": 9.5,
        "axes.titley": 1.0,  # else matplotlib measures all that might be in the way
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.edgecolor": GREY,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "text.color": INK,
        "text.parse_math": False,  # a dollar sign in a word is a dollar sign
        "xtick.color": GREY,
        "xtick.labelcolor": INK,
        "ytick.color": GREY,
        "ytick.labelcolor": INK,
        "grid.color": PALE,
        "grid.linewidth": 0.6,
        "lines.linewidth": 1.6,
        "legend.frameon": False,
        "figure.facecolor": "white",
        "svg.fonttype": "none",
        "svg.hashsalt": "tidemill",
    }
    with rc_context(settings), warnings.catch_warnings():
        # Only where an SVG is laid out without the reader's fonts; a PNG has been made drawable.
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph .* missing from font")
        yield


# --- kinds of plots -------------------------------------------------------------------------------


def histogram(
    title: str, label: str, bins: Sequence[tuple[int, int, int]], marks: Mapping[str, int]
) -> Plot:
    """How many have which length.

    Args:
        bins: (first length, last length, how many); a last bin that is wider than the others
            stands for all that is longer, and is drawn in another colour.
        marks: name -> length, drawn as a line across.
    """

    def plot(axes: Axes, write: Write) -> None:
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(axis="y")
        _thousands(axes.yaxis)
        if not bins:
            return
        width = bins[0][1] - bins[0][0] + 1 if len(bins) > 1 else 1
        open_end = bins[-1][1] - bins[-1][0] + 1 > width
        axes.bar(
            [first for first, _, _ in bins],
            [count for *_, count in bins],
            width=width * 0.92,
            align="edge",
            color=[*[BLUE] * (len(bins) - 1), ORANGE if open_end else BLUE],
        )
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.margins(y=0.14)  # room for what is written above the bars
        if open_end:
            axes.annotate(
                f"{bins[-1][0]:,} and more: {bins[-1][2]:,}",
                (1, 1),
                (0, -8),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=ORANGE,
            )
        for name, length in marks.items():
            axes.axvline(length + width / 2, color=INK, linewidth=0.9, linestyle=(0, (3, 2)))
            axes.annotate(
                f"{name} {length:,}",
                (length + width / 2, 1),
                (3, -8),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                fontsize=7.5,
            )

    return plot


def bars(title: str, label: str, values: Sequence[tuple[str, float]]) -> Plot:
    """Horizontal bars with their names, the first on top."""

    def plot(axes: Axes, write: Write) -> None:
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.barh(range(len(values)), [value for _, value in values], color=BLUE, height=0.72)
        _name_rows(axes, [write(name) for name, _ in values])
        _thousands(axes.xaxis)

    return plot


def changes(title: str, label: str, values: Sequence[tuple[str, float, float]]) -> Plot:
    """(name, before, now) in rows: an open ring before, a filled one now, a line between."""

    def plot(axes: Axes, write: Write) -> None:
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        before, now = [value[1] for value in values], [value[2] for value in values]
        rows = range(len(values))
        colours = [ORANGE if b > n else BLUE for b, n in zip(before, now, strict=True)]
        axes.hlines(rows, before, now, color=colours, linewidth=1.6)
        axes.scatter(before, rows, s=18, facecolor="white", edgecolor=GREY, zorder=3)
        axes.scatter(now, rows, s=20, color=colours, zorder=3)
        _name_rows(axes, [write(name) for name, *_ in values])

    return plot


def curves(
    title: str,
    x_label: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    *,
    y_label: str = "",
    log_x: bool = False,
    share: bool = False,
    mark: tuple[float, str] | None = None,
    markers: bool = False,
    dashed: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Plot:
    """Lines through points.

    Args:
        lines: name -> points; one line needs no name.
        share: the upright axis shows shares, from 0 to 100 %.
        mark: a place on the level axis, and what it is.
        markers: show the points, unless they are many.
        dashed: further points of lines that have a name in ``lines``, in the same colour.
    """

    def plot(axes: Axes, write: Write) -> None:
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid()
        axes.margins(x=0.02)
        for place, (name, points) in enumerate(lines.items()):
            colour = COLOURS[place % len(COLOURS)]
            for some, style in ((points, "-"), ((dashed or {}).get(name, ()), (0, (3, 2)))):
                if some:
                    marker = "o" if markers and len(some) < _MANY_POINTS else None
                    axes.plot(
                        *zip(*some, strict=True),
                        color=colour,
                        linestyle=style,
                        marker=marker,
                        markersize=3,
                        label=write(name) if style == "-" else None,
                    )
        whole = all(isinstance(x, int) for points in lines.values() for x, _ in points)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        if log_x:
            axes.set_xscale("log")
        if share:
            axes.set_ylim(0, 1.02)
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0%}"))
        else:
            _thousands(axes.yaxis)
        _thousands(axes.xaxis)
        if mark:
            axes.axvline(mark[0], color=ORANGE, linewidth=1, linestyle=(0, (3, 2)))
            axes.annotate(
                mark[1],
                (mark[0], 0.06),
                (-3, 0),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                ha="right",
                fontsize=7.5,
                color=ORANGE,
            )
        if len(lines) > 1 and any(lines.values()):
            if len(lines) >= _MANY_LINES:
                axes.legend(fontsize=7.5, loc="upper left", bbox_to_anchor=(1.0, 1.02))
            else:
                axes.legend(fontsize=7.5)

    return plot


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), labels=list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _thousands(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
