"""Text in, text out: a trained model as people and programs ask it.

This is the one way from a checkpoint to an answer, in training's own evaluation, on the command
line and inside a registered version, so that a model always sees text exactly as it learnt it.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from .errors import InputError
from .networks.devices import resolve_device
from .networks.recurrent import NetworkConfig
from .networks.variants import parse_variant
from .problems import PROBLEMS
from .problems.classification.answers import ClassificationPredictor
from .problems.forecasting.answers import ForecastPredictor
from .problems.language_model.answers import ContinuationPredictor
from .problems.next_word.answers import NextWordPredictor
from .problems.predictor import FORMAT, ModelConfig, Predictor
from .problems.seq2seq.answers import Seq2SeqPredictor
from .problems.tagging.answers import TaggingPredictor
from .text.config import TextConfig
from .text.subwords import Subwords
from .text.vocabulary import SUBWORDS, VOCABULARIES, Vocabulary

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
