"""Cross-entropy with the label: no distillation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from frugalkd.objectives._objective import Objective


@dataclass(frozen=True)
class CrossEntropy(Objective):
    """Cross-entropy; ``label_smoothing`` in [0, 1] spreads that mass over all classes."""

    label_smoothing: float = 0.0
    needs_targets = False

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing <= 1:
            raise ValueError(f"label_smoothing must be in [0, 1], not {self.label_smoothing}")

    def __call__(self, logits: Tensor, targets: Tensor | None, labels: Tensor) -> Tensor:
        return F.cross_entropy(
            logits.float(), labels, reduction="none", label_smoothing=self.label_smoothing
        )
