"""What a training takes: counted beforehand, as training_memory_gb does, and measured.

    python benchmarks/step_memory.py [--cases 0,3]

Each case trains an epoch of two batches in a process of its own; measured is how much more memory
of it was resident at most than before (ru_maxrss). Counted is without the tenth that is added for
what an allocator cannot use. Words are drawn at random, texts have 50 of them.
"""

import argparse
import json
import os
import resource
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rounds import caption, in_new_process, machine, show

from flows.training.freed_memory import keep_freed_memory
from pipeline.networks.recurrent import (
    NetworkConfig,
    Variant,
)
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.problems import (
    LanguageModel,
    Problem,
    Seq2Seq,
)
from pipeline.problems.batches import Examples
from pipeline.problems.ragged import Ragged
from pipeline.training.batch_size import (
    HOLES,
    step_memory,
    widest_batch,
)
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit

BPTT = 35
TEXT = 50


@dataclass(frozen=True)
class Case:
    """A variant as wide as its embedding, its vocabulary, and columns of a batch."""

    problem: str
    variant: str
    width: int
    num_words: int
    batch: int


CASES = (
    Case("language_model", "lstm-2", 200, 10_000, 64),
    Case("language_model", "lstm-2", 200, 10_000, 256),
    Case("language_model", "lstm-2", 200, 5_000, 1024),
    Case("language_model", "lstm", 650, 10_000, 128),
    Case("language_model", "gru", 256, 10_000, 256),
    Case("language_model", "gru", 256, 10_000, 1024),
    Case("language_model", "rnn_tanh", 256, 10_000, 256),
    Case("seq2seq", "bigru", 256, 8_000, 256),
    Case("seq2seq", "gru", 128, 8_000, 1024),
    Case("seq2seq", "bilstm-attention", 256, 8_000, 128),
    Case("seq2seq", "bilstm-attention", 256, 8_000, 512),
    Case("seq2seq", "bilstm-attention", 128, 8_000, 256),
)


def data(case: Case) -> tuple[Problem, Examples, list[int]]:
    """Two batches of the case's problem, and sizes of its vocabularies."""
    draw = np.random.default_rng(0)
    if case.problem == "language_model":
        stream = draw.integers(4, case.num_words, case.batch * (2 * BPTT + 1), dtype=np.int32)
        return LanguageModel(bptt=BPTT), Examples(Ragged.of([stream])), [case.num_words]
    texts = draw.integers(4, case.num_words, (4 * case.batch, TEXT), dtype=np.int32)
    sides = [Ragged.of(list(part)) for part in np.split(texts, 2)]
    return Seq2Seq(), Examples(*sides), [case.num_words] * 2


def run(case: Case) -> dict[str, float]:
    """Bytes counted and measured."""
    torch.set_num_threads(1)
    problem, examples, sizes = data(case)
    variant, network = Variant.parse(case.variant), NetworkConfig(case.width, case.width)
    config = TrainingConfig(num_epochs=1, batch_size=case.batch)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    cpu = torch.device("cpu")
    with keep_freed_memory():
        fit(problem, variant, network, config, examples, examples, sizes, device=cpu)
    measured = 1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
    widest, _ = widest_batch(problem, examples)
    memory = step_memory(problem, variant, network, config, sizes, RegularisationConfig(), widest)
    return {"counted": memory.of(case.batch) / HOLES, "measured": measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", help="numbers of some cases, from 0")
    parser.add_argument("--run", type=int, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run is not None:
        print(json.dumps(run(CASES[asked.run])))
        return
    numbers = asked.cases.split(",") if asked.cases else map(str, range(len(CASES)))
    rows = []
    for number in numbers:
        case = CASES[int(number)]
        found = in_new_process([sys.executable, __file__, "--run", number], os.environ)
        counted, measured = (found[name] / 1e6 for name in ("counted", "measured"))
        rows.append(
            (case.problem, case.variant, f"{case.width}", f"{case.batch:,}",
             f"{counted:,.0f}", f"{measured:,.0f}", f"{measured / counted:.2f}")
        )  # fmt: skip
    headings = ("problem", "variant", "width", "batch", "counted, MB", "measured, MB", "ratio")
    show("What a training takes", headings, rows, caption(machine()))


if __name__ == "__main__":
    main()
