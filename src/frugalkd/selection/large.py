"""Epochs over more samples than an order in memory would bear: planned block by block.

The order of all ids is a keyed permutation, computed where it is needed; a block of it is planned
when it is its turn. What stays in memory is a block, and the ledger, which may lie in a file.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from frugalkd import draws
from frugalkd.errors import SelectionMisuse
from frugalkd.ledger import Ledger
from frugalkd.policies._policy import Ids, Moment, Plan, Policy

BLOCK = 1 << 22
"""Ids that are planned at a time: some 200 MB while they are."""

Screen = Callable[[Ids], None]
"""Looks at sleepers that are due, sorted ids, and enters what it sees into the ledger."""


def planned(
    policy: Policy,
    ledger: Ledger,
    at: Moment,
    *,
    screen: Screen | None = None,
    block: int = BLOCK,
) -> Iterator[Plan]:
    """The plan of the epoch ``at``, a block of the order at a time: together they hold the ids that
    ``policy`` plans of all samples, each once, in a random order of its own for each epoch.

    Args:
        policy: one that decides by sample (``by_sample``): nothing that spends a budget.
        ledger: of all samples; a block is planned with what it says when the block's turn comes.
        at: the epoch and the seed.
        screen: called with a block's sleepers that are due, before the block is planned.
        block: ids of the order that are looked at at a time.

    Yields:
        Plans in their order; one may be empty.

    Raises:
        SelectionMisuse: a policy that plans all samples together, or sleepers are due and there is
            nothing to look at them with.
    """
    if not policy.by_sample:
        raise SelectionMisuse(
            f"{policy} plans all samples together: large data need a policy that decides by "
            "sample, such as SelfRegulation() without a budget"
        )
    samples = len(ledger)
    order = draws.Permutation(samples, at.seed, draws.stream("large order"), at.epoch)
    for start in range(0, samples, block):
        ids = order(np.arange(start, min(start + block, samples)))
        turn = np.argsort(ids)
        pool = ids[turn]
        plan = policy.plan(ledger, pool, at)
        if len(plan.screen):
            if screen is None:
                raise SelectionMisuse(
                    f"{len(plan.screen)} sleepers are due in epoch {at.epoch}: pass screen="
                )
            screen(plan.screen)
            plan = policy.plan(ledger, pool, at)
        back = np.argsort(turn[np.searchsorted(pool, plan.ids)])
        parts = {
            name: None if values is None else values[back]
            for name, values in (("weights", plan.weights), ("forced", plan.forced))
        }
        yield replace(plan, ids=plan.ids[back], **parts)
