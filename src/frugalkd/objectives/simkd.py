"""Classifier reuse (Chen et al., CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn

from frugalkd.errors import SettingError
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen, Shapes


@dataclass(frozen=True)
class SimKD(FeatureObjective):
    """Knowledge distillation with the reused teacher classifier (Chen et al., CVPR 2022,
    arXiv 2203.14001).

    *Loss:* ``soft * S + hard * cross-entropy``. S is the mean over a feature's values of ``(student
    - teacher)^2``, of several pairs the sum; the student's feature is what its projector makes, the
    teacher's what its classifier gets, and that classifier is the student's too.

    *Our reading:* the projector is one linear layer on what the student's classifier got, where the
    authors have three convolutions on maps. It is a part of the student, unlike an adapter, and is
    put there by ``student.model.reuse_classifier_dim: WIDTH`` in a recipe or
    ``frugalkd.reuse_classifier``, in place of the student's last linear layer; WIDTH is how many
    values the teacher's takes.

    *Needs:* the teacher's features, of the shape of the student's: ``{name: simkd, student:
    head.projector, teacher: 'head:input'}`` where both models call their last layer ``head``.

    Attributes:
        student: path of the projector.
        teacher: path of what the teacher's classifier gets.
        soft: the weight of S.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    soft: float = 1.0
    hard: float = 0.0

    def parts(self, shapes: Shapes) -> nn.Module:
        for given, wanted in zip(shapes.student, shapes.teacher, strict=True):
            if given != wanted:
                raise SettingError(
                    f"the student's feature is of shape {given}, the teacher's of {wanted}: name "
                    "the projector of a student that reuses the teacher's classifier "
                    "(student.model.reuse_classifier_dim)"
                )
        return nn.Module()

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        apart = weights.new_zeros(len(weights))
        for student, teacher in zip(seen.student, seen.teacher, strict=True):
            apart = apart + (student - teacher).square().flatten(1).mean(1)
        return apart
