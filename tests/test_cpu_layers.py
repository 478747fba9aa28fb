"""Layers whose gradients are worked out by hand, against torch's own."""

import pytest
import torch
from torch import Tensor, nn

from pipeline.networks.cpu_layers import run_layer, runs_here
from pipeline.networks.recurrent import CELLS, STEP_WEIGHTS, RecurrentStack, Variant

E, H, T, B = 5, 7, 6, 4
KERNEL_CELLS = ["rnn_tanh", "rnn_relu", "gru", "lstm"]


def layer(cell: str, dtype: torch.dtype) -> tuple[nn.RNNBase, Tensor, tuple[Tensor, ...]]:
    """A layer, inputs and the parts of a state to start from."""
    torch.manual_seed(0)
    module = CELLS[cell].fused(E, H).to(dtype)
    inputs = torch.randn(T, B, E, dtype=dtype, requires_grad=True)
    start = tuple(
        torch.randn(B, H, dtype=dtype, requires_grad=True) for _ in range(CELLS[cell].num_states)
    )
    return module, inputs, start


def final_and_loss(outputs: Tensor, final: tuple[Tensor, ...]) -> Tensor:
    """A scalar in which every output and every part of the final state counts otherwise."""
    of_parts = sum((part.square() * (2 + place)).sum() for place, part in enumerate(final))
    return (outputs.sin() * torch.arange(1, T + 1)[:, None, None]).sum() + of_parts


# Single precision takes MKL's own order of the weights where torch has it, double never does.
@pytest.mark.parametrize(
    ("dtype", "near"), [(torch.float32, 2e-6), (torch.float64, 1e-14)], ids=["single", "double"]
)
@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_outputs_states_and_all_gradients_are_torchs(
    cell: str, dtype: torch.dtype, near: float
) -> None:
    module, inputs, start = layer(cell, dtype)
    weights = tuple(getattr(module, name) for name in STEP_WEIGHTS)
    states = run_layer(module, inputs, start, weights)
    ours = final_and_loss(states[0], tuple(part[-1] for part in states))
    parts = tuple(part[None] for part in start)
    outputs, final = module(inputs, parts if len(parts) > 1 else parts[0])
    final = (final,) if isinstance(final, Tensor) else final
    theirs = final_and_loss(outputs, tuple(part[0] for part in final))
    torch.testing.assert_close(states[0], outputs, rtol=near, atol=near)
    given = [inputs, *start, *weights]
    for our, their in zip(
        torch.autograd.grad(ours, given), torch.autograd.grad(theirs, given), strict=True
    ):
        torch.testing.assert_close(our, their, rtol=near, atol=near * float(their.abs().max()))


@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_a_state_in_the_middle_has_its_gradient(cell: str) -> None:
    """As that of a text that ends there; the steps behind it have none."""
    module, inputs, start = layer(cell, torch.float64)
    weights = tuple(getattr(module, name) for name in STEP_WEIGHTS)
    states = run_layer(module, inputs, start, weights)
    ours = sum(part[2].square().sum() for part in states)
    shorter = run_layer(module, inputs[:3], start, weights)
    theirs = sum(part[-1].square().sum() for part in shorter)
    assert isinstance(ours, Tensor) and isinstance(theirs, Tensor)
    given = [inputs, *start, *weights]
    found = torch.autograd.grad(ours, given)
    torch.testing.assert_close(found, torch.autograd.grad(theirs, given))
    assert not found[0][3:].any()


@pytest.mark.parametrize("cell", KERNEL_CELLS)
def test_the_same_bits_again(cell: str) -> None:
    module, inputs, start = layer(cell, torch.float32)
    weights = tuple(getattr(module, name) for name in STEP_WEIGHTS)

    def gradients() -> tuple[Tensor, ...]:
        loss = run_layer(module, inputs, start, weights)[0].square().sum()
        return torch.autograd.grad(loss, [inputs, *weights])

    for one, other in zip(gradients(), gradients(), strict=True):
        assert one.equal(other)


def test_which_layers_are_computed_here() -> None:
    few, many, inputs = nn.LSTM(E, 256), nn.LSTM(E, 257), torch.zeros(T, B, E)
    assert not runs_here(few, inputs, padded=False)
    assert runs_here(few, inputs, padded=True)
    assert runs_here(many, inputs, padded=False)
    assert runs_here(nn.GRU(E, H), inputs, padded=False)
    assert not runs_here(nn.GRU(E, H), inputs[:1], padded=False)
    with torch.no_grad():
        assert not runs_here(many, inputs, padded=True)
    with torch.autocast("cpu", torch.bfloat16):
        assert not runs_here(many, inputs, padded=True)


@pytest.mark.parametrize("padded", [False, True])
def test_a_large_stack_gives_in_training_what_it_gives_in_evaluation(padded: bool) -> None:
    torch.manual_seed(0)
    stack = RecurrentStack(E, 257, Variant("lstm", 2))
    inputs, lengths = torch.randn(T, 2, E), torch.tensor([T, 3])
    given = (inputs, None, lengths if padded else None)
    outputs, hidden = stack(*given)
    with torch.no_grad():
        scored, final = stack(*given)
    torch.testing.assert_close(hidden, final, rtol=1e-5, atol=1e-6)
    real = torch.arange(T)[:, None] < (lengths if padded else T)
    torch.testing.assert_close(
        outputs * real[..., None], scored * real[..., None], rtol=1e-5, atol=1e-6
    )
