"""The likeliest labels of a text."""

from typing import Any, ClassVar

import numpy as np
import torch

from ...text.vocabulary import SPECIALS
from ..batches import padded_texts
from ..predictor import Candidate, Predictor
from ..ragged import Ragged
from .problem import Classification, MostFrequentClassifier, TextClassifier


class ClassificationPredictor(Predictor):
    """The likeliest labels of each text, with their probabilities."""

    parameters: ClassVar[dict[str, tuple[type, Any]]] = {"top": (int, 3)}
    model: TextClassifier | MostFrequentClassifier

    @torch.inference_mode()
    def answer(self, ids: Ragged, *, top: int) -> list[list[Candidate]]:  # type: ignore[override]
        problem = self.config.problem
        assert isinstance(problem, Classification)
        words, lengths = padded_texts(problem.cut(ids), np.arange(len(ids)))
        features = self.model.text_features(words.to(self.device), lengths.to(self.device))
        # A special is no label.
        probabilities = self.model.logits(features)[:, len(SPECIALS) :].softmax(-1)
        best = probabilities.topk(min(top, probabilities.shape[1]), dim=1)
        labels = self.vocabularies[1].words
        return [
            [Candidate(labels[index], share) for index, share in zip(*row, strict=True)]
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]
