"""Losses of features that compare the rows of a batch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import FeatureObjective
from frugalkd.runtime.settings import NotNegative

_EXACT = "donot_use_mm_for_euclid_dist"
"""Distances from differences, so that near rows keep their digits."""


@dataclass(frozen=True)
class SimilarityPreserving(FeatureObjective):
    """Similarity-preserving knowledge distillation (Tung and Mori, ICCV 2019, arXiv 1907.09682).

    *Loss:* ``soft * SP + hard * cross-entropy``. With the features Q (rows, values), flattened, the
    similarities are ``Q Q'``, each row of them divided by its norm; SP is the mean over all pairs
    of rows (i, j) of the squared difference of student's and teacher's.

    *Our reading:* none is needed but for the weights; shapes may differ, since only products of
    rows of one model are compared.

    *Weights:* the pair (i, j) weighs w_i * w_j, over the square of the number of rows, and a
    row's norm is that of weighted similarities: a weight of 2 is the row twice.
    """

    soft: NotNegative = 3000.0
    hard: NotNegative = 1.0
    mixes_rows = True

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        difference = _similarities(student, weights) - _similarities(teacher, weights)
        return difference.square() @ weights / len(weights)


def _similarities(feature: Tensor, weights: Tensor) -> Tensor:
    """(rows, rows), each row of weighted norm 1; 0 where the feature is."""
    rows = feature.flatten(1)
    products = rows @ rows.T
    norms = torch.linalg.vector_norm(weights.sqrt() * products, dim=1, keepdim=True)
    return numerics.over(products, norms)


@dataclass(frozen=True)
class RKD(FeatureObjective):
    """Relational knowledge distillation (Park, Kim, Lu and Cho, CVPR 2019, arXiv 1904.05068).

    *Loss:* ``distance * D + angle * A + hard * cross-entropy``. D is the mean over all pairs of
    rows of Huber's loss of student's and teacher's distance of the two features, flattened, each
    divided by the mean over the pairs of its own model; A is the mean over all triplets (i, j, k)
    of Huber's loss of student's and teacher's cosine of the angle at j. Huber's loss is ``d^2 / 2``
    up to 1 and ``|d| - 1/2`` beyond.

    *Our reading:* the means D and A go over all rows * rows pairs and all rows^3 triplets, as in
    the authors' code, those with themselves being 0; the mean distance is of pairs of two different
    rows, as in the paper. The cosine at a row with itself, or with one of the very same features,
    is 0.

    *Weights:* the pair (i, j) weighs w_i * w_j, in D and in the mean distance, the triplet w_i *
    w_j * w_k; it counts with j.

    *Needs:* rows^3 values of memory for A.

    Attributes:
        distance: the weight of D.
        angle: the weight of A.
    """

    distance: NotNegative = 25.0
    angle: NotNegative = 50.0
    soft: NotNegative = 1.0
    hard: NotNegative = 1.0
    mixes_rows = True

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        features = student.flatten(1), teacher.flatten(1)
        distances = [torch.cdist(rows, rows, compute_mode=_EXACT) for rows in features]
        apart = weights.new_zeros(len(weights))
        if self.distance:
            one, other = (_scaled(each, weights) for each in distances)
            losses = F.smooth_l1_loss(one, other, reduction="none")
            apart = apart + self.distance * (losses @ weights) / len(weights)
        if self.angle:
            one, other = map(_cosines, features, distances)
            losses = F.smooth_l1_loss(one, other, reduction="none")
            apart = apart + self.angle * (losses @ weights @ weights) / len(weights) ** 2
        return apart


def _scaled(distances: Tensor, weights: Tensor) -> Tensor:
    """Over the mean of those of two different rows."""
    pairs = (weights[:, None] * weights).fill_diagonal_(0.0)
    mean = numerics.over((pairs * distances).sum(), pairs.sum())
    return numerics.over(distances, mean)


def _cosines(rows: Tensor, distances: Tensor) -> Tensor:
    """(rows, rows, rows), at [j, i, k] the cosine of the angle at j between i and k; from products
    of rows, which take less memory than the differences."""
    rows = rows - rows.detach().mean(0)  # no difference depends on it, and small products lose less
    products = rows @ rows.T
    own = products.diagonal()
    between = products - products[:, :, None] - products[:, None, :] + own[:, None, None]
    return numerics.over(between, distances[:, :, None] * distances[:, None, :])
