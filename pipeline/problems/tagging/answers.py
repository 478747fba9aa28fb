"""The tag of every token of a text."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ...text.vocabulary import PAD, SPECIALS
from ..predictor import Candidate, Predictor
from ..ragged import Ragged
from .problem import MostFrequentTagger, TokenTagger


class TaggingPredictor(Predictor):
    """The tokens of each text with their tags, as ``token/tag`` apart by blanks."""

    parameters: ClassVar[dict[str, tuple[type, Any]]] = {}
    model: TokenTagger | MostFrequentTagger

    def answer_texts(self, texts: Sequence[str]) -> list[list[Candidate]]:  # type: ignore[override]
        tokens = self.tokenized(texts)
        tags, scores = self.tags(self.encoded(tokens))
        return [
            [Candidate(" ".join(map("/".join, zip(*pair, strict=True))), score)]
            for *pair, score in zip(tokens, tags, scores, strict=True)
        ]

    def answer(self, ids: Ragged) -> list[list[Candidate]]:  # type: ignore[override]
        """The tags alone."""
        return [
            [Candidate(" ".join(tags), score)] for tags, score in zip(*self.tags(ids), strict=True)
        ]

    @torch.inference_mode()
    def tags(self, ids: Ragged) -> tuple[list[list[str]], list[float]]:
        """The likeliest tag of every token of each row, and their summed log-probability."""
        lengths = ids.lengths
        filled = np.flatnonzero(lengths)
        tags: list[list[str]] = [[] for _ in lengths]
        scores = [0.0] * len(lengths)
        if len(filled):
            words = torch.from_numpy(ids.padded(filled, PAD).T.astype(np.int32)).to(self.device)
            real = torch.from_numpy(lengths[filled]).to(self.device)
            logits = self.model.logits(self.model.token_features(words, real))
            # A special is no tag.
            best = logits[..., len(SPECIALS) :].log_softmax(-1).max(-1)
            names = self.vocabularies[1].words
            for column, row in enumerate(filled.tolist()):
                size = int(lengths[row])
                tags[row] = [names[index] for index in best.indices[:size, column].tolist()]
                scores[row] = float(best.values[:size, column].sum())
        return tags, scores
