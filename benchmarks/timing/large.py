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
from numpy.typing import NDArray

from frugalkd.errors import SelectionMisuse, SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import All, EpochContext, Ids, Plan, Policy, SelfRegulation
from frugalkd.runtime import draws
from frugalkd.runtime.draws import blocks, hash64, mix

BLOCK = 1 << 22
"""Ids that are planned at a time, with about 200 MB of memory."""

RUNS = 64
"""Runs per block: samples from this many places are shuffled together."""

Screen = Callable[[Ids], None]
"""Screens the given skipped samples (sorted ids) and enters the outcomes into the ledger."""


def decides_by_sample(policy: Policy) -> bool:
    """Whether a policy decides on each sample by its own ledger entries alone, so that the plan of
    a part of the pool is that part of the plan. Of frugalkd's these are ``All`` and
    ``SelfRegulation`` without a limit; your own says so by an attribute ``by_sample``."""
    if isinstance(policy, SelfRegulation):
        limits = policy.budget, policy.cost, policy.keep_probability
        return limits == (None, None, None) and policy.when_all_skipped == "wait"
    return isinstance(policy, All) or getattr(policy, "by_sample", False)


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
        policy: decides by sample, without a budget: :func:`decides_by_sample`, or your own.
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
    if not decides_by_sample(policy):
        raise SelectionMisuse(
            f"{policy} plans all samples together: large data need a policy that decides by "
            "sample, such as SelfRegulation() without a budget"
        )
    samples, length = len(ledger), max(1, block // RUNS)
    runs, together = -(-samples // length), max(1, block // length)
    order = Permutation(runs, at.seed, draws.stream("large order"), at.epoch)
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


_ROUNDS = 6


class Permutation:
    """The numbers below ``size`` in a random order that is not held in memory.

    A Feistel network (Luby and Rackoff, 1988) of six rounds, whose round function is a hash of the
    seed, the counters, the round and a half, over the next even number of bits; what falls outside
    is sent through again until it falls inside. Not :func:`order`, which sorts.

    Args:
        size: how many, up to 2^62.
        seed, counters: of the order.

    Raises:
        SettingError: a size below 1 or above 2^62.
    """

    def __init__(self, size: int, seed: int, *counters: int):
        if not 1 <= size <= 1 << 62:
            raise SettingError(f"size must be in [1, 2^62], not {size}")
        self.size = size
        self._half = np.uint64(max(1, ((size - 1).bit_length() + 1) // 2))
        self._mask = np.uint64((1 << int(self._half)) - 1)
        self._keys = hash64(seed, *counters, np.arange(_ROUNDS))

    def __call__(self, places: NDArray[np.int64]) -> NDArray[np.int64]:
        """What stands at ``places`` (int64, in 0 .. size - 1), one number each."""
        values = self._once(places.astype(np.uint64))
        outside = np.flatnonzero(values >= self.size)
        while len(outside):
            again = self._once(values[outside])
            values[outside] = again
            outside = outside[again >= self.size]
        return values.view(np.int64)

    def _once(self, values: NDArray[np.uint64]) -> NDArray[np.uint64]:
        for block in blocks(values):
            left, right = block >> self._half, block & self._mask
            for key in self._keys:
                mixed = right ^ key
                mix(mixed)
                mixed &= self._mask
                mixed ^= left
                left, right = right, mixed
            block[:] = (left << self._half) | right
        return values
