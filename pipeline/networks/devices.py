"""The device that computes."""

import torch

from ..errors import InputError, choose_from

DEVICES = ("auto", "cpu", "cuda")


def resolve_device(device: str) -> torch.device:
    """The device of that name; ``auto`` takes a GPU where there is one.

    Raises:
        InputError: for an unknown name, or for ``cuda`` where torch sees no GPU.
    """
    if device not in DEVICES:
        raise InputError(f"unknown device {device!r}: {choose_from(device, DEVICES)}")
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError("device is cuda, but torch sees no GPU here: use --device cpu or auto")
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(device)
