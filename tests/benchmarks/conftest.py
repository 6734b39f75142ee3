"""A small case on digits, and its runs within this process."""

from __future__ import annotations

import pytest

from benchmarks.timing import Arm, Ask, Case, Ratio, Teacher
from benchmarks.timing.worker import carry_out
from frugalkd.recipes.load import load_recipe, override
from frugalkd.runs import execute

LITTLE = {
    "data.train_size": 200,
    "teacher.model": {"name": "mlp", "options": {"hidden": [16]}},
    "teacher.training.epochs": 2,
    "student.model": {"name": "mlp", "options": {"hidden": [8]}},
    "student.training.epochs": 4,
    "student.training.batch_size": 32,
}
VANILLA = {"student.mode": "vanilla"}
LIVE = {**VANILLA, "student.targets.kind": "live"}


class HereAndNow:
    """Stands in for fresh processes. ``started`` lists (kind, name of the run's files); a run whose
    name is in ``broken`` answers as one whose process was killed."""

    def __init__(self):
        self.started, self.broken = [], set()

    def __call__(self, job, place, threads):
        self.started.append((job["kind"], place.name))
        if place.name in self.broken:
            return {"error": "its process was ended by SIGKILL: out of memory?"}
        return carry_out(job)

    def names(self, kind="run"):
        return [name for what, name in self.started if what == kind]


@pytest.fixture
def processes(monkeypatch):
    here = HereAndNow()
    monkeypatch.setattr("benchmarks.timing.run.in_process", here)
    monkeypatch.setattr("benchmarks.timing.figures.in_process", here)
    return here


@pytest.fixture
def tiny():
    return Case(
        name="tiny",
        summary="digits",
        takes="a second",
        recipe="digits",
        set=LITTLE,
        teacher=Teacher("t", "digits", LITTLE),
        arms=[
            Arm("live", "distill", LIVE, constant=True, part=1),
            Arm("stored", "distill", VANILLA, {"filling": "apart"}, constant=True),
            Arm("regulated", "distill", {}, {"filling": "counted"}),
        ],
        ratios=[
            Ratio("live", "regulated", must=1.0, aim=1e9),
            Ratio("regulated", "stored", must=1e9, aim=0.0, at_most=True, per_budget=True),
        ],
        rounds=2,
    )


@pytest.fixture
def beside():
    """Two arms in one process."""
    return Case(
        name="beside",
        summary="digits",
        takes="a second",
        recipe="digits",
        set={**LITTLE, **VANILLA},
        arms=[Arm("plain", "plain"), Arm("engine", "engine")],
        ratios=[Ratio("engine", "plain", must=1.05, aim=1.0, at_most=True)],
        rounds=3,
        together=True,
    )


@pytest.fixture
def recipe():
    return override(load_recipe("digits"), {**LITTLE, **LIVE})


@pytest.fixture(scope="session")
def teacher(tmp_path_factory):
    """A teacher's folder, with stored targets beside and something that runs leave behind."""
    folder = tmp_path_factory.mktemp("bench") / "teacher"
    execute.teach(override(load_recipe("digits"), LITTLE), folder)
    (folder / "targets-0").mkdir()
    (folder / "checkpoints").mkdir()
    return folder


@pytest.fixture
def ask(tmp_path):
    return Ask(tmp_path)
