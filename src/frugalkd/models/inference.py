"""Forward passes for evaluation, which leave no trace in the model."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from frugalkd.errors import ModelError
from frugalkd.models.identity import noting_state
from frugalkd.runtime.failures import blame


@contextmanager
def inference_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; each submodule gets its own mode flag back, and random streams
    continue as if nothing had run, even where a module draws numbers in eval mode."""
    modes = [(module, module.training) for module in model.modules()]
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    try:
        try:
            model.eval()
        except Exception as error:
            blame(error, ModelError, f"this {type(model).__name__} cannot be put into eval mode")
        with noting_state(model), torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            yield
    finally:
        for module, training in modes:
            module.training = training
