"""Epochs over more samples than an order in memory would bear: planned block by block.

An epoch goes through runs of neighbouring ids, in an order of the runs that is a keyed permutation,
computed where it is needed. A block of runs is planned and shuffled when it is its turn, so that a
ledger that lies in a file is read and written run by run, each page once an epoch, and so are data
that lie there. What stays in memory is a block.
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

RUNS = 64
"""Runs of a block: from so many places come the samples that are shuffled together."""

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
    """The plan of the epoch ``at``, a block at a time: together they hold the ids that ``policy``
    plans of all samples, each once, in a random order of its own for each epoch.

    Up to a block of samples are shuffled through and through. Of more, ids stay in their run of
    ``block / 64``, which is what shards and a shuffled buffer do elsewhere: data that come sorted
    by class are better mixed once beforehand.

    Args:
        policy: one that decides by sample (``by_sample``): nothing that spends a budget.
        ledger: of all samples; a block is planned with what it says when the block's turn comes.
        at: the epoch and the seed.
        screen: called with a block's sleepers that are due, before the block is planned.
        block: ids that are looked at at a time.

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
                    f"{len(plan.screen)} sleepers are due in epoch {at.epoch}: pass screen="
                )
            screen(plan.screen)
            plan = policy.plan(ledger, pool, at)
        yield _shuffled(plan, at)


def _shuffled(plan: Plan, at: Moment) -> Plan:
    """The plan in a random order, without a table of all samples."""
    ids = draws.order(plan.ids, at.seed, draws.stream("order"), at.epoch)
    by_id = np.argsort(plan.ids)
    where = by_id[np.searchsorted(plan.ids, ids, sorter=by_id)]
    parts = {
        name: None if values is None else values[where]
        for name, values in (("weights", plan.weights), ("forced", plan.forced))
    }
    return replace(plan, ids=ids, **parts)
