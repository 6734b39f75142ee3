"""What objectives share: the precision they reckon in, divergences, what a setting may be."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.errors import SettingError


def full(logits: Tensor) -> Tensor:
    """``logits`` in float32, or in float64 where they are."""
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def whole(logits: Tensor) -> AbstractContextManager[object]:
    """Where no product is rounded to 16 bits, though the caller be within an autocast."""
    return torch.autocast(logits.device.type, enabled=False)


def both(logits: Tensor, targets: Tensor | None) -> tuple[Tensor, Tensor]:
    """The student's and the teacher's logits, both as :func:`full` has the student's.

    Raises:
        SettingError: there are no ``targets``.
    """
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


def label_mask(logits: Tensor, labels: Tensor) -> Tensor:
    """bool (rows, classes), True at the label. Nobody waits for the device."""
    return torch.zeros_like(logits, dtype=torch.bool).scatter(1, labels[:, None], True)


def without_label(logits: Tensor, labels: Tensor) -> Tensor:
    """The logarithm of the softmax over all classes but the label, (rows, classes); where the label
    is it says 0, so that it adds nothing to a divergence of two of these."""
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


def check_positive(**settings: float) -> None:
    """Raises SettingError, naming it, where one is not above 0 and finite."""
    for name, value in settings.items():
        if not 0 < value < math.inf:
            raise SettingError(f"{name} must be positive, not {value}")


def check_not_negative(**settings: float) -> None:
    """Raises SettingError, naming it, where one is below 0 or not finite."""
    for name, value in settings.items():
        if not 0 <= value < math.inf:
            raise SettingError(f"{name} must be 0 or more, not {value}")


def check_share(**settings: float) -> None:
    """Raises SettingError, naming it, where one is outside [0, 1]."""
    for name, value in settings.items():
        if not 0 <= value <= 1:
            raise SettingError(f"{name} must be in [0, 1], not {value}")
