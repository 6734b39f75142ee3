"""A folder, or a file, as the plain data that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from frugalkd.errors import ReportError, RunFolderError
from frugalkd.experiments.comparison.summary import SCHEMA as COMPARISON_SCHEMA
from frugalkd.experiments.comparison.summary import mark_frontiers
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.schema import (
    ArmRecord,
    Comparison,
    LedgerSummary,
    Record,
    RunRecord,
    Shares,
    section,
)
from frugalkd.experiments.runs.summary import FILE as _SUMMARY
from frugalkd.experiments.runs.summary import mean_history, read_summary
from frugalkd.files.parsing import one_line, read_json
from frugalkd.policies.modes import MODES

_COMPARISON, _RESULTS = "comparison.json", "results.json"
_OLDEST = 1
"""Schema of the oldest comparison that is still read: arms have neither a mode nor a frontier."""

_Record = TypeVar("_Record", bound=Record)


def collect(path: Path) -> Comparison | RunRecord:
    """What there is to report in ``path``: a comparison's folder, a run's, or a ``comparison.json``
    under any name.

    Raises:
        ReportError: there are no results, or they are damaged.
        RunFolderError, LedgerError: a file is damaged, or of another schema.
    """
    file = path if path.is_file() else path / _COMPARISON
    if file.is_file():
        return _comparison(file)
    if (path / _RESULTS).is_file():
        return _run(path)
    if not path.exists():
        raise ReportError(f"there is no {path}: name the folder of a comparison or of a run")
    if (path / "run.json").is_file():
        raise ReportError(f"{path} holds a run that is not done: resume it (--resume) first")
    raise ReportError(
        f"{path} holds neither {_COMPARISON} nor {_RESULTS}: name the folder of a comparison or of "
        "a run"
    )


def _comparison(path: Path) -> Comparison:
    try:
        content = read_json(path, COMPARISON_SCHEMA, "make it again with 'frugalkd compare'")
    except RunFolderError as error:
        try:
            content = read_json(path, _OLDEST)
        except RunFolderError:
            raise error from None
    if "arms" not in content or "recipe" not in content:
        raise ReportError(
            f"{path} is not of a comparison: name the folder of a comparison or of a run"
        )
    found = _read(Comparison, content, path)
    if any(arm.frontier is None for arm in found.arms):
        mark_frontiers(content["arms"])
        found = _read(Comparison, content, path)
    return found.model_copy(update={"arms": [_with_mode(arm, found) for arm in found.arms]})


def _with_mode(arm: ArmRecord, comparison: Comparison) -> ArmRecord:
    """The arm with the mode that the recipe gives it, in files that do not name it."""
    if arm.mode is not None or arm.control is not None:
        return arm
    settings = section(section(section(comparison.recipe, "arms"), arm.family), "set")
    mode = settings.get("student.mode", arm.family)
    return arm.model_copy(update={"mode": mode if mode in list(MODES) else None})


def _run(folder: Path) -> RunRecord:
    run, ledger = _read(RunRecord, read_results(folder), folder / _RESULTS), read_summary(folder)
    shares = mean_history([[vars(epoch) for epoch in run.history]])
    added = {
        "shares": shares and Shares.model_validate(shares),
        "summary": ledger and _read(LedgerSummary, ledger, folder / _SUMMARY),
    }
    return run.model_copy(update=added)


def _read(record: type[_Record], content: Mapping[str, Any], where: Path) -> _Record:
    try:
        return record.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = one_line(".".join(map(str, first["loc"])), 80)
        why = one_line(first["msg"], 80)
        raise ReportError(f"{where} is damaged: {place}: {why}; make it again") from None
