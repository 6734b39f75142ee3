"""A ledger in a few numbers: significance by class, its histogram, the samples at both ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.ledger import Ledger

_BINS = 10
_INTERLEAVED = 100
"""Classes that are interleaved; among more, none would be seen twice anyway."""


def summarise(ledger: Ledger, top: int = 8, *, interleaved: bool = False) -> dict[str, Any]:
    """Plain values (JSON holds them) that describe ``ledger``.

    Args:
        ledger: with at least one finished epoch.
        top: samples at either end.
        interleaved: of equally significant samples list one of each class, then a second one of
            each, and so on; else the classes do not matter.

    Returns:
        ``samples``, ``epochs``, ``policy``, ``data`` (their digest), ``mean`` significance, the
        fractions ``never`` (0) and ``always`` (1); ``classes``: one record a class, the most
        significant first; ``histogram``: samples in ten equal bins of significance; ``most`` and
        ``least``: ``top`` records each, ties broken by the last confidence, then by id.

    Raises:
        LedgerError: the ledger has no finished epoch.
    """
    significance = ledger.significance
    confidence = np.nan_to_num(ledger["confidence"], nan=-1.0)
    labels = ledger.labels if interleaved else None
    if labels is None or len(np.unique(labels)) > _INTERLEAVED:
        labels = np.zeros(len(ledger), dtype=np.int32)
    most = _first(-significance, confidence, labels, top)
    # From the other end the most confident come first, and among those the lowest ids.
    least = _first(significance, -confidence, labels, top)
    names = ledger.about.get("classes", "").split("\n")
    bins = np.minimum((significance * _BINS + 1e-6).astype(int), _BINS - 1)
    return {
        "samples": len(ledger),
        "epochs": ledger.epochs,
        "policy": ledger.about.get("policy", ""),
        "data": ledger.about.get("data"),
        "mean": float(significance.mean()) if len(ledger) else 0.0,
        "never": float((significance == 0).mean()) if len(ledger) else 0.0,
        "always": float((significance == 1).mean()) if len(ledger) else 0.0,
        "classes": _by_class(ledger, names),
        "histogram": np.bincount(bins, minlength=_BINS).tolist(),
        "most": [_sample(ledger, names, int(id)) for id in most],
        "least": [_sample(ledger, names, int(id)) for id in least],
    }


def _first(
    key: NDArray[np.float32], tie: NDArray[np.float32], labels: NDArray[np.int32], top: int
) -> NDArray[np.int64]:
    """The ids of the ``top`` lowest in ``key``; those equal in it are interleaved by class, the
    lowest in ``tie`` first, then the lowest ids."""
    ids = np.arange(len(key))
    if len(key) > top:
        ids = np.flatnonzero(key <= np.partition(key, top - 1)[top - 1])
    ids = ids[np.lexsort((tie[ids], labels[ids], key[ids]))]  # stable: equal ones by id
    place = np.arange(len(ids))
    new = np.ones(len(ids), dtype=bool)
    new[1:] = (np.diff(key[ids]) != 0) | (np.diff(labels[ids]) != 0)
    turn = place - np.maximum.accumulate(np.where(new, place, 0))
    return ids[np.lexsort((ids, tie[ids], turn, key[ids]))][:top]


def _name_of(names: list[str], label: int) -> str:
    return names[label] if names != [""] and 0 <= label < len(names) else str(label)


def _by_class(ledger: Ledger, names: list[str]) -> list[dict[str, Any]]:
    if ledger.labels is None:
        return []
    significance, records = ledger.significance, []
    for label in np.unique(ledger.labels):
        own = significance[ledger.labels == label]
        records.append(
            {
                "class": _name_of(names, int(label)),
                "samples": len(own),
                "mean": float(own.mean()),
                "never": float((own == 0).mean()),
                "always": float((own == 1).mean()),
            }
        )
    return sorted(records, key=lambda record: -record["mean"])


def _sample(ledger: Ledger, names: list[str], id: int) -> dict[str, Any]:
    confidence = float(ledger["confidence"][id])
    return {
        "id": id,
        "class": None if ledger.labels is None else _name_of(names, int(ledger.labels[id])),
        "significance": float(ledger.significance[id]),
        "confidence": None if np.isnan(confidence) else confidence,
        "correct": bool(ledger.correct[id]),
    }
