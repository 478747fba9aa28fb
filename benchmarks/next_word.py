"""One step of a typist, the ten likeliest next words included: a session beside an export.

    OMP_NUM_THREADS=1 python benchmarks/next_word.py [--hidden 650] [--words 10000] [--turn 10]

A language model of two LSTM layers, weights as they are before training, on one thread. The ways
take turns of ten steps, so that all meet the same machine; the weights of the others then push
one's own out of the caches, as other programs do between two keystrokes. With --turn 1000 each has
the caches to itself. CPU time is of the process, wall time what a clock shows; where others use the
machine the latter says nothing of the program.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import onnxruntime
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from flows.export import export_client
from pipeline.networks.recurrent import NetworkConfig, Variant
from pipeline.onnx_export import has_preview, onnx_model
from pipeline.prediction import load_predictor
from pipeline.problems import LanguageModel
from pipeline.problems.predictor import ModelConfig
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import EOS, SPECIALS, UNK, Vocabulary

TOP = 10


class Plain:
    """What one writes first: embedding, nn.LSTM of two layers, linear layer, top k."""

    def __init__(self, num_words: int, hidden: int) -> None:
        self.embedding = nn.Embedding(num_words, hidden)
        self.lstm = nn.LSTM(hidden, hidden, num_layers=2)
        self.output = nn.Linear(hidden, num_words)
        self.state = None

    @torch.inference_mode()
    def __call__(self, word: int) -> None:
        outputs, self.state = self.lstm(self.embedding(torch.tensor([[word]])), self.state)
        self.output(outputs[0, 0]).softmax(-1).topk(TOP)


def exported(
    folder: Path, config: ModelConfig, weights: object, precision: str, preview: bool, words: str
) -> Path:
    folder.mkdir()
    model = onnx_model(config, weights, precision, preview=preview)
    (folder / "model.onnx").write_bytes(model)
    (folder / "vocabulary.json").write_text(words)
    meta = {"window": None, "first_id": EOS, "unknown_id": UNK}
    (folder / "meta.json").write_text(json.dumps(meta))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hidden", type=int, default=650)
    parser.add_argument("--words", type=int, default=10_000)
    parser.add_argument("--steps", type=int, default=1_000)
    parser.add_argument("--turn", type=int, default=10)
    parsed = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    vocabulary = Vocabulary(f"w{index}" for index in range(parsed.words - len(SPECIALS)))
    network = NetworkConfig(parsed.hidden, parsed.hidden)
    config = ModelConfig(
        LanguageModel(), Variant("lstm", 2), network, TextConfig(unit="whitespace")
    )
    weights = config.problem.build(config.variant, network, [parsed.words]).state_dict()
    words = vocabulary.to_json()
    predictor = load_predictor(config.to_dict(), weights, {"vocabulary": words})
    session = predictor.session()
    plain = Plain(parsed.words, parsed.hidden)

    def typed(word: int) -> None:
        session.feed_words([vocabulary.words[word]])
        session.suggest(TOP)

    def by(client: export_client.NextWord) -> Callable[[int], None]:
        def step(word: int) -> None:
            client.feed(vocabulary.words[word])
            client.suggest(TOP)

        return step

    with tempfile.TemporaryDirectory() as folder:
        clients, sizes = {}, {}
        kinds = {"fp32": ("fp32", False), "int8": ("int8", False)}
        if has_preview(weights, "int8"):
            kinds["int8, preview"] = ("int8", True)
        for kind, (precision, preview) in kinds.items():
            place = exported(Path(folder, kind), config, weights, precision, preview, words)
            clients[kind] = export_client.NextWord(place)
            sizes[kind] = (place / "model.onnx").stat().st_size / 1e6
    ways: dict[str, Callable[[int], None]] = {
        "nn.LSTM": plain,
        "session": typed,
        **{f"export {kind}": by(client) for kind, client in clients.items()},
    }
    draws = np.random.default_rng(0).integers(len(vocabulary.words), size=parsed.steps).tolist()
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for step in ways.values():
        for word in range(20):
            step(word)
    for start in range(0, parsed.steps, parsed.turn):
        for name, step in ways.items():
            for word in draws[start : start + parsed.turn]:
                began, began_wall = time.process_time(), time.perf_counter()
                step(word)
                cpu[name].append(time.process_time() - began)
                wall[name].append(time.perf_counter() - began_wall)
    print(
        f"2 x {parsed.hidden}, V {parsed.words:,}, {parsed.steps:,} steps in turns of "
        f"{parsed.turn}, top {TOP}, 1 thread; torch {torch.__version__}, onnxruntime "
        f"{onnxruntime.__version__}, Python {platform.python_version()}, load "
        f"{os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; files "
        + ", ".join(f"{name} {size:.1f} MB" for name, size in sizes.items())
    )
    print("| way | CPU ms p50 | p99 | wall ms p50 | p99 | ratio of p50 |")
    print("|---|---|---|---|---|---|")
    base = np.median(cpu["nn.LSTM"])
    for name in ways:
        figures = [
            1e3 * float(np.percentile(times[name], share))
            for times in (cpu, wall)
            for share in (50, 99)
        ]
        cells = " | ".join(f"{figure:.2f}" for figure in figures)
        print(f"| {name} | {cells} | {base / np.median(cpu[name]):.1f} |")


if __name__ == "__main__":
    main()
