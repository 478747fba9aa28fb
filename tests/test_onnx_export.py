"""The graph computes what the network computes, for every cell."""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from pipeline import onnx_export
from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.networks.variants import parse_variant
from pipeline.onnx_export import (
    LARGEST_WEIGHT,
    _in_eight_bits,
    check_exportable,
    has_preview,
    onnx_model,
)
from pipeline.problems import Classification, LanguageModel, NextWord, Problem
from pipeline.problems.predictor import ModelConfig
from pipeline.text.config import TextConfig

NUM_WORDS = 40
PLAIN = NetworkConfig(12, 16, 0.2)
NORMED = NetworkConfig(12, 16, 0.2, layer_norm=True)
TIED = NetworkConfig(12, 16, 0.2, tied=True)
ONE_HOT = NetworkConfig(12, 16, 0.2, embedding="one_hot")

STEPS = [
    *((name, PLAIN) for name in ("rnn_tanh", "rnn_relu", "gru", "lstm-3", "lstm-textbook")),
    *((name, PLAIN) for name in ("gru-2-textbook", "rnn_relu-2-textbook", "gru_cho-2-textbook")),
    *((f"{cell}-2-textbook", NORMED) for cell in ("rnn_tanh", "gru", "gru_cho", "lstm")),
    *((name, TIED) for name in ("lstm", "gru")),
    *((name, ONE_HOT) for name in ("lstm", "gru-2")),
    ("lstm-textbook", NetworkConfig(12, 16, layer_norm=True, embedding="one_hot")),
]
WINDOWS = [
    *STEPS[:8],
    *((name, PLAIN) for name in ("bilstm-2", "bigru", "birnn_tanh-2-textbook", "bilstm-textbook")),
    ("bigru_cho-2-textbook", NORMED),
    ("bilstm", TIED),
    ("bigru-2", ONE_HOT),
]


def config_of(problem: Problem, variant: str, network: NetworkConfig = PLAIN) -> ModelConfig:
    return ModelConfig(problem, parse_variant(variant), network, TextConfig(unit="whitespace"))


def model_of(config: ModelConfig) -> Any:
    torch.manual_seed(5)
    model = config.problem.build(config.variant, config.network, [NUM_WORDS])
    for weight in model.parameters():
        # Gains, shifts and biases of their own.
        weight.data += 0.2 * torch.randn_like(weight)
    return model.eval()


def run_steps(graph: bytes, words: Sequence[int]) -> list[Any]:
    """Logits after each word, the state carried on."""
    runner = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    states = {one.name: np.zeros(one.shape, np.float32) for one in runner.get_inputs()[1:]}
    assert [one.name for one in runner.get_outputs()[1:]] == [f"next_{name}" for name in states]
    found = []
    for word in words:
        logits, *following = runner.run(None, {"word": np.array([word]), **states})
        states = dict(zip(states, following, strict=True))
        found.append(logits[0])
    return found


def run_window(graph: bytes, words: Sequence[int]) -> Any:
    runner = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    return runner.run(None, {"words": np.array(words)})[0]


@pytest.mark.parametrize(("variant", "network"), STEPS)
@torch.inference_mode()
def test_a_step_is_the_networks(variant: str, network: NetworkConfig) -> None:
    config = config_of(LanguageModel(), variant, network)
    model = model_of(config)
    words = [3, 7, 39, 7, 0, 12]
    outputs, _ = model.stack(model.embedding(torch.tensor(words)[:, None]))
    expected = model.logits(model.head(outputs))[:, 0].numpy()
    found = run_steps(onnx_model(config, model.state_dict(), "fp32"), words)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    rough = run_steps(onnx_model(config, model.state_dict(), "int8"), words)
    assert np.corrcoef(np.ravel(rough), np.ravel(expected))[0, 1] > 0.98


@pytest.mark.parametrize(("variant", "network"), WINDOWS)
@torch.inference_mode()
def test_a_window_is_the_networks(variant: str, network: NetworkConfig) -> None:
    config = config_of(NextWord(window=4), variant, network)
    model = model_of(config)
    words = [2, 2, 39, 7]
    expected = model.logits(model.window_features(torch.tensor(words)[:, None])).numpy()
    found = run_window(onnx_model(config, model.state_dict(), "fp32"), words)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    rough = run_window(onnx_model(config, model.state_dict(), "int8"), words)
    assert np.corrcoef(np.ravel(rough), np.ravel(expected))[0, 1] > 0.98


def test_int8_takes_a_quarter_of_the_room() -> None:
    config = config_of(LanguageModel(), "lstm-2", NetworkConfig(128, 128))
    weights = model_of(config).state_dict()
    large, small = (len(onnx_model(config, weights, name)) for name in ("fp32", "int8"))
    assert small < 0.28 * large


@pytest.mark.parametrize("problem", [LanguageModel(), NextWord(window=4)])
def test_likely_words_keep_their_logits_behind_a_preview(
    problem: Problem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "NUM_PREVIEWED", 8)
    config = config_of(problem, "lstm-2")
    weights = model_of(config).state_dict()
    # Rows that differ mostly in the few directions of a preview, and in all a little.
    few, noise = 16 // onnx_export.PREVIEW_SHARE, torch.randn(NUM_WORDS, 16)
    weights["head.output.weight"] = torch.randn(NUM_WORDS, few) @ torch.randn(few, 16) + noise / 50
    if isinstance(problem, NextWord):
        contexts = [[2, 2, 39, 7], [2, 39, 7, 12], [39, 7, 12, 30]]
        run = [
            [
                run_window(onnx_model(config, weights, "int8", preview=preview), words)[0]
                for words in contexts
            ]
            for preview in (False, True)
        ]
    else:
        run = [
            run_steps(onnx_model(config, weights, "int8", preview=preview), [3, 7, 39, 7, 0, 12])
            for preview in (False, True)
        ]
    for whole, previewed in zip(*run, strict=True):
        same = np.isclose(whole, previewed, atol=1e-5)
        assert 8 <= same.sum() < NUM_WORDS
        assert same[np.argsort(-whole)[:4]].all()
        assert np.corrcoef(whole, previewed)[0, 1] > 0.98


def test_a_preview_is_for_large_layers_in_eight_bits() -> None:
    weights = {"head.output.weight": torch.empty(10_000, 650)}
    assert has_preview(weights, "int8") and not has_preview(weights, "fp32")
    assert not has_preview({"head.output.weight": torch.empty(10_000, 200)}, "int8")


def test_a_table_of_products_is_kept_where_it_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(LanguageModel(), "gru", NetworkConfig(64, 32))
    weights = model_of(config).state_dict()
    kept = run_steps(onnx_model(config, weights, "int8"), [3, 7, 39])
    size = len(onnx_model(config, weights, "int8"))
    monkeypatch.setattr(onnx_export, "MAX_TABLE", NUM_WORDS * 3 * 32 - 1)
    assert len(onnx_model(config, weights, "int8")) > size
    for one, other in zip(kept, run_steps(onnx_model(config, weights, "int8"), [3, 7, 39])):
        np.testing.assert_allclose(one, other, atol=0.1)


def test_each_row_has_a_scale_of_its_own() -> None:
    matrix = np.array([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0], [1e-6, 5e-7, 0.0]], np.float32)
    values, scales = _in_eight_bits(matrix, LARGEST_WEIGHT)
    assert (values.dtype, np.abs(values).max(axis=1).tolist()) == (np.int8, [63, 0, 63])
    np.testing.assert_allclose(values * scales[:, None], matrix, atol=0.02, rtol=0.05)
    # What two products of unsigned and signed bytes add up to stays in 16 bits.
    assert 2 * 255 * LARGEST_WEIGHT < 2**15


@pytest.mark.parametrize(
    ("problem", "variant", "precision", "said"),
    [
        (LanguageModel(), "lstm", "int4", "The choices are int8, fp32"),
        (Classification(), "lstm", "int8", "only next_word and language_model"),
        (NextWord(), "ngram-3", "int8", "no network"),
        (LanguageModel(), "bilstm", "int8", "reads the word that it is asked for"),
    ],
)
def test_what_has_no_graph_is_refused(
    problem: Problem, variant: str, precision: str, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_exportable(config_of(problem, variant), precision)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    config = config_of(LanguageModel(), "gru")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(InputError, match=r"pip install 'tidemill\[export\]'"):
        onnx_model(config, model_of(config).state_dict(), "fp32")
