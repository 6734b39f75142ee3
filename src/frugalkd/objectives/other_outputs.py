"""Losses of outputs that are not classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.outputs import OUTPUTS
from frugalkd.runtime.settings import Fraction
from frugalkd.teachers.encodings import Fidelity


@dataclass(frozen=True)
class SquaredError(Objective):
    """Regression without a teacher: no distillation.

    *Loss:* the mean over the targets of ``(student - target)^2``.
    """

    needs_targets = False
    output = "regression"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student = numerics.full(logits)
        return _squared(student, labels.to(student.dtype))


@dataclass(frozen=True)
class RegressionKD(Objective):
    """Distillation of a regression: the loss of KD (Hinton, Vinyals and Dean, arXiv 1503.02531)
    with squared errors in the place of both cross-entropies.

    *Loss:* ``alpha * (student - teacher)^2 + (1 - alpha) * (student - target)^2``, each the mean
    over the targets.

    *Our reading:* the paper is about classes. Of the squared errors it is known that their gradient
    is that of one squared error to ``alpha * teacher + (1 - alpha) * target``. The default of alpha
    is that of ``kd``.

    *Needs:* the teacher's outputs themselves: float32 and float16 keep them.
    """

    alpha: Fraction = 0.9
    reads = Fidelity.VALUES
    output = "regression"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        hard = _squared(student, labels.to(student.dtype))
        return self.alpha * _squared(student, teacher) + (1 - self.alpha) * hard


def _squared(student: Tensor, right: Tensor) -> Tensor:
    """(rows,), the mean over the targets, which are (rows,) where there is one."""
    right = right if right.ndim == 2 else right[:, None]
    _check_width("regression", right, student)
    return (student - right).square().mean(dim=1)


@dataclass(frozen=True)
class BinaryCrossEntropy(Objective):
    """Binary cross-entropy with several labels: no distillation.

    *Loss:* the mean over the labels of ``-log p`` of those that the sample has, and of ``-log(1 -
    p)`` of the others, where p is the sigmoid of the label's logit.
    """

    needs_targets = False
    output = "several-labels"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student = numerics.full(logits)
        return _binary(student, labels.to(student.dtype))


@dataclass(frozen=True)
class MultiLabelKD(Objective):
    """Distillation of several labels: the binary problems of multi-label logits distillation (Yang
    et al., ICCV 2023, arXiv 2308.06453), with the loss of KD.

    *Loss:* ``alpha * BCE(student, teacher) + (1 - alpha) * BCE(student, labels)``, each the mean
    over the labels of the binary cross-entropy with the teacher's probability, the sigmoid of its
    logit, or with 0 or 1.

    *Our reading:* the paper has a divergence for each label, which differs from this by a number
    that does not depend on the student, and adds a loss of embeddings of labels, which is left out.
    No temperature. The default of alpha is that of ``kd``.

    *Needs:* the teacher's outputs themselves, since a sigmoid depends on each: float32 and float16
    keep them.
    """

    alpha: Fraction = 0.9
    reads = Fidelity.VALUES
    output = "several-labels"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        hard = _binary(student, labels.to(student.dtype))
        return self.alpha * _binary(student, teacher.sigmoid()) + (1 - self.alpha) * hard


def _binary(student: Tensor, right: Tensor) -> Tensor:
    """(rows,), the mean over the labels."""
    _check_width("several-labels", right, student)
    return F.binary_cross_entropy_with_logits(student, right, reduction="none").mean(dim=1)


@dataclass(frozen=True)
class EmbedDistill(Objective):
    """Embedding matching of EmbedDistill (Kim et al., arXiv 2301.12005), without labels.

    *Loss:* the distance of the student's embedding from the teacher's: ``1 - cosine``; the mean
    over the values of ``(student - teacher)^2``; or the norm of the difference, the paper's. Where
    the teacher's width is another one, the student's embedding first goes through a linear layer
    that is trained with it, and is not part of it.

    *Our reading:* the paper adds this to a loss of pairs of query and document, which is left out:
    it couples the rows of a batch. sentence-transformers' ``EmbedDistillLoss`` has the same three
    distances, and its ``MSELoss`` is ``mse``. The distance is that of the embeddings as they are;
    the gate judges by their cosine about the teacher's mean.

    *Needs:* the teacher's outputs themselves: float16, int8 and float32 keep them.

    Attributes:
        distance: of the two embeddings.
        project: whether the linear layer is there where widths differ; if not, that is refused.
    """

    distance: Literal["cosine", "mse", "l2"] = "cosine"
    project: bool = True
    reads = Fidelity.VALUES
    output = "embeddings"

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        _check_width("embeddings", teacher, student)
        if self.distance == "cosine":
            return 1 - _cosine(student, teacher)
        if self.distance == "mse":
            return (student - teacher).square().mean(dim=1)
        return torch.linalg.vector_norm(student - teacher, dim=1)


def _cosine(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows,); of a student's row of zeros 0, with a gradient of norm 1 towards the teacher's: a
    quotient has one without bound, which a head that begins with zeros would take."""
    zero = torch.linalg.vector_norm(student.detach(), dim=1, keepdim=True) <= 1e-8
    cosine = F.cosine_similarity(student.masked_fill(zero, 1.0), teacher, dim=1)
    return torch.where(zero[:, 0], (student * numerics.unit(teacher)).sum(dim=1), cosine)


def _check_width(kind: str, right: Tensor, student: Tensor) -> None:
    """Raises ModelError for other widths, which torch would broadcast."""
    OUTPUTS[kind].check(right[:0], np.empty(0, dtype=np.int64), student.shape[1])
