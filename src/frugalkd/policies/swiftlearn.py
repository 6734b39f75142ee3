"""SwiftLearn: a subset drawn by importance, and drawn again now and then."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies._budget import check_parts, rest_of, rows_of
from frugalkd.policies.keeping import cross_entropy, lowest, race
from frugalkd.policies.policy import EpochContext, Ids, Plan, Ungated, at_sorted

_LEAST = 1e-6
"""What the importance of a sample without any counts as, so that it can be drawn too."""


@dataclass(frozen=True)
class SwiftLearn(Ungated):
    """SwiftLearn (Hajimolahoseini et al., arXiv 2311.15134).

    *Rule:* after a warm-up on everything, training uses a subset chosen by the importance of the
    samples, which is refreshed now and then.

    *What we chose:* no more than that is known to us, so all else is our reading. The importance is
    the cross-entropy with the label; everything is screened for it after the ``warmup`` and every
    ``refresh`` epochs from then on. A refresh draws ``fraction`` of the samples without
    replacement, with chances proportional to importance, and they stay until the next one. Within a
    ``budget`` the subset is what the budget has left after the warm-up, which takes half of it at
    the most; where that pays for no whole epoch, the first epoch is a random draw instead.

    *Cost:* a forward pass of everything at each refresh, 4 bytes a sample.

    Attributes:
        fraction: of the samples, in (0, 1], that a refresh draws.
        warmup: first epochs in which everything takes part, at least 1.
        refresh: epochs from one refresh to the next, at least 1.
        budget: samples backpropagated, of full training over the same epochs; None leaves it to
            ``fraction``.
    """

    needs_screening = True

    fraction: float = 0.25
    warmup: int = 1
    refresh: int = 5
    budget: float | None = None

    def __post_init__(self) -> None:
        if min(self.warmup, self.refresh) < 1:
            raise SettingError(
                f"warmup and refresh are epochs, 1 or more: {self.warmup}, {self.refresh}"
            )
        check_parts(fraction=self.fraction, budget=self.budget)

    @property
    def columns(self) -> Mapping[str, str]:
        return {"importance": "float32"}

    def update_columns(
        self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        first = ledger["last_epoch"].take(ids) != at.epoch
        screened = first & (at.epoch == self._refreshed(at))
        importance = ledger["importance"].take(ids)
        return {"importance": np.where(screened, cross_entropy(look), importance)}

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        warmup = self._warmup(at)
        if at.epoch < warmup:
            return Plan(pool)
        part = self.fraction
        if self.budget is not None:
            part = rest_of(self.budget, at.epochs, warmup)
        wanted = rows_of(part, len(ledger))
        if wanted >= len(pool):
            return Plan(pool)
        refreshed = self._refreshed(at)
        if at.epoch == refreshed:
            unknown = at_sorted(ledger["last_epoch"], pool) != at.epoch
            if unknown.any():
                return Plan(pool[~unknown], screen=pool[unknown])
        then = replace(at, epoch=max(0, refreshed))

        def keys(ids: Ids) -> NDArray:
            importance = np.maximum(at_sorted(ledger["importance"], ids), _LEAST)
            return race(np.log(importance), then.uniform("swiftlearn", ids))

        return Plan(lowest(pool, wanted, keys))

    def _warmup(self, at: EpochContext) -> int:
        """Epochs of the warm-up."""
        if self.budget is None:
            return self.warmup
        return min(self.warmup, int(self.budget * at.epochs / 2 + 1e-9))

    def _refreshed(self, at: EpochContext) -> int:
        """The epoch of the last refresh; -1 before the first one."""
        first = max(1, self._warmup(at))
        if at.epoch < first:
            return -1
        return at.epoch - (at.epoch - first) % self.refresh
