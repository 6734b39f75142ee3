"""What an objective is: a loss with one value per sample."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor


class Objective(ABC):
    """A distillation loss that is never reduced here, so that every sample can be weighed."""

    needs_targets: ClassVar[bool]
    """Whether it reads the teacher's outputs; without that no teacher is asked."""

    @abstractmethod
    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        """One loss per sample.

        Args:
            logits: the student's (rows, classes), any floating dtype.
            targets: the teacher's logits (rows, classes), or None where none are needed.
            labels: int64 (rows,).

        Returns:
            float32 (rows,).
        """
