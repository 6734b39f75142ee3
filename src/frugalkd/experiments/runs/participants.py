"""Who may take part in a student's training, and what a sample weighs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from frugalkd.errors import LedgerError
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.material import RunData
from frugalkd.ledger.ledger import Ledger, ledger_file
from frugalkd.policies.modes import MODES
from frugalkd.policies.policy import Ids
from frugalkd.selection.inputs import weights_from


def who_takes_part(
    recipe: Recipe, teacher: Path | None, material: RunData, ledger_at: Path | None = None
) -> dict[str, Any]:
    """The student's policy and weights, as its mode or its own policy say; the ledger is the
    teacher's, or that at ``ledger_at``."""
    role = recipe.student
    ledger = None
    if role.weighted:
        if ledger_at is None and (teacher is None or not ledger_file(teacher).is_file()):
            raise LedgerError(
                f"mode {role.mode or 'with significance weights'} needs the significance ledger "
                "of a self-regulated teacher: run 'frugalkd teach RECIPE --out DIR' and pass "
                "--teacher DIR, or for a teacher that you have 'frugalkd ledger make', and pass "
                "--ledger DIR; vanilla and regulated need none"
            )
        ledger = Ledger.load(ledger_at or teacher)  # pyright: ignore[reportArgumentType]
    if role.mode is not None:
        return {
            "mode": role.mode,
            "ledger": ledger,
            "regulation": role.regulation,
            "gamma": role.gamma,
        }
    weights = weights_from(ledger, material.train, role.gamma) if ledger is not None else None
    assert role.policy is not None
    return {"policy": role.policy.build(), "weights": weights}


def pool(who: dict[str, Any], material: RunData) -> Ids | None:
    """Samples that may take part at all; None for all."""
    if who.get("mode") is not None:
        weighted = MODES[who["mode"]].weighted
        weights = weights_from(who["ledger"], material.train, who["gamma"]) if weighted else None
    else:
        weights = who["weights"]
    return None if weights is None else np.flatnonzero(weights > 0)
