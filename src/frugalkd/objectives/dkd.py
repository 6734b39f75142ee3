"""Decoupled knowledge distillation (Zhao et al., CVPR 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class DKD(Objective):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679).

    *Loss:* ``T^2 * (alpha * TCKD + beta * NCKD) + hard * cross-entropy``. TCKD is the divergence
    between the pairs (probability of the label, of all other classes), NCKD that between the
    distributions over the other classes; both are of softmaxes at T. KD is alpha = 1 and beta = the
    teacher's probability of the other classes.

    *Our reading:* the authors raise the soft part linearly in the first epochs; here it is whole
    from the first step. In place of a label that the data lack stands the teacher's top class.

    *Needs:* the teacher's softmax at T: top-k, float16, float32 or a live teacher. Under top-k the
    less likely classes share evenly what they have, and NCKD stresses them. Draws are refused: the
    loss is not linear in the teacher's probabilities.

    Attributes:
        temperature: T > 0, of both softmaxes in the soft parts.
        alpha: the weight of TCKD.
        beta: the weight of NCKD.
        hard: the weight of the cross-entropy with the label.
    """

    temperature: float = 4.0
    alpha: float = 1.0
    beta: float = 8.0
    hard: float = 1.0
    needs_targets = True
    reads = Fidelity.SOFTMAX

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature)
        numerics.check_not_negative(alpha=self.alpha, beta=self.beta, hard=self.hard)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        target = numerics.divergence(_label_or_not(teacher, labels), _label_or_not(student, labels))
        others = numerics.divergence(
            numerics.without_label(teacher, labels), numerics.without_label(student, labels)
        )
        soft = self.temperature**2 * (self.alpha * target + self.beta * others)
        return soft + self.hard * numerics.cross_entropy(logits, labels)


def _label_or_not(logs: Tensor, labels: Tensor) -> Tensor:
    """From logarithms of probabilities those of the label and of all other classes, (rows, 2)."""
    others = logs.masked_fill(numerics.label_mask(logs, labels), -torch.inf)
    return torch.stack([logs.gather(1, labels[:, None])[:, 0], others.logsumexp(dim=1)], dim=1)
