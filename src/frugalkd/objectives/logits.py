"""Losses of logits: each row on its own."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.runtime.settings import Count, Fraction, NotNegative, Positive
from frugalkd.teachers.encodings import Fidelity


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

    *Our reading:* T^2, which keeps the gradient's size as T grows, multiplies the soft part.

    *Needs:* the teacher's softmax at T, in which its gradient is linear: every encoding will do.
    """

    temperature: Positive = 4.0
    alpha: Fraction = 0.9

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.softened(logits, targets, self.temperature)
        soft = numerics.divergence(teacher, student)
        hard = numerics.cross_entropy(logits, labels)
        return self.alpha * self.temperature**2 * soft + (1 - self.alpha) * hard


@dataclass(frozen=True)
class LogitMSE(Objective):
    """Mean squared error on logits (Kim, Oh, Kim, Cho and Yun, IJCAI 2021, arXiv 2105.08919).

    *Loss:* ``alpha * |student - teacher|^2 + (1 - alpha) * cross-entropy``, on the logits.

    *Our reading:* the square of the norm is a sum over classes, as it is written; a mean over them
    would be smaller by their number. No temperature.

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
    """Of mean 0 and deviation 1 in each row."""
    centred = logits - logits.mean(dim=1, keepdim=True)
    return centred / (logits.std(dim=1, keepdim=True) + 1e-7)


@dataclass(frozen=True)
class DKD(Objective):
    """Decoupled knowledge distillation (Zhao et al., CVPR 2022, arXiv 2203.08679).

    *Loss:* ``T^2 * (alpha * TCKD + beta * NCKD) + hard * cross-entropy``. TCKD is the divergence
    between the pairs (probability of the label, of all other classes), NCKD that between the
    distributions over the other classes; both are of softmaxes at T. KD is alpha = 1 and beta = the
    teacher's probability of the other classes.

    *Our reading:* the authors raise the soft part linearly in the first epochs; here it is constant
    from the first step. Data without labels use the teacher's top class as the label.

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
    is not 0. Data without labels use the teacher's top class as the label.

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
    beta for each pair of models; 1 is only a start.

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

    *Our reading:* beta = 0 is KL(teacher || student), and so KD exactly; beta = 1 is KL(student ||
    teacher), the reverse. Near these ends JS is beta or 1 - beta times as large as the end itself,
    to which it does not lead without a jump. GKD scales nothing by T^2 and has no cross-entropy:
    that is T = 1 and alpha = 1.

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
