"""Floating point operations of a model, counted by torch on the real model."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from frugalkd.batches import call, inputs_of
from frugalkd.data.bucketing import lengths_of
from frugalkd.data.source import Collate, open_source

Precision = Callable[[], AbstractContextManager[Any]]


def flops_per_row(
    model: nn.Module, inputs: Any, rows: int, precision: Precision = nullcontext
) -> dict[str, float]:
    """FLOPs of one row, ``forward`` and ``backward``; a multiply-add counts as two.

    Counted on a copy, in eval mode, so that nothing of the model changes. Element-wise operations
    are not counted (torch's counter leaves them out).

    Args:
        model: any module that returns logits.
        inputs: a batch of inputs on the model's device.
        rows: how many there are.
        precision: in which the model is asked, such as an autocast.
    """
    probe = copy.deepcopy(model).eval().requires_grad_(True)
    with torch.enable_grad():
        counter = FlopCounterMode(display=False)
        with counter, precision():
            logits = call(probe, inputs)
        forward = counter.get_total_flops()
        counter = FlopCounterMode(display=False)
        with counter:
            logits.float().sum().backward()
        backward = counter.get_total_flops()
    return {"forward": forward / rows, "backward": backward / rows}


def flops_of_data(
    model: nn.Module,
    data: Dataset,
    device: torch.device,
    collate: Collate | None = None,
    precision: Precision = nullcontext,
) -> dict[str, float]:
    """:func:`flops_per_row` on the first samples of ``data``, or, where these say their lengths, on
    those nearest the mean length: the work is taken to be in proportion to it."""
    batch, rows = _typical(data, device, collate)
    return flops_per_row(model, inputs_of(batch), rows, precision)


def flops_of_asking(
    ask: Callable[[Any], Any],
    data: Dataset,
    device: torch.device,
    collate: Collate | None = None,
) -> float:
    """FLOPs of one row where ``ask`` gives somebody's answer to a batch of ``data``, without
    gradients, as :func:`flops_of_data` takes them."""
    batch, rows = _typical(data, device, collate)
    with FlopCounterMode(display=False) as counter:
        ask(batch)
    return counter.get_total_flops() / rows


def _typical(data: Dataset, device: torch.device, collate: Collate | None) -> tuple[Any, int]:
    """A batch of two samples, or of one, and how many it has."""
    ids = np.arange(len(data))  # pyright: ignore[reportArgumentType]
    if (lengths := lengths_of(data)) is not None:
        ids = ids[np.argsort(np.abs(lengths - lengths.mean()), kind="stable")]
    ids = ids[:2]
    with open_source(data, collate=collate) as source:
        batch = next(source.batches([(ids, np.zeros_like(ids))]))
    return send_to_device(batch, device), len(ids)
