"""From next-word scores to sentences: greedy, beam and exhaustive search, and sampling.

Shape letters: ``B`` sentences, ``K`` hypotheses of a sentence, ``L`` layers, ``H`` hidden, ``V``
vocabulary, ``T`` words of the longest hypothesis.

A hypothesis ``y_1 .. y_n`` (the last word is ``<eos>``) is ranked by
``log P(y_1 .. y_n) / n ** alpha`` (d2l 10.8, alpha 0.75), so that long ones are not always worse.
"""

import heapq
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, Self

import torch
from torch import Tensor

from ..networks.recurrent import Hidden
from ..text.vocabulary import EOS

NEVER = slice(EOS)
"""The ids before ``<eos>``, which no hypothesis holds: probabilities are of the others."""

FEWER = 0.9
"""Done sentences leave the batch when at most this share of it is live: what is left is copied, and
that takes longer than some idle rows."""


class GaveUpError(Exception):
    """A search has taken all the steps that it was allowed, and proved nothing."""


class Memory(Protocol):
    """What a step function knows of ``B`` sentences beside the state."""

    def of(self, sentences: Tensor) -> Self:
        """The memory of some of the sentences."""
        ...


class NoMemory:
    """The memory of a model that has no source, such as a language model."""

    def of(self, sentences: Tensor) -> "NoMemory":
        return self


Step = Callable[[Tensor, Hidden, Any], tuple[Tensor, Hidden]]
"""``words [B, K]``, state parts ``[L, B * K, H]``, memory of ``B``: logits ``[B, K, V]``, state."""


@dataclass(frozen=True)
class Hypothesis:
    """A finished sequence.

    Attributes:
        words: ids without ``<eos>``.
        log_probability: natural logarithm of the probability of the words and ``<eos>`` (of the
            words alone where a sample was cut at its longest).
        score: the rank value, ``log_probability / (len(words) + 1) ** alpha``.
    """

    words: tuple[int, ...]
    log_probability: float
    score: float


@torch.inference_mode()
def greedy(
    step: Step,
    memory: Memory,
    hidden: Hidden,
    first: Tensor,
    *,
    max_tokens: int | Tensor,
    alpha: float = 0.75,
) -> list[Hypothesis]:
    """The likeliest word at every step until that is ``<eos>`` (d2l 10.8.1), for a batch.

    Arguments as for :func:`beam`. A sentence of ``max_tokens`` words is closed as it stands.
    """
    limits = torch.as_tensor(max_tokens, device=first.device).expand(len(first))
    words = first[:, None]
    totals = torch.zeros(len(first), device=first.device)
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    chosen: list[Tensor] = []
    for length in range(int(limits.max()) + 1):
        log_probabilities, hidden = _next(step, words, hidden, memory)
        best, words = log_probabilities[:, 0].max(dim=-1, keepdim=True)
        full = limits == length
        best = torch.where(full, log_probabilities[:, 0, EOS], best[:, 0])
        totals = totals + torch.where(ended, 0.0, best)
        words = torch.where((ended | full)[:, None], EOS, words)
        chosen.append(words)
        ended = ended | (words[:, 0] == EOS)
        if bool(ended.all()):
            break
    rows = torch.cat(chosen, dim=1).tolist()
    return [
        Hypothesis(tuple(row[: row.index(EOS)]), total, total / (row.index(EOS) + 1) ** alpha)
        for row, total in zip(rows, totals.tolist(), strict=True)
    ]


def _next(step: Step, words: Tensor, hidden: Hidden, memory: Memory) -> tuple[Tensor, Hidden]:
    """Log-probabilities ``[B, K, V]`` of the words that may follow, and the next state."""
    logits, hidden = step(words, hidden, memory)
    logits[..., NEVER] = -torch.inf
    return logits.log_softmax(-1), hidden


@torch.inference_mode()
def beam(
    step: Step,
    memory: Memory,
    hidden: Hidden,
    first: Tensor,
    *,
    width: int,
    max_tokens: int | Tensor,
    alpha: float = 0.75,
    num_best: int = 1,
) -> list[list[Hypothesis]]:
    """Beam search over a batch.

    Every live hypothesis is tried with ``<eos>`` at every step, beside the ``width`` that live on,
    and at ``max_tokens`` words each must end. So a finished hypothesis never takes a live one's
    place, and a beam as wide as the tree finds what exhaustive search finds. A sentence is done
    when no live hypothesis can still reach its ``num_best``-th finished one: log P only falls, and
    ``n ** alpha`` is largest at the longest length.

    Args:
        hidden: the state before ``first``, parts ``[L, B, H]``.
        first: the word that starts each sentence, ``[B]``: ``<bos>``, or the last of a prompt.
        width: live hypotheses of a sentence.
        max_tokens: words of a hypothesis, at most; of all sentences, or of each, ``[B]``.
        num_best: finished hypotheses to keep.

    Returns:
        For each sentence up to ``num_best`` hypotheses, best first.
    """
    limits = torch.as_tensor(max_tokens, device=first.device).expand(len(first))
    longest = (limits + 1).double() ** alpha
    # Every hypothesis that ever lived has a number; kept of each: its parent's, and its last word.
    numbers = torch.arange(len(first), device=first.device)[:, None]
    parents, last_words = [torch.full_like(first, -1)], [first]
    num_hypotheses = len(first)
    # The best finished ones of each sentence: score, and number before <eos>.
    scores = longest.new_full((len(first), num_best), -torch.inf)
    finished = numbers.expand(-1, num_best).clone()
    sentences = numbers[:, 0]
    words, log_probabilities = first[:, None], torch.zeros_like(first, dtype=torch.float)[:, None]
    for length in range(1, int(limits.max()) + 2):
        totals, hidden = _next(step, words, hidden, memory)
        totals += log_probabilities[..., None]
        ended = torch.cat((scores[sentences], totals[..., EOS] / length**alpha), dim=1)
        scores[sentences], chosen = ended.topk(num_best, dim=1)
        finished[sentences] = torch.cat((finished[sentences], numbers), dim=1).gather(1, chosen)
        totals[..., EOS] = -torch.inf
        log_probabilities, places, words = _best_pairs(totals, width)
        rows = torch.arange(len(places), device=first.device)[:, None] * totals.shape[1] + places
        done = log_probabilities[:, 0] <= scores[sentences, -1] * longest[sentences]
        done |= length > limits[sentences]
        num_live = len(done) - int(done.sum())
        if not num_live:
            break
        if num_live <= FEWER * len(done):
            live = ~done
            sentences, memory, rows = sentences[live], memory.of(live), rows[live]
            words, log_probabilities = words[live], log_probabilities[live]
        else:
            # They idle: nothing ends with a probability of 0.
            log_probabilities.masked_fill_(done[:, None], -torch.inf)
        parents.append(numbers.flatten()[rows.flatten()])
        last_words.append(words.flatten())
        numbers = torch.arange(rows.numel(), device=first.device).view_as(rows) + num_hypotheses
        num_hypotheses += rows.numel()
        hidden = tuple(part.index_select(1, rows.flatten()) for part in hidden)
    tree = torch.cat(parents).tolist(), torch.cat(last_words).tolist()
    return [
        [
            _hypothesis(number, score, alpha, *tree)
            for number, score in zip(*best, strict=True)
            if score > -torch.inf
        ]
        for best in zip(finished.tolist(), scores.tolist(), strict=True)
    ]


def _best_pairs(totals: Tensor, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """The highest of ``totals [B, K, V]`` in each sentence: values, hypotheses, words ``[B, W]``.

    Their words are among the ``width`` that rank highest by their best hypothesis, so that only
    these need be compared.
    """
    words = totals.amax(dim=1).topk(min(width, totals.shape[2]), dim=1).indices
    few = totals.gather(2, words[:, None].expand(-1, totals.shape[1], -1))
    values, flat = few.flatten(1).topk(min(width, few[0].numel()), dim=1)
    return values, flat // few.shape[2], words.gather(1, flat % few.shape[2])


def _hypothesis(
    number: int, score: float, alpha: float, parents: list[int], last_words: list[int]
) -> Hypothesis:
    """The finished hypothesis that ended behind ``number``, read from its last word on."""
    words: list[int] = []
    while parents[number] >= 0:
        words.append(last_words[number])
        number = parents[number]
    return Hypothesis(tuple(reversed(words)), score * (len(words) + 1) ** alpha, score)


@torch.inference_mode()
def exhaustive(
    step: Step,
    memory: Memory,
    hidden: Hidden,
    first: Tensor,
    *,
    max_tokens: int,
    alpha: float = 0.75,
    max_steps: int = 1_000_000,
) -> Hypothesis:
    """The best hypothesis of all that have at most ``max_tokens`` words, for one sentence.

    Best-first search: the prefix whose bound ``log P / (max_tokens + 1) ** alpha`` is highest is
    opened next, and the search ends when no bound exceeds the best finished score. Exact, and
    exponential in the worst case.

    Args:
        hidden: parts ``[L, 1, H]``.
        first: as for :func:`beam`, ``[1]``.
        max_steps: calls of ``step`` after which the search gives up.

    Raises:
        GaveUpError: when ``max_steps`` calls did not prove a best hypothesis.
    """
    longest = (max_tokens + 1) ** alpha
    best: Hypothesis | None = None
    # The counter breaks ties before Python would compare states.
    queue: list[tuple[float, int, float, tuple[int, ...], Hidden]] = [(0.0, 0, 0.0, (), hidden)]
    count = 0
    for _ in range(max_steps):
        if not queue or (best is not None and -queue[0][0] <= best.score):
            assert best is not None
            return best
        _, _, log_probability, words, state = heapq.heappop(queue)
        last = torch.tensor([[words[-1]]], device=first.device) if words else first[:, None]
        following, state = _next(step, last, state, memory)
        totals = (following[0, 0] + log_probability).tolist()
        score = totals[EOS] / (len(words) + 1) ** alpha
        if best is None or score > best.score:
            best = Hypothesis(words, totals[EOS], score)
        if len(words) == max_tokens:
            continue
        for word, total in enumerate(totals):
            bound = total / longest
            if word != EOS and total > -float("inf") and bound > best.score:
                count += 1
                heapq.heappush(queue, (-bound, count, total, (*words, word), state))
    raise GaveUpError(f"exhaustive search gave up after {max_steps} steps")


@torch.inference_mode()
def sample(
    step: Step,
    memory: Memory,
    hidden: Hidden,
    first: Tensor,
    *,
    max_tokens: int,
    temperature: float,
    generator: torch.Generator,
) -> list[Hypothesis]:
    """One random continuation of each sentence, word by word.

    Args:
        hidden: the state before ``first``, parts ``[L, B, H]``.
        first: the word that starts each sentence, ``[B]``.
        temperature: logits are divided by it; towards 0 the likeliest word is always taken.

    Returns:
        Hypotheses whose ``score`` is their log-probability under the model itself.
    """
    words = first[:, None]
    drawn: list[Tensor] = []
    total = torch.zeros(len(first), device=first.device)
    ended = torch.zeros(len(first), dtype=torch.bool, device=first.device)
    for _ in range(max_tokens):
        following, hidden = _next(step, words, hidden, memory)
        heated = (following[:, 0] / max(temperature, 1e-6)).softmax(-1)
        words = torch.multinomial(heated, 1, generator=generator)
        total += torch.where(ended, 0.0, following[:, 0].gather(1, words)[:, 0])
        words = torch.where(ended[:, None], EOS, words)
        ended = ended | (words[:, 0] == EOS)
        drawn.append(words)
        if bool(ended.all()):
            break
    hypotheses = []
    columns = torch.cat(drawn, dim=1).tolist() if drawn else [[] for _ in range(len(first))]
    for row, log_probability in zip(columns, total.tolist(), strict=True):
        ids = tuple(row[: row.index(EOS)] if EOS in row else row)
        hypotheses.append(Hypothesis(ids, log_probability, log_probability))
    return hypotheses
