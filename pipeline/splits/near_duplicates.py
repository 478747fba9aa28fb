"""Texts that are almost the same: found by MinHash, confirmed by counting.

A text is the set of its shingles: three characters side by side, blanks left out. Two texts are
near duplicates where the sets' Jaccard similarity, shared shingles over all shingles, reaches a
threshold. The smallest value that a random hash gives to a set is equal for two sets as often as
they are similar (Broder 1997), so texts are compared only where several such values in a row agree
(banding: Leskovec, Rajaraman, Ullman, Mining of Massive Datasets, 3.4). The comparison itself
counts shingles: what is called a near duplicate always is one, and hardly one in a thousand is
missed.

Shape letters: ``N`` texts, ``S`` shingles of all texts, ``P`` hash functions.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..text.english import JOINER
from ..text.utf8 import Utf8, chunks

Shingles = NDArray[np.uint64]

Rows = NDArray[np.int64]

Mask = NDArray[np.bool_]

NUM_HASHES = 64
"""``P``: enough to miss hardly a pair, few enough to cost some 0.1 microseconds a character."""

_SHINGLE = 3

# A code point has 21 bits, so three of them are one number, without any hash.
_CODE_BITS = np.uint64(21)

# Shingles that are hashed at once: so few that all rounds of it stay in the processor's cache.
_PIECE = 1 << 16


@dataclass(frozen=True)
class Sketches:
    """N texts, and a signature of each.

    Attributes:
        texts: what is compared; blanks, and the marks that a cut into words leaves, do not count.
        signatures: uint32 ``[N, P]``, the smallest value of each hash function over the shingles
            of a text; of a text without any the largest that there is.
    """

    texts: Utf8
    signatures: NDArray[np.uint32]

    def __len__(self) -> int:
        return self.texts.num_rows

    @classmethod
    def of(cls, texts: Utf8) -> "Sketches":
        """Of N texts. The same text has the same signature in every process."""
        pieces = [
            _signatures(*_shingles(texts.rows(first, last)))
            for first, last in chunks(texts.offsets)
        ]
        return cls(texts, np.concatenate([np.zeros((0, NUM_HASHES), np.uint32), *pieces]))

    def shingles(self, row: int) -> frozenset[int]:
        """The set of one text's shingles."""
        return frozenset(_shingles(self.texts.rows(row, row + 1))[0].tolist())


def near_copies(sketches: Sketches, of: Mask, threshold: float) -> Mask:
    """bool ``[N]``: the texts that are near duplicates of one that ``of`` names.

    The texts that ``of`` names are never among them.
    """
    found = np.zeros(len(sketches), bool)
    compared = _Comparison(sketches, threshold)
    for buckets in _bands(sketches, threshold):
        # Of each bucket first the texts of `of`, then the others that are not found yet.
        left = np.flatnonzero(~found)
        order = left[np.lexsort((~of[left], buckets[left]))]
        starts, sizes = _runs(buckets[order])
        num_first = np.add.reduceat(of[order].astype(np.int64), starts) if len(starts) else sizes
        mixed = (num_first > 0) & (num_first < sizes)
        starts, sizes, num_first = starts[mixed], sizes[mixed], num_first[mixed]
        for turn in range(int(num_first.max(initial=0))):
            live = num_first > turn
            others = order[_spans(starts[live] + num_first[live], (sizes - num_first)[live])]
            ones = np.repeat(order[starts[live] + turn], (sizes - num_first)[live])
            standing = ~found[others]
            others, ones = others[standing], ones[standing]
            found[others[compared.are_near(ones, others)]] = True
    return found


def later_near_duplicates(sketches: Sketches, among: Mask, threshold: float) -> Mask:
    """bool ``[N]``: of the texts that ``among`` names, those that come near one before them.

    Of a group of near duplicates the first stays.
    """
    found = np.zeros(len(sketches), bool)
    compared = _Comparison(sketches, threshold)
    for buckets in _bands(sketches, threshold):
        left = np.flatnonzero(among & ~found)
        # A stable sort: in each bucket the texts keep their order.
        order = left[np.argsort(buckets[left], kind="stable")]
        while len(order):
            starts, sizes = _runs(buckets[order])
            several = sizes > 1
            starts, sizes = starts[several], sizes[several]
            ones = np.repeat(order[starts], sizes - 1)
            order = order[_spans(starts + 1, sizes - 1)]
            near = compared.are_near(ones, order)
            found[order[near]] = True
            order = order[~near]
    return found


class _Comparison:
    """Compares texts two by two, and remembers who is not near whom."""

    def __init__(self, sketches: Sketches, threshold: float) -> None:
        self._sketches = sketches
        self._threshold = threshold
        # What agrees among P hash functions strays from the similarity (binomial distribution).
        deviation = (threshold * (1 - threshold) / NUM_HASHES) ** 0.5
        self._least_agreeing = NUM_HASHES * (threshold - 3.5 * deviation)
        self._sets: dict[int, frozenset[int]] = {}
        self._distant: set[tuple[int, int]] = set()

    def are_near(self, ones: Rows, others: Rows) -> Mask:
        """bool: whether each of ``ones`` is a near duplicate of the one of ``others`` beside it."""
        near = np.zeros(len(ones), bool)
        signatures = self._sketches.signatures
        for start in range(0, len(ones), _PIECE):
            piece = slice(start, start + _PIECE)
            agreeing = (signatures[ones[piece]] == signatures[others[piece]]).sum(axis=1)
            near[piece] = agreeing >= self._least_agreeing
        for index in np.flatnonzero(near).tolist():
            near[index] = self._is_near(int(ones[index]), int(others[index]))
        return near

    def _is_near(self, one: int, other: int) -> bool:
        if (one, other) in self._distant:
            return False
        first, second = self._set(one), self._set(other)
        shared = len(first & second)
        union = len(first) + len(second) - shared
        near = not union or shared / union >= self._threshold
        if not near:
            self._distant.add((one, other))
        return near

    def _set(self, row: int) -> frozenset[int]:
        known = self._sets.get(row)
        if known is None:
            known = self._sets[row] = self._sketches.shingles(row)
        return known


def _shingles(texts: Utf8) -> tuple[Shingles, Rows]:
    """uint64 ``[S]``, the shingles of all texts, and where those of each begin, ``[N + 1]``.

    One begins at every character; at a text's end what is missing is 0.
    """
    data = texts.data[texts.offsets[0] : texts.offsets[-1]]
    codes = np.frombuffer(data.tobytes().decode().encode("utf-32-le"), np.uint32)
    first_bytes = np.flatnonzero((data & 0xC0) != 0x80)
    offsets = np.searchsorted(first_bytes, texts.offsets - texts.offsets[0])
    counts = (codes != 0x20) & (codes != ord(JOINER))
    if not counts.all():
        offsets = np.concatenate(([0], np.cumsum(counts)))[offsets]
        codes = codes[counts]
    shingles = codes.astype(np.uint64)
    ends = offsets[1:][np.diff(offsets) > 0]
    for ahead in range(1, _SHINGLE):
        further = np.zeros(len(codes), np.uint64)
        further[:-ahead] = codes[ahead:]
        for missing in range(1, ahead + 1):
            further[np.maximum(ends - missing, 0)] = 0
        shingles = shingles << _CODE_BITS | further
    return shingles, offsets


def _signatures(shingles: Shingles, offsets: Rows) -> NDArray[np.uint32]:
    """uint32 ``[N, P]``."""
    factors, summands = _hash_functions()
    signatures = np.full((len(offsets) - 1, NUM_HASHES), 0xFFFFFFFF, np.uint32)
    filled = np.flatnonzero(np.diff(offsets))
    starts = offsets[:-1][filled]
    # Pieces end anywhere; a text that lies in several takes the smallest value of all.
    for first in range(0, len(shingles), _PIECE):
        last = min(first + _PIECE, len(shingles))
        low = int(np.searchsorted(starts, first, side="right")) - 1
        high = int(np.searchsorted(starts, last, side="left"))
        bounds = np.maximum(starts[low:high], first) - first
        mixed = _mixed(shingles[first:last])
        smallest = np.empty((high - low, NUM_HASHES), np.uint32)
        for index in range(NUM_HASHES):
            smallest[:, index] = np.minimum.reduceat(
                mixed * factors[index] + summands[index], bounds
            )
        rows = filled[low:high]
        signatures[rows] = np.minimum(signatures[rows], smallest)
    return signatures


def _mixed(shingles: Shingles) -> NDArray[np.uint32]:
    """32 bits of each shingle in which every character tells (Stafford's mix 13)."""
    mixed = shingles ^ (shingles >> np.uint64(30))
    mixed *= np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(27)
    mixed *= np.uint64(0x94D049BB133111EB)
    return (mixed >> np.uint64(32)).astype(np.uint32)


def _hash_functions() -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Odd factors and summands ``[P]``; fixed, because a division must come out alike everywhere.

    Multiples of the golden ratio, mixed: no library's random numbers may change them.
    """
    numbers = np.arange(1, 2 * NUM_HASHES + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    mixed = _mixed(numbers)
    return mixed[:NUM_HASHES] | np.uint32(1), mixed[NUM_HASHES:]


def _bands(sketches: Sketches, threshold: float) -> Iterator[Shingles]:
    """For each band a number for each text, ``[N]``; texts of equal numbers agree in the band."""
    width = _band_width(threshold)
    for first in range(0, NUM_HASHES, width):
        key = np.zeros(len(sketches), np.uint64)
        for column in range(first, first + width):
            key = (key ^ sketches.signatures[:, column]) * np.uint64(0x9E3779B97F4A7C15)
            key ^= key >> np.uint64(32)
        yield key


def _band_width(threshold: float) -> int:
    """The most hash functions a band can have to find 999 of 1,000 pairs at the threshold."""
    width = 1
    for wider in (2, 4, 8, 16):
        missed = (1 - threshold**wider) ** (NUM_HASHES // wider)
        if missed <= 0.001:
            width = wider
    return width


def _runs(keys: Shingles) -> tuple[Rows, Rows]:
    """Where each run of equal keys begins, and how long it is."""
    if not len(keys):
        return np.zeros(0, np.int64), np.zeros(0, np.int64)
    starts = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    return starts, np.diff(np.append(starts, len(keys)))


def _spans(starts: Rows, lengths: Rows) -> Rows:
    """The positions ``start`` to ``start + length - 1`` of each run, one behind the other."""
    shifts = np.repeat(starts - np.cumsum(lengths) + lengths, lengths)
    return shifts + np.arange(int(lengths.sum()))
