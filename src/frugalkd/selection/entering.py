"""From a look to the ledger: the policy's verdict, and until when a sample sleeps."""

from __future__ import annotations

from typing import Any

import numpy as np

from frugalkd.data.source import form
from frugalkd.errors import SelectionMisuse, few
from frugalkd.failures import blame
from frugalkd.ledger import Ledger
from frugalkd.policies._policy import Ids, Mask, Moment, Policy
from frugalkd.verdict import Look


def enter(
    policy: Policy, ledger: Ledger, at: Moment, ids: Ids, seen: Look, *, screening: bool
) -> Mask:
    """Judge a look (arrays) at ``ids``, each of them once, and enter it; returns who failed.

    Raises:
        SelectionMisuse: a method of the policy fails, or does not give one value a row.
    """
    name = type(policy).__name__
    try:
        for column, values in policy.note(seen, ids, ledger, at).items():
            ledger[column][ids] = values
        failed = policy.admit(seen, ids, ledger, at)
    except Exception as error:
        blame(error, SelectionMisuse, f"{name} fails on a look at samples {few(ids.tolist())}")
    _one_a_row(failed, len(ids), "b", f"{name}.admit")
    streak = ledger.record(
        ids,
        epoch=at.epoch,
        confidence=seen.confidence,
        correct=seen.correct,
        failed=failed,
        screening=screening,
    )
    try:
        asleep = policy.sleep(streak)
    except Exception as error:
        blame(error, SelectionMisuse, f"{name}.sleep fails")
    _one_a_row(asleep, len(ids), "iu", f"{name}.sleep")
    # A screening decides about this very epoch, a training forward about the next.
    ledger["due"][ids] = np.minimum(at.epoch + asleep + (0 if screening else 1), 65535)
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
