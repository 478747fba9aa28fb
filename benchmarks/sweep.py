"""The variants of one retraining, one after another and side by side, by the clock.

    python benchmarks/sweep.py [--source FILE] [--variants rnn_tanh,rnn_relu,gru,lstm] [--rounds 2]

Every run is a `tidemill retrain next-word` in a process and a warehouse of its own, in which all
steps before training are done already; it trains the variants, scores them and registers them.
Ways take turns:

    one thread             one variant after another
    all cores              the same, each variant on as many threads as there are cores
    side by side           as many variants at once as there are cores, one thread each

The last one must have the scores of the first to the bit, else the exit code is 1.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from rounds import ROOT, machine, show, spread

CORES = str(os.cpu_count() or 1)
WAYS = {
    "one thread": ("1", "1"),
    "all cores": (CORES, "1"),
    "side by side": ("1", CORES),
}
"""Threads of a training, and trainings at once."""
PREPARED_BY = "ngram-1"


def tidemill(warehouse: Path, threads: str, *command: str) -> str:
    """What the command prints, as JSON."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": threads,
        "TIDEMILL_WAREHOUSE": str(warehouse),
        "CUDA_VISIBLE_DEVICES": "",
    }
    for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
        environment.pop(name, None)
    start = "import sys; from flows.command.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", start, *command, "--json"],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(f"{command} failed:\n{done.stderr[-4000:]}")
    return done.stdout


def retrain(warehouse: Path, way: str, source: str, variants: str, epochs: int) -> float:
    """Seconds of a retraining by the clock."""
    threads, at_once = WAYS[way]
    begin = time.perf_counter()
    tidemill(
        warehouse, threads, "retrain", "next-word", "--source", source, "--variants", variants,
        "--parallel", at_once, "--set", f"training.num_epochs={epochs}",
    )  # fmt: skip
    return time.perf_counter() - begin


def scores(warehouse: Path) -> list[tuple[str, dict[str, float]]]:
    """What each variant came to, without how long it took."""
    board = json.loads(tidemill(warehouse, "1", "leaderboard", "next-word"))
    return sorted(
        (
            row["variant"],
            {name: row["metrics"][name] for name in row["metrics"] if "speed" not in name},
        )
        for row in board
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--source", default="sample:dialogues")
    parser.add_argument("--variants", default="rnn_tanh,rnn_relu,gru,lstm")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=2)
    asked = parser.parse_args()
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    different = 0
    with tempfile.TemporaryDirectory() as folder:
        prepared = Path(folder) / "prepared"
        retrain(prepared, "one thread", asked.source, PREPARED_BY, asked.epochs)
        for number in range(asked.rounds):
            found: dict[str, list[tuple[str, dict[str, float]]]] = {}
            for way in WAYS:
                warehouse = Path(folder) / "warehouse"
                shutil.copytree(prepared, warehouse)
                seconds[way].append(
                    retrain(warehouse, way, asked.source, asked.variants, asked.epochs)
                )
                found[way] = scores(warehouse)
                shutil.rmtree(warehouse)
                print(f"round {number + 1} of {asked.rounds}: {way}", file=sys.stderr)
            different += found["side by side"] != found["one thread"]
    first = seconds["one thread"]
    rows = [
        (way, spread(taken, 1), spread([a / b for a, b in zip(first, taken, strict=True)]))
        for way, taken in seconds.items()
    ]
    headings = ("way", "seconds", "times as fast")
    where = machine()
    below = f"{where['processor']}; torch {where['torch']}"
    show(f"{asked.variants}, {CORES} cores", headings, rows, below)
    if different:
        print("side by side, variants came to other scores", file=sys.stderr)
    return int(different > 0)


if __name__ == "__main__":
    sys.exit(main())
