"""Losses of embeddings."""

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
from frugalkd.teachers.encodings import Fidelity

_NO_IDS = np.empty(0, dtype=np.int64)


@dataclass(frozen=True)
class EmbedDistill(Objective):
    """Embedding matching of EmbedDistill (Kim et al., arXiv 2301.12005), without labels.

    *Loss:* the distance of the student's embedding from the teacher's: ``1 - cosine``; the mean
    over the values of ``(student - teacher)^2``; or the norm of the difference, the paper's. Where
    the teacher's width is another one, the student's embedding first goes through a linear layer
    that is trained with it, and is no part of it.

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
        OUTPUTS["embeddings"].check(teacher, _NO_IDS, student.shape[1])
        if self.distance == "cosine":
            return 1 - F.cosine_similarity(student, teacher, dim=1)
        if self.distance == "mse":
            return (student - teacher).square().mean(dim=1)
        return torch.linalg.vector_norm(student - teacher, dim=1)
