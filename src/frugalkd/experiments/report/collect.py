"""A folder, or a file, as the plain data that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from frugalkd.errors import ReportError
from frugalkd.experiments.comparison.summary import SCHEMA as COMPARISON_SCHEMA
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.schema import (
    Comparison,
    LedgerSummary,
    Record,
    RunRecord,
    Shares,
)
from frugalkd.experiments.runs.summary import FILE as _SUMMARY
from frugalkd.experiments.runs.summary import mean_history, read_summary
from frugalkd.files.parsing import one_line, read_json

_COMPARISON, _RESULTS = "comparison.json", "results.json"

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
    content = read_json(path, COMPARISON_SCHEMA, "make it again with 'frugalkd compare'")
    if "arms" not in content or "recipe" not in content:
        raise ReportError(
            f"{path} is not of a comparison: name the folder of a comparison or of a run"
        )
    return _read(Comparison, content, path)


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
