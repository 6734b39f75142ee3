"""A chain of recipes is its runs one by one, stopped or not; its costs are their sums."""

from __future__ import annotations

import json

import pytest
import yaml

from frugalkd.errors import ModelError, RecipeError, Stopped
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.chain import chain, stages_of, summed
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.models.saved import load
from toys import same_state

SIZES = {"big": [48], "middle": [24], "small": [8]}


def recipe(teacher, student):
    return override(load_recipe("digits"), {
        "name": f"{teacher}-{student}",
        "data.train_size": 150,
        "teacher.model.options.hidden": SIZES[teacher],
        "student.model.options.hidden": SIZES[student],
        "teacher.training.epochs": 4,
        "student.training.epochs": 3,
    })  # fmt: skip


@pytest.fixture(scope="module")
def recipes():
    return [recipe("big", "middle"), recipe("middle", "small")]


@pytest.fixture(scope="module")
def whole(recipes, tmp_path_factory):
    """A chain that ran without a stop, and its folder."""
    out = tmp_path_factory.mktemp("chain") / "c"
    return chain(recipes, out), out


@pytest.mark.heavy
def test_it_is_its_runs_one_by_one(recipes, whole, tmp_path):
    said, out = whole
    teach(recipes[0], tmp_path / "t")
    distill(recipes[0], tmp_path / "a", teacher=tmp_path / "t")
    last = distill(recipes[1], tmp_path / "s", teacher=tmp_path / "a")
    assert [one["stage"] for one in said["stages"]] == ["1-teacher", "2-assistant", "3-student"]
    assert same_state(load(out / "3-student").model, load(tmp_path / "s").model)
    assert said["stages"][2]["digest"] == last["digest"]
    assert said["stages"][2]["evaluation"] == last["evaluation"]
    assert json.loads((out / "chain.json").read_text()) == said


def test_its_costs_are_the_sums(whole):
    said, out = whole
    each = [json.loads((out / one["stage"] / "results.json").read_text())["meters"]
            for one in said["stages"]]  # fmt: skip
    assert said["meters"]["samples_backpropagated"] == sum(
        one["samples_backpropagated"] for one in each
    )
    assert said["meters"]["teacher_queries"] == each[1]["teacher_queries"] + 150
    assert said["meters"]["wall_seconds"] == pytest.approx(sum(one["wall_seconds"] for one in each))
    assert said["meters"]["flops"]["student_forward"] == pytest.approx(
        sum(one["flops"]["student_forward"] for one in each)
    )
    memory = [one["peak_memory_bytes"]["process"] for one in each]
    assert said["meters"]["peak_memory_bytes"]["process"] == max(memory)
    assert summed([{"a": 1, "b": {"x": 1}}, {"a": 2, "b": {"y": 2}}]) == (
        {"a": 3, "b": {"x": 1, "y": 2}}
    )


def test_finished_stages_are_not_run_again(recipes, whole, steps_done):
    said, out = whole
    assert chain(recipes, out) == said
    assert not steps_done


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_stopped_stage_is_resumed(stage, recipes, whole, steps_done, tmp_path):
    """Four and three epochs of three steps or less are a stage."""
    begun = []

    def stop():
        return len(begun) == stage + 1 and len(steps_done) >= steps_before(stage) + 2

    with pytest.raises(Stopped):
        chain(recipes, tmp_path, begin=begun.append, should_stop=stop)
    assert len(begun) == stage + 1
    chain(recipes, tmp_path)
    assert len(steps_done) == steps_before(3)
    assert same_state(load(tmp_path / "3-student").model, load(whole[1] / "3-student").model)
    results = [json.loads((at / "3-student/results.json").read_text())["meters"]
               for at in (tmp_path, whole[1])]  # fmt: skip
    assert results[0]["flops"] == results[1]["flops"]


def steps_before(stage):
    return sum([4 * 3, 3 * 3, 3 * 3][:stage])


def test_a_given_teacher_costs_nothing(recipes, whole, tmp_path):
    _, out = whole
    said = chain(recipes, tmp_path, teacher=out / "1-teacher")
    assert [one["stage"] for one in said["stages"]] == ["1-assistant", "2-student"]
    assert same_state(load(tmp_path / "2-student").model, load(out / "3-student").model)
    names = [one.name for one in stages_of([*recipes, recipe("small", "small")])]
    assert names == ["1-teacher", "2-assistant", "3-assistant", "4-student"]


def test_a_teacher_that_has_weights_is_not_trained(recipes, tmp_path):
    given = override(recipes[0], {"teacher.weights": "w.safetensors"})
    assert [one.name for one in stages_of([given, recipes[1]])] == ["1-assistant", "2-student"]
    with pytest.raises(ModelError, match=r"w\.safetensors, so that there is nothing to train"):
        teach(given, tmp_path / "t")


def test_recipes_that_make_no_chain_are_refused(recipes, tmp_path):
    with pytest.raises(RecipeError, match=r"middle-small is taught by mlp\(hidden=\[24\]\)"):
        chain([recipe("big", "small"), recipes[1]], tmp_path / "x")
    with pytest.raises(RecipeError, match="differ in data"):
        chain([recipes[0], override(recipes[1], {"data.train_size": 99})], tmp_path / "x")
    weighs = override(recipes[1], {"student.mode": "hybrid"})
    assert len(stages_of([recipes[0], weighs])) == 3
    ungated = override(recipes[0], {"student.mode": "vanilla"})
    with pytest.raises(RecipeError, match=r"3-student weighs .* that 2-assistant gives .* gate"):
        chain([ungated, weighs], tmp_path / "x")
    with pytest.raises(RecipeError, match="no recipes"):
        chain([], tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_the_command(recipes, whole, cli, tmp_path):
    files = []
    for one in recipes:
        files.append(str(tmp_path / f"{one.name}.yaml"))
        said = one.model_dump(mode="json")
        (tmp_path / f"{one.name}.yaml").write_text(yaml.safe_dump(said))
    code, out, _ = cli("chain", *files, "--out", str(whole[1]))
    assert code == 0
    assert max(map(len, out.splitlines()[:-1])) <= 80
    for words in ("1-teacher", "2-assistant", "3-student", "mlp(hidden=[8])", "all"):
        assert words in out
    code, out, _ = cli("chain", *files, "--out", str(whole[1]), "--json")
    assert json.loads(out)["stages"][0]["kind"] == "teach"
    code, out, _ = cli("chain", *files, "--out", str(tmp_path / "x"), "--dry-run")
    assert [one["name"] for one in yaml.safe_load_all(out)] == ["big-middle", "middle-small"]
    code, _, err = cli("chain", *reversed(files), "--out", str(tmp_path / "x"))
    assert code == 2
    assert err.startswith("error: recipe big-middle is taught by")
    assert not (tmp_path / "x").exists()
