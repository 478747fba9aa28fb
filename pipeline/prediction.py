"""Text in, text out: a trained model as people and programs ask it.

This is the one way from a checkpoint to an answer, in training's own evaluation, on the command
line and inside a registered version, so that a model always sees text exactly as it learnt it.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .problems import PROBLEMS, Problem
from .problems.classification import Classification, MostFrequentClassifier, TextClassifier
from .problems.forecasting import Forecaster, Forecasting, forecast
from .problems.language_model import StreamModel, StreamNgramModel
from .problems.next_word import WindowModel, WindowNgramModel
from .problems.problem import Model, digest_seed, padded_texts
from .problems.seq2seq import EXTRA_WORDS, EncoderDecoder, Memory
from .problems.tagging import MostFrequentTagger, TokenTagger
from .ragged import Ragged
from .recurrent import Hidden, NetworkConfig, Variant
from .search import Hypothesis, NoMemory, beam, greedy, sample
from .series import read_numbers
from .session import Session, StreamSession, WindowSession
from .subwords import Subwords
from .text import BLANKS, TextConfig, Tokenizer
from .training import resolve_device
from .variants import Baseline, parse_variant
from .vocabulary import BOS, EOS, PAD, SPECIALS, SUBWORDS, VOCABULARIES, Vocabulary

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
        unknown = sorted(set(parameters) - set(self.parameters))
        if unknown:
            raise InputError(
                f"{self.config.problem.name} has no parameter {unknown[0]!r}: "
                f"it takes {', '.join(self.parameters)}"
            )
        for name, value in parameters.items():
            _check_parameter(name, value, self.parameters[name][0])
        chosen = {name: default for name, (_, default) in self.parameters.items()} | parameters
        answers: list[list[Candidate]] = [[] for _ in texts]
        # Texts of like length go through the network together: a batch waits for its longest.
        order = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            found = self.answer_texts([texts[row] for row in rows], **chosen)
            for row, answer in zip(rows, found, strict=True):
                answers[row] = answer
        return answers

    def session(self) -> Session:
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
                hypotheses = _search(self.model.step, memory, hidden, first, beam, max_tokens, top)[
                    0
                ]
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
        memory, hidden, first = self.start(ids)
        limits = self.limits(ids, max_tokens)
        found = _search(self.model.step, memory, hidden, first, beam, limits, top)
        return [
            [Candidate(self.text_of(one.words), one.log_probability) for one in hypotheses]
            for hypotheses in found
        ]

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


def _check_parameter(name: str, value: Any, kind: type) -> None:
    """Refuse a value that a model cannot take.

    Raises:
        InputError: with what it can.
    """
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or (kind is int and not float(value).is_integer()):
        raise InputError(f"{name} is {value!r}: give a {'whole ' if kind is int else ''}number")
    least = 0 if name in ("temperature", "seed") else 1
    if not least <= value < 2**31:
        raise InputError(f"{name} is {value}: it must be at least {least} and below 2 ** 31")


def _search(
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


PREDICTORS: dict[str, type[Predictor]] = {
    "classification": ClassificationPredictor,
    "forecasting": ForecastPredictor,
    "language_model": ContinuationPredictor,
    "next_word": NextWordPredictor,
    "seq2seq": Seq2SeqPredictor,
    "tagging": TaggingPredictor,
}


def read_config(config: Mapping[str, Any]) -> ModelConfig:
    """The configuration that :meth:`ModelConfig.to_dict` wrote.

    Raises:
        InputError: for a format that this code does not know.
    """
    if config.get("format") != FORMAT:
        raise InputError(
            f"the checkpoint has format {config.get('format')!r}, this code reads {FORMAT}: "
            f"train the model again, or use the version of Tidemill that wrote it"
        )
    settings = dict(config["problem"])
    texts = (config["text"], config["target_text"])
    return ModelConfig(
        PROBLEMS[settings["name"]](**settings),
        parse_variant(config["variant"]),
        NetworkConfig(**config["network"]),
        *(TextConfig(**text) if text else None for text in texts),
        length_ratio=config.get("length_ratio"),
    )


def load_predictor(
    config: Mapping[str, Any],
    weights: Mapping[str, Tensor],
    vocabularies: Mapping[str, str],
    device: str = "cpu",
) -> Predictor:
    """The predictor of a checkpoint's parts.

    Args:
        config: what :meth:`ModelConfig.to_dict` gave.
        vocabularies: ``vocabulary`` and, for pairs, ``target_vocabulary``, as JSON; where text
            is cut into subwords also ``subwords`` and ``target_subwords``.

    Raises:
        InputError: for an unknown format or device.
    """
    described = read_config(config)
    names = VOCABULARIES[: len(described.problem.columns)]
    words = [Vocabulary.from_json(vocabularies[name]) for name in names]
    model = described.problem.build(
        described.variant, described.network, [len(vocabulary) for vocabulary in words]
    )
    model.load_state_dict(dict(weights))
    predictor = PREDICTORS[described.problem.name]
    subwords = [
        Subwords.from_json(vocabularies[name]) if name in vocabularies else None
        for name in SUBWORDS
    ]
    return predictor(described, model, words, resolve_device(device), subwords)
