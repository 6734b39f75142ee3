"""Several labels a sample, each of which it has or has not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from frugalkd.errors import DataError, ModelError, TargetsError
from frugalkd.ledger.outcome import Outcome
from frugalkd.outputs.output import ScoredOutput


@final
class SeveralLabels(ScoredOutput):
    """Logits (rows, labels), one sigmoid for each; labels (rows, labels) of 0 and 1, or, where the
    teacher decides, its probabilities.

    Against labels, the confidence is the probability of the least confident right answer: of a
    label that the sample has, or of the absence of another; a row is correct where all answers are.
    Against the teacher, the distance is half the sum over the labels of the absolute difference of
    both probabilities, over the number of labels that the teacher expects, at least 1: a largest
    difference would grow with the number of labels. d0 is the mean distance of the teacher's mean
    probabilities.
    """

    name = "several-labels"
    plural = "several labels"
    label_form = "0 or 1 for each label are needed, (samples, labels), and no class indices"

    def as_labels(self, labels: Tensor) -> Tensor | None:
        return None if labels.ndim != 2 or labels.is_complex() else labels.float()

    def check(self, right: Tensor, ids: NDArray[np.int64], width: int) -> None:
        """Labels in main memory have to be 0 or 1, or probabilities."""
        if right.shape[1] != width:
            raise ModelError(
                f"the model gives {width} logits a sample, and there are {right.shape[1]} labels: "
                "end the model with a linear layer of one output a label"
            )
        if right.device.type != "cpu":
            return
        bad = ~((right >= 0) & (right <= 1)).all(dim=1)
        if bad.any():
            first = int(bad.nonzero()[0, 0])
            value = right[first][~((right[first] >= 0) & (right[first] <= 1))][0]
            raise DataError(
                f"a label of sample {ids[first]} is {value:g}: give 1 for each that it has, and 0 "
                "for the others"
            )

    def from_teacher(self, targets: Tensor) -> Tensor:
        return torch.sigmoid(targets.float())

    def scored(self, outputs: Tensor, right: Tensor, reference: Mapping[str, Tensor]) -> Outcome:
        if "mean" in reference:  # the teacher decides
            relative = _apart(torch.sigmoid(outputs), right) / reference["d0"]
            score = 1 - relative
            return Outcome(score, score > 0, score, distance=relative)
        signed = torch.where(right >= 0.5, outputs, -outputs).amin(dim=1)
        least = torch.sigmoid(signed)
        return Outcome(least, signed > 0, least, distance=1 - least)

    def losses(self, outputs: Tensor, right: Tensor) -> Tensor:
        losses = F.binary_cross_entropy_with_logits(outputs.float(), right, reduction="none")
        return losses.mean(dim=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        return torch.sigmoid(outputs.float())

    def words(self, row: NDArray[Any], names: Sequence[str]) -> str:
        """The names of the labels that are more likely than not."""
        return ", ".join(names[place] for place in np.flatnonzero(row >= 0.5).tolist()) or "none"

    def not_finite(self, outputs: Tensor) -> Tensor:
        """Rows without probabilities. A logit may be infinite."""
        return outputs.isnan().any(dim=1)

    def reference(self, right: Tensor, *, by_teacher: bool) -> dict[str, Any]:
        mean = right.mean(dim=0)
        if by_teacher:
            d0 = _apart(mean.expand_as(right), right).mean().item()
            if d0 <= 1e-6:
                raise TargetsError(
                    f"the teacher gives {len(right)} samples the same probabilities: there is "
                    "nothing to learn, check its weights and inputs"
                )
            return {"mean": mean.numpy(), "d0": np.array([d0], dtype=np.float32)}
        if ((mean == 0) | (mean == 1)).all():
            raise TargetsError(
                f"all of {len(right)} samples have the same labels: there is nothing to learn"
            )
        return {"d0": np.ones(1, dtype=np.float32)}


def _apart(given: Tensor, right: Tensor) -> Tensor:
    """(rows,), of two probabilities (rows, labels)."""
    return (given - right).abs().sum(dim=1) / (2 * right.sum(dim=1).clamp(min=1))
