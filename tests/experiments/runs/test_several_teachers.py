"""Several teachers from a recipe: their sources, their cost, what is refused."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from frugalkd import Sampling
from frugalkd.errors import FrugalKDError, LedgerError, RecipeError, Stopped, TargetsError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.from_recipe import STORE_SEED, make_data, make_model
from frugalkd.experiments.runs.schema import Results
from frugalkd.experiments.runs.targets import store
from frugalkd.models.saved import load
from frugalkd.teachers import SeveralTeachers
from frugalkd.training.api import distill as distill_model
from toys import same_state

SMALL = {
    "data.train_size": 150,
    "teacher.training.epochs": 25,
    "teacher.policy.confidence": 0.4,
    "student.training.epochs": 2,
    "student.mode": "vanilla",
    "student.targets.encoding": "float32",
}
SIZES = {"wide": [48], "deep": [24, 24]}


@pytest.fixture(scope="module")
def recipe():
    return override(load_recipe("digits"), SMALL)


@pytest.fixture(scope="module")
def made(recipe, tmp_path_factory):
    """Two runs' folders, and the store of a third one."""
    at = tmp_path_factory.mktemp("several")
    for name, hidden in SIZES.items():
        teach(override(recipe, {"teacher.model.options.hidden": hidden}), at / name)
    teach(override(recipe, {"seed": 3}), at / "third")
    store(recipe, at / "store", teacher=at / "third")
    return at


@pytest.fixture
def folders(made, tmp_path):
    """As they are before anybody has learned from them."""
    return shutil.copytree(made, tmp_path / "made")


def taught(recipe, folders, combine="mean", kinds=("stored", "live"), weights=(None,) * 3, **more):
    of = {
        "wide": {"folder": str(folders / "wide"), "kind": kinds[0], "weight": weights[0]},
        "deep": {"folder": str(folders / "deep"), "kind": kinds[1], "weight": weights[1]},
        "kept": {"store": str(folders / "store"), "weight": weights[2]},
    }
    return override(recipe, {"student.teachers": {"combine": combine, "of": of, **more}})


@pytest.mark.parametrize("combine", ["mean", "weighted", "confidence", "random"])
def test_it_is_the_apis_distillation(combine, recipe, folders, tmp_path):
    weights: Any = (0.5, 0.3, 0.2) if combine == "weighted" else (None,) * 3
    made = taught(recipe, folders, combine, weights=weights)
    results = distill(made, tmp_path / "run")
    data = make_data(made, made.student.augment, STORE_SEED).train
    three = {name: load(folders / at).model for name, at in
             (("wide", "wide"), ("deep", "deep"), ("kept", "third"))}  # fmt: skip
    several = SeveralTeachers(
        three, combine, weights=None if weights[0] is None else weights, seed=made.seed
    )
    run = distill_model(
        make_model(made.student.model, data, made.seed),
        data,
        teacher=several,
        sampling=Sampling(mode="vanilla"),
        training=made.student.training,
        seed=made.seed,
        device="cpu",
    )
    assert same_state(run.model, load(tmp_path / "run").model)
    Results.model_validate(results)
    meters = results["meters"]
    queries = meters["queries_of"]
    assert queries["wide"] == 150
    assert queries["kept"] == 0
    assert queries["deep"] == (run.meters.queries_of["deep"] if combine == "random" else 300)
    assert meters["teacher_queries"] == sum(queries.values())
    # Each one's operations are its own: two for each weight of a linear layer.
    wide, deep = (64 * 48 + 48 * 10), (64 * 24 + 24 * 24 + 24 * 10)
    expected = 2 * (wide * queries["wide"] + deep * queries["deep"])
    assert meters["flops"]["teacher_forward"] == expected
    assert results["targets"]["kind"] == "several"
    assert results["targets"]["of"]["deep"]["kind"] == "live"
    assert results["targets"]["of"]["wide"]["filled_here"]
    assert results["teacher"]["of"]["wide"]["evaluation"]["accuracy"] > 0.5
    assert results["evaluation"]["teacher_agreement"] is None  # a store has no model


def test_the_runs_own_teacher_is_one_of_them(recipe, folders, tmp_path):
    of = {"own": {}, "other": {"folder": str(folders / "deep")}}
    made = override(recipe, {"student.teachers": {"of": of, "average": "softmax"}})
    results = distill(made, tmp_path / "a", teacher=folders / "wide")
    assert 0.2 < results["evaluation"]["teacher_agreement"] <= 1
    # A ledger is the own teacher's.
    weighed = override(made, {"student.mode": "significance"})
    history = distill(weighed, tmp_path / "b", teacher=folders / "wide")["history"]
    assert history[0]["effective_samples"] < history[0]["rows"]
    named = taught(recipe, folders)
    with pytest.raises(LedgerError, match="--ledger DIR"):
        distill(override(named, {"student.mode": "hybrid"}), tmp_path / "c")


def test_pretrained_weights_are_one_of_them(recipe, folders, tmp_path):
    weights = str(folders / "wide" / "teacher.safetensors")
    model = {"name": "mlp", "options": {"hidden": SIZES["wide"]}}
    of = {
        "file": {"weights": weights, "model": model},
        "deep": {"folder": str(folders / "deep")},
    }
    by_file = distill(override(recipe, {"student.teachers": {"of": of}}), tmp_path / "a")
    of["file"] = {"folder": str(folders / "wide")}
    by_folder = distill(override(recipe, {"student.teachers": {"of": of}}), tmp_path / "b")
    assert same_state(load(tmp_path / "a").model, load(tmp_path / "b").model)
    assert by_file["digest"] != by_folder["digest"]


def test_a_resumed_run_counts_each_query_once(recipe, folders, tmp_path):
    made = taught(recipe, folders, "random")
    made = override(made, {"student.targets.fill": "first-visit"})
    whole = distill(made, tmp_path / "whole")
    left = [4]

    def soon():
        left[0] -= 1
        return left[0] <= 0

    with pytest.raises(Stopped):
        distill(made, tmp_path / "run", should_stop=soon)
    resumed = distill(made, tmp_path / "run", resume=True)
    assert same_state(load(tmp_path / "whole").model, load(tmp_path / "run").model)
    for name in ("teacher_queries", "queries_of", "flops"):
        assert whole["meters"][name] == resumed["meters"][name]
    assert (tmp_path / "run" / "targets-wide" / "header.json").is_file()


def test_a_digest_is_of_what_files_hold_not_of_where_they_lie(recipe, folders, tmp_path):
    made = taught(recipe, folders)
    one = run_digest("distill", made, None)
    (tmp_path / "moved").symlink_to(folders)
    assert run_digest("distill", taught(recipe, tmp_path / "moved"), None) == one
    other = override(made, {"student.teachers.of.wide.folder": str(folders / "third")})
    assert run_digest("distill", other, None) != one
    live = override(made, {"student.teachers.of.wide.kind": "live"})
    assert run_digest("distill", live, None) != one
    without = override(made, {"student.teachers": None})
    assert run_digest("distill", without, None) == run_digest("distill", recipe, None)


REFUSED = {
    "one": ({"of": {"a": {}}}, "give two or more"),
    "name": ({"of": {"a": {}, "b": {"foldr": "x"}}}, "did you mean folder"),
    "combine": ({"combine": "maen", "of": {"a": {}, "b": {}}}, "did you mean mean"),
    "sum": (
        {"combine": "weighted", "of": {"a": {"weight": 0.5}, "b": {"weight": 0.6}}},
        r"0\.5, 0\.6 sum to 1\.1",
    ),
    "half": (
        {"combine": "weighted", "of": {"a": {"weight": 1.0}, "b": {}}},
        "the weights 1: give each",
    ),
    "useless": ({"of": {"a": {"weight": 0.5}, "b": {"weight": 0.5}}}, "no use for weights"),
    "both": ({"of": {"a": {"folder": "x", "store": "y"}, "b": {}}}, "one of folder, store"),
    "live": ({"of": {"a": {"store": "y", "kind": "live"}, "b": {}}}, "no model to query live"),
    "model": ({"of": {"a": {"weights": "y.pt"}, "b": {}}}, "give model, too"),
    "bare": ({"of": {"a": {"model": {"name": "mlp"}}, "b": {}}}, "is untrained"),
    "escape": ({"of": {"../a": {}, "b": {}}}, "cannot be a name"),
    "nothing": (
        {"combine": "random", "average": "softmax", "of": {"a": {}, "b": {}}},
        "averages nothing",
    ),
}


@pytest.mark.parametrize(("said", "words"), REFUSED.values(), ids=REFUSED)
def test_a_wrong_section_is_refused_when_it_is_read(said, words, recipe):
    with pytest.raises(RecipeError, match=words) as raised:
        override(recipe, {"student.teachers": said})
    assert "student.teachers" in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_encoding_that_keeps_too_little_is_refused(recipe):
    top = {"student.targets.encoding": "top-k", "student.targets.k": 2}
    both = {"of": {"a": {"folder": "x"}, "b": {"folder": "y"}}}
    with pytest.raises(RecipeError, match=r"needs complete logits.*float16, or teachers\.average"):
        override(recipe, {**top, "student.teachers": both})
    override(recipe, {**top, "student.teachers": {**both, "average": "softmax"}})
    override(recipe, {**top, "student.teachers": {**both, "combine": "random"}})
    squared = {"student.objective": {"name": "logit-mse"}}
    with pytest.raises(RecipeError, match="reads the teacher's logits themselves"):
        override(recipe, {**squared, "student.teachers": {**both, "average": "softmax"}})


def test_what_is_not_there_is_named(recipe, folders, tmp_path):
    cases = {
        "folder": (FrugalKDError, "no folder"),
        "store": (TargetsError, "nowhere"),
        "weights": (FrugalKDError, "no weights at"),
    }
    for source, (error, words) in cases.items():
        one: dict[str, Any] = {source: str(tmp_path / "nowhere")}
        if source == "weights":
            one["model"] = {"name": "mlp"}
        of = {"a": {"folder": str(folders / "wide")}, "b": one}
        with pytest.raises(error, match=words) as raised:
            distill(override(recipe, {"student.teachers": {"of": of}}), tmp_path / source)
        assert "\n" not in str(raised.value)
    of = {"a": {"folder": str(folders / "wide")}, "own": {}}
    with pytest.raises(FrugalKDError, match="no teacher: name a folder"):
        distill(override(recipe, {"student.teachers": {"of": of}}), tmp_path / "own")
