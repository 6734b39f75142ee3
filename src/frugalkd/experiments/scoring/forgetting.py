"""Forgetting: how often a training unlearns a sample."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from frugalkd.experiments.scoring._run import ScoringRun
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, Plan, Ungated
from frugalkd.policies.policy import Ids


def forgetting(run: ScoringRun, seed: int) -> NDArray[np.float64]:
    """Flips from correct to wrong between one visit and the next (Toneva et al., ICLR 2019).

    A sample that was never correct counts as many as there were epochs, which is more than
    anything else can.
    """
    ledger = run.train(seed, policy=CountFlips()).ledger
    never = math.ceil(run.training.epochs)
    return np.where(ledger["learned"] > 0, ledger["forgotten"], never).astype(np.float64)


@dataclass(frozen=True)
class CountFlips(Ungated):
    """Everything takes part, and the training forward's verdicts are counted: ``forgotten`` flips
    from correct to wrong, ``learned`` 1 once a verdict was correct."""

    @property
    def columns(self) -> Mapping[str, str]:
        return {"forgotten": "uint16", "learned": "uint8"}

    def plan(self, ledger: Ledger, pool: Ids, at: EpochContext) -> Plan:
        return Plan(pool)

    def update_columns(
        self, look: Outcome, ids: Ids, ledger: Ledger, at: EpochContext
    ) -> Mapping[str, NDArray]:
        flipped = ledger.correct[ids] & ~look.correct
        return {
            "forgotten": ledger["forgotten"][ids] + flipped,
            "learned": ledger["learned"][ids] | look.correct,
        }
