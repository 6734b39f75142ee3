"""Looking at data with a model without leaving a trace in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from frugalkd.models.seen import Seen


@contextmanager
def looking(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each submodule gets its own mode flag back.

    Random streams are put back as well, so that a look moves nothing even where a module draws
    numbers in eval mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    model.eval()
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training


def model_digest(model: nn.Module) -> str:
    """SHA-256 (hex) of a model's parameters and buffers with their names, and of what it sees of
    pictures, where a recipe says so."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        raw = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
        digest.update(raw.numpy().tobytes())
    for hook in model._forward_pre_hooks.values():
        if isinstance(hook, Seen):
            digest.update(repr(hook).encode())
    return digest.hexdigest()
