"""Which labels are likely to be wrong, by the training dynamics in a ledger."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import LedgerError
from frugalkd.files import StrPath
from frugalkd.files.opening import named_file
from frugalkd.files.parsing import cell
from frugalkd.files.writing import atomic, make_folder
from frugalkd.ledger.dynamics import NEVER
from frugalkd.ledger.ledger import Ledger

SHOWN = 12
"""Digits of the data's digest in a table."""

LAST = 1.5
"""Weight of the last visit in a label's score: of 0.5 to 3 a compromise between single seeds of
CIFAR-10 (1), Fashion-MNIST (7) and the digits (0 and 1)."""


def scores(ledger: Ledger) -> NDArray[np.float64]:
    """How credible each label is (samples,), the lower the less, NaN for a sample that was never
    visited: the mean margin (AUM, Pleiss et al. 2020, over the visits that
    :mod:`frugalkd.ledger.dynamics` counts), in units of half the range of the middle 68 % of all
    margins, less :data:`LAST` times the last confidence, if the last visit preferred another class.
    The last visit is ours: a network refuses hard samples early, and knows many of them at the end.
    Raises LedgerError for a ledger without training dynamics."""
    if not ledger.has_dynamics:
        raise LedgerError(
            "this ledger has no training dynamics to audit labels by: make it again with "
            "teacher.dynamics (student.dynamics of a student's), which 'frugalkd teach' has by "
            "default"
        )
    margins = np.where(ledger["counted"] > 0, ledger["margin"].astype(np.float64), np.nan)
    known = margins[np.isfinite(margins)]
    low, high = np.percentile(known, [16, 84]) if len(known) else (0, 0)
    last = np.where(ledger.accepted, 0, np.nan_to_num(ledger["confidence"]))
    return margins / ((high - low) / 2 or 1.0) - LAST * last


def ranked(ledger: Ledger, top: int | None = None) -> NDArray[np.int64]:
    """The ids of the samples that were visited, or the first ``top`` of them, the most suspicious
    label first: by :func:`scores`, which raises, equal ones by the label's mean probability, then
    by id."""
    found, ids = scores(ledger), np.flatnonzero(ledger["counted"])
    found = found[ids]
    if top is not None and 0 < top < len(ids):  # a sort of all may be of a billion
        first = found <= np.partition(found, top - 1)[top - 1]
        ids, found = ids[first], found[first]
    return ids[np.lexsort((ids, ledger["probability"][ids], found))][:top]


def refused(ledger: Ledger) -> int:
    """How many samples have a negative mean margin: training preferred another class."""
    with np.errstate(invalid="ignore"):
        return int(np.count_nonzero(ledger["margin"] < 0))


def classes_of(ledger: Ledger) -> list[str]:
    """The names of its classes; [] where they are not known."""
    names = ledger.about.get("classes", "").split("\n")
    return [] if names == [""] else names


def name_of(names: list[str], label: int) -> str:
    """The name of a class, or its number where it has none."""
    return names[label] if 0 <= label < len(names) else str(label)


def suspects(
    ledger: Ledger, ids: NDArray[np.int64], logits: NDArray[np.float32] | None = None
) -> list[dict[str, Any]]:
    """Plain values (JSON holds them) about the labels of ``ids``, in their order.

    ``given`` and ``suggested`` are names of classes, None where not known; ``first_learned`` is
    None for never; ``accepted``: the given label had the largest logit at the last visit; with a
    teacher's ``logits`` (samples, classes), NaN where not known, ``teacher``: its class."""
    names, labels = classes_of(ledger), ledger.labels
    accepted, found = ledger.accepted, scores(ledger)
    rows = []
    for id in ids.tolist():
        first, other = int(ledger["first_learned"][id]), int(ledger["other"][id])
        rows.append(
            {
                "id": id,
                "given": None if labels is None else name_of(names, int(labels[id])),
                "suggested": None if other == NEVER else name_of(names, other),
                "score": round(float(found[id]), 4),
                "margin": round(float(ledger["margin"][id]), 4),
                "probability": round(float(ledger["probability"][id]), 4),
                "variability": round(float(ledger["variability"][id]), 4),
                "counted": int(ledger["counted"][id]),
                "first_learned": None if first == NEVER else first,
                "forgotten": int(ledger["forgotten"][id]),
                "accepted": bool(accepted[id]),
            }
        )
        if logits is not None:
            best = None if np.isnan(logits[id]).any() else name_of(names, int(logits[id].argmax()))
            rows[-1]["teacher"] = best
    return rows


def export_suspects(ledger: Ledger, rows: Sequence[Mapping[str, Any]], path: StrPath) -> None:
    """Write what :func:`suspects` returned as CSV, with empty columns ``decision`` and ``label`` to
    fill in. Raises WriteFailed."""
    path = named_file(path)
    make_folder(path.parent)
    first = ["id", "sample", "given", "suggested"]
    more = (key for key in (rows[0] if rows else {}) if key not in first)
    columns = [*first, "decision", "label", *more, "data"]
    same = {"decision": "", "label": "", "data": ledger.about.get("data", "")[:SHOWN]}
    with atomic(path) as file, open(file, "w", newline="", encoding="utf-8", closefd=False) as text:
        writer = csv.writer(text)
        writer.writerow(columns)
        for row in rows:
            said = [{**same, **row}.get(key) for key in columns]
            writer.writerow([cell(value) if isinstance(value, str) else value for value in said])
