"""Keeping a budget: what is left for an epoch where some epochs train on everything."""

from __future__ import annotations

import math

from frugalkd.errors import SettingError


def check_parts(**parts: float | None) -> None:
    """Settings that are a part of something; None is one that is not set.

    Raises:
        SettingError: one of them is not in (0, 1].
    """
    for name, part in parts.items():
        if part is not None and not 0 < part <= 1:
            raise SettingError(f"{name} must be in (0, 1], not {part}")


def full_from(epochs: float, wanted: float, budget: float | None) -> float:
    """The epoch from which on the last ones, ``wanted`` of them rounded down, train on everything;
    all of them together take no more than half of what a budget can pay for."""
    if budget is not None:
        wanted = min(wanted, budget * epochs / 2)
    return min(epochs, math.ceil(epochs - math.floor(wanted + 1e-9)))


def rest_of(budget: float, epochs: float, full: float) -> float:
    """The fraction of all samples for each other epoch, where ``full`` epochs train on everything
    and all epochs together may spend ``budget``, in (0, 1]."""
    if full >= epochs:
        return 1.0
    return min(1.0, max(0.0, budget - full * (1 - budget) / (epochs - full)))


def rows_of(part: float, samples: int) -> int:
    """How many samples an epoch may train on, at least one."""
    return max(1, round(part * samples))
