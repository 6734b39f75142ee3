"""Ranking by a score that was there before the training."""

from __future__ import annotations

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.keeping import lowest
from frugalkd.policies.policy import EpochContext, Ids, Plan, at_sorted
from frugalkd.runtime import draws


def highest(ledger: Ledger, pool: Ids, budget: float, at: EpochContext) -> Plan:
    """The same plan in every epoch: of ``pool`` those of the highest score, ``budget`` of all
    samples; ties are drawn from the seed."""
    ties = draws.stream("scored-ties")
    return Plan(
        lowest(
            pool,
            max(1, round(budget * len(ledger))),
            lambda ids: -at_sorted(ledger["score"], ids),
            lambda ids: draws.uniform(at.seed, ties, ids),
        )
    )


def check_scoring(epochs: float, seeds: int) -> None:
    """Settings of a scoring run.

    Raises:
        SettingError: it cannot be.
    """
    if not 0 < epochs <= 60_000:
        raise SettingError(f"epochs (of the scoring run) must be in (0, 60000], not {epochs}")
    if seeds < 1:
        raise SettingError(f"seeds must be 1 or more, not {seeds}")
