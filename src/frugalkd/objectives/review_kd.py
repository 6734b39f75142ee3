"""Knowledge review (Chen et al., CVPR 2021)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.models.features import Shape
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives._places import check_maps
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen, Shapes

_LEVELS = (4, 2, 1)


@dataclass(frozen=True)
class ReviewKD(FeatureObjective):
    """Distilling knowledge via knowledge review (Chen et al., CVPR 2021, arXiv 2104.09044).

    *Loss:* ``soft * R + hard * cross-entropy``. From the last module to the first, the student's
    map becomes ``width`` channels by a 1x1 convolution and is fused with what has come from the
    deeper ones, interpolated to its size: ``a * own + b * deeper``, a and b being attentions for
    each place, a sigmoid of a 1x1 convolution of both. A 3x3 convolution makes the teacher's
    channels of it, at the teacher's size, and R sums over the modules the distance to the teacher's
    map: the mean square of the difference, and with the weights 1/2, 1/4 and 1/8 that of both maps
    averaged down to 4 x 4, 2 x 2 and 1 x 1 places (where the map is larger), divided by the sum of
    the weights.

    *Our reading:* no BatchNorm after the convolutions: its statistics would mix rows whatever they
    weigh.

    *Needs:* the teacher's features, of (channels, height, width).

    Attributes:
        student: module paths or globs, of the student, from its first to its last.
        teacher: as many of the teacher, in the order in which they belong together.
        width: channels of the fusion.
        soft: the weight of R.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    width: int = 64
    soft: float = 1.0
    hard: float = 1.0

    def check(self) -> None:
        numerics.check_positive(width=self.width)

    def parts(self, shapes: Shapes) -> nn.Module:
        check_maps(shapes)
        last = len(shapes.student) - 1
        pairs = enumerate(zip(shapes.student, shapes.teacher, strict=True))
        return nn.ModuleList(
            _Fusion(given, wanted, self.width, deeper=place < last)
            for place, (given, wanted) in pairs
        )

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        apart, deeper = weights.new_zeros(len(weights)), None
        fusions = list(seen.parts.children())
        for each, student, teacher in zip(
            reversed(fusions), reversed(seen.student), reversed(seen.teacher), strict=True
        ):
            made, deeper = cast(_Fusion, each)(student, deeper)
            apart = apart + _hierarchical(made, teacher)
        return apart


@final
class _Fusion(nn.Module):
    """From a student's map and what came from deeper ones to a map like the teacher's, and what
    goes on to the next."""

    def __init__(self, given: Shape, wanted: Shape, width: int, *, deeper: bool):
        super().__init__()
        self.size = wanted[1:]
        self.own = nn.Conv2d(given[0], width, 1, bias=False)
        self.attention = nn.Conv2d(2 * width, 2, 1) if deeper else None
        self.out = nn.Conv2d(width, wanted[0], 3, padding=1, bias=False)

    def forward(self, student: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        fused = self.own(student)
        if self.attention is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            shares = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        if fused.shape[2:] != self.size:
            fused = F.interpolate(fused, self.size, mode="nearest")
        return self.out(fused), fused


def _hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows,), the distance of two maps of one shape on several levels."""
    apart = (student - teacher).square().mean((1, 2, 3))
    weight = total = 1.0
    for level in _LEVELS:
        if level < teacher.shape[2]:
            weight /= 2
            total += weight
            pooled = F.adaptive_avg_pool2d(student - teacher, level)
            apart = apart + weight * pooled.square().mean((1, 2, 3))
    return apart / total
