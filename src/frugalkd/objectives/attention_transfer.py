"""Attention transfer: where a model looks (Zagoruyko and Komodakis, ICLR 2017)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from frugalkd.features.adapters import resized
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives._features import FeatureObjective, Paths
from frugalkd.objectives._seen import Seen, Shapes


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
        for given, wanted in zip(shapes.student, shapes.teacher, strict=True):
            if len(given) != len(wanted) or len(given) not in (2, 3):
                raise ValueError(
                    f"features of shape {given} and {wanted} have no attention to compare: name "
                    "modules that return maps (channels, height, width), or both of them tokens"
                )
        return nn.Module()

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        apart = weights.new_zeros(len(weights))
        for student, teacher in zip(seen.student, seen.teacher, strict=True):
            of_student, of_teacher = _energy(student), _energy(teacher)
            sizes = zip(of_student.shape[1:], of_teacher.shape[1:], strict=True)
            least = tuple(min(pair) for pair in sizes)
            difference = _attention(of_student, least) - _attention(of_teacher, least)
            apart = apart + difference.square().mean(1)
        return apart


def _energy(feature: Tensor) -> Tensor:
    """The mean square of the channels, (rows, 1, height, width) or (rows, tokens, 1)."""
    return feature.square().mean(1 if feature.ndim == 4 else 2, keepdim=True)


def _attention(energy: Tensor, sizes: tuple[int, ...]) -> Tensor:
    """(rows, places), of norm 1; 0 where the feature is."""
    flat = resized(energy, sizes).flatten(1)
    return numerics.over(flat, torch.linalg.vector_norm(flat, dim=1, keepdim=True))
