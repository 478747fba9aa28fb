"""Ways side by side, in turn, round after round, each in a process of its own.

Seconds are CPU seconds (user and system, all threads) of one thread; what else runs on the machine
makes them longer, and meets every way of a round alike. So ratios are taken within a round, and the
median over rounds is told with the quartiles, or with the least and the most of fewer than eight.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ingest import processor
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


def in_new_process(command: Sequence[str], environment: Mapping[str, str]) -> dict[str, Any]:
    """What the command's last line of output says, as JSON."""
    environment = {**environment, **ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-4000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def measure(
    ways: Sequence[str], num_rounds: int, run: Callable[[str], dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """``num_rounds`` results of each way, taken in turn."""
    found: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(num_rounds):
        for way in ways:
            found[way].append(run(way))
            print(f"round {number + 1} of {num_rounds}: {way}", file=sys.stderr)
    return found


class Stepper:
    """A process that takes a step whenever it is told to, and says how long it took.

    Ways that take turns in one process would share its heap, and what one frees slows the others.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""},
        )
        self._taken()

    def step(self) -> float:
        """CPU seconds of its next step."""
        assert self._process.stdin is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._taken()

    def _taken(self) -> float:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._process.args} ended with {self._process.wait()}")
        return float(line)

    def close(self) -> None:
        self._process.communicate()


class Turns:
    """In such a process, to be called after every step: says how long it took, and waits."""

    def __init__(self) -> None:
        self._begin = time.process_time()

    def __call__(self) -> None:
        print(time.process_time() - self._begin, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self._begin = time.process_time()


def seconds_in_turn(
    commands: Mapping[str, Sequence[str]], num_rounds: int, num_warm: int
) -> dict[str, list[float]]:
    """CPU seconds of a step of each, in turn, after some that do not count."""
    steppers = {name: Stepper(command) for name, command in commands.items()}
    found: dict[str, list[float]] = {name: [] for name in steppers}
    for number in range(num_warm + num_rounds):
        for name, stepper in steppers.items():
            seconds = stepper.step()
            if number >= num_warm:
                found[name].append(seconds)
    for stepper in steppers.values():
        stepper.close()
    return found


def speeds(runs: Sequence[Mapping[str, Any]]) -> list[float]:
    return [run["num"] / run["seconds"] for run in runs]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and the quartiles; of fewer than eight values the least and the most."""
    if len(values) == 1:
        return f"{values[0]:,.{digits}f}"
    ends = min(values), max(values)
    if len(values) >= 8:
        first, _, third = statistics.quantiles(values, n=4)
        ends = first, third
    low, middle, high = (
        f"{each:,.{digits}f}" for each in (ends[0], statistics.median(values), ends[1])
    )
    return f"{middle} ({low} to {high})"


def ratios(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[float]:
    """How many times as fast one way is as the other, round by round."""
    return [a / b for a, b in zip(speeds(one), speeds(other), strict=True)]


def machine(*packages: str) -> dict[str, str]:
    """The hardware and the versions that figures depend on."""
    found = {"processor": processor(), "python": platform.python_version()}
    for name in ("torch", "numpy", *packages):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def caption(found: Mapping[str, str]) -> str:
    rest = ", ".join(f"{name} {value}" for name, value in found.items() if name != "processor")
    return f"{found['processor']}, one thread; {rest}"


def show(title: str, headings: Sequence[str], rows: Sequence[Sequence[str]], below: str) -> None:
    table = Table(title=title, caption=below)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="right" if number else "left")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)


def keep(name: str, results: Mapping[str, Any], path: Path | None = None) -> None:
    """Write the results to where ``report.py`` looks for them."""
    target = path or RESULTS / f"{name}.json"
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
