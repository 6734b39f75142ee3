"""What an objective is: a loss with one value per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from frugalkd.fidelity import Fidelity


class Objective(ABC):
    """A distillation loss that is never reduced here, so that every sample can be weighed."""

    needs_targets: ClassVar[bool]
    """Whether it reads the teacher's outputs; without that no teacher is asked."""

    reads: ClassVar[Fidelity] = Fidelity.DRAWS
    """How much of the teacher's logits it reads; soft targets that keep less are refused. Below
    ``DIFFERENCES`` it reads their softmax at its attribute ``temperature`` only."""

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        """One loss per sample.

        Args:
            logits: the student's (rows, classes), any floating dtype.
            targets: the teacher's logits (rows, classes), or None where none are needed.
            labels: int64 (rows,).

        Returns:
            float32 (rows,); float64 where ``logits`` are.
        """


class BatchObjective(Objective):
    """One whose loss of a sample is made with the other samples of the batch, and so with their
    weights: a pair (i, j) weighs ``w_i * w_j``, and means over the batch are weighted.

    Every weight counts once: here those of the others, and in ``Batch.reduce`` the sample's own. So
    ``reduce`` is the same for all objectives, and what the ledger is told stays unweighted.
    """

    @abstractmethod
    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        """One loss per sample, such that ``sum(weights * losses) / rows`` is the batch's loss;
        where all weights are 1 that is the published one.

        A row's own value may be negative: only the sum is a distance.

        Args:
            logits, targets, labels: as for every objective.
            weights: (rows,), not negative; None where all are 1.

        Returns:
            float32 (rows,); float64 where ``logits`` are.
        """
