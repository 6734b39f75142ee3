"""What an objective is: a loss with one value per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

from torch import Tensor

from frugalkd.objectives.seen import Seen
from frugalkd.runtime.settings import Settings
from frugalkd.teachers.fidelity import Fidelity


class Step(NamedTuple):
    """What a training step has to say to an objective.

    ``logits``, ``targets``, ``labels`` and ``weights`` as for :class:`BatchObjective`; ``progress``
    of the training, in [0, 1); ``seen``, for each term of an objective that reads features (one
    where it is no sum), what it sees of them, else None.
    """

    logits: Tensor
    targets: Tensor | None
    labels: Tensor
    weights: Tensor | None = None
    progress: float = 0.0
    seen: tuple[Seen | None, ...] = (None,)


class Objective(Settings, ABC):
    """A distillation loss that is never reduced here, so that every sample can be weighed."""

    needs_targets: bool
    """Whether it reads the teacher's outputs; without that no teacher is asked."""

    reads: Fidelity = Fidelity.DRAWS
    """How much of the teacher's logits it reads; soft targets that keep less are refused. Below
    ``DIFFERENCES`` it reads their softmax at its attribute ``temperature`` only."""

    mixes_rows: bool = False
    """Whether a sample's loss is made with the other samples of its batch."""

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

    def losses(self, step: Step) -> Tensor:
        """The objective of a training step: it takes of it what it needs."""
        return self(step.logits, step.targets, step.labels)

    @property
    def terms(self) -> tuple[Objective, ...]:
        """What it sums: itself, where it is no sum."""
        return (self,)

    def at(self, progress: float) -> Objective:
        """As it is at ``progress`` of the training, in [0, 1]: the same, where nothing is
        scheduled."""
        return self

    def __repr__(self) -> str:
        """Its settings, which tell one training from another; dataclasses have one of their own."""
        settings = (f"{name}={value!r}" for name, value in sorted(vars(self).items()))
        return f"{type(self).__qualname__}({', '.join(settings)})"


class BatchObjective(Objective):
    """One whose loss of a sample is made with the other samples of the batch, and so with their
    weights: a pair (i, j) weighs ``w_i * w_j``, and means over the batch are weighted.

    Every weight counts once: here those of the others, and in ``Batch.reduce`` the sample's own. So
    ``reduce`` is the same for all objectives, and what the ledger is told stays unweighted.
    """

    mixes_rows = True

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

    def losses(self, step: Step) -> Tensor:
        return self(step.logits, step.targets, step.labels, step.weights)
