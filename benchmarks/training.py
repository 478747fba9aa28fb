"""How fast a language model trains: predicted words a CPU second, one thread, ways in turn.

    OMP_NUM_THREADS=1 python benchmarks/training.py --rounds 5
    OMP_NUM_THREADS=1 python benchmarks/training.py --profile 200:64

The text is random: speed does not depend on what the words are, but for the adaptive softmax, whose
words are drawn by Zipf's law. Each round times some steps of every way, so that whatever else the
machine does falls on all of them.
"""

import argparse
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.problems import LanguageModel
from pipeline.problems.batches import Examples
from pipeline.problems.ragged import Ragged
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import Loop
from pipeline.training.precision import trains_in_bf16
from pipeline.training.ranks import Ranks

V, STEPS = 10_000, 4
CPU = torch.device("cpu")


def loop(size: int, batch: int, network: dict[str, Any], training: dict[str, Any]) -> Any:
    """A training of two layers, some of its batches, and its text."""
    problem, variant = LanguageModel(bptt=35), Variant("lstm", 2)
    chances = 1 / np.arange(10, V + 6)
    words = np.random.default_rng(0).choice(
        np.arange(4, V), 36 * batch * (STEPS + 1), p=(chances / chances.sum())
    )
    examples = Examples(Ragged.of([words]))
    torch.manual_seed(0)
    model = problem.build(variant, NetworkConfig(size, size, 0.2, **network), [V])
    config = TrainingConfig(batch_size=batch, **training)
    found = Loop(problem, variant, model.train(), config, CPU, Ranks(CPU))
    batches = problem.training_batches(examples, batch, np.random.default_rng(0))
    return found, [batches[index] for index in range(STEPS)], examples


ADAPTIVE: dict[str, Any] = {"output": "adaptive", "cutoffs": (1000, 4000)}
Way = tuple[str, dict[str, Any], dict[str, Any]]

WAYS: list[Way] = [
    ("default: fp32, full softmax, Adam", {}, {}),
    ("optimizer=sgd", {}, {"optimizer": "sgd"}),
    ("precision=bf16", {}, {"precision": "bf16"}),
    ("output=adaptive, cutoffs 1000, 4000", ADAPTIVE, {}),
    ("both", ADAPTIVE, {"precision": "bf16"}),
    ("tied", {"tied": True}, {}),
]

HAS_BF16 = trains_in_bf16("lstm", "torch")


def measure(size: int, batch: int, rounds: int) -> None:
    ways = [way for way in WAYS if way[2].get("precision") != "bf16" or HAS_BF16]
    made = [loop(size, batch, network, training) for _, network, training in ways]
    speeds: list[list[float]] = [[] for _ in ways]
    for number in range(rounds + 1):
        for (found, batches, _), speed in zip(made, speeds, strict=True):
            began = time.process_time()
            for each in batches:
                found.step([each], 0.0)
            seconds = time.process_time() - began
            if number:
                speed.append(sum(each.num_targets for each in batches) / seconds)
    print(f"\nhidden {size}, batch {batch}: words a CPU second, median (least to most), x default")
    for (name, *_), speed in zip(ways, speeds, strict=True):
        ratio = statistics.median(a / b for a, b in zip(speed, speeds[0], strict=True))
        print(
            f"  {name:40} {statistics.median(speed):6.0f} "
            f"({min(speed):.0f} to {max(speed):.0f})  {ratio:.2f}"
        )
    if not HAS_BF16:
        print(f"  {'precision=bf16':40} not supported on this CPU")


def profile(size: int, batch: int, way: int) -> None:
    name, network, training = WAYS[way]
    trained, batches, _ = loop(size, batch, network, training)
    trained.step(batches[:1], 0.0)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        for each in batches:
            trained.step([each], 0.0)
    print(name)
    print(
        seen.key_averages().table(
            sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=50
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sizes", nargs="*", default=["200:64", "650:20", "650:64"])
    parser.add_argument("--profile", help="a size, such as 200:64")
    parser.add_argument("--way", type=int, default=0)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{platform.processor() or platform.machine()}, torch {torch.__version__}, one thread")
    if parsed.profile:
        profile(*map(int, parsed.profile.split(":")), parsed.way)
        return
    for size in parsed.sizes:
        measure(*map(int, size.split(":")), parsed.rounds)


if __name__ == "__main__":
    main()
