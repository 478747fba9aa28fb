"""How much the contract costs: CPU seconds and peak memory of reading dialogues into Parquet.

    python benchmarks/ingest.py [FILE.jsonl] [--rounds 3]

Side by side, each in a fresh process, in turn: pyarrow.json as a stream (checks types only and
aborts at the first bad row), pandas.read_json(lines=True).to_parquet, our ingest, and our ingest of
the same file with one bad row in a thousand. CPU seconds are of all threads, user and system, after
the imports; the figure is the median of the rounds. Without FILE, 100 MB of dialogues are made up.
"""

import argparse
import json
import os
import platform
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

NAMES = ("pyarrow.json stream", "pandas.read_json", "tidemill", "tidemill, 1 bad row in 1,000")
BAD_ROWS = (
    b'{"topic": "cut sho',
    b'{"topic": "t", "user1": "a", "user2": "b"}',
    b'{"topic": "t", "user1": "a", "user2": "b", "dialog": [3]}',
    b"\xff\xfe\xfd",
)


def make_dialogues(path: Path, num_bytes: int = 100_000_000) -> None:
    draw = random.Random(0)
    characters = [chr(draw.randrange(0x4E00, 0x9FA5)) for _ in range(3_000)]
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < num_bytes:
            said = [
                f"user{i % 2 + 1}：{''.join(draw.choices(characters, k=draw.randrange(5, 30)))}。"
                for i in range(draw.randrange(4, 22))
            ]
            row = {"topic": "话题", "user1": "甲", "user2": "乙", "dialog": said}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def with_bad_rows(path: Path, spoilt: Path) -> None:
    with path.open("rb") as good, spoilt.open("wb") as file:
        for i, line in enumerate(good):
            file.write(BAD_ROWS[i // 1_000 % 4] + b"\n" if i % 1_000 == 500 else line)


def read_with_pyarrow(source: Path, folder: Path) -> int:
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet as pq

    before = time.process_time()
    text, schema = pa.string(), pa.schema
    fields = {"topic": text, "user1": text, "user2": text, "dialog": pa.list_(text)}
    options = pyarrow.json.ParseOptions(explicit_schema=schema(list(fields.items())))
    num_rows = 0
    target = folder / "a.parquet"
    settings = {"compression": "zstd", "compression_level": 3}
    with (
        pyarrow.json.open_json(source, parse_options=options) as reader,
        pq.ParquetWriter(target, reader.schema, **settings) as writer,
    ):
        for batch in reader:
            num_rows += batch.num_rows
            writer.write_batch(batch)
    report(before)
    return num_rows


def read_with_pandas(source: Path, folder: Path) -> int:
    import pandas as pd

    before = time.process_time()
    frame = pd.read_json(source, lines=True)
    frame.to_parquet(folder / "a.parquet", compression="zstd", compression_level=3)
    report(before)
    return len(frame)


def read_with_tidemill(source: Path, folder: Path) -> int:
    from flows.ingest import ingest_file
    from pipeline.records import RecordsConfig
    from warehouse.sources import find_sources

    before = time.process_time()
    (found,) = find_sources([str(source)])
    read = ingest_file.fn(root=str(folder), source=found, records=RecordsConfig())
    report(before)
    return int(read["num_accepted"] if isinstance(read, dict) else read.num_accepted)


def report(before: float) -> None:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"cpu_s": time.process_time() - before, "peak_mb": peak}))


CANDIDATES = dict(
    zip(NAMES, (read_with_pyarrow, read_with_pandas, read_with_tidemill, read_with_tidemill))
)


def measure(name: str, source: Path) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--candidate", name, str(source), folder]
        begin = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        wall = time.perf_counter() - begin
    return {**json.loads(done.stdout.splitlines()[0]), "wall_s": wall}


def processor() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor()
    models = [line.split(":", 1)[1].strip() for line in text.splitlines() if "model name" in line]
    return models[0] if models else platform.machine()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", type=Path, nargs="?")
    parser.add_argument("folder", type=Path, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--candidate", choices=NAMES, help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.candidate:
        CANDIDATES[settings.candidate](settings.file, settings.folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = settings.file or Path(folder) / "dialogues.jsonl"
        if settings.file is None:
            make_dialogues(source)
        spoilt = Path(folder) / "spoilt.jsonl"
        with_bad_rows(source, spoilt)
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
        for _ in range(settings.rounds):
            for name in NAMES:
                figures[name].append(measure(name, spoilt if "bad" in name else source))
        megabytes = source.stat().st_size / 1e6
    print(f"{megabytes:.0f} MB, {settings.rounds} rounds; {processor()}, {os.cpu_count()} cores,")
    print(f"load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}")
    print(f"{'':30} {'CPU s':>7} {'x pyarrow':>10} {'MB/CPU s':>9} {'peak MB':>8}")
    fastest = median(each["cpu_s"] for each in figures[NAMES[0]])
    for name, rounds in figures.items():
        cpu = median(each["cpu_s"] for each in rounds)
        peak = median(each["peak_mb"] for each in rounds)
        print(f"{name:30} {cpu:7.2f} {cpu / fastest:10.2f} {megabytes / cpu:9.0f} {peak:8.0f}")


if __name__ == "__main__":
    main()
