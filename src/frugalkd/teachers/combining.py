"""What several teachers say together, as pure functions of what each of them says."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.errors import TargetsError

Combine = Literal["mean", "weighted", "confidence", "random"]

_TOLERANCE = 1e-4
"""By how much shares may miss a sum of 1: they are written with a few digits."""


def shares_of(weights: Sequence[float] | None, teachers: int) -> list[float]:
    """What each of ``teachers`` teachers counts for, with the sum 1; alike without ``weights``.

    Raises:
        TargetsError: not one weight a teacher, one that is not above 0, or another sum than 1.
    """
    if weights is None:
        return [1 / teachers] * teachers
    said = ", ".join(f"{weight:g}" for weight in weights)
    if len(weights) != teachers:
        raise TargetsError(f"{teachers} teachers and the weights {said}: give each teacher one")
    if not all(weight > 0 for weight in weights):
        raise TargetsError(f"the teachers' weights {said} must be above 0: leave out who has none")
    total = sum(weights)
    if not abs(total - 1) <= _TOLERANCE:
        raise TargetsError(f"the teachers' weights {said} sum to {total:g}: give shares of 1")
    return [weight / total for weight in weights]


def confidence_shares(logits: Sequence[Tensor], labels: Tensor) -> Tensor:
    """What each teacher counts for in each row: the more, the likelier it finds the row's label.

    ``(1 - softmax over the teachers of their cross-entropies) / (teachers - 1)``, of CA-MKD (Zhang,
    Chen and Wang, arXiv 2201.00007), at temperature 1. Of two teachers each counts in proportion to
    its probability of the label.

    Args:
        logits: (rows, classes) of each teacher, two or more.
        labels: int64 (rows,).

    Returns:
        float32 (teachers, rows), each column with the sum 1.
    """
    losses = [F.cross_entropy(each.float(), labels, reduction="none") for each in logits]
    return (1 - torch.softmax(torch.stack(losses), dim=0)) / (len(losses) - 1)


def mean_logits(logits: Sequence[Tensor], shares: Tensor) -> Tensor:
    """The weighted mean of logits: at every temperature its softmax is the geometric mean of the
    teachers' own, made to sum to 1.

    Args:
        logits: (rows, classes) of each teacher.
        shares: (teachers,) or (teachers, rows).

    Returns:
        float32 (rows, classes).
    """
    stacked = torch.stack([each.float() for each in logits])
    return (_by_class(shares, stacked) * stacked).sum(dim=0)


def mean_softmax(logits: Sequence[Tensor], shares: Tensor, temperature: float) -> Tensor:
    """Logits whose softmax at ``temperature`` is the weighted mean of the teachers' own there.

    The gradient of a KL divergence to it is the weighted mean of those to each teacher.

    Args, Returns: as of :func:`mean_logits`.
    """
    stacked = torch.stack([torch.log_softmax(each.float() / temperature, 1) for each in logits])
    return temperature * torch.logsumexp(stacked + _by_class(shares, stacked).log(), dim=0)


def _by_class(shares: Tensor, stacked: Tensor) -> Tensor:
    """``shares`` as they multiply (teachers, rows, classes)."""
    shares = shares.to(stacked)
    return shares.reshape(*shares.shape, *[1] * (stacked.ndim - shares.ndim))
