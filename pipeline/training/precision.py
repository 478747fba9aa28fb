"""In which numbers a training multiplies. Weights, sums and scores are fp32 in any case."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..networks.recurrent import RecurrentStack, Variant
from ..networks.variants import Baseline

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")

_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def check_precision(name: str, device: torch.device, variant: Variant | Baseline) -> None:
    """Refuse a precision in which the device cannot train the variant.

    Raises:
        InputError: with the precisions or the variant that the device supports.
    """
    if device.type == "cpu":
        here, valid = "the CPU", ("fp32", "bf16")
    elif torch.cuda.is_bf16_supported(including_emulation=False):
        return
    else:
        here, valid = torch.cuda.get_device_name(device), ("fp32", "fp16")
    if name not in valid:
        raise InputError(
            f"training.precision={name} is not supported on {here}: choose from {', '.join(valid)}"
        )
    if (
        name == "bf16"
        and device.type == "cpu"
        and isinstance(variant, Variant)
        and not trains_in_bf16(variant.cell, variant.kernel)
    ):
        textbook = replace(variant, kernel="textbook").name
        raise InputError(
            f"training.precision=bf16 is not supported on this CPU for {variant.name}: set "
            f"training.precision=fp32, or name the variant {textbook}"
        )


@cache
def trains_in_bf16(cell: str, kernel: str) -> bool:
    """Whether this CPU trains the cell's layers in bf16; found out by one small step.

    No capability that torch reports decides it: oneDNN has a bf16 LSTM from AVX-512 on, torch's
    other layers and the textbook kernels are products, which every CPU has.
    """
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        stack = RecurrentStack(4, 4, Variant(cell, kernel=kernel))
        inputs, lengths = torch.zeros(2, 2, 4), torch.tensor([2, 1])
        try:
            with torch.autocast("cpu", torch.bfloat16):
                found = sum(stack(inputs, None, each)[0].sum() for each in (None, lengths))
            assert isinstance(found, Tensor)
            found.backward()
        except RuntimeError:
            return False
    return True


def slowness(name: str, device: torch.device) -> str | None:
    """What a person should know of a precision that this CPU computes without instructions for it.

    None where it has them, or where torch (before 2.13) does not tell.
    """
    tell = getattr(torch.cpu, "get_capabilities", None)
    if name != "bf16" or device.type != "cpu" or tell is None:
        return None
    able = tell()
    if able.get("architecture") != "x86_64" or able.get("amx_bf16") or able.get("avx512_bf16"):
        return None
    return (
        "this CPU has no instructions for bf16 (AMX, AVX512-BF16), which makes training several "
        "times slower than fp32: set training.precision=fp32"
    )


@contextmanager
def matmul_precision(name: str) -> Iterator[None]:
    """Inside, products of fp32 tensors are ``fp32`` or ``tf32`` ones; afterwards what they were.

    torch keeps both switches for the whole process; that of cuDNN is on where nobody says no.
    """
    matmul, cudnn = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    try:
        torch.set_float32_matmul_precision("high" if name == "tf32" else "highest")
        torch.backends.cudnn.allow_tf32 = name == "tf32"
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.allow_tf32 = cudnn


class Precision:
    """The precision of one training's steps.

    Half precision is torch's autocast (Micikevicius et al. 2018): each operation takes the type
    that suits it. fp16 also needs its gradients scaled up, so that small ones do not vanish; a step
    whose gradients overflow is left out and the scale halved.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self.name, self.device = name, device
        self.half = _HALVES.get(name)
        self.scaler = torch.amp.GradScaler(device.type) if name == "fp16" else None

    def forward(self) -> AbstractContextManager[Any]:
        """What a model's forward pass in training runs inside."""
        if self.half is None:
            return nullcontext()
        return torch.autocast(self.device.type, self.half)

    def backward(self, objective: Tensor) -> None:
        """Add the gradient of ``objective``."""
        if self.scaler is not None:
            objective = self.scaler.scale(objective)
        objective.backward()

    def step(self, optimizer: torch.optim.Optimizer, limit: float) -> Tensor:
        """One optimizer step, the gradient's norm cut to ``limit``; the norm, as it was.

        It counts as 0 where a step is left out.
        """
        parameters = [each for group in optimizer.param_groups for each in group["params"]]
        if self.scaler is None:
            gradients = [each.grad for each in parameters if each.grad is not None]
            norm = torch.nn.utils.get_total_norm(gradients)
            # As clip_grad_norm_ would, but for a pass over all gradients: torch's fused optimizers
            # divide by this on their way.
            optimizer.grad_scale = ((norm + 1e-6) / limit).clamp(min=1.0)  # type: ignore[attr-defined]
            optimizer.step()
            return norm
        self.scaler.unscale_(optimizer)
        norm = torch.nn.utils.clip_grad_norm_(parameters, limit)
        self.scaler.step(optimizer)
        self.scaler.update()
        return torch.where(norm.isfinite(), norm, 0.0)

    def state(self) -> dict[str, Any] | None:
        """What must be kept to go on with the same bits, fit for JSON."""
        return None if self.scaler is None else self.scaler.state_dict()

    def restore(self, state: dict[str, Any] | None) -> None:
        """Go back to what :meth:`state` gave."""
        if self.scaler is not None and state is not None:
            self.scaler.load_state_dict(state)
