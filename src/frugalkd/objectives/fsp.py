"""The flow of the solution procedure (Yim et al., CVPR 2017)."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.errors import SettingError
from frugalkd.models.features import Adapter
from frugalkd.objectives._places import check_maps
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen, Shapes


@dataclass(frozen=True)
class FSP(FeatureObjective):
    """A gift from knowledge distillation: the flow between layers (Yim et al., CVPR 2017).

    *Loss:* ``soft * G + hard * cross-entropy``. The flow of two maps of one model is their product
    over the places, (channels of the first, channels of the second), divided by the number of
    places; G is the squared distance of student's and teacher's flow, summed over the matrix and
    over the pairs of maps that follow each other in ``student`` and ``teacher``.

    *Our reading:* the paper has models of the same channels; here a 1x1 convolution makes the
    student's channels the teacher's where they differ. Within a pair the larger map is max-pooled
    to the size of the other. The paper trains on G first and on the labels afterwards; here both
    are one loss.

    *Needs:* the teacher's features, of (channels, height, width), at least two.

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
        soft: the weight of G.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    soft: float = 1.0
    hard: float = 1.0

    def parts(self, shapes: Shapes) -> nn.Module:
        check_maps(shapes)
        if len(shapes.student) < 2:
            raise SettingError("a flow goes from one map to another: name two modules or more")
        pairs = zip(shapes.student, shapes.teacher, strict=True)
        return nn.ModuleList(Adapter(given, (wanted[0], *given[1:])) for given, wanted in pairs)

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        adapted = [
            adapter(feature)
            for adapter, feature in zip(seen.parts.children(), seen.student, strict=True)
        ]
        apart = weights.new_zeros(len(weights))
        for student, teacher in zip(pairwise(adapted), pairwise(seen.teacher), strict=True):
            apart = apart + (_flow(*student) - _flow(*teacher)).square().sum((1, 2))
        return apart


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """(rows, channels of the first, channels of the second)."""
    sizes = tuple(min(pair) for pair in zip(first.shape[2:], second.shape[2:], strict=True))
    one, other = (
        feature if tuple(feature.shape[2:]) == sizes else F.adaptive_max_pool2d(feature, sizes)
        for feature in (first, second)
    )
    return one.flatten(2) @ other.flatten(2).transpose(1, 2) / (sizes[0] * sizes[1])
