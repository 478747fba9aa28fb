"""Which rows train, validate and test: no copy twice, and nothing held out is trained on.

Rows are known here by numbers alone: 64-bit keys of their groups and of their texts. Only near
copies are told by the texts themselves.

Shape letters: ``N`` rows, ``D`` documents.
"""

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from ..errors import InputError
from ..text.utf8 import Utf8
from ..times import places_of
from .near_duplicates import Sketches, later_near_duplicates, near_copies
from .splits import SPLITS, SplitsConfig, split_of

Keys = NDArray[np.uint64]

Rows = NDArray[np.int64]

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Division:
    """Row numbers of each split, in order, and what was left out.

    Attributes:
        rows: split -> row numbers.
        num_duplicates: exact copies of a row that came before.
        num_leaks: training pairs that are left out because of validation or test.
        num_near_copies: training rows left out because their document comes near one held out.
        num_near_duplicates: training rows left out because their document comes near another one.
    """

    rows: dict[str, Rows]
    num_duplicates: int = 0
    num_leaks: int = 0
    num_near_copies: int = 0
    num_near_duplicates: int = 0


@dataclass(frozen=True)
class Documents:
    """What is compared to find near copies: whole dialogues, or pairs with both their sides.

    Attributes:
        texts: D texts, in the order in which they arrived.
        of_rows: the document that each row is from, ``[N]``. The rows of a document are of one
            group.
    """

    texts: Utf8
    of_rows: Rows


def text_keys(texts: Utf8) -> Keys:
    """A 64-bit key of each text, ``[N]``: equal texts have equal keys."""
    data = texts.data.data
    keys = [
        hashlib.blake2b(data[start:stop], digest_size=8).digest()
        for start, stop in pairwise(texts.offsets.tolist())
    ]
    return np.frombuffer(b"".join(keys), np.uint64)


def dialogue_documents(
    groups: list[str], turns: NDArray[np.int32] | Rows, texts: Utf8
) -> Documents:
    """Dialogues as documents: the distinct utterances of a group, turn after turn.

    Args:
        groups: which dialogue each utterance is from.
        turns: which utterance of it, ``[N]``.
        texts: the N utterances.
    """
    codes = _codes_by_arrival(groups)
    order = np.lexsort((turns, codes))
    order = order[_first_of_each(codes, turns)[order]]
    return Documents(_joined(texts, order, codes[order]), codes)


def pair_documents(sources: Utf8, targets: Utf8) -> Documents:
    """Pairs as documents: the source and the target of each."""
    num_rows = sources.num_rows
    data = np.concatenate(
        [side.data[side.offsets[0] : side.offsets[-1]] for side in (sources, targets)]
    )
    shift = sources.offsets[-1] - sources.offsets[0]
    offsets = np.concatenate(
        [sources.offsets - sources.offsets[0], targets.offsets[1:] - targets.offsets[0] + shift]
    )
    order = np.arange(2 * num_rows).reshape(2, -1).T.ravel()
    texts = _joined(Utf8(data, offsets), order, np.repeat(np.arange(num_rows), 2))
    return Documents(texts, np.arange(num_rows))


def text_documents(texts: Utf8) -> Documents:
    """Every row as a document."""
    return Documents(texts, np.arange(texts.num_rows))


def divide_texts(
    groups: list[str], turns: NDArray[np.int32], documents: Documents, config: SplitsConfig
) -> Division:
    """Divide the utterances of dialogues, each dialogue into one split.

    Args:
        groups: which dialogue each row is from; equal dialogues have the same group.
        turns: which utterance of it, ``[N]``.
        documents: what near copies are told by.

    Raises:
        InputError: near copies leave nothing to train on.
    """
    names, codes = _split_names(groups, config)
    first = _first_of_each(codes, turns)
    return _division(names, first, np.zeros(len(codes), bool), documents, config)


def divide_pairs(
    groups: list[str],
    sources: Keys,
    targets: Keys,
    documents: Documents,
    config: SplitsConfig,
    *,
    sides_alone_leak: bool,
) -> Division:
    """Divide pairs by their group, and keep what is held out away from training.

    A training pair that is also in validation or test is left out. With ``sides_alone_leak`` so is
    one whose source is a source there, or whose target is a target there: in the customary random
    split of Tatoeba 19 % of test sources were trained on, worth 5 BLEU of self-deception. Replies
    do without it: everybody says "好的。", and a model that never saw it learnt another language.

    Raises:
        InputError: near copies leave nothing to train on.
    """
    names, _ = _split_names(groups, config)
    held_out = names != "train"
    both = (sources * np.uint64(0x9E3779B97F4A7C15)) ^ targets
    leaks = np.zeros(len(both), bool)
    for keys in (sources, targets) if sides_alone_leak else (both,):
        leaks |= ~held_out & np.isin(keys, keys[held_out])
    # Of equal pairs the one that is held out counts, whichever comes first.
    first = _first_of_each(held_out, sources, targets)
    return _division(names, first, leaks, documents, config)


def divide_in_order(num_rows: int, config: SplitsConfig) -> Division:
    """Divide rows that stand in an order: the last are test, those before them validation."""
    valid, test = _bounds(num_rows, config)
    train, valid_rows, test_rows = np.split(np.arange(num_rows), [valid, test])
    return Division({"train": train, "valid": valid_rows, "test": test_rows})


def order_of_arrival(
    places: NDArray[np.int64], lines: NDArray[np.int64], times: Sequence[str] | None = None
) -> Rows:
    """Row numbers in the order of time, ``[N]``.

    Args:
        places: which of the sources, in their order, each row is from.
        lines: where it stands there.
        times: of each row, where rows have one: it decides first.

    Raises:
        InputError: the times have no common order.
    """
    keys: list[NDArray[np.generic]] = [lines, places]
    if times is not None:
        try:
            _, moments = places_of(times)
        except InputError as error:
            raise InputError(f"rows cannot be ordered by records.time_field: {error}") from None
        ranks = {moment: rank for rank, moment in enumerate(sorted(set(moments)))}
        keys.append(np.array([ranks[moment] for moment in moments]))
    return np.lexsort(keys)


def _bounds(num: int, config: SplitsConfig) -> tuple[int, int]:
    """Where validation and where test begin among so many in order."""
    test = num - round(num * config.test)
    # Two shares that are both rounded up may be more than there is.
    return max(0, test - round(num * config.valid)), test


def rehearsed(
    groups: Sequence[str], known: Collection[str], share: float, seed: int
) -> tuple[Mask, Mask]:
    """Which rows a model has learnt already, and which rows it shall learn now: ``[N]`` each.

    What is new is learnt; of what is ``known`` a share is learnt again, whole groups drawn by a
    hash that begins with ``seed``: a network that sees only what is new forgets the rest
    (rehearsal; Robins 1995).
    """
    bound = int(share * 2**64)
    drawn = {
        group: int.from_bytes(hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest())
        < bound
        for group in dict.fromkeys(groups)
        if group in known
    }
    old = np.array([group in drawn for group in groups], bool)
    return old, np.array([drawn.get(group, True) for group in groups], bool)


def reply_pairs(
    groups: list[str], turns: NDArray[np.int32], speakers: NDArray[np.int8]
) -> tuple[Rows, Rows]:
    """Row numbers of utterances and of the replies to them.

    A reply follows at once, in the same dialogue, from the other speaker.
    """
    codes = _codes_by_arrival(groups)
    follows = (
        (codes[1:] == codes[:-1]) & (turns[1:] == turns[:-1] + 1) & (speakers[1:] != speakers[:-1])
    )
    said = np.flatnonzero(follows)
    return said, said + 1


def _split_names(groups: list[str], config: SplitsConfig) -> tuple[NDArray[np.str_], Rows]:
    """The split and a number for the group of each row."""
    codes = _codes_by_arrival(groups)
    distinct = list(dict.fromkeys(groups))
    if config.by == "hash":
        return split_of(distinct, config)[codes], codes
    valid, test = _bounds(len(distinct), config)
    names = np.full(len(distinct), "train", dtype="<U5")
    names[valid:] = "valid"
    names[test:] = "test"
    return names[codes], codes


def _codes_by_arrival(groups: list[str]) -> Rows:
    """A number for the group of each row: 0 for the group that comes first, and so on."""
    numbers: dict[str, int] = {}
    codes = (numbers.setdefault(group, len(numbers)) for group in groups)
    return np.fromiter(codes, np.int64, len(groups))


def _joined(texts: Utf8, order: Rows, codes: Rows) -> Utf8:
    """The texts in this order, those of equal ``codes``, which rise, as one.

    A line feed stands between two: so no shingle is made of the end of one and the start of
    another alone, and words that are shifted from one to the other make a difference.
    """
    data = texts.data.data
    starts, stops = texts.offsets[:-1][order].tolist(), texts.offsets[1:][order].tolist()
    parts: list[bytes | memoryview] = []
    for start, stop in zip(starts, stops, strict=True):
        parts += (data[start:stop], b"\n")
    ends = np.cumsum(texts.offsets[1:][order] - texts.offsets[:-1][order] + 1)
    last = np.flatnonzero(np.append(codes[1:] != codes[:-1], True)) if len(codes) else codes
    return Utf8(np.frombuffer(b"".join(parts), np.uint8), np.concatenate(([0], ends[last])))


def _first_of_each(*columns: NDArray[np.generic]) -> NDArray[np.bool_]:
    """True at the first row of every distinct combination."""
    order = np.lexsort(columns)
    new = np.ones(len(order), bool)
    new[1:] = np.any([column[order][1:] != column[order][:-1] for column in columns], axis=0)
    first = np.zeros(len(order), bool)
    first[order[new]] = True
    return first


def _division(
    names: NDArray[np.str_], first: Mask, leaks: Mask, documents: Documents, config: SplitsConfig
) -> Division:
    """Leave out of the rows of each split what is no first, what leaks, and what comes near."""
    train = (names == "train") & first & ~leaks
    copies, near = _near_rows(names, train, documents, config)
    if train.any() and not (train & ~copies).any():
        raise InputError(
            f"nothing is left to train on: all {train.sum()} training rows are near copies of "
            f"validation or test rows (splits.similarity {config.similarity:g}); the data repeats "
            "itself, so bring other data or ask for more similarity"
        )
    left_out = leaks | copies | near
    rows = {name: np.flatnonzero((names == name) & first & ~left_out) for name in SPLITS}
    return Division(
        rows=rows,
        num_duplicates=int((~first).sum()),
        num_leaks=int((first & leaks).sum()),
        num_near_copies=int(copies.sum()),
        num_near_duplicates=int(near.sum()),
    )


def _near_rows(
    names: NDArray[np.str_], train: Mask, documents: Documents, config: SplitsConfig
) -> tuple[Mask, Mask]:
    """Which of the ``train`` rows come near a row held out, and which near a training row."""
    of_rows, num_documents = documents.of_rows, documents.texts.num_rows
    held_out = np.zeros(num_documents, bool)
    held_out[of_rows[names != "train"]] = True
    drops = config.near_duplicates == "drop"
    none = np.zeros(len(names), bool)
    if not (train.any() and (drops or held_out.any())):
        return none, none
    sketches = Sketches.of(documents.texts)
    copies = near_copies(sketches, held_out, config.similarity)[of_rows] & train
    if not drops:
        return copies, none
    trained = np.zeros(num_documents, bool)
    trained[of_rows[train & ~copies]] = True
    near = later_near_duplicates(sketches, trained, config.similarity)[of_rows]
    return copies, near & train & ~copies
