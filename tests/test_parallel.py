"""One training in two processes: what one process learns, to the bit again after a cut."""

import json
import os
import socket
import traceback
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.problems import (
    Classification,
    Forecasting,
    LanguageModel,
    NextWord,
    Problem,
    Seq2Seq,
    Tagging,
)
from pipeline.problems.batches import Examples
from pipeline.problems.ragged import Ragged
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import CHECK_EVERY, Observer, TrainingState, fit
from pipeline.training.ranks import check_processes, joined

CPU = torch.device("cpu")
V = 14
Result = dict[str, Any]


def corpus(problem: Problem, num_rows: int, seed: int) -> Examples:
    """Rows that count up; of an odd number, so that columns do not divide evenly."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(5, 9, num_rows)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    starts = np.repeat(generator.integers(0, V, num_rows), lengths)
    values = (starts + np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)) % (V - 4) + 4
    inputs = Ragged(values.astype(np.int32), offsets)
    if problem.name in ("seq2seq", "tagging"):
        targets = (values + 3) % (V - 4) + 4
        return Examples(inputs, Ragged(targets.astype(np.int32), offsets))
    if problem.name == "classification":
        labels = (values[offsets[:-1]] % 3 + 4).astype(np.int32)
        return Examples(inputs, Ragged(labels, np.arange(num_rows + 1)))
    if problem.name == "forecasting":
        series = np.sin(np.arange(150) / 3) + 2
        known = Ragged(series, np.array([0, 150]))
        return Examples(known, Ragged(series[50:], np.array([0, 100])), scales=np.ones(1))
    return Examples(inputs)


def learn(
    problem: Problem,
    variant: str,
    num_processes: int,
    dropout: float = 0.0,
    num_rows: int = 45,
    regularisation: RegularisationConfig = RegularisationConfig(),  # noqa: B008
    observer: Observer | None = None,
    state: TrainingState | None = None,
    **settings: Any,
) -> Result:
    settings = {"num_epochs": 2, "batch_size": 7, "learning_rate": 0.02, **settings}
    fitted = fit(
        problem,
        Variant.parse(variant),
        NetworkConfig(8, 12, dropout),
        TrainingConfig(num_processes=num_processes, **settings),
        corpus(problem, num_rows, 1),
        corpus(problem, 12, 2),
        [V] * len(problem.columns),
        device=CPU,
        regularisation=regularisation,
        observer=observer,
        state=state,
    )
    weights = {name: value.numpy() for name, value in fitted.weights.items()}
    return {"history": fitted.history, "weights": weights}


def together(work: Callable[[int], Any], size: int = 2) -> list[Any]:
    """What ``work`` of each of several processes gives: forks, which need not import anything."""
    with socket.socket() as found:
        found.bind(("localhost", 0))
        port = found.getsockname()[1]
    context = get_context("fork")
    answers = [context.SimpleQueue() for _ in range(size)]
    children = []
    for rank, answer in enumerate(answers):
        child = os.fork()
        if not child:
            try:
                place = {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
                os.environ.update(place, RANK=str(rank), WORLD_SIZE=str(size))
                with joined(CPU, rank):
                    answer.put(work(rank))
            except BaseException:
                answer.put(traceback.format_exc())
            finally:
                os._exit(0)
        children.append(child)
    found_answers = [answer.get() for answer in answers]
    for child in children:
        os.waitpid(child, 0)
    for each in found_answers:
        assert not isinstance(each, str), each
    return found_answers


PENALISED = RegularisationConfig(label_smoothing=0.1, activation_penalty=2.0, temporal_penalty=1.0)
CASES: list[tuple[Problem, str, dict[str, Any]]] = [
    (LanguageModel(bptt=5), "lstm-2", {}),
    (LanguageModel(bptt=5), "gru", {"accumulate_batches": 3, "averaging": "moving"}),
    (LanguageModel(bptt=5), "lstm", {"regularisation": PENALISED, "optimizer": "sgd"}),
    (LanguageModel(bptt=5, partition="random", carry_hidden=False), "rnn_tanh", {}),
    (Seq2Seq(), "bilstm-attention", {"averaging": "best", "schedule": "plateau"}),
    (Seq2Seq(), "gru-textbook", {}),
    # 317 windows leave a last batch of one column, of which the second process has none.
    (NextWord(window=3), "bigru", {"batch_size": 4}),
    (Classification(pooling="mean"), "lstm", {}),
    (Tagging(), "bilstm", {}),
    (Forecasting(window=12), "gru", {}),
]


def test_two_processes_learn_what_one_learns() -> None:
    def both(rank: int) -> list[Result]:
        return [learn(problem, name, 2, **more) for problem, name, more in CASES]

    first, second = together(both)
    for (problem, name, settings), here, there in zip(CASES, first, second, strict=True):
        case = (problem, name, settings)
        alone = learn(problem, name, 1, **settings)
        for found, wanted in zip(here["history"], alone["history"], strict=True):
            assert found["step"] == wanted["step"], case
            assert found["metrics"] == pytest.approx(wanted["metrics"], abs=1e-6, rel=1e-5), case
        for weight, value in alone["weights"].items():
            np.testing.assert_allclose(here["weights"][weight], value, atol=1e-5, err_msg=str(case))
            assert np.array_equal(here["weights"][weight], there["weights"][weight]), case


class Cut(Exception):
    """Stands for whatever ends all processes at once."""


class KeepsOne(Observer):
    """Keeps the state that is offered at the ``last`` chance, as it would lie on disk."""

    def __init__(self, last: int) -> None:
        self.last, self.kept = last, None

    def save(self, state: Callable[[], TrainingState | None]) -> None:
        self.last -= 1
        if not self.last:
            taken = state()
            assert taken is not None
            scalars = json.loads(json.dumps(taken.scalars, allow_nan=False))
            self.kept = ({k: v.numpy() for k, v in taken.tensors.items()}, scalars)


@pytest.mark.parametrize("size", [2, 3])
def test_a_kept_state_ends_with_the_same_bits(size: int) -> None:
    problem = LanguageModel(bptt=2, bptt_varies=True)
    settings: dict[str, Any] = {
        "dropout": 0.3,
        "num_rows": 200,
        "regularisation": RegularisationConfig(locked_dropout=True, weight_drop=0.2),
    }

    def whole(rank: int) -> tuple[Result, Any]:
        # The middle of the first epoch: streams have a state to carry.
        observer = KeepsOne(last=1)
        return learn(problem, "lstm", size, observer=observer, **settings), observer.kept

    (undisturbed, kept), *_ = together(whole, size)
    assert kept[1]["batch"] == CHECK_EVERY
    assert kept[0]["hidden/0"].shape[1] == 7
    assert len({row.tobytes() for row in kept[0]["generator/cpu"]}) == size, "own random numbers"

    def again(rank: int) -> Result:
        tensors = {name: torch.from_numpy(value) for name, value in kept[0].items()}
        return learn(problem, "lstm", size, state=TrainingState(tensors, kept[1]), **settings)

    for resumed in together(again, size):
        assert resumed["history"] == undisturbed["history"]
        for name, value in undisturbed["weights"].items():
            assert np.array_equal(value, resumed["weights"][name]), name


def test_a_loss_that_is_no_number_in_one_process_ends_all() -> None:
    def work(rank: int) -> str:
        try:
            learn(LanguageModel(bptt=5), "rnn_relu", 2, learning_rate=1e30, optimizer="sgd")
        except InputError as error:
            return "raised " + str(error)[:8].replace(" ", "_")
        return "nothing raised"

    def told(rank: int) -> list[str]:
        return [work(rank)]

    assert together(told) == [["raised rnn_relu"]] * 2


def test_what_cannot_be_divided_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="too small to be divided"):
        TrainingConfig(batch_size=3, num_processes=4)
    with pytest.raises(InputError, match="at least 1"):
        TrainingConfig(num_processes=0)
    with pytest.raises(InputError, match="start them with torchrun"):
        learn(LanguageModel(), "lstm", 2)
    check_processes(8, resolve_device("cpu"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    check_processes(4, torch.device("cuda"))
    with pytest.raises(InputError, match="there are 4: lower it"):
        check_processes(5, torch.device("cuda"))
