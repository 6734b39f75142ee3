"""Relations in place of values: DIST (Huang et al., NeurIPS 2022)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective
from frugalkd.teachers.fidelity import Fidelity

_SMALLEST = 1e-8  # a norm that anything is divided by


@dataclass(frozen=True)
class DIST(BatchObjective):
    """DIST, from a stronger teacher (Huang et al., NeurIPS 2022, arXiv 2205.10536).

    *Loss:* ``T^2 * (beta * inter + gamma * intra) + hard * cross-entropy``. Inter is 1 - the
    correlation (Pearson's) of student's and teacher's probabilities over the classes of a row,
    intra that over the rows of the batch, the mean of all classes; both are of softmaxes at T.

    *Our reading:* a norm below 1e-8 counts as that, so that what does not vary has the correlation
    0; in a batch of one row intra is 1.

    *Weights:* the moments over the batch are weighted, and intra counts sum(weights) / rows times.
    A row's part of it is what it adds to the correlations.

    *Needs:* the probability of every class, each on its own: float16, float32 or a live teacher.
    Under top-k the less likely classes would share theirs evenly, which correlates with nothing.

    Attributes:
        temperature: T > 0, of both softmaxes.
        beta: the weight of inter.
        gamma: the weight of intra.
        hard: the weight of the cross-entropy with the label.
    """

    temperature: float = 1.0
    beta: float = 1.0
    gamma: float = 1.0
    hard: float = 1.0
    needs_targets = True
    reads = Fidelity.DIFFERENCES

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature)
        numerics.check_not_negative(beta=self.beta, gamma=self.gamma, hard=self.hard)

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        student, teacher = (
            logs.exp() for logs in numerics.softened(logits, targets, self.temperature)
        )
        weights = numerics.weights_or_ones(weights, student)
        over_classes = student.new_ones(student.shape[1])
        inter = 1 - _parts(student.T, teacher.T, over_classes).sum(dim=0)
        intra = 1 - weights.sum() * _parts(student, teacher, weights).mean(dim=1)
        soft = self.temperature**2 * (self.beta * inter + self.gamma * intra)
        return soft + self.hard * numerics.cross_entropy(logits, labels)


def _parts(one: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """(n, columns), such that ``sum(weights * parts)`` over the n rows, which weigh ``weights``
    (n,), is the correlation of each column of ``one`` with that of ``other``, both (n, columns)."""
    weights = weights[:, None]
    total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    parts = []
    for values in (one, other):
        centred = values - (weights * values).sum(dim=0) / total
        norm = torch.linalg.vector_norm(weights.sqrt() * centred, dim=0)
        parts.append(centred / norm.clamp_min(_SMALLEST))
    return parts[0] * parts[1]
