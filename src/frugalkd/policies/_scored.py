"""Ranking by a score that was there before the training."""

from __future__ import annotations

import numpy as np

from frugalkd import draws
from frugalkd.ledger import Ledger
from frugalkd.policies._policy import Ids, Moment, Plan, at_sorted


def highest(ledger: Ledger, pool: Ids, budget: float, at: Moment) -> Plan:
    """The same plan in every epoch: of ``pool`` those of the highest score, ``budget`` of all
    samples; ties are drawn from the seed."""
    wanted = max(1, round(budget * len(ledger)))
    if wanted >= len(pool):
        return Plan(pool)
    ties = draws.uniform(at.seed, draws.stream("scored-ties"), pool)
    ranked = np.lexsort((ties, -at_sorted(ledger["score"], pool)))
    return Plan(pool[ranked[:wanted]])


def check_scored(budget: float, epochs: float, seeds: int) -> None:
    """Raises ValueError for settings that cannot be."""
    if not 0 < budget <= 1:
        raise ValueError(f"budget must be in (0, 1], not {budget}")
    check_scoring(epochs, seeds)


def check_scoring(epochs: float, seeds: int) -> None:
    """Raises ValueError for a scoring run that cannot be."""
    if not 0 < epochs <= 60_000:
        raise ValueError(f"epochs (of the scoring run) must be in (0, 60000], not {epochs}")
    if seeds < 1:
        raise ValueError(f"seeds must be 1 or more, not {seeds}")
