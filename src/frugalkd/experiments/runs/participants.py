"""Which samples a student's training uses, and what each weighs."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from frugalkd.errors import LedgerError
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.material import RunData
from frugalkd.ledger.ledger import Ledger, ledger_file
from frugalkd.policies import Sampling
from frugalkd.policies.policy import Ids
from frugalkd.selection.inputs import weights_from, weights_of


def sampling_of(
    recipe: Recipe, teacher: Path | None, material: RunData, ledger_at: Path | None = None
) -> Sampling:
    """The student's sampling, by its mode or its own policy; the ledger is the teacher's, or that
    at ``ledger_at``."""
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
        return Sampling(
            mode=role.mode, ledger=ledger, regulation=role.regulation, gamma=role.gamma,
            label_free=role.label_free,
        )  # fmt: skip
    weights = None if ledger is None else weights_from(ledger, material.train, role.gamma)
    assert role.policy is not None
    return Sampling(policy=role.policy.build(), weights=weights, label_free=role.label_free)


def pool(sampling: Sampling, material: RunData) -> Ids | None:
    """Samples that may be used at all; None for all."""
    weights = weights_of(sampling, material.train)
    return None if weights is None else np.flatnonzero(weights)
