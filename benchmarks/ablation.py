"""What each regularisation and each kind of averaged weights is worth, per problem, three seeds.

    python benchmarks/ablation.py [--data ../shared/data] [--results ablation.jsonl] [--seeds 3]
        [--problems language_model,next_word,seq2seq] [--settings "NAME;..."]

Every cell trains one small network with the recipe of its problem and one setting changed, one
thread, and notes the lowest validation perplexity and the CPU seconds. A finished cell is a line of
the results file and is not trained again, so the benchmark goes on where it was stopped; the table
is printed from the file, as Markdown. Differences are of the logarithm of perplexity, in percent,
paired by seed.
"""

import argparse
import json
import math
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from pipeline.networks.recurrent import (
    NetworkConfig,
    Variant,
)
from pipeline.networks.regularisation import RegularisationConfig
from pipeline.problems import (
    LanguageModel,
    NextWord,
    Problem,
    Seq2Seq,
)
from pipeline.problems.batches import Examples
from pipeline.problems.ragged import Ragged
from pipeline.text.config import TextConfig
from pipeline.text.tokenizer import Tokenizer
from pipeline.text.vocabulary import (
    Vocabulary,
    VocabularyConfig,
)
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import fit


@dataclass(frozen=True)
class Recipe:
    """How a problem is learnt when nothing is changed, and from how much."""

    problem: Problem
    variant: str
    network: NetworkConfig
    training: TrainingConfig
    num_training: int
    num_validation: int
    """Words of running text, dialogues or pairs."""


@dataclass(frozen=True)
class Change:
    """One row of the table: what differs from the recipe."""

    network: dict[str, Any] = field(default_factory=dict)
    training: dict[str, Any] = field(default_factory=dict)
    regularisation: dict[str, Any] = field(default_factory=dict)
    problem: dict[str, Any] = field(default_factory=dict)
    variant: str = ""


TRAINING = TrainingConfig(
    num_epochs=12, batch_size=32, learning_rate=0.006, schedule="plateau", clip_norm=1.0, patience=3
)
RECIPES = {
    "language_model": Recipe(
        LanguageModel(bptt=35), "lstm", NetworkConfig(64, 64, 0.4, tied=True),
        replace(TRAINING, num_epochs=18, batch_size=16), 24_000, 8_000,
    ),
    "next_word": Recipe(
        NextWord(window=5), "gru", NetworkConfig(64, 64, 0.4, tied=True),
        replace(TRAINING, num_epochs=10, batch_size=64), 80, 20,
    ),
    "seq2seq": Recipe(
        Seq2Seq(), "gru-attention", NetworkConfig(64, 64, 0.3), TRAINING, 2_000, 400,
    ),
}  # fmt: skip
CHANGES = {
    "recipe": Change(),
    "no dropout": Change(network={"dropout": 0.0}),
    "locked dropout": Change(regularisation={"locked_dropout": True}),
    "embedding dropout 0.1": Change(regularisation={"embedding_dropout": 0.1}),
    "word dropout 0.1": Change(regularisation={"word_dropout": 0.1}),
    "weight drop 0.3": Change(regularisation={"weight_drop": 0.3}),
    "AR 2": Change(regularisation={"activation_penalty": 2.0}),
    "TAR 1": Change(regularisation={"temporal_penalty": 1.0}),
    "label smoothing 0.1": Change(regularisation={"label_smoothing": 0.1}),
    "locked, embedding, weight drop, AR, TAR": Change(
        regularisation={
            "locked_dropout": True,
            "embedding_dropout": 0.1,
            "weight_drop": 0.3,
            "activation_penalty": 2.0,
            "temporal_penalty": 1.0,
        }
    ),
    "layer norm": Change(network={"layer_norm": True}, variant="-textbook"),
    "bptt varies": Change(problem={"bptt_varies": True}),
    "moving average 0.99": Change(training={"averaging": "moving", "averaging_decay": 0.99}),
    "triggered average": Change(
        training={"averaging": "triggered", "averaging_epochs": 2, "patience": 4}
    ),
    "mean of last 3 epochs": Change(training={"averaging": "last", "averaging_epochs": 3}),
    "mean of best 3 epochs": Change(training={"averaging": "best", "averaging_epochs": 3}),
}
ONLY = {"bptt varies": ("language_model",)}


@dataclass(frozen=True)
class Corpus:
    training: Examples
    validation: Examples
    vocabulary_sizes: list[int]


def encoded(sides: Sequence[Sequence[list[str]]], num_training: int) -> tuple[list[Ragged], int]:
    """Training and validation rows as ids; the vocabulary is of training words seen twice."""
    counts = Counter(word for row in sides[0][:num_training] for word in row)
    vocabulary = Vocabulary.build(
        list(counts), list(counts.values()), VocabularyConfig(min_count=2)
    )
    rows = [vocabulary.encode(row) for row in sides[0]]
    return [Ragged.of(rows[:num_training]), Ragged.of(rows[num_training:])], len(vocabulary)


def running_text(data: Path, recipe: Recipe) -> Corpus:
    """The first words of WikiText-2, a paragraph a row, and of its validation text."""

    def head(name: str, num_words: int) -> list[list[str]]:
        rows: list[list[str]] = []
        for line in (data / "text" / name).read_text(encoding="utf-8").splitlines():
            words = line.split()
            if words:
                rows.append(words[:num_words])
                num_words -= len(words)
            if num_words <= 0:
                break
        return rows

    training = head("wiki.train.tokens", recipe.num_training)
    validation = head("wiki.valid.tokens", recipe.num_validation)
    (first, second), size = encoded([training + validation], len(training))
    return Corpus(Examples(first), Examples(second), [size])


def dialogues(data: Path, recipe: Recipe) -> Corpus:
    """The utterances of the sample of HundredCV-Chat, cut by jieba, held out by dialogue."""
    tokenizer = Tokenizer(TextConfig(language="zh", unit="word"))
    rows: list[list[str]] = []
    num_training = 0
    path = data / "dialogues" / "hundredcv.sample.jsonl"
    for index, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        for utterance in json.loads(line)["dialog"]:
            text = utterance.split(":", 1)[-1].split("：", 1)[-1]
            rows.append(tokenizer.tokenize(text))
        if index + 1 == recipe.num_training:
            num_training = len(rows)
        if index + 1 == recipe.num_training + recipe.num_validation:
            break
    (first, second), size = encoded([rows], num_training)
    return Corpus(Examples(first), Examples(second), [size])


def pairs(data: Path, recipe: Recipe) -> Corpus:
    """Chinese characters to English words of Tatoeba, by chance, no sentence on both sides."""
    lines = (data / "parallel" / "tatoeba.en-zh.jsonl").read_text(encoding="utf-8").splitlines()
    seen: set[str] = set()
    chosen: list[tuple[str, str]] = []
    for index in np.random.default_rng(0).permutation(len(lines)):
        row = json.loads(lines[index])
        if row["zh"] in seen or row["en"] in seen:
            continue
        seen |= {row["zh"], row["en"]}
        chosen.append((row["zh"], row["en"]))
        if len(chosen) == recipe.num_training + recipe.num_validation:
            break
    english = Tokenizer(TextConfig(language="en", unit="word"))
    sources, source_size = encoded([[list(zh) for zh, _ in chosen]], recipe.num_training)
    targets, target_size = encoded(
        [[english.tokenize(en) for _, en in chosen]], recipe.num_training
    )
    return Corpus(
        Examples(sources[0], targets[0]),
        Examples(sources[1], targets[1]),
        [source_size, target_size],
    )


CORPORA: dict[str, Callable[[Path, Recipe], Corpus]] = {
    "language_model": running_text,
    "next_word": dialogues,
    "seq2seq": pairs,
}


def measure(recipe: Recipe, change: Change, corpus: Corpus, seed: int) -> dict[str, Any]:
    began = time.process_time()
    fitted = fit(
        replace(recipe.problem, **change.problem),
        Variant.parse(recipe.variant + change.variant),
        replace(recipe.network, **change.network),
        replace(recipe.training, seed=seed, **change.training),
        corpus.training,
        corpus.validation,
        corpus.vocabulary_sizes,
        device=torch.device("cpu"),
        regularisation=RegularisationConfig(**change.regularisation),
    )
    best = fitted.history[fitted.best_epoch - 1]["metrics"]
    losses = [
        best["valid/loss"],
        fitted.history[-1]["metrics"].get("valid/averaged_loss", math.inf),
    ]
    return {
        "perplexity": math.exp(min(losses)),
        "epochs": len(fitted.history),
        "seconds": time.process_time() - began,
    }


def key_of(name: str, setting: str, seed: int) -> str:
    """A cell is what it is by all its settings: a changed recipe is measured anew."""
    plain = [asdict(RECIPES[name]), asdict(CHANGES[setting]), seed]
    return json.dumps(plain, sort_keys=True)


def finished(path: Path) -> dict[str, dict[str, Any]]:
    """The whole lines of the results file; one that a kill left half is measured again."""
    cells: dict[str, dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else []:
        try:
            cell = json.loads(line)
            cells[cell["key"]] = cell
        except (ValueError, KeyError):
            continue
    return cells


def table(names: Iterable[str], settings: Sequence[str], num_seeds: int, path: Path) -> str:
    cells = finished(path)
    lines = []
    for name in names:
        lines += [
            f"### {name}", "",
            "| setting | perplexity | difference to the recipe | epochs | CPU seconds |",
            "|---|---|---|---|---|",
        ]  # fmt: skip
        recipe = [cells.get(key_of(name, "recipe", seed + 1)) for seed in range(num_seeds)]
        for setting in settings:
            rows = [cells.get(key_of(name, setting, seed + 1)) for seed in range(num_seeds)]
            found = [row for row in rows if row]
            if not found:
                continue
            differences = [
                100 * math.log(row["perplexity"] / base["perplexity"])
                for row, base in zip(rows, recipe, strict=True)
                if row and base
            ]
            cells_of_row = (
                setting,
                _spread([row["perplexity"] for row in found], "{:.1f}"),
                "" if setting == "recipe" else _spread(differences, "{:+.1f}") + " %",
                f"{statistics.mean(row['epochs'] for row in found):.1f}",
                f"{statistics.mean(row['seconds'] for row in found):.0f}",
            )
            lines.append(f"| {' | '.join(cells_of_row)} |")
        lines.append("")
    return "\n".join(lines)


def _spread(values: list[float], form: str) -> str:
    """Mean and standard deviation; how many where that is not three."""
    if not values:
        return ""
    deviation = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return form.format(statistics.mean(values)) + deviation


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--results", type=Path, default=Path("ablation.jsonl"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--problems", default=",".join(RECIPES))
    parser.add_argument("--settings", default=";".join(CHANGES), help="names, divided by ;")
    parsed = parser.parse_args()
    names = parsed.problems.split(",")
    settings = parsed.settings.split(";")
    torch.set_num_threads(1)
    corpora = {name: CORPORA[name](parsed.data, RECIPES[name]) for name in names}
    for name, corpus in corpora.items():
        sizes = [len(split.predicted.values) for split in (corpus.training, corpus.validation)]
        print(
            f"{name}: {sizes} predicted tokens, vocabularies {corpus.vocabulary_sizes}", flush=True
        )
    # Seed by seed, so that a table of one seed is whole before the next begins.
    for seed in range(1, parsed.seeds + 1):
        for setting in settings:
            for name in names:
                key = key_of(name, setting, seed)
                if name not in ONLY.get(setting, names) or key in finished(parsed.results):
                    continue
                result = measure(RECIPES[name], CHANGES[setting], corpora[name], seed)
                with parsed.results.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({"key": key, **result}) + "\n")
                print(
                    f"{name} | {setting} | seed {seed}: perplexity {result['perplexity']:.2f}, "
                    f"{result['epochs']} epochs, {result['seconds']:.0f} s",
                    flush=True,
                )
    print(table(names, settings, parsed.seeds, parsed.results))


if __name__ == "__main__":
    main()
