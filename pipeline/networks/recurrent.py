"""The recurrent network: cell x layers x directions x kernel, and the hidden state it carries.

Shape letters: ``T`` time, ``B`` batch, ``E`` input features, ``H`` hidden, ``G`` gates of the cell,
``L`` layers, ``D`` directions. Tensors are time-major, ``[T, B, ...]``.

A *hidden state* is a tuple of tensors ``[L * D, B, H]``, one for each part of the cell's state:
``(h,)`` for Elman and GRU cells, ``(h, c)`` for the LSTM. Directions are neighbours: layer 0
forward, layer 0 backward, layer 1 forward, and so on, as in torch.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..errors import InputError, choose_from
from . import cpu_layers
from .regularisation import FeatureDropout, Regularised

Hidden = tuple[Tensor, ...]

KERNELS = ("torch", "textbook")
"""torch's modules, or the cells of this file step by step. Training on a CPU, torch's modules are
computed by :mod:`.cpu_layers` where that is faster: the same but for the order of sums."""

EMBEDDINGS = ("learned", "frozen", "one_hot")

OUTPUTS = ("full", "adaptive")

RECURRENT_WEIGHTS = "weight_hh_l0"
"""What torch calls the weights from a state to the next one's gates, ``[G*H, H]``."""

STEP_WEIGHTS = ("weight_ih_l0", RECURRENT_WEIGHTS, "bias_ih_l0", "bias_hh_l0")
"""What torch's functions for one step take, in their order."""


class GateNorm(nn.Module):
    """Layer normalisation of every gate's ``H`` summands by themselves (Ba, Kiros and Hinton 2016).

    One gain for each summand; the shift is the cell's own bias, added afterwards.
    """

    def __init__(self, num_gates: int, hidden_size: int) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.gain = nn.Parameter(torch.ones(num_gates * hidden_size))

    def forward(self, summands: Tensor, first: int = 0) -> Tensor:
        """Summands of the gates from ``first`` on, ``[..., n*H]``, normalised, times the gain."""
        gates = summands.unflatten(-1, (-1, self.hidden_size))
        begin = first * self.hidden_size
        gain = self.gain[begin : begin + summands.shape[-1]]
        return functional.layer_norm(gates, (self.hidden_size,)).flatten(-2) * gain


class Cell(ABC, nn.Module):
    """One layer in one direction, its formulas written out and stepped through time in Python.

    The weights bear torch's names and shapes (``weight_ih_l0 [G*H, E]``, ``weight_hh_l0 [G*H, H]``,
    two biases ``[G*H]``), so that a state dict fits either kernel.

    With ``layer_norm`` the summands ``W x_t`` and ``U h_{t-1}`` are normalised each by themselves
    before their biases are added, and so is the LSTM's ``c_t`` on its way out (Ba, Kiros and Hinton
    2016, supplementary material, equations 20 to 22; there over all gates at once).
    """

    num_gates: int
    """How many blocks of ``H`` rows the weights have."""
    num_states: int = 1
    """Parts of the state that is carried: 2 for the LSTM."""
    kernel: Callable[..., nn.RNNBase] | None = None
    """torch's fused module for the same formulas, where there is one."""
    nonlinearity: str | None = None
    """Which of torch's Elman networks that module shall be."""
    kernel_step: Callable[..., Any] | None = None
    """torch's function for one step of them."""

    def __init__(self, input_size: int, hidden_size: int, layer_norm: bool = False) -> None:
        super().__init__()
        rows = self.num_gates * hidden_size
        bound = 1 / math.sqrt(hidden_size)
        self.weight_ih_l0 = nn.Parameter(torch.empty(rows, input_size).uniform_(-bound, bound))
        self.weight_hh_l0 = nn.Parameter(torch.empty(rows, hidden_size).uniform_(-bound, bound))
        self.bias_ih_l0 = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))
        self.bias_hh_l0 = nn.Parameter(torch.empty(rows).uniform_(-bound, bound))
        self.input_norm = GateNorm(self.num_gates, hidden_size) if layer_norm else None
        self.state_norm = GateNorm(self.num_gates, hidden_size) if layer_norm else None

    @classmethod
    def fused(cls, input_size: int, hidden_size: int, **options: Any) -> nn.RNNBase:
        """torch's kernel for this cell; ``options`` are those of torch's own module."""
        assert cls.kernel is not None
        if cls.nonlinearity:
            options["nonlinearity"] = cls.nonlinearity
        return cls.kernel(input_size, hidden_size, **options)

    @abstractmethod
    def step(self, projected: Tensor, hidden: Hidden) -> Hidden:
        """One time step: ``projected`` is ``W x_t + b [B, G*H]``; returns the next state."""

    def forward(
        self, inputs: Tensor, hidden: Hidden, lengths: Tensor | None = None
    ) -> tuple[Tensor, Hidden]:
        """Run ``inputs [T, B, E]`` from a state of ``[B, H]`` parts; outputs ``[T, B, H]``.

        With ``lengths [B]`` a row's state stays as it is after the row's last real step.
        """
        if self.input_norm is None:
            projected = functional.linear(inputs, self.weight_ih_l0, self.bias_ih_l0)
        else:
            summands = functional.linear(inputs, self.weight_ih_l0)
            projected = self.input_norm(summands) + self.bias_ih_l0
        outputs = []
        for step, projected_step in enumerate(projected):
            following = self.step(projected_step, hidden)
            if lengths is not None:
                inside = (step < lengths)[:, None]
                following = tuple(
                    torch.where(inside, new, old)
                    for new, old in zip(following, hidden, strict=True)
                )
            hidden = following
            outputs.append(hidden[0])
        return torch.stack(outputs), hidden

    def recur(self, h: Tensor) -> Tensor:
        """``U h + b``, ``[B, G*H]``."""
        return self.summands(h, self.weight_hh_l0, self.bias_hh_l0)

    def summands(self, h: Tensor, weights: Tensor, bias: Tensor, first: int = 0) -> Tensor:
        """``U h + b`` of the gates from ``first`` on, whose rows ``weights`` and ``bias`` are."""
        if self.state_norm is None:
            return functional.linear(h, weights, bias)
        normed: Tensor = self.state_norm(functional.linear(h, weights), first)
        return normed + bias


class ElmanTanh(Cell):
    """``h_t = tanh(W x_t + b + U h_{t-1} + c)`` (Elman 1990; d2l section 9.4)."""

    num_gates = 1
    kernel = nn.RNN
    nonlinearity = "tanh"
    kernel_step = staticmethod(torch.rnn_tanh_cell)

    def step(self, projected: Tensor, hidden: Hidden) -> Hidden:
        return (torch.tanh(projected + self.recur(hidden[0])),)


class ElmanReLU(Cell):
    """``h_t = max(0, W x_t + b + U h_{t-1} + c)`` (Le, Jaitly and Hinton 2015)."""

    num_gates = 1
    kernel = nn.RNN
    nonlinearity = "relu"
    kernel_step = staticmethod(torch.rnn_relu_cell)

    def step(self, projected: Tensor, hidden: Hidden) -> Hidden:
        return (torch.relu(projected + self.recur(hidden[0])),)


class GRU(Cell):
    """The gated recurrent unit as torch and cuDNN compute it: the reset gate acts on ``U h + b``.

    ``r, z = sigmoid(W x_t + b + U h_{t-1} + c)``, ``n = tanh(W_n x_t + b_n + r * (U_n h + c_n))``,
    ``h_t = (1 - z) * n + z * h_{t-1}`` (Cho et al. 2014 v1, section 2.3, reset after the product).
    """

    num_gates = 3
    kernel = nn.GRU
    kernel_step = staticmethod(torch.gru_cell)

    def step(self, projected: Tensor, hidden: Hidden) -> Hidden:
        (h,) = hidden
        x_reset, x_update, x_new = projected.chunk(3, dim=-1)
        h_reset, h_update, h_new = self.recur(h).chunk(3, dim=-1)
        reset = torch.sigmoid(x_reset + h_reset)
        update = torch.sigmoid(x_update + h_update)
        candidate = torch.tanh(x_new + reset * h_new)
        return ((1 - update) * candidate + update * h,)


class ChoGRU(Cell):
    """The gated recurrent unit of the textbook: the reset gate acts on ``h`` before the product.

    ``n = tanh(W_n x_t + b_n + U_n (r * h_{t-1}) + c_n)`` (Cho et al. 2014, equation 8; d2l section
    10.2). ``z`` weighs the old state as in d2l. No library kernel computes this form.
    """

    num_gates = 3

    def step(self, projected: Tensor, hidden: Hidden) -> Hidden:
        (h,) = hidden
        size = h.shape[-1]
        gates, candidate = self.weight_hh_l0.split((2 * size, size))
        gates_bias, candidate_bias = self.bias_hh_l0.split((2 * size, size))
        x_gates, x_new = projected.split((2 * size, size), dim=-1)
        reset, update = torch.sigmoid(x_gates + self.summands(h, gates, gates_bias)).chunk(2, -1)
        new = torch.tanh(x_new + self.summands(reset * h, candidate, candidate_bias, first=2))
        return ((1 - update) * new + update * h,)


class LSTM(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997, forget gate of Gers et al. 2000).

    ``i, f, o = sigmoid(W x_t + b + U h_{t-1} + c)``, ``g = tanh(...)``,
    ``c_t = f * c_{t-1} + i * g``, ``h_t = o * tanh(c_t)``.
    """

    num_gates = 4
    num_states = 2
    kernel = nn.LSTM
    kernel_step = staticmethod(torch.lstm_cell)

    def __init__(self, input_size: int, hidden_size: int, layer_norm: bool = False) -> None:
        super().__init__(input_size, hidden_size, layer_norm)
        self.output_norm = nn.LayerNorm(hidden_size) if layer_norm else None

    def step(self, projected: Tensor, hidden: Hidden) -> Hidden:
        h, c = hidden
        # torch keeps the gates in the order input, forget, candidate, output.
        i, f, g, o = (projected + self.recur(h)).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        shown = c if self.output_norm is None else self.output_norm(c)
        return torch.sigmoid(o) * torch.tanh(shown), c


CELLS: dict[str, type[Cell]] = {
    "rnn_tanh": ElmanTanh,
    "rnn_relu": ElmanReLU,
    "gru": GRU,
    "gru_cho": ChoGRU,
    "lstm": LSTM,
}


@dataclass(frozen=True)
class Variant:
    """Which recurrent network learns a problem; its name is the word people use for it.

    Names read ``[bi]CELL[-LAYERS][-textbook][-attention]``: ``lstm``, ``gru-2``, ``bilstm-2``,
    ``rnn_tanh-textbook``, ``bigru-attention``.

    Raises:
        InputError: for an unknown cell or kernel, or fewer than one layer.
    """

    cell: str = "lstm"
    num_layers: int = 1
    bidirectional: bool = False
    kernel: str = "torch"
    attention: bool = False

    def __post_init__(self) -> None:
        if self.cell not in CELLS:
            raise InputError(f"unknown cell {self.cell!r}: {choose_from(self.cell, CELLS)}")
        if self.kernel not in KERNELS:
            raise InputError(f"unknown kernel {self.kernel!r}: {choose_from(self.kernel, KERNELS)}")
        if self.num_layers < 1:
            raise InputError(f"num_layers is {self.num_layers}: a network has at least one layer")
        if self.kernel == "torch" and CELLS[self.cell].kernel is None:
            raise InputError(
                f"cell {self.cell!r} has no torch kernel: name the variant {self.cell}-textbook"
            )

    @classmethod
    def parse(cls, name: str) -> "Variant":
        """The variant of that name.

        Raises:
            InputError: where the name does not read as a variant, with the form and the cells.
        """
        head, *parts = name.split("-")
        bidirectional = head.startswith("bi") and head[2:] in CELLS
        cell = head[2:] if bidirectional else head
        layers = [part for part in parts if part.isascii() and part.isdigit()]
        rest = [part for part in parts if part not in layers]
        known = {"textbook", "attention"}
        if cell not in CELLS or len(layers) > 1 or not set(rest) <= known:
            raise InputError(
                f"unknown variant {name!r}: a name reads [bi]CELL[-LAYERS][-textbook][-attention], "
                f"for example lstm, gru-2 or bilstm-2; the cells are {', '.join(CELLS)}"
            )
        return cls(
            cell=cell,
            num_layers=int(layers[0]) if layers else 1,
            bidirectional=bidirectional,
            kernel="textbook" if "textbook" in rest else "torch",
            attention="attention" in rest,
        )

    @property
    def name(self) -> str:
        """The canonical name, which :meth:`parse` reads back."""
        return "-".join(
            [
                ("bi" if self.bidirectional else "") + self.cell,
                *([str(self.num_layers)] if self.num_layers > 1 else []),
                *(["textbook"] if self.kernel == "textbook" else []),
                *(["attention"] if self.attention else []),
            ]
        )

    @property
    def num_directions(self) -> int:
        """``D``: 2 where the network also reads from the end."""
        return 2 if self.bidirectional else 1


@dataclass(frozen=True)
class NetworkConfig:
    """What the networks of a retraining share: what it takes, beside a variant, to build one.

    Attributes:
        embedding_size: ``E``, features of an embedded token.
        hidden_size: ``H``, features of a layer's state in one direction.
        dropout: share of features set to zero after the embedding, between layers and before the
            output while training, never inside the recurrence (Zaremba et al. 2014).
        tied: the output layer uses the embedding's weights (Press and Wolf 2017); a projection
            maps ``H`` to ``E`` where they differ.
        embedding: how a token enters: ``learned`` (a vector of ``E`` features; Bengio et al. 2003),
            ``frozen`` (such a vector, never trained: for word vectors that are given), or
            ``one_hot`` (``V`` features, one of them 1; d2l 9.5).
        layer_norm: cells normalise their summands (Ba, Kiros and Hinton 2016); for the kernel
            ``textbook``, since the fused ones show no summand.
        output: how words are scored: ``full`` scores all of them, ``adaptive`` the frequent ones
            and groups of rare ones, whose words it scores in fewer dimensions and only where one is
            meant (Grave et al. 2017): several times as fast for large vocabularies.
        cutoffs: the ids at which the groups of ``adaptive`` begin, such as (2000, 10000). Ids are
            by falling frequency.

    Raises:
        InputError: for a size below 1, a dropout outside [0, 1), an unknown embedding or output,
            one that cannot be tied, or cutoffs that do not rise.
    """

    embedding_size: int = 128
    hidden_size: int = 256
    dropout: float = 0.2
    tied: bool = False
    embedding: str = "learned"
    layer_norm: bool = False
    output: str = "full"
    cutoffs: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        # JSON has no tuples.
        object.__setattr__(self, "cutoffs", tuple(self.cutoffs))
        for name in ("embedding_size", "hidden_size"):
            if getattr(self, name) < 1:
                raise InputError(f"network.{name} is {getattr(self, name)}: it must be at least 1")
        if not 0 <= self.dropout < 1:
            raise InputError(f"network.dropout is {self.dropout}: it must be in [0, 1)")
        if self.embedding not in EMBEDDINGS:
            raise InputError(
                f"unknown network.embedding {self.embedding!r}: "
                f"{choose_from(self.embedding, EMBEDDINGS)}"
            )
        if self.tied and self.embedding != "learned":
            raise InputError(
                f"network.tied shares vectors that are learned, and network.embedding is "
                f"{self.embedding}: set network.embedding=learned or network.tied=false"
            )
        self._check_output()

    def _check_output(self) -> None:
        if self.output not in OUTPUTS:
            raise InputError(
                f"unknown network.output {self.output!r}: {choose_from(self.output, OUTPUTS)}"
            )
        if self.output == "full":
            if self.cutoffs:
                raise InputError(
                    "network.cutoffs are those of the adaptive output: set network.output=adaptive "
                    "or leave them out"
                )
            return
        if self.tied:
            raise InputError(
                "network.output=adaptive has fewer dimensions for rare words, which no embedding "
                "shares: set network.tied=false or network.output=full"
            )
        if not self.cutoffs or self.cutoffs[0] < 1 or sorted({*self.cutoffs}) != [*self.cutoffs]:
            raise InputError(
                f"network.cutoffs is {list(self.cutoffs)}: name the ids at which groups of rarer "
                f"words begin, rising, for example network.cutoffs=[2000,10000]"
            )

    def check(self, variant: Variant) -> None:
        """Refuse a variant that cannot be built so.

        Raises:
            InputError: with the reason and the variant that can.
        """
        if self.layer_norm and variant.kernel != "textbook":
            textbook = replace(variant, kernel="textbook")
            raise InputError(
                f"network.layer_norm acts inside the cell, where {variant.name} runs a fused "
                f"kernel: name the variant {textbook.name}"
            )


def reversal(lengths: Tensor, num_steps: int) -> Tensor:
    """Where each step of a row comes from when the row is read from its end: ``[T, B]``.

    Padding stays where it is, so that the index undoes itself.
    """
    steps = torch.arange(num_steps, device=lengths.device)[:, None]
    return torch.where(steps < lengths, lengths - 1 - steps, steps)


class RecurrentStack(Regularised):
    """Layers of recurrent cells over a padded batch, one module for each layer and direction.

    One module a layer and direction is the form for which cuDNN has its fastest kernels, and it
    keeps dropout ours: torch's own hides its generator where no checkpoint reaches it. The backward
    direction is a forward one over rows reversed up to their lengths.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        variant: Variant,
        dropout: float = 0.0,
        layer_norm: bool = False,
    ) -> None:
        super().__init__()
        self.cell = CELLS[variant.cell]
        self.hidden_size = hidden_size
        self.num_layers = variant.num_layers
        self.num_directions = variant.num_directions
        self.output_size = hidden_size * variant.num_directions
        self.dropout = FeatureDropout(dropout)
        modules: list[nn.Module] = []
        for layer in range(variant.num_layers):
            for _ in range(variant.num_directions):
                size = self.output_size if layer else input_size
                if variant.kernel == "textbook":
                    modules.append(self.cell(size, hidden_size, layer_norm))
                else:
                    modules.append(self.cell.fused(size, hidden_size))
        self.layers = nn.ModuleList(modules)

    def initial_hidden(self, batch_size: int) -> Hidden:
        """A state of zeros, parts of ``[L * D, B, H]``."""
        weight = next(self.parameters())
        shape = (len(self.layers), batch_size, self.hidden_size)
        return tuple(weight.new_zeros(shape) for _ in range(self.cell.num_states))

    def forward(
        self, inputs: Tensor, hidden: Hidden | None = None, lengths: Tensor | None = None
    ) -> tuple[Tensor, Hidden]:
        """Run ``inputs [T, B, E]``.

        Args:
            hidden: the state to start from; zeros where it is absent.
            lengths: how many steps of each row are real, ``[B]``, at least 1; all where it is
                absent. Outputs beyond a row's length are meaningless; its final state is that of
                its last real step.

        Returns:
            The top layer's outputs ``[T, B, D * H]`` and the final state ``[L * D, B, H]``.
        """
        if hidden is None:
            hidden = self.initial_hidden(inputs.shape[1])
        turn = None if lengths is None else reversal(lengths, len(inputs))
        on_host = None
        if lengths is not None and isinstance(self.layers[0], nn.LSTM):
            on_host = lengths.cpu()
        finals: list[Hidden] = []
        for layer in range(self.num_layers):
            if layer:
                inputs = self.dropout(inputs)
            outputs = []
            for direction in range(self.num_directions):
                index = layer * self.num_directions + direction
                start = tuple(part[index] for part in hidden)
                rows = inputs if direction == 0 else _reversed(inputs, turn)
                output, final = self._run(index, rows, start, lengths, on_host)
                finals.append(final)
                outputs.append(output if direction == 0 else _reversed(output, turn))
            inputs = outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=-1)
        return inputs, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def step(self, inputs: Tensor, hidden: Hidden) -> tuple[Tensor, Hidden]:
        """As :meth:`forward` for one step, ``inputs [1, B, E]``, the faster way in a search.

        For every call, torch's LSTM lays its weights out anew on a CPU, which takes several times
        as long as a step of few rows.
        """
        cell_step = self.cell.kernel_step
        torchs = [module for module in self.layers if isinstance(module, nn.RNNBase)]
        if cell_step is None or not torchs or torch.is_grad_enabled() or inputs.is_cuda:
            found: tuple[Tensor, Hidden] = self(inputs, hidden)
            return found
        assert self.num_directions == 1
        (features,) = inputs
        finals: list[Hidden] = []
        for index, module in enumerate(torchs):
            start = tuple(part[index] for part in hidden)
            weights = (getattr(module, name) for name in STEP_WEIGHTS)
            final = cell_step(features, start if len(start) > 1 else start[0], *weights)
            finals.append((final,) if isinstance(final, Tensor) else final)
            features = finals[-1][0]
        return features[None], tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def _run(
        self,
        index: int,
        inputs: Tensor,
        start: Hidden,
        lengths: Tensor | None,
        on_host: Tensor | None,
    ) -> tuple[Tensor, Hidden]:
        """One layer in one direction: outputs ``[T, B, H]`` and the final parts ``[B, H]``."""
        module = self.layers[index]
        if isinstance(module, Cell):
            found: tuple[Tensor, Hidden] = self._module(index)(inputs, start, lengths)
            return found
        assert isinstance(module, nn.RNNBase)
        if cpu_layers.runs_here(module, inputs, padded=lengths is not None):
            states = cpu_layers.run_layer(module, inputs, start, self._weights(index))
            if lengths is None:
                return states[0], tuple(part[-1] for part in states)
            return states[0], tuple(_at_last_step(part, lengths) for part in states)
        run = self._module(index)
        parts = [part[None].contiguous() for part in start]
        state = parts[0] if len(parts) == 1 else tuple(parts)
        if lengths is None or len(parts) == 1:
            output, final = run(inputs, state)
            if lengths is None:
                return output, _parts(final)
            # The outputs of a one-part cell are its states: the last real one is the final state.
            return output, (_at_last_step(output, lengths),)
        # Of a two-part cell torch's kernel shows only h: packing is its one exact way to c.
        assert on_host is not None
        packed = pack_padded_sequence(inputs, on_host, enforce_sorted=False)
        packed_output, final = run(packed, state)
        return pad_packed_sequence(packed_output, total_length=len(inputs))[0], _parts(final)

    def _module(self, index: int) -> Callable[..., Any]:
        """A layer's module, in training with some of its recurrent weights dropped."""
        module, dropped = self.layers[index], self._dropped(index)
        if dropped is None:
            return module
        return lambda *arguments: functional_call(module, {RECURRENT_WEIGHTS: dropped}, arguments)

    def _weights(self, index: int) -> tuple[Tensor, ...]:
        """The weights of a fused layer, in training with some of the recurrent ones dropped."""
        module, dropped = self.layers[index], self._dropped(index)
        found = {name: getattr(module, name) for name in STEP_WEIGHTS}
        if dropped is not None:
            found[RECURRENT_WEIGHTS] = dropped
        return tuple(found.values())

    def _dropped(self, index: int) -> Tensor | None:
        """A layer's recurrent weights, some of them zero; None where none are dropped."""
        share = self.regularisation.weight_drop
        if not self.training or not share:
            return None
        weights: Tensor = getattr(self.layers[index], RECURRENT_WEIGHTS)
        return weights * self.kept(f"weights {index}", tuple(weights.shape), weights, share)


def _parts(final: Tensor | Sequence[Tensor]) -> Hidden:
    return (final[0],) if isinstance(final, Tensor) else tuple(part[0] for part in final)


def _at_last_step(outputs: Tensor, lengths: Tensor) -> Tensor:
    """``outputs [T, B, H]`` at each row's last real step: ``[B, H]``."""
    return outputs[lengths - 1, torch.arange(len(lengths), device=lengths.device)]


def _reversed(inputs: Tensor, turn: Tensor | None) -> Tensor:
    if turn is None:
        return inputs.flip(0)
    return inputs.gather(0, turn[..., None].expand_as(inputs))
