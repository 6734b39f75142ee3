"""Self-regulation: a sample is used only while the model still needs it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import ASIDE, Ledger
from frugalkd.ledger.outcome import Outcome, fails
from frugalkd.policies import label_noise
from frugalkd.policies.keeping import balanced, full_from, lowest, rest_of
from frugalkd.policies.policy import EpochContext, Ids, Mask, Plan, Policy, at_sorted
from frugalkd.runtime import draws
from frugalkd.runtime.settings import BelowOne, Count, Epochs, Fraction, Positive, Share

GAP = 0.03
"""How much more often a model may be right on samples that it was trained on than on others."""

MOST_FAIL = 0.6
"""Of the samples, beyond which a gate that has a probe leaves none out."""


@dataclass(frozen=True)
class SelfRegulation(Policy):
    """The gate of Mishra and Sundaram (arXiv 2102.07125), in two forms.

    *Rule:* a sample is used only if it is misclassified or the model is not confident enough.
    ``when="now"`` is that rule step by step: the model evaluates each batch without gradients and
    trains on the samples that fail.

    *What we chose:* only the paper's abstracts were available to us; what confidence is, how much
    is enough, and that a separate forward pass decides, is our reading. ``when="last-visit"`` is
    ours, and saves the second forward pass: the training forward gives the verdict, and a sample
    that passes is skipped for 1, 2, 4 ... epochs; when it is due it is screened, and is skipped
    again or reactivates.

    *Cost:* under ``now`` a forward pass of everything in every epoch, before those of what fails;
    under ``last-visit`` one of each skipped sample that is due.

    Attributes:
        confidence: tau, the top softmax probability from which a correct sample passes (default
            0.9, our reading), in (0, 1].
        when: ``"last-visit"`` or ``"now"``.
        max_skip: the most epochs for which a sample is skipped, at least 1 (last-visit only).
        warmup: first epochs in which everything is used, counted as forced.
        probe: the fraction of the samples, in [0, 1), that is never trained on, and is screened
            before an epoch. If training accuracy exceeds accuracy on the probe by more than three
            points plus one standard error, the model is memorising, so passing is not reliable and
            the epoch uses all samples. It also does so while more than three fifths fail. Ours
            (last-visit only, not with a budget).
        final_full_epochs: last epochs in which everything is used, counted as forced.
        budget: the fraction of all samples that an epoch uses: at most, and, by reactivating
            skipped samples, at least; None leaves it to the gate (last-visit only). The epochs of
            ``final_full_epochs`` and ``warmup`` are paid from it: as many of them as half of it
            can pay for.
        cost: in place of a budget, the fraction of what full training of as many epochs costs,
            where a sample that is trained on costs three forward passes, and one that is screened
            costs one. It is spent as it is needed: each epoch uses its active samples, and the
            training ends once nothing is left; skipped samples fill up where some of it would be
            left in the end.
        budget_rule: which active samples a budget keeps: the ``"least-confident"``, a ``"random"``
            draw, or a ``"class-balanced"`` one, as many of each class as far as it has active
            ones, for classes of very different sizes (the data have to list their labels). Under a
            ``cost``, which cuts the last epoch alone, ``"least-confident"`` is a random draw, too.
        budget_schedule: how a budget is spent: ``"even"``, as many samples in every epoch; or
            ``"early"``, as the gate itself spends: while there is much to learn all active samples
            are used, as long as half of an even epoch is left for each epoch to come.
        ceiling: the most that is required of the student, as a part of the teacher's probability: a
            sample passes once the student gives its label a probability of ``min(tau, ceiling *
            the teacher's probability of that label)``, so that what the teacher itself is unsure of
            does not stay active forever. With the teacher as ``label_source`` it is the teacher's
            top class in the label's place. Ours, not the paper's; None is the plain gate.
        when_all_skipped: what an epoch does without any active sample, once those that were due
            have been screened (last-visit only; a budget reactivates some in any case).
            ``"wait"``: an epoch of no steps, until a sample is due. ``"all"``: everything is
            used, counted as forced. ``"stop"``: the training ends here, with the learning rate
            that it has come to.
        label_source: what counts as correct: the ``"label"``, or the ``"teacher"``'s top class.
        label_noise: ``"off"``; or the fraction of labels that are wrong; or ``"auto"``, which
            counts them by their margins (:func:`frugalkd.policies.label_noise.wrong_labels`; where
            the model refuses most labels, and below 2 %, nothing is done). With a teacher, its top
            class then counts as correct, if its soft targets say that. Labels are disbelieved in
            the first half of the training (with a cost, of the epochs that it may be spent over),
            after five epochs or, of a short one, half of it: at most as many, or nine tenths of a
            given fraction, those of the lowest mean margin (AUM, Pleiss et al. 2020), as long as
            the model, and the teacher, refuse them. Their samples are not trained on; they are
            screened once they were not visited for ``max_skip`` epochs. Ours, not the paper's.
        keep_probability: the chance that a sample that passed is used all the same, in (0, 1]; it
            then weighs 1 / keep_probability, so that an epoch's sum of losses is that of all
            samples in expectation: the unbiased gate (last-visit only). Within a budget, the active
            samples and the others are drawn apart, each weighing what keeps it unbiased. None: they
            are not used.
    """

    confidence: Share = 0.9
    when: Literal["now", "last-visit"] = "last-visit"
    max_skip: Count = 8
    warmup: Epochs = 0
    probe: BelowOne = 0.0
    final_full_epochs: Epochs = 0
    budget: Share | None = None
    cost: Share | None = None
    budget_rule: Literal["least-confident", "random", "class-balanced"] = "least-confident"
    budget_schedule: Literal["even", "early"] = "even"
    ceiling: Positive | None = None
    when_all_skipped: Literal["wait", "all", "stop"] = "wait"
    label_source: Literal["label", "teacher"] = "label"
    label_noise: Literal["auto", "off", False] | Fraction = "off"
    keep_probability: Share | None = None

    def __post_init__(self) -> None:
        if self.label_noise == 0:  # or False, as which YAML reads a bare off
            vars(self).update(label_noise="off")  # a frozen dataclass refuses assignments
        plain = {
            "keep_probability": None, "budget": None, "cost": None, "probe": 0.0,
            "when_all_skipped": "wait",
        }  # fmt: skip
        given = [name for name in plain if getattr(self, name) != plain[name]]
        if self.when == "now" and given:
            raise SettingError(f"{given[0]} is decided before the epoch: it needs when: last-visit")
        if self.budget is not None and self.cost is not None:
            raise SettingError("budget limits the samples, and cost what they cost: give one")
        if self.budget is not None and self.probe:
            raise SettingError("a budget does not pay for epochs of everything: probe needs a cost")
        if self.budget_rule == "class-balanced" and self.keep_probability is not None:
            raise SettingError(
                "a class-balanced budget_rule favours small classes: keep_probability is unbiased"
            )
        ending = "when_all_skipped: stop" if self.cost is None else "cost"
        if (self.when_all_skipped == "stop" or self.cost is not None) and self.final_full_epochs:
            raise SettingError(f"final_full_epochs may never come where {ending} ends the training")

    @property
    def columns(self) -> Mapping[str, str]:
        named = {
            "teacher_truth": ("float32", self.ceiling is not None),
            "disbelieved": ("uint16", self.label_noise != "off"),
            ASIDE: ("uint8", self.probe > 0),
        }
        return {name: kind for name, (kind, needed) in named.items() if needed}

    @property
    def needs_labels(self) -> bool:
        return self.budget_rule == "class-balanced"

    def needs_training(self, seen: Outcome, ids: Ids, ledger: Ledger, at: EpochContext) -> Mask:
        if self.ceiling is None:
            return fails(seen.confidence, seen.correct, self.confidence)
        enough = np.minimum(self.confidence, self.ceiling * ledger["teacher_truth"][ids])
        return ~(seen.truth >= enough)

    def skip_epochs(self, streak: NDArray[np.uint8]) -> NDArray[np.int64]:
        doubled = (1 << np.minimum(streak, 17).astype(np.int64)) // 2  # 0, 1, 2, 4 ...
        return np.minimum(doubled, self.max_skip)

    def set_aside(self, samples: int, seed: int) -> Mask | None:
        if not self.probe:
            return None
        aside = draws.uniform(seed, draws.stream("probe"), 0, np.arange(samples)) < self.probe
        return None if aside.all() else aside

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        doubted = self._disbelieved(ledger, pool, at)
        believed = np.setdiff1d(pool, doubted, assume_unique=True) if len(doubted) else pool
        probe, everything = pool[:0], False
        screened = bool((at_sorted(ledger["last_epoch"], pool) == at.epoch).any())
        if self.probe and at.epoch > 0:
            everything = mostly_fail(ledger, believed)
            if not everything:
                probe = np.flatnonzero(ledger[ASIDE])
                if len(probe) and (at_sorted(ledger["last_epoch"], probe) == at.epoch).all():
                    screened, everything = True, remembers(ledger, pool, probe)
        plan = self._plan(ledger, believed, at, everything=everything, screened=screened)
        plan = replace(plan, disbelieved=doubted)
        if plan.stop or screened:
            return plan
        if self._left(ledger, at) <= (len(plan.screen) + len(probe)) / 3:
            probe = probe[:0]  # nothing would be left to train
        last = ledger["last_epoch"][doubted].astype(np.int64)
        screen = np.concatenate([plan.screen, probe, doubted[last + self.max_skip < at.epoch]])
        return replace(plan, screen=screen)

    def _disbelieved(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Ids:
        if self.label_noise == "off":
            return pool[:0]
        rate = None if isinstance(self.label_noise, str) else float(self.label_noise)
        return label_noise.disbelieved(
            ledger, pool, at, rate=rate, teacher=self.label_source == "teacher"
        )

    def _plan(
        self,
        ledger: Ledger,
        pool: Ids,
        at: EpochContext,
        *,
        everything: bool = False,
        screened: bool = False,
    ) -> Plan:
        """The plan without the probe. Once samples were ``screened`` for this epoch none are any
        more: who is due and was not stays skipped."""
        first, last = self._gated(at.epochs)
        if not first <= at.epoch < last:
            return Plan(pool, forced=np.ones(len(pool), dtype=bool))
        if self.when == "now":
            return Plan(pool)
        due = pool[at_sorted(ledger["due"], pool) <= at.epoch]
        passed = at_sorted(ledger["streak"], due) > 0
        active, screen = due[~passed], due[passed][: 0 if screened else None]
        if everything:
            due, active, screen = pool, pool, pool[:0]
        left = self._left(ledger, at)
        if left < at.least:
            if at.epoch == 0:
                raise SettingError(
                    f"the cost pays for {left:.3g} samples in all, and a step needs {at.least}: "
                    "raise the cost"
                )
            return Plan(active, stop=True)
        if not len(due) and self._limit is None and self.when_all_skipped != "wait":
            if self.when_all_skipped == "stop":
                return Plan(active, stop=True)
            return Plan(pool, forced=np.ones(len(pool), dtype=bool))
        too_dear = left <= len(screen) / 3  # screening costs all that is left: that trains instead
        if len(screen) and not too_dear:
            return Plan(active, screen=screen)
        quota = self._quota(ledger, len(pool) if too_dear else len(active), at)
        if self.keep_probability is not None:
            return self._unbiased(pool, active, quota, at)
        if quota is None:
            return Plan(active)
        return self._within_budget(ledger, pool, active, quota, at)

    def at_budget(self, budget: float) -> Policy | None:
        return None if self.when == "now" else replace(self, budget=budget, cost=None, probe=0.0)

    @property
    def _limit(self) -> float | None:
        """The fraction of all samples, or of their cost, that all epochs together may use."""
        return self.budget if self.cost is None else self.cost

    def planned_rows(self, samples: int, epochs: float) -> float | None:
        return None if self._limit is None else self._limit * samples * epochs

    def paid(self, at: EpochContext) -> float:
        return at.spent if self.cost is None else at.spent + at.screened / 3

    def _gated(self, epochs: float) -> tuple[int, float]:
        """The epoch from which on the gate decides, and the one from which on it no longer does."""
        limit = self._limit
        last = full_from(epochs, self.final_full_epochs, limit)
        first = self.warmup
        if limit is not None:
            first = min(first, math.floor(max(0.0, limit * epochs / 2 - (epochs - last))))
        return first, last

    def _quota(self, ledger: Ledger, active: int, at: EpochContext) -> int | None:
        """How many samples this epoch uses, where so many are ``active``; None without a limit."""
        if self._limit is None:
            return None
        first, last = self._gated(at.epochs)
        remain = last - at.epoch  # epochs, this one included; the last may be a part
        if self.cost is not None:
            most = left = self._left(ledger, at)
        else:
            even = rest_of(self._limit, at.epochs, first + at.epochs - last) * len(ledger)
            if self.budget_schedule == "even":
                return max(1, round(even))
            left = even * (last - first) - (at.spent - first * len(ledger))
            most = left - max(0.0, remain - 1) * even / 2
        # Skipped samples fill up to an even share of what is left: nothing is left at the end.
        return max(1, round(min(max(active, left / remain), most / min(1.0, remain))))

    def _left(self, ledger: Ledger, at: EpochContext) -> float:
        """How many samples the cost still pays for."""
        return (
            math.inf if self.cost is None else self.cost * at.epochs * len(ledger) - self.paid(at)
        )

    def _unbiased(self, pool: Ids, active: Ids, quota: int | None, at: EpochContext) -> Plan:
        """The active samples, and a draw of the others that weighs for all of them."""
        assert self.keep_probability is not None
        others = np.setdiff1d(pool, active, assume_unique=True)
        if quota is None:
            some, rest = active, others[at.uniform("passing", others) < self.keep_probability]
            chance = self.keep_probability
        else:
            quota = min(quota, len(pool))
            drawn = min(round(self.keep_probability * len(others)), quota // 2)
            drawn = min(max(drawn, quota - len(active)), len(others))
            seed, stream = at.seed, draws.stream("passing")
            some = draws.subset(active, quota - drawn, seed, stream, at.epoch)
            rest = draws.subset(others, drawn, seed, stream, at.epoch)
            chance = drawn / max(1, len(others))
        weights = np.ones(len(some) + len(rest), dtype=np.float32)
        weights[: len(some)] = len(active) / max(1, len(some))
        weights[len(some) :] = 1 / max(chance, 1e-9)
        ids = np.concatenate([some, rest])
        return Plan(ids, weights=weights, forced=np.arange(len(ids)) >= len(some))

    def _within_budget(
        self, ledger: Ledger, pool: Ids, active: Ids, quota: int, at: EpochContext
    ) -> Plan:
        """Cut the active to the quota, or fill it with skipped samples nearest their due epoch."""

        def confidence(ids: Ids) -> NDArray:
            return np.nan_to_num(at_sorted(ledger["confidence"], ids), nan=-1.0)

        chance = partial(at.uniform, "quota")
        if len(active) >= quota and self.budget_rule == "class-balanced":
            assert ledger.labels is not None, "filled in by the selection"
            return Plan(balanced(active, ledger.labels[active], quota, at, chance))
        if len(active) >= quota:
            # A cost cuts its last epoch, at so small a rate that little but the statistics of
            # BatchNorm changes: the least confident would make them those of the hardest samples.
            hardest = self.budget_rule == "least-confident" and self.cost is None
            keys = (confidence, chance) if hardest else (chance,)
            return Plan(lowest(active, quota, *keys))
        due = partial(at_sorted, ledger["due"])
        others = np.setdiff1d(pool, active, assume_unique=True)
        filler = lowest(others, quota - len(active), due, partial(at.uniform, "filler"))
        forced = np.arange(len(active) + len(filler)) >= len(active)
        return Plan(np.concatenate([active, filler]), forced=forced)


def mostly_fail(ledger: Ledger, pool: Ids) -> bool:
    """Whether over :data:`MOST_FAIL` of the ``pool`` failed the gate at their last visits, or were
    never judged."""
    return bool((at_sorted(ledger["streak"], pool) == 0).mean() > MOST_FAIL)


def remembers(ledger: Ledger, trained: Ids, probe: Ids) -> bool:
    """Whether the last verdicts on ``trained`` are correct more often than those on ``probe``,
    which is not trained on, by over :data:`GAP` and a standard error. False before the first."""
    known = probe[at_sorted(ledger["visits"], probe) > 0]
    judged = trained[~np.isnan(at_sorted(ledger["confidence"], trained))]
    if not (len(known) and len(judged)):
        return False
    seen, unseen = ledger.correct[judged].mean(), ledger.correct[known].mean()
    return bool(seen - unseen > largest_gap(unseen, len(known)))


def largest_gap(unseen: float, probe: float) -> float:
    """How much more often than on ``probe`` samples, of which it is right on the fraction
    ``unseen``, a model may be right on those that it was trained on: :data:`GAP` and a standard
    error."""
    return GAP + math.sqrt(unseen * (1 - unseen) / probe)
