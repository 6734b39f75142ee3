"""Probabilistic knowledge transfer, on logits (Passalis and Tefas, ECCV 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective
from frugalkd.teachers.fidelity import Fidelity

_EPSILON = 1e-7


@dataclass(frozen=True)
class PKT(BatchObjective):
    """Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018, 1803.10837), of logits.

    *Loss:* ``soft * M + hard * cross-entropy``. The similarity of two rows is (1 + cosine) / 2 of
    their logits; divided by its sum over j it is the probability p_j|i of row j given row i. M is
    the mean over all pairs (i, j) of ``p_j|i * log((p_j|i + 1e-7) / (q_j|i + 1e-7))``, p of the
    teacher and q of the student.

    *Our reading:* on the logits, where the paper has features. A row counts among its own
    neighbours, and the mean is over rows * rows values, as in the authors' code: M falls with the
    square of the batch, hence a large weight.

    *Weights:* a neighbour's similarity counts weights times in the probabilities, and the
    divergence of row i counts w_i times, so that the pair (i, j) weighs w_i * w_j.

    *Needs:* the teacher's logits themselves, since their angles change with a shift: float32 or a
    live teacher.

    Attributes:
        soft: the weight of M.
        hard: the weight of the cross-entropy with the label.
    """

    soft: float = 30000.0
    hard: float = 1.0
    needs_targets = True
    reads = Fidelity.LOGITS

    def __post_init__(self) -> None:
        numerics.check_not_negative(soft=self.soft, hard=self.hard)

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        weights = numerics.weights_or_ones(weights, student)
        with numerics.whole(logits):
            student, teacher = _neighbours(student, weights), _neighbours(teacher, weights)
        ratio = (teacher + _EPSILON).log() - (student + _EPSILON).log()
        transfer = (teacher * ratio).mean(dim=1)
        return self.soft * transfer + self.hard * numerics.cross_entropy(logits, labels)


def _neighbours(logits: Tensor, weights: Tensor) -> Tensor:
    """(rows, rows), each row a distribution over the rows of the batch."""
    rows = F.normalize(logits, dim=1)
    similarity = weights * (1 + rows @ rows.T) / 2
    whole = similarity.sum(dim=1, keepdim=True)
    return similarity / whole.clamp_min(torch.finfo(similarity.dtype).tiny)
