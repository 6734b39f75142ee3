"""Similarity preserving: rows that excite the teacher alike (Tung and Mori, ICCV 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen


@dataclass(frozen=True)
class SimilarityPreserving(FeatureObjective):
    """Similarity-preserving knowledge distillation (Tung and Mori, ICCV 2019, arXiv 1907.09682).

    *Loss:* ``soft * SP + hard * cross-entropy``. With the features Q (rows, values), flattened, the
    similarities are ``Q Q'``, each row of them divided by its norm; SP is the mean over all pairs
    of rows (i, j) of the squared difference of student's and teacher's; of several pairs of modules
    the sum.

    *Our reading:* none is needed but for the weights; shapes may differ, since only products of
    rows of one model are compared.

    *Weights:* the pair (i, j) weighs w_i * w_j, over the square of the number of rows, and a
    row's norm is that of weighted similarities: a weight of 2 is the row twice.

    *Needs:* the teacher's features.

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
        soft: the weight of SP.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    soft: float = 3000.0
    hard: float = 1.0
    mixes_rows = True

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        apart = weights.new_zeros(len(weights))
        for student, teacher in zip(seen.student, seen.teacher, strict=True):
            difference = _similarities(student, weights) - _similarities(teacher, weights)
            apart = apart + difference.square() @ weights / len(weights)
        return apart


def _similarities(feature: Tensor, weights: Tensor) -> Tensor:
    """(rows, rows), each row of weighted norm 1; 0 where the feature is."""
    rows = feature.flatten(1)
    products = rows @ rows.T
    norms = torch.linalg.vector_norm(weights.sqrt() * products, dim=1, keepdim=True)
    return numerics.over(products, norms)
