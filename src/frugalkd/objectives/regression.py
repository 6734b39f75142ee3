"""Losses of regression."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.outputs import OUTPUTS
from frugalkd.runtime.settings import Fraction
from frugalkd.teachers.encodings import Fidelity

_NO_IDS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class SquaredError(Objective):
    """Regression without a teacher: no distillation.

    *Loss:* the mean over the targets of ``(student - target)^2``.
    """

    needs_targets = False
    output = "regression"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student = numerics.full(logits)
        return _squared(student, labels.to(student.dtype))


@dataclass(frozen=True)
class RegressionKD(Objective):
    """Distillation of a regression: the loss of KD (Hinton, Vinyals and Dean, arXiv 1503.02531)
    with squared errors in the place of both cross-entropies.

    *Loss:* ``alpha * (student - teacher)^2 + (1 - alpha) * (student - target)^2``, each the mean
    over the targets.

    *Our reading:* the paper is about classes. Of the squared errors it is known that their gradient
    is that of one squared error to ``alpha * teacher + (1 - alpha) * target``. The default of alpha
    is that of ``kd``.

    *Needs:* the teacher's outputs themselves: float32 and float16 keep them.
    """

    alpha: Fraction = 0.9
    reads = Fidelity.VALUES
    output = "regression"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        hard = _squared(student, labels.to(student.dtype))
        return self.alpha * _squared(student, teacher) + (1 - self.alpha) * hard


def _squared(student: Tensor, right: Tensor) -> Tensor:
    """(rows,), the mean over the targets, which are (rows,) where there is one. Raises ModelError
    for other widths, which torch would broadcast."""
    right = right if right.ndim == 2 else right[:, None]
    OUTPUTS["regression"].check(right[:0], _NO_IDS, student.shape[1])
    return (student - right).square().mean(dim=1)
