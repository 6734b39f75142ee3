"""Losses of features."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from frugalkd.errors import ModelError, SettingError
from frugalkd.models.features import Adapter, Shape, channels_of, resized
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import FeatureObjective, Shapes, StepFeatures
from frugalkd.runtime.settings import Count, Fraction, NotNegative, Positive


@dataclass(frozen=True)
class FitNets(FeatureObjective):
    """FitNets: hints from the middle of the teacher (Romero et al., ICLR 2015, arXiv 1412.6550).

    *Loss:* ``soft * H + hard * cross-entropy``. H is the mean over a feature's values of
    ``(r(student) - teacher)^2``, r being an adapter to the teacher's shape.

    *Our reading:* the paper's ``|r(student) - teacher|^2 / 2`` has a sum in place of the mean. The
    paper trains on hints first and distils afterwards; here both are one loss, with RepDistiller's
    weights. The adapter is a 1x1 convolution or a linear layer where the channels differ, and pools
    or interpolates where sizes do. The paper's convolution is as large as the sizes differ, and
    RepDistiller's has BatchNorm and ReLU after it.
    """

    soft: NotNegative = 100.0
    hard: NotNegative = 1.0

    def part(self, given: Shape, wanted: Shape) -> nn.Module:
        return Adapter(given, wanted)

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        return (part(student, teacher) - teacher).square().flatten(1).mean(1)


@dataclass(frozen=True)
class VID(FeatureObjective):
    """Variational information distillation (Ahn et al., CVPR 2019, arXiv 1904.05835).

    *Loss:* ``soft * V + hard * cross-entropy``. The teacher's feature is modelled as a Gaussian
    around what an adapter r makes of the student's, with a variance for each channel that is
    trained too: V is the mean over a feature's values of ``((teacher - r(student))^2 / variance +
    log(variance)) / 2``. The variance is ``log(1 + exp(a)) + 1e-5``.

    *Our reading:* the constant of the Gaussian is left out, so V may be negative; the mean stands
    in place of the paper's sum. r is one 1x1 convolution or linear layer, always there, where the
    authors have three without bias and with ReLUs in between. Where sizes differ r goes to the
    teacher's; RepDistiller averages the larger map down.

    Attributes:
        variance: of every channel at first, > 1e-5.
    """

    variance: Positive = 5.0
    soft: NotNegative = 1.0
    hard: NotNegative = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.variance <= _LEAST_VARIANCE:
            raise SettingError(f"variance must be above {_LEAST_VARIANCE:g}, not {self.variance}")

    def part(self, given: Shape, wanted: Shape) -> nn.Module:
        return _Gaussian(given, wanted, self.variance)

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        return part(student, teacher)


_LEAST_VARIANCE = 1e-5


@final
class _Gaussian(nn.Module):
    """How unlikely a teacher's feature (rows, \\*``wanted``) is, given the student's."""

    def __init__(self, given: Shape, wanted: Shape, variance: float):
        super().__init__()
        self.mean = Adapter(given, wanted, always=True)
        over = variance - _LEAST_VARIANCE
        start = over + math.log(-math.expm1(-over))  # softplus's inverse, of large ones too
        self.spread = nn.Parameter(torch.full((channels_of(wanted),), start))
        self.at_channels = (-1,) if len(wanted) != 3 else (-1, 1, 1)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        variance = (F.softplus(self.spread) + _LEAST_VARIANCE).view(self.at_channels)
        square = (teacher - self.mean(student, teacher)).square()
        return (square / variance + variance.log()).flatten(1).mean(1) / 2


@dataclass(frozen=True)
class AttentionTransfer(FeatureObjective):
    """Attention transfer (Zagoruyko and Komodakis, ICLR 2017, arXiv 1612.03928).

    *Loss:* ``soft * A + hard * cross-entropy``. A feature's attention is the mean over the channels
    of its squares, a value for each position, divided by the norm over all positions; A is the mean
    over the positions of ``(attention of the student - attention of the teacher)^2``.

    *Our reading:* squared, and the mean of the positions, as in the authors' code; the paper's
    formula has ``beta / 2`` times the distance itself. Where sizes differ the larger attention is
    averaged down, so that nothing is trained beside the student; the paper interpolates, and
    RepDistiller, whose weight is the default, averages the feature.

    *Needs:* features of (channels, height, width) or (tokens, width).
    """

    soft: NotNegative = 1000.0
    hard: NotNegative = 1.0

    def part(self, given: Shape, wanted: Shape) -> nn.Module:
        if len(given) != len(wanted) or len(given) not in (2, 3):
            raise SettingError(
                f"features of shape {given} and {wanted} have no positions in common: name modules "
                "that return maps (channels, height, width), or both of them tokens"
            )
        return nn.Identity()

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        student, teacher = _by_position(_energy(student), _energy(teacher))
        return (_attention(student) - _attention(teacher)).square().mean(1)


def _energy(feature: Tensor) -> Tensor:
    """The mean square of the channels, (rows, 1, height, width) or (rows, tokens, 1)."""
    return feature.square().mean(1 if feature.ndim == 4 else 2, keepdim=True)


def _attention(energy: Tensor) -> Tensor:
    """(rows, positions), of norm 1; 0 where the feature is."""
    flat = energy[:, 0]
    return numerics.over(flat, torch.linalg.vector_norm(flat, dim=1, keepdim=True))


@dataclass(frozen=True)
class NST(FeatureObjective):
    """Neuron selectivity transfer (Huang and Wang, 2017, arXiv 1707.01219).

    *Loss:* ``soft * M + hard * cross-entropy``. Each channel of a feature is a vector over the
    positions, divided by its norm; M is the squared maximum mean discrepancy of the student's and
    the teacher's channels under the kernel ``(x . y)^2``: the mean of the kernel over the pairs of
    the teacher's channels, plus that over the student's, minus twice that over the mixed ones.

    *Our reading:* where sizes differ the larger feature is averaged down. The paper tries three
    kernels and recommends this one.

    *Needs:* features of (channels, height, width) or (tokens, width).
    """

    soft: NotNegative = 50.0
    hard: NotNegative = 1.0

    part = AttentionTransfer.part

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        student, teacher = map(_directions, _by_position(student, teacher))
        alone = _kernel(teacher, teacher) + _kernel(student, student)
        return alone - 2 * _kernel(student, teacher)


def _directions(values: Tensor) -> Tensor:
    """(rows, channels, positions), each channel of norm 1; 0 where the channel is."""
    return numerics.over(values, torch.linalg.vector_norm(values, dim=2, keepdim=True))


def _kernel(one: Tensor, other: Tensor) -> Tensor:
    """(rows,), the mean over all pairs of channels."""
    return (one @ other.transpose(1, 2)).square().mean((1, 2))


@dataclass(frozen=True)
class FSP(FeatureObjective):
    """A gift from knowledge distillation: the flow between layers (Yim et al., CVPR 2017).

    *Loss:* ``soft * G + hard * cross-entropy``. The flow of two maps of one model is their product
    over the positions, (channels of the first, channels of the second), divided by the number of
    positions; G is the squared distance of student's and teacher's flow, summed over the matrix and
    over the pairs of maps that follow each other in ``student`` and ``teacher``.

    *Our reading:* the paper has models of the same channels; here a 1x1 convolution makes the
    student's channels the teacher's where they differ. Within a pair the larger map is max-pooled
    to the size of the other. The paper trains on G first and on the labels afterwards; here both
    are one loss. RepDistiller also trains on G first, with a mean over the matrix in place of the
    sum, and average pooling.

    *Needs:* features of (channels, height, width), at least two.
    """

    soft: NotNegative = 1.0
    hard: NotNegative = 1.0

    def parts(self, shapes: Shapes) -> nn.Module:
        if len(shapes.student) < 2:
            raise SettingError("a flow goes from one map to another: name two modules or more")
        return super().parts(shapes)

    def part(self, given: Shape, wanted: Shape) -> nn.Module:
        _check_maps(given, wanted)
        return Adapter(given, (wanted[0], *given[1:]))

    def transfer(self, seen: StepFeatures, weights: Tensor) -> Tensor:
        adapted = [part(student) for student, _, part in seen.pairs]
        apart = weights.new_zeros(len(weights))
        for student, teacher in zip(pairwise(adapted), pairwise(seen.teacher), strict=True):
            apart = apart + (_flow(*student) - _flow(*teacher)).square().sum((1, 2))
        return apart


def _flow(first: Tensor, second: Tensor) -> Tensor:
    """(rows, channels of the first, channels of the second)."""
    sizes = tuple(min(pair) for pair in zip(first.shape[2:], second.shape[2:], strict=True))
    one, other = (
        feature if tuple(feature.shape[2:]) == sizes else F.adaptive_max_pool2d(feature, sizes)
        for feature in (first, second)
    )
    return one.flatten(2) @ other.flatten(2).transpose(1, 2) / (sizes[0] * sizes[1])


@dataclass(frozen=True)
class ReviewKD(FeatureObjective):
    """Distilling knowledge via knowledge review (Chen et al., CVPR 2021, arXiv 2104.09044).

    *Loss:* ``soft * R + hard * cross-entropy``. From the last module to the first, the student's
    map becomes ``width`` channels by a 1x1 convolution and is fused with what has come from the
    deeper ones, interpolated to its size: ``a * own + b * deeper``, a and b being attentions for
    each position, a sigmoid of a 1x1 convolution of both. A 3x3 convolution makes the teacher's
    channels of it, at the teacher's size, and R sums over the modules the distance to the teacher's
    map: the mean square of the difference, and with the weights 1/2, 1/4 and 1/8 that of both maps
    averaged down to 4 x 4, 2 x 2 and 1 x 1 positions (where the map is larger), divided by the sum
    of the weights.

    *Our reading:* no BatchNorm after the convolutions, which the authors have: its statistics would
    mix rows whatever they weigh. R counts in full from the first step; the authors raise it
    linearly over the first 20 of 240 epochs on CIFAR-100, as ``soft: {start: 0, end: 5, until:
    0.083}`` does. Their weight is 0.6 to 8 by pair of models there, mostly 5, and 1 or 8 on
    ImageNet. Their teacher's features are those before the ReLUs, and the pooled one is a map of
    1 x 1.

    *Needs:* features of (channels, height, width).

    Attributes:
        student: module paths or globs, of the student, from its first to its last.
        width: channels of the fusion; None: those of the last student feature, at most 512.
    """

    width: Count | None = None
    soft: NotNegative = 1.0
    hard: NotNegative = 1.0

    def parts(self, shapes: Shapes) -> nn.Module:
        _check_maps(*shapes.student, *shapes.teacher)
        last = len(shapes.student) - 1
        width = self.width or min(512, channels_of(shapes.student[-1]))
        return nn.ModuleList(
            _Fusion(given, wanted, width, deeper=place < last)
            for place, (given, wanted) in enumerate(shapes.pairs)
        )

    def transfer(self, seen: StepFeatures, weights: Tensor) -> Tensor:
        apart, deeper = weights.new_zeros(len(weights)), None
        for student, teacher, fusion in reversed(list(seen.pairs)):
            made, deeper = fusion(student, deeper)
            apart = apart + _hierarchical(made, teacher)
        return apart


@final
class _Fusion(nn.Module):
    """From a student's map and the fused deeper maps to a map like the teacher's, and the fused map
    for the next module."""

    def __init__(self, given: Shape, wanted: Shape, width: int, *, deeper: bool):
        super().__init__()
        self.size = wanted[1:]
        self.own = nn.Conv2d(given[0], width, 1, bias=False)
        self.attention = nn.Conv2d(2 * width, 2, 1) if deeper else None
        self.out = nn.Conv2d(width, wanted[0], 3, padding=1, bias=False)
        for convolution in (self.own, self.out):
            nn.init.kaiming_uniform_(convolution.weight, a=1)

    def forward(self, student: Tensor, deeper: Tensor | None) -> tuple[Tensor, Tensor]:
        fused = self.own(student)
        if self.attention is not None:
            assert deeper is not None
            deeper = F.interpolate(deeper, fused.shape[2:], mode="nearest")
            shares = self.attention(torch.cat([fused, deeper], dim=1)).sigmoid()
            fused = fused * shares[:, :1] + deeper * shares[:, 1:]
        if fused.shape[2:] != self.size:
            fused = F.interpolate(fused, self.size, mode="nearest")
        return self.out(fused), fused


def _hierarchical(student: Tensor, teacher: Tensor) -> Tensor:
    """(rows,), the distance of two maps of one shape on several levels."""
    apart = (student - teacher).square().mean((1, 2, 3))
    weight = total = 1.0
    for level in (4, 2, 1):
        if level < teacher.shape[2]:
            weight /= 2
            total += weight
            pooled = F.adaptive_avg_pool2d(student - teacher, level)
            apart = apart + weight * pooled.square().mean((1, 2, 3))
    return apart / total


@dataclass(frozen=True)
class SimKD(FeatureObjective):
    """Knowledge distillation with the reused teacher classifier (Chen et al., CVPR 2022,
    arXiv 2203.14001).

    *Loss:* ``soft * S + hard * cross-entropy``. S is the mean over a feature's values of ``(student
    - teacher)^2``; the student's feature is what its projector returns, the teacher's is the input
    of its classifier, and that classifier is the student's too.

    *Our reading:* the projector is one linear layer on the input of the student's classifier, where
    the authors have three convolutions with BatchNorm and ReLU on maps, and compare these before
    they are pooled. It is a part of the student, unlike an adapter, and
    is put there by ``student.model.reuse_classifier_dim: WIDTH`` in a recipe or
    ``frugalkd.reuse_classifier``, in place of the student's last linear layer; WIDTH is how many
    values the teacher's takes.

    *Needs:* features of one shape: ``{name: simkd, student: head.projector, teacher:
    'head:input'}`` where both models call their last layer ``head``.

    Attributes:
        student: path of the projector.
        teacher: path of the input of the teacher's classifier.
    """

    soft: NotNegative = 1.0
    hard: NotNegative = 0.0

    def part(self, given: Shape, wanted: Shape) -> nn.Module:
        if given != wanted:
            raise SettingError(
                f"the student's feature is of shape {given}, the teacher's of {wanted}: name the "
                "projector of a student that reuses the teacher's classifier "
                "(student.model.reuse_classifier_dim)"
            )
        return nn.Identity()

    def compare(self, student: Tensor, teacher: Tensor, part: Any, weights: Tensor) -> Tensor:
        return (student - teacher).square().flatten(1).mean(1)


def _check_maps(*shapes: Shape) -> None:
    """Raises SettingError unless all features are maps."""
    for shape in shapes:
        if len(shape) != 3:
            raise SettingError(
                f"a feature of shape {shape} is not a map: name modules that return (channels, "
                "height, width)"
            )


def _by_position(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Both features as (rows, channels, positions), the larger one averaged down to the positions
    of the other."""
    if one.ndim == 3:  # tokens
        length = min(one.shape[1], other.shape[1])
        pair = (resized(feature, (length, 1)).transpose(1, 2) for feature in (one, other))
    else:
        sizes = [min(pair) for pair in zip(one.shape[2:], other.shape[2:], strict=True)]
        pair = (resized(feature, (1, *sizes)).flatten(2) for feature in (one, other))
    student, teacher = pair
    return student, teacher


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
    is 0. The weights are RepDistiller's; the authors' example has 1 and 2.

    *Weights:* the pair (i, j) weighs w_i * w_j, in D and in the mean distance, the triplet w_i *
    w_j * w_k; it counts with j. A needs rows^3 values of memory.

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
        pair = student, teacher
        distances = [_distances(feature.flatten(1)) for feature in pair]
        apart = weights.new_zeros(len(weights))
        if self.distance:
            one, other = (_scaled(each, weights) for each in distances)
            losses = F.smooth_l1_loss(one, other, reduction="none")
            apart = apart + self.distance * (losses @ weights) / len(weights)
        if self.angle:
            one, other = map(_cosines, pair, distances)
            losses = F.smooth_l1_loss(one, other, reduction="none")
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


def _cosines(feature: Tensor, distances: Tensor) -> Tensor:
    """(rows, rows, rows), at [j, i, k] the cosine of the angle at j between i and k; from products
    of rows, which take less memory than the differences."""
    rows = feature.flatten(1)
    rows = rows - rows.detach().mean(0)  # no difference depends on it, and small products lose less
    products = rows @ rows.T
    own = products.diagonal()
    between = products - products[:, :, None] - products[:, None, :] + own[:, None, None]
    return numerics.over(between, distances[:, :, None] * distances[:, None, :])


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
    is in. The authors draw the others without repetition where there are as many. Where the labels
    are not known before the training, the others are any other samples.
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

    def transfer(self, seen: StepFeatures, weights: Tensor) -> Tensor:
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
    found = (own / (own + noise + 1e-7)).log()
    refused = (noise / (others + noise + 1e-7)).log().sum(dim=1)
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
