"""``summary.json``: a ledger in at most 50 kB; and the course of runs for a report."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.files.parsing import read_json
from frugalkd.files.writing import write_atomic
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.summary import summarise

SCHEMA = 1
FILE = "summary.json"
LARGEST = 50_000
"""Bytes of the file."""

_ENDS, _SUSPECTS = 24, 100
_POINTS = 100
_WORDS = ("class", "given", "suggested", "predicted", "wanted")
_COLUMNS = {"trained": "rows", "participations": "participations", "screened": "screened"}


Predicted = Callable[[NDArray[np.int64]], tuple[list[str], list[str]]]


def mean_history(histories: Sequence[Sequence[Mapping[str, Any]]]) -> dict[str, Any] | None:
    """The fractions of the samples that were trained, participated and were screened: the mean over
    runs by epoch, and over ``every`` epochs, so that there are at most 100 values. Later epochs are
    the means of the runs that reached them. None without an epoch."""
    longest = max(map(len, histories), default=0)
    if not longest:
        return None
    every = math.ceil(longest / _POINTS)
    found: dict[str, Any] = {"every": every}
    for name, column in _COLUMNS.items():
        shares = np.full((len(histories), every * math.ceil(longest / every)), np.nan)
        for row, history in zip(shares, histories, strict=True):
            row[: len(history)] = [epoch.get(column, 0) / epoch["samples"] for epoch in history]
        means = np.nanmean(shares.reshape(len(histories), -1, every), axis=(0, 2))
        found[name] = [round(float(mean), 4) for mean in means]
    return found


def write_summary(
    folder: Path, kind: str, ledger: Ledger, predicted: Predicted | None = None
) -> None:
    """Write the summary of ``ledger`` into a run's folder, in at most ``LARGEST`` bytes: of many
    classes those at both ends, of long names the beginning. No file without a finished epoch.

    ``kind`` is teach, distill, or ledger; ``predicted`` gives predictions and labels of some
    samples in words, where these are to be shown. Raises WriteFailed.
    """
    if ledger.epochs > 0:
        said = {"schema": SCHEMA, "kind": kind, **summarise(ledger, _ENDS, _SUSPECTS)}
        if predicted is not None:
            ends = [*said["most"], *said["least"]]
            ids = np.array([sample["id"] for sample in ends], dtype=np.int64)
            for sample, words in zip(ends, zip(*predicted(ids), strict=True), strict=True):
                sample["predicted"], sample["wanted"] = words
        write_atomic(folder / FILE, _encoded(said) + b"\n")


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What :func:`write_summary` wrote; None without it. Raises RunFolderError: it is damaged, or
    of another schema."""
    file = folder / FILE
    if not file.is_file():
        return None
    return read_json(file, SCHEMA, "delete it; reports then do without it")


def _encoded(summary: dict[str, Any]) -> bytes:
    classes = summary["classes"]
    keep, letters = len(classes), 200
    while True:
        half = (keep + 1) // 2
        shown = classes if len(classes) <= keep else [*classes[:half], *classes[-half:]]
        records = {key: summary[key] for key in ("most", "least", "suspects") if key in summary}
        records["classes"] = shown
        cut = {key: [_cut(one, letters) for one in each] for key, each in records.items()}
        said = {**summary, **cut, "classes_left_out": len(classes) - len(shown)}
        content = json.dumps(said, allow_nan=False, separators=(",", ":")).encode()
        if len(content) < LARGEST or letters == 1:
            return content
        keep, letters = max(keep // 2, 20), letters // 2


def _cut(record: dict[str, Any], letters: int) -> dict[str, Any]:
    def short(name: str | None) -> str | None:
        return name if name is None or len(name) <= letters else name[: letters - 1] + "…"

    return {k: short(v) if k in _WORDS else v for k, v in record.items()}
