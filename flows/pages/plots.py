"""Plots, as SVG for pages and as PNG for image viewers.

Plots are in flows/ because they are only shown: ``pipeline`` computes the numbers and must run
without matplotlib, ``warehouse`` stores files without knowing their content. Nothing here imports
Prefect, so a script can draw with the same functions.

A plot is a function that draws on axes. It never uses pyplot, whose current figure is a global of
the process. Text in an SVG stays text, and the browser draws it with the reader's fonts. A PNG
needs a font on this machine: if no installed font has Chinese characters, the PNG shows code points
and says so. It never shows empty boxes.

A reader who cannot tell two colours apart can tell two lines apart: each has a marker of its own.
"""

import io
import re
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
"""Turns text from data into text that can be drawn."""

Plot = Callable[[Axes, Write], None]
"""Draws on axes. Every text from data goes through its second argument."""

PALETTE = {
    "page": ("#ffffff", "#14181d"),
    "ink": ("#1f2933", "#e3e7ec"),
    "soft": ("#5b6572", "#a3adb9"),
    "line": ("#e2e5ea", "#343c46"),
    "blue": ("#0b69a8", "#5cb0ee"),
    "vermilion": ("#c8540a", "#f58b45"),
    "green": ("#00805c", "#2fc096"),
    "purple": ("#a64d86", "#dc8fbe"),
    "ochre": ("#a37000", "#e6b340"),
    "sky": ("#3a96c8", "#93cdf2"),
}
"""Name -> colour on a light page and on a dark page. The lines' colours are those of Okabe and Ito,
darkened or lightened until they have enough contrast with the page."""

PAGE, INK, GREY, PALE, BLUE, ORANGE, *_OTHERS = (light for light, _ in PALETTE.values())
LINE_COLOURS = (BLUE, ORANGE, *_OTHERS, INK, GREY)
LINE_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
"""Their number and that of the colours have no common divisor: 88 lines differ."""

_NUM_MARKERS = 8
"""A line with more points has markers on about so many of them."""

LATIN_FONT = "DejaVu Sans"
"""matplotlib includes it, so it is always available."""

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
"""Best first. The last ones draw Chinese with Traditional Chinese or Japanese glyph shapes."""

_SAMPLE = "的我你是了不在一有這們說"
"""A Chinese font has all of these characters, simplified and traditional."""

_LONGEST_LABEL = 20
_FONT_SIZE = 8.5  # points
_SMALL = 7.5  # points
_LEGEND_LINE = 0.16  # inches
_HEAD = 0.4  # inches above the plots of a PNG


# --- text -----------------------------------------------------------------------------------------


@cache
def chinese_font() -> str | None:
    """The name of the installed font that draws Chinese best, or None."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    likely = sorted(name for name in installed if "CJK" in name or "Han" in name)
    for name in (*CHINESE_FONTS, *likely):
        if name in installed and all(_has(name, char) for char in _SAMPLE):
            return name
    return None


def font_families() -> list[str]:
    """The font families of a PNG. The first that has a character draws it."""
    found = chinese_font()
    return [LATIN_FONT, found] if found else [LATIN_FONT]


@cache
def _has(family: str, char: str) -> bool:
    path = font_manager.findfont(family, fallback_to_default=False)
    return bool(font_manager.get_font(path).get_char_index(ord(char)))


def visible(text: str, longest: int = _LONGEST_LABEL) -> str:
    """Text from data as a label, truncated; characters without ink are shown as escapes."""
    cut = text if len(text) <= longest else text[: longest - 1] + "…"
    if not cut.strip(" "):
        return "␣" * len(cut)
    return "".join(c if c.isprintable() else _escape(c) for c in cut)


def drawable(text: str) -> str:
    """A label in which characters that no installed font can draw are shown as escapes."""
    return "".join(
        c if any(_has(family, c) for family in font_families()) else _escape(c)
        for c in visible(text)
    )


def font_note() -> str:
    """The sentence in a PNG about missing fonts; empty if Chinese can be drawn."""
    if chinese_font():
        return ""
    return (
        "No Chinese font is installed on the machine that drew this. Chinese characters are shown "
        "as code points. Install a font such as Noto Sans CJK."
    )


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


# --- figures --------------------------------------------------------------------------------------


def as_svg(plot: Plot, width: float = 4.2, height: float = 2.8) -> str:
    """A plot as an ``<svg>`` element for a page. Equal plots give equal text on every machine.

    Its colours are CSS variables named by ``PALETTE``, so that a page can have a dark version.

    Args:
        width, height: in inches. The page scales the whole plot, letters included.
    """
    out = io.StringIO()
    with _style([LATIN_FONT]):
        figure = Figure(figsize=(width, height))
        axes = figure.add_subplot()
        plot(axes, visible)
        _place(figure, axes, 0, 0, width, height)
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(out, format="svg", metadata=nothing, transparent=True)
    text = out.getvalue()
    # Only tags have colours: what matplotlib writes between them has no "<" or ">".
    return re.sub(r"<[^<>]+>", _with_variables, text[text.index("<svg") :])


def _with_variables(tag: re.Match[str]) -> str:
    names = {light: name for name, (light, _) in PALETTE.items()}
    return re.sub(
        r"#[0-9a-f]{6}\b",
        lambda found: f"var(--{names[found[0]]}, {found[0]})" if found[0] in names else found[0],
        tag[0],
    )


def as_png(
    plots: Sequence[Plot],
    title: str,
    columns: int = 2,
    width: float = 4.7,
    height: float = 3.2,
) -> bytes:
    """Plots side by side as one PNG.

    Args:
        title: above the plots. Text from data in it must be ``drawable`` already.
        columns: plots per row.
        width, height: of each plot, in inches.
    """
    out = io.BytesIO()
    columns = min(columns, len(plots))
    rows = -(-len(plots) // columns)
    note = font_note()
    with _style(font_families()):
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
    """Set the position of axes on the figure, in inches, with room for labels and legend.

    matplotlib's own layouts measure every letter, in the fonts of this machine, and take longer
    than the drawing. An estimate from the number of characters is good enough, and with it an SVG
    is the same on every machine.
    """
    ticks = axes.yaxis.get_major_formatter().format_ticks(axes.yaxis.get_majorticklocs().tolist())
    labels = max((_width_of(text) for text in ticks), default=0.0)
    around_left = 0.14 + labels + (0.24 if axes.get_ylabel() else 0.0)
    around_bottom, around_top, around_right = 0.52, 0.3, 0.16
    names = axes.get_legend_handles_labels()[1]
    entry = 0.5 + 0.9 * max(map(_width_of, names), default=0.0)
    legend_columns = max(1, int((width - 0.2) / entry))
    if len(names) > 1:
        around_bottom += 0.12 + _LEGEND_LINE * -(-len(names) // legend_columns)
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
    # A title begins at the left edge and a long label ends at the right edge, to use all the width.
    title = axes.get_title(loc="left")
    axes.set_title(title, loc="left", x=-(around_left - 0.08) / inner_width)
    half_label = _width_of(axes.get_xlabel()) / 2 / inner_width
    axes.xaxis.set_label_coords(min(0.5, 1 - half_label), -0.26 / inner_height)
    axes.yaxis.set_label_coords(-(around_left - 0.18) / inner_width, 0.5)
    if len(names) > 1:
        # Below the plot, where it hides no line.
        axes.legend(
            fontsize=_SMALL,
            ncols=legend_columns,
            loc="upper left",
            bbox_to_anchor=(-(around_left - 0.08) / inner_width, -0.47 / inner_height),
            borderpad=0,
            borderaxespad=0,
        )


def _width_of(label: str) -> float:
    """The estimated width of a tick label, in inches."""
    ems = sum(1.0 if east_asian_width(c) in "WF" else 0.64 for c in label)
    return ems * _FONT_SIZE / 72


@contextmanager
def _style(families: list[str]) -> Iterator[None]:
    settings: Any = {
        "font.family": families,
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
        "figure.facecolor": PAGE,
        "svg.fonttype": "none",
        "svg.hashsalt": "tidemill",
    }
    with rc_context(settings), warnings.catch_warnings():
        # Only an SVG lacks glyphs here, and the reader's fonts draw it; a PNG is drawable.
        warnings.filterwarnings("ignore", message=r"(?s).*Glyph .* missing from font")
        yield


# --- kinds of plots -------------------------------------------------------------------------------


def histogram(
    title: str, label: str, bins: Sequence[tuple[int, int, int]], marks: Mapping[str, int]
) -> Plot:
    """A histogram of lengths.

    Args:
        bins: (first length, last length, count). A last bin that is wider than the others counts
            all longer ones and has another colour.
        marks: name -> length, drawn as a vertical line.
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
        axes.margins(y=0.14)  # room for the text above the bars
        if open_end:
            axes.annotate(
                f"{bins[-1][0]:,} or more: {bins[-1][2]:,}",
                (1, 1),
                (0, -8),
                xycoords="axes fraction",
                textcoords="offset points",
                ha="right",
                fontsize=_SMALL,
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
                fontsize=_SMALL,
            )

    return plot


def bars(title: str, label: str, values: Sequence[tuple[str, float]]) -> Plot:
    """Horizontal bars with their names, the first at the top."""

    def plot(axes: Axes, write: Write) -> None:
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        axes.barh(range(len(values)), [value for _, value in values], color=BLUE, height=0.72)
        _name_rows(axes, [write(name) for name, _ in values])
        _thousands(axes.xaxis)

    return plot


def changes(title: str, label: str, values: Sequence[tuple[str, float, float]]) -> Plot:
    """A row for each (name, before, now): a ring for before, a dot for now, a line between."""

    def plot(axes: Axes, write: Write) -> None:
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.grid(axis="x")
        before, now = [value[1] for value in values], [value[2] for value in values]
        rows = range(len(values))
        colours = [ORANGE if b > n else BLUE for b, n in zip(before, now, strict=True)]
        axes.hlines(rows, before, now, color=colours, linewidth=1.6)
        axes.scatter(before, rows, s=18, facecolor=PAGE, edgecolor=GREY, zorder=3)
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
    log_y: bool = False,
    share: bool = False,
    mark: tuple[float, str] | None = None,
    dashed: Mapping[str, Sequence[tuple[float, float]]] | None = None,
) -> Plot:
    """Lines through points.

    Args:
        lines: name -> points. A line with an empty name has neither markers nor a legend.
        share: the y axis shows shares, from 0 to 100 %.
        mark: a position on the x axis and its name, drawn as a vertical line.
        dashed: name of a line -> points of a second, dashed line in the same colour.
    """

    def plot(axes: Axes, write: Write) -> None:
        axes.set_title(title)
        axes.set_xlabel(x_label)
        axes.set_ylabel(y_label)
        axes.grid()
        axes.margins(x=0.02)
        for place, (name, points) in enumerate(lines.items()):
            colour = LINE_COLOURS[place % len(LINE_COLOURS)]
            marker = LINE_MARKERS[place % len(LINE_MARKERS)] if name else None
            for some, style in ((points, "-"), ((dashed or {}).get(name, ()), (0, (3, 2)))):
                if some:
                    step = max(1, len(some) // _NUM_MARKERS)
                    axes.plot(
                        *zip(*some, strict=True),
                        color=colour,
                        linestyle=style,
                        marker=marker,
                        # Each line begins elsewhere, so that no marker hides another.
                        markevery=(place * step // len(lines), step),
                        markersize=4,
                        label=write(name) if style == "-" else None,
                    )
        whole = all(isinstance(x, int) for points in lines.values() for x, _ in points)
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=whole))
        if log_x:
            axes.set_xscale("log")
        if log_y:
            axes.set_yscale("log")
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
                fontsize=_SMALL,
                color=ORANGE,
            )

    return plot


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), labels=list(names))
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)


def _thousands(axis: Any) -> None:
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
