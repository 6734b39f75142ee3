"""Normalised knowledge distillation (Yang et al., ICCV 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class NKD(Objective):
    """NKD, with normalised non-target classes (Yang et al., ICCV 2023, arXiv 2303.13005).

    *Loss:* ``hard * cross-entropy - p_t * log q_t - gamma * T^2 * sum(p' * log q')``, where p_t and
    q_t are teacher's and student's probabilities of the label at temperature 1, and p' and q' their
    distributions over all other classes at T, the sum being over these.

    *Our reading:* these are cross-entropies, as published, and not divergences, so the least value
    is not 0. In place of a label that the data lack stands the teacher's top class.

    *Needs:* the teacher's softmax at two temperatures, and so the differences of its logits:
    float16, float32 or a live teacher.

    Attributes:
        temperature: T > 0, of the distributions over the other classes.
        gamma: the weight of the other classes.
        hard: the weight of the cross-entropy with the label.
    """

    temperature: float = 1.0
    gamma: float = 1.5
    hard: float = 1.0
    needs_targets = True
    reads = Fidelity.DIFFERENCES

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature)
        numerics.check_not_negative(gamma=self.gamma, hard=self.hard)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        confidence = F.softmax(teacher, dim=1).gather(1, labels[:, None])[:, 0]
        of_student, of_teacher = (
            numerics.without_label(given / self.temperature, labels) for given in (student, teacher)
        )
        others = -(of_teacher.exp() * of_student).sum(dim=1)
        hard = numerics.cross_entropy(logits, labels)
        return (self.hard + confidence) * hard + self.gamma * self.temperature**2 * others
