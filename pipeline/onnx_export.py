"""A next-word network as an ONNX graph, in float or with its weights in eight bits.

Shape letters: ``T`` words of a window, ``E`` input features, ``H`` hidden, ``G`` gates of the cell,
``O`` outputs of a product, ``V`` vocabulary.

The graph is written node by node from the cells' formulas, the same for both kernels, so that it
holds what one answer needs and nothing else. A language model becomes a *step*: ``word [1]`` and
the state of each layer (``h0``, ``c0``, ``h1`` ..., each ``[1, H]``) give ``logits [1, V]`` and the
next state (``next_h0`` ...). A window model becomes a *window*: ``words [T]`` give
``logits [1, V]``, its steps written out.

With ``int8`` every output of a matrix and every row of the embedding has a scale of its own, and
what a matrix is multiplied with is brought to eight bits as it comes (dynamic quantisation). Of
the eight bits weights use seven: so no sum of two products leaves 16 bits, where x86 processors
without VNNI cut it off in silence. Two products are then mostly saved: what the first layer makes
of each word is kept as a table, and of a large output layer a *preview* finds the likely words,
which alone get their logits from whole rows (SVD-softmax: Shim, Lee, Choi, Boo and Sung 2017); the
others keep those of the preview.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .errors import InputError, choose_from
from .networks.recurrent import CELLS, Variant
from .problems import LanguageModel, NextWord
from .problems.predictor import ModelConfig

PRECISIONS = ("int8", "fp32")
OPSET, IR_VERSION = 17, 8
"""The oldest that have every operator used here; ONNX Runtime reads them since 1.12."""
LARGEST_WEIGHT = 63
"""Of a quantised matrix: 2 * 255 * 63 is less than 2 ** 15."""
MAX_TABLE = 2**25
"""Numbers of the first layer's products of all words; a larger table is not worth its room."""
MIN_PREVIEWED = 2**22
"""Weights of an output layer from which on a preview saves more than it costs."""
PREVIEW_SHARE = 6
"""A preview has one of so many features."""
NUM_PREVIEWED = 64
"""Words whose logits come from whole rows."""
MAX_BYTES = 2**31 - 1
"""A graph is one message of protobuf, which cannot be larger."""

Array = NDArray[Any]


def check_exportable(config: ModelConfig, precision: str) -> None:
    """Refuse a model that has no such graph.

    Raises:
        InputError: with the reason.
    """
    if precision not in PRECISIONS:
        raise InputError(f"unknown precision {precision!r}: {choose_from(precision, PRECISIONS)}")
    if not isinstance(config.problem, LanguageModel | NextWord):
        raise InputError(
            f"{config.problem.name} cannot be exported: only next_word and language_model answer "
            f"with a word a step"
        )
    if not isinstance(config.variant, Variant):
        raise InputError(
            f"{config.variant.name} cannot be exported: it is tables of counts and no network; "
            f"name a version of a recurrent variant with --version"
        )
    # A bidirectional language model would read the words that it shall suggest.
    config.problem.check_recurrent(config.variant)


def has_preview(weights: Mapping[str, Tensor], precision: str) -> bool:
    """Whether an output layer is large enough for a preview."""
    return precision == "int8" and weights["head.output.weight"].numel() >= MIN_PREVIEWED


def onnx_model(
    config: ModelConfig, weights: Mapping[str, Tensor], precision: str, *, preview: bool = False
) -> bytes:
    """The graph of a checkpoint, as the content of a ``.onnx`` file.

    Args:
        weights: by the names of the model's state dict.
        precision: one of ``PRECISIONS``.
        preview: of the output layer, with ``int8``.

    Raises:
        InputError: for a model that has no such graph or is too large for one, and where the
            library onnx is not installed.
    """
    check_exportable(config, precision)
    variant = config.variant
    assert isinstance(variant, Variant)
    arrays = {name: tensor.detach().cpu().float().numpy() for name, tensor in weights.items()}
    if precision == "fp32" and sum(array.nbytes for array in arrays.values()) > MAX_BYTES:
        raise InputError(
            "this network has more than 2 GB of weights, which no ONNX file holds: export it with "
            "--precision int8"
        )
    graph = _Graph(quantised=precision == "int8")
    network = _Network(graph, arrays, variant, preview=preview)
    states: list[str] = []
    following: list[str] = []
    if isinstance(config.problem, NextWord):
        window = config.problem.window
        logits = network.window(graph.input("words", np.int64, [window]), window)
    else:
        word = graph.input("word", np.int64, [1])
        states = [
            graph.input(f"{part}{layer}", np.float32, [1, network.hidden_size])
            for layer in range(variant.num_layers)
            for part in "hc"[: CELLS[variant.cell].num_states]
        ]
        logits, following = network.step(word, states)
    graph.output("logits", logits, [1, len(arrays["head.output.bias"])])
    for name, state in zip(states, following, strict=True):
        graph.output(f"next_{name}", state, [1, network.hidden_size])
    return graph.content()


class _Graph:
    """Nodes in the order in which they are added; methods take and give names of values."""

    def __init__(self, *, quantised: bool) -> None:
        try:
            import onnx
        except ImportError as error:
            raise InputError(
                "an export needs the library onnx: pip install 'tidemill[export]'"
            ) from error
        self.onnx = onnx
        self.quantised = quantised
        self.nodes: list[Any] = []
        self.inputs: list[Any] = []
        self.outputs: list[Any] = []
        self.constants: list[Any] = []
        self.kept: dict[str, list[str]] = {}

    def input(self, name: str, kind: type, shape: Sequence[int]) -> str:
        helper = self.onnx.helper
        element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
        self.inputs.append(helper.make_tensor_value_info(name, element, shape))
        return name

    def output(self, name: str, value: str, shape: Sequence[int]) -> None:
        """Call a value by its name as an output, wherever it is used."""
        for node in self.nodes:
            for names in (node.input, node.output):
                names[:] = [name if each == value else each for each in names]
        info = self.onnx.helper.make_tensor_value_info
        self.outputs.append(info(name, self.onnx.TensorProto.FLOAT, shape))

    def constant(self, array: Array) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(array)
        self.constants.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def constants_of(self, weight: str, make: Callable[[], Sequence[Array]]) -> list[str]:
        """What is made of a weight, once for all of its uses."""
        if weight not in self.kept:
            self.kept[weight] = [self.constant(array) for array in make()]
        return self.kept[weight]

    def add_all(self, operator: str, inputs: Sequence[str], count: int, **attributes: Any) -> Any:
        names = [f"value_{len(self.nodes)}_{index}" for index in range(count)]
        self.nodes.append(self.onnx.helper.make_node(operator, inputs, names, **attributes))
        return names

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        return str(self.add_all(operator, inputs, 1, **attributes)[0])

    def split(self, value: str, sizes: Sequence[int], axis: int = -1) -> list[str]:
        if len(sizes) == 1:
            return [value]
        lengths = self.constant(np.array(sizes, np.int64))
        return list(self.add_all("Split", (value, lengths), len(sizes), axis=axis))

    def as_float(self, value: str) -> str:
        return self.add("Cast", value, to=self.onnx.TensorProto.FLOAT)

    def product(self, inputs: str, matrix: Array, weight: str) -> str:
        """``x W^T`` of ``x [T, E]`` and ``W [O, E]``, which is called ``weight``: ``[T, O]``."""
        if not self.quantised:
            (transposed,) = self.constants_of(weight, lambda: [matrix.T])
            return self.add("MatMul", inputs, transposed)

        def eight_bits() -> list[Array]:
            values, scales = _in_eight_bits(matrix, LARGEST_WEIGHT)
            return [values.T, scales, np.zeros(len(scales), np.int8)]

        transposed, scales, zeros = self.constants_of(weight, eight_bits)
        (small, scale, zero) = self.add_all("DynamicQuantizeLinear", (inputs,), 3)
        sums = self.as_float(self.add("MatMulInteger", small, transposed, zero, zeros))
        return self.add("Mul", sums, self.add("Mul", scale, scales))

    def products_of_rows(self, inputs: str, matrix: Array, rows: str, weight: str) -> str:
        """``product`` of ``x [1, E]`` with some ``rows [1, N]`` of the matrix alone: ``[1, N]``."""
        values, scales = _in_eight_bits(matrix, LARGEST_WEIGHT)
        zero_of_rows = self.constant(np.zeros((), np.int8))
        flat = self.add("Squeeze", rows, self.constant(np.array([0])))
        found = self.add("Gather", self.constant(values), flat)
        (small, scale, zero) = self.add_all("DynamicQuantizeLinear", (inputs,), 3)
        transposed = self.add("Transpose", found, perm=[1, 0])
        sums = self.add("MatMulInteger", small, transposed, zero, zero_of_rows)
        scales_found = self.add("Gather", self.constant(scales), rows)
        return self.add("Mul", self.as_float(sums), self.add("Mul", scale, scales_found))

    def rows(self, table: Array, words: str, weight: str) -> str:
        """Rows ``words [T]`` of ``table [V, E]``, which is called ``weight``: ``[T, E]``."""
        if not self.quantised:
            (name,) = self.constants_of(f"rows of {weight}", lambda: [table])
            return self.add("Gather", name, words)

        def eight_bits() -> list[Array]:
            values, scales = _in_eight_bits(table, 127)
            return [values, scales[:, None]]

        values, scales = self.constants_of(f"rows of {weight}", eight_bits)
        found = self.as_float(self.add("Gather", values, words))
        return self.add("Mul", found, self.add("Gather", scales, words))

    def content(self) -> bytes:
        helper = self.onnx.helper
        graph = helper.make_graph(
            self.nodes, "next_word", self.inputs, self.outputs, self.constants
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="tidemill",
        )
        self.onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def _in_eight_bits(matrix: Array, largest: int) -> tuple[Array, Array]:
    """A matrix ``[R, C]`` as int8 of at most ``largest``, and the scale of each row, ``[R]``."""
    scales = np.abs(matrix).max(axis=1) / np.float32(largest)
    scales[scales == 0] = 1
    return np.rint(matrix / scales[:, None]).astype(np.int8), scales


def _principal_directions(matrix: Array, count: int) -> Array:
    """Orthonormal rows ``[count, C]``, along which the rows of ``matrix [R, C]`` are longest."""
    wide = matrix.astype(np.float64)
    # Ascending, by the eigenvalues.
    return np.linalg.eigh(wide.T @ wide)[1][:, ::-1][:, :count].T.astype(np.float32)


class _Network:
    """The formulas of :mod:`.recurrent` and of the models of both problems, as nodes."""

    def __init__(
        self, graph: _Graph, weights: Mapping[str, Array], variant: Variant, *, preview: bool
    ) -> None:
        self.graph = graph
        self.weights = weights
        self.variant = variant
        self.preview = preview
        self.num_states = CELLS[variant.cell].num_states
        self.num_gates = CELLS[variant.cell].num_gates
        self.hidden_size = weights["stack.layers.0.weight_hh_l0"].shape[1]

    def step(self, word: str, states: Sequence[str]) -> tuple[str, list[str]]:
        """Logits and the next states, layer by layer."""
        inputs: str | None = None
        following: list[str] = []
        for layer in range(self.variant.num_layers):
            projected = self.projected(layer, inputs, word)
            state = states[layer * self.num_states : (layer + 1) * self.num_states]
            after = self.next_state(layer, projected, state)
            following += after
            inputs = after[0]
        assert inputs is not None
        return self.logits(inputs), following

    def window(self, words: str, size: int) -> str:
        """Logits behind a window: of the top layer's final states, one of each direction."""
        directions = self.variant.num_directions
        inputs: str | None = None
        finals: list[str] = []
        for layer in range(self.variant.num_layers):
            outputs: list[list[str]] = []
            finals = []
            for direction in range(directions):
                index = layer * directions + direction
                steps = self.graph.split(self.projected(index, inputs, words), [1] * size, axis=0)
                zeros = self.graph.constant(np.zeros((1, self.hidden_size), np.float32))
                state = [zeros] * self.num_states
                shown = []
                for step in steps if direction == 0 else reversed(steps):
                    state = self.next_state(index, step, state)
                    shown.append(state[0])
                finals.append(state[0])
                outputs.append(shown if direction == 0 else shown[::-1])
            sides = [self.joined(shown, axis=0) for shown in outputs]
            inputs = self.joined(sides, axis=-1)
        return self.logits(self.joined(finals, axis=-1))

    def joined(self, values: Sequence[str], axis: int) -> str:
        if len(values) == 1:
            return values[0]
        return str(self.graph.add_all("Concat", values, 1, axis=axis)[0])

    def logits(self, features: str) -> str:
        if "head.projection.weight" in self.weights:
            features = self.product(features, "head.projection.weight")
        if self.preview:
            return self.previewed(features)
        scores = self.product(features, "head.output.weight")
        return self.plus(scores, self.weights["head.output.bias"])

    def previewed(self, features: str) -> str:
        """Logits ``[1, V]``: of the words that a preview finds likely by all features, ``[1, H]``,
        and of the others by those few directions in which the rows of the output layer differ most.
        """
        graph, weight = self.graph, "head.output.weight"
        matrix, bias = self.weights[weight], self.weights["head.output.bias"]
        directions = _principal_directions(matrix, matrix.shape[1] // PREVIEW_SHARE)
        narrow = graph.product(features, directions, "directions of the preview")
        rough = graph.product(narrow, matrix @ directions.T, "preview")
        rough = self.plus(rough, bias)
        count = graph.constant(np.array([NUM_PREVIEWED]))
        likely = graph.add_all("TopK", (rough, count), 2, sorted=0)[1]
        whole = graph.products_of_rows(features, matrix, likely, weight)
        whole = graph.add("Add", whole, graph.add("Gather", graph.constant(bias), likely))
        return graph.add("ScatterElements", rough, likely, whole, axis=1)

    def product(self, inputs: str, weight: str) -> str:
        return self.graph.product(inputs, self.weights[weight], weight)

    def plus(self, value: str, bias: Array) -> str:
        return self.graph.add("Add", value, self.graph.constant(bias))

    def projected(self, index: int, inputs: str | None, words: str) -> str:
        """``W x + b`` of a layer and direction, ``[T, G*H]``; the first layers read ``words``."""
        name = f"stack.layers.{index}"
        weight = f"{name}.weight_ih_l0"
        table = self.table(self.weights[weight]) if inputs is None else None
        if table is not None:
            summands = self.graph.rows(table, words, weight)
        else:
            if inputs is None:
                inputs = self.graph.rows(
                    self.weights["embedding.weight"], words, "embedding.weight"
                )
            summands = self.product(inputs, weight)
        summands = self.normed(summands, f"{name}.input_norm", 0, self.num_gates)
        return self.plus(summands, self.weights[f"{name}.bias_ih_l0"])

    def table(self, matrix: Array) -> Array | None:
        """What a first layer's ``matrix [G*H, E]`` makes of each word, ``[V, G*H]``; None where
        that is not kept."""
        if "embedding.weight" not in self.weights:
            # One-hot words pick columns.
            return matrix.T
        words = self.weights["embedding.weight"]
        if self.graph.quantised and len(words) * len(matrix) <= MAX_TABLE:
            return words @ matrix.T
        return None

    def recur(self, index: int, h: str, first: int = 0, last: int | None = None) -> str:
        """``U h + b`` of the gates from ``first`` up to ``last``, ``[1, n*H]``."""
        name = f"stack.layers.{index}"
        last = self.num_gates if last is None else last
        part = slice(first * self.hidden_size, last * self.hidden_size)
        weight = f"{name}.weight_hh_l0"
        matrix = self.weights[weight][part]
        summands = self.graph.product(h, matrix, f"{weight} {first} {last}")
        summands = self.normed(summands, f"{name}.state_norm", first, last)
        return self.plus(summands, self.weights[f"{name}.bias_hh_l0"][part])

    def normed(self, summands: str, norm: str, first: int, last: int) -> str:
        """Summands ``[T, n*H]`` as a ``GateNorm`` leaves them, where there is one."""
        if f"{norm}.gain" not in self.weights:
            return summands
        graph, size, num_gates = self.graph, self.hidden_size, last - first
        apart = graph.constant(np.array([-1, num_gates, size], np.int64))
        together = graph.constant(np.array([-1, num_gates * size], np.int64))
        ones = graph.constant(np.ones(size, np.float32))
        gates = graph.add(
            "LayerNormalization", graph.add("Reshape", summands, apart), ones, axis=-1, epsilon=1e-5
        )
        gain = self.weights[f"{norm}.gain"][first * size : last * size]
        return graph.add("Mul", graph.add("Reshape", gates, together), graph.constant(gain))

    def next_state(self, index: int, projected: str, state: Sequence[str]) -> list[str]:
        """One step of the layer ``index``: the parts of its next state, ``[1, H]`` each."""
        return _FORMULAS[self.variant.cell](self, index, projected, state)

    def gates(self, value: str, count: int) -> list[str]:
        return self.graph.split(value, [self.hidden_size] * count)

    def elman(self, index: int, projected: str, state: Sequence[str], activation: str) -> list[str]:
        add = self.graph.add
        return [add(activation, add("Add", projected, self.recur(index, state[0])))]

    def gru(self, index: int, projected: str, state: Sequence[str]) -> list[str]:
        add, (h,) = self.graph.add, state
        two = [2 * self.hidden_size, self.hidden_size]
        x_gates, x_new = self.graph.split(projected, two)
        h_gates, h_new = self.graph.split(self.recur(index, h), two)
        reset, update = self.gates(add("Sigmoid", add("Add", x_gates, h_gates)), 2)
        new = add("Tanh", add("Add", x_new, add("Mul", reset, h_new)))
        return [self.mixed(update, h, new)]

    def cho_gru(self, index: int, projected: str, state: Sequence[str]) -> list[str]:
        add, (h,) = self.graph.add, state
        x_gates, x_new = self.graph.split(projected, [2 * self.hidden_size, self.hidden_size])
        gates = add("Sigmoid", add("Add", x_gates, self.recur(index, h, 0, 2)))
        reset, update = self.gates(gates, 2)
        h_new = self.recur(index, add("Mul", reset, h), 2, 3)
        return [self.mixed(update, h, add("Tanh", add("Add", x_new, h_new)))]

    def mixed(self, update: str, h: str, new: str) -> str:
        """``(1 - z) * n + z * h``, as ``n + z * (h - n)``."""
        add = self.graph.add
        return add("Add", new, add("Mul", update, add("Sub", h, new)))

    def lstm(self, index: int, projected: str, state: Sequence[str]) -> list[str]:
        add, (h, c) = self.graph.add, state
        i, f, g, o = self.gates(add("Add", projected, self.recur(index, h)), 4)
        kept = add("Mul", add("Sigmoid", f), c)
        c = add("Add", kept, add("Mul", add("Sigmoid", i), add("Tanh", g)))
        shown, norm = c, f"stack.layers.{index}.output_norm"
        if f"{norm}.weight" in self.weights:
            gain = self.graph.constant(self.weights[f"{norm}.weight"])
            shift = self.graph.constant(self.weights[f"{norm}.bias"])
            shown = add("LayerNormalization", c, gain, shift, axis=-1, epsilon=1e-5)
        return [add("Mul", add("Sigmoid", o), add("Tanh", shown)), c]


_FORMULAS: dict[str, Callable[[_Network, int, str, Sequence[str]], list[str]]] = {
    "rnn_tanh": lambda network, *layer: network.elman(*layer, "Tanh"),
    "rnn_relu": lambda network, *layer: network.elman(*layer, "Relu"),
    "gru": _Network.gru,
    "gru_cho": _Network.cho_gru,
    "lstm": _Network.lstm,
}
