"""The outcome of a forward pass for each row, and the gate's rule; without torch, as policies."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np


class Outcome(NamedTuple):
    """The outcome of a forward pass for each row of a batch; arrays or tensors, all (rows,).

    ``confidence`` float32: top softmax probability, NaN where the logits are not finite.
    ``correct`` bool: the lowest index among the largest logits is the label.
    ``truth`` float32: the label's softmax probability.
    ``entropy`` float32: of the softmax, in nats; None where the policy does not need it.
    ``distance`` float32: from what is right, over that of the teacher's mean output; None for one
    class. Of kinds of output that have one, ``confidence`` and ``truth`` are the score 1 -
    ``distance``, and a row of a score above 0 is ``correct``. Of sequences of tokens it is the mean
    loss, and the score exp(-``distance``).

    Of the given label, which a gate need not go by, and None unless training dynamics are recorded
    (:mod:`frugalkd.ledger.dynamics`):
    ``margin`` float32: its logit minus the largest of the other logits.
    ``given`` float32: its softmax probability.
    ``other`` int32: the class with that largest other logit.
    """

    confidence: Any
    correct: Any
    truth: Any
    entropy: Any = None
    distance: Any = None
    margin: Any = None
    given: Any = None
    other: Any = None

    @classmethod
    def joined(cls, parts: Sequence[Outcome], join: Callable = np.concatenate) -> Outcome:
        """Several outcomes as one, in their order; ``join`` is for arrays or tensors."""
        columns = zip(*parts, strict=True)
        return cls(*(None if values[0] is None else join(values) for values in columns))

    def each(self, change: Callable[[Any], Any]) -> Outcome:
        """The outcome with ``change`` applied to each of its parts."""
        return Outcome(*(None if part is None else change(part) for part in self))


def fails(confidence: Any, correct: Any, tau: float) -> Any:
    """Which rows fail the gate: misclassified, or less confident than ``tau``.

    Args:
        confidence: floating point (rows,), an array or a tensor.
        correct: bool (rows,), of the same kind.
        tau: exactly ``tau`` passes, compared in the precision of ``confidence``; NaN fails.
    """
    return ~(correct & (confidence >= tau))
