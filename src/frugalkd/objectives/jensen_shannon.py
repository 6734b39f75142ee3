"""Between the two Kullback-Leibler divergences (Agarwal et al., ICLR 2024)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class JensenShannon(Objective):
    """The generalised Jensen-Shannon divergence (GKD, Agarwal et al., ICLR 2024, arXiv 2306.13649).

    *Loss:* ``alpha * T^2 * JS + (1 - alpha) * cross-entropy``, where ``JS = beta * KL(teacher_T ||
    M) + (1 - beta) * KL(student_T || M)`` and the mixture is ``M = beta * teacher_T + (1 - beta) *
    student_T``.

    *Our reading:* beta = 0 is KL(teacher || student), and so KD exactly; beta = 1 is KL(student ||
    teacher), the reverse. Near these ends JS is beta or 1 - beta times as large as the end itself,
    to which it does not lead without a jump. GKD scales nothing by T^2 and has no cross-entropy:
    that is T = 1 and alpha = 1.

    *Needs:* the teacher's softmax at T: top-k, float16, float32 or a live teacher. Draws are
    refused: only beta = 0 is linear in the teacher's probabilities, and that is KD.

    Attributes:
        beta: from KL(teacher || student) at 0 to KL(student || teacher) at 1.
        temperature: T > 0, of both softmaxes in the soft part.
        alpha: the soft part's share, in [0, 1].
    """

    beta: float = 0.5
    temperature: float = 4.0
    alpha: float = 0.9
    needs_targets = True
    reads = Fidelity.SOFTMAX

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature)
        numerics.check_share(beta=self.beta, alpha=self.alpha)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        soft = self.temperature**2 * self._between(student, teacher)
        return self.alpha * soft + (1 - self.alpha) * numerics.cross_entropy(logits, labels)

    def _between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """JS, or one of its ends, (rows,), from the logarithms of both softmaxes."""
        if self.beta == 0:
            return numerics.divergence(teacher, student)
        if self.beta == 1:
            return numerics.divergence(student, teacher)
        mixture = torch.logaddexp(teacher + math.log(self.beta), student + math.log1p(-self.beta))
        of_teacher = numerics.divergence(teacher, mixture)
        of_student = numerics.divergence(student, mixture)
        return self.beta * of_teacher + (1 - self.beta) * of_student
