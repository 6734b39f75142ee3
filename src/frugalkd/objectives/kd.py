"""Hinton's knowledge distillation (Hinton, Vinyals and Dean, arXiv 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective


@dataclass(frozen=True)
class KD(Objective):
    """Knowledge distillation (Hinton, Vinyals and Dean, arXiv 1503.02531).

    *Loss:* ``alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross-entropy``, where the
    index T means the softmax at that temperature.

    *Our reading:* T^2, which keeps the gradient's size as T grows, multiplies the soft part.

    *Needs:* the teacher's softmax at T, in which its gradient is linear: every encoding will do.

    Attributes:
        temperature: T > 0, of both softmaxes in the soft part.
        alpha: the soft part's share, in [0, 1].
    """

    temperature: float = 4.0
    alpha: float = 0.9
    needs_targets = True

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature)
        numerics.check_share(alpha=self.alpha)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        soft = numerics.divergence(teacher, student)
        hard = numerics.cross_entropy(logits, labels)
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * hard
