"""A text as it is typed: words go in one by one, at any moment the next ones are asked for.

Shape letters: ``L`` layers, ``H`` hidden, ``V`` vocabulary.

A session is of one model and one text, and for one thread at a time; a model may have many.
"""

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from .errors import InputError
from .problems.language_model import StreamModel
from .ragged import Ragged
from .recurrent import Hidden
from .search import NoMemory
from .vocabulary import EOS

if TYPE_CHECKING:
    from .prediction import Candidate, ContinuationPredictor, NextWordPredictor, Predictor

KEPT_STATES = 256
"""Words that can be taken back at no cost; beyond them the text is read again."""


class Session(ABC):
    """A text that grows and shrinks, and what is likely to come next.

    Attributes:
        words: the text so far, as it was cut.
    """

    def __init__(self, predictor: "Predictor") -> None:
        self._predictor = predictor
        self._ids: list[int] = []
        self.words: list[str] = []

    def feed(self, text: str) -> list[str]:
        """Put a piece of text behind what is there, and return the words that it was cut into.

        It is cleaned and cut as training cut its texts, by itself: what stands before it has no say
        in where a word ends. :meth:`replace` cuts a text as a whole.
        """
        words = self._predictor.tokenizers[0].tokenize(text)
        self.feed_words(words)
        return words

    def feed_words(self, words: Sequence[str]) -> None:
        """Put words behind what is there that were cut before; an unknown one counts as unknown."""
        ids = self._predictor.vocabularies[0].encode(words).tolist()
        self._read(ids)
        self._ids += ids
        self.words += words

    def replace(self, text: str) -> None:
        """Make this the whole text, as it stands now where somebody types.

        Only what follows the words that old and new text begin with is read.
        """
        (words,) = self._predictor.tokenized([text])
        same = 0
        while same < min(len(words), len(self.words)) and words[same] == self.words[same]:
            same += 1
        self._drop(len(self.words) - same)
        self.feed_words(words[same:])

    def undo(self, count: int = 1) -> None:
        """Take the last words back.

        Raises:
            InputError: for fewer than 0 words, or more than there are.
        """
        if not 0 <= count <= len(self.words):
            raise InputError(f"{count} words cannot be taken back: there are {len(self.words)}")
        self._drop(count)

    def reset(self) -> None:
        """Begin a new text."""
        self._drop(len(self.words))

    def suggest(self, top: int = 5) -> "list[Candidate]":
        """The likeliest next words with their probabilities, the best first; specials are not
        among them.

        Raises:
            InputError: for fewer than one.
        """
        if top < 1:
            raise InputError(f"top is {top}: it must be at least 1")
        return self._likeliest(top)

    def _drop(self, count: int) -> None:
        if count:
            del self._ids[-count:], self.words[-count:]
            self._take_back(count)

    @abstractmethod
    def _read(self, ids: Sequence[int]) -> None:
        """Go on by words; ``self._ids`` are those before them."""

    @abstractmethod
    def _take_back(self, count: int) -> None:
        """Go back by ``count`` words; ``self._ids`` are those that remain."""

    @abstractmethod
    def _likeliest(self, top: int) -> "list[Candidate]": ...


class WindowSession(Session):
    """The window is read anew for every suggestion, which so equals that of ``predict``, bit for
    bit.

    There is no exact way to save that work: when the window moves on by a word, the word that falls
    out of it has left its trace in every state, and no state tells what it would be without.
    """

    _predictor: "NextWordPredictor"

    def _read(self, ids: Sequence[int]) -> None:
        pass

    def _take_back(self, count: int) -> None:
        pass

    def _likeliest(self, top: int) -> "list[Candidate]":
        window: int = self._predictor.config.problem.window  # type: ignore[attr-defined]
        return self._predictor.answer(Ragged.of([self._ids[-window:]]), top=top)[0]


@dataclass
class _Place:
    """A place in a stream: the state before its last word, ``[L, 1, H]``, and that word.

    What follows from both is worked out when it is first needed: ``logits`` (``[1, V]``) where a
    suggestion is asked for, the state ``following`` where one is or the text goes on.
    """

    hidden: Hidden
    word: int
    logits: Tensor | None = None
    following: Hidden | None = None


class StreamSession(Session):
    """The state is carried from word to word, so that a suggestion costs one step, however long the
    text is. As in training, a text begins behind the ``<eos>`` of the one before it."""

    _predictor: "ContinuationPredictor"

    def __init__(self, predictor: "ContinuationPredictor") -> None:
        super().__init__(predictor)
        self._model = predictor.model
        self._places: deque[_Place] = deque(maxlen=KEPT_STATES + 1)
        self._begin()

    @torch.inference_mode()
    def _begin(self) -> None:
        no_words = torch.empty((0, 1), dtype=torch.long, device=self._predictor.device)
        self._places.clear()
        self._places.append(_Place(self._model.read(no_words), EOS))

    def _read(self, ids: Sequence[int]) -> None:
        for index in ids:
            last = self._places[-1]
            if last.following is None:
                self._step(last, scored=False)
            assert last.following is not None
            # A place before the last costs its state alone.
            last.logits = None
            self._places.append(_Place(last.following, index))
            last.following = None

    def _take_back(self, count: int) -> None:
        if count < len(self._places):
            for _ in range(count):
                self._places.pop()
            return
        self._begin()
        self._read(self._ids)

    def _likeliest(self, top: int) -> "list[Candidate]":
        last = self._places[-1]
        if last.logits is None:
            self._step(last, scored=True)
        assert last.logits is not None
        return self._predictor.next_words(last.logits.log_softmax(-1), top)[0]

    @torch.inference_mode()
    def _step(self, place: _Place, *, scored: bool) -> None:
        word = torch.tensor([[place.word]], device=self._predictor.device)
        if isinstance(self._model, StreamModel) and not scored:
            vectors = self._model.embedding(word)
            place.following = self._model.stack.step(vectors, place.hidden)[1]
            return
        logits, place.following = self._model.step(word, place.hidden, NoMemory())
        place.logits = logits[0]
