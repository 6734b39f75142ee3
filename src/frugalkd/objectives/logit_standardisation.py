"""Knowledge distillation on standardised logits (Sun et al., CVPR 2024)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.teachers.fidelity import Fidelity

_EPSILON = 1e-7


@dataclass(frozen=True)
class LogitStandardisation(Objective):
    """Logit standardisation on KD (Sun, Ren, Li, Wang and Cao, CVPR 2024, arXiv 2403.01427).

    *Loss:* ``soft * T^2 * KL(softmax(Z(t) / T) || softmax(Z(s) / T)) + hard * cross-entropy``,
    where ``Z(x) = (x - mean(x)) / (std(x) + 1e-7)`` over the classes of a row: the student need not
    reach the teacher's logits, only their shape.

    *Our reading:* the deviation is that of n - 1, and the small number in the denominator stands
    where the authors' code has both. The cross-entropy is of the student's logits as they are.

    *Needs:* the differences of the teacher's logits: float16, float32 or a live teacher.

    Attributes:
        temperature: T > 0, of both softmaxes, after standardisation.
        soft: the weight of the divergence.
        hard: the weight of the cross-entropy with the label.
    """

    temperature: float = 2.0
    soft: float = 9.0
    hard: float = 0.1
    needs_targets = True
    reads = Fidelity.DIFFERENCES

    def __post_init__(self) -> None:
        numerics.check_positive(temperature=self.temperature)
        numerics.check_not_negative(soft=self.soft, hard=self.hard)

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
    return centred / (logits.std(dim=1, keepdim=True) + _EPSILON)
