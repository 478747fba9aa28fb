"""How n-gram models with modified Kneser-Ney smoothing score a text, and what that costs.

    python benchmarks/ngram.py [TRAIN TEST] [--orders 1,2,3,4,5]

The files are text whose words stand apart by blanks; without them WikiText-2 is read where it lies
beside the repository. `<eos>` stands behind every line, empty ones too, as is usual for WikiText.
Words of TEST that TRAIN lacks count as one unknown word. Every word of TEST is scored after as many
words as there are before it, across lines.
"""

import argparse
import math
import platform
import resource
import sys
import time
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
WIKITEXT = ROOT.parent / "shared" / "data" / "text"
sys.path.insert(0, str(ROOT))

from pipeline.baselines.ngram import KneserNey
from pipeline.text.vocabulary import (
    BOS,
    EOS,
    SPECIALS,
    UNK,
)


def tokens(path: Path) -> list[str]:
    lines = path.read_text(encoding="utf-8").splitlines()
    return [word for line in lines for word in (*line.split(), "<eos>")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("train", type=Path, nargs="?", default=WIKITEXT / "wiki.train.tokens")
    parser.add_argument("test", type=Path, nargs="?", default=WIKITEXT / "wiki.test.tokens")
    parser.add_argument("--orders", default="1,2,3,4,5")
    parsed = parser.parse_args()
    missing = [str(path) for path in (parsed.train, parsed.test) if not path.is_file()]
    if missing:
        print(f"nothing is measured: there is no {' and no '.join(missing)}")
        return
    ids = {"<eos>": EOS}

    def training_id(word: str) -> int:
        return ids.setdefault(word, len(ids) - 1 + len(SPECIALS))

    training = np.array([EOS, *map(training_id, tokens(parsed.train))], np.int32)
    test = np.array([EOS, *(ids.get(word, UNK) for word in tokens(parsed.test))], np.int32)
    num_words = len(ids) - 1 + len(SPECIALS)
    starts = np.arange(len(training)) == 0
    table = Table()
    for title in ("order", "perplexity", "estimate, s", "score, s", "numbers kept", "MB"):
        table.add_column(title, justify="right")
    for order in map(int, parsed.orders.split(",")):
        model = KneserNey(order, num_words)
        began = time.process_time()
        model.estimate(training, starts)
        estimated = time.process_time()
        nats = -model.log_probability(contexts(test, order - 1), torch.from_numpy(test[1:]))
        scored = time.process_time()
        buffers = list(model.state_dict().values())
        table.add_row(
            str(order),
            f"{math.exp(float(nats.mean())):.2f}",
            f"{estimated - began:.2f}",
            f"{scored - estimated:.2f}",
            f"{sum(buffer.numel() for buffer in buffers):,}",
            f"{sum(buffer.nbytes for buffer in buffers) / 1e6:.1f}",
        )
    console = Console()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console.print(
        f"{platform.processor() or platform.machine()}, Python {platform.python_version()}, "
        f"torch {version('torch')}; {len(training) - 1:,} words train, {len(test) - 1:,} test, "
        f"{len(ids):,} different; CPU seconds; peak memory {peak:,.0f} MB"
    )
    console.print(table)


def contexts(ids: NDArray[np.int32], size: int) -> torch.Tensor:
    """The `size` ids before every id but the first: [N, size]."""
    filled = np.concatenate((np.full(max(size - 1, 0), BOS, np.int32), ids[:-1]))
    if not size:
        return torch.zeros(len(ids) - 1, 0, dtype=torch.int32)
    return torch.from_numpy(np.lib.stride_tricks.sliding_window_view(filled, size).copy())


if __name__ == "__main__":
    main()
