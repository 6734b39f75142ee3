"""IES: leave out a sample whose loss has stopped bending."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies._budget import check_parts, rows_of
from frugalkd.policies.keeping import cross_entropy, lowest, stale
from frugalkd.policies.policy import EpochContext, Ids, Plan, Ungated, at_sorted


@dataclass(frozen=True)
class InstanceExclusion(Ungated):
    """Instance-dependent early stopping, IES (Yuan et al., ICLR 2025).

    *Rule:* a sample is left out once the absolute second differences of its smoothed loss, summed
    over its last ``window`` looks, fall under ``threshold``: its loss has stopped bending.

    *What we chose:* smoothed is a moving average, ``smoothing`` of it the past (our reading, as is
    the default of ``window``). The loss is the cross-entropy with the label, whatever the
    objective. Those that are left out are screened before each decision, and come back once the sum
    is no longer that low; a screening and the training after it are one look, the screening.
    A sample takes part until its history is full, ``window`` + 2 looks. Within a ``budget``, those
    of the largest sums take part, histories that are not full before them, equals by a draw;
    everyone else is screened, so that all histories fill.

    *Cost:* a forward pass of each sample that is left out, 4 * (``window`` + 2) bytes a sample.

    Attributes:
        threshold: of the sum, in nats, 0 or more; 0 leaves nobody out.
        window: how many second differences are summed, at least 1.
        smoothing: the weight of the past in the moving average, in [0, 1).
        budget: samples backpropagated, of full training over the same epochs; None leaves it to
            ``threshold``.
    """

    needs_screening = True

    threshold: float = 1e-3
    window: int = 3
    smoothing: float = 0.5
    budget: float | None = None

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise SettingError(f"threshold must be 0 or more, not {self.threshold}")
        if not 1 <= self.window <= 100:
            raise SettingError(f"window must be in [1, 100], not {self.window}")
        if not 0 <= self.smoothing < 1:
            raise SettingError(f"smoothing must be in [0, 1), not {self.smoothing}")
        check_parts(budget=self.budget)

    @property
    def columns(self) -> Mapping[str, str]:
        return dict.fromkeys(["smoothed", "slope", *self._bends], "float32")

    @property
    def _bends(self) -> list[str]:
        """The ring of the last second differences, absolute."""
        return [f"bend_{place}" for place in range(self.window)]

    def update_columns(
        self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        looks = ledger["visits"].take(ids)  # before this one
        again = ledger["last_epoch"].take(ids) == at.epoch
        before, slope_before = (ledger[name].take(ids) for name in ("smoothed", "slope"))
        past = np.where(looks > 0, np.float32(self.smoothing), 0)
        smoothed = past * before + (1 - past) * cross_entropy(look)
        slope = np.where(looks > 0, smoothed - before, 0)
        bend = np.abs(slope - slope_before)
        place = looks % self.window  # the first two looks' are overwritten before it is full
        return {
            "smoothed": np.where(again, before, smoothed),
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
        bends = sum(at_sorted(ledger[name], pool) for name in self._bends)
        full = at_sorted(ledger["visits"], pool) >= self.window + 2
        if self.budget is None:
            return Plan(pool[~full | (bends >= self.threshold)])
        first = lowest(
            np.arange(len(pool)),
            rows_of(self.budget, len(ledger)),
            np.where(full, -bends, -np.inf).take,
            lambda places: at.uniform("ies-ties", pool[places]),
        )
        return Plan(pool[first])
