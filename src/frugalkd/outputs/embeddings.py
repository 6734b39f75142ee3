"""Embeddings: what is right is the teacher's embedding of the same view."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from frugalkd.errors import ModelError, TargetsError
from frugalkd.ledger.outcome import Outcome
from frugalkd.outputs.output import ScoredOutput


@final
class Embeddings(ScoredOutput):
    """Embeddings (rows, width) of the student, projected where the teacher's are of another width.

    The distance of a row is ``1 - cos(student - m, teacher - m)``, m being the teacher's mean over
    the pool: embeddings of many models lie in a narrow cone, in which any two have a cosine near 1.
    The teacher's mean output has the distance 1 from every row, so that d0 is 1 and the score is
    the cosine. Labels of the data are not read.
    """

    name = plural = "embeddings"
    labelled = False
    label_form = "embeddings have no labels, since the teacher's are right: leave labels out"

    def as_labels(self, labels: Tensor) -> Tensor | None:
        return labels if labels.dtype.is_floating_point and labels.ndim == 2 else None

    def check(self, right: Tensor, ids: NDArray[np.int64], width: int) -> None:
        if right.shape[1] != width:
            raise ModelError(
                f"the model gives embeddings of {width} numbers and the teacher of "
                f"{right.shape[1]}: let the objective project them (EmbedDistill(project=True) and "
                "frugalkd.objectives.criterion.bind), or end the model with a linear layer"
            )

    def from_teacher(self, targets: Tensor) -> Tensor:
        return targets

    def scored(self, outputs: Tensor, right: Tensor, reference: Mapping[str, Tensor]) -> Outcome:
        mean = reference["mean"]
        score = F.cosine_similarity(outputs - mean, right - mean, dim=1)
        return Outcome(score, score > 0, score, distance=1 - score)

    def losses(self, outputs: Tensor, right: Tensor) -> Tensor:
        return 1 - F.cosine_similarity(outputs.float(), right.float(), dim=1)

    def predictions(self, outputs: Tensor) -> Tensor:
        return outputs.float()

    def reference(self, right: Tensor, *, by_teacher: bool) -> dict[str, Any]:
        right = right.double()
        mean = right.mean(dim=0)
        if not ((right - mean).norm(dim=1) > 1e-6 * right.norm(dim=1)).any():
            raise TargetsError(
                f"the teacher gives {len(right)} samples one and the same embedding: there is "
                "nothing to learn, check its weights and inputs"
            )
        return {"mean": mean.float().numpy(), "d0": np.ones(1, dtype=np.float32)}
