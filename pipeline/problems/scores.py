"""A model's scores on one split, and what the problems share to compute them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..metrics import Statistics
from ..text.vocabulary import UNK
from .batches import Examples
from .predictor import Predictor
from .token_scores import TokenScores

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
        metrics: name -> value, NaN where it is undefined; names are those of ``METRICS``, and
            ``chrf``, ``unknown_rate``.
        statistics: for each metric of ``METRICS`` its statistics row by row, ``[N, S]``.
        signatures: how BLEU and chrF were computed, in sacrebleu's words, and entity F1.
        samples: columns of text for people, the same for every variant of a problem.
        tables: further tables by name, such as ``confusion``.
    """

    metrics: dict[str, float]
    statistics: dict[str, Statistics]
    signatures: dict[str, str] = field(default_factory=dict)
    samples: list[dict[str, str]] = field(default_factory=list)
    tables: dict[str, list[dict[str, str]]] = field(default_factory=dict)


def unknown_rate(ids: NDArray[np.generic]) -> float:
    """Return the share of ids that are the unknown word; undefined (NaN) of none."""
    return float(np.mean(ids == UNK)) if len(ids) else math.nan


def row_sums(
    values: NDArray[np.generic], rows: NDArray[np.int64], num_rows: int
) -> NDArray[np.float64]:
    """The sum of each row's values, ``[N]``."""
    sums = np.bincount(rows, weights=values.astype(np.float64), minlength=num_rows)
    return sums.astype(np.float64)


def token_statistics(scored: TokenScores, examples: Examples) -> dict[str, Statistics]:
    """What perplexity, bits per character and accuracy are made of, row by row: ``[N, 2]`` each.

    Bits per character are comparable across vocabularies: the nats of an unknown word's id and of
    spelling it out count together, over the characters of the text; the end of a text, where it is
    predicted, counts as one character.
    """
    num_rows = len(examples.inputs)

    def by_row(values: NDArray[np.generic]) -> NDArray[np.float64]:
        return row_sums(values, scored.rows, num_rows)

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


def sample_continuations(predictor: Predictor, texts: Sequence[str]) -> list[dict[str, str]]:
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


def spread_rows(num_rows: int, num_samples: int) -> list[int]:
    """Row numbers spread evenly over the split, the same for every model."""
    rows = np.linspace(0, num_rows - 1, min(num_samples, num_rows)).astype(int)
    return sorted(set(rows.tolist()))
