"""What a look says of its rows, and the gate's verdict; free of torch, as the policies are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Outcome(NamedTuple):
    """What one look at a batch says of each of its rows; arrays or tensors, all (rows,).

    ``confidence`` float32: top softmax probability, NaN where the logits are not finite.
    ``correct`` bool: the lowest index among the largest logits is the label.
    ``truth`` float32: the label's softmax probability.
    ``entropy`` float32: of the softmax, in nats; None where the policy does not ask for it.
    """

    confidence: Any
    correct: Any
    truth: Any
    entropy: Any = None

    def each(self, change: Callable[[Any], Any]) -> Outcome:
        """The look with ``change`` done to all that it says."""
        return Outcome(*(None if part is None else change(part) for part in self))


def joined_looks(looks: Sequence[Outcome]) -> Outcome:
    """Several looks (arrays) as one, in their order."""
    return Outcome(
        *(
            None if any(part is None for part in parts) else np.concatenate(parts)
            for parts in zip(*looks, strict=True)
        )
    )


def fails(confidence: Any, correct: Any, tau: float) -> Any:
    """Which rows fail the gate: misclassified, or less confident than ``tau``.

    Args:
        confidence: floating point (rows,), an array or a tensor.
        correct: bool (rows,), of the same kind.
        tau: exactly ``tau`` passes, compared in the precision of ``confidence``; NaN fails.
    """
    return ~(correct & (confidence >= tau))
