"""Words to ids and back: the vocabulary, how much of a text it covers, what unknown words cost.

Four ids come before every ordinary word: `PAD`, `UNK`, `BOS`, `EOS`. They are ids by position,
never by string, so a text that holds the characters "<unk>" holds an ordinary word.

Shapes: `V` is the size of a vocabulary, specials included.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

PAD, UNK, BOS, EOS = 0, 1, 2, 3

SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")

VOCABULARIES = ("vocabulary", "target_vocabulary")
"""What the vocabularies of a checkpoint are called: the inputs', and the predicted side's."""

SUBWORDS = ("subwords", "target_subwords")
"""What beside them is called that cuts the inputs and the predicted side into subwords."""

# Unicode scalar values: every code point but the 2,048 surrogates.
_NUM_SCALARS = 0x110000 - 0x800


@dataclass(frozen=True)
class VocabularyConfig:
    """Which words get an id of their own.

    `max_size` bounds `V`, specials included (None: no bound); a word seen fewer than `min_count`
    times is left out.
    """

    max_size: int | None = None
    min_count: int = 1

    def __post_init__(self) -> None:
        if self.max_size is not None and self.max_size <= len(SPECIALS):
            raise InputError(
                f"vocabulary max_size is {self.max_size}: it counts the {len(SPECIALS)} special "
                f"ids too, so give {len(SPECIALS) + 1} or more, or none for no bound"
            )
        if self.min_count < 1:
            raise InputError(f"vocabulary min_count is {self.min_count}: give 1 or more")


@dataclass(frozen=True)
class Coverage:
    """How much of a text a vocabulary knows: running words (tokens) and distinct words (types)."""

    num_tokens: int
    num_unknown: int
    num_types: int
    num_unknown_types: int

    @property
    def unknown_rate(self) -> float:
        """Share of the running words that are unknown; 0 for an empty text."""
        return self.num_unknown / self.num_tokens if self.num_tokens else 0.0


COVERAGE_SIZES = (1_000, 2_000, 5_000, 10_000, 20_000, 50_000, 100_000)
"""Numbers of words at which it is told how much of a text they are."""


def coverage_by_size(counts: Sequence[int] | np.ndarray) -> dict[int, float]:
    """Number of words -> share of the running words that these, the most frequent, make up.

    For `COVERAGE_SIZES` and for all distinct words. `counts`: how often each of them occurs.
    """
    falling = np.sort(np.asarray(counts, dtype=np.int64))[::-1]
    running = np.cumsum(falling)
    if not len(running) or not running[-1]:
        return {}
    sizes = [*(size for size in COVERAGE_SIZES if size < len(falling)), len(falling)]
    return {size: float(running[size - 1] / running[-1]) for size in sizes}


class Vocabulary:
    """An ordered set of words; the id of a word is its position plus four.

    Raises `ValueError` for a word that stands twice.
    """

    def __init__(self, words: Iterable[str]) -> None:
        self.words: tuple[str, ...] = tuple(words)
        self._ids = {word: index for index, word in enumerate(self.words, len(SPECIALS))}
        if len(self._ids) != len(self.words):
            raise ValueError("a vocabulary holds each word once")

    @classmethod
    def build(
        cls, words: Sequence[str], counts: Sequence[int] | np.ndarray, config: VocabularyConfig
    ) -> "Vocabulary":
        """From distinct words and how often each occurs; the order given does not matter.

        Ids go by count, the highest first, and by code points among equal counts.
        """
        return cls(()).extend(words, counts, config)

    def extend(
        self, words: Sequence[str], counts: Sequence[int] | np.ndarray, config: VocabularyConfig
    ) -> "Vocabulary":
        """Keep every old id and put the new words that `config` admits behind them.

        Weights that were trained with the old vocabulary stay valid for its ids.
        """
        assert len(words) == len(counts), "one count for each word"
        new = [
            (-int(count), word)
            for word, count in zip(words, counts, strict=True)
            if count >= config.min_count and word not in self._ids
        ]
        new.sort()
        if config.max_size is not None:
            del new[max(0, config.max_size - len(self)) :]
        return Vocabulary((*self.words, *(word for _, word in new)))

    def __len__(self) -> int:
        """`V`: ordinary words and specials."""
        return len(SPECIALS) + len(self.words)

    def __contains__(self, word: object) -> bool:
        return word in self._ids

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.words == other.words

    def __hash__(self) -> int:
        return hash(self.words)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} ids, {self.digest[:12]})"

    def ids_of(self, dictionary: Sequence[str]) -> npt.NDArray[np.int32]:
        """int32 [len(dictionary)]: the id of each word, `UNK` for a word without one."""
        known = self._ids.get
        return np.fromiter(
            (known(word, UNK) for word in dictionary), dtype=np.int32, count=len(dictionary)
        )

    def encode(self, tokens: Sequence[str]) -> npt.NDArray[np.int32]:
        """int32 [T]: the ids of one text's tokens; no special is added."""
        return self.ids_of(tokens)

    def decode(self, ids: Iterable[int] | np.ndarray) -> list[str]:
        """The words of `ids`; a special comes back as its name in `SPECIALS`.

        Raises `IndexError` for an id outside `[0, V)`.
        """
        names = self._names
        decoded = []
        for index in ids:
            if not 0 <= index < len(names):
                raise IndexError(f"id {index} is outside the vocabulary of {len(names)}")
            decoded.append(names[int(index)])
        return decoded

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return SPECIALS + self.words

    def coverage(self, words: Sequence[str], counts: Sequence[int] | np.ndarray) -> Coverage:
        """How much of a text with these distinct words and counts has an id."""
        weights = np.asarray(counts, dtype=np.int64)
        unknown = self.ids_of(words) == UNK
        return Coverage(
            num_tokens=int(weights.sum()),
            num_unknown=int(weights[unknown].sum()),
            num_types=len(words),
            num_unknown_types=int(unknown.sum()),
        )

    def to_json(self) -> str:
        """ASCII JSON; equal vocabularies give equal text."""
        return json.dumps({"specials": SPECIALS, "words": self.words}, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Vocabulary":
        """Back from `to_json`. Raises `InputError` where the text is no vocabulary."""
        value = _json_object(text, "vocabulary")
        words = value.get("words")
        if value.get("specials") != list(SPECIALS):
            raise InputError(f"a vocabulary's specials must be {', '.join(SPECIALS)}")
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            raise InputError("a vocabulary's words must be a list of strings")
        if len(set(words)) != len(words):
            raise InputError("a vocabulary must hold each word once")
        return cls(words)

    @cached_property
    def digest(self) -> str:
        """32 hex digits of the content: equal for equal words in equal order."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()


class Spelling:
    """What an unknown word costs when it is spelled out, in nats.

    A word is its characters and an end, each drawn from one unigram distribution with add-one
    smoothing. Code points that were never seen share one more symbol, evenly. The probabilities of
    all words sum to one, so that bits per character can be compared across vocabularies: an unknown
    token costs the model's nats for `UNK` and these nats on top.
    """

    def __init__(self, counts: dict[str, int], num_words: int) -> None:
        """`counts`: how often each character occurs; `num_words`: how often a word ends."""
        self.counts = dict(sorted(counts.items()))
        self.num_words = num_words
        total = sum(self.counts.values()) + num_words
        # The symbols are the characters seen, the end, and the class of the unseen.
        log_total = math.log(total + len(self.counts) + 2)
        self._nats = {char: log_total - math.log(n + 1) for char, n in self.counts.items()}
        self._end = log_total - math.log(num_words + 1)
        self._unseen = log_total + math.log(_NUM_SCALARS - len(self.counts))

    @classmethod
    def build(
        cls, words: Sequence[str], counts: Sequence[int] | np.ndarray, vocabulary: Vocabulary
    ) -> "Spelling":
        """From the training words that `vocabulary` leaves out, and from those seen once.

        Words seen once are taken even where they have an id: they are the best evidence of what the
        next unknown word looks like when the vocabulary leaves nothing out (Good 1953).
        """
        characters: dict[str, int] = {}
        num_words = 0
        for word, count in zip(words, counts, strict=True):
            if count == 1 or word not in vocabulary:
                num_words += int(count)
                for char in word:
                    characters[char] = characters.get(char, 0) + int(count)
        return cls(characters, num_words)

    def nats(self, words: Sequence[str]) -> npt.NDArray[np.float64]:
        """float64 [len(words)]: the cost of each word, its end included."""
        cost = self._nats.get
        unseen = self._unseen
        return np.fromiter(
            (self._end + sum(cost(char, unseen) for char in word) for word in words),
            dtype=np.float64,
            count=len(words),
        )

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Spelling)
            and self.counts == other.counts
            and self.num_words == other.num_words
        )

    def __hash__(self) -> int:
        return hash((tuple(self.counts.items()), self.num_words))

    def to_json(self) -> str:
        """ASCII JSON; equal spellings give equal text."""
        value = {"characters": self.counts, "num_words": self.num_words}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Spelling":
        """Back from `to_json`. Raises `InputError` where the text is no spelling."""
        value = _json_object(text, "spelling")
        characters, num_words = value.get("characters"), value.get("num_words")
        if not isinstance(characters, dict) or not all(
            len(char) == 1 and _is_count(count) for char, count in characters.items()
        ):
            raise InputError("a spelling's characters must map single characters to counts")
        if not isinstance(num_words, int) or not _is_count(num_words):
            raise InputError("a spelling's num_words must be a count")
        return cls(characters, num_words)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _json_object(text: str, what: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise InputError(f"a {what} must be JSON: {error}") from None
    if not isinstance(value, dict):
        raise InputError(f"a {what} must be a JSON object")
    return value
