"""From a look to the ledger: the policy's verdict, and until when a sample sleeps."""

from __future__ import annotations

import numpy as np

from frugalkd.ledger import Ledger
from frugalkd.policies._policy import Ids, Mask, Moment, Policy
from frugalkd.verdict import Look


def enter(
    policy: Policy, ledger: Ledger, at: Moment, ids: Ids, seen: Look, *, screening: bool
) -> Mask:
    """Judge a look (arrays) at ``ids``, each of them once, and enter it; returns who failed."""
    for column, values in policy.note(seen, ids, ledger, at).items():
        ledger[column][ids] = values
    failed = policy.admit(seen, ids, ledger, at)
    streak = ledger.record(
        ids,
        epoch=at.epoch,
        confidence=seen.confidence,
        correct=seen.correct,
        failed=failed,
        screening=screening,
    )
    # A screening decides about this very epoch, a training forward about the next.
    due = np.minimum(at.epoch + policy.sleep(streak) + (0 if screening else 1), 65535)
    ledger["due"][ids] = due
    return failed
