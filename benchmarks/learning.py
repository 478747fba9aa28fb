"""What initial weights and other small things change in how fast a translation is learnt.

    python benchmarks/learning.py PAIRS.jsonl [--epochs 1] [--seeds 2] [--ways "NAME;..."]
        [--results learning.jsonl]

The pairs, vocabularies and network of translation.py (the encoder of 2 x 128 features, nothing
fed); 1,000 sources of the training pairs are held out to validate, and the test pairs are not
touched. Every cell trains one network and notes the loss on validation, nats a word, <eos>
included, and the BLEU of a beam of 5, over characters, after each epoch. A finished cell is a line
of the results file and is not trained again.
"""

import argparse
import json
import math
import random
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from rounds import ROOT
from sacrebleu import corpus_bleu
from torch import Tensor, nn
from translation import BEAM, SIZE, prepare, tidemill_parts

sys.path.insert(0, str(ROOT))

from pipeline import prediction
from pipeline.problems.batches import order_by_length
from pipeline.problems.predictor import ModelConfig
from pipeline.problems.ragged import Ragged
from pipeline.problems.seq2seq import problem as seq2seq
from pipeline.problems.seq2seq.answers import Seq2SeqPredictor
from pipeline.problems.seq2seq.problem import Attention, EncoderDecoder, PairBatches, Seq2Seq
from pipeline.text.config import TextConfig
from pipeline.text.vocabulary import PAD
from pipeline.training.config import TrainingConfig
from pipeline.training.loop import Observer, fit

NUM_VALID = 1_000
CPU = torch.device("cpu")


@torch.no_grad()
def torchs_attention(model: EncoderDecoder) -> None:
    model.attention.combine.reset_parameters()


@torch.no_grad()
def uniform(model: EncoderDecoder) -> None:
    for weights in model.parameters():
        weights.uniform_(-0.1, 0.1)


def glorot(gain: float) -> Callable[[EncoderDecoder], None]:
    def begin(model: EncoderDecoder) -> None:
        nn.init.xavier_uniform_(model.attention.key.weight)
        nn.init.xavier_uniform_(model.attention.combine.weight, gain)
        nn.init.xavier_uniform_(model.bridges[0].weight, gain)

    return begin


@torch.no_grad()
def orthogonal(model: EncoderDecoder) -> None:
    for stack in (model.encoder, model.decoder):
        for name, weights in stack.named_parameters():
            if "bias" in name:
                weights.zero_()
            for gate in weights.chunk(3) if "weight" in name else ():
                begin = nn.init.orthogonal_ if "_hh_" in name else nn.init.xavier_uniform_
                begin(gate)


def unscaled(self: Attention, queries: Tensor, memory: seq2seq.Memory) -> Tensor:
    scores = torch.bmm(queries, memory.keys.mT)
    return scores.masked_fill(memory.mask[:, None], -torch.inf).softmax(-1)


def joined(self: EncoderDecoder, final: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(part.unflatten(0, (-1, 2)).movedim(1, 2).flatten(2) for part in final)


def without_eos(texts: Ragged, rows: Any) -> tuple[Tensor, Tensor]:
    lengths = texts.lengths[rows]
    ids = texts.padded(rows, PAD, int(lengths.max())).astype(np.int32)
    return torch.from_numpy(np.ascontiguousarray(ids.T)), torch.from_numpy(lengths)


def by_source(self: Seq2Seq, examples: Any, batch_size: int, generator: Any) -> PairBatches:
    rows = np.flatnonzero(self.usable(examples, training=True))
    sources, targets = examples.inputs.lengths[rows], examples.targets.lengths[rows]
    keys = sources * (self.max_tokens + 1) + targets
    parts = order_by_length(keys, batch_size, generator)
    return PairBatches(examples, [rows[part] for part in parts])


PATCHES: dict[str, tuple[Any, str, Any]] = {
    "scores not scaled": (Attention, "weights", unscaled),
    "directions joined": (EncoderDecoder, "_bridged", joined),
    "no <eos> behind a source": (seq2seq, "padded_texts", without_eos),
    "nor in a search": (prediction, "padded_texts", without_eos),
    "batches by source": (Seq2Seq, "training_batches", by_source),
}


@dataclass(frozen=True)
class Way:
    """What is begun otherwise, in turn, and what is computed otherwise."""

    begin: tuple[Callable[[EncoderDecoder], None], ...] = ()
    patches: tuple[str, ...] = ()


WAYS = {
    "as it is": Way(),
    "all as torch begins it": Way((torchs_attention,)),
    "directions joined": Way((torchs_attention,), ("directions joined",)),
    "scores not scaled": Way((torchs_attention,), ("scores not scaled",)),
    "Glorot": Way((glorot(1.0),)),
    "Glorot, not scaled": Way((glorot(1.0),), ("scores not scaled",)),
    "Glorot, orthogonal": Way((glorot(1.0), orthogonal)),
    "Glorot, orthogonal, not scaled": Way((glorot(1.0), orthogonal), ("scores not scaled",)),
    "Glorot for tanh": Way((glorot(5 / 3),)),
    "Glorot for tanh, orthogonal": Way((glorot(5 / 3), orthogonal)),
    "uniform 0.1": Way((uniform,)),
    "uniform 0.1, batches by source": Way((uniform,), ("batches by source",)),
    "uniform 0.1, like OpenNMT-py": Way(
        (uniform,),
        ("scores not scaled", "directions joined", "no <eos> behind a source", "nor in a search"),
    ),
}


def hold_out(folder: Path) -> None:
    """Take ``NUM_VALID`` sources out of the training files, into the place of the test files."""
    sides = [
        (folder / f"train.{each}").read_text(encoding="utf-8").splitlines()
        for each in ("src", "tgt")
    ]
    first: dict[str, str] = {}
    for source, target in zip(*sides, strict=True):
        first.setdefault(source, target)
    order = list(first)
    random.Random(7).shuffle(order)
    held = {source: first[source] for source in order[:NUM_VALID]}
    train = [pair for pair in zip(*sides, strict=True) if pair[0] not in held]
    for name, pairs in (("train", train), ("test", list(held.items()))):
        for side, ending in enumerate(("src", "tgt")):
            lines = "".join(pair[side] + "\n" for pair in pairs)
            (folder / f"{name}.{ending}").write_text(lines, encoding="utf-8")


def translated(parts: SimpleNamespace, model: EncoderDecoder, references: list[str]) -> list[float]:
    """BLEU and the mean number of words, of the validation sources."""
    ratio = parts.problem.length_ratio(parts.train)
    texts = TextConfig(language="en"), TextConfig(language="zh", unit="char")
    config = ModelConfig(parts.problem, parts.variant, parts.network, *texts, length_ratio=ratio)
    predictor = Seq2SeqPredictor(config, model.eval(), parts.vocabularies, CPU)
    sources = list(parts.test.inputs)
    outputs = [""] * len(sources)
    order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
    for begin in range(0, len(order), 64):
        rows = order[begin : begin + 64]
        ids = Ragged.of([sources[row] for row in rows])
        for row, answer in zip(
            rows, predictor.answer(ids, top=1, max_tokens=50, beam=BEAM), strict=True
        ):
            outputs[row] = " ".join(predictor.tokenizers[1].tokenize(answer[0].text))
    bleu = corpus_bleu(outputs, [references], tokenize="none").score
    return [bleu, statistics.mean(len(output.split()) for output in outputs)]


def learn(folder: Path, way: Way, seed: int, num_epochs: int) -> dict[str, Any]:
    """Losses and BLEU after each epoch."""
    task = {"folder": str(folder), "encoder": SIZE // 2, "input_feeding": False}
    parts = tidemill_parts(SimpleNamespace(**task))
    references = (folder / "test.tgt").read_text(encoding="utf-8").splitlines()
    kept = [(owner, name, getattr(owner, name)) for owner, name, _ in PATCHES.values()]
    kind = type(parts.problem)
    build = kind.build_recurrent
    bleu: list[list[float]] = []

    def begun(*given: Any) -> EncoderDecoder:
        model = build(*given)
        for begin in way.begin:
            begin(model)
        return model

    class AfterEpochs(Observer):
        epochs = 0

        def epoch(self, record: dict[str, Any]) -> dict[str, Any]:
            self.epochs = record["epoch"]
            return {}

        def save(self, state: Callable[[], Any]) -> None:
            if self.epochs > len(bleu):
                sizes = [len(each) for each in parts.vocabularies]
                model = parts.problem.build(parts.variant, parts.network, sizes)
                tensors = state().tensors.items()
                model.load_state_dict(
                    {n.removeprefix("model/"): t for n, t in tensors if n.startswith("model/")}
                )
                bleu.append(translated(parts, model, references))

    for name in way.patches:
        setattr(*PATCHES[name])
    kind.build_recurrent = begun
    try:
        config = TrainingConfig(num_epochs=num_epochs, batch_size=64, patience=None, seed=seed)
        fitted = fit(
            parts.problem, parts.variant, parts.network, config, parts.train, parts.test,
            [len(each) for each in parts.vocabularies], device=CPU, observer=AfterEpochs(),
        )  # fmt: skip
    finally:
        kind.build_recurrent = build
        for each in kept:
            setattr(*each)
    return {"losses": [row["metrics"]["valid/loss"] for row in fitted.history], "bleu": bleu}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--results", type=Path, default=Path("learning.jsonl"))
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--ways", default=";".join(WAYS), help="names, divided by ;")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        prepare(asked.pairs, folder)
        hold_out(folder)
        cells: dict[tuple[Any, ...], dict[str, Any]] = {}
        if asked.results.exists():
            for line in asked.results.read_text(encoding="utf-8").splitlines():
                cell = json.loads(line)
                cells[cell["way"], cell["seed"], len(cell["losses"])] = cell
        for seed in range(1, asked.seeds + 1):
            for way in asked.ways.split(";"):
                key = (way, seed, asked.epochs)
                if key not in cells:
                    cells[key] = {"way": way, "seed": seed}
                    cells[key] |= learn(folder, WAYS[way], seed, asked.epochs)
                    with asked.results.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(cells[key]) + "\n")
    print("| way | seed | loss | perplexity | BLEU | words |\n|---|---|---|---|---|---|")
    for (way, seed, _), cell in cells.items():
        loss, (bleu, words) = cell["losses"][-1], cell["bleu"][-1]
        print(f"| {way} | {seed} | {loss:.3f} | {math.exp(loss):.1f} | {bleu:.1f} | {words:.1f} |")


if __name__ == "__main__":
    main()
