"""torch's own optimisers and the learning rate as a function of progress."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from frugalkd.distributed.ranks import is_sharded
from frugalkd.errors import ModelError
from frugalkd.runtime.failures import blame
from frugalkd.training.fsdp import laid_out_like
from frugalkd.training.settings import Optimizer, Schedule


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The fused optimiser: one call a step, and it respects ``found_inf`` without waiting for the
    device. Parameters of one dimension (biases, normalisation) have no weight decay.

    Raises:
        ModelError: torch makes none for these parameters.
    """
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    try:
        if settings.name == "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
        cut, momentum = is_sharded(model), settings.momentum
        kind = WaitingSGD if cut else torch.optim.SGD
        return kind(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=not cut)
    except Exception as error:
        blame(error, ModelError, f"no {settings.name} can be made for this model's parameters")


class WaitingSGD(torch.optim.SGD):
    """SGD for sharded parameters, for which torch has no fused step. It respects ``found_inf`` as
    fused ones do, and waits for the device to read it."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # pyright: ignore
        if vars(self).pop("found_inf", 0):  # torch's own refuses to see it
            return None
        return super().step(closure)


def factor(schedule: Schedule, progress: float, step: int) -> float:
    """What multiplies the peak learning rate at ``progress`` in [0, 1], ``step`` from 0."""
    warm = min(1.0, (step + 1) / schedule.warmup_steps) if schedule.warmup_steps else 1.0
    left = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": 1.0,
    }[schedule.shape]
    return warm * (schedule.final + (1 - schedule.final) * left)


def load_state(optimizer: torch.optim.Optimizer, kept: dict[str, Any]) -> None:
    """Load a state dict of unsharded, contiguous tensors. They get the layout of the parameters:
    sharded where these are, and with their strides, which fused steps do not check and
    channels-last weights have."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]

    def laid_out(parameter: Tensor, value: Any) -> Any:
        same = isinstance(value, Tensor) and value.shape == parameter.shape
        return laid_out_like(parameter, value) if same else value

    state = {
        number: {name: laid_out(parameters[number], value) for name, value in each.items()}
        for number, each in kept["state"].items()
    }
    optimizer.load_state_dict({**kept, "state": state})
