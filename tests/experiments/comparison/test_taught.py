"""Comparisons with a teacher that ``frugalkd teach`` made before."""

from __future__ import annotations

import json
import shutil

import pytest

from frugalkd.errors import ImportRefused, RecipeError, RunFolderError, TargetsError, UnknownName
from frugalkd.experiments.comparison import compare
from frugalkd.experiments.comparison.run import ComparisonRun
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.report import collect, make_page
from frugalkd.experiments.report.sections import compare_command
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.schema import Comparison
from frugalkd.files.parsing import read_json
from frugalkd.files.writing import write_json


@pytest.fixture(scope="module")
def tiny(tiny):
    return override(tiny, {"student.training.epochs": 2})


@pytest.fixture(scope="module")
def taught(tiny, tmp_path_factory):
    """The folder of the recipe's teacher, trained with another seed than the recipe's."""
    folder = tmp_path_factory.mktemp("taught") / "teacher"
    teach(override(tiny, {"seed": 5}), folder)
    return folder


@pytest.mark.heavy
def test_a_given_teacher_is_used_and_named(workers, tiny, taught, tmp_path):
    found = compare(tiny, arms=["vanilla", "hybrid"], seeds=1, out=tmp_path / "c", teacher=taught)
    assert [key.kind for key in workers.started if key.kind != "targets"] == ["distill"] * 2
    assert not (tmp_path / "c" / "teachers").exists()
    own = read_json(taught / "results.json")
    (row,) = found["teachers"]
    assert {name: row[name] for name in ("teacher", "folder", "seed", "digest", "accuracy")} == {
        "teacher": "self-regulated",
        "folder": str(taught),
        "seed": 5,
        "digest": own["digest"],
        "accuracy": own["evaluation"]["accuracy"],
    }
    assert row["summary"]["kind"] == "teach"
    alone = distill(override(tiny, {"student.mode": "hybrid"}), tmp_path / "alone", teacher=taught)
    assert found["arms"][1]["digests"] == {"0": alone["digest"]}
    assert found["arms"][1]["accuracy"]["values"] == [alone["evaluation"]["accuracy"]]
    comparison = collect(tmp_path / "c")
    assert isinstance(comparison, Comparison)
    assert f"--teacher self-regulated={taught}" in compare_command(comparison)
    assert "self-regulated, and its ledger, before this comparison" in make_page(comparison)
    # Resumed, nothing is run again; with a trained teacher the arms are other runs.
    workers.started.clear()
    compare(tiny, arms=["vanilla", "hybrid"], seeds=1, out=tmp_path / "c", teacher=taught)
    assert workers.started == []
    other = compare(tiny, arms=["vanilla", "hybrid"], seeds=1, out=tmp_path / "c")
    assert {key.kind for key in workers.started} == {"teach", "targets", "distill"}
    assert other["teachers"][0]["folder"] is None
    assert other["arms"][1]["digests"] != found["arms"][1]["digests"]


def test_other_weights_are_other_runs(tiny, taught, tmp_path):
    teach(override(tiny, {"seed": 6}), tmp_path / "other")
    jobs = [
        ComparisonRun(tiny, ["vanilla"], 1, tmp_path / "c", teacher=folder).list_jobs()
        for folder in (taught, tmp_path / "other")
    ]
    assert [job["kind"] for job in jobs[0]] == ["teach", "targets", "distill"]
    assert [job["done"] for job in jobs[0]] == [True, False, False]
    assert not {job["digest"] for job in jobs[0]} & {job["digest"] for job in jobs[1]}


def test_one_job_runs_with_a_given_teacher(tiny, taught, tmp_path):
    array = ComparisonRun(tiny, ["vanilla"], 1, tmp_path, teacher={"self-regulated": taught})
    teacher, store, student = array.list_jobs()
    assert array.run_one(teacher["digest"])["seed"] == 5
    array.run_one(store["digest"])
    assert array.run_one(student["digest"])["teacher"]["digest"] == teacher_digest(taught)


def teacher_digest(folder):
    return read_json(folder / "results.json")["digest"]


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (
            {"teacher.training.epochs": 11, "teacher.model.options": {"hidden": [8]}},
            r"not the recipe's self-regulated: teacher\.model\.options\.hidden is \[32\] there and "
            r"\[8\] here; teacher\.training\.epochs is 10\.0 there and 11\.0 here: set these in",
        ),
        ({"teacher.policy": {"name": "all"}}, r"teacher\.policy\.name is 'self-regulation' there"),
        ({"teachers": {"loose": {"teacher.policy.confidence": 0.5}}}, "not the recipe's loose"),
        ({"teachers": {}}, "name one under teachers"),
        (
            {"teachers": {}, "student.objective": {"name": "cross-entropy"}},
            "no teacher to replace",
        ),
        ({"teacher.weights": "w.safetensors"}, r"pretrained: set teacher\.weights to null"),
    ],
)
def test_a_teacher_of_other_settings_is_refused(tiny, taught, tmp_path, settings, says):
    with pytest.raises(RecipeError, match=says) as raised:
        compare(override(tiny, settings), arms=["vanilla"], seeds=1, out=tmp_path, teacher=taught)
    assert "\n" not in str(raised.value)


def test_settings_that_change_no_teacher_are_accepted(tiny, taught, tmp_path):
    recipe = override(tiny, {"seed": 9, "student.training.epochs": 1, "checkpoints.minutes": 1})
    ComparisonRun(recipe, ["vanilla"], 1, tmp_path, teacher=taught)


@pytest.mark.parametrize("settings", [{"data.train_size": 200}, {"data.validation": 100}])
def test_a_teacher_of_other_data_is_refused(workers, tiny, taught, tmp_path, settings):
    recipe = override(tiny, settings)
    out = tmp_path / "c"
    with pytest.raises(RunFolderError, match=r"was trained with other .*data than this"):
        compare(recipe, arms=["vanilla"], seeds=1, out=out, teacher=taught)
    array = ComparisonRun(recipe, ["vanilla"], 1, out, teacher=taught)
    with pytest.raises(RunFolderError, match="was trained with other"):
        array.run_one(array.list_jobs()[-1]["digest"])
    assert workers.started == []
    assert not out.exists()


def test_a_teacher_of_other_classes_is_refused(workers, tiny, taught, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(taught, other, ignore=shutil.ignore_patterns("targets-*"))
    card = read_json(other / "model.json")
    write_json(other / "model.json", {**card, "classes": card["classes"][::-1]})
    with pytest.raises(TargetsError, match="class"):
        compare(tiny, arms=["vanilla"], seeds=1, out=tmp_path / "c", teacher=other)
    write_json(other / "model.json", {**card, "model": {"path": "elsewhere:Net"}})
    with pytest.raises(ImportRefused):
        compare(tiny, arms=["vanilla"], seeds=1, out=tmp_path / "c", teacher=other)
    assert workers.started == []


def test_what_is_no_teacher_is_refused(tiny, taught, tmp_path):
    with pytest.raises(RunFolderError, match="holds no finished run"):
        ComparisonRun(tiny, ["vanilla"], 1, tmp_path / "c", teacher=tmp_path)
    with pytest.raises(UnknownName, match="did you mean self-regulated"):
        ComparisonRun(tiny, ["vanilla"], 1, tmp_path / "c", teacher={"self-regulate": taught})
    results = read_json(taught / "results.json")
    for change, says in (({"kind": "distill"}, "holds a student"), ({"recipe": {}}, "is damaged")):
        write_json(tmp_path / "results.json", {**results, **change})
        with pytest.raises(RunFolderError, match=says):
            ComparisonRun(tiny, ["vanilla"], 1, tmp_path / "c", teacher=tmp_path)


def test_nothing_is_trained_in_a_folder_that_is_gone(workers, tiny, taught, tmp_path):
    gone = tmp_path / "gone"
    shutil.copytree(taught, gone)
    made = ComparisonRun(tiny, ["vanilla"], 1, tmp_path / "c", teacher=gone)
    shutil.rmtree(gone)
    made._check_given = lambda: None  # which had passed
    found = made.execute(1)
    assert [failure["kind"] for failure in found["failed"]] == ["teach", "distill"]
    assert workers.started == []
    assert not gone.exists()


def test_the_command_takes_folders_by_name(cli, tiny, taught, tmp_path):
    settings = {
        "data.train_size": 300,
        "teacher.model": {"name": "mlp", "options": {"hidden": [32]}},
        "teacher.training.epochs": 10,
        "teacher.training.optimizer.lr": 0.01,
    }
    command = ["compare", "digits", "--arms", "vanilla", "--seeds", "1", "--list", "--json"]
    command += ["--out", str(tmp_path / "c")]
    for key, value in settings.items():
        command += ["--set", f"{key}={json.dumps(value)}"]
    for given in (str(taught), f"self-regulated={taught}"):
        code, out, _ = cli(*command, "--teacher", given)
        assert code == 0
        assert json.loads(out)[0] | {"digest": ""} == {
            "digest": "", "kind": "teach", "name": "self-regulated", "seed": None, "done": True,
            "needs": [], "out": str(taught),
        }  # fmt: skip
    code, _, err = cli(*command, "--teacher", str(taught), "--teacher", "elsewhere")
    assert code == 2
    assert "two folders for the teacher self-regulated" in err
    code, _, err = cli(*command, "--teacher", f"conventional={taught}")
    assert code == 2
    assert "is not the recipe's conventional: teacher.policy" in err
