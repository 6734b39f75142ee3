"""Devices: by name, and of a model."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import nn

from frugalkd.errors import ModelError, RecipeError, nearest
from frugalkd.runtime.failures import blame
from frugalkd.runtime.settings import shown

PRECISIONS = ("fp32", "bf16")
DEVICES = ("auto", "cpu", "cuda", "mps")


def autocast(model: nn.Module, precision: str) -> AbstractContextManager[Any]:
    """A context in which ``model`` runs in ``precision``: ``fp32`` or ``bf16``."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device_of(model).type, torch.bfloat16)


def resolve_device(device: str) -> torch.device:
    """The device of this name, or for ``auto`` the accelerator, else the CPU. Raises ModelError."""
    device = str(device)
    if device not in DEVICES:
        hint = nearest(device, DEVICES)
        if device.startswith("cuda:"):
            hint = "name cuda, and choose the card with CUDA_VISIBLE_DEVICES"
        raise ModelError(f"unknown device {device!r}: {hint}")
    if device == "auto":
        return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")
    available = {"cuda": torch.cuda.is_available, "mps": torch.backends.mps.is_available}
    if device != "cpu" and not available[device]():
        raise ModelError(f"device {device} is not available: set device: auto, or cpu")
    return torch.device(device)


def check_threads(threads: int) -> None:
    """Raises RecipeError for more CPU threads than OpenMP can start on this machine."""
    most = max(64, 4 * (os.cpu_count() or 1))
    if threads > most:
        raise RecipeError(
            f"threads: {shown(threads)} are too many for this machine: give at most {most}"
        )


def use_threads(threads: int) -> None:
    """Have torch use ``threads`` CPU threads. Raises RecipeError."""
    check_threads(threads)
    torch.set_num_threads(threads)


def check_device(device: torch.device | str) -> torch.device:
    """``device``, as torch names them. Raises ModelError where it is not available."""
    try:
        torch.empty(0, device=device).cpu()  # which meta tensors have no data for
        return torch.device(device)
    except Exception as error:
        blame(error, ModelError, f"device {device!s:.40} is not available")


def device_of(model: nn.Module) -> torch.device:
    """The device of a model's parameters; the CPU where it has none."""
    parameter = next(model.parameters(), None)
    return torch.device("cpu") if parameter is None else parameter.device
