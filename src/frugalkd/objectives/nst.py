"""Neuron selectivity transfer (Huang and Wang, 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives._places import by_place, check_places
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen, Shapes


@dataclass(frozen=True)
class NST(FeatureObjective):
    """Neuron selectivity transfer (Huang and Wang, 2017, arXiv 1707.01219).

    *Loss:* ``soft * M + hard * cross-entropy``. Each channel of a feature is a vector over the
    places, divided by its norm; M is the squared maximum mean discrepancy of the student's and the
    teacher's channels under the kernel ``(x . y)^2``: the mean of the kernel over the pairs of the
    teacher's channels, plus that over the student's, minus twice that over the mixed ones; of
    several pairs of modules the sum.

    *Our reading:* where sizes differ the larger feature is averaged down. The paper tries three
    kernels and recommends this one.

    *Needs:* the teacher's features, of (channels, height, width) or (tokens, width).

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
        soft: the weight of M.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    soft: float = 50.0
    hard: float = 1.0

    def parts(self, shapes: Shapes) -> nn.Module:
        check_places(shapes)
        return nn.Module()

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        apart = weights.new_zeros(len(weights))
        for pair in zip(seen.student, seen.teacher, strict=True):
            student, teacher = map(_directions, by_place(*pair))
            apart = apart + _kernel(teacher, teacher) + _kernel(student, student)
            apart = apart - 2 * _kernel(student, teacher)
        return apart


def _directions(values: Tensor) -> Tensor:
    """(rows, channels, places), each channel of norm 1; 0 where the channel is."""
    return numerics.over(values, torch.linalg.vector_norm(values, dim=2, keepdim=True))


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """(rows,), the mean over all pairs of channels."""
    return (one @ other.transpose(1, 2)).square().mean((1, 2))
