"""How much the contract costs: CPU seconds and peak memory of reading dialogues into Parquet.

    python benchmarks/ingest.py [FILE.jsonl] [--rounds 3] [--times 10]

Side by side, each in a fresh process, in turn: pyarrow.json as a stream (checks types only and
aborts at the first bad row), pandas.read_json(lines=True).to_parquet, a whole ingest of ours up to
the committed snapshot, the same of a file with one bad row in a thousand, and a second ingest of
the same file. Every process first reads ten rows, so that what libraries load once does not count;
what that and the imports cost stands in a column of its own. CPU seconds are of all threads, user
and system, the least of the rounds: what else runs on the machine can only add to them. Memory is
told twice: the peak of the whole process, and how much of it came on top of what the imports and
the ten rows had taken.

--times N also reads a file N times as long (the same rows under other topics): what is bounded does
not grow. Without FILE, 71 MB of dialogues are made up.
"""

import argparse
import json
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

PYARROW, PANDAS = "pyarrow.json stream", "pandas.read_json"
OURS, BAD, AGAIN = "tidemill", "tidemill, 1 bad row in 1,000", "tidemill, a second time"
LONGER = "{}, {} times as long"
BAD_ROWS = (
    b'{"topic": "cut sho',
    b'{"topic": "t", "user1": "a", "user2": "b"}',
    b'{"topic": "t", "user1": "a", "user2": "b", "dialog": [3]}',
    b"\xff\xfe\xfd",
)


def make_dialogues(path: Path, num_bytes: int = 71_000_000) -> None:
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


def repeated(path: Path, longer: Path, times: int) -> None:
    with longer.open("wb") as file:
        for i in range(times):
            with path.open("rb") as rows:
                for line in rows:
                    file.write(line.replace(b'"topic": "', f'"topic": "{i} '.encode(), 1))


def first_rows(path: Path, few: Path, num_rows: int = 10) -> None:
    with path.open("rb") as rows, few.open("wb") as file:
        for _ in range(num_rows):
            file.write(rows.readline())


def pyarrow_reader() -> Callable[[Path, Path], None]:
    import pyarrow as pa
    import pyarrow.json
    import pyarrow.parquet as pq

    text = pa.string()
    fields = {"topic": text, "user1": text, "user2": text, "dialog": pa.list_(text)}
    options = pyarrow.json.ParseOptions(explicit_schema=pa.schema(list(fields.items())))
    settings = {"compression": "zstd", "compression_level": 3}

    def read(source: Path, folder: Path) -> None:
        target = folder / "a.parquet"
        with (
            pyarrow.json.open_json(source, parse_options=options) as reader,
            pq.ParquetWriter(target, reader.schema, **settings) as writer,
        ):
            for batch in reader:
                writer.write_batch(batch)

    return read


def pandas_reader() -> Callable[[Path, Path], None]:
    import pandas as pd

    def read(source: Path, folder: Path) -> None:
        frame = pd.read_json(source, lines=True)
        frame.to_parquet(folder / "a.parquet", compression="zstd", compression_level=3)

    return read


def our_reader() -> Callable[[Path, Path], None]:
    from flows.ingest import ingest_sources
    from flows.steps.steps import Steps
    from pipeline.records.contract import RecordsConfig

    def read(source: Path, folder: Path) -> None:
        ingest_sources(Steps(folder / "warehouse"), "talks", [str(source)], RecordsConfig())

    return read


def run_candidate(name: str, source: Path, few: Path) -> None:
    begin = time.process_time()
    reader = {PYARROW: pyarrow_reader, PANDAS: pandas_reader}.get(
        name.split(",", maxsplit=1)[0], our_reader
    )
    read = reader()
    with tempfile.TemporaryDirectory() as folder:
        read(few, Path(folder))
    started, base = time.process_time(), peak_mb()
    with tempfile.TemporaryDirectory() as folder:
        if name == AGAIN:
            read(source, Path(folder))
        before, wall = time.process_time(), time.perf_counter()
        read(source, Path(folder))
        report = {
            "cpu_s": time.process_time() - before,
            "wall_s": time.perf_counter() - wall,
            "start_s": started - begin,
            "peak_mb": peak_mb(),
            "above_mb": peak_mb() - base,
        }
    print(json.dumps(report))


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def measure(name: str, source: Path, few: Path) -> dict[str, float]:
    command = [sys.executable, __file__, "--candidate", name, str(source), str(few)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures


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
    parser.add_argument("few", type=Path, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--candidate", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.candidate:
        run_candidate(settings.candidate, settings.file, settings.few)
        return
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "dialogues.jsonl"  # all files on one file system
        if settings.file is None:
            make_dialogues(source)
        else:
            shutil.copyfile(settings.file, source)
        few, spoilt = Path(folder) / "few.jsonl", Path(folder) / "spoilt.jsonl"
        first_rows(source, few)
        with_bad_rows(source, spoilt)
        sources = dict.fromkeys((PYARROW, PANDAS, OURS, AGAIN), source) | {BAD: spoilt}
        if settings.times > 1:
            longer = Path(folder) / "longer.jsonl"
            repeated(source, longer, settings.times)
            for name in (PYARROW, PANDAS, OURS):
                sources[LONGER.format(name, settings.times)] = longer
        figures: dict[str, list[dict[str, float]]] = {name: [] for name in sources}
        for _ in range(settings.rounds):
            for name, path in sources.items():
                figures[name].append(measure(name, path, few))
        megabytes = {name: path.stat().st_size / 1e6 for name, path in sources.items()}
    print(f"{megabytes[OURS]:.0f} MB, {settings.rounds} rounds; {processor()},")
    print(
        f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; Python {platform.python_version()}"
    )
    columns = ("CPU s", "x pyarrow", "x pandas", "MB/CPU s", "wall s", "peak MB", "above", "start")
    print(f"{'':32}" + "".join(f"{column:>10}" for column in columns))
    least = {
        name: {key: min(each[key] for each in rounds) for key in rounds[0]}
        for name, rounds in figures.items()
    }
    for name, each in least.items():
        share = megabytes[name] / megabytes[OURS]
        cpu = each["cpu_s"]
        print(
            f"{name:32}{cpu:10.2f}{cpu / share / least[PYARROW]['cpu_s']:10.2f}"
            f"{cpu / share / least[PANDAS]['cpu_s']:10.2f}{megabytes[name] / cpu:10.0f}"
            f"{each['wall_s']:10.2f}{each['peak_mb']:10.0f}{each['above_mb']:10.0f}"
            f"{each['start_s']:10.2f}"
        )


if __name__ == "__main__":
    main()
