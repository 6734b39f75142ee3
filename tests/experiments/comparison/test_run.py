from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from frugalkd.cli.show import comparison_table
from frugalkd.errors import (
    RecipeError,
    RunFolderError,
    TrackerError,
    UnknownName,
)
from frugalkd.experiments.comparison import CONTROLS, compare, pool, resolve_arms
from frugalkd.experiments.comparison.plan import Job, JobResult, Key
from frugalkd.experiments.comparison.pool import execute
from frugalkd.experiments.comparison.run import ComparisonRun
from frugalkd.experiments.comparison.statistics import TOLERANCE, Claim
from frugalkd.experiments.comparison.summary import summarise
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.report import collect, headline_of, make_page
from frugalkd.experiments.runs import schema
from toys import kinds_recipe, write_kinds


def kinds(started):
    return [(key.kind, key.name, key.seed) for key in started]


def runs(started):
    """Names and seeds of the runs; without the filling of stores."""
    return [(key.name, key.seed) for key in started if key.kind != "targets"]


@pytest.mark.heavy
def test_every_control_matches_its_run_seed_by_seed(workers, tiny, tmp_path):
    controls = [f"{c}:hybrid" for c in CONTROLS]
    comparison = compare(tiny, arms=["vanilla", *controls], seeds=2, out=tmp_path, jobs=3)
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert list(rows) == ["vanilla", "hybrid", *controls]
    assert 0 < rows["hybrid"]["budget"]["mean"] < 1
    for name in controls:
        assert rows[name]["control_of"] == "hybrid"
        assert len(rows[name]["matched"]["ratios"]) == 2
        assert rows[name]["matched"]["ratios"] == pytest.approx([1, 1], abs=TOLERANCE)
        assert rows[name]["matched"]["within_tolerance"]
        by = "cost" if "-cost:" in name else "budget"
        assert rows[name][by]["values"] == pytest.approx(
            rows["hybrid"][by]["values"], rel=TOLERANCE
        )
    check_permuted(tmp_path)
    assert rows["vanilla"]["budget"]["values"] == [1.0, 1.0]
    epochs = tiny.student.training.epochs
    assert rows["vanilla"]["cost"] == {"mean": epochs, "values": [epochs, epochs]}
    trained, forwards = (rows["hybrid"][meter]["mean"] for meter in ("budget", "forwards"))
    cost = epochs * (2 * trained + forwards) / 3  # the soft targets are stored
    assert rows["hybrid"]["cost"]["mean"] == pytest.approx(cost)


def check_permuted(out):
    """Other samples with the same counts, weights and returns; with ``-cost`` some more."""
    found = []
    for arm in ("permuted--hybrid", "permuted-cost--hybrid"):
        settings = json.loads((folder(out, arm, 0) / "run.json").read_text())["recipe"]
        policy = settings["student"]["policy"]
        assert Path(policy["folder"]) == folder(out, "hybrid", 0) / "plans"
        assert policy["permuted"]
        found.append((history(out, arm), policy["extra"]))
    (same, none), (more, extra) = found
    assert same == history(out, "hybrid")
    assert not none
    assert np.array_equal(np.subtract(more, same), extra or np.zeros(len(same)))


def folder(out, arm, seed):
    (found,) = (out / "runs").glob(f"{arm}-seed-{seed}-*")
    return found


def history(out, arm, seed=0):
    results = json.loads((folder(out, arm, seed) / "results.json").read_text())
    return [record["rows"] for record in results["history"]]


@pytest.mark.heavy
def test_the_file_and_its_keys(workers, tiny, tmp_path):
    events = []
    comparison = compare(
        tiny, arms=["vanilla", "regulated"], seeds=[3, 5], out=tmp_path, on_event=events.append
    )
    assert json.loads((tmp_path / "comparison.json").read_text()) == comparison
    assert comparison["schema"] == 2
    described = schema.Comparison.model_validate(comparison)
    assert described.model_dump(mode="json", by_alias=True, exclude_unset=True) == comparison
    assert described.model_fields_set == set(schema.Comparison.model_fields)
    assert described.arms[0].model_fields_set == set(schema.ArmRecord.model_fields)
    assert comparison["reference"] == "vanilla"
    assert comparison["complete"]
    assert comparison["split"] == "test"
    vanilla, regulated = comparison["arms"]
    assert vanilla["seeds"] == [3, 5]
    assert len(vanilla["accuracy"]["values"]) == 2
    assert vanilla["accuracy"]["ci95"][0] <= vanilla["accuracy"]["mean"]
    assert vanilla["difference"] is None
    assert vanilla["wall_ratio"]["mean"] == 1.0
    pairs = zip(regulated["accuracy"]["values"], vanilla["accuracy"]["values"], strict=True)
    gaps = [ours - theirs for ours, theirs in pairs]
    assert regulated["difference"]["mean"] == pytest.approx(sum(gaps) / 2)
    assert regulated["meters"]["samples_backpropagated"] > 0
    assert [teacher["teacher"] for teacher in comparison["teachers"]] == ["self-regulated"]
    assert comparison["teachers"][0]["targets"]["rows"] >= 300
    assert comparison["teachers"][0]["summary"]["samples"] >= 300
    for arm in (vanilla, regulated):  # what trained in each epoch adds up to the budget
        shares = arm["history"]["trained"]
        assert sum(shares) / len(shares) == pytest.approx(arm["budget"]["mean"], abs=1e-3)
    assert (vanilla["mode"], regulated["mode"]) == ("vanilla", "regulated")
    low, high = regulated["wall_ratio"]["ci95"]
    assert low <= regulated["wall_ratio"]["mean"] <= high
    assert comparison["failed"] == []
    # Teachers first, then seed by seed; the reference and its rival start together.
    assert kinds(workers.started)[2:] == [
        ("distill", "vanilla", 3),
        ("distill", "regulated", 3),
        ("distill", "vanilla", 5),
        ("distill", "regulated", 5),
    ]
    last = events[-1]
    assert (last["event"], last["finished"], last["total"]) == ("done", 5, 5)


@pytest.mark.heavy
def test_arms_of_a_seed_share_weights_and_order(workers, tiny, tmp_path):
    # Another digest, and the same training.
    arms = {"again": {"set": {"student.mode": None, "student.policy": {"name": "all"}}}}
    recipe = override(tiny, {"arms": arms})
    compare(recipe, arms=["vanilla", "again"], seeds=2, out=tmp_path)
    weights = {
        (arm, seed): (folder(tmp_path, arm, seed) / "student.safetensors").read_bytes()
        for arm in ("vanilla", "again")
        for seed in (0, 1)
    }
    assert weights["vanilla", 0] == weights["again", 0]
    assert weights["vanilla", 1] == weights["again", 1]
    assert weights["vanilla", 0] != weights["vanilla", 1]


def test_one_seed_has_no_interval(workers, tiny, tmp_path):
    comparison = compare(tiny, arms=["ce"], seeds=1, out=tmp_path)
    assert comparison["reference"] == "ce"
    assert comparison["arms"][0]["accuracy"]["ci95"] is None
    assert comparison["arms"][0]["teacher"] is None
    assert kinds(workers.started) == [("distill", "ce", 0)]
    assert "one seed" in comparison["notes"][-1]


@pytest.mark.heavy
def test_a_killed_comparison_resumes(workers, tiny, tmp_path):
    arms = ["vanilla", "hybrid", "short:hybrid"]
    workers.stop_after = 4
    with pytest.raises(KeyboardInterrupt):
        compare(tiny, arms=arms, seeds=2, out=tmp_path)
    partly = json.loads((tmp_path / "comparison.json").read_text())
    assert not partly["complete"]
    workers.stop_after = None
    whole = compare(tiny, arms=arms, seeds=2, out=tmp_path)
    assert whole["complete"]
    assert len(set(runs(workers.started))) == len(runs(workers.started)) == 1 + 6
    del workers.started[:]
    again = compare(tiny, arms=arms, seeds=2, out=tmp_path)
    assert workers.started == []
    assert again["arms"] == whole["arms"]
    assert again["teachers"] == whole["teachers"]


@pytest.mark.heavy
def test_an_unfinished_comparison_compares_equal_seeds(workers, tiny, tmp_path):
    args = {"arms": ["vanilla", "regulated", "ce"], "seeds": 3, "out": tmp_path, "jobs": 1}
    workers.stop_after = 6  # a teacher, a store, all arms of one seed, and vanilla once more
    with pytest.raises(KeyboardInterrupt):
        compare(tiny, **args)
    assert runs(workers.started)[1:] == [
        ("vanilla", 0),
        ("regulated", 0),
        ("ce", 0),
        ("vanilla", 1),
    ]
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert not content["complete"]
    assert content["complete_seeds"] == [0]
    assert content["runs"] == {"done": 4, "of": 9}
    assert content["planned"] == ["vanilla", "regulated", "ce"]
    for row in content["arms"]:
        results = json.loads((folder(tmp_path, row["arm"], 0) / "results.json").read_text())
        assert row["seeds"] == [0]
        assert row["accuracy"]["values"] == [results["evaluation"]["accuracy"]]
        assert row["meters"]["wall_seconds"] == results["meters"]["wall_seconds"]
    assert str(comparison_table(content).title) == "digits: 1 of 3 seeds complete, test data"
    page = make_page(collect(tmp_path)).replace("\u00a0", " ")
    assert "1 of 3 seeds complete (descriptive: a claim needs 10)" in page
    assert "Not complete: 4 of 9 runs are done. Numbers are of the seeds that all arms" in page
    assert "--arms vanilla,regulated,ce --seeds 3" in page


def test_no_claim_holds_before_all_seeds_are_complete():
    """Twelve seeds of twenty would be enough for it: one that stops there has chosen when."""
    recipe = load_recipe("digits")
    arms = resolve_arms(recipe, ["vanilla", "ce"])
    results = {}
    for seed in range(12):
        for name, accuracy in (("vanilla", 0.9), ("ce", 0.5)):
            run = {
                "evaluation": {"accuracy": accuracy + seed / 1e4, "worst_class_accuracy": 0.5},
                "meters": {"samples_backpropagated": 9, "student_forwards": 9, "wall_seconds": 1.0,
                           "phases": {}},
                "train_samples": 9, "digest": "0", "history": [],
            }  # fmt: skip
            results[Key("distill", name, seed)] = JobResult(run, 10)
    for seeds, holds in ((range(12), True), (range(20), False)):
        claim = Claim("vanilla", "ce", "better")
        (found,) = summarise(recipe, arms, seeds, [], results, [], [claim])["claims"]
        assert found["holds"] is holds
        assert found["why"] == ("" if holds else "12 of 20 seeds are complete")


def test_what_a_comparison_mixes_is_noted():
    few = {"set": {"student.mode": "vanilla", "data.train_size": 50}}
    recipe = override(load_recipe("digits"), {"arms": {"few": few}})
    arms, results = resolve_arms(recipe, ["vanilla", "few"]), {}
    for name, device, version in (("vanilla", "cpu", "0.1"), ("few", "cuda", "0.2")):
        run = {
            "evaluation": {"accuracy": 0.9}, "train_samples": 9, "digest": "0", "history": [],
            "meters": {"samples_backpropagated": 9, "student_forwards": 9, "wall_seconds": 1.0,
                       "phases": {}},
            "device": device, "versions": {"frugalkd": version},
        }  # fmt: skip
        results[Key("distill", name, 0)] = JobResult(run, 10)
    notes = summarise(recipe, arms, [0], [], results, [], [])["notes"]
    assert "few is trained on other data than the recipe's: data.train_size 50" in notes
    assert (
        "its runs are of several versions of frugalkd, which are compared here: 0.1, 0.2" in notes
    )
    assert "its runs are of several devices, which are compared here: cpu, cuda" in notes
    same = {key: results[Key("distill", "vanilla", 0)] for key in results}
    notes = summarise(recipe, arms, [0], [], same, [], [])["notes"]
    assert not any("its runs are" in note for note in notes)


def test_there_is_a_page_while_the_teacher_trains(workers, tiny, tmp_path):
    workers.stop_after = 0
    with pytest.raises(KeyboardInterrupt):
        compare(tiny, arms=["vanilla", "ce"], seeds=2, out=tmp_path)
    found = collect(tmp_path)
    assert headline_of(found) == "0 of 2 seeds complete; digits: no run has given an accuracy yet"
    page = make_page(found)
    assert "0 of 4 runs are done. No run is done of vanilla, ce." in page
    assert "--arms vanilla,ce --seeds 2" in page


@pytest.mark.heavy
def test_another_arm_or_seed_runs_alone(workers, tiny, tmp_path):
    compare(tiny, arms=["vanilla"], seeds=1, out=tmp_path)
    del workers.started[:]
    compare(tiny, arms=["vanilla", "ce"], seeds=1, out=tmp_path)
    assert kinds(workers.started) == [("distill", "ce", 0)]
    del workers.started[:]
    compare(tiny, arms=["vanilla", "ce"], seeds=2, out=tmp_path)
    assert runs(workers.started) == [("ce", 1), ("vanilla", 1)]


def test_extra_teachers_are_trained_and_shown(workers, tiny, tmp_path):
    comparison = compare(tiny, arms=["ce"], seeds=1, out=tmp_path, teachers=["conventional"])
    (teacher,) = comparison["teachers"]
    assert teacher["teacher"] == "conventional"
    assert teacher["budget"] == 1.0
    assert 0 < teacher["accuracy"] <= 1
    assert teacher["targets"] is None


@pytest.mark.heavy
def test_a_failed_run_is_named_and_others_continue(workers, tiny, tmp_path):
    def broken(task):
        if task["kind"] == "distill" and task["recipe"]["student"]["mode"] == "regulated":
            return {"error": "the loss is not finite", "type": "NonFiniteLoss"}
        return execute(task)

    workers.execute = broken
    arms = ["vanilla", "regulated", "short:regulated"]
    comparison = compare(tiny, arms=arms, seeds=2, out=tmp_path)
    vanilla, regulated, short = comparison["arms"]
    assert comparison["complete"]
    assert None not in vanilla["accuracy"]["values"]
    assert regulated["accuracy"] == {"mean": None, "ci95": None, "values": [None, None]}
    assert (regulated["collapsed"], regulated["failed"]) == (2, [0, 1])
    assert short["collapsed"] == 2
    errors = {(row["name"], row["seed"]): row["error"] for row in comparison["failed"]}
    assert errors["regulated", 1] == "the loss is not finite"
    assert errors["short:regulated", 1].startswith("regulated, which it matches, failed: the loss")
    # Once fixed, only what failed is run.
    del workers.started[:]
    workers.execute = execute
    assert compare(tiny, arms=arms, seeds=2, out=tmp_path)["failed"] == []
    assert {name for name, _ in runs(workers.started)} == {"regulated", "short:regulated"}


def test_a_failing_teacher_fails_its_students_only(workers, tiny, tmp_path):
    def broken(task):
        return {"error": "no", "type": "X"} if task["kind"] == "teach" else execute(task)

    workers.execute = broken
    comparison = compare(tiny, arms=["vanilla", "ce"], seeds=1, out=tmp_path)
    assert [row["name"] for row in comparison["failed"]] == ["self-regulated", "vanilla"]
    assert comparison["failed"][1]["error"] == "its teacher self-regulated failed: no"
    assert comparison["arms"][1]["accuracy"]["mean"] > 0


def test_a_collapsed_run_stays_in_the_mean(workers, tiny, tmp_path):
    arms = {"dead": {"set": {"student.mode": "vanilla", "student.training.optimizer.lr": 0.0}}}
    recipe = override(tiny, {"arms": arms})
    comparison = compare(recipe, arms=["dead"], seeds=[1], out=tmp_path)
    (dead,) = comparison["arms"]
    value = dead["accuracy"]["values"][0]
    assert dead["accuracy"]["mean"] == value
    assert dead["collapsed"] == int(value <= 0.15)


def test_an_error_of_any_kind_becomes_one_line(tiny, tmp_path):
    job = Job(Key("distill", "run", 0), "0" * 64, tmp_path / "run", lambda _: tiny)
    task = job.task(tmp_path, override(tiny, {"student.mode": "hybrid"}))
    reply = execute(task)
    assert reply["type"] == "LedgerError" or reply["type"] == "ModelError"
    assert "\n" not in reply["error"]
    reply = execute({**task, "recipe": {}})
    assert reply["type"] == "ValidationError"
    assert "Traceback" in reply["traceback"]


def test_a_running_job_reports_progress(workers, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr(pool, "EVERY", 0.0)
    write, events = pool.write_json, []

    def record(path, value):
        write(path, value)
        # The comparison reads it meanwhile.
        for key, job in running():
            events.append((key.kind, pool.read_progress(job.progress_file(tmp_path))))

    def running():
        return [(key, job) for key, job in jobs.items() if job.progress_file(tmp_path).exists()]

    monkeypatch.setattr(pool, "write_json", record)
    arms = {"scored": {"set": {"student.policy": {"name": "el2n", "epochs": 1},
                               "student.mode": None}}}  # fmt: skip
    recipe = override(tiny, {"arms": arms, "student.training.epochs": 1})
    jobs = ComparisonRun(recipe, ["scored"], 1, tmp_path).jobs
    assert not compare(recipe, arms=["scored"], seeds=1, out=tmp_path)["failed"]
    assert ("teach", "epoch 10, 100% done") in events
    assert ("targets", "storing soft targets, 300 of 300") in events
    assert ("distill", "scoring run (el2n), training 3 of 3, epoch 1 of 1") in events
    assert events[-1] == ("distill", "epoch 1, 100% done")
    assert not (tmp_path / "progress").exists()


def test_events_of_running_jobs(workers, tiny, tmp_path, monkeypatch):
    job, waits = workers.next, [True, False]
    monkeypatch.setattr(
        workers, "next", lambda patience: None if patience and waits.pop(0) else job()
    )
    monkeypatch.setattr(
        "frugalkd.experiments.comparison.run.read_progress", lambda path: "epoch 1, 17% done"
    )
    events = []
    compare(tiny, arms=["ce"], seeds=1, out=tmp_path, on_event=events.append)
    assert [event["event"] for event in events] == ["begun", "running", "done"]
    assert [event["progress"] for event in events] == ["", "epoch 1, 17% done", ""]


def test_what_a_damaged_progress_file_says_is_nothing(tmp_path):
    path = tmp_path / "p.json"
    for content in ("", "[1]", '{"said": 3', "{}", '"x"'):
        path.write_text(content)
        assert pool.read_progress(path) == ""
    path.write_text('{"said": "a\\nb\\u001b[31m"}')
    assert pool.read_progress(path) == "a b?[31m"


def test_refusals(workers, tiny, tmp_path):
    with pytest.raises(UnknownName, match="unknown arm"):
        compare(tiny, arms=["nothing"], seeds=1, out=tmp_path)
    with pytest.raises(UnknownName, match="unknown teacher"):
        compare(tiny, arms=["ce"], seeds=1, out=tmp_path, teachers=["none"])
    for seeds in (0, [], [1, 1], [-1]):
        with pytest.raises(RecipeError, match="seeds"):
            compare(tiny, arms=["ce"], seeds=seeds, out=tmp_path)
    claims = [Claim("vanilla", "vanilla", "no worse", 1.1)]
    with pytest.raises(RecipeError, match="margin must be a fraction of all test samples"):
        compare(tiny, arms=["vanilla"], seeds=1, out=tmp_path, claims=claims)
    with pytest.raises(RecipeError, match="jobs"):
        compare(tiny, arms=["ce"], seeds=1, out=tmp_path, jobs=0)
    compare(tiny, arms=["ce"], seeds=1, out=tmp_path)
    other = override(tiny, {"student.training.epochs": 2})
    compare(other, arms=["ce"], seeds=1, out=tmp_path)  # other runs, in the same folder
    assert len(list((tmp_path / "runs").iterdir())) == 2
    with pytest.raises(RunFolderError, match="another recipe"):
        compare(override(tiny, {"name": "other"}), arms=["ce"], seeds=1, out=tmp_path)
    with pytest.raises(RunFolderError, match="another section 'data'"):
        compare(override(tiny, {"data.train_size": 9}), arms=["ce"], seeds=1, out=tmp_path)
    file = tmp_path / "comparison.json"
    for damage, says in (
        (lambda text: text.replace('"schema": 2', '"schema": 3', 1), "from a newer frugalkd"),
        (lambda text: text.replace('"schema": 2', '"schema": 1', 1), "choose another --out"),
        (lambda text: text[: len(text) // 2], "is damaged: it is not JSON"),
    ):
        whole = file.read_text()
        file.write_text(damage(whole))
        with pytest.raises(RunFolderError, match=says):
            compare(tiny, arms=["ce"], seeds=1, out=tmp_path)
        file.write_text(whole)


@pytest.mark.heavy
def test_an_arm_that_changed_is_another_run(workers, tiny, tmp_path):
    compare(tiny, arms=["ce", "vanilla"], seeds=1, out=tmp_path)
    del workers.started[:]
    arms = {"ce": {"set": {"student.mode": "vanilla", "student.training.epochs": 1}}}
    changed = compare(override(tiny, {"arms": arms}), arms=["ce", "vanilla"], seeds=1, out=tmp_path)
    assert changed["failed"] == []
    assert runs(workers.started) == [("ce", 0)]


def test_arms_that_are_the_same_run_share_it(workers, tiny, tmp_path):
    arms = {"twin": {"set": {"student.mode": "vanilla"}}}
    recipe = override(tiny, {"arms": arms})
    comparison = compare(recipe, arms=["vanilla", "twin"], seeds=1, out=tmp_path)
    vanilla, twin = comparison["arms"]
    assert runs(workers.started) == [("self-regulated", 0), ("vanilla", 0)]
    assert vanilla["accuracy"] == twin["accuracy"]


@pytest.mark.heavy
def test_a_resumed_comparison_refuses_replaced_data(workers, tmp_path):
    recipe = kinds_recipe(data=write_kinds(tmp_path / "set"))
    args: dict[str, Any] = {"arms": ["vanilla", "regulated"], "seeds": 1, "out": tmp_path / "out"}
    workers.stop_after = 3  # a teacher, its soft targets, a student
    with pytest.raises(KeyboardInterrupt):
        compare(recipe, **args)
    write_kinds(tmp_path / "set", level=61)
    before, workers.stop_after = len(workers.started), None
    with pytest.raises(RunFolderError, match=r"teachers/\S+ holds a finished run on other data"):
        compare(recipe, **args)
    array = ComparisonRun(recipe, **args)
    with pytest.raises(RunFolderError, match="holds a finished run on other data"):
        array.run_one(array.list_jobs()[0]["digest"])
    assert len(workers.started) == before
    write_kinds(tmp_path / "set")
    assert compare(recipe, **args)["complete"]


def test_truncated_results_fail_their_run(workers, tiny, tmp_path):
    compare(tiny, arms=["ce"], seeds=2, out=tmp_path)
    results = folder(tmp_path, "ce", 1) / "results.json"
    results.write_bytes(results.read_bytes()[:100])
    (failure,) = compare(tiny, arms=["ce"], seeds=2, out=tmp_path)["failed"]
    assert failure["seed"] == 1
    assert f"{results} is damaged" in failure["error"]
    assert "\n" not in failure["error"]


@pytest.mark.heavy
def test_budgets(workers, tiny, tmp_path):
    arms = ["vanilla", "significance", "regulated", "infobatch", "random", "short"]
    comparison = compare(
        tiny,
        arms=arms,
        seeds=1,
        out=tmp_path,
        budgets=[0.25, 0.5],
        claims=[
            Claim("regulated@0.5", "random@0.5", "better"),
            Claim("vanilla", "short@0.5", "better"),
        ],
    )
    rows = {row["arm"]: row for row in comparison["arms"]}
    assert list(rows) == [
        "vanilla",
        "significance",
        *(f"{arm}@{b}" for arm in arms[2:] for b in ("0.25", "0.5")),
    ]
    assert comparison["failed"] == []
    for name, row in rows.items():
        _, _, said = name.partition("@")
        assert row["budget_asked"] == (float(said) if said else None)
        assert row["own_budget"] == (name == "significance")
        if said:
            assert row["budget"]["values"] == pytest.approx([float(said)], rel=0.02)
            assert row["on_budget"]
    assert rows["regulated@0.5"]["against_random"]["mean"] == pytest.approx(
        rows["regulated@0.5"]["accuracy"]["mean"] - rows["random@0.5"]["accuracy"]["mean"]
    )
    assert any(row["frontier"]["budget"] for row in comparison["arms"])
    assert [claim["holds"] for claim in comparison["claims"]] == [False, False]
    assert "it spends 100.0% of the samples" in comparison["claims"][1]["why"]


@pytest.mark.heavy
def test_single_runs_give_the_same_comparison(workers, tiny, tmp_path):
    args = {"arms": ["vanilla", "short:hybrid"], "seeds": 1}
    whole = compare(tiny, out=tmp_path / "whole", **args)
    array = ComparisonRun(tiny, out=tmp_path / "array", **args)
    jobs = array.list_jobs()
    assert not any(row["done"] for row in jobs)
    by_name = {row["name"]: row for row in jobs if row["kind"] == "distill"}
    short, hybrid = by_name["short:hybrid"], by_name["hybrid"]
    with pytest.raises(RunFolderError, match="needs teacher self-regulated, which is not done"):
        array.run_one(short["digest"])
    for row in jobs:
        if row["kind"] != "distill":
            array.run_one(row["digest"])
    with pytest.raises(RunFolderError, match=f"needs hybrid seed 0.*--only {hybrid['digest']}"):
        array.run_one(short["digest"])
    for name in ("hybrid", "short:hybrid", "vanilla"):
        array.run_one(by_name[name]["digest"])
    assert all(row["done"] for row in array.list_jobs())
    del workers.started[:]
    after = compare(tiny, out=tmp_path / "array", **args)
    assert workers.started == []
    assert [row["accuracy"] for row in after["arms"]] == [row["accuracy"] for row in whole["arms"]]
    assert [row["digests"] for row in after["arms"]] == [row["digests"] for row in whole["arms"]]
    for wrong in ("abc", "z" * 12):
        with pytest.raises(RecipeError, match="--only"):
            array.run_one(wrong)


@pytest.mark.heavy
def test_a_run_of_two_names_is_one_job_of_an_array(workers, tiny, tmp_path):
    args = {"arms": ["regulated", "the-same", "short:the-same"], "seeds": 1, "out": tmp_path}
    recipe = override(tiny, {"arms": {"the-same": {"set": {"student.mode": "regulated"}}}})
    array = ComparisonRun(recipe, **args)
    jobs = array.list_jobs()
    assert [row["name"] for row in jobs if row["kind"] == "distill"] == [
        "regulated",
        "short:the-same",
    ]
    for row in jobs:
        array.run_one(row["digest"])
    after = compare(recipe, **args)
    assert workers.started == []
    assert [row["arm"] for row in after["arms"]] == ["regulated", "the-same", "short:the-same"]
    assert after["arms"][0]["accuracy"] == after["arms"][1]["accuracy"]


def test_a_missing_tracker_is_named_before_any_run(workers, tiny, tmp_path, monkeypatch):
    from accelerate import tracking

    monkeypatch.setattr(tracking, "get_available_trackers", lambda: [])
    recipe = override(tiny, {"trackers": ["mlflow"]})
    with pytest.raises(TrackerError, match="mlflow is not installed"):
        compare(recipe, arms=["vanilla"], seeds=1, out=tmp_path / "c")
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("measured", "collapsed"),
    [
        ({"accuracy": 0.3}, True),
        ({"accuracy": 0.6}, False),
        ({"r2": -0.1}, True),
        ({"entropy_saved": 0.0, "accuracy": 0.1}, True),
        ({"entropy_saved": 0.1, "accuracy": 0.1}, False),
        ({"macro_f1": 0.3}, False),
        ({"mean_cosine_distance": 0.9}, False),
    ],
)
def test_only_accuracies_and_r2_have_a_level_of_chance(measured, collapsed):
    assert JobResult({"evaluation": measured}, classes=3).collapsed is collapsed
