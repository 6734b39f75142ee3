"""From a policy's plan to what an epoch trains: whole steps for every rank, and an order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.ledger import NEVER, Ledger
from frugalkd.policies.keeping import lowest
from frugalkd.policies.policy import EpochContext, Ids, Plan, Policy
from frugalkd.runtime import draws


def in_whole_steps(
    plan: Plan, ledger: Ledger, pool: Ids, rows: int, policy: Policy, at: EpochContext
) -> tuple[Plan, int]:
    """The plan made a multiple of ``rows`` ids long, and how many ids had to be deferred for that:
    every rank takes as many steps, so none waits for a batch that never comes. (And one rank does
    not train on a batch of one row.)

    The sleepers nearest their due epoch are woken, forced, to fill the last step. Where they are
    not enough, or where importance weights speak for all who are left out already, what is above a
    multiple is deferred: of a policy that looks the most confident, else a random draw. Nothing is
    entered about them, and so they stay awake. A plan that is less than one step is filled in any
    case, with whoever is left; an empty one stays empty.

    Args:
        plan: its ids in any order.
        ledger: what is known of the samples.
        pool: ids that may take part, sorted, ``rows`` of them or more.
        rows: of a step on all ranks.
        policy: whose plan it is.
        at: the moment; its draws decide among equals.
    """
    planned = len(plan.ids)
    lacking = -planned % rows
    if not lacking:
        return plan, 0
    others = np.setdiff1d(pool, plan.ids, assume_unique=True)
    asleep = others[ledger["due"][others] > at.epoch]
    if planned < rows:
        return _woken(plan, others, lacking, ledger, at), 0
    if plan.weights is None and len(asleep) >= lacking:
        return _woken(plan, asleep, lacking, ledger, at), 0

    def confidence(places: Ids) -> NDArray:
        ids = plan.ids[places]
        unseen = ledger["last_epoch"][ids] == NEVER
        return np.where(unseen, -1.0, ledger["confidence"][ids])

    def chance(places: Ids) -> NDArray:
        return at.uniform("deferred", plan.ids[places])

    keys = (confidence, chance) if policy.needs_screening and plan.weights is None else (chance,)
    kept = lowest(np.arange(planned), planned - planned % rows, *keys)
    parts = {
        name: None if values is None else values[kept]
        for name, values in (("weights", plan.weights), ("forced", plan.forced))
    }
    return replace(plan, ids=plan.ids[kept], **parts), planned - len(kept)


def _woken(plan: Plan, others: Ids, wanted: int, ledger: Ledger, at: EpochContext) -> Plan:
    """The plan and ``wanted`` of the ``others``, those that are due first."""
    ids = lowest(
        others, wanted, lambda ids: ledger["due"][ids], lambda ids: at.uniform("woken", ids)
    )
    planned = len(plan.ids)
    forced = np.ones(planned + len(ids), dtype=bool)
    forced[:planned] = False if plan.forced is None else plan.forced
    weights = plan.weights
    if weights is not None:
        weights = np.concatenate([weights, np.ones(len(ids), dtype=weights.dtype)])
    return replace(plan, ids=np.concatenate([plan.ids, ids]), weights=weights, forced=forced)


def ordered(
    plan: Plan,
    at: EpochContext,
    *,
    samples: int,
    part: float,
    step: int,
    regroup: Callable[[Ids], Ids],
) -> Plan:
    """The part of a plan that its epoch trains, in its order; a multiple of ``step`` rows where the
    plan is one.

    Args:
        plan: its ids in any order.
        at: the epoch and the seed, of which the order is a function.
        samples: of the data set.
        part: of the epoch that is trained, above 0 and up to 1.
        step: rows that belong together.
        regroup: puts ids of like length side by side, or gives them back.
    """
    ids = draws.order(plan.ids, at.seed, draws.stream("order"), at.epoch)
    steps = round(part * len(ids) / step)
    ids = regroup(ids[: step * (steps if step == 1 else max(1, steps))])

    def of(values: NDArray | None) -> NDArray | None:
        """What the plan says of its ids, in their order."""
        if values is None:
            return None
        table = np.empty(samples, dtype=values.dtype)
        table[plan.ids] = values
        return table[ids]

    return Plan(ids, of(plan.weights), of(plan.forced), lr_factor=plan.lr_factor, stop=plan.stop)
