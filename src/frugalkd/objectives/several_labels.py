"""Losses of several labels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.outputs import OUTPUTS
from frugalkd.runtime.settings import Fraction
from frugalkd.teachers.encodings import Fidelity

_NO_IDS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class BinaryCrossEntropy(Objective):
    """Binary cross-entropy with several labels: no distillation.

    *Loss:* the mean over the labels of ``-log p`` of those that the sample has, and of ``-log(1 -
    p)`` of the others, where p is the sigmoid of the label's logit.
    """

    needs_targets = False
    output = "several-labels"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student = numerics.full(logits)
        return _binary(student, labels.to(student.dtype))


@dataclass(frozen=True)
class MultiLabelKD(Objective):
    """Distillation of several labels: the binary problems of multi-label logits distillation (Yang
    et al., ICCV 2023, arXiv 2308.06453), with the loss of KD.

    *Loss:* ``alpha * BCE(student, teacher) + (1 - alpha) * BCE(student, labels)``, each the mean
    over the labels of the binary cross-entropy with the teacher's probability, the sigmoid of its
    logit, or with 0 or 1.

    *Our reading:* the paper has a divergence for each label, which differs from this by a number
    that does not depend on the student, and adds a loss of embeddings of labels, which is left out.
    No temperature. The default of alpha is that of ``kd``.

    *Needs:* the teacher's outputs themselves, since a sigmoid depends on each: float32 and float16
    keep them.
    """

    alpha: Fraction = 0.9
    reads = Fidelity.VALUES
    output = "several-labels"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        hard = _binary(student, labels.to(student.dtype))
        return self.alpha * _binary(student, teacher.sigmoid()) + (1 - self.alpha) * hard


def _binary(student: Tensor, right: Tensor) -> Tensor:
    """(rows,), the mean over the labels. Raises ModelError for other widths."""
    OUTPUTS["several-labels"].check(right[:0], _NO_IDS, student.shape[1])
    return F.binary_cross_entropy_with_logits(student, right, reduction="none").mean(dim=1)
