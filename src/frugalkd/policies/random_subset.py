"""A random subset: the control that selection must beat."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.keeping import balanced
from frugalkd.policies.policy import EpochContext, Ids, Plan, Ungated
from frugalkd.runtime import draws


@dataclass(frozen=True)
class RandomSubset(Ungated):
    """A random part of the pool, the control that selection must beat at the same count.

    *Rule:* ``fraction`` of the samples take part, drawn anew in each epoch.

    *What we chose:* to offer the two other controls as well: one draw for the whole training, and
    as many in each epoch as another run had.

    *Cost:* none but the plan.

    Attributes:
        fraction: of the pool, in (0, 1].
        redraw: draw anew each epoch; otherwise one draw serves the whole training.
        counts: samples for each epoch, which take the place of ``fraction``: with them the control
            copies another run epoch by epoch.
        balanced: draw as many of each class, as far as a class has them, for classes of very
            different sizes (the data have to list their labels).
    """

    fraction: float = 0.25
    redraw: bool = True
    counts: tuple[int, ...] | None = None
    balanced: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fraction <= 1:
            raise SettingError(f"fraction must be in (0, 1], not {self.fraction}")

    @property
    def needs_labels(self) -> bool:
        return self.balanced

    def at_budget(self, budget: float) -> RandomSubset:
        return replace(self, fraction=budget, counts=None)

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        if self.counts is None:
            wanted = round(self.fraction * len(pool))
        else:
            wanted = self.counts[at.epoch] if at.epoch < len(self.counts) else 0
        at = at if self.redraw else replace(at, epoch=0)
        if self.balanced:
            assert ledger.labels is not None, "the selection sees to it"
            classes = ledger.labels[pool]
            return Plan(balanced(pool, classes, wanted, at, partial(at.uniform, "random-subset")))
        return Plan(draws.subset(pool, wanted, at.seed, draws.stream("random-subset"), at.epoch))
