"""Floating point operations of a model, counted by torch on the real model."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.func import functional_call
from torch.utils.data import Dataset
from torch.utils.flop_counter import FlopCounterMode

from frugalkd.data.batches import call, inputs_of
from frugalkd.data.source import Collate, lengths_of, open_source
from frugalkd.errors import FrugalKDError, FrugalKDWarning
from frugalkd.models.identity import inference_mode
from frugalkd.runtime.failures import reason

Precision = Callable[[], AbstractContextManager[Any]]


def flops_per_row(
    model: nn.Module,
    inputs: Any,
    rows: int,
    precision: Precision = nullcontext,
    *,
    backward: bool = True,
) -> dict[str, float]:
    """FLOPs of one row, ``forward`` and ``backward`` (0 without it); a multiply-add counts as two.

    ``inputs`` is a batch of ``rows`` on the model's device; ``precision`` a context of the forward
    pass, such as an autocast. In eval mode, and with ``backward`` on a copy; where the model cannot
    be copied, on the model itself with copied parameters. Torch's counter leaves out element-wise
    operations. A model that it cannot count gives a FrugalKDWarning, and counts 0: its training is
    over by then.
    """
    counted = {"forward": 0.0, "backward": 0.0}
    what = f"not all operations of this {type(model).__name__} are counted"
    if not backward:
        with or_warned(what), inference_mode(model), precision():
            counted["forward"] = _counted(lambda: call(model, inputs)) / rows
        return counted
    with or_warned(what), _probe(model) as probe, torch.enable_grad():
        with FlopCounterMode(display=False) as counter, precision():
            logits = call(probe, inputs)
        counted["forward"] = counter.get_total_flops() / rows
        counted["backward"] = _counted(lambda: logits.float().sum().backward()) / rows
    return counted


def _counted(function: Callable[[], Any]) -> int:
    """Operations of ``function``. torch counts none of an attention that it fuses in eval mode."""
    fused = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with FlopCounterMode(display=False) as counter:
            function()
    finally:
        torch.backends.mha.set_fastpath_enabled(fused)
    return counter.get_total_flops()


@contextmanager
def or_warned(what: str) -> Iterator[None]:
    """An error while operations are counted, out of memory too, is a FrugalKDWarning: the training
    is over by then."""
    try:
        yield
    except FrugalKDError:
        raise
    except Exception as error:
        warnings.warn(f"{what} ({reason(error)})", FrugalKDWarning, stacklevel=3)


@contextmanager
def _probe(model: nn.Module) -> Iterator[Callable[..., Any]]:
    """``model`` in eval mode, with its own parameters that need gradients."""
    try:
        copied = copy.deepcopy(model).eval().requires_grad_(True)
    except Exception:
        copied = None
    if copied is not None:
        yield copied
        return
    own = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    with inference_mode(model):
        yield lambda *args, **kwargs: functional_call(model, own, args, kwargs)


def flops_of_data(
    model: nn.Module,
    data: Dataset,
    device: torch.device,
    collate_fn: Collate | None = None,
    precision: Precision = nullcontext,
    *,
    backward: bool = True,
) -> dict[str, float]:
    """:func:`flops_per_row` on the first samples of ``data``, or, where their lengths are known, on
    those nearest the mean length: FLOPs are assumed to grow in proportion to it."""
    batch, rows = _typical(data, device, collate_fn)
    return flops_per_row(model, inputs_of(batch), rows, precision, backward=backward)


def flops_of_call(
    function: Callable[[Any], Any],
    data: Dataset,
    device: torch.device,
    collate_fn: Collate | None = None,
) -> float:
    """FLOPs of one row where ``function`` is called on the batch of :func:`flops_of_data`."""
    batch, rows = _typical(data, device, collate_fn)
    return _counted(lambda: function(batch)) / rows


def _typical(data: Dataset, device: torch.device, collate_fn: Collate | None) -> tuple[Any, int]:
    """A batch of two samples, or of one, and its rows."""
    ids = np.arange(len(data))  # pyright: ignore[reportArgumentType]
    if (lengths := lengths_of(data)) is not None:
        ids = ids[np.argsort(np.abs(lengths - lengths.mean()), kind="stable")]
    ids = ids[:2]
    with open_source(data, collate_fn=collate_fn) as source:
        batch = next(source.batches([(ids, np.zeros_like(ids))]))
    return send_to_device(batch, device), len(ids)
