"""Everything, every epoch: conventional training."""

from __future__ import annotations

from dataclasses import dataclass

from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.policy import EpochContext, Ids, Plan, Ungated


@dataclass(frozen=True)
class All(Ungated):
    """Conventional training.

    *Rule:* every sample of the pool takes part in every epoch.

    *Cost:* that of training on everything.
    """

    @property
    def by_sample(self) -> bool:
        return True

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        return Plan(pool)
