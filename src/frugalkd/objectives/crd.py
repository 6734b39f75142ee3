"""Contrastive representation distillation (Tian, Krishnan and Isola, ICLR 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.errors import ModelError, SettingError
from frugalkd.models.features import Shape
from frugalkd.objectives.objective import FeatureObjective, Seen, Shapes
from frugalkd.runtime.settings import Count, Fraction, NotNegative, Positive

_EPSILON = 1e-7


@dataclass(frozen=True)
class CRD(FeatureObjective):
    """Contrastive representation distillation (Tian et al., ICLR 2020, arXiv 1910.10699).

    *Loss:* ``soft * C + hard * cross-entropy``. Student's and teacher's feature, flattened, become
    vectors s and t of norm 1 by a linear layer each, and a memory holds those of every sample of
    the data. C is the student's part plus the teacher's. The student's compares s with teacher
    vectors v of the memory, ``x = exp(s . v / temperature) / Z``: one of the same sample, and m of
    samples of other classes. With n = m / the number of all samples it is ``-log(x / (x + n)) -
    sum(log(n / (x' + n)))``, the sum being over the m others. The teacher's is the same with the
    roles exchanged.

    *Our reading:* as the authors' code: Z is N times the mean of the exponentials in the first
    batch, and 1e-7 stands in each sum of the denominators. A sample's vectors in the memory become
    ``momentum`` times themselves plus the rest of the new ones, at norm 1, after each batch that it
    is in. Where the labels are not known before the training, the others are any other samples.
    Weights: the others are drawn evenly whatever they weigh, a sample of weight 0 leaves the memory
    as it is, and the mean in Z is weighted.

    *Needs:* 2 * dim float32 values of memory a sample, and 2 * rows * (negatives + 1) * dim a
    batch.

    Attributes:
        dim: of the vectors.
        negatives: m, drawn for each sample of each batch, with repetitions.
        temperature: > 0.
        momentum: of the memory, in [0, 1].
    """

    dim: Count = 128
    negatives: Count = 16384
    temperature: Positive = 0.07
    momentum: Fraction = 0.5
    soft: NotNegative = 0.8
    hard: NotNegative = 1.0

    def parts(self, shapes: Shapes) -> nn.Module:
        return nn.ModuleList(_Contrast(*pair, shapes, self.dim) for pair in shapes.pairs)

    def transfer(self, seen: Seen, weights: Tensor) -> Tensor:
        contrast = weights.new_zeros(len(weights))
        for student, teacher, memory in seen.pairs:
            embedded = memory.embed(student, teacher)
            ids = torch.cat([seen.ids[:, None], memory.others(seen.ids, self.negatives)], dim=1)
            for place, vectors in enumerate(embedded):
                against = memory.vectors[1 - place, ids].to(vectors.dtype)
                products = (against @ vectors[:, :, None])[:, :, 0] / self.temperature
                scale = memory.scale(place, products.detach(), weights)
                contrast = contrast + _contrast_loss((products - scale).exp(), memory.samples)
            memory.remember(seen.ids, embedded, weights, self.momentum)
        return contrast


def _contrast_loss(likely: Tensor, samples: int) -> Tensor:
    """(rows,), from (rows, 1 + m): the sample itself, then others."""
    noise = (likely.shape[1] - 1) / samples
    own, others = likely[:, 0], likely[:, 1:]
    found = (own / (own + noise + _EPSILON)).log()
    refused = (noise / (others + noise + _EPSILON)).log().sum(dim=1)
    return -found - refused


@final
class _Contrast(nn.Module):
    """Two linear layers and the vectors of every sample: ``vectors`` float32 (2, samples, dim), the
    student's and the teacher's."""

    vectors: Tensor
    scales: Tensor
    by_class: Tensor
    begin: Tensor
    same_class: Tensor

    def __init__(self, given: Shape, wanted: Shape, shapes: Shapes, dim: int):
        super().__init__()
        self.samples = shapes.samples
        self.student = nn.Linear(math.prod(given), dim)
        self.teacher = nn.Linear(math.prod(wanted), dim)
        bound = math.sqrt(3 / dim)
        start = torch.empty(2, self.samples, dim).uniform_(-bound, bound)
        self.register_buffer("vectors", start)
        # The logarithms of both Z; NaN until the first batch.
        self.register_buffer("scales", torch.full((2,), math.nan))
        labels = torch.arange(self.samples) if shapes.labels is None else shapes.labels
        _, labels, count = labels.unique(return_inverse=True, return_counts=True)
        if len(count) < 2:
            raise SettingError("samples of one class have no others: choose another objective")
        # Sample ids by class: those of a sample's own class start at ``begin``.
        self.register_buffer("by_class", labels.argsort(stable=True), persistent=False)
        self.register_buffer("begin", (count.cumsum(0) - count)[labels], persistent=False)
        self.register_buffer("same_class", count[labels], persistent=False)

    def embed(self, *features: Tensor) -> tuple[Tensor, ...]:
        """(rows, dim) each, of norm 1, from features (rows, ...) of student and teacher."""
        embedded = []
        for layer, feature in zip((self.student, self.teacher), features, strict=True):
            flat = feature.flatten(1)
            if flat.shape[1] != layer.in_features:
                raise ModelError(
                    f"CRD: a feature of shape {tuple(feature.shape[1:])} has not the "
                    f"{layer.in_features} values of the first batch: name a module whose features "
                    "are of one shape in every batch, such as the input of the last layer "
                    "(head:input)"
                )
            embedded.append(F.normalize(layer(flat), dim=1))
        return tuple(embedded)

    def others(self, ids: Tensor, number: int) -> Tensor:
        """int64 (rows, number), evenly from the samples of other classes than those of ``ids``."""
        begin, own = self.begin[ids, None], self.same_class[ids, None]
        drawn = torch.randint(2**62, (len(ids), number), device=ids.device) % (self.samples - own)
        return self.by_class[drawn + own * (drawn >= begin)]

    def scale(self, place: int, products: Tensor, weights: Tensor) -> Tensor:
        """The logarithm of Z, which the first batch with a positive weight sets."""
        total = weights.sum()
        means = products.logsumexp(1) - math.log(products.shape[1])
        mean = (weights.log() + means).logsumexp(0) - total.log()
        known = self.scales[place].to(products.dtype)
        now = torch.where(known.isnan(), mean + math.log(self.samples), known)
        if self.training:
            self.scales[place] = torch.where(total > 0, now, known)
        return torch.where(total > 0, now, known.nan_to_num())

    @torch.no_grad()
    def remember(
        self, ids: Tensor, new: tuple[Tensor, ...], weights: Tensor, momentum: float
    ) -> None:
        """Move the vectors of samples of positive weight towards ``new``."""
        if not self.training:
            return
        old = self.vectors[:, ids]
        moved = momentum * old + (1 - momentum) * torch.stack(new).to(old.dtype)
        moved = F.normalize(moved, dim=2)
        self.vectors[:, ids] = torch.where(weights[:, None] > 0, moved, old)
