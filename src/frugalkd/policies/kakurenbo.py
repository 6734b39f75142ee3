"""KAKURENBO: hide for an epoch what is easy by its loss, right, and sure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies.keeping import cross_entropy, lowest, stale
from frugalkd.policies.policy import EpochContext, Ids, Plan, Ungated, at_sorted

DECAY = (1.0, 0.8, 0.6, 0.4)
"""Of the largest part, in the quarters of the training."""


@dataclass(frozen=True)
class Kakurenbo(Ungated):
    """KAKURENBO (Nguyen et al., NeurIPS 2023).

    *Rule:* a sample is hidden for an epoch if it is among the part F of lowest loss, and was right
    with a confidence of ``confidence`` or more. F decays from ``fraction`` to 0.8, 0.6 and 0.4 of
    it; the learning rate is multiplied by 1 / (1 - F). The hidden get a forward pass at the epoch's
    end, so that the next decision knows how they fare.

    *What we chose:* F steps down with the quarters of the training (when it does is our reading).
    The F of the learning rate is the part that is hidden in the end, not the part that may be.
    The loss is the cross-entropy with the label at the sample's last look, whatever the objective;
    of equal losses a draw decides. The forward pass of the hidden is made before the next decision,
    with the same weights, and not after the last epoch. It hides at the most what it may, never
    what a budget would ask for: it cannot be made to spend one.

    *Cost:* a forward pass of each hidden sample, 4 bytes a sample.

    Attributes:
        fraction: the largest part F that may be hidden, in [0, 1); the default is our choice.
        confidence: the top softmax probability from which a sample that is right may be hidden.
    """

    needs_screening = True

    fraction: float = 0.3
    confidence: float = 0.7

    def __post_init__(self) -> None:
        if not 0 <= self.fraction < 1:
            raise SettingError(f"fraction must be in [0, 1), not {self.fraction}")
        if not 0 <= self.confidence <= 1:
            raise SettingError(f"confidence must be in [0, 1], not {self.confidence}")

    @property
    def columns(self) -> Mapping[str, str]:
        return {"cross_entropy": "float32"}

    def update_columns(
        self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        return {"cross_entropy": cross_entropy(look)}

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        unknown = stale(ledger, pool, at)
        if unknown.any():
            return Plan(pool[~unknown], screen=pool[unknown])
        part = self.fraction * DECAY[min(3, int(4 * at.epoch / at.epochs))]
        easy = lowest(
            pool,
            int(part * len(pool)),
            lambda ids: at_sorted(ledger["cross_entropy"], ids),
            lambda ids: at.uniform("kakurenbo-ties", ids),
        )
        easy = easy[ledger.correct[easy] & (ledger["confidence"][easy] >= self.confidence)]
        seen = np.ones(len(pool), dtype=bool)
        seen[np.searchsorted(pool, easy)] = False
        return Plan(pool[seen], lr_factor=len(pool) / max(1, len(pool) - len(easy)))
