"""The translation of a text, or the reply to it."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ...networks.recurrent import Hidden
from ...text.vocabulary import BOS
from ..batches import padded_texts
from ..predictor import Candidate, Predictor, best_hypotheses
from ..ragged import Ragged
from .problem import EXTRA_WORDS, EncoderDecoder, Memory


class Seq2SeqPredictor(Predictor):
    """The translation of each text, or the reply to it, by beam search (``beam`` 1 is greedy)."""

    parameters: ClassVar[dict[str, tuple[type, Any]]] = {
        "top": (int, 1),
        "max_tokens": (int, 50),
        "beam": (int, 5),
    }
    model: EncoderDecoder

    @torch.inference_mode()
    def answer(  # type: ignore[override]
        self, ids: Ragged, *, top: int, max_tokens: int, beam: int
    ) -> list[list[Candidate]]:
        # Nothing has one translation, and it is certain.
        answers = [[Candidate("", 0.0)] for _ in range(len(ids))]
        rows = np.flatnonzero(ids.lengths).tolist()
        if not rows:
            return answers
        filled = Ragged.of([ids[row] for row in rows])
        memory, hidden, first = self.start(filled)
        limits = self.limits(filled, max_tokens)
        found = best_hypotheses(self.model.step, memory, hidden, first, beam, limits, top)
        for row, hypotheses in zip(rows, found, strict=True):
            answers[row] = [
                Candidate(self.text_of(one.words), one.log_probability) for one in hypotheses
            ]
        return answers

    def limits(self, ids: Ragged, max_tokens: int) -> Tensor:
        """Words of the answer to each source, at most, ``[B]``.

        An exact search must rule out every longer answer, which takes the longer the more are
        allowed; those that no target of the training was like are not looked for.
        """
        limits = np.full(len(ids), max_tokens)
        if self.config.length_ratio is not None:
            by_source = np.ceil(self.config.length_ratio * ids.lengths) + EXTRA_WORDS
            limits = np.minimum(limits, by_source.astype(np.int64))
        return torch.from_numpy(limits).to(self.device)

    @torch.inference_mode()
    def start(self, ids: Ragged) -> tuple[Memory, Hidden, Tensor]:
        """What the encoder makes of source sentences, and each target's first word, ``[B]``."""
        source, lengths = padded_texts(ids, np.arange(len(ids)))
        memory, hidden = self.model.encode(source.to(self.device), lengths.to(self.device))
        return memory, hidden, torch.full((len(ids),), BOS, device=self.device)

    def text_of(self, words: Sequence[int]) -> str:
        """The text of ids that were found by search."""
        return self.tokenizers[1].detokenise(self.vocabularies[1].decode(words))
