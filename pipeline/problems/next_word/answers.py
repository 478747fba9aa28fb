"""The likeliest next words, also as somebody types."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch

from ...text.vocabulary import BOS
from ..predictor import Candidate, Predictor, Session
from ..ragged import Ragged
from .problem import WindowModel, WindowNgramModel

if TYPE_CHECKING:
    from ..predictor import Candidate


class NextWordPredictor(Predictor):
    """The likeliest next words after each text, with their probabilities."""

    parameters: ClassVar[dict[str, tuple[type, Any]]] = {"top": (int, 5)}
    model: WindowModel | WindowNgramModel

    @torch.inference_mode()
    def answer(self, ids: Ragged, *, top: int) -> list[list[Candidate]]:  # type: ignore[override]
        window: int = self.config.problem.window  # type: ignore[attr-defined]
        columns = np.full((window, len(ids)), BOS, np.int32)
        for row, words in enumerate(ids):
            tail = words[-window:]
            columns[window - len(tail) :, row] = tail
        return self.next_words(
            self.model.log_probabilities(torch.from_numpy(columns).to(self.device)), top
        )

    def session(self) -> Session:
        return WindowSession(self)


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
