"""The next values of a series."""

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from ...errors import InputError
from ...series import read_numbers
from ..predictor import Candidate, Predictor
from ..ragged import Ragged
from .problem import Forecaster, Forecasting, forecast


class ForecastPredictor(Predictor):
    """The next values behind each series, the nearest first; a series is written as numbers."""

    parameters: ClassVar[dict[str, tuple[type, Any]]] = {"horizon": (int, 12)}
    example: ClassVar[str] = ""
    model: Forecaster

    def answer_texts(  # type: ignore[override]
        self, texts: Sequence[str], *, horizon: int
    ) -> list[list[Candidate]]:
        series = [read_numbers(text) if text.strip() else np.zeros(0) for text in texts]
        return self.answer(
            Ragged(
                np.concatenate([np.zeros(0), *series]),
                np.cumsum([0, *map(len, series)]),
            ),
            horizon=horizon,
        )

    def answer(self, ids: Ragged, *, horizon: int) -> list[list[Candidate]]:  # type: ignore[override]
        """Forecasts behind rows of values; none behind an empty row.

        Raises:
            InputError: for a row shorter than the model's window.
        """
        problem = self.config.problem
        assert isinstance(problem, Forecasting)
        answers: list[list[Candidate]] = [[] for _ in range(len(ids))]
        rows = np.flatnonzero(ids.lengths)
        short = [row for row in rows.tolist() if len(ids[row]) < problem.window]
        if short:
            raise InputError(
                f"series {short[0] + 1} has {len(ids[short[0]])} values, and this model forecasts "
                f"from {problem.window}: give at least so many of the last ones"
            )
        if not len(rows):
            return answers
        windows = np.stack([ids[row][-problem.window :] for row in rows.tolist()], axis=1)
        if problem.log and windows.min() <= 0:
            raise InputError("this model learnt logarithms: give values above 0")
        values = forecast(self.model, torch.from_numpy(windows).to(self.device), horizon)
        for row, ahead in zip(rows.tolist(), values.T.tolist(), strict=True):
            answers[row] = [Candidate(f"{value:.6g}", value) for value in ahead]
        return answers
