"""Selective Backprop: the larger its loss among those of its batch, the likelier a sample stays."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies._budget import check_parts
from frugalkd.policies.keeping import cross_entropy, lowest_rows, race, share
from frugalkd.policies.policy import EpochContext, GateNow, Ids, Mask


@dataclass(frozen=True)
class SelectiveBackprop(GateNow):
    """Selective Backprop (Jiang et al., 2019).

    *Rule:* the model looks at each batch first; a sample is kept with chance max(``least``, its
    loss's percentile ** ``beta``), and those that are kept wait until a full batch is there.

    *What we chose:* the loss is the look's cross-entropy with the label, whatever the objective, so
    that no teacher is asked about what is then left out. The percentile is (rank + 0.5) / rows
    among the rows of the look, as in Composer, not among the losses of the past; where losses are
    equal, the later row ranks higher. Within a ``budget``, that part of each look is kept (the odd
    row by a draw), drawn without replacement with chances proportional to percentile **
    (1 / budget - 1), which is Composer's rule.

    *Cost:* a forward pass of everything in every epoch, before those of what is kept.

    Attributes:
        beta: how steeply the chance falls with the percentile, 0 or more; 1 keeps half.
        least: the smallest chance, in [0, 1]; 1 keeps everything.
        budget: samples backpropagated, of those that are read; None leaves it to the two above.
    """

    beta: float = 1.0
    least: float = 0.0
    budget: float | None = None

    def __post_init__(self) -> None:
        if not self.beta >= 0:
            raise SettingError(f"beta must be 0 or more, not {self.beta}")
        if not 0 <= self.least <= 1:
            raise SettingError(f"least must be in [0, 1], not {self.least}")
        check_parts(budget=self.budget)

    def needs_training(self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        percentile = _percentile(cross_entropy(look))
        drawn = at.uniform("selective-backprop", ids)
        if self.budget is None:
            return drawn < np.maximum(self.least, percentile**self.beta)
        keys = race((1 / self.budget - 1) * np.log(percentile), drawn)
        return lowest_rows(keys, share(self.budget, ids, "selective-backprop-rows", at))


def _percentile(losses: NDArray) -> NDArray[np.float64]:
    """(rank + 0.5) / rows, in (0, 1)."""
    rank = np.empty(len(losses))
    rank[np.argsort(losses, kind="stable")] = np.arange(len(losses))
    return (rank + 0.5) / len(losses)
