"""What a GPU makes of the training step: floors, predictions and measurements in one table.

    python benchmarks/gpu.py                       # a GPU, under eight minutes
    python benchmarks/gpu.py --device cpu --tiny   # a rehearsal of all that needs no CUDA

Needs torch 2.11 or later and numpy, nothing else of this repository. A section that fails or runs
out of time leaves its sentence in the table, and the next one follows.

The word language model has L = 2 LSTM layers of H features, V words, B streams and T = 35 steps,
clipped gradients and Adam. Its floor is of this machine's own rates, measured first: all products
but the recurrent ones at the bf16 rate, the recurrent ones at that rate or 7.5 us a step, whichever
is longer, and 32 bytes a weight for Adam at the rate of a copy. Predictions were made on paper for
an H200 before any was at hand.
"""

import argparse
import json
import math
import os
import platform
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

NUM_STEPS = 35
CHUNK_ROWS = 2048
LATENCY_US = 7.5
"""Of one recurrent step forward and backward, where nothing but waiting counts."""


@dataclass(frozen=True)
class Size:
    """Hidden features, words and streams; milliseconds predicted for some of the ways."""

    hidden: int
    words: int
    batch: int
    default: float = 0.0
    high: float = 0.0
    best: float = 0.0

    @property
    def name(self) -> str:
        return f"2x{self.hidden}, {self.words:,} words, batch {self.batch}"

    @property
    def products(self) -> tuple[float, float]:
        """Floating-point operations of a step: all but the recurrent products, and those."""
        tokens = self.batch * NUM_STEPS
        half = 8 * self.hidden**2 * 2
        return 3.0 * tokens * (half + 2 * self.words * self.hidden), 3.0 * tokens * half

    @property
    def num_weights(self) -> int:
        return 2 * self.words * self.hidden + 2 * 8 * self.hidden**2


SMALL = Size(650, 10_000, 20, 2.7, 2.3, 1.75)
MIDDLE = Size(650, 10_000, 64, 4.1, 2.7, 1.93)
LARGE = Size(1500, 50_000, 256, 97.9, 34.7, 15.29)
TINY = Size(32, 200, 4)
TINY_TOO = Size(48, 300, 6)


@dataclass(frozen=True)
class Way:
    """How a step is computed."""

    matmul: str = "highest"
    chunked: bool = False
    bf16: bool = False
    fused: bool = False
    graph: bool = False


LADDER = (
    ("eager fp32, nn.LSTM + cross_entropy", Way()),
    ("+ matmul precision high (TF32)", Way("high")),
    ("+ chunked cross-entropy", Way("high", chunked=True)),
    ("+ bf16 autocast", Way("high", True, bf16=True)),
    ("+ fused Adam", Way("high", True, True, fused=True)),
    ("+ one CUDA graph a step", Way("high", True, True, True, graph=True)),
)
BEST = LADDER[-1][1]


class ChunkedLoss(torch.autograd.Function):
    """Mean cross-entropy whose logits exist for some rows at a time; gradients on the way."""

    @staticmethod
    def forward(  # type: ignore[override]
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, targets: Tensor, rows: int,
        dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        small = weight.to(dtype)
        by_features = torch.empty_like(features)
        by_weight, by_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        total = weight.new_zeros(())
        for first in range(0, len(features), rows):
            part, goals = features[first : first + rows].to(dtype), targets[first : first + rows]
            logits = (part @ small.t()).to(weight.dtype).add_(bias)
            sums = torch.logsumexp(logits, dim=1, keepdim=True)
            total += (sums - logits.gather(1, goals[:, None])).sum()
            slope = logits.sub_(sums).exp_()
            slope.scatter_add_(1, goals[:, None], slope.new_full((len(goals), 1), -1.0))
            by_bias += slope.sum(0)
            short = slope.to(dtype)
            by_features[first : first + rows] = short @ small
            by_weight += short.t() @ part
        ctx.save_for_backward(by_features, by_weight, by_bias)
        return total / len(features)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:  # type: ignore[override]
        share = slope / len(ctx.saved_tensors[0])
        return (*(part * share for part in ctx.saved_tensors), None, None, None)


class WordModel(nn.Module):
    def __init__(self, size: Size) -> None:
        super().__init__()
        self.embedding = nn.Embedding(size.words, size.hidden)
        self.layers = nn.ModuleList(nn.LSTM(size.hidden, size.hidden) for _ in range(2))
        self.head = nn.Linear(size.hidden, size.words)

    def forward(self, ids: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """``ids [T, B]`` and a state ``[L, 2, B, H]`` to features ``[T * B, H]`` and a state."""
        features, states = self.embedding(ids), []
        for layer, (h, c) in zip(self.layers, state, strict=True):
            features, (h, c) = layer(features, (h[None], c[None]))
            states.append(torch.stack((h[0], c[0])))
        return features.flatten(0, 1), torch.stack(states)

    def loss(self, features: Tensor, targets: Tensor, way: Way) -> Tensor:
        if way.chunked:
            dtype = torch.bfloat16 if way.bf16 else self.head.weight.dtype
            arguments = (self.head.weight, self.head.bias, targets, CHUNK_ROWS, dtype)
            return ChunkedLoss.apply(features.to(self.head.weight.dtype), *arguments)
        return functional.cross_entropy(self.head(features), targets)


class Trainer:
    """A model, its optimizer and one batch that stays; ``step`` trains on it once."""

    def __init__(
        self,
        size: Size,
        way: Way,
        device: torch.device,
        seed: int = 0,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        torch.set_float32_matmul_precision(way.matmul)
        torch.manual_seed(seed)
        self.way, self.device = way, device
        self.model = WordModel(size).to(dtype).to(device)
        draw = torch.Generator().manual_seed(seed)
        ids = torch.randint(size.words, (NUM_STEPS + 1, size.batch), generator=draw).to(device)
        self.ids, self.targets = ids[:-1].contiguous(), ids[1:].flatten()
        self.state = torch.zeros(2, 2, size.batch, size.hidden, device=device, dtype=dtype)
        options: dict[str, Any] = {"fused": True} if way.fused else {"foreach": True}
        self.optimizer = torch.optim.Adam(
            self.model.parameters(), 1e-3 * (1 + seed), capturable=way.graph, **options
        )
        self.stream = torch.cuda.Stream(device) if way.graph else None
        self.graph = None
        if way.graph:
            self.capture()

    def forward(self) -> Tensor:
        with torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.way.bf16, cache_enabled=False
        ):
            features, state = self.model(self.ids, self.state)
            loss = self.model.loss(features, self.targets, self.way)
        self.following = state.detach()
        return loss

    def step_now(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self.forward().backward()
        # Not earlier: the backward pass reads the state that the batch began with.
        self.state.copy_(self.following)
        nn.utils.clip_grad_norm_(self.model.parameters(), 0.25)
        self.optimizer.step()

    def capture(self) -> None:
        self.stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self.stream):
            for _ in range(3):
                self.step_now()
        torch.cuda.current_stream().wait_stream(self.stream)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=self.stream):
            self.step_now()

    def step(self) -> None:
        if self.graph is None:
            self.step_now()
        else:
            self.graph.replay()


class Decoder(nn.Module):
    """One GRU layer with attention: what beam search asks for every next word."""

    def __init__(self, hidden: int, words: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, hidden)
        self.cell = nn.GRUCell(hidden, hidden)
        self.combine = nn.Linear(2 * hidden, hidden, bias=False)
        self.head = nn.Linear(hidden, words)

    def forward(self, words: Tensor, state: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
        """``words [B, K]``, ``state [B, K, H]``, ``keys [B, S, H]``: log P ``[B, K, V]``, state."""
        new = self.cell(self.embedding(words).flatten(0, 1), state.flatten(0, 1)).view_as(state)
        weights = torch.bmm(new, keys.mT).mul(state.shape[-1] ** -0.5).softmax(-1)
        mixed = torch.tanh(self.combine(torch.cat((torch.bmm(weights, keys), new), -1)))
        scores = self.head(mixed)
        wide = torch.promote_types(scores.dtype, torch.float32)
        return scores.to(wide).log_softmax(-1), new


def beam(
    decoder: Decoder, keys: Tensor, width: int, longest: int, alpha: float = 0.75
) -> tuple[Tensor, Tensor, Tensor]:
    """Beam search of a fixed number of steps; word 0 begins and ends.

    Every live hypothesis is tried with the end at every step and never loses its place to a
    finished one.

    Returns:
        Of each sentence's best: log P ``[B]``, words ``[B, T]`` and how many count, ``[B]``.
    """
    batch, _, hidden = keys.shape
    state = keys.new_zeros(batch, width, hidden)
    words = torch.zeros(batch, width, dtype=torch.long, device=keys.device)
    totals = torch.full((batch, width), -torch.inf, device=keys.device)
    totals[:, 0] = 0
    history = torch.zeros(batch, width, longest, dtype=torch.long, device=keys.device)
    best = torch.full((batch,), -torch.inf, device=keys.device)
    best_total, best_words = best.clone(), history[:, 0].clone()
    best_length = torch.zeros_like(words[:, 0])
    # On the device from the start: a captured graph cannot fetch a number from the host.
    lengths = torch.arange(longest, device=keys.device)
    for length in range(longest):
        scores, state = decoder(words, state, keys)
        scores = scores + totals[..., None]
        ended, place = scores[..., 0].max(1)
        rank = ended / (length + 1) ** alpha
        better = rank > best
        best = torch.where(better, rank, best)
        best_total = torch.where(better, ended, best_total)
        best_length = torch.where(better, lengths[length], best_length)
        chosen = history.gather(1, place[:, None, None].expand(-1, 1, longest))[:, 0]
        best_words = torch.where(better[:, None], chosen, best_words)
        scores[..., 0] = -torch.inf
        totals, flat = scores.flatten(1).topk(width, dim=1)
        parents, words = flat // scores.shape[-1], flat % scores.shape[-1]
        history = history.gather(1, parents[..., None].expand(-1, -1, longest)).clone()
        history[..., length] = words
        state = state.gather(1, parents[..., None].expand_as(state))
    return best_total, best_words, best_length


class OutOfTimeError(Exception):
    """A section took longer than it may."""


@contextmanager
def limited(seconds: float) -> Iterator[None]:
    def stop(*_: object) -> None:
        raise OutOfTimeError(f"stopped after {seconds:.0f} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(seconds, 0.01))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@dataclass
class Row:
    """One line of the table."""

    section: str
    what: str
    measured: str
    floor: str = ""
    predicted: str = ""


class Bench:
    def __init__(self, device: torch.device, tiny: bool, seconds: float) -> None:
        self.device, self.tiny = device, tiny
        self.end = time.monotonic() + seconds
        self.rows: list[Row] = []
        self.rates: dict[str, float] = {}
        self.cuda = device.type == "cuda"
        self.section = ""

    def row(self, *cells: str) -> None:
        self.rows.append(Row(self.section, *cells))
        print("  ".join(each for each in (self.section, *cells) if each), flush=True)

    def guarded(self, what: str, call: Callable[[], None], seconds: float) -> None:
        """Run a measurement; its failure is a row."""
        left = self.end - time.monotonic()
        if left < 2:
            self.row(what, "not run: the time was up")
            return
        try:
            with limited(min(seconds, left)):
                call()
        except Exception as failure:
            lines = str(failure).strip().splitlines() or [""]
            self.row(what, f"failed: {type(failure).__name__}: {lines[0][:150]}")
        if self.cuda:
            torch.cuda.empty_cache()

    def synchronize(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def milliseconds(self, call: Callable[[], object], at_least: float = 0.4) -> float:
        """Of one call: the median of five turns of wall time between two waits for the device."""
        for _ in range(3):
            call()
        self.synchronize()
        begin = time.perf_counter()
        call()
        self.synchronize()
        once = time.perf_counter() - begin
        count = max(1, min(1000, math.ceil((0.01 if self.tiny else at_least) / 5 / once)))
        turns = []
        for _ in range(5):
            begin = time.perf_counter()
            for _ in range(count):
                call()
            self.synchronize()
            turns.append((time.perf_counter() - begin) / count)
        return 1e3 * statistics.median(turns)

    def floor_ms(self, size: Size) -> float | None:
        if not {"bf16", "copy"} <= self.rates.keys():
            return None
        others, recurrent = size.products
        waiting = NUM_STEPS * LATENCY_US * 1e-6 if self.cuda else 0.0
        seconds = others / self.rates["bf16"] + max(recurrent / self.rates["bf16"], waiting)
        return 1e3 * (seconds + 32 * size.num_weights / self.rates["copy"])

    # ---- sections -------------------------------------------------------------------------

    def check(self) -> None:
        """Every way's loss and gradient beside the same in fp64."""
        self.section = "check"
        size = TINY if self.tiny else Size(128, 2_000, 16)
        exact = Trainer(size, Way(), self.device, dtype=torch.float64)
        loss = exact.forward()
        loss.backward()
        wanted = [each.grad for each in exact.model.parameters()]
        bounds = {"fp32": 1e-4, "tf32": 1e-2, "bf16": 5e-2}

        def compare(name: str, way: Way, kind: str) -> None:
            trainer = Trainer(size, way, self.device)
            found = trainer.forward()
            found.backward()
            top = sum(
                ((each.grad.double() - right) ** 2).sum()
                for each, right in zip(trainer.model.parameters(), wanted, strict=True)
            )
            error = float((top / sum((right**2).sum() for right in wanted)).sqrt())
            shift = abs(found.item() / loss.item() - 1)
            verdict = "right" if max(error, shift) <= bounds[kind] else "WRONG"
            self.row(name, f"{verdict}: loss off by {shift:.1e}, gradient by {error:.1e}",
                     f"at most {bounds[kind]:.0e}")  # fmt: skip

        # cuDNN's LSTM uses TF32 by default, also where products do not.
        first = "tf32" if self.cuda else "fp32"
        for name, way, kind in (
            ("eager", Way(), first),
            ("chunked cross-entropy", Way(chunked=True), first),
            ("high", Way("high"), "tf32"),
            ("bf16, chunked", Way("high", True, True), "bf16"),
        ):
            self.guarded(name, lambda name=name, way=way, kind=kind: compare(name, way, kind), 40)

        def graph_like_eager() -> None:
            trainers = [
                Trainer(size, replace(BEST, graph=graph), self.device) for graph in (False, True)
            ]
            # The capture has taken three steps already; capturing itself takes none.
            for _ in range(5):
                trainers[0].step()
            for _ in range(2):
                trainers[1].step()
            self.synchronize()
            one, other = (next(iter(each.model.parameters())) for each in trainers)
            apart = float((one - other).abs().max())
            self.row("CUDA graph beside eager, 5 steps", f"weights differ by at most {apart:.1e}")

        if self.cuda:
            self.guarded("CUDA graph beside eager", graph_like_eager, 40)
        else:
            self.row("CUDA graph beside eager", "skipped: a graph needs CUDA")

        def search() -> None:
            torch.manual_seed(0)
            decoder = Decoder(32, 50).to(self.device)
            keys = torch.randn(7, 5, 32, device=self.device)
            with torch.inference_mode():
                # So that it pays to go on for some words.
                decoder.head.weight *= 20
                decoder.head.bias[0] -= 1
                totals, words, lengths = beam(decoder, keys, 5, 12)
                decoder = decoder.double()
                worst = 0.0
                for row in range(len(keys)):
                    count = int(lengths[row])
                    goals = [*words[row, :count].tolist(), 0]
                    state = keys.new_zeros(1, 1, 32, dtype=torch.float64)
                    sum_, last = 0.0, 0
                    for goal in goals:
                        given = torch.tensor([[last]], device=self.device)
                        scores, state = decoder(given, state, keys[row : row + 1].double())
                        sum_, last = sum_ + float(scores[0, 0, goal]), goal
                    worst = max(worst, abs(sum_ / float(totals[row]) - 1))
            verdict = "right" if worst < 1e-3 else "WRONG"
            self.row("beam: log P of the best", f"{verdict}: off by {worst:.1e}; "
                     f"{float(lengths.float().mean()):.1f} words", "at most 1e-03")  # fmt: skip

        self.guarded("beam", search, 40)

    def roofs(self) -> None:
        self.section = "rates"
        side = 256 if self.tiny else 8192

        def copy() -> None:
            one = torch.empty(2**18 if self.tiny else 2**29, dtype=torch.float32).to(self.device)
            other = torch.empty_like(one)
            seconds = self.milliseconds(lambda: other.copy_(one)) / 1e3
            self.rates["copy"] = 8 * one.numel() / seconds
            self.row("copy", f"{self.rates['copy'] / 1e12:.2f} TB/s", "", "4.3 TB/s")

        def product(name: str, precision: str, dtype: torch.dtype, wanted: str) -> None:
            torch.set_float32_matmul_precision(precision)
            one, other = (torch.randn(side, side, device=self.device).to(dtype) for _ in range(2))
            seconds = self.milliseconds(lambda: one @ other, 1.0) / 1e3
            self.rates[name] = 2 * side**3 / seconds
            self.row(f"product of {side}, {name}", f"{self.rates[name] / 1e12:.4g} TFLOP/s", "",
                     wanted)  # fmt: skip

        self.guarded("copy", copy, 20)
        for name, precision, dtype, wanted in (
            ("fp32", "highest", torch.float32, "67 TFLOP/s"),
            ("tf32", "high", torch.float32, "494 TFLOP/s"),
            ("bf16", "high", torch.bfloat16, "788 TFLOP/s"),
        ):
            self.guarded(
                name,
                lambda n=name, p=precision, d=dtype, w=wanted: product(n, p, d, w),
                30,
            )

    def step_row(self, name: str, size: Size, way: Way, predicted: float) -> None:
        if way.graph and not self.cuda:
            self.row(name, "skipped: a graph needs CUDA")
            return
        trainer = Trainer(size, way, self.device)
        found = self.milliseconds(trainer.step)
        floor = self.floor_ms(size)
        words = size.batch * NUM_STEPS / found
        share = sum(size.products) / (found / 1e3) / self.rates.get("bf16", math.inf)
        self.row(
            name,
            f"{found:.2f} ms, {words:,.0f} thousand words/s, {share:.1%} of the bf16 rate",
            f"{floor:.2f} ms" if floor else "",
            f"{predicted:.2f} ms" if predicted else "",
        )

    def steps(self) -> None:
        for size in (TINY, TINY_TOO) if self.tiny else (SMALL, MIDDLE):
            self.section = size.name
            for number, (name, way) in enumerate(LADDER):
                predicted = {0: size.default, 1: size.high, len(LADDER) - 1: size.best}
                expected = predicted.get(number, 0.0)
                self.guarded(
                    name,
                    lambda n=name, s=size, w=way, p=expected: self.step_row(n, s, w, p),
                    25,
                )

    def large(self) -> None:
        size = TINY_TOO if self.tiny else LARGE
        self.section = size.name
        for name, way, predicted in (
            (LADDER[0][0], LADDER[0][1], size.default),
            (LADDER[1][0], LADDER[1][1], size.high),
            ("all but the graph", replace(BEST, graph=False), 0.0),
            ("all", BEST, size.best),
        ):
            self.guarded(
                name,
                lambda n=name, w=way, p=predicted: self.step_row(n, size, w, p),
                40,
            )

    def sweep(self) -> None:
        """Eight variants that differ in seed and learning rate."""
        size, number = (TINY, 2) if self.tiny else (SMALL, 8)
        self.section = f"{number} variants of {size.name}"
        way = BEST if self.cuda else replace(BEST, graph=False)
        count = 3 if self.tiny else 300
        alone: dict[str, Any] = {}

        def weights(trainers: list[Trainer]) -> list[Tensor]:
            return [next(iter(each.model.parameters())).clone() for each in trainers]

        def in_turn() -> None:
            trainers = [Trainer(size, way, self.device, seed) for seed in range(number)]
            self.synchronize()
            begin = time.perf_counter()
            for trainer in trainers:
                for _ in range(count):
                    trainer.step()
            self.synchronize()
            alone["ms"] = 1e3 * (time.perf_counter() - begin) / count / number
            alone["weights"] = weights(trainers)
            self.row("one after another", f"{alone['ms']:.3f} ms a step and variant")

        def streams() -> None:
            trainers = [Trainer(size, way, self.device, seed) for seed in range(number)]
            self.synchronize()
            begin = time.perf_counter()
            for _ in range(count):
                for trainer in trainers:
                    with torch.cuda.stream(trainer.stream):
                        trainer.step()
            self.synchronize()
            found = 1e3 * (time.perf_counter() - begin) / count / number
            pairs = zip(weights(trainers), alone.get("weights", []), strict=False)
            same = all(torch.equal(one, other) for one, other in pairs)
            self.row(
                "one process, a stream and a graph each",
                f"{found:.3f} ms, x {alone.get('ms', math.nan) / found:.2f}; "
                f"weights {'the same bits' if same else 'DIFFERENT'}",
                "",
                "0.30 ms, x 3 to 6, the same bits",
            )

        def processes() -> None:
            seconds = 1.0 if self.tiny else 8.0
            tiny = ["--tiny"] if self.tiny else []
            command = [sys.executable, __file__, "--device", self.device.type, *tiny, "--worker",
                       str(seconds)]  # fmt: skip
            workers = [
                subprocess.Popen(
                    [*command, str(seed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
                )
                for seed in range(number)
            ]
            try:
                for worker in workers:
                    if worker.stdout.readline().strip() != "ready":
                        raise RuntimeError("a process did not get ready")
                for worker in workers:
                    worker.stdin.write("go\n")
                    worker.stdin.flush()
                rates = [float(worker.stdout.readline()) for worker in workers]
            finally:
                for worker in workers:
                    worker.kill()
                    worker.wait()
            found = 1e3 / sum(rates)
            pipe = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY", "/tmp/nvidia-mps"))
            shared = "with MPS" if (pipe / "control").exists() else "without MPS"
            self.row(
                f"{number} processes, {shared}",
                f"{found:.3f} ms, x {alone.get('ms', math.nan) / found:.2f}",
                "",
                "x 1.0 to 1.3 without MPS, 3 to 6 with it",
            )

        self.guarded("one after another", in_turn, 60)
        if self.cuda:
            self.guarded("streams", streams, 60)
        else:
            self.row("one process, a stream and a graph each", "skipped: streams need CUDA")
        self.guarded(f"{number} processes", processes, 90)

    def search(self) -> None:
        batch, hidden, words, longest = (4, 32, 200, 5) if self.tiny else (500, 256, 10_000, 30)
        self.section = f"beam 5, {batch} sentences, {words:,} words, {longest} steps"

        def measure(name: str, dtype: torch.dtype, graph: bool, predicted: str) -> None:
            torch.set_float32_matmul_precision("high")
            torch.manual_seed(0)
            decoder = Decoder(hidden, words).to(self.device).to(dtype)
            keys = torch.randn(batch, 20, hidden, device=self.device, dtype=dtype)
            with torch.inference_mode():
                call: Callable[[], object] = partial(beam, decoder, keys, 5, longest)
                if graph:
                    side = torch.cuda.Stream()
                    with torch.cuda.stream(side):
                        for _ in range(2):
                            call()
                    torch.cuda.synchronize()
                    captured = torch.cuda.CUDAGraph()
                    with torch.cuda.graph(captured):
                        call()
                    call = captured.replay
                found = self.milliseconds(call)
            floor = self.search_floor_ms(batch * 5, hidden, words, longest)
            self.row(
                name,
                f"{batch / found * 1e3:,.0f} sentences/s, {found / longest:.3f} ms a step",
                f"{batch / floor * 1e3:,.0f} sentences/s" if floor else "",
                predicted,
            )

        self.guarded("eager", lambda: measure("eager, TF32", torch.float32, False, ""), 40)
        if not self.cuda:
            self.row("one CUDA graph", "skipped: a graph needs CUDA")
            return
        wanted = "30,000 to 50,000 sentences/s"
        self.guarded("graph", lambda: measure("graph, TF32", torch.float32, True, wanted), 40)
        self.guarded("bf16", lambda: measure("graph, bf16", torch.bfloat16, True, ""), 40)

    def search_floor_ms(self, rows: int, hidden: int, words: int, longest: int) -> float | None:
        """Products at the bf16 rate, and the scores written once and read twice in fp32."""
        if not {"bf16", "copy"} <= self.rates.keys():
            return None
        products = 2 * rows * hidden * (words + 6 * hidden + 2 * hidden)
        moved = 3 * 4 * rows * words
        return 1e3 * longest * (products / self.rates["bf16"] + moved / self.rates["copy"])

    def everything(self) -> None:
        for section in (self.check, self.roofs, self.steps, self.large, self.sweep, self.search):
            self.guarded(section.__name__, section, 200)

    def print_table(self) -> None:
        cells = [["", "way", "measured", "floor", "predicted"]]
        before = ""
        for row in self.rows:
            name = row.section if row.section != before else ""
            cells.append([name, row.what, row.measured, row.floor, row.predicted])
            before = row.section
        cells.insert(1, ["---"] * 5)
        print()
        for line in cells:
            print("| " + " | ".join(line) + " |")


def work(seconds: float, seed: int, size: Size, device: torch.device) -> None:
    """One of several processes: get ready, wait for a line, train for so long, tell steps/s."""
    way = BEST if device.type == "cuda" else replace(BEST, graph=False)
    trainer = Trainer(size, way, device, seed)
    for _ in range(3):
        trainer.step()
    print("ready", flush=True)
    sys.stdin.readline()
    count, begin = 0, time.perf_counter()
    while (taken := time.perf_counter() - begin) < seconds:
        for _ in range(20 if device.type == "cuda" else 1):
            trainer.step()
            count += 1
        if device.type == "cuda":
            torch.cuda.synchronize()
    print(count / taken, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--seconds", type=float, default=440.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch sees no GPU here: --device cpu --tiny rehearses what needs none")
    device = torch.device(asked.device)
    if asked.worker:
        size = TINY if asked.tiny else SMALL
        work(float(asked.worker[0]), int(asked.worker[1]), size, device)
        return
    name = torch.cuda.get_device_name() if asked.device == "cuda" else platform.processor()
    machine = {
        "device": name or platform.machine(), "python": platform.python_version(),
        "torch": str(torch.__version__), "numpy": np.__version__, "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
    }  # fmt: skip
    print(", ".join(f"{key} {value}" for key, value in machine.items()), flush=True)
    bench = Bench(device, asked.tiny, asked.seconds)
    begin = time.monotonic()
    try:
        bench.everything()
    finally:
        bench.print_table()
        print(f"\n{time.monotonic() - begin:.0f} s")
        if asked.json:
            rows = [asdict(row) for row in bench.rows]
            asked.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
