"""Layers of a recurrent network in training on a CPU, with gradients worked out by hand.

Shape letters: ``T`` time, ``B`` batch, ``E`` input features, ``H`` hidden, ``G`` gates of the cell.

torch's Elman networks and GRUs, and its LSTMs where texts are packed, keep a node of the graph for
every operation of every step, and make the gradient of the weights anew in each; oneDNN, which
computes its other LSTMs, is slow where few rows meet weights beyond the caches. Here a step of the
backward pass does only what the step before it needs: local derivatives of all steps are made at
once, and so are the gradients of the weights, in one product over all steps. What comes out is
torch's but for the order of sums.

Weights are named and shaped as torch's: ``w_ih [G*H, E]``, ``w_hh [G*H, H]``, biases ``[G*H]``.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

LARGE = 2**18
"""Recurrent weights beyond which (1 MB) an LSTM was measured to be faster here than in oneDNN."""

_by_sigmoid = torch.ops.aten.sigmoid_backward.grad_input

_by_tanh = torch.ops.aten.tanh_backward.grad_input


_everywhere = ContextVar("everywhere", default=False)


@contextmanager
def everywhere() -> Iterator[None]:
    """Inside, layers are computed here whatever is faster, so that all machines do the same."""
    token = _everywhere.set(True)
    try:
        yield
    finally:
        _everywhere.reset(token)


def runs_here(module: nn.RNNBase, inputs: Tensor, *, padded: bool) -> bool:
    """Whether a layer over ``inputs [T, B, E]`` is faster here than torch's own.

    Without a gradient nothing is; a single step is not either.
    """
    if inputs.is_cuda or not torch.is_grad_enabled() or torch.is_autocast_enabled("cpu"):
        return False
    if len(inputs) == 1:
        return False
    if isinstance(module, nn.LSTM):
        large = 4 * module.hidden_size**2 > LARGE
        return padded or large or _everywhere.get()
    return True


def run_layer(
    module: nn.RNNBase, inputs: Tensor, hidden: tuple[Tensor, ...], weights: tuple[Tensor, ...]
) -> tuple[Tensor, ...]:
    """The parts of the state at every step, ``[T, B, H]``; the first is the output.

    Args:
        module: says which cell it is.
        inputs: ``[T, B, E]``.
        hidden: the parts of the state to start from, ``[B, H]``.
        weights: ``w_ih``, ``w_hh``, ``b_ih``, ``b_hh``.
    """
    given = (inputs, *hidden, *weights)
    if isinstance(module, nn.LSTM):
        h, c = LSTMLayer.apply(*given)  # type: ignore[no-untyped-call]
        return h, c
    if isinstance(module, nn.GRU):
        return (GRULayer.apply(*given),)  # type: ignore[no-untyped-call]
    return (ElmanLayer.apply(*given, module.mode == "RNN_RELU"),)  # type: ignore[no-untyped-call]


class ElmanLayer(torch.autograd.Function):
    """A layer of :class:`.recurrent.ElmanTanh` or :class:`.recurrent.ElmanReLU`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        h: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
        relu: bool,
    ) -> Tensor:
        sums = _projected(inputs, w_ih, b_ih + b_hh)
        hs = _states(h, len(inputs))
        recur = _product(w_hh, len(h))
        for sums_t, before, h_t in _in_turn(sums, hs[:-1], hs[1:]):
            sums_t.add_(recur(before))
            (torch.relu_ if relu else torch.tanh_)(h_t.copy_(sums_t))
        ctx.save_for_backward(inputs, w_ih, w_hh, hs)
        ctx.relu = relu
        return hs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_h: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_ih, w_hh, hs = ctx.saved_tensors
        shown = hs[1:]
        # First the derivatives of h by the sums, then those of the loss.
        of_sums = (shown > 0).to(shown.dtype) if ctx.relu else 1 - shown.square()
        d_h = of_h[-1]
        for step in range(len(of_sums) - 1, 0, -1):
            of_sums[step].mul_(d_h)
            d_h = torch.addmm(of_h[step - 1], of_sums[step], w_hh)
        of_sums[0].mul_(d_h)
        of_bias = _of_bias(of_sums)
        return (
            _of_inputs(ctx, of_sums, w_ih),
            _of_start(ctx, of_sums, w_hh),
            _of_weights(of_sums, inputs),
            _of_weights(of_sums, hs[:-1]),
            of_bias,
            of_bias.clone(),
            None,
        )


class GRULayer(torch.autograd.Function):
    """A layer of :class:`.recurrent.GRU`."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, h: Tensor, w_ih: Tensor, w_hh: Tensor, b_ih: Tensor, b_hh: Tensor
    ) -> Tensor:
        gates, size = _projected(inputs, w_ih, b_ih), w_hh.shape[1]
        hs = _states(h, len(inputs))
        # What enters the new state from h, before the reset gate.
        from_h = torch.empty_like(hs[1:])
        recur = _product(w_hh, len(h), b_hh)
        both, (r, z, n) = gates[..., : 2 * size], gates.chunk(3, dim=-1)
        for both_t, r_t, z_t, n_t, from_h_t, before, h_t in _in_turn(
            both, r, z, n, from_h, hs[:-1], hs[1:]
        ):
            sums = recur(before)
            both_t.add_(sums[:, : 2 * size]).sigmoid_()
            from_h_t.copy_(sums[:, 2 * size :])
            n_t.addcmul_(r_t, from_h_t).tanh_()
            torch.lerp(n_t, before, z_t, out=h_t)
        ctx.save_for_backward(inputs, w_ih, w_hh, gates, hs, from_h)
        return hs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_h: Tensor) -> tuple[Tensor | None, ...]:
        inputs, w_ih, w_hh, gates, hs, from_h = ctx.saved_tensors
        r, z, n = gates.chunk(3, dim=-1)
        # First the derivatives of h by the gates' sums, then those of the loss. The third gate has
        # two: by what enters from the inputs, and by what enters from h through the reset gate.
        of_gates = torch.empty_like(gates)
        of_r, of_z, of_from_h = of_gates.chunk(3, dim=-1)
        of_n = torch.empty_like(from_h)
        _by_tanh(1 - z, n, grad_input=of_n)
        _by_sigmoid(of_n * from_h, r, grad_input=of_r)
        _by_sigmoid(hs[:-1] - n, z, grad_input=of_z)
        torch.mul(of_n, r, out=of_from_h)
        each_gate = of_gates.unflatten(-1, (3, -1))
        d_h = of_h[-1]
        for step in range(len(gates) - 1, -1, -1):
            of_n[step].mul_(d_h)
            each_gate[step].mul_(d_h[:, None])
            d_h = d_h * z[step]
            if step:
                d_h.add_(of_h[step - 1]).addmm_(of_gates[step], w_hh)
        of_start = _of_start(ctx, of_gates, w_hh)
        of_w_hh, of_b_hh = _of_weights(of_gates, hs[:-1]), _of_bias(of_gates)
        of_from_h.copy_(of_n)
        return (
            _of_inputs(ctx, of_gates, w_ih),
            None if of_start is None else of_start.add_(d_h),
            _of_weights(of_gates, inputs),
            of_w_hh,
            _of_bias(of_gates),
            of_b_hh,
        )


class LSTMLayer(torch.autograd.Function):
    """A layer of :class:`.recurrent.LSTM`."""

    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        h: Tensor,
        c: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> tuple[Tensor, Tensor]:
        gates, size = _projected(inputs, w_ih, b_ih + b_hh), w_hh.shape[1]
        hs, cs = _states(h, len(inputs)), _states(c, len(inputs))
        shown = torch.empty_like(cs[1:])
        recur = _product(w_hh, len(h))
        both, (i, f, g, o) = gates[..., : 2 * size], gates.chunk(4, dim=-1)
        for gates_t, both_t, i_t, f_t, g_t, o_t, h_before, c_before, shown_t, h_t, c_t in _in_turn(
            gates, both, i, f, g, o, hs[:-1], cs[:-1], shown, hs[1:], cs[1:]
        ):
            gates_t.add_(recur(h_before))
            both_t.sigmoid_()
            g_t.tanh_()
            o_t.sigmoid_()
            torch.mul(f_t, c_before, out=c_t).addcmul_(i_t, g_t)
            torch.tanh(c_t, out=shown_t)
            torch.mul(o_t, shown_t, out=h_t)
        ctx.save_for_backward(inputs, w_ih, w_hh, gates, hs, cs, shown)
        ctx.set_materialize_grads(False)
        return hs[1:], cs[1:]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_h: Tensor | None, of_c: Tensor | None) -> tuple[Tensor | None, ...]:
        inputs, w_ih, w_hh, gates, hs, cs, shown = ctx.saved_tensors
        of_h = torch.zeros_like(shown) if of_h is None else of_h
        i, f, g, o = gates.chunk(4, dim=-1)
        # First the derivatives of c by the sums of three gates and of h by those of the fourth,
        # then those of the loss.
        of_gates = torch.empty_like(gates)
        of_i, of_f, of_g, of_o = of_gates.chunk(4, dim=-1)
        _by_sigmoid(g, i, grad_input=of_i)
        _by_sigmoid(cs[:-1], f, grad_input=of_f)
        _by_tanh(i, g, grad_input=of_g)
        _by_sigmoid(shown, o, grad_input=of_o)
        h_by_c = torch.empty_like(shown)
        _by_tanh(o, shown, grad_input=h_by_c)
        into_c = of_gates.unflatten(-1, (4, -1))[..., :3, :]
        d_h, d_c = of_h[-1], torch.zeros_like(cs[0])
        for step in range(len(gates) - 1, -1, -1):
            if of_c is not None:
                d_c.add_(of_c[step])
            d_c.addcmul_(d_h, h_by_c[step])
            of_o[step].mul_(d_h)
            into_c[step].mul_(d_c[:, None])
            d_c.mul_(f[step])
            if step:
                d_h = torch.addmm(of_h[step - 1], of_gates[step], w_hh)
        of_bias = _of_bias(of_gates)
        return (
            _of_inputs(ctx, of_gates, w_ih),
            _of_start(ctx, of_gates, w_hh),
            d_c,
            _of_weights(of_gates, inputs),
            _of_weights(of_gates, hs[:-1]),
            of_bias,
            of_bias.clone(),
        )


def _projected(inputs: Tensor, w_ih: Tensor, bias: Tensor) -> Tensor:
    """What enters the gates from ``inputs [T, B, E]``: ``[T, B, G*H]``."""
    sums = torch.addmm(bias, inputs.flatten(0, 1), w_ih.t())
    return sums.view(*inputs.shape[:2], -1)


def _states(start: Tensor, num_steps: int) -> Tensor:
    """Room for a part of the state before every step and after the last: ``[T + 1, B, H]``."""
    states = start.new_empty((num_steps + 1, *start.shape))
    states[0] = start
    return states


def _in_turn(*sequences: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Step by step the views of each of ``[T, ...]``."""
    return zip(*(each.unbind() for each in sequences), strict=True)


def _product(
    weights: Tensor, num_rows: int, bias: Tensor | None = None
) -> Callable[[Tensor], Tensor]:
    """``x -> x @ weights.T + bias`` for many ``x`` of so many rows.

    MKL multiplies few rows much faster where it has once brought the weights into its own order;
    where torch comes without it, they are transposed.
    """
    pack = getattr(torch.ops.mkl, "_mkl_reorder_linear_weight", None)
    if pack is not None and weights.dtype == torch.float32:
        packed, multiply = pack(weights, num_rows), torch.ops.mkl._mkl_linear
        return lambda rows: multiply(rows, packed, weights, bias, num_rows)
    columns = weights.t().contiguous()
    if bias is None:
        return lambda rows: rows @ columns
    return lambda rows: torch.addmm(bias, rows, columns)


def _of_weights(of_gates: Tensor, inputs: Tensor) -> Tensor:
    """The gradient of weights, from those of the gates, ``[T, B, G*H]``, over all steps at once."""
    return of_gates.flatten(0, 1).t() @ inputs.flatten(0, 1)


def _of_bias(of_gates: Tensor) -> Tensor:
    """The gradient of a bias, from those of the gates."""
    return of_gates.flatten(0, 1).sum(0)


def _of_inputs(ctx: Any, of_gates: Tensor, w_ih: Tensor) -> Tensor | None:
    """The gradient of the inputs, where anybody asks for it."""
    if not ctx.needs_input_grad[0]:
        return None
    return (of_gates.flatten(0, 1) @ w_ih).view(*of_gates.shape[:2], -1)


def _of_start(ctx: Any, of_gates: Tensor, w_hh: Tensor) -> Tensor | None:
    """The gradient of the first ``h`` through the gates, where anybody asks for it."""
    return of_gates[0] @ w_hh if ctx.needs_input_grad[1] else None
