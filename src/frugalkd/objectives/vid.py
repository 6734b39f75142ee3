"""Variational information distillation (Ahn et al., CVPR 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.errors import SettingError
from frugalkd.models.features import Adapter, Shape
from frugalkd.models.features.adapters import channels_of
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen, Shapes

_LEAST = 1e-5  # of a variance


@dataclass(frozen=True)
class VID(FeatureObjective):
    """Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835).

    *Loss:* ``soft * V + hard * cross-entropy``. The teacher's feature is modelled as a Gaussian
    around what an adapter r makes of the student's, with a variance for each channel that is
    trained too: V is the mean over a feature's values of ``((teacher - r(student))^2 / variance +
    log(variance)) / 2``; of several pairs the sum. The variance is ``log(1 + exp(a)) + 1e-5``.

    *Our reading:* the constant of the Gaussian is left out, so V may be negative; the mean stands
    in place of the paper's sum. r is one 1x1 convolution or linear layer, always there, where the
    authors have three with ReLUs in between.

    *Needs:* the teacher's features.

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
        variance: of every channel at first, > 1e-5.
        soft: the weight of V.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    variance: float = 5.0
    soft: float = 1.0
    hard: float = 1.0

    def check(self) -> None:
        numerics.check_positive(variance=self.variance)
        if self.variance <= _LEAST:
            raise SettingError(f"variance must be above {_LEAST:g}, not {self.variance}")

    def parts(self, shapes: Shapes) -> nn.Module:
        pairs = zip(shapes.student, shapes.teacher, strict=True)
        return nn.ModuleList(_Gaussian(given, wanted, self.variance) for given, wanted in pairs)

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        unlike = weights.new_zeros(len(weights))
        for gaussian, student, teacher in zip(
            seen.parts.children(), seen.student, seen.teacher, strict=True
        ):
            unlike = unlike + gaussian(student, teacher)
        return unlike


@final
class _Gaussian(nn.Module):
    """How unlikely a teacher's feature (rows, \\*``wanted``) is, given the student's."""

    def __init__(self, given: Shape, wanted: Shape, variance: float):
        super().__init__()
        self.mean = Adapter(given, wanted, always=True)
        over = variance - _LEAST
        start = over + math.log(-math.expm1(-over))  # softplus's inverse, of large ones too
        self.spread = nn.Parameter(torch.full((channels_of(wanted),), start))
        self.at_channels = (-1,) if len(wanted) != 3 else (-1, 1, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        variance = (F.softplus(self.spread) + _LEAST).view(self.at_channels)
        square = (teacher - self.mean(student, teacher)).square()
        return (square / variance + variance.log()).flatten(1).mean(1) / 2
