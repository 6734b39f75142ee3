"""InfoBatch: skip a random part of what is learned well, and weigh the rest of it for all."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies._budget import check_parts, full_from, rest_of, rows_of
from frugalkd.policies.policy import EpochContext, Ids, Plan, Ungated, at_sorted
from frugalkd.runtime import draws


@dataclass(frozen=True)
class InfoBatch(Ungated):
    """InfoBatch (Qin et al., ICLR 2024).

    *Rule:* a sample whose last loss is below the mean of all last losses is skipped in an epoch
    with chance ``skip``; one of them that is kept weighs 1 / (1 - skip), so that the gradient is
    that of all samples in expectation. The last ``anneal`` of the epochs use everything.

    *What we chose:* as many are skipped as the chance says, not each by its own draw. A sample that
    was never trained on counts as not learned. Within a ``budget`` the chance is what the budget
    asks for, up to ``most``; where that is not enough, the bound of the losses rises from the mean
    until it is. What is trained on all data is paid from the budget too, and takes half of it at
    the most; before any loss is known, an epoch is a random draw of equal weights. The weights are
    used as they are, so that fewer steps are larger ones, by 1 / budget on average: at small
    budgets SGD may not survive that, and ``normalise`` takes it out.

    *Cost:* none but the plan.

    Attributes:
        skip: the chance r, in [0, 1).
        anneal: the part of the epochs, at the end, that use all data.
        budget: samples backpropagated, of full training over the same epochs; None leaves it to
            ``skip``.
        most: the largest chance that a budget may ask for, in [0, 1).
        normalise: divide an epoch's weights by their mean, so that the learning rate keeps its
            meaning; ours, not the paper's.
    """

    skip: float = 0.5
    anneal: float = 0.125
    budget: float | None = None
    most: float = 0.9
    normalise: bool = False

    def __post_init__(self) -> None:
        for name, chance in (("skip", self.skip), ("most", self.most)):
            if not 0 <= chance < 1:
                raise SettingError(f"{name} must be in [0, 1), not {chance}")
        if not 0 <= self.anneal <= 1:
            raise SettingError(f"anneal must be in [0, 1], not {self.anneal}")
        check_parts(budget=self.budget)

    @property
    def unbiased(self) -> bool:
        return not self.normalise

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

    def _plan(self, pool: Ids, learned: np.ndarray, skip: float, at: EpochContext) -> Plan:
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
