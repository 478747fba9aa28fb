"""The n-gram Markov model: the next word depends on the ``n - 1`` words before it, and no others.

Shape letters: ``N`` rows, ``V`` vocabulary, ``n`` order, ``C`` contexts and ``G`` n-grams of one
length.

Probabilities are smoothed as Chen and Goodman (1998), "An empirical study of smoothing techniques
for language modeling", found best: interpolated modified Kneser-Ney. With ``h`` the context, ``h'``
the context without its first word, and ``a`` the adjusted count,

    ``P(w | h) = (a(h w) - D(a(h w))) / T(h) + backoff(h) P(w | h')``,
    ``T(h) = sum over w of a(h w)``, ``backoff(h) = sum over w of D(a(h w)) / T(h)``.

The longest n-grams are counted; shorter ones count in how many different words stand before them,
since that is when the model falls back on them. A shorter one that starts with ``<bos>`` is counted
too, since nothing else can stand before it (Heafield et al. 2013, section 3). Under the single
words lies the uniform distribution over all ``V`` ids, so that nothing is impossible. A context
that was never seen leaves the word to the shorter context.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from ..errors import InputError
from ..text.vocabulary import BOS, UNK

CHUNK_ROWS = 128
"""Rows whose distributions are made at once: their n-grams are gathered, up to ``V`` a row."""

ROUNDING = 1e-12
"""Probabilities whose relative difference is smaller are equal: rounding alone parts them."""


class BackoffTable(nn.Module):
    """All n-grams of one length, found by their context; sizes are known when it is filled.

    Contexts are chained from their last word to their first: the key of a context is the number of
    the context without its first word, times ``V``, plus that word. So a context is looked for only
    where its shorter one was found.

    Attributes:
        contexts: sorted keys, int64 ``[C]``; the place of a key is the context's number.
        backoff: weight of the shorter context's distribution, float64 ``[C]``.
        grams: sorted keys, the number of the context times ``V`` plus the word, int64 ``[G]``.
        discounted: the n-gram's own share of the probability, float64 ``[G]``.
    """

    contexts: Tensor
    backoff: Tensor
    grams: Tensor
    discounted: Tensor

    def __init__(self, num_words: int) -> None:
        super().__init__()
        self.num_words = num_words
        self.register_buffer("contexts", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("backoff", torch.zeros(0, dtype=torch.float64))
        self.register_buffer("grams", torch.zeros(0, dtype=torch.int64))
        self.register_buffer("discounted", torch.zeros(0, dtype=torch.float64))

    def _load_from_state_dict(
        self, state_dict: Mapping[str, Any], prefix: str, *others: Any
    ) -> None:
        """Take the sizes from what is loaded."""
        for name, buffer in self.named_buffers(recurse=False):
            if prefix + name in state_dict:
                setattr(self, name, buffer.new_empty(state_dict[prefix + name].shape))
        super()._load_from_state_dict(state_dict, prefix, *others)

    def find(self, shorter: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
        """Which contexts are there: bool ``[N]``, and the numbers of those that are.

        Args:
            shorter: numbers of the contexts without their first word, ``[N]``.
            words: the first words, ``[N]``.
        """
        return _lookup(self.contexts, shorter * self.num_words + words)

    def shares(self, contexts: Tensor, words: Tensor) -> Tensor:
        """The own share of each n-gram, ``[N]``; 0 where it was never seen."""
        found, places = _lookup(self.grams, contexts * self.num_words + words)
        shares = self.discounted.new_zeros(len(contexts))
        shares[found] = self.discounted[places]
        return shares

    def followers(self, contexts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """All words seen behind each of ``contexts [N]``, flat: their rows, ids and shares."""
        start = torch.searchsorted(self.grams, contexts * self.num_words)
        end = torch.searchsorted(self.grams, (contexts + 1) * self.num_words)
        lengths = end - start
        rows = torch.repeat_interleave(lengths)
        before = lengths.cumsum(0) - lengths
        places = torch.arange(len(rows), device=rows.device) + _of(start - before, rows)
        words = _of(self.grams, places) - _of(contexts * self.num_words, rows)
        return rows, words, _of(self.discounted, places)


class KneserNey(nn.Module):
    """Interpolated modified Kneser-Ney over word ids; its buffers are the whole model.

    Args:
        order: ``n``; 1 is the frequency of words, 2 the chapters' bigram model.
        num_words: ``V``.

    Raises:
        InputError: for an order below 1.
    """

    unigram: Tensor

    def __init__(self, order: int, num_words: int) -> None:
        super().__init__()
        if order < 1:
            raise InputError(f"the order of an n-gram model is {order}: it must be at least 1")
        self.order, self.num_words = order, num_words
        uniform = torch.full((num_words,), 1 / num_words, dtype=torch.float64)
        self.register_buffer("unigram", uniform)
        self.longer = nn.ModuleList(BackoffTable(num_words) for _ in range(order - 1))

    @property
    def num_context(self) -> int:
        """Words of a context: ``n - 1``."""
        return self.order - 1

    def _tables(self) -> list[BackoffTable]:
        return [table for table in self.longer if isinstance(table, BackoffTable)]

    def estimate(self, ids: NDArray[np.generic], starts: NDArray[np.bool_]) -> None:
        """Count and smooth, in place of what was learnt before.

        Args:
            ids: texts end to end, ``[N]``.
            starts: where a text begins, bool ``[N]``; the first is True. The first id of a text is
                read and not learnt, and no context reaches beyond it.
        """
        bare, *levels = count_ngrams(ids, starts, self.order, self.num_words)
        shares, backoff = bare.smooth(self.num_words)
        unigram = np.full(self.num_words, backoff[0] / self.num_words)
        unigram[bare.grams] += shares
        self.unigram = _like(self.unigram, unigram)
        for table, level in zip(self._tables(), levels, strict=True):
            shares, backoff = level.smooth(self.num_words)
            table.contexts = _like(table.contexts, level.contexts)
            table.backoff = _like(table.backoff, backoff)
            table.grams = _like(table.grams, level.grams)
            table.discounted = _like(table.discounted, shares)

    def _seen(self, contexts: Tensor) -> list[tuple[Tensor, Tensor]]:
        """For each length from 1: the rows of ``contexts [N, n - 1]`` seen in it, their numbers."""
        rows = torch.arange(len(contexts), device=contexts.device)
        numbers = torch.zeros_like(rows)
        seen = []
        for length, table in enumerate(self._tables(), 1):
            found, numbers = table.find(numbers, contexts[rows, self.num_context - length])
            rows = rows[found]
            seen.append((rows, numbers))
        return seen

    def forward(self, contexts: Tensor) -> Tensor:
        """Natural logarithms of all next words' probabilities, float64 ``[N, V]``.

        Args:
            contexts: the words before, the nearest last, int ``[N, n - 1]``; what stands before the
                beginning of a text is ``<bos>``.
        """
        logarithms = self.unigram.new_empty(len(contexts), self.num_words)
        for start in range(0, len(contexts), CHUNK_ROWS):
            rows = slice(start, start + CHUNK_ROWS)
            logarithms[rows] = self._probabilities(contexts[rows].long()).log_()
        return logarithms

    def _probabilities(self, contexts: Tensor) -> Tensor:
        seen = self._seen(contexts)
        left, weights = self._weights(seen, len(contexts))
        probabilities = left[:, None] * self.unigram
        flat = probabilities.view(-1)
        for table, (rows, numbers), weight in zip(self._tables(), seen, weights, strict=True):
            which, words, shares = table.followers(numbers)
            flat[rows[which] * self.num_words + words] += weight[which] * shares
        return probabilities

    def _weights(
        self, seen: list[tuple[Tensor, Tensor]], num_rows: int
    ) -> tuple[Tensor, list[Tensor]]:
        """What single words weigh in each row ``[N]``, and each length's n-grams in its rows."""
        # From the longest context down: what is left for the distribution of the next shorter one.
        left = self.unigram.new_ones(num_rows)
        weights = []
        for table, (rows, numbers) in zip(reversed(self._tables()), reversed(seen), strict=True):
            weights.append(left[rows])
            left[rows] *= table.backoff[numbers]
        return left, weights[::-1]

    def standing(
        self, contexts: Tensor, targets: Tensor, first: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Where each of ``targets [N]`` stands among the words from id ``first`` on.

        Words that were never seen behind the last word of a context keep the order of their
        frequencies, so only the others are looked at one by one.

        Returns:
            The targets' negative log-probabilities in nats, float64 ``[N]``; how many words are
            likelier, and how many others as likely (within ``ROUNDING``), int64 ``[N]``; and the
            likeliest word.
        """
        contexts, targets = contexts.long(), targets.long()
        num_rows = len(contexts)
        seen = self._seen(contexts)
        left, weights = self._weights(seen, num_rows)
        chosen = left * self.unigram[targets]
        owners, words = targets[:0], targets[:0]
        likely = frequency = left[:0]
        for table, (rows, numbers), weight in zip(self._tables(), seen, weights, strict=True):
            chosen[rows] += weight * table.shares(numbers, targets[rows])
            which, followers, shares = table.followers(numbers)
            more = _of(weight, which) * shares
            if table is self.longer[0]:
                owners, words = _of(rows, which), followers
                frequency = _of(self.unigram, words)
                likely = _of(left, owners) * frequency + more
                keys = owners * self.num_words + words
            else:
                # What follows a longer context follows its last word too.
                found = _of(rows, which) * self.num_words + followers
                likely[torch.searchsorted(keys, found)] += more
        # A target that was not seen is as frequent as it is; for one that was seen, what its
        # frequency would have to be without.
        unseen = chosen == left * self.unigram[targets]
        needed = torch.where(unseen, self.unigram[targets], chosen / left)
        frequencies = self.unigram[first:].sort().values
        low, high = needed * (1 - ROUNDING), needed * (1 + ROUNDING)
        upto = torch.searchsorted(frequencies, high, right=True)
        below = torch.searchsorted(frequencies, low)
        ends = torch.searchsorted(owners, torch.arange(num_rows + 1, device=owners.device))

        def count(likelier: Tensor, more_frequent: Tensor) -> Tensor:
            """In each row: the words seen that really are, less those that would be unseen."""
            steps = (likelier.to(torch.int8) - more_frequent.to(torch.int8)) * (words >= first)
            sums = functional.pad(steps.cumsum(0), (1, 0))
            return sums[ends[1:]] - sums[ends[:-1]]

        wanted, low, high = (_of(each, owners) for each in (chosen, low, high))
        likelier, more_frequent = likely > wanted * (1 + ROUNDING), frequency > high
        as_likely = (likely >= wanted * (1 - ROUNDING)) & ~likelier
        as_frequent = (frequency >= low) & ~more_frequent
        higher = len(frequencies) - upto + count(likelier, more_frequent)
        equal = upto - below + count(as_likely, as_frequent)
        best = self._likeliest(left, owners, words, likely, first)
        return -chosen.log(), higher, equal - 1, best

    def _likeliest(
        self, left: Tensor, owners: Tensor, words: Tensor, likely: Tensor, first: int
    ) -> Tensor:
        """The likeliest word from id ``first`` on in each row; ``<unk>`` where there is none."""
        if self.num_words <= first:
            return torch.full((len(left),), UNK, device=left.device)
        top = int(self.unigram[first:].argmax()) + first
        most = left * self.unigram[top]
        best = torch.full((len(left),), top, device=left.device)
        likely = likely.masked_fill(words < first, 0.0)
        most.scatter_reduce_(0, owners, likely, "amax")
        reached = (likely == _of(most, owners)).nonzero()[:, 0]
        best[owners[reached]] = words[reached]
        return best

    def log_probability(self, contexts: Tensor, targets: Tensor) -> Tensor:
        """Natural logarithm of the probability of ``targets [N]`` alone, float64 ``[N]``.

        The same numbers as :meth:`forward` gives, without the other words.
        """
        contexts, targets = contexts.long(), targets.long()
        probabilities = self.unigram[targets]
        for table, (rows, numbers) in zip(self._tables(), self._seen(contexts), strict=True):
            shorter = table.backoff[numbers] * probabilities[rows]
            probabilities[rows] = shorter + table.shares(numbers, targets[rows])
        return probabilities.log()


@dataclass(frozen=True)
class Counts:
    """The n-grams of one length and how often each counts.

    Attributes:
        contexts, grams: keys as in :class:`BackoffTable`; single words have the one context 0.
        counts: adjusted counts, int64 ``[G]``.
    """

    contexts: NDArray[np.int64]
    grams: NDArray[np.int64]
    counts: NDArray[np.int64]

    def smooth(self, num_words: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Each n-gram's share ``[G]`` and each context's weight for the shorter one ``[C]``.

        An adjusted count of 0 stays 0: at the very beginning of a stream nothing stands before. A
        context of nothing but those has a weight of 1.
        """
        owners = self.grams // num_words
        taken = discounts(self.counts)[np.minimum(self.counts, 3)]
        totals = np.bincount(owners, weights=self.counts, minlength=len(self.contexts))
        given = np.bincount(owners, weights=taken, minlength=len(self.contexts))
        divisors = np.maximum(totals, 1)
        shares = (self.counts - taken) / divisors[owners]
        return shares, np.where(totals > 0, given / divisors, 1.0)


def count_ngrams(
    ids: NDArray[np.generic], starts: NDArray[np.bool_], order: int, num_words: int
) -> list[Counts]:
    """The n-grams of every length up to ``order``; see :meth:`KneserNey.estimate`.

    Every length is two sorts: no loop over words.
    """
    words = ids.astype(np.int64)
    places = np.arange(len(words))
    # How many words of its own text stand before each.
    depth = places - np.maximum.accumulate(np.where(starts, places, 0))
    ends = np.flatnonzero(depth > 0)
    assert len(ends), "there is no word to learn"
    levels: list[Counts] = []
    contexts, context = np.zeros(1, np.int64), np.zeros(len(ends), np.int64)
    gram, unpreceded = context, np.zeros(0, bool)
    for length in range(order):
        if length:
            inside = depth[ends] >= length
            ends, context, gram = ends[inside], context[inside], gram[inside]
            contexts, context = np.unique(
                context * num_words + words[ends - length], return_inverse=True
            )
        grams, first, longer, counts = np.unique(
            context * num_words + words[ends],
            return_index=True,
            return_inverse=True,
            return_counts=True,
        )
        if length:
            # Now that the longer n-grams are known: how many of them end in each shorter one?
            shorter = levels[-1]
            preceded = np.bincount(gram[first], minlength=len(shorter.grams))
            adjusted = np.where(unpreceded, shorter.counts, preceded)
            levels[-1] = replace(shorter, counts=adjusted)
        gram, unpreceded = longer, words[ends[first] - length] == BOS
        levels.append(Counts(contexts, grams, counts))
    return levels


def discounts(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """What is taken off an adjusted count of 0, 1, 2, and 3 or more: float64 ``[4]``.

    Chen and Goodman's estimate from the counts of counts (equation 26). Where there are too few of
    them, so that a discount is undefined or outside (0, count], it is 0.5, 1 and 1.5, as KenLM's
    fallback has it.
    """
    n1, n2, n3, n4 = np.bincount(np.minimum(counts, 5), minlength=6)[1:5].astype(float).tolist()
    if min(n1, n2, n3) > 0:
        y = n1 / (n1 + 2 * n2)
        found = np.array([0, 1 - 2 * y * n2 / n1, 2 - 3 * y * n3 / n2, 3 - 4 * y * n4 / n3])
        if (found[1:] > 0).all() and (found[1:] <= (1, 2, 3)).all():
            return found
    return np.array([0, 0.5, 1.0, 1.5])


def _of(values: Tensor, places: Tensor) -> Tensor:
    """``values[places]``, on a CPU several times as fast."""
    return values.index_select(0, places)


def _lookup(keys: Tensor, wanted: Tensor) -> tuple[Tensor, Tensor]:
    """Which of ``wanted`` stand in the sorted ``keys``: bool ``[N]``, and the places of those."""
    if not len(keys):
        return torch.zeros_like(wanted, dtype=torch.bool), wanted[:0]
    places = torch.searchsorted(keys, wanted).clamp_(max=len(keys) - 1)
    found = keys[places] == wanted
    return found, places[found]


def _like(buffer: Tensor, values: NDArray[np.generic]) -> Tensor:
    return torch.from_numpy(values).to(buffer)
