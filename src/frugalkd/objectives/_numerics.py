"""What objectives share: their precision, divergences, features that have positions."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from frugalkd.errors import SettingError
from frugalkd.teachers.sparse import Sparse


def full(logits: Tensor) -> Tensor:
    """``logits`` in float32, or in float64 where they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def no_autocast(logits: Tensor) -> AbstractContextManager[object]:
    """Within it no product is rounded to 16 bits, even inside the caller's autocast."""
    return torch.autocast(logits.device.type, enabled=False)


def both(logits: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's logits, both in the dtype of :func:`full`. Raises
    SettingError without ``targets``."""
    if targets is None:
        raise SettingError("this objective needs the teacher's outputs")
    logits = full(logits)
    return logits, targets.to(logits.dtype)


def softened(logits: Tensor, targets: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """The logarithms of the student's and of the teacher's softmax at ``temperature``."""
    student, teacher = both(logits, targets)
    return F.log_softmax(student / temperature, dim=1), F.log_softmax(teacher / temperature, dim=1)


def divergence(of: Tensor, against: Tensor) -> Tensor:
    """KL(of || against), (rows,), from the logarithms (rows, classes) of both."""
    return F.kl_div(against, of, reduction="none", log_target=True).sum(dim=1)


def sparse_divergence(
    logits: Tensor, targets: Sparse, labels: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """KL(teacher || student) and the cross-entropy with the label, both (rows,), from the student's
    logits. Raises SettingError: another temperature than 1, at which sparse targets are kept."""
    if temperature != 1:
        raise SettingError(
            f"the temperature is {temperature:g}, and these soft targets are the teacher's at 1: "
            "set it to 1, or run the teacher live"
        )
    classes, n = torch.cat([targets.classes, labels[:, None]], dim=1), targets.shape[1]
    logs = log_softmax_at(full(logits), classes, None if targets.rest is None else n)
    others = None if targets.rest is None else logs[:, -1]
    return targets.divergence(logs[:, :n], others), -logs[:, n]


def log_softmax_at(logits: Tensor, classes: Tensor, kept: int | None = None) -> Tensor:
    """The logarithms (rows, n) of the softmax of ``logits`` (rows, outputs) at ``classes`` int64
    (rows, n); with ``kept`` one more column, that of its sum over all outputs but the first
    ``kept`` of the classes, none of which is there twice. Of many outputs it is faster than to take
    all: the gradient is made in the memory of the softmax, and no other tensor has its size. It has
    no second derivative."""
    return _LogSoftmaxAt.apply(logits, classes, kept)


_LEAST = 1e-30  # of a sum of probabilities, so that its logarithm is finite


class _LogSoftmaxAt(torch.autograd.Function):
    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, logits: Tensor, classes: Tensor, kept: int | None
    ) -> Tensor:
        shares = torch.softmax(logits, dim=1)
        largest, place = logits.max(dim=1, keepdim=True)  # its share is not rounded to 0
        logs = logits.gather(1, classes) - largest + shares.gather(1, place).log()
        others = None
        if kept is not None:
            of_kept = shares.gather(1, classes[:, :kept])
            others = shares.scatter_(1, classes[:, :kept], 0.0).sum(dim=1, keepdim=True)
            others.clamp_min_(_LEAST)  # 1 - the others' sum would have no digits near 1
            shares.scatter_(1, classes[:, :kept], of_kept)
            logs = torch.cat([logs, others.log()], dim=1)
        ctx.save_for_backward(logits, classes)
        ctx.shares = shares if ctx.needs_input_grad[0] else None
        ctx.kept, ctx.others = kept, others
        return logs

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, upstream: Tensor
    ) -> tuple[Tensor, None, None]:
        logits, classes = ctx.saved_tensors
        shares, ctx.shares = ctx.shares, None
        if shares is None:  # of a graph that is kept
            shares = torch.softmax(logits, dim=1)
        total = upstream.sum(dim=1, keepdim=True)
        if ctx.kept is None:
            of_logits = shares.mul_(-total)
        else:
            first, last = classes[:, : ctx.kept], upstream[:, -1:]
            of_kept = -total * shares.gather(1, first)
            of_logits = shares.mul_(last / ctx.others - total).scatter_(1, first, of_kept)
            upstream = upstream[:, :-1]
        return of_logits.scatter_add_(1, classes, upstream), None, None


def label_mask(logits: Tensor, labels: Tensor) -> Tensor:
    """bool (rows, classes), True at the label; without a synchronisation of the device."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], True)


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of the softmax over all classes but the label, (rows, classes); 0 at the label,
    so that it adds nothing to a divergence of two of these."""
    at = label_mask(logits, labels)
    return F.log_softmax(logits.masked_fill(at, -math.inf), dim=1).masked_fill(at, 0.0)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """(rows,), with the label."""
    return F.cross_entropy(full(logits), labels, reduction="none")


def weights_or_ones(weights: Tensor | None, logits: Tensor) -> Tensor:
    """(rows,), in the dtype of ``logits`` (rows, classes)."""
    return logits.new_ones(len(logits)) if weights is None else weights.to(logits.dtype)


def over(values: Tensor, by: Tensor) -> Tensor:
    """``values / by``; 0, and without a gradient, where ``by`` is at most 1e-12, as a norm may."""
    return values / by.masked_fill(by <= 1e-12, math.inf)


def unit(rows: Tensor) -> Tensor:
    """``rows`` (rows, width) of norm 1, by :func:`over`: 0, and without a gradient, where a row
    is, as the logits of a head that begins with zeros are."""
    return over(rows, torch.linalg.vector_norm(rows, dim=1, keepdim=True))


def hardly_varies(deviation: Tensor, size: Tensor) -> Tensor:
    """bool, where a ``deviation`` from the mean is what rounding makes of equal values of this
    ``size``: a division by it has a gradient without a meaning, of any size."""
    return deviation <= 16 * torch.finfo(deviation.dtype).eps * size
