"""The training loop: it learns, repeats to the bit, resumes to the bit, stops, and refuses."""

import json
import math
import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.errors import InputError
from pipeline.metrics import textbook_bleu
from pipeline.networks.devices import resolve_device
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.problems import Classification, LanguageModel, NextWord, Problem, Seq2Seq, Tagging
from pipeline.problems.batches import Examples, padded_texts
from pipeline.problems.ragged import Ragged
from pipeline.problems.seq2seq.problem import EncoderDecoder, PairBatches
from pipeline.problems.token_scores import score_tokens
from pipeline.search.search import beam
from pipeline.text.vocabulary import BOS
from pipeline.training.config import OPTIMIZERS, TrainingConfig
from pipeline.training.loop import DivergedError, Fitted, Observer, TrainingState, fit, mean_loss
from pipeline.training.precision import Precision, matmul_precision, trains_in_bf16

CPU = torch.device("cpu")
V = 14


def corpus(num_rows: int, seed: int, *, paired: bool = False) -> Examples:
    """Rows that count up modulo the number of words: easy to learn, from any start."""
    generator = np.random.default_rng(seed)
    rows = [
        [(int(start) + place) % (V - 4) + 4 for place in range(int(length))]
        for start, length in zip(
            generator.integers(0, V, num_rows), generator.integers(5, 9, num_rows), strict=True
        )
    ]
    ragged = Ragged.of(rows)
    if paired:
        return Examples(Ragged.of([row[::-1] for row in rows]), ragged)
    return Examples(ragged)


def run(
    problem: Problem,
    variant: str = "lstm",
    *,
    network: NetworkConfig = NetworkConfig(8, 12, 0.3),  # noqa: B008
    observer: Observer | None = None,
    state: TrainingState | None = None,
    regularisation: RegularisationConfig = RegularisationConfig(),  # noqa: B008
    training: Examples | None = None,
    validation: Examples | None = None,
    device: torch.device = CPU,
    **settings: Any,
) -> Fitted:
    defaults = {"num_epochs": 3, "batch_size": 8, "learning_rate": 0.02}
    return fit(
        problem,
        Variant.parse(variant),
        network,
        TrainingConfig(**{**defaults, **settings}),
        training or corpus(30, 1, paired=(len(problem.columns) == 2)),
        validation or corpus(12, 2, paired=(len(problem.columns) == 2)),
        [V, V] if (len(problem.columns) == 2) else [V],
        device=device,
        regularisation=regularisation,
        observer=observer,
        state=state,
    )


class Stop(Exception):
    """Cuts a training off."""


class CutOff(Observer):
    """Keeps a state after every step, as it would lie on disk, and stops after ``last``."""

    def __init__(self, last: int) -> None:
        self.last = last
        self.kept: TrainingState | None = None
        self.calls = 0

    def save(self, state: Callable[[], TrainingState | None]) -> None:
        self.calls += 1
        if self.calls == self.last:
            taken = state()
            assert taken is not None
            self.kept = TrainingState(
                {name: tensor.clone() for name, tensor in taken.tensors.items()},
                json.loads(json.dumps(taken.scalars, allow_nan=False)),
            )
            raise Stop


def same(first: Fitted, second: Fitted) -> bool:
    assert first.weights.keys() == second.weights.keys()
    return first.history == second.history and all(
        torch.equal(value, second.weights[name]) for name, value in first.weights.items()
    )


NORMED = NetworkConfig(8, 12, 0.3, embedding="one_hot", layer_norm=True)
SETTINGS: list[tuple[Problem, str, dict[str, Any]]] = [
    (LanguageModel(bptt=7), "lstm-2", {"optimizer": "adam", "schedule": "plateau"}),
    (LanguageModel(bptt=7, carry_hidden=False), "gru", {"optimizer": "sgd"}),
    (
        NextWord(window=3),
        "birnn_tanh",
        {"optimizer": "adamw", "weight_decay": 0.01, "batch_size": 24},
    ),
    (Seq2Seq(), "bigru-2-attention", {"schedule": "cosine"}),
    (Seq2Seq(), "rnn_relu-textbook", {"schedule": "step", "clip_norm": None}),
    (
        LanguageModel(bptt=7, bptt_varies=True),
        "lstm",
        {
            "optimizer": "sgd",
            "averaging": "triggered",
            "averaging_epochs": 1,
            "learning_rate": 2.0,
            "num_epochs": 5,
            "regularisation": RegularisationConfig(True, 0.1, 0.1, 0.2, 0.1, 2.0, 1.0),
        },
    ),
    (
        LanguageModel(bptt=7, partition="random", carry_hidden=False),
        "gru-textbook",
        {"averaging": "moving", "averaging_decay": 0.9, "network": NORMED},
    ),
    (
        NextWord(window=3),
        "gru",
        {
            "averaging": "last",
            "averaging_epochs": 2,
            "regularisation": RegularisationConfig(weight_drop=0.2, word_dropout=0.1),
            "batch_size": 24,
        },
    ),
    (
        Seq2Seq(teacher_forcing_schedule="inverse_sigmoid", teacher_forcing_steps=8),
        "bilstm-attention",
        {
            "averaging": "best",
            "averaging_epochs": 2,
            "regularisation": RegularisationConfig(locked_dropout=True, label_smoothing=0.1),
        },
    ),
    (
        Seq2Seq(input_feeding=True),
        "gru-2-attention",
        {
            "divergence_factor": 1.5,
            "regularisation": RegularisationConfig(True, weight_drop=0.2, temporal_penalty=1.0),
        },
    ),
    (LanguageModel(bptt=4), "gru", {"accumulate_batches": 3, "schedule": "cosine"}),
    (Seq2Seq(), "lstm-attention", {"accumulate_batches": 2, "batch_size": 4}),
]


@pytest.mark.parametrize(("problem", "variant", "settings"), SETTINGS)
def test_a_run_cut_off_anywhere_ends_with_the_same_bits(
    problem: Problem, variant: str, settings: dict[str, Any]
) -> None:
    whole = run(problem, variant, **settings)
    assert same(whole, run(problem, variant, **settings))
    steps = whole.history[-1]["step"]
    for last in (1, steps // 3, steps // 3 + 1, steps - 1, steps):
        observer = CutOff(last)
        with pytest.raises(Stop):
            run(problem, variant, observer=observer, **settings)
        assert observer.kept is not None
        # Whatever ran in between must not matter.
        torch.manual_seed(last)
        assert same(whole, run(problem, variant, state=observer.kept, **settings)), last


HALVES: list[tuple[Problem, str, dict[str, Any]]] = [
    (LanguageModel(bptt=7), "lstm-2", {}),
    (LanguageModel(bptt=7), "gru", {"network": NetworkConfig(8, 12, 0.3, tied=True)}),
    (NextWord(window=3), "birnn_tanh-textbook", {"network": NORMED}),
    (Seq2Seq(), "bilstm-attention", {"batch_size": 4}),
    (Seq2Seq(teacher_forcing=0.5), "gru", {"network": NetworkConfig(8, 12, 0.3, tied=True)}),
    (
        LanguageModel(bptt=7),
        "lstm",
        {"regularisation": RegularisationConfig(True, 0.1, 0.1, 0.2, 0.1, 2.0, 1.0)},
    ),
]


@pytest.mark.parametrize(
    ("precision", "problem", "variant", "settings"),
    [("bf16", *case) for case in HALVES] + [("fp16", *case) for case in HALVES[1:3]],
)
def test_half_precision_learns_the_same_and_goes_on_with_the_same_bits(
    precision: str,
    problem: Problem,
    variant: str,
    settings: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parsed = Variant.parse(variant)
    if precision == "bf16" and not trains_in_bf16(parsed.cell, parsed.kernel):
        pytest.skip(f"this CPU does not train {variant} in bf16")
    # Nobody wants fp16 on a CPU, which can do it all the same: so its scaler is tested here too.
    monkeypatch.setattr("pipeline.training.loop.check_precision", lambda *_: None)
    # No dropout for the comparison, since the masks of another type are others.
    plain = settings | {"network": NetworkConfig(8, 12, 0.0), "num_epochs": 2}
    if "regularisation" not in settings:
        exact, near = (
            run(problem, variant, precision=each, **plain) for each in ("fp32", precision)
        )
        assert not same(exact, near)
        for name in ("train/loss", "valid/loss", "train/gradient_norm"):
            found, wanted = (each.history[-1]["metrics"][name] for each in (near, exact))
            assert found == pytest.approx(wanted, rel=0.05), name
    settings = settings | {"precision": precision, "num_epochs": 2}
    whole = run(problem, variant, **settings)
    assert all(value.dtype in (torch.float32, torch.int64) for value in whole.weights.values())
    observer = CutOff(whole.history[-1]["step"] // 3 + 1)
    with pytest.raises(Stop):
        run(problem, variant, observer=observer, **settings)
    assert same(whole, run(problem, variant, state=observer.kept, **settings))


def test_the_scale_of_fp16_is_kept_and_a_step_that_overflows_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("pipeline.training.loop.check_precision", lambda *_: None)
    observer = CutOff(3)
    with pytest.raises(Stop):
        run(LanguageModel(bptt=7), "gru", precision="fp16", observer=observer)
    assert observer.kept is not None
    scaler = observer.kept.scalars["scaler"]
    assert (scaler["scale"], scaler["_growth_tracker"]) == (65536.0, 3)
    # Every gradient overflows at this scale: no step counts, and the weights stay.
    state = TrainingState(
        observer.kept.tensors,
        observer.kept.scalars | {"scaler": scaler | {"scale": 2.0**127, "backoff_factor": 0.9999}},
    )
    stays = run(LanguageModel(bptt=7), "gru", precision="fp16", state=state, num_epochs=1)
    for name, value in stays.weights.items():
        assert torch.equal(value, state.tensors[f"model/{name}"]), name
    assert stays.history[-1]["metrics"]["train/gradient_norm"] < 100


def test_a_cpu_without_bf16_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    for able, warned in ((False, 1), (True, 0)):
        told = {"architecture": "x86_64", "amx_bf16": able, "avx512_bf16": False}
        monkeypatch.setattr("torch.cpu.get_capabilities", lambda told=told: told, raising=False)
        listener = Listener()
        run(NextWord(), "gru", num_epochs=1, precision="bf16", observer=listener)
        assert len(listener.warnings) == warned
        assert all("training.precision=fp32" in each for each in listener.warnings)


BF16_WITH_AVX2 = """
import numpy as np, torch
from pipeline.errors import InputError
from pipeline.training.precision import check_precision, trains_in_bf16
from pipeline.networks.recurrent import CELLS, Variant
state = torch.random.get_rng_state()
for cell in CELLS:
    assert trains_in_bf16(cell, "textbook"), cell
assert torch.equal(state, torch.random.get_rng_state())
try:
    check_precision("bf16", torch.device("cpu"), Variant("lstm", 2))
except InputError as error:
    print(error)
check_precision("fp32", torch.device("cpu"), Variant("lstm", 2))
check_precision("bf16", torch.device("cpu"), Variant("gru", 2))
"""


def test_bf16_is_refused_where_the_cpu_has_no_kernel_for_the_variant() -> None:
    """On any CPU: the process is restricted to AVX2, where oneDNN has no bf16 LSTM."""
    avx2 = {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2"}
    done = subprocess.run(
        [sys.executable, "-c", BF16_WITH_AVX2],
        env=os.environ | avx2 | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == (
        "training.precision=bf16 is not supported on this CPU for lstm-2: set "
        "training.precision=fp32, or name the variant lstm-2-textbook"
    )


def test_a_precision_that_a_device_has_not_is_refused_and_torchs_own_stays() -> None:
    for precision in ("tf32", "fp16"):
        with pytest.raises(InputError, match=r"not supported on the CPU: choose from fp32, bf16"):
            run(NextWord(), precision=precision)
    torch.set_float32_matmul_precision("medium")
    try:
        with matmul_precision("tf32"):
            assert torch.get_float32_matmul_precision() == "high"
            assert torch.backends.cudnn.allow_tf32
            with matmul_precision("fp32"):
                assert not torch.backends.cudnn.allow_tf32
            assert torch.backends.cudnn.allow_tf32
        first = run(NextWord(), num_epochs=1)
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision("highest")
    assert same(first, run(NextWord(), num_epochs=1))


class Sizes(Observer):
    """Notes after how many batches there was a step, and after which a state was offered."""

    def __init__(self) -> None:
        self.steps: list[int] = []

    def step(self, epoch: int, batch: int, num_batches: int) -> None:
        self.steps.append(batch)


def test_a_step_of_small_batches_is_that_of_one_large_one() -> None:
    """The windows of a large batch, in small ones: the same weights, also after the last few."""
    network, observer = NetworkConfig(8, 12, 0.0), Sizes()
    settings = {
        "network": network,
        "optimizer": "sgd",
        "learning_rate": 0.5,
        "schedule": "cosine",
        "training": corpus(13, 1),
    }
    large = run(NextWord(window=3), batch_size=36, **settings)
    small = run(
        NextWord(window=3), batch_size=12, accumulate_batches=3, observer=observer, **settings
    )
    assert large.history[-1]["step"] == small.history[-1]["step"]
    for name, value in large.history[-1]["metrics"].items():
        assert small.history[-1]["metrics"][name] == pytest.approx(value, rel=1e-5), name
    for name, value in large.weights.items():
        torch.testing.assert_close(small.weights[name], value, rtol=1e-5, atol=1e-6)
    in_an_epoch = observer.steps[: len(observer.steps) // 3]
    assert in_an_epoch[:-1] == list(range(3, in_an_epoch[-1], 3))
    assert in_an_epoch[-1] % 3, "the last step has fewer batches"


def test_batches_of_unlike_size_count_by_their_targets() -> None:
    """Padding and short batches do not shift the mean: every target weighs the same."""
    network = NetworkConfig(8, 12, 0.0)
    pairs = corpus(24, 3, paired=True)

    class Given(Seq2Seq):
        """Batches as they are listed, whatever their size."""

        def training_batches(self, examples: Examples, *_: Any) -> PairBatches:
            return PairBatches(examples, [np.array(rows) for rows in parts])

    gradients = []
    for cuts in ([0, 24], [0, 3, 20, 24]):
        parts = [range(*cut) for cut in pairwise(cuts)]
        fitted = fit(
            Given(),
            Variant.parse("gru-attention"),
            network,
            TrainingConfig(
                num_epochs=1,
                optimizer="sgd",
                learning_rate=1.0,
                clip_norm=None,
                accumulate_batches=len(parts),
            ),
            pairs,
            corpus(12, 2, paired=True),
            [V, V],
            device=CPU,
        )
        assert fitted.history[-1]["step"] == 1
        gradients.append(fitted.weights)
    for name, value in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], value, rtol=1e-6, atol=1e-6)


def test_a_run_cut_off_twice_ends_with_the_same_bits() -> None:
    problem = LanguageModel(bptt=7)
    first, second = CutOff(5), CutOff(6)
    with pytest.raises(Stop):
        run(problem, observer=first)
    with pytest.raises(Stop):
        run(problem, observer=second, state=first.kept)
    assert same(run(problem), run(problem, state=second.kept))


def test_every_part_of_the_state_counts() -> None:
    """A state that lost one of its parts leads elsewhere: none of them is there in vain."""
    problem = LanguageModel(bptt=7)
    whole = run(problem)
    observer = CutOff(2)
    with pytest.raises(Stop):
        run(problem, observer=observer)
    kept = observer.kept
    assert kept is not None
    others = {
        "hidden/": lambda value: value + 1,
        "model/": lambda value: value * 1.5,
        "optimizer/": lambda value: value + 1e-3,
        "sums": lambda value: value + 1,
        "generator/cpu": lambda value: torch.Generator().manual_seed(99).get_state()[None],
    }
    for prefix, spoil in others.items():
        tensors = {
            name: spoil(value) if name.startswith(prefix) else value
            for name, value in kept.tensors.items()
        }
        assert any(name.startswith(prefix) for name in tensors), prefix
        changed = run(problem, state=TrainingState(tensors, dict(kept.scalars)))
        assert not same(whole, changed), prefix


def test_every_part_of_an_average_counts() -> None:
    settings = {"averaging": "moving", "averaging_decay": 0.9}
    whole = run(LanguageModel(bptt=7), **settings)
    observer = CutOff(2)
    with pytest.raises(Stop):
        run(LanguageModel(bptt=7), observer=observer, **settings)
    assert observer.kept is not None
    kept = observer.kept
    tensors = {
        name: value + 0.1 if name.startswith("average/") else value
        for name, value in kept.tensors.items()
    }
    for state in (
        TrainingState(tensors, kept.scalars),
        TrainingState(kept.tensors, kept.scalars | {"num_averaged": 99}),
    ):
        assert not same(whole, run(LanguageModel(bptt=7), state=state, **settings))


class Listener(Observer):
    """Notes what a training warns of, and which states it offered."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.states: list[TrainingState | None] = []

    def save(self, state: Callable[[], TrainingState | None]) -> None:
        self.states.append(state())

    def warn(self, sentence: str) -> None:
        self.warnings.append(sentence)


def test_a_state_from_elsewhere_goes_on_and_says_so_once() -> None:
    observer = CutOff(2)
    with pytest.raises(Stop):
        run(NextWord(), observer=observer)
    assert observer.kept is not None
    kept, listener = observer.kept, Listener()
    assert kept.scalars["numerics"]["torch"] == torch.__version__
    assert kept.scalars["numerics"]["threads"] == torch.get_num_threads()
    run(NextWord(), state=kept, observer=listener)
    assert listener.warnings == []
    others = kept.scalars["numerics"] | {"threads": 64, "torch": "1.0"}
    elsewhere = TrainingState(kept.tensors, kept.scalars | {"numerics": others})
    run(NextWord(), state=elsewhere, observer=listener)
    (warning,) = listener.warnings
    assert "threads 64 is 1 now, torch 1.0 is" in warning
    assert "--resume never" in warning


def test_training_leaves_torchs_generator_alone() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    run(NextWord(window=2), num_epochs=1)
    assert torch.equal(torch.get_rng_state(), before)


def test_another_seed_gives_other_weights() -> None:
    assert not same(run(NextWord(), num_epochs=1), run(NextWord(), num_epochs=1, seed=2))


@pytest.mark.parametrize("variant", ["rnn_tanh", "rnn_relu", "gru", "gru_cho-textbook", "lstm"])
@pytest.mark.parametrize("problem", [LanguageModel(bptt=8), NextWord(window=2)])
def test_every_cell_learns_to_count(problem: Problem, variant: str) -> None:
    fitted = run(
        problem,
        variant,
        network=NetworkConfig(12, 24, 0.0),
        num_epochs=10 if problem.name == "next_word" else 40,
        batch_size=16,
        patience=None,
    )
    # Nobody can know with what a row begins, nor, in a stream, where it ends.
    limit = 1.6 if problem.name == "next_word" else 2.8
    assert fitted.history[-1]["metrics"]["valid/perplexity"] < limit


@pytest.mark.parametrize("variant", ["gru", "lstm", "bigru-attention"])
def test_seq2seq_overfits_the_four_sentences_of_the_chapter(variant: str) -> None:
    """d2l 10.7: after training, each of a few sentences is translated without a fault."""
    sources = [[4, 5], [6, 7, 5], [8, 9, 10, 5], [8, 11, 12, 5]]
    targets = [[4, 5], [6, 7, 8, 9], [10, 11, 9], [12, 13, 8, 4, 9]]
    pairs = Examples(Ragged.of(sources), Ragged.of(targets))
    problem = Seq2Seq()
    network = NetworkConfig(16, 32, 0.0)
    fitted = run(
        problem,
        variant,
        network=network,
        training=pairs,
        validation=pairs,
        num_epochs=80,
        batch_size=4,
        patience=None,
    )
    model = problem.build(Variant.parse(variant), network, [V, V])
    assert isinstance(model, EncoderDecoder)
    model.load_state_dict(fitted.weights)
    model.eval()
    with torch.inference_mode():
        memory, hidden = model.encode(*padded_texts(pairs.inputs, np.arange(4)))
    first = torch.full((4,), BOS)
    for width in (1, 2):
        found = beam(model.step, memory, hidden, first, width=width, max_tokens=9)
        for best, target in zip(found, targets, strict=True):
            words = [str(word) for word in best[0].words]
            assert textbook_bleu(words, [str(word) for word in target]) == 1.0


def test_the_best_epoch_is_kept_and_patience_ends_the_run() -> None:
    random = np.random.default_rng(0).integers(4, V, (20, 8)).tolist()
    fitted = run(
        NextWord(window=2),
        validation=Examples(Ragged.of(random)),
        num_epochs=50,
        patience=2,
    )
    losses = [record["metrics"]["valid/loss"] for record in fitted.history]
    assert fitted.stopped == "patience"
    assert len(losses) < 50
    assert fitted.best_epoch == 1 + int(np.argmin(losses)) == len(losses) - 2
    model = NextWord(window=2).build(Variant("lstm"), NetworkConfig(8, 12, 0.3), [V])
    model.load_state_dict(fitted.weights)
    scored = score_tokens(NextWord(window=2), model, Examples(Ragged.of(random)), 8, CPU)
    assert scored.nats.mean() == pytest.approx(min(losses), rel=1e-5)


def test_the_learning_rate_follows_its_schedule() -> None:
    def rates(schedule: str) -> list[float]:
        settings = {"schedule": schedule, "num_epochs": 4, "decay": 0.5, "learning_rate": 0.1}
        history = run(NextWord(), **settings).history
        return [record["metrics"]["train/learning_rate"] for record in history]

    assert rates("constant") == [0.1] * 4
    assert rates("step") == pytest.approx([0.1, 0.05, 0.025, 0.0125])
    random = np.random.default_rng(0).integers(4, V, (12, 8)).tolist()
    history = run(
        NextWord(window=2),
        validation=Examples(Ragged.of(random)),
        schedule="plateau",
        decay=0.5,
        num_epochs=6,
        patience=None,
        learning_rate=0.1,
    ).history
    best, rate = float("inf"), 0.1
    for record in history:
        assert record["metrics"]["train/learning_rate"] == pytest.approx(rate)
        loss = record["metrics"]["valid/loss"]
        rate, best = (rate, loss) if loss < best else (rate / 2, best)
    assert rate < 0.1, "on random text some epoch is no better"
    cosine = rates("cosine")
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[-1] < 0.01


def test_without_clipping_a_large_rate_diverges_and_says_what_to_do() -> None:
    with pytest.raises(DivergedError, match=r"rnn_relu diverged in epoch 1.*clip_norm"):
        run(
            LanguageModel(bptt=30),
            "rnn_relu",
            optimizer="sgd",
            learning_rate=1e30,
            clip_norm=None,
            num_epochs=2,
        )


def test_a_later_divergence_keeps_the_best_epoch() -> None:
    class Spoil(Listener):
        """Breaks the training data after the first epoch."""

        def epoch(self, record: dict[str, Any]) -> dict[str, Any]:
            limit[0] = 1e30
            return {}

    limit = [1.0]

    class Exploding(LanguageModel):
        """A language model whose loss is no number any more once told so."""

        def build(self, *arguments: Any) -> Any:
            model = super().build(*arguments)
            plain = model.summed_loss

            def summed_loss(batch: Any, hidden: Any) -> Any:
                nats, hidden = plain(batch, hidden)
                return nats * limit[0] * limit[0], hidden

            model.summed_loss = summed_loss  # type: ignore[method-assign]
            return model

    observer = Spoil()
    fitted = run(Exploding(bptt=7), observer=observer, num_epochs=5)
    assert fitted.stopped == "diverged"
    assert fitted.best_epoch == len(fitted.history) == 1
    (warning,) = observer.warnings
    assert "diverged in epoch 2" in warning
    assert "the weights of epoch 1 are kept" in warning
    assert observer.states[0] is not None
    assert observer.states[-1] is None, "what is no number must not take a good state's place"


def test_a_loss_far_above_the_best_stops_a_run_that_patience_would_not() -> None:
    random = Examples(Ragged.of(np.random.default_rng(0).integers(4, V, (20, 8)).tolist()))
    settings = {"validation": random, "num_epochs": 60, "patience": None, "learning_rate": 0.05}
    listener = Listener()
    fitted = run(
        NextWord(window=2),
        observer=listener,
        divergence_factor=1.5,
        divergence_epochs=3,
        **settings,
    )
    losses = [record["metrics"]["valid/loss"] for record in fitted.history]
    assert fitted.stopped == "diverged"
    assert all(loss > 1.5 * min(losses) for loss in losses[-3:])
    assert losses[-4] <= 1.5 * min(losses)
    assert fitted.best_epoch == 1 + int(np.argmin(losses))
    assert "weights of epoch" in listener.warnings[0]
    assert run(NextWord(window=2), **settings | {"num_epochs": 8}).stopped == "num_epochs"


def test_averaging_is_triggered_when_the_loss_stagnates() -> None:
    """The newest loss is above that of more than two epochs before: then, and not before."""
    random = Examples(Ragged.of(np.random.default_rng(0).integers(4, V, (20, 8)).tolist()))
    settings = {"validation": random, "num_epochs": 12, "patience": 4, "learning_rate": 0.03}
    plain = run(NextWord(window=2), **settings | {"patience": None})
    averaged = run(NextWord(window=2), averaging="triggered", averaging_epochs=2, **settings)
    ours, theirs = (
        [record["metrics"]["valid/loss"] for record in fitted.history]
        for fitted in (averaged, plain)
    )
    began = next(epoch for epoch in range(3, 12) if theirs[epoch] > min(theirs[: epoch - 2]))
    assert ours[: began + 1] == theirs[: began + 1]
    assert ours[began + 1] < theirs[began + 1], "the mean of the weights overfits less"
    assert len(ours) > began + 3, "patience begins anew with averaging"


@pytest.mark.parametrize("averaging", ["last", "best"])
def test_a_mean_of_epochs_is_kept_only_where_it_is_better(averaging: str) -> None:
    problem, network = NextWord(window=2), NetworkConfig(8, 12, 0.3)
    for rate in (0.02, 0.5):
        fitted = run(
            problem, network=network, averaging=averaging, averaging_epochs=3,
            learning_rate=rate, num_epochs=6, patience=None,
        )  # fmt: skip
        last = fitted.history[-1]["metrics"]
        best = min(record["metrics"]["valid/loss"] for record in fitted.history)
        model = problem.build(Variant("lstm"), network, [V])
        model.load_state_dict(fitted.weights)
        kept = mean_loss(problem, model, corpus(12, 2), 8, CPU)
        assert kept == pytest.approx(min(best, last["valid/averaged_loss"]), rel=1e-6)


def test_the_teachers_share_follows_the_steps_of_the_whole_run() -> None:
    seen: list[float] = []

    class Watched(Seq2Seq):
        def teacher_share(self, num_steps: int) -> float:
            seen.append(num_steps)
            return super().teacher_share(num_steps)

    run(Watched(), num_epochs=2)
    assert seen == list(range(len(seen)))


def test_what_the_observer_knows_is_in_the_history() -> None:
    class Clock(Observer):
        def epoch(self, record: dict[str, Any]) -> dict[str, Any]:
            return {"timestamp_ms": 1000 * record["epoch"]}

    history = run(NextWord(), observer=Clock()).history
    assert [record["timestamp_ms"] for record in history] == [1000, 2000, 3000]


@pytest.mark.parametrize("problem", [LanguageModel(), NextWord(), Seq2Seq(max_tokens=3)])
def test_nothing_to_train_on_and_nothing_to_validate_on_are_refused(problem: Problem) -> None:
    empty = Ragged.of([])
    nothing = Examples(empty, empty if (len(problem.columns) == 2) else None)
    with pytest.raises(InputError, match="the training split has 0 rows"):
        run(problem, training=nothing)
    with pytest.raises(InputError, match=r"validation split has 0 rows|training split has 30"):
        run(problem, validation=nothing)


@pytest.mark.parametrize("problem", [LanguageModel(), NextWord(), Seq2Seq()])
def test_one_text_is_enough(problem: Problem) -> None:
    one = Ragged.of([[4, 5]])
    examples = Examples(one, one if (len(problem.columns) == 2) else None)
    fitted = run(problem, training=examples, validation=examples, num_epochs=1, batch_size=99)
    assert fitted.best_epoch == 1


def test_the_gradient_is_clipped() -> None:
    """One step of plain descent with the norm cut to 0.001 cannot move further than that."""

    class Start(Observer):
        weights: dict[str, torch.Tensor]

        def save(self, state: Callable[[], TrainingState | None]) -> None:
            taken = state()
            assert taken is not None
            self.weights = taken.tensors
            raise Stop

    def moved(clip_norm: float | None) -> float:
        tensors = []
        for rate in (1.0, 2.0):
            observer = Start()
            with pytest.raises(Stop):
                run(
                    NextWord(),
                    observer=observer,
                    network=NetworkConfig(8, 12, 0.0),
                    optimizer="sgd",
                    learning_rate=rate,
                    clip_norm=clip_norm,
                )
            tensors.append(observer.weights)
        # The weights after a step of 2 less those after a step of 1: the (cut) gradient itself.
        return float(
            sum(
                (tensors[1][name] - tensors[0][name]).square().sum()
                for name in tensors[0]
                if name.startswith("model/")
            )
            ** 0.5
        )

    assert moved(0.001) == pytest.approx(0.001, rel=0.01)
    assert moved(None) > 0.01


@pytest.mark.parametrize("optimizer", sorted(OPTIMIZERS))
@pytest.mark.parametrize("limit", [0.1, 1e6, math.inf])
def test_a_clipped_step_is_that_of_torchs_plain_way(optimizer: str, limit: float) -> None:
    """The norm is cut on the way into the weights, without a pass of its own."""
    torch.manual_seed(0)
    ours = [torch.nn.Parameter(torch.randn(size)) for size in (3, 50)]
    theirs = [torch.nn.Parameter(each.detach().clone()) for each in ours]
    options: dict[str, Any] = {"lr": 0.1, "weight_decay": 0.01}
    fused = OPTIMIZERS[optimizer](ours, fused=True, **options)
    plain = OPTIMIZERS[optimizer](theirs, foreach=False, **options)
    precision = Precision("fp32", torch.device("cpu"))
    for _ in range(3):
        for one, other in zip(ours, theirs, strict=True):
            one.grad = torch.randn_like(one)
            other.grad = one.grad.clone()
        norm = torch.nn.utils.clip_grad_norm_(theirs, limit)
        plain.step()
        assert precision.step(fused, limit).equal(norm)
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"optimizer": "adagrad"}, "sgd, adam, adamw"),
        ({"schedule": "warmup"}, "constant, plateau, cosine, step"),
        ({"num_epochs": 0}, "num_epochs"),
        ({"batch_size": 0}, "batch_size"),
        ({"learning_rate": 0.0}, "learning_rate"),
        ({"learning_rate": float("nan")}, "learning_rate"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"seed": 2**70}, "seed"),
        ({"seed": -1}, "seed"),
        ({"decay": 1.0}, "decay"),
        ({"clip_norm": 0.0}, "clip_norm"),
        ({"patience": 0}, "patience"),
        ({"accumulate_batches": 0}, "accumulate_batches"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"divergence_factor": 1.0}, "divergence_factor"),
        ({"divergence_epochs": 0}, "divergence_epochs"),
        ({"precision": "fp8"}, "fp32, tf32, bf16, fp16"),
        ({"averaging": "swa"}, "none, moving, triggered, last, best"),
        ({"averaging_decay": 1.0}, "averaging_decay"),
        ({"averaging_epochs": 0}, "averaging_epochs"),
        ({"averaging": "triggered"}, "raise patience"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        TrainingConfig(**settings)


def test_devices() -> None:
    with pytest.raises(InputError, match="auto, cpu, cuda"):
        resolve_device("tpu")
    assert resolve_device("cpu") == CPU
    if not torch.cuda.is_available():
        assert resolve_device("auto") == CPU
        with pytest.raises(InputError, match="sees no GPU"):
            resolve_device("cuda")


@pytest.mark.parametrize(("problem", "variant", "settings"), SETTINGS[:4])
def test_data_that_lie_on_the_device_train_the_same_bits(
    problem: Problem, variant: str, settings: dict[str, Any]
) -> None:
    paired = len(problem.columns) == 2
    training, validation = (
        problem.resident(corpus(*each, paired=paired), CPU) for each in ((30, 1), (12, 2))
    )
    there = run(problem, variant, training=training, validation=validation, **settings)
    assert same(there, run(problem, variant, **settings))


class Afar(TorchFunctionMode):
    """Takes tensors of ``meta``, which hold nothing that a host could read, for those of a GPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == torch.Tensor.is_cuda.__get__:
            return args[0].device.type == "meta"
        return func(*args, **(kwargs or {}))


class OneDevice(TorchDispatchMode):
    """Refuses an operation on tensors of several devices; torch itself overlooks some on meta."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [each for each in tree_leaves((args, kwargs)) if isinstance(each, torch.Tensor)]
        devices = {each.device.type for each in tensors if each.dim()}
        assert len(devices) < 2 or "copy" in str(func), f"{func} mixes {devices}"
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    ("problem", "variant", "network", "regularisation"),
    [
        *(
            (problem, variant, settings.get("network"), settings.get("regularisation"))
            for problem, variant, settings in SETTINGS
            # torch's LSTMs over padded texts are packed by the host.
            if not (isinstance(problem, Seq2Seq) and "lstm" in variant)
        ),
        (Seq2Seq(), "bilstm-attention-textbook", None, None),
        (Classification(), "bigru-2", None, None),
        (Classification(), "gru-attention", None, None),
        (Tagging(), "bigru", None, None),
    ],
)
def test_a_step_reads_nothing_back_from_its_device(
    problem: Problem,
    variant: str,
    network: NetworkConfig | None,
    regularisation: RegularisationConfig | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    device = torch.device("meta")
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind != "meta" and enabled(kind))
    monkeypatch.setattr(torch, "autocast", lambda kind, **rest: nullcontext())
    examples = corpus(30, 1, paired=len(problem.columns) == 2)
    model = problem.build(Variant.parse(variant), network or NetworkConfig(8, 12, 0.3), [V, V])
    model.prepare(examples)
    model.regularise(regularisation or RegularisationConfig())
    model.to(device)
    with Afar(), OneDevice():
        batches = problem.training_batches(
            problem.resident(examples, device), 4, np.random.default_rng(0)
        )
        hidden = None
        for index in range(3):
            objective, _, hidden = model.objective(batches[index].to(device), hidden)
            objective.backward()
    assert all(each.grad is not None for each in model.parameters() if each.requires_grad)
    with pytest.raises(RuntimeError, match="meta"), Afar():
        float(objective)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize(
    ("problem", "variant"),
    [
        (LanguageModel(bptt=7), "lstm-2"),
        (LanguageModel(bptt=7, partition="random", carry_hidden=False), "gru"),
        (NextWord(window=3), "bilstm"),
        (Seq2Seq(), "bigru-attention"),
    ],
)
def test_no_step_waits_for_the_gpu(problem: Problem, variant: str, precision: str) -> None:
    """From the second step of an epoch to its last: the first one may set libraries up."""

    class Strict(Observer):
        def step(self, epoch: int, batch: int, num_batches: int) -> None:
            inner = batch < num_batches - 1
            torch.cuda.set_sync_debug_mode("error" if inner else "default")

    try:
        run(
            problem,
            variant,
            device=torch.device("cuda"),
            precision=precision,
            observer=Strict(),
            num_epochs=2,
            batch_size=4,
        )
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize(("problem", "variant", "settings"), SETTINGS)
def test_a_gpu_learns_what_a_cpu_learns_and_goes_on_after_a_cut(
    problem: Problem, variant: str, settings: dict[str, Any]
) -> None:
    network = NetworkConfig(8, 12, 0.0, layer_norm="network" in settings)
    # Random masks differ between devices.
    settings = {
        key: value for key, value in settings.items() if key not in ("network", "regularisation")
    }
    device = torch.device("cuda")
    here = run(problem, variant, network=network, **settings)
    there = run(problem, variant, network=network, device=device, **settings)
    for ours, theirs in zip(here.history, there.history, strict=True):
        assert theirs["metrics"]["valid/loss"] == pytest.approx(
            ours["metrics"]["valid/loss"], rel=0.02
        )
    observer = CutOff(2)
    with pytest.raises(Stop):
        run(problem, variant, network=network, device=device, observer=observer, **settings)
    resumed = run(problem, variant, network=network, device=device, state=observer.kept, **settings)
    assert resumed.history[-1]["metrics"]["valid/loss"] == pytest.approx(
        there.history[-1]["metrics"]["valid/loss"], rel=0.02
    )
