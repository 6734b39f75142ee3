"""The shipped recipes on the complete data, cut short in epochs: what a user does, end to end."""

from __future__ import annotations

import os

import pytest

from frugalkd.data import load_data
from frugalkd.errors import DataError
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.saved import load

pytestmark = pytest.mark.heavy


@pytest.fixture(scope="module")
def fashion_teacher(tmp_path_factory):
    try:
        load_data("fashion-mnist", download=False)
    except DataError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("fashion") / "teacher"
    recipe = load_recipe("fashion-mnist", ["teacher.training.epochs=2"])
    return out, teach(recipe, out)


def test_fashion_mnist_teacher_learns_and_measures_significance(fashion_teacher):
    out, results = fashion_teacher
    assert results["split"] == "test"
    assert results["train_samples"] == 60_000
    assert results["evaluation"]["samples"] == 10_000
    assert results["evaluation"]["accuracy"] > 0.88
    assert results["budget"] < 0.9
    ledger = Ledger.load(out)
    assert len(ledger) == 60_000
    assert 0.1 < (ledger.significance > 0).mean() < 0.9


@pytest.mark.parametrize("mode", ["vanilla", "significance", "regulated", "hybrid"])
def test_fashion_mnist_students(fashion_teacher, tmp_path, mode):
    teacher, _ = fashion_teacher
    overrides = [f"student.mode={mode}", "student.training.epochs=3"]
    results = distill(load_recipe("fashion-mnist", overrides), tmp_path / mode, teacher=teacher)
    assert results["evaluation"]["accuracy"] > 0.8
    assert results["evaluation"]["teacher_agreement"] > 0.8
    assert (results["budget"] == 1) == (mode == "vanilla")
    assert load(tmp_path / mode).classes[9] == "Ankle boot"


def test_cifar10_teacher_and_student(tmp_path, require_data):
    require_data("cifar10/train.parquet")
    overrides = [
        "data.train_size=5000",
        "teacher.training.epochs=4",
        "teacher.training.precision=bf16",
        "teacher.training.schedule.warmup=0.1",
        "student.training.epochs=4",
        "student.training.precision=bf16",
        "student.training.schedule.warmup=0.1",
        "student.mode=regulated",
    ]
    recipe = load_recipe("cifar10", overrides)
    taught = teach(recipe, tmp_path / "teacher")
    assert taught["evaluation"]["samples"] == 10_000
    assert taught["evaluation"]["accuracy"] > 0.2  # chance is 0.1
    student = distill(recipe, tmp_path / "student", teacher=tmp_path / "teacher")
    assert student["evaluation"]["accuracy"] > 0.2
    assert student["meters"]["teacher_queries"] == student["meters"]["samples_backpropagated"]
