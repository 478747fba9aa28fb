"""A trained model's scores on one split, the statistics behind them, and samples to look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .metrics import (
    METRICS,
    Statistics,
    bleu_statistics,
    chrf,
    entity_statistics,
    macro_f1_statistics,
    textbook_bleu,
)
from .prediction import BATCH_ROWS, Predictor
from .problems import Classification, Forecasting, Seq2Seq, Tagging
from .problems.forecasting import Forecaster, score_values
from .problems.problem import Examples, TokenModel, TokenScores, score_tokens
from .ragged import Ragged
from .vocabulary import UNK, Vocabulary

SCORING_ROWS = 256
"""Sentences or windows scored at once."""


@dataclass(frozen=True)
class EvaluationConfig:
    """How models are scored and shown.

    Attributes:
        beam: width of the beam search that ``bleu`` is of; ``bleu_greedy`` is of greedy search.
        max_tokens: words of an output, at most.
        num_samples: predictions kept for people to read.

    Raises:
        InputError: for a number below 1.
    """

    beam: int = 5
    max_tokens: int = 50
    num_samples: int = 20

    def __post_init__(self) -> None:
        for name in ("beam", "max_tokens", "num_samples"):
            if getattr(self, name) < 1:
                raise InputError(
                    f"evaluation.{name} is {getattr(self, name)}: it must be at least 1"
                )


@dataclass(frozen=True)
class Scores:
    """What a model reached on a split.

    Attributes:
        metrics: name -> value; names are those of ``METRICS``, and ``chrf``, ``unknown_rate``.
        statistics: for each metric of ``METRICS`` its statistics row by row, ``[N, S]``.
        signatures: how BLEU and chrF were computed, in sacrebleu's words.
        samples: columns of text for people, the same for every variant of a problem.
        tables: further tables by name, such as ``confusion``.
    """

    metrics: dict[str, float]
    statistics: dict[str, Statistics]
    signatures: dict[str, str] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)


def evaluate(
    predictor: Predictor,
    examples: Examples,
    texts: Sequence[str],
    references: Sequence[str],
    config: EvaluationConfig,
) -> Scores:
    """Score a model on one split.

    Args:
        texts: the split's rows as text: what is read, ``[N]``.
        references: the target side as text, ``[N]``; empty without pairs.

    Raises:
        InputError: where the split holds nothing to score.
    """
    problem = predictor.config.problem
    if isinstance(problem, Forecasting):
        return _forecast_scores(problem, predictor, examples)
    assert isinstance(predictor.model, TokenModel)
    scored = score_tokens(problem, predictor.model, examples, SCORING_ROWS, predictor.device)
    if not len(scored.nats):
        raise InputError(
            f"{problem.name} has nothing to score: no row of the split is long enough; add data"
        )
    if isinstance(problem, Classification | Tagging):
        return _label_scores(predictor, examples, scored, texts, config)
    statistics = token_statistics(scored, examples)
    metrics: dict[str, float] = {}
    signatures: dict[str, str] = {}
    rows = _spread(len(texts), config.num_samples)
    if isinstance(problem, Seq2Seq):
        samples = _search_scores(
            predictor, examples, texts, references, config, rows, statistics, metrics, signatures
        )
    else:
        samples = _continuations(predictor, [texts[row] for row in rows])
    metrics |= {name: METRICS[name].score(each) for name, each in statistics.items()}
    words = examples.predicted.values[scored.positions[scored.positions >= 0]]
    metrics["unknown_rate"] = _unknown_rate(words)
    return Scores(metrics, statistics, signatures, samples)


def _unknown_rate(ids: NDArray[np.generic]) -> float:
    return float(np.mean(ids == UNK)) if len(ids) else 0.0


def _search_scores(
    predictor: Predictor,
    examples: Examples,
    texts: Sequence[str],
    references: Sequence[str],
    config: EvaluationConfig,
    rows: Sequence[int],
    statistics: dict[str, Statistics],
    metrics: dict[str, float],
    signatures: dict[str, str],
) -> list[dict[str, str]]:
    """BLEU and chrF of what is found by search, added to what is given; samples of some rows."""
    target = predictor.texts[-1]
    greedy = _outputs(predictor, examples, 1, config)
    searched = greedy if config.beam == 1 else _outputs(predictor, examples, config.beam, config)
    statistics["bleu"], signatures["bleu"] = bleu_statistics(
        searched, references, target.language, lowercase=target.lowercase
    )
    statistics["bleu_greedy"], _ = bleu_statistics(
        greedy, references, target.language, lowercase=target.lowercase
    )
    metrics["chrf"], signatures["chrf"] = chrf(searched, references)
    return [
        {
            "source": texts[row],
            "output": searched[row],
            "greedy": greedy[row],
            "reference": references[row],
            "textbook BLEU": f"{_textbook_bleu(predictor, searched[row], references[row]):.3f}",
        }
        for row in rows
    ]


def _textbook_bleu(predictor: Predictor, output: str, reference: str) -> float:
    """The chapters' BLEU of one sentence, over the model's own target tokens."""
    tokenizer = predictor.tokenizers[-1]
    return textbook_bleu(tokenizer.tokenize(output), tokenizer.tokenize(reference))


def _label_scores(
    predictor: Predictor,
    examples: Examples,
    scored: TokenScores,
    texts: Sequence[str],
    config: EvaluationConfig,
) -> Scores:
    """Scores of labels: of whole texts, or of the tokens of texts."""
    assert examples.targets is not None and isinstance(predictor.model, TokenModel)
    num_rows, labels = len(examples.inputs), predictor.vocabularies[1]
    wanted = examples.targets.values[scored.positions].astype(np.int64)
    given = scored.best
    labelled = _row_sums(np.ones(len(wanted)), scored.rows, num_rows)
    hits = _row_sums(given == wanted, scored.rows, num_rows)
    nats = _row_sums(scored.nats, scored.rows, num_rows)
    statistics = {
        "accuracy": np.stack((hits, labelled), axis=1),
        "perplexity": np.stack((nats, labelled), axis=1),
        "macro_f1": macro_f1_statistics(given, wanted, scored.rows, (num_rows, len(labels))),
    }
    rows = _spread(num_rows, config.num_samples)
    tables: dict[str, list[dict[str, str]]] = {}
    # Of all labels in the flat order of the targets.
    named = np.full(len(examples.targets.values), UNK, np.int64)
    named[scored.positions] = given
    ours, theirs = (
        [labels.decode(row) for row in Ragged(values, examples.targets.offsets)]
        for values in (named, examples.targets.values)
    )
    if isinstance(predictor.config.problem, Tagging):
        statistics["entity_f1"] = entity_statistics(ours, theirs)
    tables["confusion"] = _confusion(given, wanted, labels)
    samples = [
        {
            "text": texts[row],
            "output": " ".join(ours[row]),
            "label": " ".join(theirs[row]),
        }
        for row in rows
    ]
    metrics = {name: METRICS[name].score(each) for name, each in statistics.items()}
    metrics["unknown_rate"] = _unknown_rate(examples.inputs.values[examples.inputs.positions])
    return Scores(metrics, statistics, {}, samples, tables)


def _row_sums(
    values: NDArray[np.generic], rows: NDArray[np.int64], num_rows: int
) -> NDArray[np.float64]:
    """The sum of each row's values, ``[N]``."""
    sums = np.bincount(rows, weights=values.astype(np.float64), minlength=num_rows)
    return sums.astype(np.float64)


CONFUSION_LABELS = 30
"""Labels of a confusion matrix, the most frequent ones."""


def _confusion(
    given: NDArray[np.int64], wanted: NDArray[np.int64], labels: Vocabulary
) -> list[dict[str, str]]:
    """How often each label was taken for which: a row for each that was wanted."""
    counts = np.zeros((len(labels), len(labels)), np.int64)
    np.add.at(counts, (wanted, given), 1)
    frequency = counts.sum(0) + counts.sum(1)
    shown = [i for i in np.argsort(-frequency, kind="stable") if frequency[i]][:CONFUSION_LABELS]
    names = labels.decode(shown)
    return [
        {"wanted": name}
        | {f"as {other}": str(counts[i, j]) for other, j in zip(names, shown, strict=True)}
        for name, i in zip(names, shown, strict=True)
    ]


SHOWN_VALUES = 120
"""The last values of a split, whose forecasts are kept for people to look at."""


def _forecast_scores(problem: Forecasting, predictor: Predictor, examples: Examples) -> Scores:
    """Errors of the next value, and of values up to ``horizon`` steps ahead.

    Rows of the statistics are the values of the split.
    """
    assert examples.targets is not None and isinstance(predictor.model, Forecaster)
    actual = examples.targets.values[examples.targets.positions].astype(np.float64)
    scales = np.repeat(examples.scales, examples.targets.lengths)
    one_step = score_values(problem, predictor.model, examples, SCORING_ROWS, predictor.device)
    recursive, ahead = problem.recursive_forecasts(predictor.model, examples, predictor.device)
    if not np.isfinite(one_step).any():
        raise InputError(
            f"forecasting has nothing to score: no value of the split has {problem.window} values "
            f"before it; add data, or lower problem.window"
        )

    def summed(errors: NDArray[np.float64]) -> Statistics:
        made = np.isfinite(errors)
        return np.stack((np.where(made, errors, 0.0), made.astype(np.float64)), axis=1)

    errors = one_step - actual
    statistics = {
        "mae": summed(np.abs(errors)),
        "rmse": summed(errors**2),
        "mase": summed(np.abs(errors) / scales),
        "mase_recursive": summed(np.abs(recursive - actual) / scales),
    }
    samples = [
        {
            "place": str(row + 1),
            "value": f"{actual[row]:.6g}",
            "one step": f"{one_step[row]:.6g}",
            "recursive": f"{recursive[row]:.6g}",
            "steps ahead": str(ahead[row]),
        }
        for row in range(max(0, len(actual) - SHOWN_VALUES), len(actual))
    ]
    metrics = {name: METRICS[name].score(each) for name, each in statistics.items()}
    return Scores(metrics, statistics, {}, samples)


def token_statistics(scored: TokenScores, examples: Examples) -> dict[str, Statistics]:
    """What perplexity, bits per character and accuracy are made of, row by row: ``[N, 2]`` each.

    Bits per character are comparable across vocabularies: the nats of an unknown word's id and of
    spelling it out count together, over the characters of the text; the end of a text, where it is
    predicted, counts as one character.
    """
    num_rows = len(examples.inputs)

    def by_row(values: NDArray[np.generic]) -> NDArray[np.float64]:
        return _row_sums(values, scored.rows, num_rows)

    inside = scored.positions >= 0
    positions = np.where(inside, scored.positions, 0)
    characters, spelling = np.ones(len(inside)), np.zeros(len(inside))
    if inside.any():
        characters = np.where(inside, examples.characters[positions], 1)
        spelling = np.where(inside, examples.spelling[positions], 0.0)
    nats, tokens = by_row(scored.nats), by_row(np.ones(len(inside)))
    return {
        "perplexity": np.stack((nats, tokens), axis=1),
        "bits_per_character": np.stack((nats + by_row(spelling), by_row(characters)), axis=1),
        "top1": np.stack((by_row(scored.ranks < 1), tokens), axis=1),
        "top5": np.stack((by_row(scored.ranks < 5), tokens), axis=1),
    }


def _outputs(
    predictor: Predictor, examples: Examples, beam: int, config: EvaluationConfig
) -> list[str]:
    """The best output for every source of the split, searched in batches of like length."""
    outputs = [""] * len(examples.inputs)
    order = np.argsort(examples.inputs.lengths, kind="stable")
    for start in range(0, len(order), BATCH_ROWS):
        rows = order[start : start + BATCH_ROWS]
        ids = Ragged.of([examples.inputs[row] for row in rows])
        answers = predictor.answer(ids, top=1, beam=beam, max_tokens=config.max_tokens)
        for row, answer in zip(rows.tolist(), answers, strict=True):
            outputs[row] = answer[0].text
    return outputs


def _continuations(predictor: Predictor, texts: Sequence[str]) -> list[dict[str, str]]:
    """The first half of each text, how the model goes on, and how the text does."""
    halves = []
    for text in texts:
        tokens = predictor.tokenizers[0].tokenize(text)
        half = (len(tokens) + 1) // 2
        halves.append(
            [predictor.tokenizers[0].detokenise(part) for part in (tokens[:half], tokens[half:])]
        )
    answers = predictor.predict([prompt for prompt, _ in halves])
    return [
        {
            "prompt": prompt,
            "output": " | ".join(candidate.text for candidate in answer),
            "text": rest,
        }
        for (prompt, rest), answer in zip(halves, answers, strict=True)
    ]


def _spread(num_rows: int, num_samples: int) -> list[int]:
    """Row numbers spread evenly over the split, the same for every model."""
    rows = np.linspace(0, num_rows - 1, min(num_samples, num_rows)).astype(int)
    return sorted(set(rows.tolist()))
