"""Losses of logits that compare the rows of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.errors import SettingError
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective
from frugalkd.runtime.settings import Count, NotNegative, Positive, check_bounds
from frugalkd.teachers.encodings import Fidelity


@dataclass(frozen=True)
class DIST(BatchObjective):
    """DIST, from a stronger teacher (Huang et al., NeurIPS 2022, arXiv 2205.10536).

    *Loss:* ``T^2 * (beta * inter + gamma * intra) + hard * cross-entropy``. Inter is 1 - the
    correlation (Pearson's) of student's and teacher's probabilities over the classes of a row,
    intra that over the rows of the batch, the mean of all classes; both are of softmaxes at T.

    *Our reading:* a norm below 1e-8 counts as that, so that what does not vary has the correlation
    0; in a batch of one row intra is 1.

    *Weights:* the moments over the batch are weighted, and intra counts sum(weights) / rows times.
    A row's part of it is what it adds to the correlations.

    *Needs:* the probability of every class: under top-k the less likely ones would share theirs
    evenly, which correlates with nothing.

    Attributes:
        beta: the weight of inter.
        gamma: the weight of intra.
    """

    temperature: Positive = 1.0
    beta: NotNegative = 1.0
    gamma: NotNegative = 1.0
    hard: NotNegative = 1.0
    reads = Fidelity.DIFFERENCES

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        student, teacher = (
            logs.exp() for logs in numerics.softened(logits, targets, self.temperature)
        )
        weights = numerics.weights_or_ones(weights, student)
        over_classes = student.new_ones(student.shape[1])
        inter = 1 - _correlation_parts(student.T, teacher.T, over_classes).sum(dim=0)
        over_rows = _correlation_parts(student, teacher, weights)
        intra = 1 - weights.sum() * over_rows.mean(dim=1)
        soft = self.temperature**2 * (self.beta * inter + self.gamma * intra)
        return soft + self.hard * numerics.cross_entropy(logits, labels)


def _correlation_parts(one: Tensor, other: Tensor, weights: Tensor) -> Tensor:
    """(n, columns), such that ``sum(weights * parts)`` over the n rows, which weigh ``weights``
    (n,), is the correlation of each column of ``one`` with that of ``other``, both (n, columns)."""
    weights = weights[:, None]
    total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    parts = []
    for values in (one, other):
        centred = values - (weights * values).sum(dim=0) / total
        norm = torch.linalg.vector_norm(weights.sqrt() * centred, dim=0)
        parts.append(centred / norm.clamp_min(1e-8))
    return parts[0] * parts[1]


@dataclass(frozen=True)
class MLKD(BatchObjective):
    """Multi-level logit distillation (Jin, Wang and Lin, CVPR 2023).

    *Loss:* ``instance * I + batch * B + classes * C``, each summed over the temperatures, plus
    ``hard * cross-entropy``. With the probabilities P (rows, classes) of a softmax at T: I is ``T^2
    * KL(teacher || student)``; B the squared distance of student's and teacher's ``P P'`` (rows,
    rows), over the rows; C that of their ``P' P`` (classes, classes), over the classes.

    *Our reading:* one view of each sample. The authors add a second, strongly augmented one, and
    leave out of a level the samples and classes that the teacher is unsure of; neither is done
    here.

    *Weights:* in B the pair (i, j) weighs w_i * w_j; in C the matrices are of weighted rows, which
    is the same for its pairs. A row's part of C may be negative.

    Attributes:
        temperatures: each > 0; the three levels are computed at each of them.
        instance: the weight of the level of single samples.
        batch: the weight of the level of pairs of samples.
        classes: the weight of the level of pairs of classes.
    """

    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
    instance: NotNegative = 1.0
    batch: NotNegative = 1.0
    classes: NotNegative = 1.0
    hard: NotNegative = 1.0
    reads = Fidelity.DIFFERENCES

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise SettingError("temperatures must be given: at least one")
        for temperature in self.temperatures:
            check_bounds("positive", temperatures=temperature)

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        losses = self.hard * numerics.cross_entropy(logits, labels)
        for temperature in self.temperatures:
            student, teacher = numerics.softened(logits, targets, temperature)
            of_instance = temperature**2 * numerics.divergence(teacher, student)
            student, teacher = student.exp(), teacher.exp()
            weighs = numerics.weights_or_ones(weights, student)
            with numerics.no_autocast(logits):
                of_batch = (teacher @ teacher.T - student @ student.T).square() @ weighs
                of_classes = _of_classes(student, teacher, weighs)
            losses = losses + self.instance * of_instance
            losses = losses + self.batch * of_batch + self.classes * of_classes
        return losses


def _of_classes(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """(rows,), such that their weighted sum over the rows is the squared distance of the classes'
    products, over the classes: a row has what it adds to one factor of the square."""
    rows, classes = student.shape
    apart = teacher.T @ (weights[:, None] * teacher) - student.T @ (weights[:, None] * student)
    added = (teacher @ apart * teacher).sum(dim=1) - (student @ apart * student).sum(dim=1)
    return rows / classes * added


@dataclass(frozen=True)
class CorrelationCongruence(BatchObjective):
    """Correlation congruence of the logits (Peng et al., ICCV 2019, arXiv 1904.01802).

    *Loss:* ``soft * CC + hard * cross-entropy``. CC is the mean over all pairs of rows (i, j) of
    the squared difference between student's and teacher's kernel of the two, the Gaussian
    ``exp(-gamma * |x_i - x_j|^2)`` of rows of norm 1, by its Taylor series in their product:
    ``exp(-2 * gamma) * sum((2 * gamma * x_i . x_j)^p / p!)`` for p = 0 .. order.

    *Our reading:* on the logits, each row divided by its norm, where the paper has embeddings of
    the last features; the paper adds KD, which is left to a sum of objectives. The paper gives no
    weights; the defaults are frugalkd's.

    *Weights:* the pair (i, j) weighs w_i * w_j, over the square of the number of rows.

    *Needs:* the teacher's logits themselves, since their angles change with a shift.

    Attributes:
        gamma: of the kernel, > 0.
        order: of the series, 1 or more.
    """

    gamma: Positive = 0.4
    order: Count = 2
    soft: NotNegative = 1.0
    hard: NotNegative = 1.0
    reads = Fidelity.LOGITS

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        weights = numerics.weights_or_ones(weights, student)
        with numerics.no_autocast(logits):
            student, teacher = self._kernel(student), self._kernel(teacher)
            congruence = (student - teacher).square() @ weights / len(student)
        return self.soft * congruence + self.hard * numerics.cross_entropy(logits, labels)

    def _kernel(self, logits: Tensor) -> Tensor:
        """(rows, rows)."""
        rows = F.normalize(logits, dim=1)
        scaled = 2 * self.gamma * (rows @ rows.T)
        term = series = torch.ones_like(scaled)
        for power in range(1, self.order + 1):
            term = term * scaled / power
            series = series + term
        return math.exp(-2 * self.gamma) * series


@dataclass(frozen=True)
class PKT(BatchObjective):
    """Probabilistic knowledge transfer (Passalis and Tefas, ECCV 2018, 1803.10837), of logits.

    *Loss:* ``soft * M + hard * cross-entropy``. The similarity of two rows is (1 + cosine) / 2 of
    their logits; divided by its sum over j it is the probability p_j|i of row j given row i. M is
    the mean over all pairs (i, j) of ``p_j|i * log((p_j|i + 1e-7) / (q_j|i + 1e-7))``, p of the
    teacher and q of the student.

    *Our reading:* on the logits, where the paper has features. A row counts among its own
    neighbours, and the mean is over rows * rows values, as in the authors' code: M falls with the
    square of the batch, hence a large weight.

    *Weights:* a neighbour's similarity counts weights times in the probabilities, and the
    divergence of row i counts w_i times, so that the pair (i, j) weighs w_i * w_j.

    *Needs:* the teacher's logits themselves, since their angles change with a shift.
    """

    soft: NotNegative = 30000.0
    hard: NotNegative = 1.0
    reads = Fidelity.LOGITS

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        weights = numerics.weights_or_ones(weights, student)
        with numerics.no_autocast(logits):
            student, teacher = _neighbours(student, weights), _neighbours(teacher, weights)
        ratio = (teacher + 1e-7).log() - (student + 1e-7).log()
        transfer = (teacher * ratio).mean(dim=1)
        return self.soft * transfer + self.hard * numerics.cross_entropy(logits, labels)


def _neighbours(logits: Tensor, weights: Tensor) -> Tensor:
    """(rows, rows), each row a distribution over the rows of the batch."""
    rows = F.normalize(logits, dim=1)
    similarity = weights * (1 + rows @ rows.T) / 2
    total = similarity.sum(dim=1, keepdim=True)
    return similarity / total.clamp_min(torch.finfo(similarity.dtype).tiny)
