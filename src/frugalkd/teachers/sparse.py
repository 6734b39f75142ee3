"""A teacher's distribution by some of its classes, as it is kept where there are many."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

_NOTHING = 1e-30  # stands for the probability 0, so that logarithms stay finite


@dataclass(frozen=True)
class Sparse:
    """For each row some classes and what they weigh: for any function f of the class the sum of
    ``weights * f(classes)`` stands for the teacher's expectation of f at temperature 1.

    Attributes:
        classes: int64 (rows, n); a class that is there twice counts twice.
        weights: float32 (rows, n), >= 0; with ``rest`` they sum to 1.
        information: float32 (rows,), what stands for the expectation of log p, the teacher's.
        rest: float32 (rows,), the probability of all other classes together; None: each class is
            represented, by itself or in expectation.
    """

    classes: Tensor
    weights: Tensor
    information: Tensor
    rest: Tensor | None = None

    def __len__(self) -> int:
        return len(self.classes)

    @property
    def shape(self) -> torch.Size:
        """Of ``classes``."""
        return self.classes.shape

    def part(self, rows: slice) -> Sparse:
        """Those of the ``rows``."""
        return self._each(lambda tensor: tensor[rows])

    def to(self, *where: Any, **how: Any) -> Sparse:
        """On another device, as ``Tensor.to``."""
        return self._each(lambda tensor: tensor.to(*where, **how))

    def divergence(self, logs: Tensor, others: Tensor | None = None) -> Tensor:
        """KL(teacher || student), (rows,), of the logarithms ``logs`` (rows, n) of the student's
        softmax at ``classes``; with ``rest``, the other classes are one outcome, of whose sum
        ``others`` (rows,) is the logarithm. Without it 1 - the sum at ``classes`` has few digits,
        and no gradient where that is nearly 1."""
        crossed = (self.weights * logs).sum(dim=1)
        if self.rest is not None:
            if others is None:
                # A class twice is counted twice: only exact tops have a rest, and no class twice.
                others = torch.log1p(-logs.exp().sum(dim=1).clamp(max=1 - 1e-6))
            crossed = crossed + self.rest * others
        return self.information - crossed

    def logits(self, classes: int) -> Tensor:
        """Logits float32 (rows, classes) whose softmax is that of the weights, ``rest`` being
        shared evenly; a class without a weight has the probability 1e-30."""
        shares = self.weights.new_zeros(len(self), classes)
        shares.scatter_add_(1, self.classes, self.weights)
        if self.rest is not None:
            others = max(1, classes - self.shape[1])
            spread = (self.rest / others)[:, None].expand(-1, classes)
            shares = torch.where(shares > 0, shares, spread)
        return shares.clamp_min(_NOTHING).log()

    def _each(self, change: Callable[[Tensor], Tensor]) -> Sparse:
        return replace(
            self,
            **{name: change(value) for name, value in vars(self).items() if value is not None},
        )
