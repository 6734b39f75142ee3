"""FitNets: hints from the middle of the teacher (Romero et al., ICLR 2015)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from frugalkd.models.features import Adapter
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen, Shapes


@dataclass(frozen=True)
class FitNets(FeatureObjective):
    """FitNets: hints from the middle of the teacher (Romero et al., ICLR 2015, arXiv 1412.6550).

    *Loss:* ``soft * H + hard * cross-entropy``. H is the mean over a feature's values of
    ``(r(student) - teacher)^2``, r being an adapter to the teacher's shape; of several pairs the
    sum.

    *Our reading:* the paper's ``|r(student) - teacher|^2 / 2`` has a sum in place of the mean. The
    paper trains on hints first and distils afterwards; here both are one loss, as is usual now. The
    adapter is a 1x1 convolution or a linear layer where the channels differ, and pools or
    interpolates where sizes do.

    *Needs:* the teacher's features.

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
        soft: the weight of H.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    soft: float = 100.0
    hard: float = 1.0

    def parts(self, shapes: Shapes) -> nn.Module:
        pairs = zip(shapes.student, shapes.teacher, strict=True)
        return nn.ModuleList(Adapter(given, wanted) for given, wanted in pairs)

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        hints = weights.new_zeros(len(weights))
        for adapter, student, teacher in zip(
            seen.parts.children(), seen.student, seen.teacher, strict=True
        ):
            hints = hints + (adapter(student, teacher) - teacher).square().flatten(1).mean(1)
        return hints
