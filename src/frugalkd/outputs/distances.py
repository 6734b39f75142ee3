"""Whatever a model gives: the loop that trains it computes how far each row is from right."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.errors import TargetsError
from frugalkd.ledger.outcome import Outcome
from frugalkd.outputs.output import ScoredOutput

ROUNDING = 1e-3
"""How far below 0 a distance may come to be."""


@final
class Distances(ScoredOutput):
    """The outputs of a row are the distances (rows, heads) of a model's heads from what is right,
    each over the mean distance of a model that knows nothing: 0 where a head is right, 1 where it
    knows nothing. The distance of a row is the largest of them, so that its score is the lowest of
    its heads. One below 0 by more than rounding counts as not finite. Labels are not read.
    """

    name = plural = "distances"
    labelled = False
    by_loss = by_loop = True
    label_form = "distances have no labels: the loop compares its outputs with them"

    def as_labels(self, labels: Tensor) -> Tensor | None:
        return None

    def check(self, right: Tensor, ids: NDArray[np.int64], width: int) -> None:
        """Nothing is given."""

    def from_teacher(self, targets: Tensor) -> Tensor:
        raise TargetsError("a teacher gives no distances: compute them in the loop")

    def scored(self, outputs: Tensor, right: Tensor, reference: Mapping[str, Tensor]) -> Outcome:
        largest = self.losses(outputs, right)
        return Outcome(1 - largest, largest < 1, 1 - largest, distance=largest)

    def losses(self, outputs: Tensor, right: Tensor) -> Tensor:
        low, high = outputs.float().aminmax(dim=1)
        return torch.where(low < -ROUNDING, torch.nan, high.clamp_min(0))

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.float()
