"""The batch size that fits: larger with the budget, the same everywhere, and kept to by a step."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.softmax import logits_room
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
from pipeline.training.batch_size import GB, BatchSize, largest_batch_size
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit

V = 300


def corpus(problem: Problem, num_rows: int = 3000) -> Examples:
    generator = np.random.default_rng(1)
    lengths = generator.integers(3, 31, num_rows)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    inputs = Ragged(generator.integers(4, V, offsets[-1]).astype(np.int32), offsets)
    if problem.name == "classification":
        return Examples(inputs, Ragged(np.full(num_rows, 5, np.int32), np.arange(num_rows + 1)))
    if problem.name == "forecasting":
        series = np.sin(np.arange(900) / 3) + 2
        return Examples(
            Ragged(series, np.array([0, 900])),
            Ragged(series[100:], np.array([0, 800])),
            scales=np.ones(1),
        )
    return Examples(inputs, inputs if problem.name in ("seq2seq", "tagging") else None)


def size(
    memory_gb: float,
    problem: Problem = LanguageModel(bptt=10),  # noqa: B008
    variant: str = "lstm",
    network: NetworkConfig = NetworkConfig(16, 24),  # noqa: B008
    **settings: Any,
) -> BatchSize:
    return largest_batch_size(
        memory_gb,
        problem,
        Variant.parse(variant),
        network,
        TrainingConfig(**settings),
        corpus(problem),
        [V] * len(problem.columns),
    )


def test_a_larger_budget_has_a_larger_batch_up_to_all_there_is() -> None:
    found = [size(each) for each in (0.004, 0.008, 10)]
    batches = [each.batch_size for each in found]
    assert batches == sorted(set(batches))
    assert all(
        each.num_bytes <= budget * GB for each, budget in zip(found, (0.004, 0.008), strict=False)
    )
    assert all(each % 8 == 0 for each in batches)
    num_tokens = len(corpus(LanguageModel()).inputs.values) + 3000
    assert batches[-1] <= num_tokens / 10 + 64


@pytest.mark.parametrize(
    ("problem", "variant"),
    [
        (LanguageModel(bptt=10, bptt_varies=True), "gru-2"),
        (Seq2Seq(), "bilstm-attention"),
        (Seq2Seq(teacher_forcing=0.5), "rnn_tanh"),
        (NextWord(), "lstm-textbook"),
        (Classification(), "bigru"),
        (Tagging(), "bilstm"),
        (Forecasting(window=12), "gru"),
    ],
)
def test_every_problem_is_counted_the_same_again(problem: Problem, variant: str) -> None:
    state = torch.get_rng_state()
    found = size(0.03, problem, variant)
    assert found == size(0.03, problem, variant)
    assert found.batch_size > 8
    assert torch.equal(state, torch.get_rng_state()), "the training has its own random numbers"


def test_what_is_kept_beside_the_weights_leaves_less_room() -> None:
    plain = size(0.008)
    assert size(0.008, averaging="best").batch_size < plain.batch_size
    assert size(0.008, optimizer="sgd").batch_size > plain.batch_size
    # A network whose gradients, which lie in buckets too, take as much as many columns do.
    wide = NetworkConfig(128, 256)
    alone, two = (size(0.05, network=wide, num_processes=number) for number in (1, 2))
    assert alone.batch_size < two.batch_size < 2 * alone.batch_size, "each has its own columns"


def test_the_count_is_the_same_whatever_was_computed_before() -> None:
    """A thread keeps room for logits, which may be larger than what a count needs."""
    with ThreadPoolExecutor(1) as fresh:
        first = fresh.submit(size, 0.008).result()
        fresh.submit(logits_room, 700, 10 * V).result()
        assert fresh.submit(size, 0.008).result() == first


def test_the_adaptive_softmax_is_counted_at_its_largest() -> None:
    adaptive = NetworkConfig(16, 24, output="adaptive", cutoffs=(50, 100))
    assert size(0.008, network=adaptive).batch_size > 8


def test_a_budget_that_holds_no_batch_of_one_is_refused() -> None:
    with pytest.raises(InputError, match=r"lstm needs 0\.00\d GB for a batch of one.*raise it"):
        size(0.0001)


def most_resident() -> int:
    """The most memory that this process has had. (``ru_maxrss`` begins with its parent's.)"""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def grown(problem: Problem, variant: str, batch_size: int) -> int:
    """Bytes by which this process grows while it trains."""

    def learn(network: NetworkConfig, batch_size: int, num_rows: int) -> None:
        fit(
            problem,
            Variant.parse(variant),
            network,
            TrainingConfig(num_epochs=1, batch_size=batch_size),
            corpus(problem, num_rows),
            corpus(problem, 20),
            [V] * len(problem.columns),
            device=torch.device("cpu"),
        )

    learn(NetworkConfig(4, 4), 16, 64)
    before = most_resident()
    learn(NetworkConfig(64, 128), batch_size, 1000)
    return most_resident() - before


CASES: list[tuple[Problem, str]] = [
    (LanguageModel(bptt=30), "gru"),
    (Seq2Seq(), "bilstm-attention"),
]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_real_training_keeps_to_the_budget(case: int) -> None:
    problem, variant = CASES[case]
    budget = 0.08
    found = size(budget, problem, variant, NetworkConfig(64, 128))
    code = (
        "import torch; torch.set_num_threads(1); import tests.test_batch_size as here; "
        f"print(here.grown(*here.CASES[{case}], {found.batch_size}))"
    )
    # glibc gives everything back that is freed, so that what grows is what lives.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "131072"}
    measured = int(
        subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, check=True
        ).stdout
    )
    assert 0.3 * found.num_bytes < measured <= budget * GB


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_keeps_to_the_budget() -> None:
    for problem, variant in CASES:
        found = size(1.0, problem, variant, NetworkConfig(64, 128))
        torch.cuda.reset_peak_memory_stats()
        fit(
            problem,
            Variant.parse(variant),
            NetworkConfig(64, 128),
            TrainingConfig(num_epochs=1, batch_size=found.batch_size),
            corpus(problem),
            corpus(problem, 20),
            [V] * len(problem.columns),
            device=torch.device("cuda"),
        )
        assert torch.cuda.max_memory_allocated() <= GB, problem
