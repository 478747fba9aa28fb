"""Cells against torch's kernels and against their formulas; stacks, directions, lengths, names."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from pipeline.errors import InputError
from pipeline.networks.recurrent import (
    CELLS,
    ChoGRU,
    Hidden,
    NetworkConfig,
    RecurrentStack,
    Variant,
)

KERNEL_CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm"]
INPUT, HIDDEN, STEPS, BATCH = 5, 7, 6, 4
LENGTHS = torch.tensor([6, 3, 1, 5])


@pytest.fixture(autouse=True)
def _double() -> object:
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def torch_network(stack: RecurrentStack, variant: Variant) -> nn.RNNBase:
    """torch's own network of the same shape with the same weights."""
    network = CELLS[variant.cell].fused(
        INPUT, HIDDEN, num_layers=variant.num_layers, bidirectional=variant.bidirectional
    )
    weights = {}
    for index, module in enumerate(stack.layers):
        layer, direction = divmod(index, variant.num_directions)
        suffix = f"{layer}_reverse" if direction else str(layer)
        weights |= {name[:-1] + suffix: value for name, value in module.state_dict().items()}
    network.load_state_dict(weights)
    return network


def as_hidden(final: Tensor | tuple[Tensor, Tensor]) -> Hidden:
    return (final,) if isinstance(final, Tensor) else final


@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("kernel", ["torch", "textbook"])
@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_outputs_states_and_gradients_equal_torchs(
    cell: str, kernel: str, num_layers: int, bidirectional: bool, ragged: bool
) -> None:
    variant = Variant(cell, num_layers, bidirectional, kernel)
    stack = RecurrentStack(INPUT, HIDDEN, variant)
    network = torch_network(stack, variant)
    inputs = torch.randn(STEPS, BATCH, INPUT)
    inside = torch.ones(STEPS, BATCH, 1)
    start = tuple(torch.randn_like(part) for part in stack.initial_hidden(BATCH))
    packed_start = start[0] if len(start) == 1 else start
    if ragged:
        inside = (torch.arange(STEPS)[:, None] < LENGTHS)[..., None].double()
        packed = pack_padded_sequence(inputs, LENGTHS, enforce_sorted=False)
        wanted, wanted_final = network(packed, packed_start)
        wanted, _ = pad_packed_sequence(wanted, total_length=STEPS)
    else:
        wanted, wanted_final = network(inputs, packed_start)
    found, found_final = stack(inputs, start, LENGTHS if ragged else None)

    torch.testing.assert_close(found * inside, wanted * inside, atol=1e-10, rtol=0)
    for ours, theirs in zip(found_final, as_hidden(wanted_final), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)

    goal = torch.randn_like(wanted)
    (
        (wanted * inside * goal).sum() + sum(part.sum() for part in as_hidden(wanted_final))
    ).backward()
    ((found * inside * goal).sum() + sum(part.sum() for part in found_final)).backward()
    gradients = dict(network.named_parameters())
    for index, module in enumerate(stack.layers):
        layer, direction = divmod(index, variant.num_directions)
        suffix = f"{layer}_reverse" if direction else str(layer)
        for name, parameter in module.named_parameters():
            torch.testing.assert_close(
                parameter.grad, gradients[name[:-1] + suffix].grad, atol=1e-10, rtol=0
            )


def test_chos_gru_is_the_textbooks_formula_written_once_more() -> None:
    cell = ChoGRU(3, 2)
    x, h = [0.3, -1.2, 0.5], [0.1, -0.4]
    w, u = cell.weight_ih_l0.tolist(), cell.weight_hh_l0.tolist()
    b, c = cell.bias_ih_l0.tolist(), cell.bias_hh_l0.tolist()

    def dot(row: list[float], column: list[float]) -> float:
        return sum(a * k for a, k in zip(row, column, strict=True))

    def sigmoid(value: float) -> float:
        return 1 / (1 + math.exp(-value))

    reset = [sigmoid(dot(w[i], x) + b[i] + dot(u[i], h) + c[i]) for i in (0, 1)]
    update = [sigmoid(dot(w[i], x) + b[i] + dot(u[i], h) + c[i]) for i in (2, 3)]
    damped = [reset[i] * h[i] for i in (0, 1)]
    new = [
        math.tanh(dot(w[4 + i], x) + b[4 + i] + dot(u[4 + i], damped) + c[4 + i]) for i in (0, 1)
    ]
    wanted = [(1 - update[i]) * new[i] + update[i] * h[i] for i in (0, 1)]

    _, (found,) = cell(torch.tensor([[x]]), (torch.tensor([h]),))
    torch.testing.assert_close(found[0], torch.tensor(wanted), atol=1e-12, rtol=0)


def layer_normed(summands: Tensor, gain: Tensor) -> Tensor:
    """Each gate's seven summands with mean 0 and variance 1, times the gain."""
    gates = summands.unflatten(-1, (-1, HIDDEN))
    spread = (gates.var(-1, correction=0, keepdim=True) + 1e-5).sqrt()
    return ((gates - gates.mean(-1, keepdim=True)) / spread).flatten(-2) * gain


@pytest.mark.parametrize("cell", list(CELLS))
def test_layer_norm_is_the_papers_formula(cell: str) -> None:
    """Ba, Kiros and Hinton 2016, equations 20 to 22, by gate; one step from a random state."""
    layer = CELLS[cell](INPUT, HIDDEN, layer_norm=True)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn_like(parameter))
    x = torch.randn(1, BATCH, INPUT)
    start = tuple(torch.randn(BATCH, HIDDEN) for _ in range(CELLS[cell].num_states))
    _, found = layer(x, start)
    assert layer.input_norm is not None
    assert layer.state_norm is not None
    w, u, b, c = layer.weight_ih_l0, layer.weight_hh_l0, layer.bias_ih_l0, layer.bias_hh_l0
    gain = layer.state_norm.gain
    from_x = layer_normed(x[0] @ w.T, layer.input_norm.gain) + b
    from_h = layer_normed(start[0] @ u.T, gain) + c
    if cell == "rnn_tanh":
        wanted = (torch.tanh(from_x + from_h),)
    elif cell == "rnn_relu":
        wanted = (torch.relu(from_x + from_h),)
    elif cell == "lstm":
        i, f, g, o = (from_x + from_h).chunk(4, -1)
        state = torch.sigmoid(f) * start[1] + torch.sigmoid(i) * torch.tanh(g)
        norm = layer.output_norm
        shown = layer_normed(state, norm.weight) + norm.bias
        wanted = (torch.sigmoid(o) * torch.tanh(shown), state)
    else:
        r, z = torch.sigmoid((from_x + from_h)[:, : 2 * HIDDEN]).chunk(2, -1)
        last = slice(2 * HIDDEN, None)
        if cell == "gru":
            new = torch.tanh(from_x[:, last] + r * from_h[:, last])
        else:
            damped = layer_normed((r * start[0]) @ u[last].T, gain[last]) + c[last]
            new = torch.tanh(from_x[:, last] + damped)
        wanted = ((1 - z) * new + z * start[0],)
    for ours, theirs in zip(found, wanted, strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-10, rtol=0)


def test_chos_gru_is_another_function_than_torchs() -> None:
    inputs = torch.randn(STEPS, BATCH, INPUT)
    ours = RecurrentStack(INPUT, HIDDEN, Variant("gru_cho", kernel="textbook"))
    theirs = RecurrentStack(INPUT, HIDDEN, Variant("gru", kernel="textbook"))
    theirs.load_state_dict(ours.state_dict())
    assert (ours(inputs)[0] - theirs(inputs)[0]).abs().max() > 1e-3


@pytest.mark.parametrize("kernel", ["torch", "textbook"])
@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_two_halves_with_the_state_carried_are_the_whole(cell: str, kernel: str) -> None:
    stack = RecurrentStack(INPUT, HIDDEN, Variant(cell, 2, kernel=kernel))
    inputs = torch.randn(STEPS, BATCH, INPUT)
    whole, final = stack(inputs)
    first, hidden = stack(inputs[:2])
    second, last = stack(inputs[2:], hidden)
    torch.testing.assert_close(torch.cat((first, second)), whole)
    torch.testing.assert_close(last, final)


@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_what_stands_in_the_padding_does_not_matter(cell: str) -> None:
    stack = RecurrentStack(INPUT, HIDDEN, Variant(cell, 2, bidirectional=True))
    inputs = torch.randn(STEPS, BATCH, INPUT)
    outside = (torch.arange(STEPS)[:, None] >= LENGTHS)[..., None]
    outputs, final = stack(inputs, lengths=LENGTHS)
    other_outputs, other_final = stack(inputs.masked_fill(outside, 1e3), lengths=LENGTHS)
    torch.testing.assert_close(
        other_outputs.masked_fill(outside, 0), outputs.masked_fill(outside, 0)
    )
    torch.testing.assert_close(other_final, final)


def test_dropout_acts_between_layers_in_training_only() -> None:
    stack = RecurrentStack(INPUT, HIDDEN, Variant("gru", 2), dropout=0.5)
    inputs = torch.randn(STEPS, BATCH, INPUT)
    assert not torch.equal(stack(inputs)[0], stack(inputs)[0])
    stack.eval()
    assert torch.equal(stack(inputs)[0], stack(inputs)[0])


@given(
    st.builds(
        Variant,
        st.sampled_from(KERNEL_CELLS),
        st.integers(1, 9),
        st.booleans(),
        st.sampled_from(["torch", "textbook"]),
        st.booleans(),
    )
)
def test_a_variants_name_reads_back(variant: Variant) -> None:
    assert Variant.parse(variant.name) == variant


@pytest.mark.parametrize(
    ("name", "variant"),
    [
        ("lstm", Variant("lstm")),
        ("gru-2", Variant("gru", 2)),
        ("bilstm-2", Variant("lstm", 2, bidirectional=True)),
        ("gru-2-textbook", Variant("gru", 2, kernel="textbook")),
        ("birnn_relu", Variant("rnn_relu", bidirectional=True)),
        ("gru_cho-textbook", Variant("gru_cho", kernel="textbook")),
        ("bigru-attention", Variant("gru", bidirectional=True, attention=True)),
    ],
)
def test_names_that_people_use(name: str, variant: Variant) -> None:
    assert Variant.parse(name) == variant


@pytest.mark.parametrize(
    "name", ["", "lstmx", "bi", "lstm-two", "lstm-2-2", "lstm-", "LSTM", "lstm-cudnn", "lstm-²"]
)
def test_other_names_are_refused_with_the_cells(name: str) -> None:
    with pytest.raises(InputError, match="rnn_tanh, rnn_relu, gru, gru_cho, lstm"):
        Variant.parse(name)


def test_a_cell_without_a_kernel_says_so() -> None:
    with pytest.raises(InputError, match="gru_cho-textbook"):
        Variant.parse("gru_cho")


@pytest.mark.parametrize("name", ["lstm-0", "gru-0-textbook"])
def test_no_layers_are_refused(name: str) -> None:
    with pytest.raises(InputError, match="at least one layer"):
        Variant.parse(name)


@pytest.mark.parametrize(
    "settings",
    [
        {"hidden_size": 0},
        {"embedding_size": -1},
        {"dropout": 1.0},
        {"dropout": -0.1},
        {"embedding": "fixed"},
        {"tied": True, "embedding": "one_hot"},
        {"output": "sampled"},
        {"output": "adaptive", "tied": True, "cutoffs": (9,)},
        {"cutoffs": (9,)},
        {"cutoffs": (), "output": "adaptive"},
        {"cutoffs": (9, 9), "output": "adaptive"},
        {"cutoffs": (0, 9), "output": "adaptive"},
    ],
)
def test_networks_are_checked(settings: dict[str, object]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        NetworkConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("cell", [name for name, cell in CELLS.items() if cell.kernel])
@pytest.mark.parametrize("kernel", ["torch", "textbook"])
def test_one_step_of_a_search_is_one_of_the_network(cell: str, kernel: str) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(5, 7, Variant(cell, 3, kernel=kernel), 0.5).eval()
    inputs = torch.randn(4, 2, 5)
    hidden = stack.initial_hidden(2)
    wanted, last = stack(inputs, hidden)
    with torch.inference_mode():
        for step, each in enumerate(inputs):
            output, hidden = stack.step(each[None], hidden)
            torch.testing.assert_close(output[0], wanted[step])
    torch.testing.assert_close(hidden, last)
    assert stack.step(inputs[:1], last)[0].requires_grad
