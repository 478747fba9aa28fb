"""Trainings in processes of their own: the same bits, who may die, and who goes with whom."""

import logging
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import flows.training.processes
from flows.environment import SAMPLES
from flows.retrain import RetrainReport, retrain
from flows.training.processes import TrainingProcesses
from pipeline.errors import InputError
from pipeline.networks.recurrent import NetworkConfig
from pipeline.problems import LanguageModel
from pipeline.text.config import TextConfig
from pipeline.training.config import TrainingConfig
from warehouse.registry.registry import Registry

SETTINGS: dict[str, Any] = {
    "name": "characters",
    "problem": LanguageModel(bptt=4),
    "variants": ["gru", "ngram-3", "rnn_tanh"],
    "network": NetworkConfig(8, 12, 0.1),
    "training": TrainingConfig(num_epochs=6, batch_size=16, learning_rate=0.01, patience=None),
    "text": TextConfig(unit="char"),
    "save_every_steps": 25,
}
TWO = TrainingConfig(
    num_epochs=6, batch_size=16, learning_rate=0.01, patience=None, num_processes=2
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse whose data is ready, and in which three variants were trained in this process."""
    root = tmp_path_factory.mktemp("prepared")
    lines = (SAMPLES / "dialogues.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    (root / "talks.jsonl").write_text("".join(lines[:60]), encoding="utf-8")
    # To make a registry takes longer than to copy one.
    Registry(root)
    subprocess.run(["cp", "-r", str(root / "mlflow"), str(root / "empty registry")], check=True)
    run(root)
    return root


def run(root: Path, **changes: Any) -> RetrainReport:
    settings = {**SETTINGS, "sources": [str(root / "talks.jsonl")], **changes}
    report: RetrainReport = retrain.fn(warehouse=str(root), **settings)
    return report


def digests(root: Path) -> set[str]:
    return {path.name for path in (root / "checkpoints").iterdir()}


def untrained(prepared: Path, tmp_path: Path) -> Path:
    """A copy of the data without what was made of it."""
    root = tmp_path / "warehouse"
    tmp_path.mkdir(exist_ok=True)
    subprocess.run(["cp", "-r", str(prepared), str(root)], check=True)
    gone = ("checkpoints", "mlflow", "results/train", "results/score")
    subprocess.run(["rm", "-rf", *(str(root / name) for name in gone)], check=True)
    (root / "empty registry").rename(root / "mlflow")
    return root


def descendants(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-eo", "pid=,ppid="], capture_output=True, text=True, check=True)
    pairs = [tuple(map(int, line.split())) for line in found.stdout.splitlines()]
    family = [pid]
    for parent in family:
        family += [child for child, its in pairs if its == parent]
    return family[1:]


def alive(pid: int) -> bool:
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return bool(found.stdout.strip()) and not found.stdout.strip().startswith("Z")


@pytest.fixture
def when_told(monkeypatch: pytest.MonkeyPatch) -> Callable[[str, Callable[[], None]], None]:
    """Does something once, as soon as a process has said something."""

    def arrange(message: str, act: Callable[[], None]) -> None:
        relay, done = flows.training.processes._relay, threading.Event()

        def relayed(line: str) -> None:
            relay(line)
            if message in line and not done.is_set():
                done.set()
                act()

        monkeypatch.setattr(flows.training.processes, "_relay", relayed)

    return arrange


def test_side_by_side_each_has_its_own_result_and_one_that_dies_costs_a_sentence(
    prepared: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    when_told: Callable[[str, Callable[[], None]], None],
) -> None:
    root = untrained(prepared, tmp_path)
    started: dict[str, subprocess.Popen[str]] = {}
    start = TrainingProcesses._start

    def noted(self: TrainingProcesses, folder: Path, *rest: Any) -> subprocess.Popen[str]:
        process = start(self, folder, *rest)
        name = next(
            each for each in SETTINGS["variants"] if each in (folder / "job.json").read_text()
        )
        started[name] = process
        return process

    monkeypatch.setattr(TrainingProcesses, "_start", noted)
    when_told("rnn_tanh: epoch 1 of 6 done", lambda: started["rnn_tanh"].kill())
    with caplog.at_level(logging.INFO, logger="flows"):
        report = run(root, parallel=3)
        assert [bool(each.failure) for each in report.variants] == [False, False, True]
        assert report.variants[2].failure == (
            "rnn_tanh: a process of its training was ended by SIGKILL, as the system does where "
            "memory runs out; the next run goes on from what is kept"
        )
        assert "gru: epoch 6 of 6 done" in caplog.text, "the parent tells of all"
        assert digests(root) < digests(prepared)
        started.clear()
        again = run(root, parallel=3)
    assert started.keys() == {"rnn_tanh"}, "what is in the cache starts no process"
    assert "rnn_tanh: going on after step" in caplog.text
    assert not any(each.failure for each in again.variants)
    assert digests(root) == digests(prepared), "the same bits as one after the other"
    # The same keys, too: what was trained side by side is there for one after the other.
    assert {step.state for step in run(root).steps if step.task == "train"} == {"Cached"}


def test_a_diverging_variant_costs_a_sentence(prepared: Path, tmp_path: Path) -> None:
    root = untrained(prepared, tmp_path)
    wild = TrainingConfig(num_epochs=1, optimizer="sgd", learning_rate=1e30, clip_norm=None)
    report = run(root, variants=["rnn_relu", "ngram-3"], training=wild, parallel=2)
    assert "its loss is no number any more" in report.variants[0].failure
    assert not report.variants[1].failure


def test_two_processes_go_on_with_the_same_bits_after_a_kill(
    prepared: Path, tmp_path: Path, when_told: Callable[[str, Callable[[], None]], None]
) -> None:
    whole, root = (untrained(prepared, tmp_path / name) for name in ("whole", "killed"))
    settings = {"variants": ["gru"], "training": TWO}

    def kill_one() -> None:
        # Torchrun, and the two that it has started; the second says nothing.
        _, *ranks = descendants(os.getpid())
        os.kill(ranks[-1], signal.SIGKILL)

    run(whole, **settings)
    when_told("gru: epoch 2 of 6 done", kill_one)
    with pytest.raises(InputError, match=r"ended by SIGKILL, .*what is kept") as ended:
        run(root, **settings)
    assert str(ended.value).isprintable()
    assert list(root.glob("states/*/0*")), "the last good state stays"
    resumed = run(root, **settings)
    assert digests(root) == digests(whole)
    assert not any(each.failure for each in resumed.variants)
    assert digests(root) != digests(prepared), "other random numbers, and another order of sums"


LONG = replace(TWO, num_epochs=1000)
"""Far from its end when it is killed, however slow the killer is."""


@pytest.mark.parametrize(
    ("how", "changes"),
    [
        (signal.SIGKILL, {"variants": ["gru"], "training": LONG}),
        (
            signal.SIGINT,
            {
                "parallel": 2,
                "variants": ["gru", "rnn_tanh"],
                "training": replace(LONG, num_processes=1),
            },
        ),
    ],
)
def test_processes_end_with_their_parent(
    prepared: Path, tmp_path: Path, how: signal.Signals, changes: dict[str, Any]
) -> None:
    root = untrained(prepared, tmp_path)
    parent = os.fork()
    if not parent:
        # Where the tests run in the background, a shell has told them to ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            run(root, **changes)
        except KeyboardInterrupt:
            os._exit(130)
        finally:
            os._exit(1)
    while not list(root.glob("states/*/0*")):
        assert os.waitpid(parent, os.WNOHANG) == (0, 0), "it ended before it could be killed"
        time.sleep(0.02)
    family = descendants(parent)
    assert len(family) >= 2
    os.kill(parent, how)
    _, status = os.waitpid(parent, 0)
    assert os.waitstatus_to_exitcode(status) == (130 if how == signal.SIGINT else -signal.SIGKILL)
    deadline = time.monotonic() + 20
    while any(map(alive, family)):
        assert time.monotonic() < deadline, "a process outlives its parent"
        time.sleep(0.05)


@pytest.mark.parametrize(
    "changes", [{"parallel": 0}, {"overrides": {"training.num_processes": 65}}]
)
def test_what_cannot_be_is_refused_before_any_work(tmp_path: Path, changes: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"at least 1|too small to be divided"):
        run(tmp_path, **changes)
    assert not any(tmp_path.iterdir())


def test_trainings_are_divided_among_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = TrainingProcesses(num_threads=8, num_gpus=3)
    with processes._gpus(1) as first, processes._gpus(1) as second:
        assert (first, second) == ([0], [1])
        with processes._gpus(2) as several:
            assert several == [2, 0]
    with processes._gpus(1) as freed:
        assert freed == [0]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,6,7")
    environment = processes._environment(2, [2, 0])
    assert environment["CUDA_VISIBLE_DEVICES"] == "7,4"
    assert environment["OMP_NUM_THREADS"] == "4"
