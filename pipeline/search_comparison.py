"""The same text answered by greedy, beam and exhaustive search: what each finds, and at what cost.

Shape letters: ``B`` sentences, ``K`` hypotheses of a sentence, ``V`` vocabulary.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError
from .networks.recurrent import Hidden
from .problems.language_model.answers import ContinuationPredictor
from .problems.predictor import Predictor
from .problems.seq2seq.answers import Seq2SeqPredictor
from .search.search import GaveUpError, Hypothesis, Memory, Step, beam, exhaustive, greedy

WIDTHS = (2, 5, 20)
"""Beams that are compared."""
MAX_STEPS = 20_000
"""Words that exhaustive search may open before it gives up."""


@dataclass(frozen=True)
class SearchResult:
    """What one way of searching found.

    Attributes:
        search: ``greedy``, ``beam 5``, ``exhaustive`` and so on.
        text: the answer; empty where the search gave up.
        log_probability: of the answer, in nats.
        score: the log-probability over a power of the length, by which answers are ranked.
        num_hypotheses: prefixes that the network was asked to continue.
        finished: False where exhaustive search gave up.
    """

    search: str
    text: str
    log_probability: float
    score: float
    num_hypotheses: int
    finished: bool = True


def compare_searches(predictor: Predictor, text: str, *, max_tokens: int) -> list[SearchResult]:
    """Search the answer to one text in every way.

    Args:
        max_tokens: words of an answer, at most; of a translation its source may allow fewer.

    Raises:
        InputError: for a model that does not search, or fewer than one word.
    """
    if not isinstance(predictor, ContinuationPredictor | Seq2SeqPredictor):
        raise InputError(
            f"{predictor.config.problem.name} does not search: it names the best of a list; "
            f"take a model of seq2seq or language_model"
        )
    if max_tokens < 1:
        raise InputError(f"max_tokens is {max_tokens}: it must be at least 1")
    ids = predictor.encoded(predictor.tokenized([text]))
    if isinstance(predictor, Seq2SeqPredictor) and not len(ids[0]):
        # Nothing has one translation, which needs no search.
        names = ("greedy", *(f"beam {width}" for width in WIDTHS), "exhaustive")
        return [SearchResult(name, "", 0.0, 0.0, 0) for name in names]
    memory, hidden, first = predictor.start(ids)
    if isinstance(predictor, Seq2SeqPredictor):
        max_tokens = int(predictor.limits(ids, max_tokens))
    results = []

    def run(name: str, search: Callable[[Step], Hypothesis | None]) -> None:
        step = _Counted(predictor.model.step)
        found = search(step)
        if found is None:
            results.append(SearchResult(name, "", 0.0, 0.0, step.num_hypotheses, finished=False))
            return
        results.append(
            SearchResult(
                name,
                predictor.text_of(found.words),
                found.log_probability,
                found.score,
                step.num_hypotheses,
            )
        )

    run("greedy", lambda step: greedy(step, memory, hidden, first, max_tokens=max_tokens)[0])
    for width in WIDTHS:
        run(
            f"beam {width}",
            lambda step, width=width: beam(  # type: ignore[misc]
                step, memory, hidden, first, width=width, max_tokens=max_tokens
            )[0][0],
        )
    run("exhaustive", lambda step: _exhaustive(step, memory, hidden, first, max_tokens))
    return results


def _exhaustive(
    step: Step, memory: Memory, hidden: Hidden, first: Tensor, max_tokens: int
) -> Hypothesis | None:
    try:
        return exhaustive(step, memory, hidden, first, max_tokens=max_tokens, max_steps=MAX_STEPS)
    except GaveUpError:
        return None


class _Counted:
    """A step function that counts the prefixes it is asked about."""

    def __init__(self, step: Step) -> None:
        self._step = step
        self.num_hypotheses = 0

    @torch.inference_mode()
    def __call__(self, words: Tensor, hidden: Hidden, memory: Memory) -> tuple[Tensor, Hidden]:
        self.num_hypotheses += words.numel()
        return self._step(words, hidden, memory)
