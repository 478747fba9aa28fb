"""The whole chain from JSONL to ids beside the same chain with plain jieba, and batches from disk.

    python benchmarks/chain.py [FILE.jsonl] [--rounds 1]

Ingest, tokenize, divide, build the vocabulary, encode: the tasks that a retraining runs, in a fresh
process and an empty warehouse for each measurement, in turn. The plain way differs in one thing: it
calls `jieba.lcut` for each text. Seconds are CPU seconds (user and system, all threads), after the
imports; memory is the most that the process held. The ids of both ways must be the same bytes, else
the exit code is 1.

Then batches of 64 texts are read from the training ids of the last run, mapped from disk and padded
as a training does, for some seconds: in random order, and in order of length as training sorts
them. Without FILE, 20 MB of dialogues are made up.
"""

import argparse
import hashlib
import json
import platform
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

import numpy as np
from ingest import make_dialogues, processor
from rich.console import Console
from rich.table import Table
from segmentation import peak_mb

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

WAYS = ("jieba.lcut", "tidemill")
STAGES = ("ingest", "tokenize", "divide", "build_vocabulary", "encode")
BATCH_ROWS = 64
SECONDS_OF_BATCHES = 3.0


def run_chain(way: str, source: Path, root: Path) -> dict[str, object]:
    """CPU seconds of each stage, peak memory, tokens, and a digest of the ids of all splits."""
    from flows.ingest import ingest_sources
    from flows.prepare import splits, tokens
    from flows.steps.steps import Steps
    from flows.training.train import mapped_examples
    from pipeline.records.contract import RecordsConfig
    from pipeline.splits.splits import SplitsConfig
    from pipeline.text.config import TextConfig
    from pipeline.text.normalise import normalise_batch
    from pipeline.text.segmentation import packaged_jieba
    from pipeline.text.utf8 import Utf8
    from pipeline.text.vocabulary import VocabularyConfig

    def cut_plainly(tokenizer, texts):
        clean = normalise_batch(Utf8(*texts), tokenizer.config.normalisation).to_list()
        rows = [jieba.lcut(text) for text in clean]
        data, token_offsets = Utf8.of([token for row in rows for token in row])
        return data, token_offsets, np.concatenate(([0], np.cumsum([len(row) for row in rows])))

    seconds: dict[str, float] = {}

    def timed(stage: str, call):
        before = time.process_time()
        result = call()
        seconds[stage] = seconds.get(stage, 0.0) + time.process_time() - before
        return result

    steps, text = Steps(root), TextConfig()
    at = {"root": str(root)}
    if way == "jieba.lcut":
        jieba = timed("tokenize", packaged_jieba)
        splits._cut = cut_plainly
        tokens.tokenizer_of = lambda root, config: splits.Tokenizer(config)
    ingested = timed(
        "ingest", lambda: ingest_sources(steps, "chain", [str(source)], RecordsConfig())
    )
    common = {"kind": "dialogues", "columns": ("tokens",)}
    shards = [
        timed(
            "tokenize",
            lambda shard=shard: steps.run(
                splits.tokenize, **at, shard=shard, text=text, target_text=None, **common
            ),
        )
        for shard in ingested.shards
    ]
    divided = timed(
        "divide",
        lambda: steps.run(splits.divide, **at, shards=shards, splits=SplitsConfig(), **common),
    )
    vocabulary = timed(
        "build_vocabulary",
        lambda: steps.run(
            splits.build_vocabulary,
            **at,
            train=divided.train,
            column="tokens",
            vocabulary=VocabularyConfig(min_count=2),
        ),
    )
    digest = hashlib.sha256()
    num_ids = 0
    for split, rows in divided.tables.items():
        ids = timed(
            "encode",
            lambda rows=rows: steps.run(
                splits.encode,
                **at,
                rows=rows,
                columns=("tokens",),
                texts=(text,),
                vocabularies=(vocabulary,),
            ),
        )
        inputs = mapped_examples(str(root), ids).inputs
        for array in (inputs.values, inputs.offsets):
            digest.update(array.tobytes())
        num_ids += len(inputs.values)
        if split == "train":
            train = ids.digest
    return {
        "seconds": seconds,
        "peak_mb": peak_mb(),
        "num_ids": num_ids,
        "num_near_copies": divided.num_near_copies,
        "ids": digest.hexdigest(),
        "train": train,
    }


def read_batches(
    root: Path, digest: str, by_length: bool, seconds: float = 3.0
) -> dict[str, float]:
    """Tokens a CPU second of padded batches, what of them is padding, and peak memory."""
    from pipeline.problems.ragged import Ragged
    from warehouse.arrays import Arrays

    arrays = Arrays(root).load(f"ids-{digest}")
    assert arrays is not None
    texts = Ragged(arrays["inputs"], arrays["offsets"])
    order = np.random.default_rng(0).permutation(len(texts))
    if by_length:
        order = order[np.argsort(texts.lengths[order], kind="stable")]
    starts = np.random.default_rng(1).permutation(len(order) // BATCH_ROWS) * BATCH_ROWS
    num_tokens = num_cells = 0
    begin = time.process_time()
    while (taken := time.process_time() - begin) < SECONDS_OF_BATCHES:
        for start in starts[:200].tolist():
            rows = order[start : start + BATCH_ROWS]
            num_cells += texts.padded(rows, 0).size
            num_tokens += int(texts.lengths[rows].sum())
    return {"speed": num_tokens / taken, "fill": num_tokens / num_cells, "peak_mb": peak_mb()}


def in_new_process(*arguments: object) -> dict:
    command = [sys.executable, __file__, "--run", *map(str, arguments)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        way, first, second = asked.run
        if way in WAYS:
            print(json.dumps(run_chain(way, Path(first), Path(second))))
        else:
            print(json.dumps(read_batches(Path(first), second, way == "by length")))
        return
    console = Console(width=110)
    with tempfile.TemporaryDirectory() as folder:
        source = asked.file or Path(folder) / "dialogues.jsonl"
        if asked.file is None:
            make_dialogues(source, 20_000_000)
        runs: dict[str, list[dict]] = {way: [] for way in WAYS}
        for number in range(asked.rounds):
            for way in WAYS:
                root = Path(folder) / f"{way}-{number}"
                runs[way].append(in_new_process(way, source.resolve(), root))
        megabytes = source.stat().st_size / 1e6
        same = len({run["ids"] for each in runs.values() for run in each}) == 1
        last = runs["tidemill"][-1]
        table = Table(
            title=f"{megabytes:.0f} MB of JSONL to {last['num_ids']:,} ids, {asked.rounds} rounds; "
            f"ids {'byte-identical' if same else 'DIFFERENT'}",
            caption=f"{processor()}; Python {platform.python_version()}, numpy {version('numpy')}, "
            f"pyarrow {version('pyarrow')}",
        )
        for heading in ("CPU s", *STAGES, "total", "x", "peak MB"):
            table.add_column(heading, justify="left" if heading == "CPU s" else "right")
        totals = {
            way: median(sum(run["seconds"].values()) for run in each) for way, each in runs.items()
        }
        for way, each in runs.items():
            stages = [median(run["seconds"][stage] for run in each) for stage in STAGES]
            table.add_row(
                way,
                *(f"{value:.2f}" for value in (*stages, totals[way])),
                f"{totals['jieba.lcut'] / totals[way]:.1f}",
                f"{median(run['peak_mb'] for run in each):.0f}",
            )
        console.print(table)
        table = Table(title=f"padded batches of {BATCH_ROWS}, mapped from disk")
        for heading in ("order", "tokens / CPU s", "not padding", "peak MB"):
            table.add_column(heading, justify="left" if heading == "order" else "right")
        root = Path(folder) / f"tidemill-{asked.rounds - 1}"
        for order in ("random", "by length"):
            found = in_new_process(order, root, last["train"])
            table.add_row(
                order,
                f"{found['speed'] / 1e6:.1f} M",
                f"{found['fill']:.0%}",
                f"{found['peak_mb']:.0f}",
            )
        console.print(table)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
