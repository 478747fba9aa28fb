"""One file a learning problem: its model, its batches, its settings."""

from .classification import Classification
from .forecasting import Forecasting
from .language_model import LanguageModel
from .next_word import NextWord
from .problem import Problem
from .seq2seq import Seq2Seq
from .tagging import Tagging

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
