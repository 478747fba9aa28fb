"""Translation beside JoeyNMT and OpenNMT-py: training, and beam search with trained weights.

    python benchmarks/translation.py --peers DIR --install        # once: their environments
    python benchmarks/translation.py PAIRS.jsonl --peers DIR [--rounds 3] [--models KEPT]
    python benchmarks/translation.py PAIRS.jsonl --peers DIR --tasks search --models KEPT

PAIRS has lines such as {"en": "Hi.", "zh": "嗨。"}. English words into Chinese characters; every
program reads the same tokens and has the same vocabularies (words seen twice), 64 sentences a
batch, embedding and hidden size 256, one bidirectional GRU layer, Adam, no dropout. JoeyNMT's
encoder has 256 features a direction, OpenNMT-py's 128, so Tidemill is measured at both sizes; with
attention fed to the next step (the peers' default) and without (Tidemill's).

Training: target tokens, <eos> included, a CPU second, after ten steps of warm-up, data loading
included; --steps of it in every round. Search: beam 5 with weights that the program itself has
trained for --epochs, once; sentences a CPU second over 500 test sentences, twice: until each
program ends by itself, with its own limit of the length and 50 words at most, where mean length and
BLEU are told, since an end that comes too early is no speed; and with exactly 20 words for every
sentence and program, which compares the same work. --models keeps weights for the next time.
"""

import argparse
import json
import math
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from rounds import (
    RESULTS,
    ROOT,
    caption,
    in_new_process,
    keep,
    machine,
    measure,
    ratios,
    show,
    speeds,
    spread,
)
from sacrebleu import corpus_bleu
from translation_peers import Clock, install, python_of

SIZE = 256
NUM_TEST = 500
BEAM = 5
WAYS: dict[str, dict[str, Any]] = {
    "JoeyNMT": {"peer": "joeynmt", "input_feeding": True},
    "JoeyNMT, not fed": {"peer": "joeynmt", "input_feeding": False},
    "tidemill 2x256": {"peer": "tidemill", "input_feeding": False, "encoder": 256},
    "tidemill 2x256, fed": {"peer": "tidemill", "input_feeding": True, "encoder": 256},
    "OpenNMT-py": {"peer": "opennmt", "input_feeding": True},
    "OpenNMT-py, not fed": {"peer": "opennmt", "input_feeding": False},
    "tidemill 2x128": {"peer": "tidemill", "input_feeding": False, "encoder": 128},
    "tidemill 2x128, fed": {"peer": "tidemill", "input_feeding": True, "encoder": 128},
}
SEARCHES = {
    "beam": {"longest": 50, "fixed": False},
    "beam, 20 words": {"longest": 20, "fixed": True},
}
TASKS = ("training", "search")
BESIDE = {
    "tidemill 2x256": ("JoeyNMT", "JoeyNMT, not fed"),
    "tidemill 2x256, fed": ("JoeyNMT",),
    "tidemill 2x128": ("OpenNMT-py", "OpenNMT-py, not fed"),
    "tidemill 2x128, fed": ("OpenNMT-py",),
}


def prepare(pairs: Path, folder: Path) -> dict[str, int]:
    """Tokens of training and test pairs and both vocabularies, as the peers read them."""
    sys.path.insert(0, str(ROOT))
    from pipeline.text.config import TextConfig
    from pipeline.text.tokenizer import Tokenizer

    english = Tokenizer(TextConfig(language="en", unit="word"))
    chinese = Tokenizer(TextConfig(language="zh", unit="char"))
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    found = [(english.tokenize(row["en"]), chinese.tokenize(row["zh"])) for row in rows]
    found = [pair for pair in found if all(0 < len(side) <= 50 for side in pair)]
    found = [pair for pair in found if not any(" " in word for side in pair for word in side)]
    random.Random(0).shuffle(found)
    by_source: dict[str, tuple[list[str], list[str]]] = {}
    for source, target in found:
        by_source.setdefault(" ".join(source), (source, target))
    test = dict(list(by_source.items())[:NUM_TEST])
    train = [pair for pair in found if " ".join(pair[0]) not in test]
    for name, part in (("train", train), ("test", list(test.values()))):
        for side, ending in enumerate(("src", "tgt")):
            lines = "".join(" ".join(pair[side]) + "\n" for pair in part)
            (folder / f"{name}.{ending}").write_text(lines, encoding="utf-8")
    sizes = {"pairs": len(train)}
    for side, ending in enumerate(("src", "tgt")):
        counts = Counter(word for pair in train for word in pair[side])
        words = [word for word, count in counts.most_common() if count > 1]
        (folder / f"vocabulary.{ending}").write_text("\n".join(words) + "\n", encoding="utf-8")
        sizes[f"words.{ending}"] = len(words)
    return sizes


def tidemill_parts(task: SimpleNamespace) -> SimpleNamespace:
    """Problem, data and vocabularies of a task."""
    sys.path.insert(0, str(ROOT))
    from torch import nn

    from pipeline.networks.recurrent import NetworkConfig, RecurrentStack, Variant
    from pipeline.problems import Seq2Seq
    from pipeline.problems.batches import Examples
    from pipeline.problems.ragged import Ragged
    from pipeline.problems.seq2seq.problem import Attention, EncoderDecoder
    from pipeline.text.vocabulary import Vocabulary

    class Narrow(Seq2Seq):
        """The encoder's directions have fewer features than the decoder, as in OpenNMT-py."""

        def build_recurrent(self, variant, network, vocabulary_sizes):  # type: ignore[no-untyped-def]
            model = EncoderDecoder(*vocabulary_sizes, variant, network, self)
            size, both = network.hidden_size, 2 * task.encoder
            one = Variant(variant.cell, 1, bidirectional=True)
            model.encoder = RecurrentStack(network.embedding_size, task.encoder, one)
            model.bridges = nn.ModuleList([nn.Linear(both, size)])
            model.attention = Attention(self.attention, both, size)
            return model

    folder = Path(task.folder)

    def read(name: str) -> list[list[str]]:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return [line.split(" ") for line in lines]

    words = [Vocabulary(row[0] for row in read(f"vocabulary.{each}")) for each in ("src", "tgt")]

    def examples(name: str) -> Examples:
        sides = [
            Ragged.of([vocabulary.encode(row) for row in read(f"{name}.{ending}")])
            for vocabulary, ending in zip(words, ("src", "tgt"), strict=True)
        ]
        return Examples(*sides)

    kind = Seq2Seq if task.encoder == SIZE else Narrow
    return SimpleNamespace(
        problem=kind(context="first", input_feeding=task.input_feeding),
        variant=Variant.parse("bigru-attention"),
        network=NetworkConfig(SIZE, SIZE, dropout=0.0),
        train=examples("train"),
        test=examples("test"),
        vocabularies=words,
    )


def train_tidemill(task: SimpleNamespace) -> dict[str, Any]:
    parts = tidemill_parts(task)
    import torch
    from safetensors.torch import save_file

    from pipeline.problems.problem import digest_seed
    from pipeline.problems.ragged import Ragged
    from pipeline.training.config import TrainingConfig
    from pipeline.training.loop import Observer, fit

    clock = Clock(task.num_warm)
    sizes: list[int] = []

    class Timed(Observer):
        def step(self, epoch: int, batch: int, num_batches: int) -> None:
            # Before the step that follows, which has so many targets; after the last it ends.
            clock.before_step(sizes[batch] if batch < num_batches else 0)

    import numpy as np

    an_epoch = math.ceil(len(parts.train.inputs) / 64)
    num_epochs = max(1, task.num_steps // an_epoch)
    config = TrainingConfig(num_epochs=num_epochs, batch_size=64, clip_norm=1.0)
    rows = min(64 * task.num_steps, len(parts.train.inputs))
    training = type(parts.train)(
        *(
            Ragged(side.values, side.offsets[: rows + 1])
            for side in (parts.train.inputs, parts.train.targets)
        )
    )
    # The batches that training will draw first: their targets are counted beforehand.
    generator = np.random.default_rng(digest_seed(config.seed, 1))
    batches = parts.problem.training_batches(training, config.batch_size, generator)
    sizes += [batches[index].num_targets for index in range(len(batches))]
    clock.before_step(sizes[0])
    fitted = fit(
        parts.problem, parts.variant, parts.network, config, training, parts.test,
        [len(each) for each in parts.vocabularies], device=torch.device("cpu"), observer=Timed(),
    )  # fmt: skip
    save_file(fitted.weights, task.model + ".safetensors")
    return clock.result()


def search_tidemill(task: SimpleNamespace, longest: int, fixed: bool) -> dict[str, Any]:
    parts = tidemill_parts(task)
    import torch
    from safetensors.torch import load_file

    from pipeline.problems.predictor import ModelConfig
    from pipeline.problems.ragged import Ragged
    from pipeline.problems.seq2seq.answers import Seq2SeqPredictor
    from pipeline.text.config import TextConfig
    from pipeline.text.vocabulary import EOS

    sizes = [len(each) for each in parts.vocabularies]
    model = parts.problem.build(parts.variant, parts.network, sizes)
    weights = load_file(task.model + ".safetensors")
    if fixed:
        # No hypothesis ends before the longest length.
        weights["head.output.bias"][EOS] = -1e4
    model.load_state_dict(weights)
    texts = TextConfig(language="en"), TextConfig(language="zh", unit="char")
    ratio = None if fixed else parts.problem.length_ratio(parts.train)
    config = ModelConfig(parts.problem, parts.variant, parts.network, *texts, length_ratio=ratio)
    predictor = Seq2SeqPredictor(config, model, parts.vocabularies, torch.device("cpu"))
    inputs = list(parts.test.inputs)
    found = [[]] * len(inputs)
    begin = time.process_time()
    # In order of length, as an evaluation searches a split.
    order = sorted(range(len(inputs)), key=lambda row: len(inputs[row]))
    for first in range(0, len(inputs), 64):
        rows = order[first : first + 64]
        ids = Ragged.of([inputs[row] for row in rows])
        answers = predictor.answer(ids, top=1, max_tokens=longest, beam=task.beam)
        for row, answer in zip(rows, answers, strict=True):
            found[row] = answer
    seconds = time.process_time() - begin
    outputs = [" ".join(predictor.tokenizers[1].tokenize(best.text)) for best, *_ in found]
    return {"num": len(found), "seconds": seconds, "outputs": outputs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path, nargs="?")
    parser.add_argument("--peers", type=Path)
    parser.add_argument("--install", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=120, help="of each training that is timed")
    parser.add_argument("--epochs", type=int, default=2, help="of training before the search")
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--models", type=Path, help="where trained weights are kept for next time")
    parser.add_argument("--ways", default=";".join(WAYS))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        import torch

        torch.set_num_threads(1)
        task = SimpleNamespace(**json.loads(asked.run.read_text()))
        if task.searches:
            found = {name: search_tidemill(task, **each) for name, each in task.searches.items()}
        else:
            found = {"training": train_tidemill(task)}
        print(json.dumps(found))
        return
    if asked.peers is None:
        parser.error("--peers says where the environments of the peers are, or shall be")
    if asked.install:
        install(asked.peers)
    if asked.pairs is None:
        return
    ways = asked.ways.split(";")
    path = asked.json or RESULTS / "translation.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"runs": {}}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(asked.models or scratch)
        sizes = prepare(asked.pairs, folder)
        num_trained = asked.epochs * math.ceil(sizes["pairs"] / 64)
        references = (folder / "test.tgt").read_text(encoding="utf-8").splitlines()

        def run(way: str, name: str, num_steps: int, searches: Mapping[str, Any]) -> dict[str, Any]:
            task = {
                "folder": str(folder.resolve()), "model": str(folder.resolve() / name),
                "size": SIZE, "num_steps": num_steps, "num_warm": 10, "beam": BEAM,
                "searches": searches, **WAYS[way],
            }  # fmt: skip
            told = Path(scratch) / "task.json"
            told.write_text(json.dumps(task))
            peer = WAYS[way]["peer"]
            if peer == "tidemill":
                return in_new_process([sys.executable, __file__, "--run", str(told)], os.environ)
            peers = str(Path(__file__).with_name("translation_peers.py"))
            python = str(python_of(asked.peers.resolve(), peer))
            return in_new_process([python, peers, str(told)], os.environ)

        def searched(way: str) -> dict[str, Any]:
            found = run(way, f"trained-{list(WAYS).index(way)}", num_trained, SEARCHES)
            for name, each in found.items():
                outputs = each.pop("outputs")
                each["words"] = sum(len(output.split()) for output in outputs)
                if not SEARCHES[name]["fixed"]:
                    each["bleu"] = corpus_bleu(outputs, [references], tokenize="none").score
            return found

        if "search" in asked.tasks:
            for way in ways:
                done = folder / f"trained-{list(WAYS).index(way)}.{num_trained}"
                if not done.exists():
                    run(way, done.stem, num_trained, {})
                    done.touch()
                    print(f"trained: {way}", file=sys.stderr)
        runs_of = {
            "training": lambda way: run(way, "timed", asked.steps, {}),
            "search": searched,
        }
        num_steps = {"training": asked.steps, "search": num_trained}
        for number in range(asked.rounds):
            for task in asked.tasks:
                for way, (each,) in measure(ways, 1, runs_of[task]).items():
                    for name, figures in each.items():
                        rounds = results["runs"].setdefault(way, {}).setdefault(name, [])
                        # Rounds of another time are no part of these.
                        results["runs"][way][name] = [*(rounds if number else []), figures]
                results[task] = {"steps": num_steps[task], "rounds": number + 1}
            results |= {"machine": machine(), "pairs": asked.pairs.name, "sizes": sizes}
            # A run that is stopped leaves its whole rounds.
            keep("translation", results, asked.json)
    title = f"{sizes['pairs']:,} pairs; {sizes['words.src']:,} and {sizes['words.tgt']:,} words"
    show(
        title, HEADINGS, table(results["runs"]), f"{effort(results)}; {caption(results['machine'])}"
    )


def effort(results: Mapping[str, Any]) -> str:
    """How long was trained and how often measured, in words."""
    told = {"training": "training of {steps} steps", "search": "search after {steps} steps"}
    return "; ".join(
        f"{told[task].format(**results[task])}, {results[task]['rounds']} rounds"
        for task in TASKS
        if task in results
    )


HEADINGS = ("task", "program", "a CPU second", "words", "BLEU", "x JoeyNMT", "x OpenNMT-py")


def common(
    task: str, one: Mapping[str, list[dict[str, Any]]], other: Mapping[str, list[dict[str, Any]]]
) -> list[float]:
    """How many times as fast one way did the task as the other, in the rounds that both have."""
    sides = [runs.get(task, []) for runs in (one, other)]
    num_rounds = min(map(len, sides))
    return ratios(*(rounds[:num_rounds] for rounds in sides))


def table(runs: Mapping[str, Mapping[str, list[dict[str, float]]]]) -> list[list[str]]:
    """A row for each task and program; ratios to the peer's own rows of that size."""
    rows = []
    for task in ("training", *SEARCHES):
        for way, found in runs.items():
            each = found.get(task, [])
            if not each:
                continue
            cells = []
            for peer in ("JoeyNMT", "OpenNMT-py"):
                beside = [
                    name
                    for name in BESIDE.get(way, ())
                    if name.startswith(peer) and runs.get(name, {}).get(task)
                ]
                cells.append(
                    "; ".join(
                        ("not fed: " if "," in name else "fed: " if len(beside) > 1 else "")
                        + spread(common(task, found, runs[name]))
                        for name in beside
                    )
                )
            words = [f"{run['words'] / run['num']:.1f}" for run in each if "words" in run]
            bleu = [f"{run['bleu']:.1f}" for run in each if "bleu" in run]
            # Every round searches with the same weights.
            told = [values[-1] if values else "" for values in (words, bleu)]
            rows.append([task, way, spread(speeds(each), 0), *told, *cells])
    return rows


if __name__ == "__main__":
    main()
