"""Optimisers, and the learning rate of each step."""

from __future__ import annotations

import math
from functools import cache
from numbers import Real
from typing import Any

import torch
from torch import nn

from frugalkd.distributed.ranks import is_sharded
from frugalkd.errors import ModelError
from frugalkd.runtime.failures import blame
from frugalkd.runtime.imports import import_object, make_object
from frugalkd.runtime.settings import shown
from frugalkd.training.fsdp import WaitingSGD
from frugalkd.training.settings import Optimizer, Schedule


def make_optimizer(model: nn.Module, settings: Optimizer) -> torch.optim.Optimizer:
    """The fused optimiser: one call a step, and it respects ``found_inf`` without waiting for the
    device; or that of ``settings.path``. Parameters of one dimension (biases, normalisation) have
    no weight decay. Raises ModelError where none can be made for these parameters."""
    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.path is not None:
        options = {"params": groups, "lr": settings.lr, **settings.options}
        made = make_object(settings.path, options)
        if not isinstance(made, torch.optim.Optimizer):
            raise ModelError(f"{settings.path} made a {type(made).__name__}: name an optimiser")
        return made
    try:
        if settings.name == "adamw":
            return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, fused=True)
        cut, momentum = is_sharded(model), settings.momentum
        kind = WaitingSGD if cut else torch.optim.SGD
        return kind(groups, lr=settings.lr, momentum=momentum, nesterov=momentum > 0, fused=not cut)
    except Exception as error:
        blame(error, ModelError, f"no {settings.name} can be made for this model's parameters")


@cache
def _curve(path: str) -> Any:
    return import_object(path)


def factor(schedule: Schedule, progress: float, after: float) -> float:
    """The factor of the peak learning rate of a step from ``progress`` in [0, 1] to ``after``.
    Raises ModelError where a function of the user's fails, or gives no number from 0 on."""
    warm = min(1.0, after / schedule.warmup) if schedule.warmup else 1.0
    if schedule.path is not None:
        try:
            own: Any = _curve(schedule.path)(progress)
        except Exception as error:
            blame(error, ModelError, f"{schedule.path} fails at progress {progress:.3g}")
        if not (isinstance(own, Real) and 0 <= float(own) < math.inf):
            raise ModelError(
                f"{schedule.path} gives {shown(own)} at progress {progress:.3g}: a number from 0 on"
            )
        return warm * float(own)
    left = {
        "cosine": (1 + math.cos(math.pi * progress)) / 2,
        "linear": 1 - progress,
        "constant": 1.0,
    }[schedule.shape]
    return warm * (schedule.final + (1 - schedule.final) * left)
