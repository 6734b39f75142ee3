"""The verdict of the gate, for arrays and tensors alike; free of torch, as the policies are."""

from __future__ import annotations

from typing import Any


def fails(confidence: Any, correct: Any, tau: float) -> Any:
    """Which rows fail the gate: misclassified, or less confident than ``tau``.

    Args:
        confidence: floating point (rows,), an array or a tensor.
        correct: bool (rows,), of the same kind.
        tau: exactly ``tau`` passes, compared in the precision of ``confidence``; NaN fails.
    """
    return ~(correct & (confidence >= tau))
