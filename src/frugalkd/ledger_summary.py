"""A ledger in a few numbers: significance by class, its histogram, the samples at both ends."""

from __future__ import annotations

from typing import Any

import numpy as np

from frugalkd.ledger import Ledger

_BINS = 10


def summarise(ledger: Ledger, top: int = 8) -> dict[str, Any]:
    """Plain values (JSON holds them) that describe ``ledger``.

    Returns:
        ``samples``, ``epochs``, ``policy``, ``mean`` significance, the fractions ``never`` (0) and
        ``always`` (1); ``classes``: one record a class, the most significant first; ``histogram``:
        samples in ten equal bins of significance; ``most`` and ``least``: ``top`` records each,
        ties broken by the last confidence, then by id.

    Raises:
        LedgerError: the ledger has no finished epoch.
    """
    significance = ledger.significance
    confidence = np.nan_to_num(ledger["confidence"], nan=-1.0)
    order = np.lexsort((np.arange(len(ledger)), confidence, -significance))
    # From the other end the most confident come first, and among those the lowest ids.
    reverse = np.lexsort((np.arange(len(ledger)), -confidence, significance))
    bins = np.minimum((significance * _BINS + 1e-6).astype(int), _BINS - 1)
    return {
        "samples": len(ledger),
        "epochs": ledger.epochs,
        "policy": ledger.about.get("policy", ""),
        "mean": float(significance.mean()) if len(ledger) else 0.0,
        "never": float((significance == 0).mean()) if len(ledger) else 0.0,
        "always": float((significance == 1).mean()) if len(ledger) else 0.0,
        "classes": _by_class(ledger),
        "histogram": np.bincount(bins, minlength=_BINS).tolist(),
        "most": [_sample(ledger, int(id)) for id in order[:top]],
        "least": [_sample(ledger, int(id)) for id in reverse[:top]],
    }


def _names(ledger: Ledger) -> list[str]:
    said = ledger.about.get("classes", "")
    return said.split("\n") if said else []


def _name_of(ledger: Ledger, label: int) -> str:
    names = _names(ledger)
    return names[label] if 0 <= label < len(names) else str(label)


def _by_class(ledger: Ledger) -> list[dict[str, Any]]:
    if ledger.labels is None:
        return []
    significance, records = ledger.significance, []
    for label in np.unique(ledger.labels):
        own = significance[ledger.labels == label]
        records.append(
            {
                "class": _name_of(ledger, int(label)),
                "samples": len(own),
                "mean": float(own.mean()),
                "never": float((own == 0).mean()),
                "always": float((own == 1).mean()),
            }
        )
    return sorted(records, key=lambda record: -record["mean"])


def _sample(ledger: Ledger, id: int) -> dict[str, Any]:
    confidence = float(ledger["confidence"][id])
    return {
        "id": id,
        "class": None if ledger.labels is None else _name_of(ledger, int(ledger.labels[id])),
        "significance": float(ledger.significance[id]),
        "confidence": None if np.isnan(confidence) else confidence,
        "correct": bool(ledger.correct[id]),
    }
