"""A word language model trained three ways, and how near each comes to its matrix products.

    python benchmarks/word_language_model.py [TEXT] [--rounds 1.0] [--sizes 2x200-20,2x200-64]

Two LSTM layers as wide as the embedding, 10,000 words, 35 steps back in time, plain SGD with the
gradient's norm cut, no dropout; ids of TEXT (the most frequent words, others <unk>), or a stream
drawn by Zipf's law. Each way has a process of its own, and they take a step in turn, so that they
meet the same machine; the first three rounds do not count.

    tidemill       training.loop.fit with the problem language_model, as a retraining calls it
    example        the loop of PyTorch's own example word_language_model
    textbook       the loop of d2l: an LSTM from scratch that reads one-hot words, two layers of it
    limit          nothing but the matrix products of one such step, each at its own shape, summed

`example` and `textbook` are written here anew, to the same sizes. The limit is what a step would
take if all else were free. A row more shows bf16 where this CPU supports it; the limit stays fp32.
--rounds is a factor on the number of rounds.
"""

import argparse
import itertools
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from rounds import ROOT, Turns, caption, keep, machine, seconds_in_turn, show, spread
from torch import Tensor, nn
from torch.nn import functional

from pipeline.training.precision import trains_in_bf16

NUM_WORDS = 10_000
BPTT = 35
CLIP = 0.25
LEARNING_RATE = 1.0
WARM_UP = 3
WAYS = ("tidemill", "tidemill bf16", "example", "textbook", "limit")


@dataclass(frozen=True)
class Size:
    """Layers as wide as the embedding, columns of a batch, and how many rounds to take."""

    width: int
    batch: int
    rounds: int

    @property
    def name(self) -> str:
        return f"2x{self.width}-{self.batch}"


SIZES = (Size(200, 20, 40), Size(200, 64, 24), Size(650, 20, 24))


def stream_of(text: Path | None, num_ids: int) -> np.ndarray:
    """Ids ``[num_ids]`` from 4 on, where ordinary words begin; 1 is the unknown word."""
    if text is None:
        shares = 1 / np.arange(1, NUM_WORDS - 3)
        draw = np.random.default_rng(0)
        return (draw.choice(NUM_WORDS - 4, num_ids, p=shares / shares.sum()) + 4).astype(np.int32)
    words = text.read_text(encoding="utf-8").split()
    frequent = [word for word, _ in Counter(words).most_common(NUM_WORDS - 4)]
    ids = {word: number + 4 for number, word in enumerate(frequent)}
    stream = np.array([ids.get(word, 1) for word in words], np.int32)
    return np.resize(stream, num_ids)


def tidemill(size: Size, stream: np.ndarray, precision: str, turns: Turns) -> None:
    sys.path.insert(0, str(ROOT))
    from flows.training.freed_memory import keep_freed_memory
    from pipeline.networks.recurrent import NetworkConfig, Variant
    from pipeline.problems import LanguageModel
    from pipeline.problems.batches import Examples
    from pipeline.problems.ragged import Ragged
    from pipeline.training.config import TrainingConfig
    from pipeline.training.loop import Observer, fit

    observer = Observer()
    observer.step = lambda epoch, batch, num_batches: turns()
    with keep_freed_memory():
        fit(
            LanguageModel(bptt=BPTT),
            Variant.parse("lstm-2"),
            NetworkConfig(size.width, size.width, dropout=0.0),
            TrainingConfig(
                num_epochs=1, batch_size=size.batch, optimizer="sgd", clip_norm=CLIP,
                learning_rate=LEARNING_RATE, precision=precision,
            ),
            Examples(Ragged.of([stream])),
            Examples(Ragged.of([stream[:100]])),
            [NUM_WORDS],
            device=torch.device("cpu"),
            observer=observer,
        )  # fmt: skip


def windows(size: Size, stream: np.ndarray) -> Iterator[tuple[Tensor, Tensor]]:
    """Inputs and targets ``[T, B]``, window after window."""
    length = len(stream) // size.batch
    columns = torch.from_numpy(stream[: length * size.batch].astype(np.int64))
    columns = columns.view(size.batch, length).t().contiguous()
    for first in range(0, length - BPTT, BPTT):
        yield columns[first : first + BPTT], columns[first + 1 : first + 1 + BPTT]


class ExampleModel(nn.Module):
    """Embedding, ``nn.LSTM``, one layer of scores, logarithms of all probabilities."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.drop = nn.Dropout(0.0)
        self.encoder = nn.Embedding(NUM_WORDS, width)
        self.rnn = nn.LSTM(width, width, 2, dropout=0.0)
        self.decoder = nn.Linear(width, NUM_WORDS)
        nn.init.uniform_(self.encoder.weight, -0.1, 0.1)
        nn.init.uniform_(self.decoder.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, ids: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, object]:
        outputs, state = self.rnn(self.drop(self.encoder(ids)), state)
        scores = self.decoder(self.drop(outputs)).view(-1, NUM_WORDS)
        return functional.log_softmax(scores, dim=1), state


def example(size: Size, stream: np.ndarray) -> Callable[[], None]:
    model = ExampleModel(size.width)
    criterion = nn.NLLLoss()
    batches = itertools.cycle(windows(size, stream))
    state = tuple(torch.zeros(2, size.batch, size.width) for _ in range(2))
    model.train()
    total = 0.0

    def step() -> None:
        nonlocal state, total
        ids, targets = next(batches)
        model.zero_grad()
        state = tuple(part.detach() for part in state)
        output, state = model(ids, state)
        loss = criterion(output, targets.reshape(-1))
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        for weight in model.parameters():
            weight.data.add_(weight.grad, alpha=-LEARNING_RATE)
        total += loss.item()

    return step


def textbook(size: Size, stream: np.ndarray) -> Callable[[], None]:
    """The book's formulas, word for word: four gates of two products each, step after step."""
    draw = torch.Generator().manual_seed(0)

    def weights(*shape: int) -> Tensor:
        return (torch.randn(shape, generator=draw) * 0.01).requires_grad_()

    layers = [
        [
            (weights(inputs, size.width), weights(size.width, size.width),
             torch.zeros(size.width, requires_grad=True))
            for _ in range(4)
        ]
        for inputs in (NUM_WORDS, size.width)
    ]  # fmt: skip
    scores, bias = weights(size.width, NUM_WORDS), torch.zeros(NUM_WORDS, requires_grad=True)
    parameters = [*itertools.chain(*itertools.chain(*layers)), scores, bias]
    criterion = nn.CrossEntropyLoss()
    batches = itertools.cycle(windows(size, stream))
    states = [(torch.zeros(size.batch, size.width),) * 2 for _ in layers]

    def step() -> None:
        nonlocal states
        ids, targets = next(batches)
        states = [(h.detach(), c.detach()) for h, c in states]
        inputs = functional.one_hot(ids, NUM_WORDS).float()
        outputs = []
        for x in inputs:
            for number, gates in enumerate(layers):
                h, c = states[number]
                i, f, o, g = (x @ w + h @ u + b for w, u, b in gates)
                c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
                h = torch.sigmoid(o) * torch.tanh(c)
                states[number] = (h, c)
                x = h
            outputs.append(x @ scores + bias)
        loss = criterion(torch.cat(outputs), targets.reshape(-1))
        loss.backward()
        with torch.no_grad():
            norm = torch.sqrt(sum((each.grad**2).sum() for each in parameters))
            if norm > CLIP:
                for each in parameters:
                    each.grad[:] *= CLIP / norm
            for each in parameters:
                each -= LEARNING_RATE * each.grad
                each.grad.zero_()

    return step


def products(size: Size) -> list[tuple[str, int, tuple[int, int, int]]]:
    """The matrix products of one step: what, how many, and ``[m, k] x [k, n]``."""
    width, rows = size.width, size.batch * BPTT
    gates = 4 * width
    return [
        ("input, forward", 2, (rows, width, gates)),
        ("state, forward", 2 * BPTT, (size.batch, width, gates)),
        ("scores, forward", 1, (rows, width, NUM_WORDS)),
        ("input, its gradient", 2, (rows, gates, width)),
        ("state, its gradient", 2 * BPTT, (size.batch, gates, width)),
        ("scores, gradient of features", 1, (rows, NUM_WORDS, width)),
        ("both weights of a layer, gradients", 4, (gates, rows, width)),
        ("scores, gradient of weights", 1, (NUM_WORDS, rows, width)),
    ]


def limit(size: Size, _: np.ndarray) -> Callable[[], None]:
    """Every product of a step, as often as the step needs it, and nothing else."""
    operands = [
        (count, torch.randn(m, k), torch.randn(k, n), torch.empty(m, n))
        for _, count, (m, k, n) in products(size)
    ]

    def step() -> None:
        for count, one, other, out in operands:
            for _ in range(count):
                torch.mm(one, other, out=out)

    return step


def take_steps(way: str, size: Size, text: Path | None, num_rounds: int) -> None:
    """One way's process: a step whenever it is asked for."""
    turns = Turns()
    torch.set_num_threads(1)
    torch.manual_seed(1)
    stream = stream_of(text, size.batch * BPTT * (num_rounds + WARM_UP + 3))
    if way.startswith("tidemill"):
        tidemill(size, stream, "bf16" if way.endswith("bf16") else "fp32", turns)
        return
    made = {"example": example, "textbook": textbook, "limit": limit}[way]
    step = made(size, stream)
    while True:
        step()
        turns()


def run(size: Size, text: Path | None, factor: float) -> dict[str, list[float]]:
    """CPU seconds of a step, way by way and round by round."""
    num_rounds = max(2, round(size.rounds * factor))
    given = [str(text)] if text else []
    commands = {
        way: [sys.executable, __file__, *given, "--rounds", str(num_rounds),
              "--sizes", size.name, "--way", way]
        for way in WAYS
        if "bf16" not in way or trains_in_bf16("lstm", "torch")
    }  # fmt: skip
    return seconds_in_turn(commands, num_rounds, WARM_UP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("text", type=Path, nargs="?")
    parser.add_argument("--rounds", type=float, default=1.0)
    parser.add_argument("--sizes", default=",".join(size.name for size in SIZES))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    sizes = {size.name: size for size in SIZES}
    chosen = [sizes[name] for name in asked.sizes.split(",")]
    if asked.way:
        take_steps(asked.way, chosen[0], asked.text, round(asked.rounds))
        return
    found = {size.name: run(size, asked.text, asked.rounds) for size in chosen}
    where = machine()
    show(
        f"2 LSTM layers, {NUM_WORDS:,} words, bptt {BPTT}",
        ("size-batch", "way", "words / CPU s", "x example", "x textbook", "x limit"),
        table(found),
        caption(where),
    )
    keep(
        "word_language_model",
        {
            "machine": where,
            "text": asked.text.name if asked.text else "drawn by Zipf's law",
            "seconds": found,
        },
        asked.json,
    )


def table(found: dict[str, dict[str, list[float]]]) -> list[list[str]]:
    """A row for each size and way: words a CPU second, and the speed over each of the others'."""
    rows = []
    for name, seconds in found.items():
        width, batch = map(int, name.removeprefix("2x").split("-"))
        words = batch * BPTT
        for way in WAYS:
            if way not in seconds:
                rows.append(
                    [f"2x{width}, batch {batch}", way, "not supported on this CPU", "", "", ""]
                )
                continue
            own = seconds[way]
            times = []
            for beside in ("example", "textbook", "limit"):
                pairs = zip(own, seconds[beside], strict=True)
                told = way != beside and (beside == "limit" or way.startswith("tidemill"))
                times.append(spread([other / mine for mine, other in pairs]) if told else "")
            rows.append([f"2x{width}, batch {batch}", way,
                         spread([words / each for each in own], 0), *times])  # fmt: skip
    return rows


if __name__ == "__main__":
    main()
