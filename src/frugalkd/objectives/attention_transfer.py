"""Attention transfer: where a model looks (Zagoruyko and Komodakis, ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives._places import by_place, check_places
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen, Shapes


@dataclass(frozen=True)
class AttentionTransfer(FeatureObjective):
    """Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928).

    *Loss:* ``soft * A + hard * cross-entropy``. A feature's attention is the mean over the channels
    of its squares, a value for each place, divided by the norm over all places; A is the mean over
    the places of ``(attention of the student - attention of the teacher)^2``; of several pairs the
    sum.

    *Our reading:* squared, and the mean of the places, as in the authors' code; the paper's formula
    has ``beta / 2`` times the distance itself. Where sizes differ the larger attention is averaged
    down, so that nothing is trained beside the student; the paper interpolates.

    *Needs:* the teacher's features, of (channels, height, width) or (tokens, width).

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
        soft: the weight of A.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    soft: float = 1000.0
    hard: float = 1.0

    def parts(self, shapes: Shapes) -> nn.Module:
        check_places(shapes)
        return nn.Module()

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        apart = weights.new_zeros(len(weights))
        for pair in zip(seen.student, seen.teacher, strict=True):
            student, teacher = by_place(*map(_energy, pair))
            difference = _attention(student) - _attention(teacher)
            apart = apart + difference.square().mean(1)
        return apart


def _energy(feature: Tensor) -> Tensor:
    """The mean square of the channels, (rows, 1, height, width) or (rows, tokens, 1)."""
    return feature.square().mean(1 if feature.ndim == 4 else 2, keepdim=True)


def _attention(energy: Tensor) -> Tensor:
    """(rows, places), of norm 1; 0 where the feature is."""
    flat = energy[:, 0]
    return numerics.over(flat, torch.linalg.vector_norm(flat, dim=1, keepdim=True))
