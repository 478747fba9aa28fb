"""A trained model's scores on one split, the statistics behind them, and samples to look at."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from .errors import InputError
from .metrics import METRICS, Statistics, bleu_statistics, chrf
from .prediction import BATCH_ROWS, Predictor
from .problems import Seq2Seq
from .problems.problem import Examples, TokenModel, TokenScores, score_tokens
from .ragged import Ragged
from .vocabulary import UNK

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
    """

    metrics: dict[str, float]
    statistics: dict[str, Statistics]
    signatures: dict[str, str] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)


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
    assert isinstance(predictor.model, TokenModel)
    scored = score_tokens(problem, predictor.model, examples, SCORING_ROWS, predictor.device)
    if not len(scored.nats):
        raise InputError(
            f"{problem.name} has nothing to score: no row of the split is long enough; add data"
        )
    statistics = token_statistics(scored, examples)
    metrics: dict[str, float] = {}
    signatures: dict[str, str] = {}
    if isinstance(problem, Seq2Seq):
        target = predictor.texts[-1]
        greedy = _outputs(predictor, examples, 1, config)
        searched = (
            greedy if config.beam == 1 else _outputs(predictor, examples, config.beam, config)
        )
        statistics["bleu"], signatures["bleu"] = bleu_statistics(
            searched, references, target.language, lowercase=target.lowercase
        )
        statistics["bleu_greedy"], _ = bleu_statistics(
            greedy, references, target.language, lowercase=target.lowercase
        )
        metrics["chrf"], signatures["chrf"] = chrf(searched, references)
        samples = [
            {
                "source": texts[row],
                "output": searched[row],
                "greedy": greedy[row],
                "reference": references[row],
            }
            for row in _spread(len(texts), config.num_samples)
        ]
    else:
        rows = _spread(len(texts), config.num_samples)
        samples = _continuations(predictor, [texts[row] for row in rows])
    metrics |= {name: METRICS[name].score(rows) for name, rows in statistics.items()}
    words = examples.predicted.values[scored.positions[scored.positions >= 0]]
    metrics["unknown_rate"] = float(np.mean(words == UNK)) if len(words) else 0.0
    return Scores(metrics, statistics, signatures, samples)


def token_statistics(scored: TokenScores, examples: Examples) -> dict[str, Statistics]:
    """What perplexity, bits per character and accuracy are made of, row by row: ``[N, 2]`` each.

    Bits per character are comparable across vocabularies: the nats of an unknown word's id and of
    spelling it out count together, over the characters of the text; the end of a text, where it is
    predicted, counts as one character.
    """
    num_rows = len(examples.inputs)

    def by_row(values: NDArray[np.generic]) -> NDArray[np.float64]:
        sums = np.bincount(scored.rows, weights=values.astype(np.float64), minlength=num_rows)
        return sums.astype(np.float64)

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
