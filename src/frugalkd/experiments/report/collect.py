"""A folder, or a file, as the plain data that a report is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from frugalkd.errors import ReportError, RunFolderError
from frugalkd.experiments.comparison.statistics import BUDGET_TOLERANCE, frontier
from frugalkd.experiments.comparison.summary import SCHEMA as COMPARISON_SCHEMA
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.history import mean_history
from frugalkd.experiments.runs.schema import (
    Arm,
    Comparison,
    Epoch,
    Frontiers,
    LedgerSummary,
    Record,
    Run,
    Shares,
    section,
)
from frugalkd.experiments.runs.summary import FILE as _SUMMARY
from frugalkd.experiments.runs.summary import read_run, read_summary
from frugalkd.files.parsing import one_line, read_json
from frugalkd.policies.modes import MODES

_COMPARISON, _RESULTS = "comparison.json", "results.json"
_OLDEST = 1
"""Schema of a comparison that is still read, as if it were of today's."""

_Record = TypeVar("_Record", bound=Record)


def collect(path: Path) -> Comparison | Run:
    """What there is to report in ``path``: a comparison's folder, a run's, or a ``comparison.json``
    under any name.

    Raises:
        ReportError: there is nothing of the kind, or it does not hold what it should.
        RunFolderError, LedgerError: a file is damaged, or of another schema.
    """
    if path.is_file():
        return _comparison(path, None)
    if (path / _COMPARISON).is_file():
        return _comparison(path / _COMPARISON, path)
    if (path / _RESULTS).is_file():
        return _run(path)
    if not path.exists():
        raise ReportError(f"there is no {path}: name the folder of a comparison or of a run")
    if (path / "run.json").is_file():
        raise ReportError(f"{path} holds a run that is not done: go on with it (--resume) first")
    raise ReportError(
        f"{path} holds neither {_COMPARISON} nor {_RESULTS}: name the folder of a comparison or of "
        "a run"
    )


def _comparison(path: Path, folder: Path | None) -> Comparison:
    content = _read_comparison(path)
    if "arms" not in content and "history" in content:
        raise ReportError(f"{path} is of a single run: name its folder")
    if "arms" not in content or "recipe" not in content:
        raise ReportError(
            f"{path} is not of a comparison: name the folder of a comparison or of a run"
        )
    found = _shaped(Comparison, content, path)
    arms = [_completed(arm, found) for arm in found.arms]
    if any(arm.frontier is None for arm in arms):
        arms = _with_frontiers(arms)
    if folder is not None and any(arm.history is None for arm in arms):
        arms = _with_histories(arms, folder)
    update: dict[str, Any] = {"arms": arms}
    if folder is not None and any(teacher.summary is None for teacher in found.teachers):
        update["teachers"] = _with_summaries(found, folder)
    return found.model_copy(update=update)


def _read_comparison(path: Path) -> dict[str, Any]:
    try:
        return read_json(path, COMPARISON_SCHEMA, "make it again with 'frugalkd compare'")
    except RunFolderError as error:
        try:
            return read_json(path, _OLDEST)
        except RunFolderError:
            raise error from None


def _run(folder: Path) -> Run:
    """A run of its summary, which is small; one whose summary does not tell it, of its results."""
    content = read_run(folder)
    if content is not None:
        run = _shaped(Run, content, folder / _SUMMARY)
    else:
        run = _shaped(Run, read_results(folder), folder / _RESULTS)
        run = run.model_copy(update={"shares": _shares([run.history])})
    return run.model_copy(update={"summary": _summary(folder)})


def _shares(histories: Sequence[Sequence[Epoch]]) -> Shares | None:
    found = mean_history([[vars(epoch) for epoch in history] for history in histories])
    return None if found is None else Shares.model_validate(found)


def _summary(folder: Path) -> LedgerSummary | None:
    found = read_summary(folder)
    return None if found is None else _shaped(LedgerSummary, found, folder / _SUMMARY)


def _shaped(shape: type[_Record], content: Mapping[str, Any], where: Path) -> _Record:
    try:
        return shape.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = one_line(".".join(map(str, first["loc"])), 80)
        said = one_line(first["msg"], 80)
        raise ReportError(f"{where} is damaged: {place}: {said}; make it again") from None


def _completed(arm: Arm, comparison: Comparison) -> Arm:
    """An arm of a file that does not say its mode, which its recipe does."""
    if arm.mode is not None or arm.control is not None:
        return arm
    family = arm.family
    settings = section(section(section(comparison.recipe, "arms"), family), "set")
    mode = settings.get("student.mode", family)
    return arm.model_copy(update={"mode": mode if mode in list(MODES) else None})


def _with_frontiers(arms: Sequence[Arm]) -> list[Arm]:
    accuracy = [arm.accuracy.mean for arm in arms]
    spent = [(arm.budget.mean, y) for arm, y in zip(arms, accuracy, strict=True)]
    budget = frontier(spent, BUDGET_TOLERANCE)
    time = frontier([(arm.wall_ratio.mean, y) for arm, y in zip(arms, accuracy, strict=True)])
    return [
        arm.model_copy(update={"frontier": Frontiers(budget=b, time=t)})
        for arm, b, t in zip(arms, budget, time, strict=True)
    ]


def _with_histories(arms: Sequence[Arm], folder: Path) -> list[Arm]:
    """Histories of a comparison that holds none, from its runs where they are there."""
    by_digest = {}
    for path in sorted(folder.glob("runs/*/results.json")):
        results = read_results(path.parent)
        by_digest[results.get("digest")] = _shaped(Run, results, path).history
    return [
        arm.model_copy(
            update={
                "history": _shares([by_digest[d] for d in arm.digests.values() if d in by_digest])
            }
        )
        if arm.history is None
        else arm
        for arm in arms
    ]


def _with_summaries(comparison: Comparison, folder: Path) -> list[Any]:
    """Summaries of a comparison that holds none, from its teachers where they are there."""
    by_digest = {}
    for path in sorted(folder.glob("teachers/*/results.json")):
        by_digest[read_results(path.parent).get("digest")] = path.parent
    return [
        teacher.model_copy(update={"summary": _summary(by_digest[teacher.digest])})
        if teacher.summary is None and teacher.digest in by_digest
        else teacher
        for teacher in comparison.teachers
    ]
