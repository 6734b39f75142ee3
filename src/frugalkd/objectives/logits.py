"""Losses of logits."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.errors import SettingError
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective, Objective
from frugalkd.runtime.settings import Count, Fraction, NotNegative, Positive, check_bounds
from frugalkd.teachers.encodings import Fidelity
from frugalkd.teachers.sparse import Sparse


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy with the label: no distillation.

    *Loss:* ``-log p(label)``, or the cross-entropy with the smoothed label.

    Attributes:
        label_smoothing: in [0, 1], the mass that is spread over all classes.
    """

    label_smoothing: Fraction = 0.0
    needs_targets = False

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            numerics.full(logits), labels, reduction="none", label_smoothing=self.label_smoothing
        )


@dataclass(frozen=True)
class KD(Objective):
    """Knowledge distillation (Hinton, Vinyals and Dean, arXiv 1503.02531).

    *Loss:* ``alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross-entropy``, where the
    index T means the softmax at that temperature.

    *Our reading:* T^2, which keeps the gradient's size as T grows, multiplies the soft part, as the
    paper advises. The defaults are mdistiller's for CIFAR-100.

    *Needs:* the teacher's softmax at T, in which its gradient is linear: every encoding will do. At
    T = 1 it also takes :class:`frugalkd.teachers.sparse.Sparse`, without making logits of it.
    """

    temperature: Positive = 4.0
    alpha: Fraction = 0.9

    def __call__(self, logits: Tensor, targets: Tensor | Sparse | None, labels: Tensor) -> Tensor:
        if isinstance(targets, Sparse):
            soft, hard = numerics.sparse_divergence(logits, targets, labels, self.temperature)
        else:
            student, teacher = numerics.softened(logits, targets, self.temperature)
            soft = numerics.divergence(teacher, student)
            hard = numerics.cross_entropy(logits, labels)
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * hard


@dataclass(frozen=True)
class LogitMSE(Objective):
    """Mean squared error on logits (Kim, Oh, Kim, Cho and Yun, IJCAI 2021, arXiv 2105.08919).

    *Loss:* ``alpha * |student - teacher|^2 + (1 - alpha) * cross-entropy``, on the logits.

    *Our reading:* the square of the norm is a sum over classes, as in the paper's formula. The
    authors' code takes the mean over the classes, and no cross-entropy with it. No temperature.

    *Needs:* the teacher's logits themselves: float16 keeps each row less its largest logit.
    """

    alpha: Fraction = 0.9
    reads = Fidelity.LOGITS

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        soft = (student - teacher).square().sum(dim=1)
        return self.alpha * soft + (1 - self.alpha) * numerics.cross_entropy(logits, labels)


@dataclass(frozen=True)
class LogitStandardisation(Objective):
    """Logit standardisation on KD (Sun, Ren, Li, Wang and Cao, CVPR 2024, arXiv 2403.01427).

    *Loss:* ``soft * T^2 * KL(softmax(Z(t) / T) || softmax(Z(s) / T)) + hard * cross-entropy``,
    where ``Z(x) = (x - mean(x)) / (std(x) + 1e-7)`` over the classes of a row: the student need not
    reach the teacher's logits, only their shape.

    *Our reading:* the deviation is that of n - 1, and the small number in the denominator stands
    where the authors' code has both. The cross-entropy is of the student's logits as they are.
    """

    temperature: Positive = 2.0
    soft: NotNegative = 9.0
    hard: NotNegative = 0.1
    reads = Fidelity.DIFFERENCES

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = (
            F.log_softmax(_standardised(given) / self.temperature, dim=1)
            for given in numerics.both(logits, targets)
        )
        soft = self.temperature**2 * numerics.divergence(teacher, student)
        return self.soft * soft + self.hard * numerics.cross_entropy(logits, labels)


def _standardised(logits: Tensor) -> Tensor:
    """Of mean 0 and deviation 1 in each row; 0, and without a gradient, where all are equal."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    deviation = logits.std(dim=1, keepdim=True)
    equal = numerics.hardly_varies(deviation, logits.abs().amax(dim=1, keepdim=True))
    return centred / (deviation + 1e-7).masked_fill(equal, math.inf)


@dataclass(frozen=True)
class DKD(Objective):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679).

    *Loss:* ``T^2 * (alpha * TCKD + beta * NCKD) + hard * cross-entropy``. TCKD is the divergence
    between the pairs (probability of the label, of all other classes), NCKD that between the
    distributions over the other classes; both are of softmaxes at T. KD is alpha = 1 and beta = the
    teacher's probability of the other classes.

    *Our reading:* the soft part is constant from the first step. On CIFAR-100 the authors raise it
    linearly over the first 20 of 240 epochs, as schedules do here: ``alpha: {start: 0, end: 1,
    until: 0.083}`` and ``beta: {start: 0, end: 8, until: 0.083}``. Their beta is 2 to 8 by pair of
    models there; on ImageNet T is 1, beta 0.5 or 2, and nothing is raised.

    *Needs:* no draws, since the loss is not linear in the teacher's probabilities. Under top-k the
    less likely classes share evenly what they have, and NCKD stresses them.

    Attributes:
        alpha: the weight of TCKD.
        beta: the weight of NCKD.
    """

    temperature: Positive = 4.0
    alpha: NotNegative = 1.0
    beta: NotNegative = 8.0
    hard: NotNegative = 1.0
    reads = Fidelity.SOFTMAX

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        target = numerics.divergence(_label_or_not(teacher, labels), _label_or_not(student, labels))
        others = numerics.divergence(
            numerics.without_label(teacher, labels), numerics.without_label(student, labels)
        )
        soft = self.temperature**2 * (self.alpha * target + self.beta * others)
        return soft + self.hard * numerics.cross_entropy(logits, labels)


def _label_or_not(logs: Tensor, labels: Tensor) -> Tensor:
    """From logarithms of probabilities those of the label and of all other classes, (rows, 2)."""
    others = logs.masked_fill(numerics.label_mask(logs, labels), -torch.inf)
    return torch.stack([logs.gather(1, labels[:, None])[:, 0], others.logsumexp(dim=1)], dim=1)


@dataclass(frozen=True)
class NKD(Objective):
    """NKD, with normalised non-target classes (Yang et al., ICCV 2023, arXiv 2303.13005).

    *Loss:* ``hard * cross-entropy - p_t * log q_t - gamma * T^2 * sum(p' * log q')``, where p_t and
    q_t are teacher's and student's probabilities of the label at temperature 1, and p' and q' their
    distributions over all other classes at T, the sum being over these.

    *Our reading:* these are cross-entropies, as published, and not divergences, so the least value
    is not 0. The defaults are those of the authors' code; for transformers on ImageNet they set
    gamma = 1, on CIFAR-100 T = 3 and gamma = 3.5.

    Attributes:
        temperature: T > 0, of the distributions over the other classes.
        gamma: the weight of the other classes.
    """

    temperature: Positive = 1.0
    gamma: NotNegative = 1.5
    hard: NotNegative = 1.0
    reads = Fidelity.DIFFERENCES

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        confidence = F.softmax(teacher, dim=1).gather(1, labels[:, None])[:, 0]
        of_student, of_teacher = (
            numerics.without_label(given / self.temperature, labels) for given in (student, teacher)
        )
        others = -(of_teacher.exp() * of_student).sum(dim=1)
        hard = numerics.cross_entropy(logits, labels)
        return (self.hard + confidence) * hard + self.gamma * self.temperature**2 * others


@dataclass(frozen=True)
class WTTM(Objective):
    """Weighted transformed teacher matching (Zheng and Yang, ICLR 2024, arXiv 2402.11148).

    *Loss:* ``beta * U * KL(teacher_T || student_1) + hard * cross-entropy``: only the teacher is
    softened, and ``U = sum(p ** (1 / T))`` over the classes, p being the teacher's probabilities at
    temperature 1, is larger the less sure the teacher is.

    *Our reading:* nothing is scaled by T^2, since the student's softmax is at 1. The paper chooses
    beta and T for each pair of models (in the authors' example, beside CRD, beta is 4 and 1 / T is
    0.2); 1 and 4 are only a start.

    Attributes:
        temperature: T > 0, of the teacher's softmax.
        beta: the weight of the divergence.
    """

    temperature: Positive = 4.0
    beta: NotNegative = 1.0
    hard: NotNegative = 1.0
    reads = Fidelity.DIFFERENCES

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        powers = F.log_softmax(teacher, dim=1) / self.temperature
        unsure = powers.logsumexp(dim=1, keepdim=True)
        soft = numerics.divergence(powers - unsure, F.log_softmax(student, dim=1))
        hard = numerics.cross_entropy(logits, labels)
        return self.beta * unsure[:, 0].exp() * soft + self.hard * hard


@dataclass(frozen=True)
class JensenShannon(Objective):
    """The generalised Jensen-Shannon divergence (GKD, Agarwal et al., ICLR 2024, arXiv 2306.13649).

    *Loss:* ``alpha * T^2 * JS + (1 - alpha) * cross-entropy``, where ``JS = beta * KL(teacher_T ||
    M) + (1 - beta) * KL(student_T || M)`` and the mixture is ``M = beta * teacher_T + (1 - beta) *
    student_T``.

    *Our reading:* beta = 0 is KD exactly, beta = 1 the reverse divergence. Near these ends JS is
    beta or 1 - beta times as large as the end itself: there is a jump. GKD scales nothing by T^2
    and has no cross-entropy: that is T = 1 and alpha = 1.

    *Needs:* no draws: only beta = 0 is linear in the teacher's probabilities, and that is KD.

    Attributes:
        beta: from KL(teacher || student) at 0 to KL(student || teacher) at 1.
    """

    beta: Fraction = 0.5
    temperature: Positive = 4.0
    alpha: Fraction = 0.9
    reads = Fidelity.SOFTMAX

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        soft = self.temperature**2 * self._between(student, teacher)
        return self.alpha * soft + (1 - self.alpha) * numerics.cross_entropy(logits, labels)

    def _between(self, student: Tensor, teacher: Tensor) -> Tensor:
        """JS, or one of its ends, (rows,), from the logarithms of both softmaxes."""
        if self.beta == 0:
            return numerics.divergence(teacher, student)
        if self.beta == 1:
            return numerics.divergence(student, teacher)
        mixture = torch.logaddexp(teacher + math.log(self.beta), student + math.log1p(-self.beta))
        of_teacher = numerics.divergence(teacher, mixture)
        of_student = numerics.divergence(student, mixture)
        return self.beta * of_teacher + (1 - self.beta) * of_student


@dataclass(frozen=True)
class TopKKD(Objective):
    """KD that reads only the sum of the other classes: for targets that keep the k largest logits.

    *Loss:* ``alpha * T^2 * KL(teacher_T || student_T) + (1 - alpha) * cross-entropy``, the
    divergence being over k + 1 outcomes: the teacher's k likeliest classes, and all other classes
    as one.

    *Our reading:* frugalkd's own, after the stores that keep the top of the teacher's distribution
    (FKD, Shen and Xing, ECCV 2022; TinyViT, Wu et al., ECCV 2022), which smooth the rest evenly. KD
    on top-k targets does that too, and so pulls the student's less likely classes together; here
    how the student divides the rest is free. Never more than KD on the whole distribution, and
    equal to it where k reaches the number of classes.

    *Needs:* no draws, which do not say which classes are the likeliest.

    Attributes:
        k: how many classes are kept apart; of stored top-k targets at most theirs.
    """

    temperature: Positive = 4.0
    alpha: Fraction = 0.9
    k: Count = 32
    reads = Fidelity.SOFTMAX

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        if self.k < student.shape[1]:
            top = teacher.topk(self.k, dim=1).indices
            student, teacher = _top_and_rest(student, top), _top_and_rest(teacher, top)
        soft = self.temperature**2 * numerics.divergence(teacher, student)
        return self.alpha * soft + (1 - self.alpha) * numerics.cross_entropy(logits, labels)


def _top_and_rest(logs: Tensor, top: Tensor) -> Tensor:
    """From logarithms of probabilities those of the classes ``top`` (rows, k) and of all others
    together, (rows, k + 1)."""
    rest = logs.scatter(1, top, -torch.inf).logsumexp(dim=1, keepdim=True)
    return torch.cat([logs.gather(1, top), rest], dim=1)


@dataclass(frozen=True)
class DIST(BatchObjective):
    """DIST, from a stronger teacher (Huang et al., NeurIPS 2022, arXiv 2205.10536).

    *Loss:* ``T^2 * (beta * inter + gamma * intra) + hard * cross-entropy``. Inter is 1 - the
    correlation (Pearson's) of student's and teacher's probabilities over the classes of a row,
    intra that over the rows of the batch, the mean of all classes; both are of softmaxes at T.

    *Our reading:* what does not vary (beyond rounding) has the correlation 0, and no gradient; a
    norm below 1e-8 counts as that; in a batch of one row intra is 1. The authors' code adds 1e-8 to
    the product of the two norms instead, which shrinks the correlations of classes that are all but
    impossible; here they count in full. The defaults are the authors' of ImageNet; on CIFAR-100 T
    is 4.

    *Weights:* the moments over the batch are weighted, and intra counts sum(weights) / rows times.
    A row's part of it is what it adds to the correlations.

    *Needs:* the probability of every class: under top-k the less likely ones would share theirs
    evenly, which correlates with nothing.

    Attributes:
        beta: the weight of inter.
        gamma: the weight of intra.
    """

    temperature: Positive = 1.0
    beta: NotNegative = 2.0
    gamma: NotNegative = 2.0
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
        size = torch.linalg.vector_norm(weights.sqrt() * values.detach(), dim=0)
        equal = numerics.hardly_varies(norm, size)
        parts.append(centred / norm.clamp_min(1e-8).masked_fill(equal, math.inf))
    return parts[0] * parts[1]


@dataclass(frozen=True)
class MLKD(BatchObjective):
    """Multi-level logit distillation (Jin, Wang and Lin, CVPR 2023).

    *Loss:* ``instance * I + batch * B + classes * C``, each summed over the temperatures, plus
    ``hard * cross-entropy``. With the probabilities P (rows, classes) of a softmax at T: I is ``T^2
    * KL(teacher || student)``; B the squared distance of student's and teacher's ``P P'`` (rows,
    rows), over the rows; C that of their ``P' P`` (classes, classes), over the classes.

    *Our reading:* one view of each sample, weights and temperatures as in the authors' CIFAR-100
    settings (on ImageNet 0.5 and 0.5, with T = 1 in place of 4). The authors add a strongly
    augmented view, of which I and the cross-entropy are computed too; at T = 2 and 6 their code has
    the plain view there as well. It multiplies I, B and C of the plain view by the part of the
    samples (of C: the classes) whose confidence is at most the median, about 1/2; here nothing is
    multiplied.

    *Weights:* in B the pair (i, j) weighs w_i * w_j; in C the matrices are of weighted rows, which
    is the same for its pairs. A row's part of C may be negative.

    Attributes:
        temperatures: each > 0; the three levels are computed at each of them.
        instance: the weight of the level of single samples.
        batch: the weight of the level of pairs of samples.
        classes: the weight of the level of pairs of classes.
    """

    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
    instance: NotNegative = 0.9
    batch: NotNegative = 0.9
    classes: NotNegative = 0.9
    hard: NotNegative = 0.1
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
    the last features; the paper adds KD, which is left to a sum of objectives. The weights are
    frugalkd's. torchdistill divides no row by its norm; its configuration has 0.003, of the
    distance (the root of the sum of squares) over the square of the number of rows. RepDistiller's
    loss, which it has from the authors, is another one: with d_i the difference of the embeddings
    of row i, the mean over rows that follow each other of ``sum(|d_i| * |d_i+1|)``, with weight
    0.02.

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
        rows = numerics.unit(logits)
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
    square of the batch, hence a large weight (RepDistiller's).

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
    rows = numerics.unit(logits)
    similarity = weights * (1 + rows @ rows.T) / 2
    total = similarity.sum(dim=1, keepdim=True)
    return similarity / total.clamp_min(torch.finfo(similarity.dtype).tiny)
