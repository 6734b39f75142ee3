"""Multi-level logit distillation (Jin, Wang and Lin, CVPR 2023)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from frugalkd.errors import SettingError
from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import BatchObjective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class MLKD(BatchObjective):
    """Multi-level logit distillation (Jin, Wang and Lin, CVPR 2023).

    *Loss:* ``instance * I + batch * B + classes * C``, each summed over the temperatures, plus
    ``hard * cross-entropy``. With the probabilities P (rows, classes) of a softmax at T: I is ``T^2
    * KL(teacher || student)``; B the squared distance of student's and teacher's ``P P'`` (rows,
    rows), over the rows; C that of their ``P' P`` (classes, classes), over the classes.

    *Our reading:* one view of each sample. The authors add a second, strongly augmented one, and
    leave out of a level the samples and classes that the teacher is unsure of; neither is here.

    *Weights:* in B the pair (i, j) weighs w_i * w_j; in C the matrices are of weighted rows, which
    is the same for its pairs. A row's part of C may be negative.

    *Needs:* the teacher's softmax at several temperatures, and so the differences of its logits:
    float16, float32 or a live teacher.

    Attributes:
        temperatures: each > 0; at each of them the three levels are asked for.
        instance: the weight of the level of single samples.
        batch: the weight of the level of pairs of samples.
        classes: the weight of the level of pairs of classes.
        hard: the weight of the cross-entropy with the label.
    """

    temperatures: tuple[float, ...] = (2.0, 3.0, 4.0, 5.0, 6.0)
    instance: float = 1.0
    batch: float = 1.0
    classes: float = 1.0
    hard: float = 1.0
    needs_targets = True
    reads = Fidelity.DIFFERENCES

    def __post_init__(self) -> None:
        if not self.temperatures:
            raise SettingError("temperatures must be given: at least one")
        for temperature in self.temperatures:
            numerics.check_positive(temperatures=temperature)
        numerics.check_not_negative(
            instance=self.instance, batch=self.batch, classes=self.classes, hard=self.hard
        )

    def __call__(
        self, logits: Tensor, targets: Tensor | None, labels: Tensor, weights: Tensor | None = None
    ) -> Tensor:
        losses = self.hard * numerics.cross_entropy(logits, labels)
        for temperature in self.temperatures:
            student, teacher = numerics.softened(logits, targets, temperature)
            of_instance = temperature**2 * numerics.divergence(teacher, student)
            student, teacher = student.exp(), teacher.exp()
            told = numerics.weights_or_ones(weights, student)
            with numerics.whole(logits):
                of_batch = _of_batch(student, teacher, told)
                of_classes = _of_classes(student, teacher, told)
            losses = losses + self.instance * of_instance
            losses = losses + self.batch * of_batch + self.classes * of_classes
        return losses


def _of_batch(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """(rows,), the squared distance of a row's products with all rows, which weigh ``weights``."""
    return (teacher @ teacher.T - student @ student.T).square() @ weights


def _of_classes(student: Tensor, teacher: Tensor, weights: Tensor) -> Tensor:
    """(rows,), such that their weighted sum over the rows is the squared distance of the classes'
    products, over the classes: a row has what it adds to one factor of the square."""
    rows, classes = student.shape
    apart = teacher.T @ (weights[:, None] * teacher) - student.T @ (weights[:, None] * student)
    added = (teacher @ apart * teacher).sum(dim=1) - (student @ apart * student).sum(dim=1)
    return rows / classes * added
