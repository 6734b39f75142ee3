"""Progressive Data Dropout: what is still hard, and in the last epoch everything."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies._budget import check_parts, full_from, rest_of
from frugalkd.policies.keeping import lowest_rows, share
from frugalkd.policies.policy import EpochContext, GateNow, Ids, Mask, Plan


@dataclass(frozen=True)
class ProgressiveDataDropout(GateNow):
    """Progressive Data Dropout by difficulty (NeurIPS 2025).

    *Rule:* the model looks at each batch first, and a sample takes part while the probability of
    its label is below ``threshold``; the last epoch trains on everything.

    *What we chose:* what is kept waits until a full batch is there. Within a ``budget``, a look
    keeps its rows of lowest probability, as many as the budget has left (the odd row by a draw),
    whatever the threshold. The last epochs are paid from the budget too, and take half of it at the
    most: where that does not pay for a whole epoch, there is none. The method's own control, as
    many at random in each epoch, is the arm ``random-counts:pdd`` of a comparison.

    *Cost:* a forward pass of everything in every epoch but the last, before those of what is kept.

    Attributes:
        threshold: of the label's softmax probability, above 0; above 1 everything takes part.
        final_full_epochs: last epochs in which everything takes part, counted as forced.
        budget: samples backpropagated, of those that are read; None leaves it to ``threshold``.
    """

    threshold: float = 0.3
    final_full_epochs: int = 1
    budget: float | None = None

    def __post_init__(self) -> None:
        if not self.threshold > 0:
            raise SettingError(f"threshold must be above 0, not {self.threshold}")
        if self.final_full_epochs < 0:
            raise SettingError(
                f"final_full_epochs is epochs, 0 or more, not {self.final_full_epochs}"
            )
        check_parts(budget=self.budget)

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        if at.epoch >= full_from(at.epochs, self.final_full_epochs, self.budget):
            return Plan(pool, forced=np.ones(len(pool), dtype=bool))
        return Plan(pool)

    def needs_training(self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        if self.budget is None:
            return ~(look.truth >= self.threshold)
        full = at.epochs - full_from(at.epochs, self.final_full_epochs, self.budget)
        wanted = share(rest_of(self.budget, at.epochs, full), ids, "pdd-rows", at)
        return lowest_rows(look.truth, wanted)
