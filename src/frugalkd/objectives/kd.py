"""Hinton's knowledge distillation (Hinton, Vinyals and Dean, arXiv 1503.02531)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives._objective import Objective


@dataclass(frozen=True)
class KD(Objective):
    """``alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross-entropy``.

    Attributes:
        temperature: T > 0, of both softmaxes in the soft part.
        alpha: the soft part's share, in [0, 1].
    """

    temperature: float = 4.0
    alpha: float = 0.9
    needs_targets = True

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature must be positive, not {self.temperature}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must be in [0, 1], not {self.alpha}")

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        if targets is None:
            raise ValueError("knowledge distillation needs the teacher's outputs")
        logits = logits.float()
        student = F.log_softmax(logits / self.temperature, dim=1)
        teacher = F.log_softmax(targets.float() / self.temperature, dim=1)
        soft = F.kl_div(student, teacher, reduction="none", log_target=True).sum(dim=1)
        hard = F.cross_entropy(logits, labels, reduction="none")
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * hard
