"""Keeping a budget: what is left for an epoch where some epochs train on everything."""

from __future__ import annotations

import math


def last_full_epochs(epochs: float, part: float, budget: float | None) -> int:
    """How many last epochs train on everything: ``part`` of all ``epochs``, rounded down, and no
    more than half of what a budget can pay for."""
    wanted = math.floor(part * epochs + 1e-9)
    if budget is None:
        return wanted
    return min(wanted, math.floor(budget * epochs / 2 + 1e-9))


def rest_of(budget: float, epochs: float, full: int) -> float:
    """The fraction of all samples for each other epoch, where ``full`` epochs train on everything
    and all epochs together may spend ``budget``, in (0, 1]."""
    if full >= epochs:
        return 1.0
    return min(1.0, max(0.0, (budget * epochs - full) / (epochs - full)))
