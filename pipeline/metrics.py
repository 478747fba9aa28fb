"""Scores of a split, each from sums over its rows: sums before ratios.

Every metric is a function of a few statistics that add up over rows (nats and tokens; hits and
tokens; matched n-grams, n-grams and lengths). So a score of a split, of a resampled split and of
two splits together come from the same code, and champions are compared by paired bootstrap.

A score that its rows do not define (no target, no entity, no reference) is NaN. It stands behind
all others in a ranking and wins no comparison.

Shape letters: ``N`` rows of a split, ``S`` statistics of a metric, ``R`` resampled splits.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

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
        value: from summed statistics ``[..., S]`` to scores ``[...]``, NaN where undefined.
    """

    name: str
    statistics: tuple[str, ...]
    greater_is_better: bool
    value: Callable[[Statistics], Statistics]

    def score(self, statistics: Statistics) -> float:
        """The score of rows with ``statistics [N, S]``; NaN where it is undefined."""
        return float(self.value(statistics.sum(axis=0)))

    def rank_key(self, score: float) -> tuple[bool, float]:
        """Sorts scores from best to worst; undefined ones come last."""
        if math.isnan(score):
            return True, 0.0
        return False, -score if self.greater_is_better else score


def _ratio(dividend: Statistics, divisor: Statistics) -> Statistics:
    """The quotient, NaN where the divisor is 0."""
    quotient: Statistics = np.full(np.shape(divisor), np.nan)
    np.divide(dividend, divisor, out=quotient, where=divisor != 0)
    return quotient


def _perplexity(sums: Statistics) -> Statistics:
    # A diverged model shall not turn a leaderboard into infinities.
    return np.exp(np.minimum(_rate(sums), 700.0))


def _bits_per_character(sums: Statistics) -> Statistics:
    return _rate(sums) / math.log(2)


def _rate(sums: Statistics) -> Statistics:
    return _ratio(sums[..., 0], sums[..., 1])


def _bleu(sums: Statistics) -> Statistics:
    scores = [_bleu_of_one(row) for row in sums.reshape(-1, len(BLEU_STATISTICS))]
    return np.array(scores).reshape(sums.shape[:-1])


def _bleu_of_one(sums: Statistics) -> float:
    hypothesis, reference, *ngrams = (int(value) for value in sums)
    if not reference:
        return math.nan
    if not hypothesis:
        return 0.0
    correct, total = ngrams[0::2], ngrams[1::2]
    return float(
        BLEU.compute_bleu(correct, total, hypothesis, reference, smooth_method="exp").score
    )


def _macro_f1(sums: Statistics) -> Statistics:
    blocks = sums.reshape(*sums.shape[:-1], 3, -1)
    scores = _f1(np.moveaxis(blocks, -2, -1))
    there = ~np.isnan(scores)
    return _ratio(np.where(there, scores, 0.0).sum(-1), there.sum(-1))


def _f1(sums: Statistics) -> Statistics:
    return _ratio(2 * sums[..., 0], sums[..., 1] + sums[..., 2])


def _root_of_mean(sums: Statistics) -> Statistics:
    return np.sqrt(_rate(sums))


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
    """Corpus chrF, 0 to 100 (Popovic 2015), and sacrebleu's signature; NaN without a reference."""
    scorer = CHRF()
    score = scorer.corpus_score(list(hypotheses) or [""], [list(references) or [""]])
    return float(score.score) if any(references) else math.nan, str(scorer.get_signature())


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


TagScheme = Literal["prefixes", "spans", "tokens"]
"""How tags say where an entity begins and ends; see :func:`tag_scheme`."""

_PREFIXED = re.compile(r"[BIESMUL](-.*)?", re.DOTALL)


def tag_scheme(labels: Iterable[str]) -> TagScheme:
    """How the tags of a label set mark entities, decided once from all tags of the training split.

    - ``prefixes``: most tags other than ``O`` are ``B-PER``, ``I-PER`` and the like (IO, IOB1,
      IOB2, IOE1, IOE2, IOBES, BMES, BILOU), or the letters alone. Also where ``O`` is the only tag.
    - ``spans``: tags without prefixes beside ``O``; a run of equal tags is one entity.
    - ``tokens``: tags without prefixes and without ``O`` (parts of speech); every token is an
      entity of its own, so that F1 is the share of right tags.
    """
    distinct = set(labels)
    kinds = distinct - {"O"}
    num_prefixed = sum(_PREFIXED.fullmatch(tag) is not None for tag in kinds)
    if 2 * num_prefixed > len(kinds) or not kinds:
        return "prefixes"
    return "spans" if "O" in distinct else "tokens"


def entities(tags: Sequence[str], scheme: TagScheme) -> set[tuple[str, int, int]]:
    """The entities of a tagged text: kind, first token, last token.

    Prefixes are read as conlleval and seqeval's default mode read them (Tjong Kim Sang and De
    Meulder 2003), not strictly: ``B-`` begins an entity, ``I-`` and ``M-`` continue one of their
    kind or begin one, ``E-`` and ``L-`` do so and end it, ``S-`` and ``U-`` are one of one token,
    ``O`` is none. A tag without a prefix in such a label set is read as if it had ``I-``.
    """
    if scheme == "tokens":
        return {(tag, place, place) for place, tag in enumerate(tags)}
    found = set()
    kind, first, before = "", 0, "O"
    for place, tag in enumerate([*tags, "O"]):
        prefix, this = tag[:1], tag
        if tag != "O":
            if scheme == "prefixes" and _PREFIXED.fullmatch(tag):
                this = tag[2:] or "_"
            else:
                prefix = "I"
        ends = tag == "O" or this != kind or prefix in "BSU" or before in "ESUL"
        if ends and before != "O":
            found.add((kind, first, place - 1))
        if ends:
            kind, first = this, place
        before = prefix
    return found


def entity_statistics(
    given: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]], scheme: TagScheme
) -> Statistics:
    """Each text's hits, given and wanted entities, ``[N, 3]``.

    ``wanted`` holds the tags as they were written. A tag that training did not have marks an entity
    like any other: one that is missed.
    """
    rows = np.zeros((len(wanted), 3))
    for row, sides in enumerate(zip(given, wanted, strict=True)):
        ours, theirs = (entities(tags, scheme) for tags in sides)
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


MIN_RESAMPLES = 1000
"""Resampled splits of a comparison, at least."""
RESAMPLES_BELOW_BAR = 20
"""How many lost resamples a challenger may have and still win: so fine is a p-value at its bar."""
_RESAMPLED_ROWS = 1 << 18
"""Rows that are drawn at once, over all resampled splits of a chunk: bounds memory."""


@dataclass(frozen=True)
class Comparison:
    """A challenger against a champion on the same rows.

    Attributes:
        challenger, champion: their scores; NaN where undefined.
        p_value: share of resampled splits in which the challenger is not better.
        bar: the largest p-value with which the challenger wins.
    """

    metric: str
    challenger: float
    champion: float
    p_value: float
    num_rows: int
    bar: float

    @property
    def challenger_wins(self) -> bool:
        """Whether the challenger is better by more than luck."""
        return self.p_value <= self.bar


def paired_bootstrap(
    metric: Metric,
    challenger: Statistics,
    champion: Statistics,
    *,
    bar: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare two systems by resampling the rows that both were scored on (Koehn 2004).

    The smallest p-value of ``R`` resampled splits is ``1 / (R + 1)``, so their number follows from
    the bar. Beyond ``MIN_RESAMPLES`` it ends where so many are lost that the rest cannot change the
    verdict (Besag and Clifford 1991). A resampled split in which either score is undefined counts
    as lost.

    Args:
        challenger, champion: statistics ``[N, S]`` of the same rows in the same order; each may
            know labels of its own.
        bar: the largest p-value with which the challenger wins, above 0: the level of significance,
            divided by the number of challengers of which this one is the best.
    """
    assert len(challenger) == len(champion)
    num_rows = len(challenger)
    most = max(MIN_RESAMPLES, math.ceil(RESAMPLES_BELOW_BAR / bar))
    num_at_once = max(1, _RESAMPLED_ROWS // max(num_rows, 1))
    generator = np.random.default_rng(seed)
    num_drawn = num_lost = 0
    while num_drawn < MIN_RESAMPLES or (num_drawn < most and num_lost + 1 <= bar * (most + 1)):
        shape = (min(num_at_once, most - num_drawn), num_rows)
        drawn = generator.integers(max(num_rows, 1), size=shape)
        drawn += np.arange(shape[0])[:, None] * num_rows
        times = np.bincount(drawn.ravel(), minlength=drawn.size).reshape(shape).astype(np.float64)
        ours, theirs = metric.value(times @ challenger), metric.value(times @ champion)
        won = ours > theirs if metric.greater_is_better else ours < theirs
        num_lost += int(np.count_nonzero(~won))
        num_drawn += shape[0]
    return Comparison(
        metric.name,
        metric.score(challenger),
        metric.score(champion),
        (num_lost + 1) / (num_drawn + 1),
        num_rows,
        bar,
    )
