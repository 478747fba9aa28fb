"""How fast columns of Chinese text are cut, beside plain `jieba.lcut` in the same run.

    python benchmarks/segmentation.py [FILE.jsonl ...] [--texts 60000] [--rounds 3]
    python benchmarks/segmentation.py --verify

Each measurement has a process of its own, and the ways take turns. Seconds are CPU seconds (user
and system, all threads); "start" is making dictionary and tables; memory is the most that the whole
process held. Without files, the real corpora beside the repository are read, or the bundled sample.
Every string of a row is a text, and each counts once.

`--verify` times nothing: it compares the tokens, one by one, with those of `jieba.lcut`, on every
text of the real corpora and on 50,000 strings of fuzz, with the hidden Markov model on and off,
with and without 300 user words. The exit code is 1 if one token differs. `--every 10` takes every
tenth text.
"""

import argparse
import json
import multiprocessing
import platform
import random
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
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
    from pipeline.text.config import TextConfig
    from pipeline.text.segmentation import packaged_jieba
    from pipeline.text.tokenizer import Tokenizer
    from pipeline.text.utf8 import Utf8

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


# Common characters, the edges of what jieba joins, and what else makes trouble.
ODD = (
    "的一是了我不人在他有这个上们来到时大地为子中你说生国年着就那和要她出也得里后自以会家可下而过天去能对小多然于心学"
    "面对面吃龥鿕鿖鿗㐀𠀀龘丨abzAZ09+#&._%-'，。！ \t\n\r０Ａé\u0301😀"
)
NUM_FUZZED, NUM_USER_WORDS = 50_000, 300


def corpus(folder: Path) -> Iterator[tuple[str, list[str]]]:
    """The distinct texts of each folder of corpora: strings of JSON lines, else whole lines."""
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        texts: dict[str, None] = {}
        for file in sorted(part.iterdir()):
            for line in file.read_bytes().decode(errors="replace").splitlines():
                try:
                    found = list(strings(json.loads(line))) if file.suffix == ".jsonl" else [line]
                except (ValueError, RecursionError):
                    found = [line]
                texts |= dict.fromkeys(text for text in found if usable(text))
        yield part.name, list(texts)


def usable(text: str) -> bool:
    """Whether a column can hold it (lone surrogates are no UTF-8), and jieba has the memory."""
    return len(text) < 100_000 and not any("\ud800" <= c <= "\udfff" for c in text)


def fuzzed(words: list[str]) -> list[str]:
    """Strings of words and odd characters, some of them very repetitive."""
    draw = random.Random(20)
    texts = []
    for _ in range(NUM_FUZZED):
        parts = []
        for _ in range(draw.randrange(1, 12)):
            kind = draw.random()
            if kind < 0.5:
                parts.append(draw.choice(words))
            elif kind < 0.9:
                parts.append(draw.choice(ODD))
            else:
                parts.append(draw.choice(ODD) * draw.randrange(2, 6))
        texts.append("".join(parts) * (draw.randrange(2, 40) if draw.random() < 0.02 else 1))
    return texts


def user_words_from(texts: list[str]) -> tuple[str, ...]:
    """Strings that stand in the texts and are no words: so that they make a difference."""
    from pipeline.text.segmentation import can_join, packaged_jieba

    draw, known, found = random.Random(21), packaged_jieba().FREQ, set()
    while len(found) < NUM_USER_WORDS:
        text = draw.choice(texts)
        start = draw.randrange(len(text) + 1)
        word = text[start : start + draw.randrange(2, 6)]
        if can_join(word) and not known.get(word):
            found.add(word)
    return tuple(sorted(found))


def verify(folder: Path, every: int) -> int:
    """Compare all tokens and print the counts. Returns how many texts are cut differently."""
    from pipeline.text.config import TextConfig
    from pipeline.text.segmentation import cut_text, packaged_jieba
    from pipeline.text.tokenizer import Tokenizer
    from pipeline.text.utf8 import Utf8

    sets = dict(corpus(folder)) if folder.is_dir() else {}
    real = [text for texts in sets.values() for text in texts if text]
    words = [word for word in packaged_jieba().FREQ if len(word) > 1]
    user_words = user_words_from(real or words)
    sets["fuzz"] = fuzzed([*words[:: len(words) // 3_000], *user_words])
    table = Table(caption=f"Python {platform.python_version()}, numpy {version('numpy')}")
    for heading in ("texts", "hmm", "user words", "number", "characters", "tokens", "differ"):
        table.add_column(heading, justify="left" if heading == "texts" else "right")
    num_different = 0
    for name, found in sets.items():
        texts = found[::every]
        column = Utf8.of(texts)
        for hmm, extra in ((True, ()), (False, ()), (True, user_words), (False, user_words)):
            jieba = packaged_jieba(extra)
            config = TextConfig(hmm=hmm, user_words=extra, normalisation=())
            data, token_offsets, list_offsets = Tokenizer(config).tokenize_batch(column)
            raw, ends, rows = data.data.tobytes(), token_offsets.tolist(), list_offsets.tolist()
            different = 0
            for text, first, last in zip(texts, rows, rows[1:], strict=False):
                tokens = [raw[a:b].decode() for a, b in pairwise(ends[first : last + 1])]
                different += tokens != cut_text(jieba, text, hmm=hmm)
            num_different += different
            counts = (len(texts), sum(map(len, texts)), rows[-1], different)
            table.add_row(
                name, "on" if hmm else "off", str(len(extra)), *(f"{count:,}" for count in counts)
            )
    Console(width=110).print(table)
    return num_different


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
    parser.add_argument("--verify", action="store_true")
    parser.add_argument("--every", type=int, default=1)
    asked = parser.parse_args()
    if asked.verify:
        sys.exit(1 if verify(ROOT.parent / "shared" / "data", asked.every) else 0)
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
