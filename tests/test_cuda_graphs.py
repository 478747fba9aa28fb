"""A recorded step: what it needs beside a GPU is tested without one."""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.problems import Forecasting, LanguageModel, NextWord, Problem, Seq2Seq
from pipeline.training import cuda_graphs
from pipeline.training import loop as training
from pipeline.training.config import TrainingConfig
from pipeline.training.cuda_graphs import WARM_UP, check_recordable
from tests.test_training import Fitted, run

GPU = torch.device("cuda")
CASES: list[tuple[Problem, str, dict[str, Any]]] = [
    (LanguageModel(bptt=7), "lstm-2", {"schedule": "cosine", "num_epochs": 4}),
    (LanguageModel(bptt=3, carry_hidden=False), "gru", {"optimizer": "sgd", "schedule": "step"}),
    (NextWord(window=3), "bilstm", {"averaging": "moving", "optimizer": "adamw"}),
    (
        LanguageModel(bptt=4),
        "rnn_tanh",
        {"regularisation": RegularisationConfig(True, 0.1, 0.1, 0.2, 0.1, 2.0, 1.0)},
    ),
]


def close(ours: Fitted, theirs: Fitted, tolerance: float) -> None:
    for one, other in zip(ours.history, theirs.history, strict=True):
        assert one["metrics"] == pytest.approx(other["metrics"], rel=tolerance)
    for name, weight in ours.weights.items():
        torch.testing.assert_close(weight, theirs.weights[name], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("problem", "variant", "settings"), CASES)
def test_a_replayed_step_finds_batch_state_and_learning_rate_in_their_places(
    problem: Problem, variant: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a CPU what was recorded is done again, from the same places as a graph would."""
    replayed = 0

    def record(work: Callable[[], None]) -> Callable[[], None]:
        def again() -> None:
            nonlocal replayed
            replayed += 1
            work()

        return again

    monkeypatch.setattr(cuda_graphs, "record", record)
    monkeypatch.setattr(training, "own_stream", lambda device: nullcontext())
    monkeypatch.setattr(training, "check_recordable", lambda *settings: None)
    whole = run(problem, variant, batch_size=4, **settings)
    recorded = run(problem, variant, batch_size=4, cuda_graph=True, **settings)
    assert replayed > WARM_UP
    close(recorded, whole, 1e-5)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("problem", "variant", "settings"), CASES)
def test_a_graph_learns_what_single_kernels_learn(
    problem: Problem, variant: str, settings: dict[str, Any]
) -> None:
    found = [
        run(problem, variant, batch_size=4, device=GPU, cuda_graph=graph, **settings)
        for graph in (False, True)
    ]
    close(*found, 1e-3)


@pytest.mark.parametrize(
    ("problem", "network", "device", "said"),
    [
        (LanguageModel(), NetworkConfig(), torch.device("cpu"), "needs a GPU"),
        (Seq2Seq(), NetworkConfig(), GPU, "as long as their texts"),
        (
            NextWord(),
            NetworkConfig(output="adaptive", cutoffs=(10,)),
            GPU,
            "set training.cuda_graph=false, or network.output=full",
        ),
    ],
)
def test_what_cannot_be_replayed_is_refused(
    problem: Problem, network: NetworkConfig, device: torch.device, said: str
) -> None:
    with pytest.raises(InputError, match=said):
        check_recordable(problem, network, device)
    check_recordable(Forecasting(), NetworkConfig(), GPU)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_processes": 2}, "training.num_processes=1"),
        ({"accumulate_batches": 2}, "training.accumulate_batches=1"),
        ({"precision": "fp16"}, "choose bf16"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        TrainingConfig(cuda_graph=True, **settings)
