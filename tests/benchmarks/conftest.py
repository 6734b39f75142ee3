"""A small case on digits, and a replacement of processes that runs in this one."""

from __future__ import annotations

import pytest

from benchmarks.timing import Arm, Case, Options, Ratio, Teacher
from benchmarks.timing.worker import run_job
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs import execute

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


class InProcess:
    """Replaces fresh processes. ``started`` lists (kind, name of the run's files). A run whose
    name is in ``broken`` fails as if its process was killed."""

    def __init__(self):
        self.started, self.broken = [], set()

    def __call__(self, job, place, threads):
        self.started.append((job["kind"], place.name))
        if place.name in self.broken:
            return {"error": "its process was ended by SIGKILL: out of memory?"}
        return run_job(job)

    def names(self, kind="run"):
        return [name for what, name in self.started if what == kind]


@pytest.fixture
def processes(monkeypatch):
    here = InProcess()
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
    """A teacher's folder, with folders for stored targets and checkpoints."""
    folder = tmp_path_factory.mktemp("bench") / "teacher"
    execute.teach(override(load_recipe("digits"), LITTLE), folder)
    (folder / "targets-0").mkdir()
    (folder / "checkpoints").mkdir()
    return folder


@pytest.fixture
def options(tmp_path):
    return Options(tmp_path)
