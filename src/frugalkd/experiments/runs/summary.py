"""``summary.json``: what a run came to and what its ledger says, small enough to be sent around and
committed: a report of the run is made of it alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from frugalkd.errors import LedgerError
from frugalkd.experiments.runs.history import mean_history
from frugalkd.files.parsing import read_json
from frugalkd.files.writing import write_atomic
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.summary import summarise

SCHEMA = 1
FILE = "summary.json"
LARGEST = 50_000
"""Bytes of the file."""

_ENDS = 24
_AGAIN = "delete it; reports then do without it"


def write_summary(
    folder: Path, kind: str, ledger: Ledger, results: Mapping[str, Any] | None = None
) -> None:
    """Write what ``ledger`` says into a run's folder, in at most ``LARGEST`` bytes: of many classes
    those at both ends, of long names the beginning. Nothing where no epoch has ended.

    Args:
        folder: the run's.
        kind: teach, distill, or ledger.
        ledger: of the run.
        results: of the run, as ``results.json`` has them. Under ``run`` they are told too, all but
            their ``history``, of which ``shares`` are the means of a few epochs each; left out
            where that would take more than half of the file, as a recipe of any length may.

    Raises:
        WriteFailed: it cannot be written.
    """
    if ledger.epochs <= 0:
        return
    said = {"schema": SCHEMA, "kind": kind, **summarise(ledger, _ENDS, in_turns=True)}
    if results is not None:
        run = {key: value for key, value in results.items() if key not in ("schema", "history")}
        run["shares"] = mean_history([results["history"]])
        if len(_json(run)) <= LARGEST // 2:
            said["run"] = run
    write_atomic(folder / FILE, _encoded(said) + b"\n")


def read_run(folder: Path) -> dict[str, Any] | None:
    """The ``run`` of :func:`write_summary`; None where there is none.

    Raises:
        RunFolderError: the summary is damaged, or of another schema.
    """
    if not (folder / FILE).is_file():
        return None
    run = read_json(folder / FILE, SCHEMA, _AGAIN).get("run")
    return run if isinstance(run, dict) else None


def read_summary(folder: Path) -> dict[str, Any] | None:
    """What :func:`write_summary` wrote of the ledger into ``folder``; a run of before is summarised
    from its ledger. None where there is neither.

    Raises:
        LedgerError, RunFolderError: what is there is damaged, or of another schema.
    """
    if (folder / FILE).is_file():
        found = read_json(folder / FILE, SCHEMA, _AGAIN)
        return {key: value for key, value in found.items() if key != "run"}
    try:
        ledger = Ledger.load(folder)
    except LedgerError:
        if (folder / "ledger.safetensors").exists():
            raise
        return None
    if ledger.epochs <= 0:
        return None
    return json.loads(_encoded(summarise(ledger, _ENDS, in_turns=True)))


def _encoded(summary: dict[str, Any]) -> bytes:
    keep, letters = len(summary["classes"]), 200
    while True:
        classes = summary["classes"]
        half = (keep + 1) // 2
        shown = classes if len(classes) <= keep else [*classes[:half], *classes[-half:]]
        said = {
            **summary,
            "classes": [_cut(record, letters) for record in shown],
            "classes_left_out": len(classes) - len(shown),
            "most": [_cut(record, letters) for record in summary["most"]],
            "least": [_cut(record, letters) for record in summary["least"]],
        }
        content = _json(said)
        if len(content) < LARGEST or letters == 1:
            return content
        keep, letters = max(keep // 2, 20), letters // 2


def _json(value: dict[str, Any]) -> bytes:
    return json.dumps(value, allow_nan=False, separators=(",", ":")).encode()


def _cut(record: dict[str, Any], letters: int) -> dict[str, Any]:
    name = record["class"]
    short = name if name is None or len(name) <= letters else name[: letters - 1] + "…"
    return {**record, "class": short}
