"""Weighted transformed teacher matching (Zheng and Yang, ICLR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class WTTM(Objective):
    """Weighted transformed teacher matching (Zheng and Yang, ICLR 2024, arXiv 2402.11148).

    *Loss:* ``beta * U * KL(teacher_T || student_1) + hard * cross-entropy``: only the teacher is
    softened, and ``U = sum(p ** (1 / T))`` over the classes, p being the teacher's probabilities at
    temperature 1, is larger the less sure the teacher is.

    *Our reading:* nothing is scaled by T^2, since the student's softmax is at 1. The paper chooses
    beta for each pair of models; 1 is only a start.

    *Needs:* the teacher's softmax at two temperatures, and so the differences of its logits:
    float16, float32 or a live teacher.

    Attributes:
        temperature: T > 0, of the teacher's softmax.
        beta: the weight of the divergence.
        hard: the weight of the cross-entropy with the label.
    """

    temperature: float = 4.0
    beta: float = 1.0
    hard: float = 1.0
    needs_targets = True
    reads = Fidelity.DIFFERENCES

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature)
        numerics.check_not_negative(beta=self.beta, hard=self.hard)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        powers = F.log_softmax(teacher, dim=1) / self.temperature
        unsure = powers.logsumexp(dim=1, keepdim=True)
        soft = numerics.divergence(powers - unsure, F.log_softmax(student, dim=1))
        hard = numerics.cross_entropy(logits, labels)
        return self.beta * unsure[:, 0].exp() * soft + self.hard * hard
