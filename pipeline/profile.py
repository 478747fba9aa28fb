"""What a snapshot of text looks like: lengths, words, scripts, splits, drift.

Everything here is made from counts, and counts add up: each table of tokens is counted once
(`count_texts`), the counts of several are joined (`joined`), and a profile of the whole is made of
the sums. So a new file costs the counting of that file alone.

Shapes: `N` texts, `J` tokens, `D` words of a dictionary, `K` distinct values.
"""

import math
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
import numpy.typing as npt

from .series import NUM_SHOWN, SeriesTimes, remarks_on_times
from .text.english import JOINER

Counts = npt.NDArray[np.int64]

CLASSES = ("Han", "Latin", "other letters", "digits", "punctuation", "symbols", "blanks")
"""What a character is; accents and other marks count as letters, controls as symbols."""

_LETTERS = CLASSES[:3]

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)

NUM_BINS = 40
NUM_TOP_WORDS = 50
NUM_CATEGORIES = 1000
NUM_MOVERS = 20
NUM_POINTS = 1000

PSI_SOME, PSI_MUCH = 0.1, 0.25
"""From here on a population stability index is customarily called some drift, and much drift."""


# --- counts ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """Distinct whole numbers, in rising order, and how often each occurs: `[K]` both."""

    values: tuple[int, ...] = ()
    counts: tuple[int, ...] = ()

    @classmethod
    def of(cls, numbers: npt.NDArray[np.integer], times: Counts | None = None) -> "Tally":
        """From numbers in any order; each counts `times` times, or once."""
        values, places = np.unique(numbers, return_inverse=True)
        counts = np.bincount(places, weights=times, minlength=len(values)).astype(np.int64)
        return cls(tuple(values.tolist()), tuple(counts.tolist()))

    def __add__(self, other: "Tally") -> "Tally":
        values = np.array(self.values + other.values, np.int64)
        return Tally.of(values, np.array(self.counts + other.counts, np.int64))


@dataclass(frozen=True)
class TextCounts:
    """Counts of texts.

    Attributes:
        characters: lengths in characters.
        tokens: lengths in tokens.
        classes: characters of each of `CLASSES`.
        mixes: texts by the scripts that they mix, such as "Han", "Han + Latin", "no letters".
    """

    characters: Tally = Tally()
    tokens: Tally = Tally()
    classes: dict[str, int] = field(default_factory=dict)
    mixes: dict[str, int] = field(default_factory=dict)


def count_texts(
    dictionary: Sequence[str],
    indices: npt.NDArray[np.int32],
    offsets: npt.NDArray[np.int64],
    characters: npt.NDArray[np.int32],
) -> tuple[TextCounts, Counts]:
    """The counts of N texts, and how often each word of the dictionary occurs, `[D]`.

    Args:
        dictionary, indices, offsets: token j is `dictionary[indices[j]]`, text i owns the tokens
            `offsets[i]:offsets[i + 1]`.
        characters: how many characters of its text each token stands for, `[J]`.
    """
    word_counts = np.bincount(indices, minlength=len(dictionary)).astype(np.int64)
    by_class = classes_of(dictionary)
    totals = word_counts @ by_class
    # The blanks that an English tokenizer leaves out are in no word, but in the texts' lengths.
    totals[CLASSES.index("blanks")] += int(characters.sum(dtype=np.int64)) - int(totals.sum())
    bits = ((by_class[:, : len(_LETTERS)] > 0) << np.arange(len(_LETTERS))).sum(axis=1)
    mixes = np.bincount(_any_of_row(bits.astype(np.uint8)[indices], offsets), minlength=1)
    ends = np.concatenate((np.zeros(1, np.int64), np.cumsum(characters, dtype=np.int64)))
    counts = TextCounts(
        characters=Tally.of(np.diff(ends[offsets])),
        tokens=Tally.of(np.diff(offsets)),
        classes={name: int(n) for name, n in zip(CLASSES, totals.tolist(), strict=True) if n},
        mixes={_mix_name(each): n for each, n in enumerate(mixes.tolist()) if n},
    )
    return counts, word_counts


def joined(parts: Iterable[TextCounts]) -> TextCounts:
    """The counts of all texts together."""
    whole = TextCounts()
    for part in parts:
        whole = TextCounts(
            whole.characters + part.characters,
            whole.tokens + part.tokens,
            sum_by_name((whole.classes, part.classes)),
            sum_by_name((whole.mixes, part.mixes)),
        )
    return whole


def sum_by_name(parts: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Counts by name, added up."""
    total: dict[str, int] = {}
    for part in parts:
        for name, count in part.items():
            total[name] = total.get(name, 0) + count
    return total


def classes_of(words: Sequence[str]) -> Counts:
    """How many characters of each of `CLASSES` every word has, `[D, 7]`; joiner marks have none."""
    lengths = np.fromiter(map(len, words), np.int64, len(words))
    text = "".join(words).encode("utf-32-le", "surrogatepass")
    characters, places = np.unique(np.frombuffer(text, np.uint32), return_inverse=True)
    kinds = np.fromiter((_class_of(chr(each)) for each in characters), np.int64, len(characters))
    found = kinds[places]
    rows = np.repeat(np.arange(len(words)), lengths)
    kept = found >= 0
    cells = rows[kept] * len(CLASSES) + found[kept]
    flat = np.bincount(cells, minlength=len(words) * len(CLASSES))
    return flat.reshape(len(words), len(CLASSES)).astype(np.int64)


@cache
def _class_of(char: str) -> int:
    """The place of a character in `CLASSES` by its Unicode name and category; -1 for a joiner."""
    if char == JOINER:
        return -1
    category = unicodedata.category(char)
    if category[0] in "LM":
        name = unicodedata.name(char, "")
        if name.startswith("CJK "):
            return CLASSES.index("Han")
        if name.startswith(("LATIN ", "FULLWIDTH LATIN ")):
            return CLASSES.index("Latin")
        return CLASSES.index("other letters")
    kinds = {"N": "digits", "P": "punctuation", "Z": "blanks"}
    return CLASSES.index("blanks" if char.isspace() else kinds.get(category[0], "symbols"))


def _any_of_row(
    bits: npt.NDArray[np.uint8], offsets: npt.NDArray[np.int64]
) -> npt.NDArray[np.uint8]:
    """The bits that any token of each row has, `[N]`; none for a row without tokens."""
    found = np.zeros(len(offsets) - 1, np.uint8)
    filled = np.flatnonzero(np.diff(offsets))
    if len(filled):
        found[filled] = np.bitwise_or.reduceat(bits, offsets[filled])
    return found


def _mix_name(bits: int) -> str:
    names = [name for place, name in enumerate(_LETTERS) if bits >> place & 1]
    return " + ".join(names) or "no letters"


# --- a profile ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Lengths:
    """A distribution of lengths.

    Attributes:
        quantiles: for each of `QUANTILES`, the smallest length that this share of all reaches.
        bins: (first length, last length, how many); the last bin holds all that is longer.
    """

    num: int
    total: int
    mean: float
    minimum: int
    maximum: int
    quantiles: tuple[int, ...]
    bins: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Mover:
    """A word that became more or less frequent: shares of the running words, and its part of the
    index."""

    word: str
    before: float
    now: float
    contribution: float


@dataclass(frozen=True)
class Drift:
    """How far word frequencies moved; see `drift_between`.

    Attributes:
        psi: the population stability index.
        by_chance: what the index would be about, were both samples of one population.
        num_categories: the words compared one by one, and one more for all others.
        new_words: share of the running words now that did not occur before.
        movers: the words that moved the index most, the furthest first.
    """

    psi: float
    by_chance: float
    num_categories: int
    new_words: float
    movers: tuple[Mover, ...]


@dataclass(frozen=True)
class TextProfile:
    """A column of texts.

    Attributes:
        name: of the column, for people, such as "utterances".
        num_words: distinct tokens; `num_hapaxes` of them occur once.
        top_words: (token, count), the most frequent first.
        growth: (running tokens, distinct tokens expected among so many), see `growth`.
        coverage: (number of most frequent tokens, share of the running tokens that they are).
        drift: against the snapshot before, and `drift_of_added` of what is new in this one alone;
            None where there is nothing to compare.
    """

    name: str
    characters: Lengths
    tokens: Lengths
    num_words: int
    num_hapaxes: int
    top_words: tuple[tuple[str, int], ...]
    growth: tuple[tuple[int, float], ...]
    coverage: tuple[tuple[int, float], ...]
    classes: dict[str, int]
    mixes: dict[str, int]
    drift: Drift | None = None
    drift_of_added: Drift | None = None


@dataclass(frozen=True)
class VocabularyProfile:
    """A vocabulary: of which column, its tokens with an id, and split -> share of its running
    tokens that have none."""

    name: str
    num_words: int
    unknown_rates: dict[str, float]


@dataclass(frozen=True)
class SeriesProfile:
    """A series of numbers.

    Attributes:
        points: (position, value), the values of at most `NUM_POINTS` positions; the position of the
            first value is 1.
        train_end, valid_end: the last positions of the training and the validation split.
        times: how its times follow one another.
    """

    name: str
    num: int
    mean: float
    deviation: float
    minimum: float
    maximum: float
    points: tuple[tuple[int, float], ...]
    train_end: int
    valid_end: int
    times: SeriesTimes | None = None


@dataclass(frozen=True)
class Contradictions:
    """Texts that occur with more than one label.

    Attributes:
        num_texts: distinct texts, normalised, with several labels; ``num_rows`` have one of them.
        examples: a text as it is written once, and its labels with how often each occurs; the texts
            of most rows first.
    """

    num_texts: int = 0
    num_rows: int = 0
    examples: tuple[tuple[str, tuple[tuple[str, int], ...]], ...] = ()


@dataclass(frozen=True)
class Profile:
    """A snapshot.

    Attributes:
        kind: of the records.
        num_rows: records.
        texts: a profile for each column of texts.
        vocabularies: what a retraining would read and predict, the predicted last.
        series: where the records are observations.
        turns: lengths of the dialogues in utterances.
        categories: what the records name beside texts -> (value, how many records), frequent first.
        splits: split -> rows.
        left_out: why -> rows that are in no split.
        rejected: why -> rows of the files that are no records.
        num_dropped_utterances: utterances that were dropped from records.
        contradictions: of labelled texts.
    """

    kind: str
    num_rows: int
    texts: tuple[TextProfile, ...]
    vocabularies: tuple[VocabularyProfile, ...] = ()
    series: tuple[SeriesProfile, ...] = ()
    turns: Lengths | None = None
    categories: dict[str, tuple[tuple[str, int], ...]] = field(default_factory=dict)
    splits: dict[str, int] = field(default_factory=dict)
    left_out: dict[str, int] = field(default_factory=dict)
    rejected: dict[str, int] = field(default_factory=dict)
    num_dropped_utterances: int = 0
    contradictions: Contradictions = Contradictions()

    @property
    def rejected_rate(self) -> float:
        """Share of the files' rows that are no records."""
        rejected = sum(self.rejected.values())
        return rejected / (rejected + self.num_rows) if rejected else 0.0


@dataclass(frozen=True)
class Origin:
    """What a profile is of.

    Attributes:
        name: of the data.
        snapshot: its id; it is the one with this `number`.
        before: the number of the snapshot that it is compared with.
        cutting: how each column of texts was cut into tokens, for people.
    """

    name: str
    snapshot: str
    number: int
    before: int | None
    cutting: tuple[str, ...]


def lengths_of(tally: Tally, num_bins: int = NUM_BINS) -> Lengths:
    """Mean, quantiles and histogram of lengths; all zero where there are none.

    The histogram has bins of equal width up to the 99 % quantile, so that one monster does not
    press all others into the first bin.
    """
    values = np.array(tally.values, np.int64)
    counts = np.array(tally.counts, np.int64)
    if not len(values):
        return Lengths(0, 0, 0.0, 0, 0, (0,) * len(QUANTILES), ())
    ends = counts.cumsum()
    num, total = int(ends[-1]), int(values @ counts)
    places = [int(np.searchsorted(ends, math.ceil(share * num))) for share in QUANTILES]
    quantiles = tuple(int(values[place]) for place in places)
    least, most = int(values[0]), int(values[-1])
    width = max(1, math.ceil((quantiles[-1] - least + 1) / num_bins))
    last = (quantiles[-1] - least) // width
    filled = np.bincount(np.minimum((values - least) // width, last), weights=counts)
    bins = tuple(
        (
            least + place * width,
            most if place == last else least + (place + 1) * width - 1,
            int(count),
        )
        for place, count in enumerate(filled.tolist())
    )
    return Lengths(num, total, total / num, least, most, quantiles, bins)


def profile_texts(
    name: str,
    counted: TextCounts,
    words: Sequence[str],
    counts: Counts,
    *,
    before: tuple[Sequence[str], Counts] | None = None,
    added: tuple[Sequence[str], Counts] | None = None,
) -> TextProfile:
    """The profile of a column of texts.

    Args:
        words, counts: the distinct tokens and how often each occurs; most frequent first, equal
            counts in the order of code points.
        before: the same of the snapshot before.
        added: the same of what is new since then, where all of `before` is still there.
    """
    return TextProfile(
        name=name,
        characters=lengths_of(counted.characters),
        tokens=lengths_of(counted.tokens),
        num_words=len(words),
        num_hapaxes=int((counts == 1).sum()),
        top_words=tuple(zip(words[:NUM_TOP_WORDS], counts[:NUM_TOP_WORDS].tolist(), strict=True)),
        growth=growth(counts),
        coverage=coverage(counts),
        classes=counted.classes,
        mixes=dict(sorted(counted.mixes.items(), key=lambda item: -item[1])),
        drift=drift_between(before, (words, counts)) if before else None,
        drift_of_added=drift_between(before, added) if before and added else None,
    )


def profile_values(
    name: str,
    values: npt.NDArray[np.float64],
    train_end: int,
    valid_end: int,
    times: SeriesTimes | None = None,
) -> SeriesProfile:
    """The profile of a series, `values [N]` in the order of time."""
    if not len(values):
        return SeriesProfile(name, 0, 0.0, 0.0, 0.0, 0.0, (), 0, 0, times)
    places = np.unique(np.linspace(0, len(values) - 1, min(len(values), NUM_POINTS)).astype(int))
    return SeriesProfile(
        name=name,
        num=len(values),
        mean=float(values.mean()),
        deviation=float(values.std()),
        minimum=float(values.min()),
        maximum=float(values.max()),
        points=tuple(zip((places + 1).tolist(), values[places].tolist(), strict=True)),
        train_end=train_end,
        valid_end=valid_end,
        times=times,
    )


def growth(counts: Counts, num_points: int = 40) -> tuple[tuple[int, float], ...]:
    """How many distinct words to expect among the first `n` of all `N` running words.

    Were every running word kept with probability n / N, a word that occurs m times would be seen
    with probability 1 - (1 - n / N)^m; the expectation sums that over all words. This is binomial
    interpolation (Good and Toulmin 1956; Baayen 2001, Word Frequency Distributions, section 2.6):
    unlike a count along the text it does not depend on the order of the texts.
    """
    total = int(counts.sum())
    if not total:
        return ()
    multiplicities, num_words = np.unique(counts, return_counts=True)
    points = np.unique(np.linspace(0, total, num_points + 1).round().astype(np.int64))
    with np.errstate(divide="ignore"):
        log_missed = np.log1p(-points / total)
    expected = -np.expm1(np.outer(log_missed, multiplicities)) @ num_words
    return tuple(zip(points.tolist(), expected.tolist(), strict=True))


def coverage(counts: Counts) -> tuple[tuple[int, float], ...]:
    """Share of the running words that the k most frequent words are, for k = 1, 2, 5, 10 ... D.

    Args:
        counts: of the distinct words, in falling order.
    """
    if not len(counts):
        return ()
    shares = counts.cumsum() / counts.sum()
    steps = (m * 10**e for e in range(len(str(len(counts)))) for m in (1, 2, 5))
    points = [k for k in steps if k < len(counts)]
    return tuple((k, float(shares[k - 1])) for k in (*points, len(counts)))


def drift_between(
    before: tuple[Sequence[str], Counts],
    now: tuple[Sequence[str], Counts],
    num_categories: int = NUM_CATEGORIES,
) -> Drift:
    """The population stability index on word frequencies.

        PSI = sum over categories of (p - q) ln(p / q)

    where p is a category's share of the running words now and q its share before: the symmetric
    divergence of Kullback and Leibler (1951), under the name that credit scoring gave it (Siddiqi
    2006, Credit Risk Scorecards), where 0.1 is called some drift and 0.25 much. Categories are the
    `num_categories` words with the greatest share in both together, and one more for all other
    words if there are any: singly, rare words would make an index of noise. Half an occurrence is
    added to every category on both sides (Jeffreys' prior), so that no share is zero.

    Of two samples of one population the index is on average about (C - 1)(1 / n + 1 / m) for C
    categories and n and m running words (Yurdakul and Naranjo 2020, Statistical properties of the
    population stability index): `by_chance`. Words of one text are not drawn independently, so true
    chance is somewhat above it.

    Args:
        before, now: the distinct words and how often each occurs.
    """
    places = {word: place for place, word in enumerate(now[0])}
    num_now = len(places)
    for word in before[0]:
        places.setdefault(word, len(places))
    counts_now, counts_before = (np.zeros(len(places)) for _ in range(2))
    counts_now[:num_now] = now[1]
    counts_before[[places[word] for word in before[0]]] = before[1]
    total_now, total_before = counts_now.sum(), counts_before.sum()
    if not total_now or not total_before:
        return Drift(0.0, 0.0, 0, 0.0, ())
    new_words = float(counts_now[counts_before == 0].sum() / total_now)
    weight = counts_now / total_now + counts_before / total_before
    # Equal weights stand in the order of the words, so that the choice is the same everywhere.
    order = np.argsort(-weight, kind="stable")
    chosen, others = order[:num_categories], order[num_categories:]
    words = list(places)
    p, q = (
        _smoothed(np.append(counts[chosen], [counts[others].sum()] * bool(len(others))))
        for counts in (counts_now, counts_before)
    )
    parts = (p - q) * np.log(p / q)
    furthest = np.argsort(-parts[: len(chosen)], kind="stable")[:NUM_MOVERS]
    return Drift(
        psi=float(parts.sum()),
        by_chance=float((len(parts) - 1) * (1 / total_now + 1 / total_before)),
        num_categories=len(parts),
        new_words=new_words,
        movers=tuple(
            Mover(
                word=words[chosen[place]],
                before=float(counts_before[chosen[place]] / total_before),
                now=float(counts_now[chosen[place]] / total_now),
                contribution=float(parts[place]),
            )
            for place in furthest
            if parts[place] > 0
        ),
    )


def _smoothed(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Shares, with half an occurrence added to each."""
    shares: npt.NDArray[np.float64] = (counts + 0.5) / (counts.sum() + 0.5 * len(counts))
    return shares


# --- what a person should look at -----------------------------------------------------------------


MANY_REJECTED = 0.01
MANY_COPIES = 0.1
MANY_UNKNOWN = 0.05
RARE_MIX = 0.05
MANY_EMPTY = 0.001
LONG_TAIL = 20
NUM_EXAMPLES = 3
MAX_SHOWN = 40
"""Characters of a text or label in a remark."""


def key_figures(profile: Profile) -> dict[str, str]:
    """The key figures by name, the most important first."""
    rows = "observations" if profile.kind == "series" else profile.kind
    if profile.kind not in ("dialogues", "pairs", "series"):
        rows = f"rows ({profile.kind})"
    found = {rows: f"{profile.num_rows:,}"}
    for text in profile.texts:
        of = "" if len(profile.texts) == 1 else f" of {text.name}"
        if text.name != profile.kind and not of:
            found[text.name] = f"{text.tokens.num:,}"
        found[f"tokens{of}"] = f"{text.tokens.total:,}"
        found[f"distinct tokens{of}"] = f"{text.num_words:,}"
        found[f"tokens per text{of}"] = (
            f"mean {text.tokens.mean:.1f}, median {text.tokens.quantiles[QUANTILES.index(0.5)]:,}, "
            f"max {text.tokens.maximum:,}"
        )
    if profile.series:
        found["series"] = f"{len(profile.series):,}"
        times = [each.times for each in profile.series if each.times]
        if steps := {each.step or "irregular" for each in times}:
            found["time between values"] = ", ".join(sorted(steps)[:NUM_SHOWN])
        found |= {
            of: f"{count:,}"
            for of, count in {
                "gaps": sum(each.num_gaps for each in times),
                "missing steps": sum(each.num_missing for each in times),
                "repeated times": sum(each.num_repeated for each in times),
                "times out of order": sum(each.num_unsorted for each in times),
            }.items()
            if count
        }
    if profile.contradictions.num_texts:
        found["texts with several labels"] = (
            f"{profile.contradictions.num_texts:,} (in {profile.contradictions.num_rows:,} rows)"
        )
    for vocabulary in profile.vocabularies:
        of = "" if len(profile.vocabularies) == 1 else f" of {vocabulary.name}"
        found[f"out-of-vocabulary rate{of}"] = ", ".join(
            f"{rate:.2%} in {split}" for split, rate in vocabulary.unknown_rates.items()
        )
    found |= {f"excluded: {why}": f"{count:,}" for why, count in profile.left_out.items()}
    num_rejected = sum(profile.rejected.values())
    found["rejected rows"] = f"{num_rejected:,}"
    if num_rejected:
        found["rejected rows"] += f" ({profile.rejected_rate:.2%})"
    for text in profile.texts:
        of = "" if len(profile.texts) == 1 else f" of {text.name}"
        if text.drift:
            added = text.drift_of_added
            found[f"drift (PSI){of}"] = f"{text.drift.psi:.3f}" + (
                f", new rows {added.psi:.3f}" if added else ""
            )
    return found


def as_markdown(profile: Profile) -> list[str]:
    """The key figures as a table and the remarks as a list: lines of Markdown."""
    rows = [f"| {name} | {value} |" for name, value in key_figures(profile).items()]
    said = [f"- {escape_markdown(each)}" for each in remarks(profile)]
    return ["| data | |", "| --- | --- |", *rows, "", *said]


def escape_markdown(text: str) -> str:
    """The text, of which nothing is read as Markdown or HTML."""
    return re.sub(r"([\\`*_{}\[\]()#+!|<>&~-])", r"\\\1", text)


def remarks(profile: Profile) -> list[str]:
    """A sentence with its figure for each unusual value."""
    found = []
    if profile.rejected_rate > MANY_REJECTED:
        found.append(f"{profile.rejected_rate:.1%} of the rows were rejected.")
    num_divided = sum(profile.splits.values()) + sum(profile.left_out.values())
    found += [
        f"{count / num_divided:.1%} of the rows are excluded: {why}."
        for why, count in profile.left_out.items()
        if count > MANY_COPIES * num_divided
    ]
    found += [
        f"Out-of-vocabulary rate of {vocabulary.name} in {split}: {rate:.1%}."
        for vocabulary in profile.vocabularies
        for split, rate in vocabulary.unknown_rates.items()
        if rate > MANY_UNKNOWN
    ]
    for text in profile.texts:
        found += _remarks_on(text)
    found += _remarks_on_labels(profile)
    found += remarks_on_times([each.times for each in profile.series if each.times])
    return found


def _remarks_on_labels(profile: Profile) -> list[str]:
    found = []
    if profile.contradictions.num_texts:
        shown = [
            f"{_cut(text)!r} as {' and '.join(_cut(label) for label, _ in labels)}"
            for text, labels in profile.contradictions.examples[:NUM_EXAMPLES]
        ]
        found.append(
            f"{profile.contradictions.num_texts:,} texts occur with more than one label, in "
            f"{profile.contradictions.num_rows:,} rows: {', '.join(shown)}."
        )
    alike: dict[str, list[str]] = {}
    for label, _ in profile.categories.get("label", ()):
        alike.setdefault(_folded(label), []).append(label)
    found += [
        f"The labels {' and '.join(repr(_cut(label)) for label in labels)} are different labels: if"
        " they mean the same, write them in one way."
        for labels in list(alike.values())
        if len(labels) > 1
    ][:NUM_EXAMPLES]
    return found


def _folded(label: str) -> str:
    """What is left of a label without its case, its blanks, its width, and zeros of a number."""
    folded = "".join(unicodedata.normalize("NFKC", label).casefold().split())
    number = re.fullmatch(r"([+-]?)0*(\d+?)(?:\.0*)?", folded)
    return f"{number[1]}{number[2]}" if number else folded


def _cut(text: str) -> str:
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def _remarks_on(text: TextProfile) -> list[str]:
    found = []
    for rows, drift in (("all rows", text.drift), ("new rows", text.drift_of_added)):
        if drift and drift.psi > max(PSI_SOME, 2 * drift.by_chance):
            much = "Strong" if drift.psi > PSI_MUCH else "Some"
            found.append(
                f"{much} drift of {text.name} ({rows}) from the previous snapshot: population "
                f"stability index {drift.psi:.2f}."
            )
    num = max(1, text.tokens.num)
    empty = text.tokens.bins[0][2] if text.tokens.bins and text.tokens.bins[0][1] == 0 else 0
    if empty > MANY_EMPTY * num:
        found.append(f"{empty:,} of the {text.name} are empty after normalisation.")
    if text.tokens.maximum > LONG_TAIL * max(1, text.tokens.quantiles[QUANTILES.index(0.5)]):
        found.append(
            f"The longest of the {text.name} has {text.tokens.maximum:,} tokens. "
            f"The median is {text.tokens.quantiles[QUANTILES.index(0.5)]:,}."
        )
    odd = {
        mix: count
        for mix, count in text.mixes.items()
        if mix != "no letters" and "+" not in mix and count <= RARE_MIX * num
    }
    found += [
        f"{count:,} of the {text.name} ({count / num:.2%}) use a rare script: {mix}."
        for mix, count in odd.items()
    ]
    return found
