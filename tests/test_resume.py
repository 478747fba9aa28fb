"""Trainings killed by SIGKILL at random moments end with the weights of undisturbed ones.

    python tests/test_resume.py --kills 30

kills so many processes, spread over language_model, next_word, seq2seq and classification x LSTM,
GRU and Elman networks, with dropout, shuffling and a state every few steps, and compares the final
checkpoint of each with that of a training that nobody disturbed. The suite kills two.
"""

import argparse
import itertools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import flows.training.train
from flows.prepare.vocabularies import VocabularyRef
from flows.steps.steps import Steps
from flows.training.train import FitReport, train
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.problems import Classification, LanguageModel, NextWord, Problem, Seq2Seq
from pipeline.problems.predictor import ModelConfig
from pipeline.text.config import TextConfig
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import Loop
from warehouse.errors import StorageError
from warehouse.tables.example_schemas import id_table, words_table
from warehouse.tables.handles import TableRef
from warehouse.tables.tables import Tables

V = 60
PROBLEMS: dict[str, Problem] = {
    "language_model": LanguageModel(bptt=8, bptt_varies=True),
    "next_word": NextWord(window=4),
    "seq2seq": Seq2Seq(teacher_forcing_schedule="exponential", teacher_forcing_steps=60),
    "classification": Classification(),
}
CELLS = {"lstm": "lstm-2", "gru": "gru", "rnn": "rnn_tanh-2"}
NUM_ROWS = {"language_model": 600, "next_word": 120, "seq2seq": 240, "classification": 600}
AVERAGES = {"lstm": "moving", "gru": "best", "rnn": "none"}


def id_tables(tables: Tables, problem: Problem, num_rows: int, seed: int) -> TableRef:
    """Rows that count up from a random start, and a last column of what is asked."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(4, 12, num_rows)
    offsets = np.concatenate(([0], np.cumsum(lengths)))
    starts = np.repeat(generator.integers(0, V, num_rows), lengths)
    places = np.arange(offsets[-1]) - np.repeat(offsets[:-1], lengths)
    values = ((starts + places) % (V - 4) + 4).astype(np.int32)
    columns = {"inputs": (values, offsets)}
    if problem.name == "seq2seq":
        columns["targets"] = (((values + 7) % (V - 4) + 4).astype(np.int32), offsets)
    if problem.name == "classification":
        labels = (starts[offsets[:-1]] % 3 + 4).astype(np.int32)
        columns["targets"] = (labels, np.arange(num_rows + 1))
    none = (np.zeros(0, np.int32), np.zeros(num_rows + 1, np.int64))
    return tables.write([id_table({**columns, "characters": none, "spelling": none})])


def learn(root: Path, name: str, cell: str, **changes: Any) -> FitReport:
    """Train in this process, as a retraining does, or go on where the last process was killed."""
    tables, problem = Tables(root), PROBLEMS[name]
    words = [f"word{index}" for index in range(V - 4)]
    counts = tables.write([words_table(words, np.ones(V - 4, np.int64))])
    vocabulary = VocabularyRef(counts=counts, num_words=V - 4, num_tokens=V - 4, unknown_rate=0.0)
    variant, network = Variant.parse(CELLS[cell]), NetworkConfig(24, 32, 0.3)
    texts = (TextConfig(), TextConfig()) if name == "seq2seq" else (TextConfig(),)
    settings = {
        "root": str(root),
        "problem": problem,
        "variant": variant,
        "network": network,
        "training": TrainingConfig(
            num_epochs=6, batch_size=16, learning_rate=0.01, schedule="plateau",
            averaging=AVERAGES[cell], averaging_decay=0.95, averaging_epochs=2, patience=None,
        ),
        "regularisation": RegularisationConfig(locked_dropout=True, weight_drop=0.1),
        "config": ModelConfig(problem, variant, network, *texts).to_dict(),
        "vocabularies": [vocabulary] * len(problem.columns),
        "train_ids": id_tables(tables, problem, NUM_ROWS[name], seed=1),
        "valid_ids": id_tables(tables, problem, 100, seed=2),
        "device": "cpu",
        "save_every_steps": 10,
    }  # fmt: skip
    report: FitReport = Steps(root).run(train, label=CELLS[cell], **settings | changes)
    return report


def started(root: Path, name: str, cell: str) -> subprocess.Popen[str]:
    """A process that trains; it has begun when this returns."""
    process = subprocess.Popen(
        [sys.executable, __file__, "--learn", str(root), name, cell],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "training\n"
    return process


def digest_of(process: subprocess.Popen[str]) -> str:
    """What the process says at its end; empty where it was killed."""
    assert process.stdout is not None
    with process:
        return process.stdout.read().strip()


@pytest.mark.parametrize(("name", "cell"), [("language_model", "lstm"), ("seq2seq", "gru")])
def test_a_killed_training_ends_with_the_weights_of_an_undisturbed_one(
    tmp_path: Path, name: str, cell: str
) -> None:
    process = started(tmp_path / "killed", name, cell)
    # After the first state is there, at a moment that nobody chose.
    while not list((tmp_path / "killed").glob("states/*/0*")):
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.001)
    time.sleep(random.Random(name).random() * 0.3)
    process.send_signal(signal.SIGKILL)
    assert not digest_of(process), "the training ended before it could be killed"
    resumed = learn(tmp_path / "killed", name, cell)
    whole = learn(tmp_path / "whole", name, cell, save_every_steps=None)
    assert resumed.checkpoint.digest == whole.checkpoint.digest
    assert not list((tmp_path / "killed").glob("states/*/*")), "a finished training leaves no state"


class Interrupted(Exception):
    """Stands for whatever ends a process between two states."""


def test_never_resuming_starts_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def leave_a_state() -> None:
        with monkeypatch.context() as patched:
            patched.setattr(Loop, "_close_epoch", _interrupt)
            with pytest.raises(Interrupted):
                learn(tmp_path, "next_word", "gru")
        assert list(tmp_path.glob("states/*/0*"))

    leave_a_state()
    with caplog.at_level("INFO", logger="flows.training.train"):
        anew = learn(tmp_path, "next_word", "gru", resume="never")
        assert "going on after step" not in caplog.text
        shutil.rmtree(tmp_path / "results")
        leave_a_state()
        resumed = learn(tmp_path, "next_word", "gru", resume="auto")
        assert "going on after step" in caplog.text
    assert anew.checkpoint.digest == resumed.checkpoint.digest


def _interrupt(*arguments: object) -> None:
    raise Interrupted


def test_a_full_disk_is_one_sentence_and_leaves_the_last_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No file may grow beyond a limit that the first states keep: a later state does not fit."""
    monkeypatch.setattr(Loop, "snapshot", _growing)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, limits[1]))
        with pytest.raises(StorageError, match=r"training state .*free some space") as raised:
            learn(tmp_path, "next_word", "gru")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "\n" not in str(raised.value)
    assert list(tmp_path.glob("states/*/0*/sums.json")), "the last good state stays"


_snapshot = Loop.snapshot


def _growing(loop: Any) -> Any:
    """A state that grows with the steps, as a disk fills up."""
    state = _snapshot(loop)
    if loop.counters.step > 40:
        state.tensors["ballast"] = state.tensors["sums"].new_zeros(1_000_000)
    return state


# --- the long form --------------------------------------------------------------------------------


class Forked:
    """A training in a process of its own, which need not import anything first."""

    def __init__(self, *case: Any) -> None:
        self.says, child_says = os.pipe()
        self.pid = os.fork()
        if not self.pid:
            try:
                os.dup2(child_says, 1)
                learn_aloud(*case)
            finally:
                os._exit(0)
        os.close(child_says)
        assert os.read(self.says, 9) == b"training\n"

    def digest(self) -> str:
        """What the process says at its end; empty where it was killed."""
        said = b""
        while more := os.read(self.says, 100):
            said += more
        os.close(self.says)
        os.waitpid(self.pid, 0)
        return said.decode().strip()


def killed(root: Path, name: str, cell: str, seconds: float) -> bool:
    """Whether a training was still under way, and so was killed, after so many seconds."""
    process = Forked(root, name, cell)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGKILL)
    return not process.digest()


def learn_aloud(root: Path, name: str, cell: str) -> None:
    """Train, and say when the first step is done and which checkpoint came out."""
    # What libraries load at their first step has no part in the training.
    step = flows.training.train._Reporter.step

    def first_step(reporter: Any, *arguments: int) -> None:
        _say("training")
        flows.training.train._Reporter.step = step  # type: ignore[method-assign]
        step(reporter, *arguments)

    flows.training.train._Reporter.step = first_step  # type: ignore[method-assign]
    _say(learn(root, name, cell).checkpoint.digest)


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=30)
    parser.add_argument("--learn", nargs=3, help=argparse.SUPPRESS)
    parsed = parser.parse_args()
    if parsed.learn:
        root, name, cell = parsed.learn
        learn_aloud(Path(root), name, cell)
        return
    cases = list(itertools.product(PROBLEMS, CELLS))
    done = same = 0
    for index, (name, cell) in enumerate(cases):
        wanted = parsed.kills * (index + 1) // len(cases) - parsed.kills * index // len(cases)
        folder = Path(tempfile.mkdtemp(prefix="tidemill-kills-"))
        undisturbed = Forked(folder / "whole", name, cell)
        begin = time.monotonic()
        whole = undisturbed.digest()
        seconds = time.monotonic() - begin
        chance = random.Random(index)
        states: list[int] = []
        while len(states) < wanted:
            if killed(folder / "killed", name, cell, chance.uniform(0, 0.9) * seconds / wanted):
                kept = sorted((folder / "killed").glob("states/*/0*"))
                states.append(int(kept[-1].name) if kept else 0)
            else:
                # It was faster than the undisturbed one: begin again, and kill earlier.
                shutil.rmtree(folder / "killed")
                states, seconds = [], seconds / 2
        digest = Forked(folder / "killed", name, cell).digest()
        done += wanted
        same += wanted * (digest == whole)
        _say(
            f"{name} {CELLS[cell]}: killed {wanted} times, with {states} states kept; "
            f"{'the same weights' if digest == whole else 'OTHER WEIGHTS'} ({whole[:12]})",
        )
        shutil.rmtree(folder)
    _say(f"{same} of {done} kills led to the undisturbed weights")
    sys.exit(0 if same == done else 1)


if __name__ == "__main__":
    main()
