"""Plan epochs block by block, for more samples than an order in memory could hold.

An epoch visits runs of neighbouring ids. The order of the runs is a keyed permutation, computed on
demand. A block of runs is planned and shuffled when the epoch reaches it. Memory-mapped ledgers and
data are therefore read and written run by run, each page once per epoch. Only one block is in
memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from frugalkd.errors import SelectionMisuse
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.policy import EpochContext, Ids, Plan, Policy
from frugalkd.runtime import draws

BLOCK = 1 << 22
"""Ids that are planned at a time, with about 200 MB of memory."""

RUNS = 64
"""Runs per block: samples from this many places are shuffled together."""

Screen = Callable[[Ids], None]
"""Screens the given skipped samples (sorted ids) and enters the outcomes into the ledger."""


def planned(
    policy: Policy,
    ledger: Ledger,
    at: EpochContext,
    *,
    screen: Screen | None = None,
    block: int = BLOCK,
) -> Iterator[Plan]:
    """The plan of the epoch ``at``, one block at a time. Together the blocks contain the ids that
    ``policy`` plans among all samples, each once, in a random order that differs for each epoch.

    Up to ``block`` samples are shuffled completely. With more samples, the ids of a run of
    ``block / 64`` stay in one block, as with shards and a shuffle buffer. Shuffle data that are
    sorted by class once beforehand.

    Args:
        policy: decides by sample (``by_sample``), without a budget.
        ledger: of all samples; a block is planned from its state when the epoch reaches the block.
        at: the epoch and the seed.
        screen: called with the skipped samples of a block that are due, before it is planned.
        block: ids to plan at a time.

    Yields:
        Plans in order; a plan may be empty.

    Raises:
        SelectionMisuse: the policy plans all samples together, or skipped samples are due and
            ``screen`` is missing.
    """
    if not policy.by_sample:
        raise SelectionMisuse(
            f"{policy} plans all samples together: large data need a policy that decides by "
            "sample, such as SelfRegulation() without a budget"
        )
    samples, length = len(ledger), max(1, block // RUNS)
    runs, together = -(-samples // length), max(1, block // length)
    order = draws.Permutation(runs, at.seed, draws.stream("large order"), at.epoch)
    for start in range(0, runs, together):
        which = np.sort(order(np.arange(start, min(start + together, runs))))
        pool = (which[:, None] * length + np.arange(length)).ravel()
        pool = pool[pool < samples]
        plan = policy.plan(ledger, pool, at)
        if len(plan.screen):
            if screen is None:
                raise SelectionMisuse(
                    f"{len(plan.screen)} skipped samples are due in epoch {at.epoch}: pass screen="
                )
            screen(plan.screen)
            plan = policy.plan(ledger, pool, at)
        yield _shuffled(plan, at)


def _shuffled(plan: Plan, at: EpochContext) -> Plan:
    """The plan in random order, without an array over all samples."""
    ids = draws.order(plan.ids, at.seed, draws.stream("order"), at.epoch)
    by_id = np.argsort(plan.ids)
    where = by_id[np.searchsorted(plan.ids, ids, sorter=by_id)]
    parts = {
        name: None if values is None else values[where]
        for name, values in (("weights", plan.weights), ("forced", plan.forced))
    }
    return replace(plan, ids=ids, **parts)
