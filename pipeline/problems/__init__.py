"""One file a learning problem: its model, its batches, its settings."""

from .classification.problem import Classification
from .forecasting.problem import Forecasting
from .language_model.problem import LanguageModel
from .next_word.problem import NextWord
from .problem import Problem
from .seq2seq.problem import Seq2Seq
from .tagging.problem import Tagging

__all__ = [
    "PROBLEMS",
    "Classification",
    "Forecasting",
    "LanguageModel",
    "NextWord",
    "Problem",
    "Seq2Seq",
    "Tagging",
]

PROBLEMS: dict[str, type[Problem]] = {
    "classification": Classification,
    "forecasting": Forecasting,
    "language_model": LanguageModel,
    "next_word": NextWord,
    "seq2seq": Seq2Seq,
    "tagging": Tagging,
}
