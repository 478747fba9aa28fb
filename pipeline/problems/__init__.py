"""One file a learning problem: its model, its batches, its settings."""

from .language_model import LanguageModel
from .next_word import NextWord
from .problem import Problem
from .seq2seq import Seq2Seq

__all__ = ["PROBLEMS", "LanguageModel", "NextWord", "Problem", "Seq2Seq"]

PROBLEMS: dict[str, type[Problem]] = {
    "language_model": LanguageModel,
    "next_word": NextWord,
    "seq2seq": Seq2Seq,
}
