"""The profile of a snapshot as a page and as a PNG.

Words, categories and names come from data. They go through the macro ``data`` on the page and
through a plot's ``write`` in the PNG.
"""

from functools import partial

from matplotlib.axes import Axes

from flows.pages.html import render
from flows.pages.plots import Plot, Write, as_png, bars, changes, curves, drawable, histogram
from pipeline.profile import (
    CLASSES,
    NUM_CATEGORIES,
    PSI_MUCH,
    PSI_SOME,
    QUANTILES,
    Drift,
    Lengths,
    Origin,
    Profile,
    SeriesProfile,
    TextProfile,
    VocabularyProfile,
    key_figures,
    remarks,
)
from pipeline.records.contract import REASONS
from pipeline.text.english import JOINER

NUM_SHOWN = 25
"""Number of tokens on a plot."""
NUM_SERIES = 8
"""Number of series with a plot."""
NUM_ROWS = 15
"""Number of rows in a table of values or tokens."""
DRIFT_NOTE = (
    f"PSI: population stability index over the {NUM_CATEGORIES:,} most frequent tokens. "
    f"A PSI below {PSI_SOME} is usually called stable, above {PSI_MUCH} strong drift. "
    "PSI by chance: about the PSI of two random samples of the same texts. "
    "New tokens: share of the tokens that do not occur in the previous snapshot."
)


# --- the picture ----------------------------------------------------------------------------------


def as_picture(profile: Profile, origin: Origin) -> bytes:
    """A PNG with the main plots, a row for each text column."""
    plots = [_series_plot(each) for each in profile.series[:NUM_SERIES]]
    for text in profile.texts:
        drift = text.drift_of_added or text.drift
        plots += [
            _token_lengths(text),
            _top_words(text, 15),
            _coverage(text, _vocabulary_of(profile, text)),
            _movers(text, drift, 15) if drift and drift.movers else _growth(text),
        ]
    rows, number = next(iter(key_figures(profile).items()))
    title = (
        f"{drawable(origin.name)}, snapshot {origin.number} ({origin.snapshot[:12]}): "
        f"{number} {rows}"
    )
    return as_png(plots, title, columns=4, width=4.0)


# --- the page -------------------------------------------------------------------------------------


def as_page(profile: Profile, origin: Origin) -> str:
    """The whole profile as one HTML file. Equal profiles give equal text."""
    excluded = {f"excluded: {reason}": count for reason, count in profile.left_out.items()}
    return render(
        "profile.html",
        profile=profile,
        origin=origin,
        key_figures=key_figures(profile),
        remarks=remarks(profile),
        split_counts={**profile.splits, **excluded},
        rejected=_rejected(profile),
        quantiles=QUANTILES,
        num_series=NUM_SERIES,
        num_shown=NUM_SHOWN,
        num_rows=NUM_ROWS,
        joiner=JOINER,
        drift_note=DRIFT_NOTE,
        vocabulary_of=partial(_vocabulary_of, profile),
        has_joiner=_has_joiner,
        classes=_classes,
        verdict_of=_verdict_of,
        coverage=_coverage,
        growth=_growth,
        length_plot=_length_plot,
        movers=_movers,
        series_plot=_series_plot,
        token_lengths=_token_lengths,
        top_words=_top_words,
    )


def _rejected(profile: Profile) -> list[tuple[str, int]]:
    """(reason, rows), the most frequent first."""
    return sorted(
        ((REASONS.get(reason, reason), count) for reason, count in profile.rejected.items()),
        key=lambda item: (-item[1], item[0]),
    )


def _has_joiner(text: TextProfile) -> bool:
    return any(JOINER in word for word, _ in text.top_words)


def _classes(text: TextProfile) -> list[tuple[str, int]]:
    """(class, characters), in the order of ``CLASSES``."""
    return [(name, text.classes[name]) for name in CLASSES if name in text.classes]


def _verdict_of(drift: Drift) -> str:
    if drift.psi <= 2 * drift.by_chance:
        return "within chance"
    if drift.psi <= PSI_SOME:
        return "stable"
    return "some drift" if drift.psi <= PSI_MUCH else "strong drift"


# --- plots ----------------------------------------------------------------------------------------


def _length_plot(title: str, label: str, lengths: Lengths) -> Plot:
    marks = {"median": lengths.quantiles[QUANTILES.index(0.5)]} if lengths.num else {}
    return histogram(title, label, lengths.bins, marks)


def _token_lengths(text: TextProfile) -> Plot:
    return _length_plot(f"Length of {text.name} in tokens", "tokens", text.tokens)


def _top_words(text: TextProfile, number: int) -> Plot:
    total = max(1, text.tokens.total)
    values = [(word, 1000 * count / total) for word, count in text.top_words[:number]]
    return bars(f"Most frequent tokens: {text.name}", "per 1,000 tokens", values)


def _coverage(text: TextProfile, vocabulary: VocabularyProfile | None) -> Plot:
    mark = (vocabulary.num_words, "vocabulary") if vocabulary else None
    return curves(
        f"Coverage: {text.name}",
        "number of most frequent tokens",
        {"": text.coverage},
        log_x=True,
        y_label="share of all tokens",
        share=True,
        mark=mark,
    )


def _growth(text: TextProfile) -> Plot:
    return curves(
        f"Vocabulary growth: {text.name}",
        "tokens read",
        {"": text.growth},
        y_label="distinct tokens",
    )


def _series_plot(series: SeriesProfile) -> Plot:
    ends = {"train": series.train_end, "valid": series.valid_end, "test": series.num}
    lines: dict[str, list[tuple[float, float]]] = {}
    first = 1
    for split, end in ends.items():
        # Each line begins where the one before ends.
        lines[split] = [point for point in series.points if first <= point[0] <= end]
        first = end

    def plot(axes: Axes, write: Write) -> None:
        curves(f"Series {write(series.name)}", "observation", lines)(axes, write)

    return plot


def _movers(text: TextProfile, drift: Drift, number: int) -> Plot:
    of = "new rows" if drift is text.drift_of_added else "all rows"
    values = [(m.word, 1000 * m.before, 1000 * m.now) for m in drift.movers[:number]]
    title = f"Frequency changes: {text.name} ({of})"
    return changes(title, "per 1,000 tokens (ring: before, dot: now)", values)


def _vocabulary_of(profile: Profile, text: TextProfile) -> VocabularyProfile | None:
    return next((each for each in profile.vocabularies if each.name == text.name), None)
