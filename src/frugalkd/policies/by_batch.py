"""Policies that judge each batch as it is read, by a forward pass before the training one."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies.keeping import (
    cross_entropy,
    full_from,
    lowest_rows,
    race,
    rest_of,
    share,
)
from frugalkd.policies.policy import EpochContext, GateNow, Ids, Mask, Plan, Scoring
from frugalkd.runtime.settings import Count, Epochs, Fraction, Length, NotNegative, Positive, Share


@dataclass(frozen=True)
class ProgressiveDataDropout(GateNow):
    """Progressive Data Dropout by difficulty (NeurIPS 2025).

    *Rule:* each batch is screened first, and a sample is used while the probability of its label is
    below ``threshold``; the last epoch trains on everything.

    *What we chose:* what is kept waits until a full batch is there: fewer steps of full size. The
    authors step with what each batch keeps, so their steps get smaller. Within a ``budget``, a
    batch keeps its rows of lowest probability, as many as the budget has left (the odd row by a
    draw), whatever the threshold. The last epochs are paid from the budget too, and cost at most
    half of it: where that does not pay for a whole epoch, there is none. The method's own control
    (SMRD) keeps of each batch as many rows at random as fail its own model's gate. No arm is that:
    ``permuted:pdd`` has the counts of the ``pdd`` run by epoch, and other samples of each class,
    the same ones in all epochs.

    *Cost:* a forward pass of everything in every epoch but the last, before those of what is kept.

    Attributes:
        threshold: of the label's softmax probability, above 0; above 1 everything is used.
        final_full_epochs: last epochs in which everything is used, counted as forced.
        budget: samples backpropagated, of those that are read; None leaves it to ``threshold``.
    """

    threshold: Positive = 0.3
    final_full_epochs: Epochs = 1
    budget: Share | None = None

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        if at.epoch >= full_from(at.epochs, self.final_full_epochs, self.budget):
            return Plan(pool, forced=np.ones(len(pool), dtype=bool))
        return Plan(pool)

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        if self.budget is None:
            return ~(seen.truth >= self.threshold)
        full = at.epochs - full_from(at.epochs, self.final_full_epochs, self.budget)
        wanted = share(rest_of(self.budget, at.epochs, full), ids, "pdd-rows", at)
        return lowest_rows(seen.truth, wanted)


@dataclass(frozen=True)
class RhoLoss(GateNow):
    """RHO-Loss (Mindermann et al., ICML 2022).

    *Rule:* each batch is screened first; the ``keep`` of its rows whose cross-entropy lies farthest
    above their irreducible loss, that of a model which never trained on them, go into the backward
    pass. Noise costs both models much, and what is learned already costs neither.

    *What we chose:* the irreducible loss comes from the variant without a holdout set: two models,
    each trained on a random half, score the other's (in the authors' code each half has as many of
    each class). They are the student's own architecture, with its settings, as they are after few
    ``epochs``; the authors train up to 100 and take the epoch of the lowest validation loss. They
    rank 320 rows and step with the 32 kept. Here batches of the training's size are ranked, and the
    kept rows wait until a full batch is there: fewer steps of full size. Where the part is not
    a whole number of rows, the odd row is kept by a draw.

    *Cost:* a forward pass of everything in every epoch, before those of what is kept; and a scoring
    run of ``seeds`` pairs of trainings of ``epochs`` epochs on a half each, with one forward pass
    of all samples, stated apart, since all students share it.

    Attributes:
        keep: the part of each batch, in (0, 1].
        epochs: of each training of the scoring run.
        seeds: pairs of trainings of the scoring run.
    """

    keep: Share = 0.1
    epochs: Length = 5.0
    seeds: Count = 1

    @property
    def scoring(self) -> Scoring:
        return Scoring("holdout-loss", self.epochs, self.seeds)

    def at_budget(self, budget: float) -> RhoLoss:
        return replace(self, keep=budget)

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        reducible = cross_entropy(seen) - ledger["score"][ids]
        return lowest_rows(-reducible, share(self.keep, ids, "rho-loss-rows", at))


@dataclass(frozen=True)
class SelectiveBackprop(GateNow):
    """Selective Backprop (Jiang et al., 2019).

    *Rule:* each batch is screened first; a sample is kept with chance max(``least``, its loss's
    percentile ** ``beta``), and those that are kept wait until a full batch is there.

    *What we chose:* the loss is the cross-entropy with the label, whatever the objective, so that
    the teacher is not queried for what is then left out. The percentile is (rank + 0.5) / rows
    among the rows of the batch, as in Composer; the authors' is among the last 1,024 losses, their
    first epoch uses everything, and beta is 3 in their example. Where losses are equal, the later
    row ranks higher. Within a ``budget``, that part of each batch is kept (the odd row by a draw),
    drawn without replacement with chances proportional to percentile ** (1 / budget - 1), which is
    Composer's draw. But by default Composer selects from 50 to 90 % of the training only, leaves
    every second batch whole, keeps 0.5 of the others, and steps with these smaller batches: it
    backpropagates nine tenths of the rows. Here selection runs from the first step to the last, and
    a step has a full batch, as the authors' has.

    *Cost:* a forward pass of everything in every epoch, before those of what is kept.

    Attributes:
        beta: how steeply the chance falls with the percentile, 0 or more; 1 keeps half.
        least: the smallest chance, in [0, 1]; 1 keeps everything.
        budget: samples backpropagated, of those that are read; None leaves it to the two above.
    """

    beta: NotNegative = 1.0
    least: Fraction = 0.0
    budget: Share | None = None

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        losses = cross_entropy(seen)
        rank = np.empty(len(losses))
        rank[np.argsort(losses, kind="stable")] = np.arange(len(losses))
        percentile = (rank + 0.5) / len(losses)
        drawn = at.uniform("selective-backprop", ids)
        if self.budget is None:
            return drawn < np.maximum(self.least, percentile**self.beta)
        keys = race((1 / self.budget - 1) * np.log(percentile), drawn)
        return lowest_rows(keys, share(self.budget, ids, "selective-backprop-rows", at))


@dataclass(frozen=True)
class Unix(GateNow):
    """The selection rule of UNIX (Xu et al., arXiv 2012.09413), without its mixup.

    *Rule:* each batch is screened first; the ``keep`` of its rows whose softmax has the highest
    entropy go to the teacher and into the backward pass.

    *What we chose:* the name stands for this rule only: the method itself then mixes the rows, the
    less uncertain of the kept ones most, with random others, which is left out, since a mixed row
    has no sample of its own. The kept rows wait until a full batch is there: fewer steps of full
    size, where the authors step with 48 of 64. Where the part is not a whole number of rows, the
    odd row is kept by a draw.

    *Cost:* a forward pass of everything in every epoch, before those of what is kept.

    Attributes:
        keep: the part of each batch, in (0, 1]. The default is the method's 48 of 64.
    """

    needs_entropy: ClassVar[bool] = True

    keep: Share = 0.75

    def at_budget(self, budget: float) -> Unix:
        return replace(self, keep=budget)

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        return lowest_rows(-seen.entropy, share(self.keep, ids, "unix-rows", at))
