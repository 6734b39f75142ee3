"""Sound files that a finished run or comparison leaves beside its results, and how they are read:
kinds of ``fuzz.py``."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

KINDS = ("summary", "trackers", "comparison")

Made = tuple[Path, Callable[[], object]]
"""A sound file, and what reads it."""

SMALL = {
    "data.train_size": 60,
    "teacher.model": {"name": "mlp", "options": {"hidden": [4]}},
    "teacher.training.epochs": 2,
    "student.model": {"name": "mlp", "options": {"hidden": [4]}},
    "student.training.epochs": 2,
}
"""What makes a run of the recipe digits one of an instant."""


def sound_file(name: str, folder: Path) -> Made:
    """A file of kind ``name``, by a short run in ``folder``."""
    if name == "summary":
        return _summary(folder / "run")
    if name == "trackers":
        return _trackers(folder / "run")
    return _comparison(folder / "comparison")


def _summary(run: Path) -> Made:
    from frugalkd.experiments.recipes.load import load_recipe, override
    from frugalkd.experiments.runs.execute import teach

    teach(override(load_recipe("digits"), SMALL), run)
    return run / "summary.json", lambda: report(run)


def _trackers(run: Path) -> Made:
    from frugalkd.experiments.runs.folder import RunFolder
    from frugalkd.experiments.tracking.trackers import TRACKERS, Tracked

    run.mkdir()
    folder = RunFolder(run)
    folder.note(trackers={name: f"id-{name}" for name in TRACKERS})

    def read() -> None:
        found = folder.notes().trackers
        for name, tracker in TRACKERS.items():
            tracker().arguments(Tracked("digits", "run", "teach", run), found.get(name))
        folder.note(trackers=found)
        assert folder.notes().trackers == found, "another run of a tracker's"

    return run / "notes.json", read


def _comparison(out: Path) -> Made:
    from frugalkd.errors import FrugalKDWarning
    from frugalkd.experiments.comparison import compare
    from frugalkd.experiments.comparison.statistics import Claim
    from frugalkd.experiments.recipes.load import load_recipe, override

    warnings.simplefilter("ignore", FrugalKDWarning)  # two epochs match no budget
    compare(
        override(load_recipe("digits"), SMALL),
        arms=["vanilla", "significance", "random"],
        seeds=2,
        out=out,
        jobs=1,
        claims=[Claim("significance", "random", "no worse")],
    )
    path = out / "comparison.json"

    def read() -> None:
        report(out)
        report(path)

    return path, read


def report(path: Path) -> None:
    """What ``frugalkd report`` makes of ``path``, but for writing it."""
    from frugalkd.experiments.report import collect, make_page

    assert make_page(collect(path)).encode("utf-8").rstrip().endswith(b"</html>"), "half a page"
