"""Scores of a split, each from sums over its rows: sums before ratios.

Every metric is a function of a few statistics that add up over rows (nats and tokens; hits and
tokens; matched n-grams, n-grams and lengths). So a score of a split, of a resampled split and of
two splits together come from the same code, and champions are compared by paired bootstrap.

Shape letters: ``N`` rows of a split, ``S`` statistics of a metric.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

Statistics = NDArray[np.float64]


@dataclass(frozen=True)
class Metric:
    """A score and how it comes from summed statistics.

    Attributes:
        name: as it stands behind ``valid/`` and ``test/``.
        statistics: what the columns of a row's statistics are.
        greater_is_better: which of two values wins.
        value: from summed statistics ``[S]`` to the score.
    """

    name: str
    statistics: tuple[str, ...]
    greater_is_better: bool
    value: Callable[[Statistics], float]

    def score(self, statistics: Statistics) -> float:
        """The score of rows with ``statistics [N, S]``."""
        return self.value(statistics.sum(axis=0))


def _perplexity(sums: Statistics) -> float:
    nats, tokens = sums
    # A diverged model shall not turn a leaderboard into infinities.
    return math.exp(min(nats / tokens, 700.0)) if tokens else math.nan


def _bits_per_character(sums: Statistics) -> float:
    nats, characters = sums
    return float(nats / math.log(2) / characters) if characters else math.nan


def _rate(sums: Statistics) -> float:
    hits, total = sums
    return float(hits / total) if total else math.nan


def _bleu(sums: Statistics) -> float:
    hypothesis, reference, *ngrams = (int(value) for value in sums)
    correct, total = ngrams[0::2], ngrams[1::2]
    if not hypothesis or not reference:
        return 0.0
    return float(
        BLEU.compute_bleu(correct, total, hypothesis, reference, smooth_method="exp").score
    )


def _macro_f1(sums: Statistics) -> float:
    hits, given, wanted = sums.reshape(3, -1)
    there = given + wanted > 0
    return float((2 * hits[there] / (given + wanted)[there]).mean()) if there.any() else math.nan


def _f1(sums: Statistics) -> float:
    hits, given, wanted = sums
    return float(2 * hits / (given + wanted)) if given + wanted else math.nan


def _root_of_mean(sums: Statistics) -> float:
    squares, total = sums
    return math.sqrt(squares / total) if total else math.nan


BLEU_STATISTICS = (
    "hypothesis_tokens",
    "reference_tokens",
    *(f"{what}_{n}" for n in range(1, 5) for what in ("matched", "ngrams")),
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("perplexity", ("nats", "tokens"), False, _perplexity),
        Metric("bits_per_character", ("nats", "characters"), False, _bits_per_character),
        Metric("top1", ("hits", "tokens"), True, _rate),
        Metric("top5", ("hits", "tokens"), True, _rate),
        Metric("accuracy", ("hits", "labels"), True, _rate),
        # Three blocks, in each a column for every label.
        Metric("macro_f1", ("hits", "given", "wanted"), True, _macro_f1),
        Metric("entity_f1", ("hits", "given", "wanted"), True, _f1),
        Metric("mae", ("absolute_errors", "values"), False, _rate),
        Metric("rmse", ("squared_errors", "values"), False, _root_of_mean),
        Metric("mase", ("scaled_errors", "values"), False, _rate),
        Metric("mase_recursive", ("scaled_errors", "values"), False, _rate),
        Metric("bleu", BLEU_STATISTICS, True, _bleu),
        Metric("bleu_greedy", BLEU_STATISTICS, True, _bleu),
    )
}


def bleu_statistics(
    hypotheses: Sequence[str], references: Sequence[str], language: str, *, lowercase: bool = False
) -> tuple[Statistics, str]:
    """Each row's ``BLEU_STATISTICS [N, 10]`` of detokenised text, and sacrebleu's signature.

    BLEU is that of Papineni et al. 2002 as sacrebleu 2 computes it (Post 2018), with the language's
    tokenizer: ``zh`` for Chinese, ``13a`` elsewhere.

    Args:
        lowercase: whether letters were folded; the signature says so.
    """
    scorer = BLEU(tokenize="zh" if language == "zh" else "13a", lowercase=lowercase)
    rows = np.zeros((len(hypotheses), len(BLEU_STATISTICS)))
    for row, (hypothesis, reference) in enumerate(zip(hypotheses, references, strict=True)):
        score = scorer.corpus_score([hypothesis], [[reference]])
        rows[row, :2] = score.sys_len, score.ref_len
        rows[row, 2::2], rows[row, 3::2] = score.counts, score.totals
    if not len(rows):
        scorer.corpus_score([""], [[""]])
    return rows, str(scorer.get_signature())


def chrf(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[float, str]:
    """Corpus chrF, 0 to 100 (Popovic 2015), and sacrebleu's signature."""
    scorer = CHRF()
    score = scorer.corpus_score(list(hypotheses), [list(references)])
    return float(score.score), str(scorer.get_signature())


def macro_f1_statistics(
    given: NDArray[np.int64],
    wanted: NDArray[np.int64],
    rows: NDArray[np.int64],
    shape: tuple[int, int],
) -> Statistics:
    """Each row's hits, given and wanted labels, a column for every label in each block.

    F1 is averaged over the labels that were given or wanted, as scikit-learn does.

    Args:
        given, wanted: label numbers ``[M]``.
        rows: whose they are, ``[M]``.
        shape: rows and labels, ``(N, C)``.
    """
    counts = np.zeros((3, *shape))
    np.add.at(counts[0], (rows[given == wanted], wanted[given == wanted]), 1)
    np.add.at(counts[1], (rows, given), 1)
    np.add.at(counts[2], (rows, wanted), 1)
    return counts.transpose(1, 0, 2).reshape(shape[0], -1)


def entities(tags: Sequence[str]) -> set[tuple[str, int, int]]:
    """The entities of a tagged text: kind, first token, last token.

    Tags are read as seqeval and conlleval read them (Tjong Kim Sang and De Meulder 2003): ``B-``
    begins an entity, ``I-`` goes on with one of its kind or begins one, ``E-`` ends one, ``S-`` and
    ``U-`` are one of one token, ``O`` is none. Of tags without such prefixes (parts of speech)
    every token is an entity of its own, so that F1 is then the share of right tags.
    """
    if not all(tag == "O" or tag[:2] in _PREFIXES for tag in tags):
        return {(tag, place, place) for place, tag in enumerate(tags)}
    found = set()
    kind, first, before = "", 0, "O"
    for place, tag in enumerate([*tags, "O"]):
        prefix, this = (tag[0], tag[2:]) if tag != "O" else ("O", "")
        goes_on = kind and this == kind and prefix in "IEML" and before not in "ESUL"
        if kind and not goes_on:
            found.add((kind, first, place - 1))
            kind = ""
        if this and not kind:
            kind, first = this, place
        before = prefix
    return found


_PREFIXES = ("B-", "I-", "E-", "S-", "M-", "U-", "L-")


def entity_statistics(
    given: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]
) -> Statistics:
    """Each text's hits, given and wanted entities, ``[N, 3]``."""
    rows = np.zeros((len(wanted), 3))
    for row, sides in enumerate(zip(given, wanted, strict=True)):
        ours, theirs = map(entities, sides)
        rows[row] = len(ours & theirs), len(ours), len(theirs)
    return rows


def textbook_bleu(hypothesis: Sequence[str], reference: Sequence[str], k: int = 2) -> float:
    """The chapters' BLEU of two token sequences, 0 to 1, n-grams up to ``k`` (d2l 10.7.6).

    ``exp(min(0, 1 - len(reference) / len(hypothesis))) * prod_n p_n ** (1 / 2 ** n)``. A hypothesis
    too short for any n-gram of some length scores 0.
    """
    if len(hypothesis) < k:
        return 0.0
    score = math.exp(min(0.0, 1 - len(reference) / len(hypothesis)))
    for n in range(1, k + 1):
        has = Counter(tuple(hypothesis[i : i + n]) for i in range(len(hypothesis) - n + 1))
        wants = Counter(tuple(reference[i : i + n]) for i in range(len(reference) - n + 1))
        score *= ((has & wants).total() / has.total()) ** (0.5**n)
    return score


@dataclass(frozen=True)
class Comparison:
    """A challenger against a champion on the same rows.

    Attributes:
        challenger, champion: their scores.
        p_value: share of resampled splits in which the challenger is not better.
    """

    metric: str
    challenger: float
    champion: float
    p_value: float
    num_rows: int


def paired_bootstrap(
    metric: Metric,
    challenger: Statistics,
    champion: Statistics,
    *,
    num_samples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by resampling the rows that both were scored on (Koehn 2004).

    Args:
        challenger, champion: statistics ``[N, S]`` of the same rows in the same order; each may
            know labels of its own.
    """
    assert len(challenger) == len(champion)
    num_rows = len(challenger)
    generator = np.random.default_rng(seed)
    lost = 0
    for _ in range(num_samples):
        times = np.bincount(generator.integers(num_rows, size=num_rows), minlength=num_rows)
        ours, theirs = metric.value(times @ challenger), metric.value(times @ champion)
        lost += not (ours > theirs if metric.greater_is_better else ours < theirs)
    return Comparison(
        metric.name,
        metric.score(challenger),
        metric.score(champion),
        (lost + 1) / (num_samples + 1),
        num_rows,
    )
