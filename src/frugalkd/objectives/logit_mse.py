"""The squared distance of the logits (Kim et al., IJCAI 2021)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective
from frugalkd.teachers.fidelity import Fidelity


@dataclass(frozen=True)
class LogitMSE(Objective):
    """Mean squared error on logits (Kim, Oh, Kim, Cho and Yun, IJCAI 2021, arXiv 2105.08919).

    *Loss:* ``alpha * |student - teacher|^2 + (1 - alpha) * cross-entropy``, on the logits.

    *Our reading:* the square of the norm is a sum over classes, as it is written; a mean over them
    would be smaller by their number. No temperature.

    *Needs:* the teacher's logits themselves: float32 or a live teacher. float16 keeps each row less
    its largest logit, and the distance to that is another one.

    Attributes:
        alpha: the soft part's share, in [0, 1].
    """

    alpha: float = 0.9
    needs_targets = True
    reads = Fidelity.LOGITS

    def __post_init__(self) -> None:
        numerics.check_share(alpha=self.alpha)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        student, teacher = numerics.both(logits, targets)
        soft = (student - teacher).square().sum(dim=1)
        return self.alpha * soft + (1 - self.alpha) * numerics.cross_entropy(logits, labels)
