"""A ledger in a few numbers: significance by class, its histogram, the samples at both ends."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.ledger.audit import classes_of, name_of, ranked, refused, suspects
from frugalkd.ledger.ledger import Ledger

_BINS = 10


def summarise(ledger: Ledger, top: int = 8, suspicious: int = 0) -> dict[str, Any]:
    """Plain values (JSON holds them) that describe ``ledger``: ``mean`` significance, the fractions
    ``never`` (0) and ``always`` (1), in all and of each class, a ``histogram`` in ten equal bins;
    ``most`` and ``least``: ``top`` samples at either end, of equal ones first one of each class;
    with training dynamics ``refused``, the labels that training refused, and ``suspects``, the
    ``suspicious`` first ones (:mod:`frugalkd.ledger.audit`).
    Raises LedgerError where the ledger has no finished epoch."""
    significance = ledger.significance
    confidence = np.nan_to_num(ledger["confidence"], nan=-1.0)
    labels = ledger.labels
    if labels is None:
        labels = np.zeros(len(ledger), dtype=np.int32)
    most = _first(-significance, confidence, labels, top)
    # From the other end the most confident come first, and among those the lowest ids.
    least = _first(significance, -confidence, labels, top)
    names = classes_of(ledger)
    bins = np.minimum((significance * _BINS + 1e-6).astype(int), _BINS - 1)
    return {
        "samples": len(ledger),
        "epochs": ledger.epochs,
        "policy": ledger.about.get("policy", ""),
        "data": ledger.about.get("data"),
        **_shares(significance),
        "classes": _by_class(ledger, names),
        "histogram": np.bincount(bins, minlength=_BINS).tolist(),
        "most": [_sample(ledger, names, int(id)) for id in most],
        "least": [_sample(ledger, names, int(id)) for id in least],
        **(_labels(ledger, suspicious) if ledger.has_dynamics else {}),
    }


def _labels(ledger: Ledger, top: int) -> dict[str, Any]:
    keys = ("id", "given", "suggested", "score", "margin", "probability")
    rows = suspects(ledger, ranked(ledger, top))
    return {"refused": refused(ledger), "suspects": [{k: row[k] for k in keys} for row in rows]}


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


def _shares(significance: NDArray[np.float32]) -> dict[str, float]:
    shares = {"mean": significance, "never": significance == 0, "always": significance == 1}
    return {name: float(values.mean()) if len(values) else 0.0 for name, values in shares.items()}


def _by_class(ledger: Ledger, names: list[str]) -> list[dict[str, Any]]:
    records = []
    for label in np.unique([] if ledger.labels is None else ledger.labels):
        own = ledger.significance[ledger.labels == label]
        records.append({"class": name_of(names, int(label)), "samples": len(own), **_shares(own)})
    return sorted(records, key=lambda record: -record["mean"])


def _sample(ledger: Ledger, names: list[str], id: int) -> dict[str, Any]:
    confidence = float(ledger["confidence"][id])
    return {
        "id": id,
        "class": None if ledger.labels is None else name_of(names, int(ledger.labels[id])),
        "significance": float(ledger.significance[id]),
        "confidence": None if np.isnan(confidence) else confidence,
        "correct": bool(ledger.correct[id]),
    }
