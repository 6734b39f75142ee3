"""From a look to the ledger: the policy's verdict, and until when a sample sleeps."""

from __future__ import annotations

from typing import Any

import numpy as np

from frugalkd.data.source import form
from frugalkd.errors import SelectionMisuse, few
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies.policy import EpochContext, Ids, Mask, Policy
from frugalkd.runtime.failures import blame


def enter(
    policy: Policy, ledger: Ledger, at: EpochContext, ids: Ids, seen: Outcome, *, screening: bool
) -> Mask:
    """Apply the gate to the outcome (arrays) of ``ids``, without duplicates, and record it in the
    ledger; returns which rows failed.

    Raises:
        SelectionMisuse: a method of the policy fails, or does not give one value a row.
    """
    name = type(policy).__name__
    try:
        for column, values in policy.update_columns(seen, ids, ledger, at).items():
            ledger[column][ids] = values
        failed = policy.needs_training(seen, ids, ledger, at)
    except Exception as error:
        blame(error, SelectionMisuse, f"{name} fails on the outcome of samples {few(ids.tolist())}")
    _one_a_row(failed, len(ids), "b", f"{name}.needs_training")
    streak = ledger.record(
        ids,
        epoch=at.epoch,
        confidence=seen.confidence,
        correct=seen.correct,
        failed=failed,
        screening=screening,
    )
    try:
        asleep = policy.skip_epochs(streak)
    except Exception as error:
        blame(error, SelectionMisuse, f"{name}.skip_epochs fails")
    _one_a_row(asleep, len(ids), "iu", f"{name}.skip_epochs")
    # A screening decides about this very epoch, a training forward about the next.
    epochs = np.minimum(asleep.astype(np.uint64), 65535).astype(np.int64)  # whatever its dtype
    ledger["due"][ids] = np.minimum(at.epoch + epochs + (0 if screening else 1), 65535)
    return failed


def _one_a_row(values: Any, rows: int, kinds: str, whose: str) -> None:
    if not isinstance(values, np.ndarray) or values.dtype.kind not in kinds:
        wanted = "booleans" if kinds == "b" else "whole numbers"
        raise SelectionMisuse(
            f"{whose} returns {form(values)}: return a numpy array of {wanted} (rows,)"
        )
    if values.shape != (rows,):
        raise SelectionMisuse(f"{whose} returns {form(values)} for {rows} rows: return one a row")
    if kinds != "b" and rows and values.min() < 0:
        raise SelectionMisuse(f"{whose} returns {values.min()}: return epochs, 0 or more")
