"""Floating point operations of a model, counted by torch on the real model."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from frugalkd.batches import call


def flops_per_row(model: nn.Module, inputs: Any, rows: int) -> dict[str, float]:
    """FLOPs of one row, ``forward`` and ``backward``; a multiply-add counts as two.

    Counted on a copy, in eval mode, so that nothing of the model changes. Element-wise operations
    are not counted (torch's counter leaves them out).

    Args:
        model: any module that returns logits.
        inputs: a batch of inputs on the model's device.
        rows: how many there are.
    """
    probe = copy.deepcopy(model).eval().requires_grad_(True)
    with torch.enable_grad():
        counter = FlopCounterMode(display=False)
        with counter:
            logits = call(probe, inputs)
        forward = counter.get_total_flops()
        counter = FlopCounterMode(display=False)
        with counter:
            logits.float().sum().backward()
        backward = counter.get_total_flops()
    return {"forward": forward / rows, "backward": backward / rows}
