"""The profile of a snapshot as a page and as a picture.

Names of columns, splits and reasons are ours; words, categories and names of data are not, and go
through ``data`` on the page and through a plot's ``write`` on a picture.
"""

from html import escape

from matplotlib.axes import Axes

from flows.pages.html import data, document, figure, grid, section, shares, table
from flows.pages.plots import (
    Plot,
    Write,
    as_png,
    bars,
    changes,
    curves,
    drawable,
    histogram,
    visible,
)
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
"""Words and movers on a plot."""

NUM_SERIES = 8
"""Series that are drawn."""

NUM_ROWS = 15
"""Lines of a table of values or of words."""


# --- the picture ----------------------------------------------------------------------------------


def as_picture(profile: Profile, origin: Origin) -> bytes:
    """A PNG with the main plots, a row for each column of texts."""
    plots = [_series_plot(each) for each in profile.series[:NUM_SERIES]]
    for text in profile.texts:
        drift = text.drift_of_added or text.drift
        plots += [
            _token_lengths(text),
            _top_words(text, 15),
            _coverage(text, _vocabulary_of(profile, text)),
            _movers(text, drift, 15) if drift and drift.movers else _growth(text),
        ]
    title = (
        f"{drawable(origin.name)}, snapshot {origin.number} ({origin.snapshot[:12]}): "
        f"{profile.num_rows:,} {profile.kind}"
    )
    return as_png(plots, title, columns=4, width=4.0)


# --- the page -------------------------------------------------------------------------------------


def as_page(profile: Profile, origin: Origin) -> str:
    """The whole profile as one HTML file; equal profiles give equal text."""
    compared = f"compared with snapshot {origin.before}" if origin.before else "the first snapshot"
    sections = [section("At a glance", _glance(profile))]
    if profile.series:
        sections.append(section("Series", _series(profile)))
    sections += [section(f"Lengths: {text.name}", _lengths(text)) for text in profile.texts]
    if profile.turns:
        sections.append(section("Dialogues", _dialogues(profile, profile.turns)))
    elif profile.categories:
        sections.append(section("Labels", grid(*_categories(profile))))
    for text in profile.texts:
        known = _vocabulary_of(profile, text)
        sections.append(section(f"Words: {text.name}", _words(text, known)))
    if profile.texts:
        sections.append(section("Scripts", _scripts(profile)))
    sections.append(section("Splits, copies and leaks", _splits(profile)))
    sections.append(section("Quarantine", _quarantine(profile)))
    if profile.texts:
        sections.append(section("Drift", _drifts(profile, origin)))
    cut = data(", ".join(origin.cutting) + ".") if origin.cutting else ""
    about = (
        f"Snapshot {origin.number}, {compared}. {cut}<br><code>{data(origin.snapshot, 64)}</code>"
    )
    return document(f"Data profile: {origin.name}", about, sections)


def _glance(profile: Profile) -> str:
    tiles = "".join(
        f"<div><dt>{escape(name)}</dt><dd{_small(value)}>{escape(value)}</dd></div>\n"
        for name, value in key_figures(profile).items()
    )
    found = remarks(profile)
    said = "".join(f"<li>{escape(each)}</li>" for each in found)
    return f'<dl class="tiles">\n{tiles}</dl>\n' + (
        f'<div class="remarks"><h3>Worth a look</h3><ul>{said}</ul></div>'
        if found
        else '<p class="note">Nothing unusual was found.</p>'
    )


def _small(value: str) -> str:
    return ' class="small"' if len(value) > 16 else ""


def _lengths(text: TextProfile) -> str:
    return grid(
        figure(_token_lengths(text), f"Histogram of {text.name} by length in tokens"),
        figure(
            _length_plot("Length in characters", "characters", text.characters),
            f"Histogram of {text.name} by length in characters",
        ),
    ) + _length_table({"tokens": text.tokens, "characters": text.characters})


def _dialogues(profile: Profile, turns: Lengths) -> str:
    plot = _length_plot("Length in utterances", "utterances", turns)
    drawn = figure(plot, "Histogram of dialogues by length in utterances")
    return grid(drawn, *_categories(profile)) + _length_table({"utterances": turns})


def _categories(profile: Profile) -> list[str]:
    return [
        shares(
            (name, "how many"),
            values[:NUM_ROWS],
            sum(count for _, count in values),
            f"{len(values):,} different ones; the most frequent are shown."
            if len(values) > NUM_ROWS
            else "",
        )
        for name, values in profile.categories.items()
    ]


def _series(profile: Profile) -> str:
    drawn = [
        figure(_series_plot(each), f"Values of the series {visible(each.name)}")
        for each in profile.series[:NUM_SERIES]
    ]
    rows = [
        (
            data(each.name),
            f"{each.num:,}",
            *(f"{n:,.5g}" for n in (each.minimum, each.mean, each.maximum, each.deviation)),
        )
        for each in profile.series
    ]
    head = ("series", "values", "least", "mean", "most", "standard deviation")
    return grid(*drawn) + table(head, rows)


def _length_table(lengths: dict[str, Lengths]) -> str:
    head = ("in", "sum", "mean", "shortest", *(f"{q:.0%}" for q in QUANTILES), "longest")
    rows = [
        (
            escape(name),
            f"{each.total:,}",
            f"{each.mean:.1f}",
            *(f"{n:,}" for n in (each.minimum, *each.quantiles, each.maximum)),
        )
        for name, each in lengths.items()
    ]
    return table(head, rows)


def _words(text: TextProfile, vocabulary: VocabularyProfile | None) -> str:
    num = max(1, text.tokens.total)
    once = f"{text.num_hapaxes:,} of {text.num_words:,} distinct tokens occur once."
    new = f"About {text.num_hapaxes / num:.2%} of the next tokens would be new ones."
    note = f"{once} {new} (Good and Turing's estimate: tokens seen once over all tokens.)"
    if any(JOINER in word for word, _ in text.top_words):
        note += f" {JOINER} marks where a token is joined to its neighbour without a blank."
    return (
        '<div class="grid words">\n'
        + figure(_top_words(text, NUM_SHOWN), f"Most frequent tokens of {text.name}", 5.6)
        + "\n<div>\n"
        + figure(_coverage(text, vocabulary), f"Coverage by frequent tokens of {text.name}")
        + figure(_growth(text), f"Growth of the vocabulary of {text.name}")
        + f'\n</div>\n</div>\n<p class="note">{escape(note)}</p>'
    )


def _scripts(profile: Profile) -> str:
    parts = []
    for text in profile.texts:
        of_classes = [(name, text.classes[name]) for name in CLASSES if name in text.classes]
        parts += [
            shares((text.name, "characters"), of_classes, text.characters.total),
            shares((text.name, "texts"), text.mixes.items(), text.tokens.num),
        ]
    note = "Left by what each character is, right by the scripts whose letters a text holds."
    return grid(*parts) + f'<p class="note">{note}</p>'


def _splits(profile: Profile) -> str:
    counts = {**profile.splits, **{f"left out: {why}": n for why, n in profile.left_out.items()}}
    parts = [shares(("split", "rows"), counts.items(), sum(counts.values()))]
    if profile.vocabularies:
        splits = list(profile.vocabularies[0].unknown_rates)
        parts.append(
            table(
                ("vocabulary", "tokens with an id", *(f"unknown in {each}" for each in splits)),
                [
                    (
                        escape(each.name),
                        f"{each.num_words:,}",
                        *(f"{each.unknown_rates[split]:.2%}" for split in splits),
                    )
                    for each in profile.vocabularies
                ],
                "Unknown: share of the running tokens of a split without an id.",
            )
        )
    return grid(*parts)


def _quarantine(profile: Profile) -> str:
    dropped = profile.num_dropped_utterances
    note = f"{dropped:,} single utterances were dropped from dialogues." if dropped else ""
    if not profile.rejected:
        return f'<p class="note">No row was rejected. {note}</p>'
    total = profile.num_rows + sum(profile.rejected.values())
    counts = sorted(
        ((REASONS.get(reason, reason), count) for reason, count in profile.rejected.items()),
        key=lambda item: (-item[1], item[0]),
    )
    more = "Share of all rows of the files. tidemill quarantine shows the rows."
    return shares(("reason", "rows"), counts, total, f"{more} {note}")


def _drifts(profile: Profile, origin: Origin) -> str:
    if origin.before is None or not any(text.drift for text in profile.texts):
        return '<p class="note">There is no snapshot before to compare with.</p>'
    parts = []
    rows = []
    for text in profile.texts:
        for of, drift in (("all", text.drift), ("what is new", text.drift_of_added)):
            if drift:
                rows.append(_drift_row(f"{text.name}: {of}", drift))
        shown = text.drift_of_added or text.drift
        if shown and shown.movers:
            label = f"Words of {text.name} that moved most"
            parts += [figure(_movers(text, shown, NUM_SHOWN), label, 4.6), _mover_table(shown)]
    note = (
        f"Population stability index over the {NUM_CATEGORIES:,} most frequent tokens: below "
        f"{PSI_SOME} is customarily called stable, above {PSI_MUCH} much. By chance: about what "
        "two samples of the same texts would show. New: running tokens that did not occur before."
    )
    head = ("", "index", "by chance", "verdict", "new")
    return table(head, rows, escape(note)) + (grid(*parts) if parts else "")


def _drift_row(name: str, drift: Drift) -> tuple[str, ...]:
    verdict = "stable" if drift.psi <= PSI_SOME else "some" if drift.psi <= PSI_MUCH else "much"
    if drift.psi <= 2 * drift.by_chance:
        verdict = "within chance"
    return (
        escape(name),
        f"{drift.psi:.4f}",
        f"{drift.by_chance:.4f}",
        f'<b class="{verdict.split()[0]}">{verdict}</b>',
        f"{drift.new_words:.2%}",
    )


def _mover_table(drift: Drift) -> str:
    rows = [
        (
            data(each.word),
            f"{1000 * each.before:.2f}",
            f"{1000 * each.now:.2f}",
            f"{each.contribution:.4f}",
        )
        for each in drift.movers[:NUM_ROWS]
    ]
    return table(("token", "before, of 1,000", "now, of 1,000", "part of the index"), rows)


# --- plots ----------------------------------------------------------------------------------------


def _length_plot(title: str, label: str, lengths: Lengths) -> Plot:
    marks = {"median": lengths.quantiles[QUANTILES.index(0.5)]} if lengths.num else {}
    return histogram(title, label, lengths.bins, marks)


def _token_lengths(text: TextProfile) -> Plot:
    return _length_plot(f"Length of {text.name} in tokens", "tokens", text.tokens)


def _top_words(text: TextProfile, number: int) -> Plot:
    total = max(1, text.tokens.total)
    values = [(word, 1000 * count / total) for word, count in text.top_words[:number]]
    return bars(f"Most frequent tokens: {text.name}", "of 1,000 tokens", values)


def _coverage(text: TextProfile, vocabulary: VocabularyProfile | None) -> Plot:
    mark = (vocabulary.num_words, "vocabulary") if vocabulary else None
    return curves(
        f"Coverage: {text.name}",
        "most frequent tokens",
        {"": text.coverage},
        log_x=True,
        y_label="share of all tokens",
        share=True,
        mark=mark,
    )


def _growth(text: TextProfile) -> Plot:
    return curves(
        f"Growth: {text.name}",
        "tokens of text",
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
    of = "what is new" if drift is text.drift_of_added else "all"
    values = [(m.word, 1000 * m.before, 1000 * m.now) for m in drift.movers[:number]]
    title = f"Moved most in {text.name} ({of})"
    return changes(title, "of 1,000 tokens; ring: before, dot: now", values)


def _vocabulary_of(profile: Profile, text: TextProfile) -> VocabularyProfile | None:
    return next((each for each in profile.vocabularies if each.name == text.name), None)
