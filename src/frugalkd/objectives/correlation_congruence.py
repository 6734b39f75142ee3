"""Correlation congruence, on logits (Peng et al., ICCV 2019)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class CorrelationCongruence(BatchObjective):
    """Correlation congruence of the logits (Peng et al., ICCV 2019, arXiv 1904.01802).

    *Loss:* ``soft * CC + hard * cross-entropy``. CC is the mean over all pairs of rows (i, j) of
    the squared difference between student's and teacher's kernel of the two, the Gaussian
    ``exp(-gamma * |x_i - x_j|^2)`` of rows of norm 1, by its Taylor series in their product:
    ``exp(-2 * gamma) * sum((2 * gamma * x_i . x_j)^p / p!)`` for p = 0 .. order.

    *Our reading:* on the logits, each row divided by its norm, where the paper has embeddings of
    the last features; the paper adds KD, which is left to a sum of objectives. The weights are ours
    to set.

    *Weights:* the pair (i, j) weighs w_i * w_j, over the square of the number of rows.

    *Needs:* the teacher's logits themselves, since their angles change with a shift: float32 or a
    live teacher.

    Attributes:
        gamma: of the kernel, > 0.
        order: of the series, 1 or more.
        soft: the weight of CC.
        hard: the weight of the cross-entropy with the label.
    """

    gamma: float = 0.4
    order: int = 2
    soft: float = 1.0
    hard: float = 1.0
    needs_targets = True
    reads = Fidelity.LOGITS

    def __post_init__(self) -> None:
        numerics.check_positive(gamma=self.gamma, order=self.order)
        numerics.check_not_negative(soft=self.soft, hard=self.hard)

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        weights = numerics.weights_or_ones(weights, student)
        with numerics.whole(logits):
            student, teacher = self._kernel(student), self._kernel(teacher)
            congruence = (student - teacher).square() @ weights / len(student)
        return self.soft * congruence + self.hard * numerics.cross_entropy(logits, labels)

    def _kernel(self, logits: Tensor) -> Tensor:
        """(rows, rows)."""
        rows = F.normalize(logits, dim=1)
        scaled = 2 * self.gamma * (rows @ rows.T)
        term = series = torch.ones_like(scaled)
        for power in range(1, self.order + 1):
            term = term * scaled / power
            series = series + term
        return math.exp(-2 * self.gamma) * series
