"""Arms with teachers beside the recipe's own: who is trained for them, what they cost."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from frugalkd.cli.show import comparison_table
from frugalkd.errors import RunFolderError
from frugalkd.experiments.comparison import compare
from frugalkd.experiments.comparison.pool import execute, read_cost
from frugalkd.experiments.comparison.run import ComparisonRun
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.report import collect, make_page
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.schema import Results
from frugalkd.experiments.runs.targets import ensure_targets
from frugalkd.files.parsing import read_json
from frugalkd.teachers import LiveTeacher, StoredTargets


@pytest.mark.heavy
def test_several_teachers_and_ema_are_arms(workers, tiny, tmp_path):
    teach(override(tiny, {"seed": 7}), tmp_path / "other")
    folder = str(tmp_path / "other")
    small = {"name": "mlp", "options": {"hidden": [32]}}
    weights = str(tmp_path / "other" / "teacher.safetensors")
    both = {"of": {"own": {}, "other": {"folder": folder}}}
    others = {"of": {"one": {"folder": folder}, "two": {"weights": weights, "model": small}}}
    arms = {
        "own": {"set": {"student.mode": "vanilla", "student.targets.kind": "ema"}},
        "both": {"set": {"student.mode": "vanilla", "student.teachers": both}},
        "others": {"set": {"student.mode": "vanilla", "student.teachers": others}},
    }
    recipe = override(tiny, {"arms": arms, "student.training.epochs": 2})
    alone = compare(recipe, arms=["own", "others"], seeds=1, out=tmp_path / "a")
    assert [key.kind for key in workers.started] == ["distill", "targets", "distill"]
    rows = {row["arm"]: row for row in alone["arms"]}
    assert {name: row["about"] for name, row in rows.items()} == dict.fromkeys(
        ("own", "others"), "no teacher of the recipe's"
    )
    workers.started.clear()
    comparison = compare(recipe, arms=["both"], seeds=1, out=tmp_path / "b")
    assert [key.kind for key in workers.started] == ["teach", "targets", "distill"]
    assert comparison["arms"][0]["accuracy"]["mean"] > 0.1


@pytest.fixture(scope="module")
def tiny(tiny):
    return override(tiny, {"student.training.epochs": 1})


@pytest.fixture(scope="module")
def weights(tiny, tmp_path_factory):
    """A pretrained teacher's file."""
    folder = tmp_path_factory.mktemp("pretrained")
    teach(tiny, folder)
    return folder / "teacher.safetensors"


def fillings(out):
    """Rows by store in the whole comparison, and what filling them has cost."""
    stores = {path.parent: StoredTargets(path.parent).store for path in out.rglob("header.json")}
    costs = [read_json(path) for path in (out / "stores").glob("*.json")]
    return {where: store.count() for where, store in stores.items()}, costs


@pytest.mark.heavy
def test_a_pretrained_teacher_fills_one_store(workers, tiny, weights, tmp_path):
    # Views are drawn from a seed of their own: one filling serves all seeds.
    own = {"teacher.weights": str(weights), "student.augment.crop": 1, "student.targets.views": 2}
    recipe = override(tiny, own)
    comparison = compare(recipe, arms=["vanilla", "ce"], seeds=2, out=tmp_path, jobs=2)
    assert not comparison["failed"]
    rows, costs = fillings(tmp_path)
    assert {where.parent for where in rows} == {tmp_path / "stores"}
    assert sorted(rows.values()) == [360, 600]  # the held-out data, and 300 samples in two views
    assert [(cost["rows"], cost["done"]) for cost in costs] == [(600, True)]
    assert [key.kind for key in workers.started].count("targets") == 1
    assert all(row["meters"]["teacher_queries"] == 0 for row in comparison["arms"])
    assert [row["targets"] for row in comparison["arms"]] == ["teacher.weights", None]
    (teacher,) = comparison["teachers"]
    assert teacher["settings"] == {"teacher.weights": str(weights)}
    assert teacher["targets"] == {"rows": 600, "seconds": costs[0]["seconds"]}
    # What the page says of it.
    page = make_page(collect(tmp_path))
    assert "storing the soft targets of teacher.weights" in page
    assert "no store was filled" not in page
    assert "training the teacher teacher.weights" not in page
    first = comparison_table(comparison).columns[0]
    assert "teacher.weights" not in " ".join(map(str, first.cells))
    # Another arm, another seed: nothing is filled again.
    after = compare(recipe, arms=["vanilla", "short:regulated"], seeds=[2], out=tmp_path)
    assert after["teachers"][0]["targets"] == teacher["targets"]
    assert len(fillings(tmp_path)[0]) == 2


def test_two_pretrained_teachers_have_a_store_each(workers, tiny, weights, tmp_path):
    other = tmp_path / "other"
    teach(override(tiny, {"seed": 5}), other)
    named = {
        "one": {"teacher.weights": str(weights)},
        "two": {"teacher.weights": str(other / "teacher.safetensors")},
    }
    arms = {name: {"set": {"student.mode": "vanilla"}, "teacher": name} for name in named}
    recipe = override(tiny, {"teachers": named, "arms": arms})
    comparison = compare(recipe, arms=["one", "two"], seeds=2, out=tmp_path / "c")
    assert sorted(fillings(tmp_path / "c")[0].values()) == [300, 300, 360, 360]
    assert [row["targets"] for row in comparison["arms"]] == ["one", "two"]
    assert [teacher["targets"]["rows"] for teacher in comparison["teachers"]] == [300, 300]


@pytest.mark.heavy
def test_several_teachers_are_filled_once_and_apart(workers, tiny, weights, tmp_path):
    small = {"name": "mlp", "options": {"hidden": [32]}}
    of = {"own": {}, "file": {"weights": str(weights), "model": small}}
    arms = {"both": {"set": {"student.mode": "vanilla", "student.teachers": {"of": of}}}}
    recipe = override(tiny, {"arms": arms})
    comparison = compare(recipe, arms=["vanilla", "both"], seeds=2, out=tmp_path)
    assert not comparison["failed"]
    assert sorted(fillings(tmp_path)[0].values()) == [300, 300, 360, 360]
    assert all(row["meters"]["teacher_queries"] == 0 for row in comparison["arms"])
    rows = {row["teacher"]: row["targets"]["rows"] for row in comparison["teachers"]}
    assert rows == {"self-regulated": 300, "own + file": 300}


def test_scores_are_made_once_without_a_teacher_folder(workers, tiny, weights, tmp_path):
    recipe = override(tiny, {"teacher.weights": str(weights)})
    comparison = compare(recipe, arms=["el2n"], budgets=[0.3, 0.5], seeds=2, out=tmp_path)
    assert not comparison["failed"]
    (kept,) = tmp_path.rglob("scores.safetensors")
    assert kept.parent.parent == tmp_path / "stores"
    made = [
        read_json(path)["scoring"]["made_here"] for path in tmp_path.glob("runs/*/results.json")
    ]
    assert sorted(made) == [False, False, False, True]


def test_an_array_of_jobs_fills_the_store_once(tiny, weights, tmp_path):
    recipe = override(tiny, {"teacher.weights": str(weights)})
    array = ComparisonRun(recipe, ["vanilla", "regulated"], 2, tmp_path)
    store, first, *others = array.list_jobs()
    assert (store["kind"], store["name"], store["needs"]) == ("targets", "teacher.weights", [])
    with pytest.raises(RunFolderError, match=r"needs soft targets of teacher\.weights"):
        array.run_one(first["digest"])
    assert array.run_one(store["digest"])["rows"] == 300
    assert all(array.run_one(job["digest"])["meters"]["teacher_queries"] == 0
               for job in (first, *others))  # fmt: skip
    assert sorted(fillings(tmp_path)[0].values()) == [300, 360]
    assert all(job["done"] for job in array.list_jobs())


def test_a_stopped_filling_resumes_and_is_counted(workers, tiny, weights, tmp_path, monkeypatch):
    recipe = override(tiny, {"teacher.weights": str(weights), "student.targets.views": 3})
    fetch, batches = LiveTeacher.fetch, []

    def stopped(self, ids, *rest):
        batches.append(len(ids))
        if len(batches) == 3:
            raise KeyboardInterrupt
        return fetch(self, ids, *rest)

    monkeypatch.setattr(LiveTeacher, "fetch", stopped)
    monkeypatch.setattr("frugalkd.teachers.store.SYNC_ROWS", 100)
    with pytest.raises(KeyboardInterrupt):
        compare(recipe, arms=["vanilla"], seeds=1, out=tmp_path)
    (cost,) = fillings(tmp_path)[1]
    assert (cost["rows"], cost["done"]) == (300, False)
    assert not ComparisonRun(recipe, ["vanilla"], 1, tmp_path).list_jobs()[0]["done"]
    comparison = compare(recipe, arms=["vanilla"], seeds=1, out=tmp_path)
    assert comparison["teachers"][0]["targets"]["rows"] == 900
    assert comparison["arms"][0]["meters"]["teacher_queries"] == 0


def test_two_at_once_fill_one_store(tiny, weights, tmp_path):
    recipe = override(tiny, {"teacher.weights": str(weights), "student.targets.views": 4})
    with ThreadPoolExecutor(2) as both:
        spent = [both.submit(ensure_targets, recipe, None, tmp_path) for _ in range(2)]
    queried = sum(each.result()["rows"] for each in spent)
    # The second queries at most one batch before it finds the store.
    assert 1200 <= queried <= 1200 + 256
    assert sorted(fillings(tmp_path)[0].values()) == [360, 1200]
    logits = [StoredTargets(where).all_logits(view) for where, rows in fillings(tmp_path)[0].items()
              for view in range(rows // 300)]  # fmt: skip
    assert all(np.isfinite(each).all() for each in logits)


@pytest.mark.parametrize("content", ["{", '{"schema": 1}', '{"schema": 1, "rows": "x"}'])
def test_a_damaged_note_of_a_cost_is_one_line(tmp_path, content):
    path = tmp_path / "cost.json"
    path.write_text(content)
    with pytest.raises(RunFolderError, match=r"is damaged.*delete it; what filling the store"):
        read_cost(path)


def test_a_run_that_fills_is_counted_apart(workers, tiny, weights, tmp_path):
    recipe = override(tiny, {"teacher.weights": str(weights)})

    def lose_the_store(task):
        reply = execute(task)
        if task["kind"] == "targets":  # the disk was cleaned while the comparison ran
            for store in (tmp_path / "stores").glob("targets-*"):
                shutil.rmtree(store)
        return reply

    workers.execute = lose_the_store
    comparison = compare(recipe, arms=["vanilla", "regulated"], seeds=1, out=tmp_path)
    results = {path.parent.name[:7]: read_json(path)
               for path in (tmp_path / "runs").glob("*/results.json")}  # fmt: skip
    spent, other = results["vanilla"], results["regulat"]
    assert spent["meters"]["teacher_queries"] == spent["targets"]["filling"]["rows"] == 300
    assert other["meters"]["teacher_queries"] == 0
    Results.model_validate(spent)
    filled = spent["targets"]["filling"]["seconds"]
    training = spent["meters"]["wall_seconds"] - filled
    vanilla, regulated = comparison["arms"]
    ratio = other["meters"]["wall_seconds"] / training
    assert regulated["wall_ratio"]["mean"] == pytest.approx(ratio)
    assert vanilla["meters"]["wall_seconds"] == pytest.approx(training)
    assert vanilla["meters"]["teacher_queries"] == 0
    phases = vanilla["meters"]["phases"]
    assert sum(phases.values()) == pytest.approx(training)
    assert min(phases.values()) >= 0
    assert comparison["teachers"][0]["targets"]["rows"] == 600


def test_one_run_alone_keeps_its_store_in_its_folder(tiny, weights, tmp_path):
    recipe = override(tiny, {"teacher.weights": str(weights)})
    results = distill(recipe, tmp_path / "run")
    assert list(fillings(tmp_path / "run")[0].values()) == [300]
    assert results["targets"]["filling"]["rows"] == 300
