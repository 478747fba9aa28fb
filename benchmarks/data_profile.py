"""What the profile of a snapshot costs beside reading and cutting it, in CPU seconds.

python benchmarks/data_profile.py [dialogues.jsonl]
"""

import argparse
import platform
import sys
import tempfile
import time
from pathlib import Path

from flows.environment import SAMPLES
from flows.ingest import ingest_sources
from flows.prepare.splits import cut_and_divide
from flows.profile import profile_snapshot
from flows.steps.steps import Steps
from pipeline.records.contract import RecordsConfig
from pipeline.splits.splits import SplitsConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import VocabularyConfig


class TimedSteps(Steps):
    """Notes the CPU seconds of each step as well."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.spent: dict[str, float] = {}

    def run(self, step, /, **inputs):  # type: ignore[no-untyped-def]
        began = time.process_time()
        result = super().run(step, **inputs)
        name = step.fn.__name__
        self.spent[name] = self.spent.get(name, 0.0) + time.process_time() - began
        return result


def once(source: str, root: Path) -> dict[str, float]:
    steps, texts = TimedSteps(root), [TextConfig()]
    ingested = ingest_sources(steps, "talks", [source], RecordsConfig())
    cut = cut_and_divide(
        steps,
        ingested.shards,
        "dialogues",
        ["tokens"],
        texts,
        SplitsConfig(),
        VocabularyConfig(max_size=20_000, min_count=2),
    )
    profile_snapshot(steps, ingested, "dialogues", ["tokens"], texts, cut)
    return steps.spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", default=str(SAMPLES / "dialogues.jsonl"))
    source = parser.parse_args().file
    print(f"{platform.processor() or platform.machine()}, Python {sys.version.split()[0]}")
    print(f"{source}: {Path(source).stat().st_size / 1e6:.1f} MB")
    with tempfile.TemporaryDirectory() as folder:
        first, again = once(source, Path(folder)), once(source, Path(folder))
    made = first["ingest_file"] + first["tokenize"]
    for name, seconds in first.items():
        print(f"{name:20}{seconds:8.2f}{seconds / made:8.1%}   again {again[name]:.3f}")


if __name__ == "__main__":
    main()
