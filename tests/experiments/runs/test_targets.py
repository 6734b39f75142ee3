"""Soft targets from a recipe: what is filled, where, for which samples, at which precision."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest

from frugalkd.errors import FrugalKDError, ModelError, RecipeError, RunFolderError, TargetsError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import distill
from frugalkd.experiments.runs.folder import RunFolder
from frugalkd.experiments.runs.from_recipe import make_data, make_teacher
from frugalkd.experiments.runs.targets import encoding_of, ensure_targets, live_teacher, store
from frugalkd.ledger.ledger import Ledger
from frugalkd.teachers import FillOptions, LiveTeacher, StoredTargets
from frugalkd.teachers import store as store_module
from frugalkd.teachers.encodings import Dense, Sampled
from frugalkd.teachers.store import Store

SMALL = {
    "data.train_size": 200,
    "teacher.training.epochs": 20,
    "teacher.policy.warmup": 15,  # some samples then never fail
    "student.training.epochs": 2,
    "student.mode": "vanilla",
}


@pytest.fixture(scope="module")
def recipe():
    return override(load_recipe("digits"), SMALL)


def queries(results):
    return results["meters"]["teacher_queries"]


def test_ahead_fills_the_teachers_folder_once(recipe, teacher, tmp_path):
    first = distill(recipe, tmp_path / "a", teacher=teacher)
    again = distill(override(recipe, {"seed": 1}), tmp_path / "b", teacher=teacher)
    assert (queries(first), queries(again)) == (200, 0)
    ratio = first["cost"]["teacher_ratio"]
    assert ratio > 1
    assert first["cost"] == {"epochs": 2.0, "filling": ratio / 3, "teacher_ratio": ratio}
    assert again["cost"] == {"epochs": 2.0, "filling": 0.0, "teacher_ratio": None}
    assert first["targets"]["filled_here"]
    assert not again["targets"]["filled_here"]
    assert first["targets"]["encoding"] == {"name": "float16"}
    assert first["targets"]["rows"] == 200
    stores = [StoredTargets(path).store.header for path in teacher.glob("targets-*")]
    # The other one is of the held-out data.
    assert sorted(header.samples for header in stores) == [200, 360]


@pytest.mark.parametrize("kind", ["live", "stored"])
def test_a_teacher_that_cannot_be_written_is_usable(recipe, teacher, tmp_path, monkeypatch, kind):
    own = override(recipe, {"student.targets.kind": kind})
    there = sorted(teacher.iterdir())
    monkeypatch.setattr("os.access", lambda path, mode: path != teacher)
    results = distill(own, tmp_path / "a", teacher=teacher)
    assert sorted(teacher.iterdir()) == there
    assert results["evaluation"]["teacher_agreement"] > 0
    assert len(list((tmp_path / "a").glob("targets-*"))) == (kind == "stored")


def test_an_unfinished_read_only_store_is_passed_over(
    recipe, teacher, tmp_path, monkeypatch, read_only
):
    views = override(recipe, {"student.targets.views": 3})
    with monkeypatch.context() as stopping:
        stop_after(1, stopping)
        with pytest.raises(KeyboardInterrupt):
            distill(views, tmp_path / "a", teacher=teacher)
    read_only(teacher)
    results = distill(views, tmp_path / "b", teacher=teacher)
    assert queries(results) == 600
    assert len(list((tmp_path / "b").glob("targets-*"))) == 1
    # A store that is named is the one to use.
    (store,) = teacher.glob("targets-*")
    named = override(views, {"student.targets.folder": str(store)})
    with pytest.raises(TargetsError, match=r"lacks soft targets .*name it in targets.folder$"):
        distill(named, tmp_path / "c", teacher=teacher)


def test_a_whole_store_that_cannot_be_written_is_read(recipe, teacher, tmp_path, read_only):
    distill(recipe, tmp_path / "a", teacher=teacher)
    read_only(teacher)
    again = distill(override(recipe, {"seed": 1}), tmp_path / "b", teacher=teacher)
    assert queries(again) == 0
    assert not list((tmp_path / "b").glob("targets-*"))


def stop_after(calls, monkeypatch):
    """A process that is stopped after some questions to the teacher; returns the rows of each."""
    fetch, before = LiveTeacher.fetch, []

    def stopped(self, ids, *rest):
        if len(before) == calls:
            raise KeyboardInterrupt
        before.append(len(ids))
        return fetch(self, ids, *rest)

    monkeypatch.setattr(LiveTeacher, "fetch", stopped)
    return before


def test_queries_of_a_stopped_filling_are_counted_once(recipe, teacher, tmp_path, monkeypatch):
    views = override(recipe, {"student.targets.views": 3})
    with monkeypatch.context() as stopping:
        before = stop_after(1, stopping)
        with pytest.raises(KeyboardInterrupt):
            distill(views, tmp_path / "a", teacher=teacher)
    assert before == [200]
    another = override(views, {"student.targets.kind": "live"})
    beside = shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert queries(distill(views, tmp_path / "a", teacher=teacher, resume=True)) == 600
    # What another run noted in the same folder is not this one's.
    assert queries(distill(another, beside, teacher=teacher)) == 400


def test_queries_of_a_killed_filling_are_counted_if_kept(recipe, teacher, tmp_path, monkeypatch):
    views = override(recipe, {"student.targets.views": 4})
    fetch, calls, killed = LiveTeacher.fetch, [], tmp_path.with_name("killed")
    monkeypatch.setattr(store_module, "SYNC_ROWS", 300)

    def photographed(self, ids, *rest):
        calls.append(len(ids))
        if len(calls) == 4 and not killed.exists():  # what a SIGKILL would leave here
            shutil.copytree(tmp_path, killed)
        return fetch(self, ids, *rest)

    monkeypatch.setattr(LiveTeacher, "fetch", photographed)
    whole = distill(views, tmp_path / "a", teacher=teacher)
    noted = RunFolder(killed / "a").notes()
    assert noted.queries_of == {"teacher": 400}
    assert 0 < noted.teacher_seconds < noted.seconds
    calls.clear()
    results = distill(views, killed / "a", teacher=killed / teacher.name, resume=True)
    assert sum(calls) == 400 + 360  # what was not durable, and the held-out data
    assert queries(results) == queries(whole) == 800
    assert results["meters"]["flops"] == whole["meters"]["flops"]
    assert results["meters"]["wall_seconds"] > noted.seconds
    assert results["targets"]["filled_here"]


def test_rows_that_a_killed_process_stored_are_counted(recipe, teacher, tmp_path, monkeypatch):
    alone = {"teacher.weights": str(teacher / "teacher.safetensors"), "student.targets.views": 4}
    own = override(recipe, alone)
    monkeypatch.setattr(store_module, "SYNC_ROWS", 300)
    note = RunFolder.note

    def photographed(self, **spent):
        if not (tmp_path / "killed").exists():
            shutil.copytree(self.path, tmp_path / "killed")
        note(self, **spent)

    monkeypatch.setattr(RunFolder, "note", photographed)
    distill(own, tmp_path / "a")
    assert not (tmp_path / "killed" / "notes.json").exists()
    (store,) = (tmp_path / "killed").glob("targets-*")
    assert Store(store).count() == 400
    assert queries(distill(own, tmp_path / "killed", resume=True)) == 800


def test_first_visits_after_the_last_checkpoint_count(recipe, teacher, tmp_path):
    own = override(
        recipe,
        {
            "student.targets.fill": "first-visit",
            "student.training.batch_size": 20,
            "checkpoints.steps": 4,
        },
    )
    steps = []

    def killed():
        steps.append(1)
        if len(steps) == 7:
            raise RuntimeError("killed")
        return False

    with pytest.raises(RuntimeError, match="killed"):
        distill(own, tmp_path / "a", teacher=teacher, should_stop=killed)
    kept = [path.name for path in (tmp_path / "a" / "checkpoints").iterdir()]
    assert kept == ["epoch-00000-step-000000004.safetensors"]
    results = distill(own, tmp_path / "a", teacher=teacher, resume=True)
    assert queries(results) == 200
    assert results["targets"]["filled_here"]


@pytest.mark.parametrize("fill", ["ahead", "first-visit"])
def test_a_resumed_run_has_filled_its_store(recipe, teacher, tmp_path, fill):
    own = override(recipe, {"student.targets.fill": fill, "student.targets.views": 1})
    ended = []

    def killed(record):
        ended.append(record["epoch"])
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError, match="killed"):
        distill(own, tmp_path / "a", teacher=teacher, on_epoch_end=killed)
    assert ended == [0]
    results = distill(own, tmp_path / "a", teacher=teacher, resume=True)
    assert queries(results) == 200
    assert results["targets"]["filled_here"]


def test_the_teacher_runs_on_used_samples_only(recipe, teacher, tmp_path):
    part = int((Ledger.load(teacher).significance > 0).sum())
    assert 0 < part < 200
    weighted = override(recipe, {"student.mode": "significance"})
    assert ensure_targets(weighted, teacher)["rows"] == part
    results = distill(weighted, tmp_path / "a", teacher=teacher)
    assert (queries(results), results["targets"]["rows"]) == (0, part)
    # Vanilla continues the same store.
    assert queries(distill(recipe, tmp_path / "b", teacher=teacher)) == 200 - part


def test_first_visits_fill_the_runs_folder(recipe, teacher, tmp_path):
    several = override(recipe, {"student.targets": {"fill": "first-visit", "views": 3}})
    assert ensure_targets(several, teacher)["rows"] == 0
    results = distill(several, tmp_path / "a", teacher=teacher)
    assert queries(results) == results["targets"]["rows"] == 2 * 200
    assert results["targets"]["fill"] == "first-visit"
    assert StoredTargets(tmp_path / "a" / "targets").store.count() == 400


def test_a_named_store_is_used_and_never_made(recipe, teacher, tmp_path):
    folder = tmp_path / "store"
    named = override(recipe, {"student.targets.folder": str(folder)})
    assert run_digest("distill", named, teacher) == run_digest("distill", recipe, teacher)
    with pytest.raises(TargetsError, match="frugalkd store"):
        distill(named, tmp_path / "a", teacher=teacher)
    assert not folder.exists()
    done = store(recipe, folder, teacher=teacher)
    assert (done["queries"], done["rows"], done["of"]) == (200, 200, 200)
    assert store(recipe, folder, teacher=teacher)["queries"] == 0
    results = distill(named, tmp_path / "b", teacher=teacher)
    assert queries(results) == 0
    other = override(named, {"student.targets.views": 2})
    with pytest.raises(TargetsError, match=r"differ in views \(1 there, 2 here\)"):
        distill(other, tmp_path / "c", teacher=teacher)


HINTS = {"student.objective": {"name": "fitnets", "student": "layers.2", "teacher": "layers.4"}}


def test_features_are_stored_for_all_students(recipe, teacher, tmp_path):
    plain = distill(recipe, tmp_path / "kd", teacher=teacher)
    hints = override(recipe, {**HINTS, "student.targets.features": ["layers.4"]})
    first = distill(hints, tmp_path / "a", teacher=teacher)
    again = distill(override(hints, {"seed": 1}), tmp_path / "b", teacher=teacher)
    assert (queries(plain), queries(first), queries(again)) == (200, 200, 0)
    assert "features" not in plain["targets"]
    assert first["targets"]["features"] == ["layers.4"]
    assert first["targets"]["bytes"] > plain["targets"]["bytes"] + 200 * 256 * 2
    assert "layers" not in " ".join(StoredTargets(next(teacher.glob("targets-*"))).about)


def test_a_mistyped_feature_is_named_before_any_query(recipe, teacher, tmp_path):
    wrong = {"student.objective.student": "layer.2", "student.targets.features": ["layers.4"]}
    with pytest.raises(ModelError, match=r"student has no module 'layer\.2': did you mean layers"):
        distill(override(recipe, {**HINTS, **wrong}), tmp_path / "a", teacher=teacher)
    assert not list(teacher.glob("targets-*"))


def test_features_of_a_named_store_need_no_setting(recipe, teacher, tmp_path):
    with pytest.raises(RecipeError, match=r"student: these soft targets hold no features"):
        override(recipe, HINTS)
    done = store(
        override(recipe, {"student.targets.features": ["layers.[34]"]}), tmp_path / "t",
        teacher=teacher,
    )  # fmt: skip
    assert done["features"] == ["layers.3", "layers.4"]
    named = {**HINTS, "student.targets.folder": str(tmp_path / "t")}
    assert queries(distill(override(recipe, named), tmp_path / "a", teacher=teacher)) == 0


def test_features_are_of_stored_targets_that_are_filled_ahead(recipe):
    for other in ({"kind": "live"}, {"fill": "first-visit"}):
        with pytest.raises(RecipeError, match="features are stored ahead"):
            override(recipe, {"student.targets": {"features": ["layers.4"], **other}})


def test_what_decides_a_result_is_in_the_digest(recipe):
    digests = {
        run_digest("distill", override(recipe, {f"student.targets.{key}": value}), None)
        for key, value in (
            ("kind", "stored"), ("kind", "live"), ("views", 2), ("encoding", "float32"),
            ("encoding", "sampled"), ("fill", "first-visit"), ("features", ["layers.4"]),
        )
    }  # fmt: skip
    assert len(digests) == 7


@pytest.mark.parametrize("encoding", ["float32", "top-k", "sampled"])
def test_a_student_of_each_encoding(recipe, teacher, tmp_path, encoding):
    settings = {"student.targets": {"encoding": encoding, "k": 4}, "student.training.epochs": 20}
    results = distill(override(recipe, settings), tmp_path / "a", teacher=teacher)
    assert results["targets"]["encoding"]["name"] == encoding
    assert results["evaluation"]["accuracy"] > 0.3
    assert np.isfinite(results["history"][-1]["loss"])


def test_the_temperature_is_the_objectives(recipe):
    sampled = override(
        recipe,
        {"student.targets": {"encoding": "sampled", "k": 7}, "student.objective.temperature": 2.5},
    )
    assert encoding_of(sampled) == Sampled(7, 2.5)
    assert encoding_of(recipe) == Dense("float16")


def test_a_teacher_runs_in_its_trainings_precision(recipe, teacher):
    data = make_data(recipe, recipe.student.augment, 0).train
    model = make_teacher(recipe, teacher, data)
    live = live_teacher(recipe, model, teacher)
    assert (live.precision, live.channels_last) == ("fp32", False)
    path = teacher / "results.json"
    results = json.loads(path.read_text())
    results["recipe"]["teacher"]["training"] |= {"precision": "bf16", "channels_last": True}
    path.write_text(json.dumps(results))
    live = live_teacher(recipe, model, teacher)
    assert (live.precision, live.channels_last) == ("bf16", True)
    results["recipe"]["teacher"]["training"]["precision"] = "int1"
    path.write_text(json.dumps(results))
    with pytest.raises(RunFolderError, match="precision"):
        live_teacher(recipe, model, teacher)
    # A pretrained one has no folder: the recipe says it.
    says = override(recipe, {"teacher.training.precision": "bf16"})
    assert live_teacher(says, model, None).precision == "bf16"


def test_a_shard_that_there_is_not_is_refused(recipe, teacher, tmp_path):
    with pytest.raises(FrugalKDError, match="shard 2/2"):
        store(recipe, tmp_path / "s", teacher=teacher, options=FillOptions(shard=(2, 2)))


def test_later_settings_at_defaults_are_in_no_digest():
    recipe = load_recipe("digits")
    same = override(recipe, {"student.regulation.when_all_skipped": "wait"})
    other = override(recipe, {"student.regulation.when_all_skipped": "stop"})
    assert run_digest("distill", same, None) == run_digest("distill", recipe, None)
    assert run_digest("distill", other, None) != run_digest("distill", recipe, None)


@pytest.mark.parametrize("kind", ["teach", "distill"])
def test_how_many_ranks_hold_a_model_decides_nothing(kind):
    sharded = ["teacher.training.fsdp=true", "student.training.fsdp=true"]
    digests = {run_digest(kind, load_recipe("digits", more), None) for more in ([], sharded)}
    assert len(digests) == 1
