"""What a look says of its rows, and the gate's verdict; free of torch, as the policies are."""

from __future__ import annotations

from typing import Any, NamedTuple


class Look(NamedTuple):
    """What one look at a batch says of each of its rows; arrays or tensors, all (rows,).

    ``confidence`` float32: top softmax probability, NaN where the logits are not finite.
    ``correct`` bool: the lowest index among the largest logits is the label.
    ``truth`` float32: the label's softmax probability.
    """

    confidence: Any
    correct: Any
    truth: Any


def fails(confidence: Any, correct: Any, tau: float) -> Any:
    """Which rows fail the gate: misclassified, or less confident than ``tau``.

    Args:
        confidence: floating point (rows,), an array or a tensor.
        correct: bool (rows,), of the same kind.
        tau: exactly ``tau`` passes, compared in the precision of ``confidence``; NaN fails.
    """
    return ~(correct & (confidence >= tau))
