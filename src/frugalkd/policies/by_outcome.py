"""Policies that plan an epoch by how samples fared before it; self-regulation has its own file."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies.keeping import (
    cross_entropy,
    full_from,
    lowest,
    race,
    rest_of,
    rows_of,
    stale,
)
from frugalkd.policies.policy import EpochContext, Ids, Mask, Plan, Ungated, at_sorted
from frugalkd.runtime import draws
from frugalkd.runtime.settings import BelowOne, Count, Fraction, NotNegative, Share

DECAY = (1.0, 0.8, 0.6, 0.4)
"""Factors of KAKURENBO's ``fraction``, until 30, 60, 80 and 100 % of the training."""

_LEAST = 1e-6
"""The least importance of a sample in SwiftLearn, so that every sample can be drawn."""


@dataclass(frozen=True)
class InfoBatch(Ungated):
    """InfoBatch (Qin et al., ICLR 2024).

    *Rule:* a sample whose last loss is below the mean of all last losses is skipped in an epoch
    with chance ``skip``; one of them that is kept weighs 1 / (1 - skip), so that the gradient is
    that of all samples in expectation. The last ``anneal`` of the epochs use everything.

    *What we chose:* as many are skipped as the chance says, not each by its own draw, as in the
    authors' code. A sample that was never trained on counts as not learned and is not in the mean;
    in that code it has the loss 3 until it is. Within a ``budget`` the chance is what the budget
    requires, up to ``most``; where that is not enough, the bound of the losses rises from the mean
    until it is. What is trained on all data is paid from the budget too, and costs at most half of
    it; before any loss is known, an epoch is a random draw of equal weights. The weights are used
    as they are, so that fewer steps are larger ones, by 1 / budget on average: at small budgets SGD
    may not survive that, and ``normalise`` removes it.

    *Cost:* none but the plan.

    Attributes:
        skip: the chance r, in [0, 1).
        anneal: the part of the epochs, at the end, that use all data.
        budget: samples backpropagated, of full training over the same epochs; None leaves it to
            ``skip``.
        most: the largest chance that a budget may require, in [0, 1).
        normalise: divide an epoch's weights by their mean, so that the learning rate keeps its
            meaning; ours, not the paper's.
    """

    skip: BelowOne = 0.5
    anneal: Fraction = 0.125
    budget: Share | None = None
    most: BelowOne = 0.9
    normalise: bool = False

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        full = full_from(at.epochs, self.anneal * at.epochs, self.budget)
        if at.epoch >= full:
            return Plan(pool, forced=np.ones(len(pool), dtype=bool))
        losses = at_sorted(ledger["loss"], pool)
        known = ~np.isnan(losses)
        if self.budget is None:
            if not known.any():
                return Plan(pool)
            learned = losses < losses[known].mean(dtype=np.float64)
            return self._plan(pool, learned, self.skip, at)
        part = rest_of(self.budget, at.epochs, at.epochs - full)
        quota = min(len(pool), rows_of(part, len(ledger)))
        left_out = len(pool) - quota
        if not known.any() or not left_out:
            return Plan(draws.subset(pool, quota, at.seed, draws.stream("infobatch"), at.epoch))
        below = int((losses < losses[known].mean(dtype=np.float64)).sum())
        learned = np.zeros(len(pool), dtype=bool)
        wanted = min(len(pool), max(below, int(np.ceil(left_out / max(self.most, 1e-9)))))
        # NaN sorts last: what was never trained on is the last to count as learned.
        learned[np.lexsort((at.uniform("infobatch-ties", pool), losses))[:wanted]] = True
        return self._plan(pool, learned, left_out / wanted, at)

    def _plan(self, pool: Ids, learned: Mask, skip: float, at: EpochContext) -> Plan:
        """Everything but a part ``skip`` of those ``learned``."""
        well = pool[learned]
        kept = draws.subset(
            well, round((1 - skip) * len(well)), at.seed, draws.stream("infobatch"), at.epoch
        )
        ids = np.concatenate([pool[~learned], kept])
        weights = np.ones(len(ids), dtype=np.float32)
        if len(kept):
            weights[-len(kept) :] = len(well) / len(kept)  # 1 / (1 - skip), but for rounding
        if self.normalise and len(ids):
            weights /= weights.mean()
        return Plan(ids, weights=weights)


@dataclass(frozen=True)
class InstanceExclusion(Ungated):
    """Instance-dependent early stopping, IES (Yuan et al., ICLR 2025).

    *Rule:* a sample is left out once the mean of the absolute second differences of its loss over
    its last ``window`` visits falls under ``threshold``: its loss has stopped bending.

    *What we chose:* rule and defaults are the authors' code's, of CIFAR-10; on CIFAR-100 its
    threshold is 0.002. The loss is the cross-entropy with the label, whatever the objective. Those
    that are left out are screened before each decision, and come back once the mean is no longer
    that low; a screening and the training after it are one visit, the screening. As in that code a
    sample is used for ``window`` + 3 visits first. Within a ``budget``, those of the largest means
    are used, samples of fewer visits before them, equals by a draw; all others are screened.

    *Cost:* a forward pass of each sample that is left out, 4 * (``window`` + 2) bytes a sample.

    Attributes:
        threshold: of the mean, in nats, 0 or more; 0 leaves no sample out.
        window: how many second differences the mean is of, at least 1.
        budget: samples backpropagated, of full training over the same epochs; None leaves it to
            ``threshold``.
    """

    needs_screening = True

    threshold: NotNegative = 1e-3
    window: Annotated[int, "in [1, 100]"] = 3
    budget: Share | None = None

    @property
    def columns(self) -> Mapping[str, str]:
        return dict.fromkeys(["cross_entropy", "slope", *self._bends], "float32")

    @property
    def _bends(self) -> list[str]:
        """The ring of the last second differences, absolute."""
        return [f"bend_{place}" for place in range(self.window)]

    def update_columns(
        self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        visits = ledger["visits"].take(ids)  # before this one
        again = ledger["last_epoch"].take(ids) == at.epoch
        before, slope_before = (ledger[name].take(ids) for name in ("cross_entropy", "slope"))
        loss = cross_entropy(seen)
        slope = np.where(visits > 0, loss - before, 0)
        bend = np.abs(slope - slope_before)
        place = visits % self.window  # the first two visits' are overwritten before it is full
        return {
            "cross_entropy": np.where(again, before, loss),
            "slope": np.where(again, slope_before, slope),
            **{
                name: np.where(~again & (place == here), bend, ledger[name].take(ids))
                for here, name in enumerate(self._bends)
            },
        }

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        unknown = stale(ledger, pool, at)
        if unknown.any():
            return Plan(pool[~unknown], screen=pool[unknown])
        bends = sum(at_sorted(ledger[name], pool) for name in self._bends) / self.window
        full = at_sorted(ledger["visits"], pool) >= self.window + 3
        if self.budget is None:
            return Plan(pool[~full | (bends >= self.threshold)])
        first = lowest(
            np.arange(len(pool)),
            rows_of(self.budget, len(ledger)),
            np.where(full, -bends, -np.inf).take,
            lambda places: at.uniform("ies-ties", pool[places]),
        )
        return Plan(pool[first])


@dataclass(frozen=True)
class Kakurenbo(Ungated):
    """KAKURENBO (Nguyen et al., NeurIPS 2023).

    *Rule:* a sample is hidden for an epoch if it is among the part F of lowest loss, and was right
    with a confidence of ``confidence`` or more. F decays from ``fraction`` to 0.8, 0.6 and 0.4 of
    it; the learning rate is multiplied by 1 / (1 - F). The hidden get a forward pass at the epoch's
    end, so that the next decision knows how they fare.

    *What we chose:* F steps down at 30, 60 and 80 % of the training, as in the authors' code for
    CIFAR-100; for ImageNet it does at epochs 30, 60 and 80, or 200, 400 and 600. The F of the
    learning rate is the part that is hidden in the end; in that code it is the part that may be,
    from the end of the learning rate's warm-up on. Its confidence is a softmax over the rows of a
    batch; here it is over the classes. The loss is the cross-entropy with the label at the sample's
    last visit, whatever the objective; of equal losses a draw decides. The forward pass of the
    hidden is made before the next decision, with the same weights, and not after the last epoch. It
    hides at most what it may, never what a budget would require: it cannot be made to spend one.

    *Cost:* a forward pass of each hidden sample, 4 bytes a sample.

    Attributes:
        fraction: the largest part F that may be hidden, in [0, 1).
        confidence: the top softmax probability from which a sample that is right may be hidden.
    """

    needs_screening = True

    fraction: BelowOne = 0.3
    confidence: Fraction = 0.7

    @property
    def columns(self) -> Mapping[str, str]:
        return {"cross_entropy": "float32"}

    def update_columns(
        self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        return {"cross_entropy": cross_entropy(seen)}

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        unknown = stale(ledger, pool, at)
        if unknown.any():
            return Plan(pool[~unknown], screen=pool[unknown])
        part = self.fraction * DECAY[bisect((0.3, 0.6, 0.8), at.epoch / at.epochs)]
        losses = partial(at_sorted, ledger["cross_entropy"])
        ties = partial(at.uniform, "kakurenbo-ties")
        easy = lowest(pool, int(part * len(pool)), losses, ties)
        easy = easy[ledger.correct[easy] & (ledger["confidence"][easy] >= self.confidence)]
        shown = np.setdiff1d(pool, easy, assume_unique=True)
        return Plan(shown, lr_factor=len(pool) / max(1, len(shown)))


@dataclass(frozen=True)
class SwiftLearn(Ungated):
    """SwiftLearn (Hajimolahoseini et al., arXiv 2311.15134).

    *Rule:* after a warm-up on everything, training uses a subset chosen by the importance of the
    samples, which is refreshed now and then.

    *What we chose:* only the paper's abstract was available to us. There importance is measured
    during the warm-up and updated now and then, and BERT is tuned on GLUE without almost 90 % of
    the data. How it is measured, how samples are chosen by it and all defaults are frugalkd's and
    may differ from the paper's text: the importance is the cross-entropy with the label; everything
    is screened for it after the ``warmup`` and every ``refresh`` epochs from then on. A refresh
    draws ``fraction`` of the samples without replacement, with chances proportional to importance,
    and they stay until the next one. Within a ``budget`` the subset is what the budget has left
    after the warm-up, which costs at most half of it; where that pays for no whole epoch, the first
    epoch is a random draw instead.

    *Cost:* a forward pass of everything at each refresh, 4 bytes a sample.

    Attributes:
        fraction: of the samples, in (0, 1], that a refresh draws.
        warmup: first epochs in which everything is used, at least 1.
        refresh: epochs from one refresh to the next, at least 1.
        budget: samples backpropagated, of full training over the same epochs; None leaves it to
            ``fraction``.
    """

    needs_screening = True

    fraction: Share = 0.25
    warmup: Count = 1
    refresh: Count = 5
    budget: Share | None = None

    @property
    def columns(self) -> Mapping[str, str]:
        return {"importance": "float32"}

    def update_columns(
        self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        first = ledger["last_epoch"].take(ids) != at.epoch
        screened = first & (at.epoch == self._refreshed(at))
        importance = ledger["importance"].take(ids)
        return {"importance": np.where(screened, cross_entropy(seen), importance)}

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        warmup = self._warmup(at)
        if at.epoch < warmup:
            return Plan(pool)
        part = self.fraction
        if self.budget is not None:
            part = rest_of(self.budget, at.epochs, warmup)
        wanted = rows_of(part, len(ledger))
        if wanted >= len(pool):
            return Plan(pool)
        refreshed = self._refreshed(at)
        if at.epoch == refreshed:
            unknown = at_sorted(ledger["last_epoch"], pool) != at.epoch
            if unknown.any():
                return Plan(pool[~unknown], screen=pool[unknown])
        then = replace(at, epoch=max(0, refreshed))

        def keys(ids: Ids) -> NDArray:
            importance = np.maximum(at_sorted(ledger["importance"], ids), _LEAST)
            return race(np.log(importance), then.uniform("swiftlearn", ids))

        return Plan(lowest(pool, wanted, keys))

    def _warmup(self, at: EpochContext) -> int:
        if self.budget is None:
            return self.warmup
        return min(self.warmup, int(self.budget * at.epochs / 2 + 1e-9))

    def _refreshed(self, at: EpochContext) -> int:
        """The epoch of the last refresh; -1 before the first one."""
        first = max(1, self._warmup(at))
        return -1 if at.epoch < first else at.epoch - (at.epoch - first) % self.refresh
