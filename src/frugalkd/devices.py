"""Devices: by name, and of a model."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from frugalkd.errors import ModelError, nearest

DEVICES = ("auto", "cpu", "cuda", "mps")


def autocast(model: nn.Module, precision: str) -> AbstractContextManager[Any]:
    """A context in which ``model`` is asked in ``precision``: ``fp32`` or ``bf16``."""
    if precision == "fp32":
        return nullcontext()
    parameter = next(model.parameters(), None)
    return torch.autocast("cpu" if parameter is None else parameter.device.type, torch.bfloat16)


def resolve_device(device: str) -> torch.device:
    """The device that ``auto`` means here, or the one that is named.

    Raises:
        ModelError: a name that is none of ``DEVICES``, or a device that this machine lacks.
    """
    if device not in DEVICES:
        hint = nearest(device, DEVICES)
        if device.startswith("cuda:"):
            hint = "name cuda, and choose the card with CUDA_VISIBLE_DEVICES"
        raise ModelError(f"unknown device {device!r}: {hint}")
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    available = {
        "cpu": lambda: True,
        "cuda": torch.cuda.is_available,
        "mps": torch.backends.mps.is_available,
    }
    if not available[device]():
        raise ModelError(f"device {device} is not here: set device: auto, or cpu")
    return torch.device(device)


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters."""
    return next(model.parameters()).device
