"""Subword units: frequent words stay whole, rare ones fall into pieces that are known.

Byte pair encoding (Sennrich, Haddow, Birch 2016), over characters: from single characters on, the
pair of neighbours that is seen most often becomes a piece, until there are as many pieces as asked
for. No piece reaches over a border between Chinese characters, other letters, digits and
punctuation. A blank belongs to the word behind it, so pieces put one behind the other are the text,
and nothing is lost.

What was learnt is kept as plain text, and the `tokenizers` library applies it.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError

_BORDERS = r" ?\p{Han}+| ?[\p{L}\p{M}&&[^\p{Han}]]+| ?\p{N}+| ?[^\s\p{L}\p{M}\p{N}]+|\s+"

# The library's name for a character that it never saw: the one string that no text can hold.
_UNSEEN = ""


class Subwords:
    """Pieces of words, and how they are put together.

    Attributes:
        characters: every single character that is known, in the order of their code points.
        merges: pairs of pieces that become one, those seen most often first.
    """

    def __init__(self, characters: str, merges: Iterable[tuple[str, str]]) -> None:
        self.characters = characters
        self.merges = tuple(merges)

    @classmethod
    def train(cls, texts: Iterable[str], size: int) -> "Subwords":
        """Learn `size` pieces from normalised texts. Equal texts give equal pieces.

        Raises `InputError` where `size` leaves no room beside the single characters.
        """
        from tokenizers import models, trainers

        library = _library(models.BPE())
        trainer = trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=[])
        library.train_from_iterator(texts, trainer)
        learnt = json.loads(library.to_str())["model"]
        characters = "".join(sorted(piece for piece in learnt["vocab"] if len(piece) == 1))
        if len(characters) >= size:
            raise InputError(
                f"subword_size {size} leaves no room for pieces: the training texts have "
                f"{len(characters)} different characters, so give more than that"
            )
        return cls(characters, map(tuple, learnt["merges"]))

    @property
    def pieces(self) -> list[str]:
        """All different pieces, single characters first."""
        return list(self._ids)[:-1]

    def __len__(self) -> int:
        """How many different pieces there are."""
        return len(self._ids) - 1

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Subwords) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((self.characters, self.merges))

    def cut(self, text: str) -> list[str]:
        """The pieces of one text; a character that was never seen is a piece of its own."""
        stops = np.cumsum(self._lengths[self._applied.encode(text).ids]).tolist()
        return [text[a:b] for a, b in zip([0, *stops], stops, strict=False)]

    def ends(self, texts: Sequence[str]) -> npt.NDArray[np.bool_]:
        """bool [T]: whether a piece ends behind each of the T characters of all texts."""
        ends = np.zeros(sum(map(len, texts)), bool)
        ids = [one.ids for one in self._applied.encode_batch(texts)]
        flat = np.fromiter((each for row in ids for each in row), np.int64)
        ends[np.cumsum(self._lengths[flat]) - 1] = True
        return ends

    @cached_property
    def _ids(self) -> dict[str, int]:
        pieces = [*self.characters, *("".join(pair) for pair in self.merges), _UNSEEN]
        return {piece: number for number, piece in enumerate(dict.fromkeys(pieces))}

    @cached_property
    def _lengths(self) -> npt.NDArray[np.int64]:
        """The number of characters of each piece; one that was never seen stands alone."""
        return np.array([len(piece) or 1 for piece in self._ids], np.int64)

    @cached_property
    def _applied(self) -> Any:
        from tokenizers import models

        return _library(models.BPE(self._ids, list(self.merges), unk_token=_UNSEEN))

    def to_json(self) -> str:
        """ASCII JSON; equal pieces give equal text."""
        value = {"characters": self.characters, "merges": self.merges}
        return json.dumps(value, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> "Subwords":
        """Back from `to_json`. Raises `InputError` where the text holds no subwords."""
        try:
            value = json.loads(text)
            subwords = cls(value["characters"], [(str(a), str(b)) for a, b in value["merges"]])
            known = set(subwords.characters)
            for pair in subwords.merges:
                if not known.issuperset(pair):
                    raise ValueError(f"{pair} joins pieces that are not there")
                known.add("".join(pair))
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"subwords must be characters and merges in JSON: {error}") from None
        return subwords

    @cached_property
    def digest(self) -> str:
        """32 hex digits of the content."""
        return hashlib.blake2b(self.to_json().encode(), digest_size=16).hexdigest()


def _library(model: Any) -> Any:
    from tokenizers import Regex, Tokenizer, pre_tokenizers

    library = Tokenizer(model)
    library.pre_tokenizer = pre_tokenizers.Split(Regex(_BORDERS), "isolated")
    return library
