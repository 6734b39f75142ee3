"""Subsets that are planned without the model: everything, a random part, a fixed part by score."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from frugalkd.ledger.ledger import Ledger
from frugalkd.policies.keeping import balanced, lowest
from frugalkd.policies.policy import EpochContext, Ids, Plan, Scoring, Ungated, at_sorted
from frugalkd.runtime import draws
from frugalkd.runtime.settings import Count, Length, Share


@dataclass(frozen=True)
class All(Ungated):
    """Conventional training.

    *Rule:* every sample of the pool is used in every epoch.

    *Cost:* that of training on everything.
    """

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        return Plan(pool)


@dataclass(frozen=True)
class RandomSubset(Ungated):
    """A random part of the pool, the control that selection must beat at the same count.

    *Rule:* ``fraction`` of the samples are used, drawn again in each epoch.

    *What we chose:* to offer the two other controls as well: one draw for the whole training, and
    as many in each epoch as another run had.

    *Cost:* none but the plan.

    Attributes:
        fraction: of the pool, in (0, 1].
        redraw: draw again in each epoch; otherwise one draw serves the whole training.
        counts: samples for each epoch, in place of ``fraction``: with them the control copies
            another run epoch by epoch.
        balanced: draw as many of each class, as far as a class has them, for classes of very
            different sizes (the data have to list their labels).
    """

    fraction: Share = 0.25
    redraw: bool = True
    counts: tuple[int, ...] | None = None
    balanced: bool = False

    @property
    def needs_labels(self) -> bool:
        return self.balanced

    def at_budget(self, budget: float) -> RandomSubset:
        return replace(self, fraction=budget, counts=None)

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        if self.counts is None:
            wanted = max(1, round(self.fraction * len(pool)))
        else:
            wanted = self.counts[at.epoch] if at.epoch < len(self.counts) else 0
        at = at if self.redraw else replace(at, epoch=0)
        if self.balanced:
            assert ledger.labels is not None, "filled in by the selection"
            classes = ledger.labels[pool]
            return Plan(balanced(pool, classes, wanted, at, partial(at.uniform, "random-subset")))
        return Plan(draws.subset(pool, wanted, at.seed, draws.stream("random-subset"), at.epoch))


@dataclass(frozen=True)
class _Scored(Ungated):
    """The samples of the highest score of a scoring run, the same in all epochs.

    Attributes:
        budget: the part of all samples that is trained on, in (0, 1].
        epochs: of each training of the scoring run.
        seeds: trainings of the scoring run.
    """

    kind: ClassVar[str]

    budget: Share = 0.5
    epochs: Length = 3.0
    seeds: Count = 3

    @property
    def scoring(self) -> Scoring:
        return Scoring(self.kind, self.epochs, self.seeds)

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        wanted, ties = max(1, round(self.budget * len(ledger))), draws.stream("scored-ties")

        def score(ids: Ids):
            return -at_sorted(ledger["score"], ids)

        return Plan(lowest(pool, wanted, score, lambda ids: draws.uniform(at.seed, ties, ids)))


@dataclass(frozen=True)
class EL2N(_Scored):
    """EL2N (Paul, Ganguli and Dziugaite, NeurIPS 2021).

    *Rule:* a sample's score is the norm of softmax - onehot early in a training, a mean over
    several trainings; those of the highest score are trained on, the same in all epochs.

    *What we chose:* the scoring model is the student's own, trained on labels with the student's
    settings; its learning rate goes through the whole schedule in the few epochs that it has. The
    paper's scores are of the first tenth of a training, over ten of them; ours are of fewer, which
    is noisier and cheaper. Ties are drawn.

    *Cost:* a scoring run of ``seeds`` trainings of ``epochs`` epochs on everything, and one forward
    pass of all samples after each; stated apart, since all students share it.
    """

    kind = "el2n"


@dataclass(frozen=True)
class Forgetting(_Scored):
    """Forgetting events (Toneva et al., ICLR 2019).

    *Rule:* a sample's score is how often it goes from correct to wrong between one visit of a whole
    training and the next; one that was never correct counts as forgotten most. Those of the highest
    score are trained on, the same in all epochs.

    *What we chose:* the scoring model is the student's own, trained on labels with the student's
    settings, by default once for far fewer epochs than the paper's five times 200. The verdict is
    that of the training forward, before the step. Ties, which are many, are drawn.

    *Cost:* a scoring run of ``seeds`` trainings of ``epochs`` epochs on everything; stated apart,
    since all students share it.
    """

    kind = "forgetting"

    epochs: Length = 10.0
    seeds: Count = 1
