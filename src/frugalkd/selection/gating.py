"""The gate: does a model still need this sample?

Mishra and Sundaram (arXiv 2102.07125) let a sample update the model only "if it is misclassified or
the model is not confident enough in its prediction". That confidence is the top softmax probability
at temperature 1, and that it must reach ``tau`` to pass, is our reading.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from frugalkd.data.batches import checked_labels, checked_logits
from frugalkd.errors import FrugalKDError, SelectionMisuse
from frugalkd.ledger.outcome import Outcome, fails
from frugalkd.runtime.settings import check_number
from frugalkd.selection.checks import check_batch


@torch.no_grad()
def look(logits: Tensor, labels: Tensor, *, entropy: bool = False) -> Outcome:
    """A look at ``logits`` (rows, classes) against ``labels`` int64 (rows,).

    In float32 whatever the precision of the logits, and without a device synchronisation.
    ``entropy``: of the softmax, too.
    """
    with torch.autocast(logits.device.type, enabled=False):
        probabilities = torch.softmax(logits.detach().float(), dim=1)
    # The logits' own argmax: the softmax rounds close logits to a tie.
    truth = probabilities.gather(1, labels.unsqueeze(1)).squeeze(1)
    spread = torch.special.entr(probabilities).sum(dim=1) if entropy else None
    return Outcome(probabilities.amax(dim=1), logits.argmax(dim=1) == labels, truth, spread)


def gate(logits: Tensor, labels: Tensor, tau: float = 0.9) -> Tensor:
    """Which rows fail the gate, bool (rows,): a misclassified row, or one below ``tau``.

    Args:
        logits: (rows, classes), any floating dtype.
        labels: int64 (rows,).
        tau: the top softmax probability from which a correct row passes; above 1 nobody passes.

    Raises:
        FrugalKDError: a logit is NaN or the softmax of a row is not finite.
        SelectionMisuse, UnsupportedData, DataError, SettingError: logits, labels or ``tau`` are of
            another type, shape or range.
    """
    rows = len(logits) if isinstance(logits, Tensor) and logits.ndim else None
    checked_logits(logits, rows, "the caller of gate", SelectionMisuse)
    labels = checked_labels(labels)
    if labels.shape != logits.shape[:1]:
        raise SelectionMisuse(f"{len(labels)} labels for {len(logits)} rows of logits: one a row")
    check_batch(labels, np.arange(len(labels)), logits.shape[1])
    check_number("tau", tau, 0)
    seen = look(logits, labels)
    bad = torch.nonzero(~torch.isfinite(seen.confidence)).flatten().tolist()
    if bad:
        raise FrugalKDError(f"logits are not finite in rows {bad[:8]}: no verdict can be given")
    return fails(seen.confidence, seen.correct, tau)
