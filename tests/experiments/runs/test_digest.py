"""A run's digest covers all that decides its teacher's outputs; so does a store's header."""

from __future__ import annotations

import json
import shutil
from typing import Any

import pytest

from frugalkd.errors import FrugalKDWarning, RunFolderError, TargetsError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import run_digest, taught_by, what_decides
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.targets import store
from frugalkd.ledger.ledger import Ledger
from frugalkd.models import identity
from frugalkd.policies.label_noise import RULE
from frugalkd.teachers import live
from toys import kinds_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digest") / "teacher"
    teach(kinds_recipe(), folder)
    return folder


@pytest.fixture
def teacher(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "teacher")


def change(file, *keys, to):
    """Set one value of a JSON file."""
    content = json.loads(file.read_text())
    section = content
    for key in keys[:-1]:
        section = section[key]
    section[keys[-1]] = to
    file.write_text(json.dumps(content))


CHANGES = {
    "options": ("model.json", ["model", "options"], {"scale": -1.0}),
    "input_transform": ("model.json", ["model", "input_transform"], {"mean": [0.4], "std": [0.5]}),
    "mean": ("model.json", ["mean"], [0.4]),
    "precision": ("results.json", ["recipe", "teacher", "training", "precision"], "bf16"),
    "memory": ("results.json", ["recipe", "teacher", "training", "channels_last"], True),
}


@pytest.mark.filterwarnings("ignore:the teacher in .* (inputs are converted|right on 0%)")
@pytest.mark.parametrize("what", CHANGES)
def test_more_than_weights_decides_runs_and_stores(teacher, tmp_path, what):
    recipe = kinds_recipe()
    of = {"a": {"folder": str(teacher)}, "b": {"folder": str(teacher), "kind": "live"}}
    several = override(recipe, {"student.teachers": {"of": of}})
    first, both = distill(recipe, tmp_path / "s", teacher=teacher), digest(several)
    store(recipe, tmp_path / "t", teacher=teacher)
    assert distill(recipe, tmp_path / "s", teacher=teacher) == first
    weights = (teacher / "teacher.safetensors").read_bytes()
    name, keys, value = CHANGES[what]
    change(teacher / name, *keys, to=value)
    assert (teacher / "teacher.safetensors").read_bytes() == weights
    assert digest(several) != both
    with pytest.raises(RunFolderError, match="another run"):
        distill(recipe, tmp_path / "s", teacher=teacher)
    with pytest.raises(TargetsError, match=r"differ in (teacher's model|precision):"):
        store(recipe, tmp_path / "t", teacher=teacher)
    again = distill(recipe, tmp_path / "again", teacher=teacher)
    assert again["meters"]["teacher_queries"] == 60  # none from the store of before


def test_names_of_classes_decide_a_run(teacher):
    before = digest(kinds_recipe(), teacher)
    change(teacher / "model.json", "classes", to=["dog", "ant", "bee", "cat"])
    assert digest(kinds_recipe(), teacher) != before


@pytest.mark.parametrize("key", ["options", "input_transform"])
def test_a_pretrained_teacher_has_settings(teacher, tmp_path, key):
    at = tmp_path / "weights.safetensors"
    shutil.copy(teacher / "teacher.safetensors", at)
    recipe = kinds_recipe(teacher__weights=str(at))
    other = override(recipe, {f"teacher.model.{key}": CHANGES[key][2]})
    store(recipe, tmp_path / "t")
    assert digest(recipe) != digest(other)
    with pytest.raises(TargetsError, match="differ in teacher's model:"):
        store(other, tmp_path / "t")


def test_the_card_beside_weights_is_read(teacher):
    recipe = kinds_recipe(teacher__weights=str(teacher / "teacher.safetensors"))
    before = digest(recipe)
    change(teacher / "model.json", "classes", to=["a", "b", "c", "d"])
    assert digest(recipe) != before
    change(teacher / "model.json", "weights", to="another.safetensors")
    alone = digest(recipe)
    (teacher / "model.json").write_text("{}")
    assert digest(recipe) == alone != before


@pytest.mark.parametrize(
    ("name", "library"),
    [("timm/resnet18", "timm"), ("torchvision/resnet18", "torchvision"), ("text-encoder", None)],
)
def test_the_models_library_is_in_the_digest(monkeypatch, name, library):
    library = library or "transformers"
    model = {"name": name, "options": {"path": "x"} if name == "text-encoder" else {}}
    recipe = override(load_recipe("digits"), {"teacher.model": model})
    said = what_decides("distill", recipe, taught=False)
    assert list(said["teacher"]["model"]["libraries"]) == [library]
    assert "libraries" not in said["student"]["model"]
    before = digest(recipe)
    monkeypatch.setattr(identity, "_version", lambda package: "0.0.1")
    assert digest(recipe) != before


def test_the_files_of_an_encoders_folder_are_in_the_digest(tmp_path):
    model = {"name": "text-encoder", "options": {"path": str(tmp_path)}}
    recipe = override(load_recipe("digits"), {"teacher.model": model})
    before = digest(recipe)
    (tmp_path / "config.json").write_text("{}")
    assert digest(recipe) != before


def test_libraries_of_a_teachers_folder(teacher, monkeypatch):
    """Those of code of one's own are known once it has run."""
    assert json.loads((teacher / "model.json").read_text())["libraries"] == {}
    change(teacher / "model.json", "libraries", to={"timm": "0.1", "../x": "1", "not_there": "2"})
    before = digest(kinds_recipe(), teacher)
    assert list(taught_by(teacher)["libraries"]) == ["timm"]
    monkeypatch.setattr(identity, "_version", lambda package: "0.0.1")
    assert digest(kinds_recipe(), teacher) != before


def test_another_torch_is_a_warning(teacher, tmp_path, monkeypatch):
    recipe = kinds_recipe()
    with monkeypatch.context() as older:
        older.setattr(live, "this_torch", lambda: {"torch": "1.13.0"})
        store(recipe, tmp_path / "t", teacher=teacher)
        distill(override(recipe, {"seed": 1}), tmp_path / "before", teacher=teacher)
    stores = sorted(teacher.glob("targets-*"))
    with pytest.warns(FrugalKDWarning, match=r"t was made with torch 1\.13\.0, and this is torch"):
        assert store(recipe, tmp_path / "t", teacher=teacher)["queries"] == 0
    with pytest.warns(FrugalKDWarning, match=r"was made with torch 1\.13\.0, and this is torch"):
        done = distill(recipe, tmp_path / "s", teacher=teacher)
    assert (done["meters"]["teacher_queries"], sorted(teacher.glob("targets-*"))) == (0, stores)
    change(tmp_path / "s" / "results.json", "versions", "torch", to="1.13.0")
    with pytest.warns(FrugalKDWarning, match=r"this finished run was made with torch 1\.13\.0"):
        again = distill(recipe, tmp_path / "s", teacher=teacher)
    assert again["digest"] == done["digest"]


def test_how_classes_match_is_in_the_digest():
    recipe = kinds_recipe()
    ways = ("same", "by-name", "by-position")
    digests = {digest(override(recipe, {"student.targets.classes": way})) for way in ways}
    assert len(digests) == 3
    assert digest(recipe) in digests


def digest(recipe, teacher=None):
    return run_digest("distill", recipe, teacher)


def test_a_folder_without_results_runs_as_the_recipe_says(teacher):
    half = override(kinds_recipe(), {"teacher.training.precision": "bf16"})
    assert digest(kinds_recipe(), teacher) == digest(half, teacher)
    (teacher / "results.json").unlink()
    assert digest(kinds_recipe(), teacher) != digest(half, teacher)


def test_training_dynamics_decide_a_ledger_and_not_a_student():
    recipe = kinds_recipe()

    def decides(kind, **settings):
        return what_decides(kind, override(recipe, settings), taught=True)

    for kind, role, usual in (("teach", "teacher", True), ("distill", "student", False)):
        assert "dynamics" not in decides(kind)[role]
        assert decides(kind, **{f"{role}.dynamics": usual}) == decides(kind)
        assert decides(kind, **{f"{role}.dynamics": not usual}) != decides(kind)
    assert decides("distill", **{"teacher.dynamics": False}) == decides("distill")


@pytest.mark.parametrize("key", ["teacher.policy", "student.regulation", "student.policy"])
def test_label_noise_decides_a_run_unless_it_is_off(key):
    role, section = key.split(".")
    gate = {} if section == "regulation" else {"name": "self-regulation"}
    kind = "teach" if role == "teacher" else "distill"

    def decides(**noise):
        settings: dict[str, Any] = {key: {**gate, **noise}}
        if key == "student.policy":
            settings["student.mode"] = None
        return what_decides(kind, override(kinds_recipe(), settings), taught=True)

    assert "label_noise" not in decides()[role][section]
    for off in ("off", False, 0):
        assert decides(label_noise=off) == decides()
    made = [decides(), decides(label_noise="auto"), decides(label_noise=0.2)]
    assert made[0] != made[1] != made[2] != made[0]
    assert [each[role][section].get("disbelief") for each in made] == [None, RULE, RULE]


@pytest.mark.parametrize(("settings", "has"), [({}, True), ({"teacher.dynamics": False}, False)])
def test_teach_records_training_dynamics_by_default(settings, has, tmp_path):
    teach(override(kinds_recipe(teacher__training__epochs=1), settings), tmp_path / "t")
    assert Ledger.load(tmp_path / "t").has_dynamics is has
