"""Relational knowledge distillation: distances and angles (Park et al., CVPR 2019)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.features import FeatureObjective, Paths
from frugalkd.objectives.seen import Seen


@dataclass(frozen=True)
class RKD(FeatureObjective):
    """Relational knowledge distillation (Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068).

    *Loss:* ``distance * D + angle * A + hard * cross-entropy``. D is the mean over all pairs of
    rows of Huber's loss of student's and teacher's distance of the two features, flattened, each
    divided by the mean over the pairs of its own model; A is the mean over all triplets (i, j, k)
    of Huber's loss of student's and teacher's cosine of the angle at j. Huber's loss is ``d^2 / 2``
    up to 1 and ``|d| - 1/2`` beyond. Of several pairs of modules the sum.

    *Our reading:* the means D and A go over all rows * rows pairs and all rows^3 triplets, as in
    the authors' code, those with themselves being 0; the mean distance is of pairs of two different
    rows, as in the paper. The cosine at a row with itself, or with one of the very same features,
    is 0.

    *Weights:* the pair (i, j) weighs w_i * w_j, in D and in the mean distance, the triplet w_i *
    w_j * w_k; it counts with j.

    *Needs:* the teacher's features. A takes rows^3 values of memory.

    Attributes:
        student: module paths or globs, of the student.
        teacher: as many of the teacher, in the order in which they belong together.
        distance: the weight of D.
        angle: the weight of A.
        soft: the weight of both.
        hard: the weight of the cross-entropy with the label.
    """

    student: Paths
    teacher: Paths
    distance: float = 25.0
    angle: float = 50.0
    soft: float = 1.0
    hard: float = 1.0
    mixes_rows = True

    def check(self) -> None:
        numerics.check_not_negative(distance=self.distance, angle=self.angle)

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        apart = weights.new_zeros(len(weights))
        for student, teacher in zip(seen.student, seen.teacher, strict=True):
            pairs = [_distances(feature.flatten(1)) for feature in (student, teacher)]
            if self.distance:
                scaled = [_scaled(distances, weights) for distances in pairs]
                losses = F.smooth_l1_loss(scaled[0], scaled[1], reduction="none")
                apart = apart + self.distance * (losses @ weights) / len(weights)
            if self.angle:
                of_student = _cosines(student.flatten(1), pairs[0])
                of_teacher = _cosines(teacher.flatten(1), pairs[1])
                losses = F.smooth_l1_loss(of_student, of_teacher, reduction="none")
                apart = apart + self.angle * (losses @ weights @ weights) / len(weights) ** 2
        return apart


def _distances(rows: Tensor) -> Tensor:
    """(rows, rows); from differences, so that near rows keep their digits."""
    return torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")


def _scaled(distances: Tensor, weights: Tensor) -> Tensor:
    """Over the mean of those of two different rows."""
    pairs = (weights[:, None] * weights).fill_diagonal_(0.0)
    mean = numerics.over((pairs * distances).sum(), pairs.sum())
    return numerics.over(distances, mean)


def _cosines(rows: Tensor, distances: Tensor) -> Tensor:
    """(rows, rows, rows), at [j, i, k] the cosine of the angle at j between i and k; from products
    of rows, which take less memory than the differences."""
    rows = rows - rows.detach().mean(0)  # no difference knows it, and small products lose less
    products = rows @ rows.T
    own = products.diagonal()
    between = products - products[:, :, None] - products[:, None, :] + own[:, None, None]
    return numerics.over(between, distances[:, :, None] * distances[:, None, :])
