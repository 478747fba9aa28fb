"""Text in, text out: a trained model as people and programs ask it."""

import reprlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..networks.recurrent import Hidden, NetworkConfig, Variant
from ..networks.variants import Baseline
from ..search.search import Hypothesis, beam, greedy
from ..text.config import TextConfig
from ..text.subwords import Subwords
from ..text.tokenizer import Tokenizer
from ..text.utf8 import BLANKS
from ..text.vocabulary import SPECIALS, Vocabulary
from .models import Model
from .problem import Problem
from .ragged import Ragged

FORMAT = 1
"""Version of the checkpoint's ``config.json``."""

BATCH_ROWS = 64
"""Texts that go through the network at once."""


@dataclass(frozen=True)
class Candidate:
    """One answer.

    ``score`` is a probability for ``next_word`` and ``classification``, the forecast value for
    ``forecasting``, and a log-probability elsewhere.
    """

    text: str
    score: float


@dataclass(frozen=True)
class ModelConfig:
    """What a model is, apart from its weights and vocabularies: all that rebuilds it.

    ``text`` is how text becomes tokens, None for series; ``target_text`` the same for the target
    side of pairs, None without one. ``length_ratio`` is of pairs too, learnt from those of the
    training (``Seq2Seq.length_ratio``); None where it is not known, and sources limit no output.
    """

    problem: Problem
    variant: Variant | Baseline
    network: NetworkConfig
    text: TextConfig | None = None
    target_text: TextConfig | None = None
    length_ratio: float | None = field(default=None, kw_only=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, which :func:`read_config` reads back."""
        return {
            "format": FORMAT,
            "problem": asdict(self.problem),
            "variant": self.variant.name,
            "network": asdict(self.network),
            "text": asdict(self.text) if self.text else None,
            "target_text": asdict(self.target_text) if self.target_text else None,
            "length_ratio": self.length_ratio,
        }


class Predictor(ABC):
    """A model with its tokenizers and vocabularies.

    Attributes:
        texts: how the inputs and, for pairs, the targets are cut into tokens.
        subwords: what cuts each of them into subwords; None where something else does.
        tokenizers, vocabularies: one for each of them.
        parameters: what :meth:`predict` takes beside texts: name -> (type, default).
    """

    parameters: ClassVar[dict[str, tuple[type, Any]]]
    example: ClassVar[str] = "今天天气"
    """A text that every such model can answer."""

    def __init__(
        self,
        config: ModelConfig,
        model: Model,
        vocabularies: Sequence[Vocabulary],
        device: torch.device,
        subwords: Sequence[Subwords | None] = (None, None),
    ) -> None:
        self.config = config
        self.model = model.to(device).eval()
        self.vocabularies = tuple(vocabularies)
        self.device = device
        self.texts = tuple(text for text in (config.text, config.target_text) if text)
        self.subwords = tuple(subwords[: len(self.texts)])
        self.tokenizers = tuple(
            Tokenizer(text, subwords=learnt)
            for text, learnt in zip(self.texts, self.subwords, strict=True)
        )

    def predict(self, texts: Sequence[str], **parameters: Any) -> list[list[Candidate]]:
        """Answers to each text, best first; see ``parameters`` for what can be set.

        Raises:
            InputError: for a parameter that this model does not have, or a value out of range.
        """
        chosen = {name: default for name, (_, default) in self.parameters.items()}
        chosen |= self.checked_parameters(parameters)
        answers: list[list[Candidate]] = [[] for _ in texts]
        # Texts of like length go through the network together: a batch waits for its longest.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            found = self.answer_texts([texts[row] for row in rows], **chosen)
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
        return answers

    def checked_parameters(self, parameters: Mapping[str, Any]) -> dict[str, int | float]:
        """The parameters as numbers of their types; without those that are None.

        Raises:
            InputError: for a parameter that this model does not have, or a value out of range.
        """
        for name in parameters:
            if name not in self.parameters:
                known = ", ".join(self.parameters)
                raise InputError(
                    f"{self.config.problem.name} has no parameter {name!r}: "
                    + (f"it takes {known}" if known else "it takes none")
                )
        return {
            name: _checked_parameter(name, value, self.parameters[name][0])
            for name, value in parameters.items()
            if value is not None
        }

    def session(self) -> "Session":
        """A text as somebody types it, with the likeliest next words at any moment.

        Raises:
            InputError: where the model predicts no next word.
        """
        raise InputError(
            f"{self.config.problem.name} predicts no next word as you type: next_word and "
            f"language_model do"
        )

    def answer_texts(self, texts: Sequence[str], **parameters: Any) -> list[list[Candidate]]:
        """Answers to texts that fit one batch, with every parameter given."""
        return self.answer(self.encoded(self.tokenized(texts)), **parameters)

    def tokenized(self, texts: Sequence[str]) -> list[list[str]]:
        """The tokens of each text, stripped of blanks at its ends as the texts of records are."""
        return [self.tokenizers[0].tokenize(text.strip(BLANKS)) for text in texts]

    def encoded(self, tokens: Sequence[Sequence[str]]) -> Ragged:
        """Their ids."""
        return Ragged.of([self.vocabularies[0].encode(row) for row in tokens])

    def next_words(self, log_probabilities: Tensor, top: int) -> list[list[Candidate]]:
        """The likeliest words of each row of ``log_probabilities [B, V]``, the best first."""
        # A special is no word that could be offered.
        words_only = log_probabilities[:, len(SPECIALS) :].exp()
        best = words_only.topk(min(top, words_only.shape[1]), dim=1)
        words = self.vocabularies[-1].words
        return [
            [Candidate(words[index], share) for index, share in zip(*row, strict=True)]
            for row in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    @abstractmethod
    def answer(self, ids: Ragged, **parameters: Any) -> list[list[Candidate]]:
        """Answers to rows of ids, with every parameter given."""


def _checked_parameter(name: str, value: Any, kind: type) -> int | float:
    """A value as a number of its type.

    Raises:
        InputError: for a value that a model cannot take, with those that it can.
    """
    if isinstance(value, np.integer | np.floating):
        value = value.item()
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (kind is int and isinstance(value, float) and not value.is_integer()):
        wanted = "a whole number" if kind is int else "a number"
        raise InputError(f"{name} is {reprlib.repr(value)}: give {wanted}")
    least = 0 if name in ("temperature", "seed") else 1
    if not least <= value < 2**31:
        shown = reprlib.repr(value)
        raise InputError(f"{name} is {shown}: it must be at least {least} and below 2 ** 31")
    return int(value) if kind is int else float(value)


def best_hypotheses(
    step: Any,
    memory: Any,
    hidden: Hidden,
    first: Tensor,
    width: int,
    max_tokens: int | Tensor,
    top: int,
) -> list[list[Hypothesis]]:
    """Greedy search for one answer with a beam of 1, else a beam as wide as answers are wanted."""
    if width == top == 1:
        return [[one] for one in greedy(step, memory, hidden, first, max_tokens=max_tokens)]
    return beam(
        step,
        memory,
        hidden,
        first,
        width=max(width, top),
        max_tokens=max_tokens,
        num_best=top,
    )


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
