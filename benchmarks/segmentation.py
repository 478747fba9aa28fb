"""How fast columns of Chinese text are cut, beside plain `jieba.lcut` in the same run.

    python benchmarks/segmentation.py [FILE.jsonl ...] [--texts 60000] [--rounds 3]

Each measurement has a process of its own, and the ways take turns. Seconds are CPU seconds (user
and system, all threads); "start" is making dictionary and tables; memory is the most that the whole
process held. Without files, the real corpora beside the repository are read, or the bundled sample.
Every string of a row is a text, and each counts once.
"""

import argparse
import json
import multiprocessing
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WAYS = ("jieba.lcut", "tokenize_batch")


def strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from strings(part)


def read(files: list[Path], num_texts: int) -> list[str]:
    """As many distinct texts as asked for, evenly from all files."""
    texts: dict[str, None] = {}
    for file in files:
        with file.open(encoding="utf-8") as lines:
            found = dict.fromkeys(text for line in lines for text in strings(json.loads(line)))
        texts |= dict.fromkeys(list(found)[: num_texts // len(files)])
    return list(texts)


def peak_mb() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists():
        # Where it exists: ru_maxrss also counts what the parent held before this process began.
        fields = dict(line.split(":", 1) for line in status.read_text().splitlines())
        return int(fields["VmHWM"].split()[0]) * 1024 / 1e6
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6


def measure(way: str, texts: list[str]) -> tuple[float, float, float, int]:
    """CPU seconds to start and to cut, peak memory in MB, number of tokens."""
    from pipeline.segmentation import packaged_jieba
    from pipeline.text import TextConfig, Tokenizer, Utf8

    column = Utf8.of(texts)
    start = time.process_time()
    config = TextConfig(normalisation=())
    tokenizer = Tokenizer(config)
    if way == "jieba.lcut":
        jieba = packaged_jieba()
        started = time.process_time()
        num_tokens = sum(len(jieba.lcut(text)) for text in texts)
    else:
        tokenizer.tokenize_batch(Utf8.of(["开始"]))
        started = time.process_time()
        num_tokens = len(tokenizer.tokenize_batch(column)[1]) - 1
    stopped = time.process_time()
    return started - start, stopped - started, peak_mb(), num_tokens


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", type=Path)
    parser.add_argument("--texts", type=int, default=60_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    files = (
        asked.files
        or sorted((ROOT.parent / "shared" / "data" / "dialogues").glob("*.jsonl"))
        or sorted((ROOT / "flows" / "sample").rglob("*.jsonl"))
    )
    texts = read(files, asked.texts)
    num_mb = sum(len(text.encode()) for text in texts) / 1e6
    measured: dict[str, list[tuple[float, float, float, int]]] = {way: [] for way in WAYS}
    context = multiprocessing.get_context("spawn")
    for _ in range(asked.rounds):
        for way in WAYS:
            with context.Pool(1) as process:
                measured[way].append(process.apply(measure, (way, texts)))
    num_tokens = {runs[0][3] for runs in measured.values()}
    assert len(num_tokens) == 1, f"the ways disagree on the number of tokens: {num_tokens}"

    table = Table(
        title=f"{len(texts):,} texts, {num_mb:.1f} MB, {num_tokens.pop():,} tokens; "
        f"median (range) of {asked.rounds} runs, one core",
        caption=f"{processor()}; Python {platform.python_version()}, numpy {version('numpy')}, "
        f"jieba {version('jieba')}",
    )
    for heading in ("", "CPU s", "MB/s", "x jieba", "start, CPU s", "memory, MB"):
        table.add_column(heading, justify="right" if heading else "left")
    reference = statistics.median(run[1] for run in measured["jieba.lcut"])
    for way, runs in measured.items():
        starts, seconds, peaks, _ = zip(*runs, strict=True)
        middle = statistics.median(seconds)
        table.add_row(
            way,
            f"{middle:.2f} ({min(seconds):.2f}-{max(seconds):.2f})",
            f"{num_mb / middle:.2f}",
            f"{reference / middle:.1f}",
            f"{statistics.median(starts):.2f}",
            f"{statistics.median(peaks):.0f}",
        )
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
