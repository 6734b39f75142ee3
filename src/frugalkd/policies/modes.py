"""The four distillations as one table: who takes part, times what a sample weighs.

Vanilla and regulated weigh all alike; significance and hybrid weigh by significance, which leaves
out what never took part in the teacher's training (Mishra and Sundaram, arXiv 2102.07125).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import LedgerError, SettingError, UnknownName
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import All, Policy, SelfRegulation
from frugalkd.runtime.settings import check_number, check_types

_SMALLEST = float(np.finfo(np.float64).tiny)

ModeName = Literal["vanilla", "significance", "regulated", "hybrid"]


@dataclass(frozen=True)
class Mode:
    """``gated``: the student's own gate decides who takes part. ``weighted``: by significance."""

    gated: bool
    weighted: bool

    def policy(self, regulation: SelfRegulation) -> Policy:
        return regulation if self.gated else All()


MODES: dict[str, Mode] = {
    "vanilla": Mode(gated=False, weighted=False),
    "significance": Mode(gated=False, weighted=True),
    "regulated": Mode(gated=True, weighted=False),
    "hybrid": Mode(gated=True, weighted=True),
}


def resolve(
    mode: ModeName | None,
    *,
    ledger: Ledger | None,
    regulation: SelfRegulation | None,
    policy: Policy | None,
    weights: NDArray[np.float32] | None,
) -> tuple[Policy, Ledger | None]:
    """Who takes part, and the ledger whose significance weighs the samples (None: it weighs none).

    Raises:
        SettingError: a mode, and a policy or weights in its place.
        UnknownName: no such mode.
        LedgerError: the mode weighs, and there is no ledger.
    """
    check_types(ledger=(ledger, Ledger | None), regulation=(regulation, SelfRegulation | None))
    if mode is None:
        return All() if policy is None else policy, None
    if policy is not None or weights is not None:
        raise SettingError("mode stands for a policy and weights: give either one or the other")
    check_types(mode=(mode, str))
    if mode not in MODES:
        raise UnknownName("mode", mode, MODES)
    row = MODES[mode]
    if row.weighted and ledger is None:
        raise LedgerError(
            f"mode {mode} needs a significance ledger: train the teacher under self-regulation "
            "(frugalkd teach, or train_teacher) and pass its ledger; vanilla and regulated do not"
        )
    return row.policy(regulation or SelfRegulation()), ledger if row.weighted else None


def significance_weights(ledger: Ledger, gamma: float = 1.0) -> NDArray[np.float32]:
    """Weights (samples,) float32: significance ** gamma, with mean 1 over the samples above zero.

    ``gamma = 1`` is our reading of the paper; 0 keeps the subset and drops the weights. A sample
    that never took part weighs nothing, whatever gamma is.

    Raises:
        SettingError: ``gamma`` is negative or not finite.
        LedgerError: nothing took part, or everything did in every epoch (a conventional teacher);
            or a sample that took part would weigh less than float32 holds.
    """
    check_number("gamma", gamma, 0)
    significance = ledger.significance
    kept = significance > 0
    if not kept.any():
        raise LedgerError("no sample of this ledger took part: there is nothing to distil from")
    if (significance == 1).all():
        raise LedgerError(
            "every sample of this ledger took part in every epoch: train the teacher with policy "
            "self-regulation, and long enough that some samples pass ('frugalkd teach')"
        )
    weights = np.zeros(len(ledger), dtype=np.float64)
    weights[kept] = significance[kept].astype(np.float64) ** gamma
    made = (weights / max(weights[kept].mean(), _SMALLEST)).astype(np.float32)
    if not made[kept].all():
        least = significance[kept].min()
        raise LedgerError(
            f"gamma {gamma:g} makes a weight of 0 of the significance {least:g}, which leaves a "
            "sample out: set gamma to less"
        )
    return made
