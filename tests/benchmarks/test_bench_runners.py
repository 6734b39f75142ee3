from __future__ import annotations

import json

import pytest

from benchmarks.timing.runners import RUNNERS, Task, as_plain, from_plain
from frugalkd.errors import RunFolderError
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.runs.folder import read_results


@pytest.fixture
def task(recipe, teacher, tmp_path):
    return Task("distill", recipe, tmp_path, {"filling": "counted"}, teacher, part=1)


def test_a_task_survives_json(task):
    assert from_plain(json.loads(json.dumps(as_plain(task)))) == task
    alone = Task("teach", task.recipe, task.folder)
    assert from_plain(json.loads(json.dumps(as_plain(alone)))) == alone


def test_a_part_has_no_accuracy(task):
    record = RUNNERS["distill"](task)()
    assert record["accuracy"] is None
    assert record["budget"] == 1.0
    assert record["meters"]["samples_backpropagated"] == 200
    assert record["seconds"] == record["meters"]["wall_seconds"]


def test_a_counted_filling_is_timed(task, teacher):
    stored = override(task.recipe, {"student.targets.kind": "stored"})
    record = RUNNERS["distill"](Task("distill", stored, task.folder, task.options, teacher))()
    phases = record["meters"]["phases"]
    assert 0 < phases["store"] + phases["teacher"] < record["seconds"]
    assert record["meters"]["teacher_queries"] == 200
    assert record["accuracy"] > 0
    copied = {path.name for path in (task.folder / "teacher").iterdir()}
    assert "results.json" in copied
    assert "targets-0" not in copied
    assert "checkpoints" not in copied


def test_a_teacher_runs_in_the_given_precision(task, teacher):
    options = {"teacher_precision": "bf16"}
    RUNNERS["distill"](Task("distill", task.recipe, task.folder, options, teacher, part=1))()
    training = read_results(task.folder / "teacher")["recipe"]["teacher"]["training"]
    assert (training["precision"], training["channels_last"]) == ("bf16", False)
    assert read_results(teacher)["recipe"]["teacher"]["training"]["precision"] == "fp32"


def test_a_student_as_teacher_is_refused(task):
    RUNNERS["distill"](task)()
    options = {"teacher_precision": "bf16"}
    other = Task("distill", task.recipe, task.folder / "x", options, task.folder / "run")
    with pytest.raises(RunFolderError, match="holds no teacher: give a folder made by teach"):
        RUNNERS["distill"](other)


def test_a_teacher_is_trained(task):
    record = RUNNERS["teach"](Task("teach", task.recipe, task.folder))()
    assert record["accuracy"] > 0
    assert 0 < record["budget"] <= 1
