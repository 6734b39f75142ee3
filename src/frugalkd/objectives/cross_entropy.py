"""Cross-entropy with the label: no distillation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives import _numerics as numerics
from frugalkd.objectives.objective import Objective


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy with the label: no distillation.

    *Loss:* ``-log p(label)``, or the cross-entropy with the smoothed label.

    *Needs:* no teacher.

    Attributes:
        label_smoothing: in [0, 1], the mass that is spread over all classes.
    """

    label_smoothing: float = 0.0
    needs_targets = False

    def __post_init__(self) -> None:
        numerics.check_share(label_smoothing=self.label_smoothing)

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            numerics.full(logits), labels, reduction="none", label_smoothing=self.label_smoothing
        )
