"""Continuations of a text, and next tokens as somebody types."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor

from ...networks.recurrent import Hidden
from ...search.search import Hypothesis, NoMemory, sample
from ...text.vocabulary import EOS
from ..predictor import Candidate, Predictor, Session, best_hypotheses
from ..problem import digest_seed
from ..ragged import Ragged
from .problem import StreamModel, StreamNgramModel

if TYPE_CHECKING:
    from ..predictor import Candidate


class ContinuationPredictor(Predictor):
    """How each text may go on. ``temperature`` 0 searches by beam; above 0 it draws."""

    parameters: ClassVar[dict[str, tuple[type, Any]]] = {
        "top": (int, 1),
        "max_tokens": (int, 30),
        "temperature": (float, 0.8),
        "beam": (int, 5),
        "seed": (int, 0),
    }
    model: StreamModel | StreamNgramModel

    @torch.inference_mode()
    def answer(  # type: ignore[override]
        self, ids: Ragged, *, top: int, max_tokens: int, temperature: float, beam: int, seed: int
    ) -> list[list[Candidate]]:
        generator = torch.Generator(device=self.device)
        answers = []
        for row in ids:
            # What is drawn for a text depends on nothing but the text and the seed.
            generator.manual_seed(digest_seed(seed, *row.tolist()))
            memory, hidden, first = self.start(Ragged.of([row]))
            hypotheses: list[Hypothesis]
            if temperature > 0:
                many = tuple(part.expand(-1, top, -1).contiguous() for part in hidden)
                hypotheses = sample(
                    self.model.step,
                    memory,
                    many,
                    first.expand(top),
                    max_tokens=max_tokens,
                    temperature=temperature,
                    generator=generator,
                )
                hypotheses.sort(key=lambda one: -one.score)
            else:
                hypotheses = best_hypotheses(
                    self.model.step, memory, hidden, first, beam, max_tokens, top
                )[0]
            answers.append(
                [Candidate(self.text_of(one.words), one.log_probability) for one in hypotheses]
            )
        return answers

    @torch.inference_mode()
    def start(self, ids: Ragged) -> tuple[NoMemory, Hidden, Tensor]:
        """The state after all but the last word of one text, and that word, ``[1]``.

        As in training, a text begins behind the ``<eos>`` of the one before it.
        """
        prompt = torch.tensor([EOS, *ids[0].tolist()], device=self.device)
        return NoMemory(), self.model.read(prompt[:-1, None]), prompt[-1:]

    def session(self) -> Session:
        return StreamSession(self)

    def text_of(self, words: Sequence[int]) -> str:
        """The text of ids that were found by search."""
        return self.tokenizers[0].detokenise(self.vocabularies[0].decode(words))


KEPT_STATES = 256
"""Words that can be taken back at no cost; beyond them the text is read again."""


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
