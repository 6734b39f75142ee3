"""A teacher from a recipe: for the data's classes, in their order, and their pictures."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch

from frugalkd.data import Augmentation, ImageData, Splits, data_digest, load_data
from frugalkd.data.labels import Corrections, save_corrections
from frugalkd.errors import (
    DataError,
    FrugalKDWarning,
    LedgerError,
    ModelError,
    RunFolderError,
    TargetsError,
)
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.from_recipe import make_data, make_teacher
from frugalkd.experiments.runs.targets import store
from frugalkd.experiments.runs.use import evaluate_run
from frugalkd.models import reorder_classes
from frugalkd.models.origin import origin_of
from frugalkd.models.saved import load
from frugalkd.runtime.imports import Allowed
from frugalkd.teachers import StoredTargets
from frugalkd.training.evaluation import measure, predict
from toys import KINDS, kinds, kinds_recipe, write_kinds

MIXED = ("dog", "ant", "bee", "cat")
OTHERS = ("wasp", "bee", "cat", "dog")
CODE = Allowed(["toys:Scaled", "toys:kinds"], data=True)
LONE = {"student__objective": {"name": "kd", "alpha": 1.0}}  # without labels


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kinds") / "teacher"
    assert teach(kinds_recipe(), folder)["evaluation"]["accuracy"] > 0.9
    return folder


@pytest.fixture
def teacher(trained, tmp_path):
    """A teacher's folder without any store in it."""
    return shutil.copytree(trained, tmp_path / "teacher")


def mixed(**settings):
    return kinds_recipe(data__options={"classes": list(MIXED)}, **{**LONE, **settings})


def in_teachers_of(teacher, **each):
    """Two teachers, of one folder."""
    one = {"folder": str(teacher), **each}
    return {"combine": "mean", "of": {"a": one, "b": {**one, "kind": "live"}}}


@pytest.mark.parametrize("kind", ["live", "stored"])
@pytest.mark.parametrize(
    ("classes", "says"),
    [
        (MIXED, r"the data's classes in another order \(class 0 is 'ant' there and 'dog' in the "
         r"data\): set student.targets.classes to by-name"),
        (OTHERS, r"other classes than the data \('ant' there, 'wasp' in the data\): .*by-position"),
        (("a\nb", "b", "c", "d"), r"'a\\nb'"),
    ],
)  # fmt: skip
def test_other_classes_are_refused(teacher, tmp_path, kind, classes, says):
    made = kinds_recipe(data__options={"classes": list(classes)}, student__targets__kind=kind)
    with pytest.raises(TargetsError, match=rf"^(?!.*\n)the teacher in .*{says}"):
        distill(made, tmp_path / "s", teacher=teacher)
    assert not list(teacher.glob("targets-*"))
    several = override(made, {"student.teachers": in_teachers_of(teacher)})
    with pytest.raises(TargetsError, match=says):
        distill(several, tmp_path / "s")
    with pytest.raises(TargetsError, match=says):
        store(made, tmp_path / "t", teacher=teacher)
    # As weights of a recipe's model, with the card beside them.
    pretrained = override(made, {"teacher.weights": str(teacher / "teacher.safetensors")})
    with pytest.raises(TargetsError, match=says):
        distill(pretrained, tmp_path / "s")


@pytest.mark.parametrize("kind", ["live", "stored"])
@pytest.mark.heavy
def test_by_name_the_teachers_outputs_are_reordered(teacher, tmp_path, kind):
    made = mixed(student__targets={"kind": kind, "classes": "by-name"})
    results = distill(made, tmp_path / "s", teacher=teacher)
    assert results["evaluation"]["accuracy"] > 0.9
    assert results["evaluation"]["teacher_agreement"] > 0.9
    # Untold, the same student learns the wrong classes.
    blind = mixed(student__targets={"kind": kind, "classes": "by-position"})
    with pytest.warns(FrugalKDWarning, match=r"right on 0% of 40 held-out samples"):
        wrong = distill(blind, tmp_path / "w", teacher=teacher)
    assert wrong["evaluation"]["accuracy"] < 0.4
    several = override(blind, {"student.teachers": in_teachers_of(teacher, classes="by-name")})
    assert distill(several, tmp_path / "two")["evaluation"]["accuracy"] > 0.9


def test_reordered_outputs_are_the_same_bits(teacher):
    train = kinds(MIXED)[0]
    model = make_teacher(mixed(student__targets__classes="by-name"), teacher, train)
    x = train.batch(range(8), np.zeros(8, np.int64))[0]
    with torch.no_grad():
        own, got = load(teacher, imports=["toys:Scaled"]).model(x), model(x)
    for place, name in enumerate(MIXED):
        assert torch.equal(got[:, place], own[:, KINDS.index(name)])
    assert origin_of(model).classes == MIXED


def test_each_match_of_classes_has_its_store(teacher, tmp_path):
    named = mixed(student__targets__classes="by-name")
    placed = mixed(student__targets__classes="by-position")
    done = store(named, tmp_path / "t", teacher=teacher)
    assert store(named, tmp_path / "t", teacher=teacher)["queries"] == 0
    with (
        pytest.warns(FrugalKDWarning, match=r"right on 0%"),
        pytest.raises(TargetsError, match="differ in teacher's model:"),
    ):
        store(placed, tmp_path / "t", teacher=teacher)
    stored = StoredTargets(tmp_path / "t")
    assert (done["queries"], stored.class_names) == (60, MIXED)
    labels = kinds(MIXED)[0].labels.numpy()
    assert np.mean(stored.all_logits().argmax(1) == labels) > 0.9


def test_a_store_alone_is_matched_by_its_own_names(teacher, tmp_path):
    """The same labels under other names: of these only one can be right."""
    store(kinds_recipe(), tmp_path / "t", teacher=teacher)
    train = kinds()[0]
    train.classes = MIXED
    stored = StoredTargets(tmp_path / "t")
    with pytest.raises(TargetsError, match=r"the store has .* another order .*match_classes"):
        stored.check(train)
    before = stored.all_logits()
    stored.match_classes(train.classes)
    stored.check(train)
    ids = np.arange(60)
    got = stored.fetch(ids, np.zeros(60, np.int64), torch.zeros(1)).numpy()
    assert np.array_equal(got, before[:, [KINDS.index(name) for name in MIXED]])
    assert np.array_equal(got, stored.all_logits())


def test_a_ledger_of_data_in_another_order_is_refused(teacher, tmp_path):
    made = mixed(student__mode="significance", student__targets__classes="by-name")
    with pytest.raises(LedgerError, match="made on other data"):
        distill(made, tmp_path / "s", teacher=teacher)
    with pytest.raises(LedgerError, match="made on other data"):
        distill(made, tmp_path / "s", teacher=teacher, ledger=teacher)


def test_a_renamed_class_folder_is_refused(tmp_path):
    recipe = kinds_recipe(data=write_kinds(tmp_path / "set"))
    teach(recipe, tmp_path / "t")
    for part in ("train", "test"):
        (tmp_path / "set" / part / "ant").rename(tmp_path / "set" / part / "wasp")
    with pytest.raises(TargetsError, match=r"other classes than the data \('ant' there, 'wasp'"):
        distill(recipe, tmp_path / "s", teacher=tmp_path / "t")
    with pytest.raises(DataError, match="names have changed since that run"):
        evaluate_run(tmp_path / "t", None, CODE)


@pytest.mark.heavy
def test_folders_that_change_places_are_warned_of(tmp_path):
    """The classes have the names that they had; only labels can say that they mean others."""
    data = write_kinds(tmp_path / "set", samples=10, level=80)
    recipe = kinds_recipe(
        data=data, teacher__training__epochs=20, teacher__training__optimizer__lr=0.05
    )
    assert teach(recipe, tmp_path / "t")["evaluation"]["accuracy"] > 0.7
    distill(recipe, tmp_path / "before", teacher=tmp_path / "t")
    for part in ("train", "test"):
        at = tmp_path / "set" / part
        for old, new in (
            ("ant", "x"),
            ("bee", "ant"),
            ("cat", "bee"),
            ("dog", "cat"),
            ("x", "dog"),
        ):
            (at / old).rename(at / new)
    says = r"the teacher in .* right on 0% of 40 held-out samples, and was on \d\d+% in its own run"
    with pytest.warns(FrugalKDWarning, match=says):
        distill(recipe, tmp_path / "s", teacher=tmp_path / "t")
    with pytest.warns(FrugalKDWarning, match=says):
        store(recipe, tmp_path / "store", teacher=tmp_path / "t")


def test_a_run_is_evaluated_by_the_names_of_its_classes(teacher):
    """Its data have come into another order since; it has no digest of them."""
    path = teacher / "results.json"
    results = json.loads(path.read_text())
    before, _ = evaluate_run(teacher, None, CODE)
    results["recipe"]["data"]["options"] = {"classes": list(MIXED)}
    path.write_text(json.dumps(results))
    with pytest.raises(DataError, match="names have changed since that run"):
        evaluate_run(teacher, None, CODE)
    del results["data"]
    path.write_text(json.dumps(results))
    after, _ = evaluate_run(teacher, None, CODE)
    assert after["accuracy"] == before["accuracy"] > 0.9


def test_a_data_set_of_other_classes(tmp_path):
    recipe = override(load_recipe("digits"), {"teacher.training.epochs": 1})
    teach(recipe, tmp_path / "t")
    path = tmp_path / "t" / "model.json"
    card = json.loads(path.read_text())
    sound, _ = evaluate_run(tmp_path / "t", "digits")
    card["classes"] = [*card["classes"][1:], card["classes"][0]]
    path.write_text(json.dumps(card))
    turned, _ = evaluate_run(tmp_path / "t", "digits")
    probabilities, labels = predict(load(tmp_path / "t").model, load_data("digits").test)
    assert labels is not None
    assert turned["accuracy"] == measure(probabilities, (labels - 1) % 10)["accuracy"]
    assert turned["accuracy"] < sound["accuracy"]
    path.write_text(json.dumps(card | {"classes": [f"shoe {place}" for place in range(10)]}))
    with pytest.raises(DataError, match=r"digits has other classes than the model"):
        evaluate_run(tmp_path / "t", "digits")


def test_a_reused_classifier_is_reordered(teacher, tmp_path):
    made = mixed(
        student__targets__classes="by-name",
        student__targets__kind="live",
        student__model__reuse_classifier_dim=36,
        student__objective={"name": "simkd", "student": "head.projector", "teacher": "head:input"},
    )
    distill(made, tmp_path / "s", teacher=teacher)
    student = load(tmp_path / "s", imports=["toys:Scaled"]).model.state_dict()
    own = load(teacher, imports=["toys:Scaled"]).model.state_dict()
    order = [KINDS.index(name) for name in MIXED]
    assert torch.equal(student["head.classifier.weight"], own["head.weight"][order])
    assert torch.equal(student["head.classifier.bias"], own["head.bias"][order])


@pytest.mark.parametrize("kind", ["live", "stored"])
def test_other_normalisation_is_converted(teacher, tmp_path, kind):
    other = kinds_recipe(
        data__options={"mean": 0.1, "std": 1.0}, student__targets__kind=kind, **LONE
    )
    with pytest.warns(FrugalKDWarning, match=r"normalised by mean and std \(\(0\.5,\), \(0"):
        results = distill(other, tmp_path / "s", teacher=teacher)
    assert results["evaluation"]["accuracy"] > 0.9
    train = kinds(mean=0.1, std=1.0)[0]
    rows = range(8), np.zeros(8, np.int64)
    with pytest.warns(FrugalKDWarning):
        model = make_teacher(other, teacher, train)
    own = load(teacher, imports=["toys:Scaled"]).model
    with torch.no_grad():
        got, expected = model(train.batch(*rows)[0]), own(kinds()[0].batch(*rows)[0])
    torch.testing.assert_close(got, expected)


def test_pictures_of_other_channels_are_refused(teacher):
    card = json.loads((teacher / "model.json").read_text())
    card |= {"shape": [2, 6, 6], "mean": [0.5, 0.5], "std": [0.5, 0.5]}
    (teacher / "model.json").write_text(json.dumps(card))
    recipe = kinds_recipe()
    data = kinds()[0]
    data = ImageData(
        data.images.repeat(1, 3, 1, 1), data.labels, KINDS, mean=(0.5,) * 3, std=(0.5,) * 3
    )
    with (
        pytest.warns(FrugalKDWarning, match="inputs are converted"),
        pytest.raises(ModelError, match="pictures of 2 channels, and these have 3"),
    ):
        make_teacher(recipe, teacher, data)


def test_reordering_twice_comes_back(teacher):
    model = load(teacher, imports=["toys:Scaled"]).model
    x = torch.rand(3, 1, 6, 6)
    own = model(x)
    reorder_classes(model, MIXED)
    assert Counter(origin_of(model).classes) == Counter(KINDS)
    reorder_classes(model, KINDS)
    assert torch.equal(model(x), own)


@pytest.mark.heavy
def test_a_finished_run_on_replaced_files_is_refused(tmp_path):
    recipe = kinds_recipe(data=write_kinds(tmp_path / "set"))
    results = teach(recipe, tmp_path / "t")
    assert set(results["data"]) == {"train", "held_out"}
    distill(recipe, tmp_path / "s", teacher=tmp_path / "t")
    assert teach(recipe, tmp_path / "t", resume=True) == results
    replaced = tmp_path / "set" / "test" / "bee" / "0.png"
    content = replaced.read_bytes()
    write_kinds(tmp_path / "set", level=61)
    for again in (teach, partial(distill, teacher=tmp_path / "t")):
        folder = tmp_path / ("t" if again is teach else "s")
        with pytest.raises(RunFolderError, match=rf"{folder} holds a finished run on other data"):
            again(recipe, folder, resume=True)
    write_kinds(tmp_path / "set")
    assert replaced.read_bytes() == content
    assert teach(recipe, tmp_path / "t", resume=True) == results
    replaced.write_bytes(content[:-20] + bytes(20))  # a held-out file alone
    with pytest.raises(RunFolderError, match="restore these files, or choose another --out"):
        teach(recipe, tmp_path / "t", resume=True)


def test_a_finished_run_whose_data_are_gone_is_used(tmp_path):
    recipe = kinds_recipe(data=write_kinds(tmp_path / "set"))
    results = teach(recipe, tmp_path / "t")
    shutil.rmtree(tmp_path / "set")
    with pytest.warns(FrugalKDWarning, match="have changed since that run is not checked: "):
        assert teach(recipe, tmp_path / "t") == results


NOISY = {"data.train_size": 200, "data.noise": {"rate": 0.3, "seed": 4}}


def digits_of(**settings):
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return override(load_recipe("digits"), NOISY | dotted)


def test_noise_and_corrections_change_the_training_set_alone(tmp_path):
    plain: Any = make_data(digits_of(data__noise=None), Augmentation(), 0)
    noisy: Any = make_data(digits_of(data__validation=50), Augmentation(), 0)
    clean = make_data(digits_of(data__noise=None, data__validation=50), Augmentation(), 0)
    assert data_digest(noisy.eval_dataset) == data_digest(clean.eval_dataset)
    assert data_digest(noisy.train) != data_digest(clean.train)
    noisy = make_data(digits_of(), Augmentation(), 0)
    wrong = np.flatnonzero(noisy.train.labels != plain.train.labels)
    assert 40 < len(wrong) < 80
    # All of it is undone by corrections, which are of the noisy labels.
    names = {int(id): str(int(plain.train.labels[id])) for id in wrong[10:]}
    made = Corrections(data_digest(noisy.train), frozenset(wrong[:10].tolist()), names)
    files = {f"data__{k}": str(v) for k, v in save_corrections(made, tmp_path).items()}
    fixed: Any = make_data(digits_of(**files), Augmentation(crop=1), 0).train
    kept = made.kept(200)
    assert torch.equal(fixed.labels, plain.train.labels[kept])
    assert data_digest(fixed) == data_digest(plain.train.subset(kept))
    with pytest.raises(DataError, match=r"exclude\.json and .*relabel\.json: made for other data"):
        make_data(digits_of(**files, data__noise=None), Augmentation(), 0)


@pytest.mark.parametrize("key", ["train_size", "validation", "noise", "relabel", "exclude"])
def test_data_of_ones_own_are_not_changed(key, tmp_path):
    value = {"noise": {"rate": 0.1}, "train_size": 3, "validation": 3}.get(key, str(tmp_path))
    recipe = kinds_recipe(data={"path": f"{__name__}:plain_pair", key: value})
    with pytest.raises(DataError, match="change your own data set yourself"):
        make_data(recipe, Augmentation(), 0)


def plain_pair():
    return [(torch.zeros(1), 0)] * 9, None


def test_files_of_corrections_count_by_their_content(tmp_path):
    made = Corrections("d" * 64, frozenset({1}), {2: "3"})
    files = {f"data__{k}": str(v) for k, v in save_corrections(made, tmp_path).items()}
    moved = {key: str(shutil.copy(path, tmp_path / f"{key}.json")) for key, path in files.items()}

    def digest(**settings):
        return run_digest("teach", digits_of(**settings), None)

    assert digest(**files) == digest(**moved)
    others = [{}, {"data__exclude": files["data__exclude"]}, {"data__noise": None}]
    found = {digest(**files), *(digest(**each) for each in others)}
    assert len(found) == 4
    before = digest(**files)
    (tmp_path / "exclude.json").write_text("{}")
    assert digest(**files) != before


def splits_of_kinds(samples):
    return Splits(*kinds(samples=samples))


def test_imported_data_may_be_splits():
    """Whose samples can then be held out, taken and corrected."""
    path = {"path": f"{__name__}:splits_of_kinds", "options": {"samples": 60}}
    recipe = override(kinds_recipe(), {"data": {**path, "validation": 20, "train_size": 30}})
    made: Any = make_data(recipe, Augmentation(), 0)
    assert (len(made.train), len(made.eval_dataset), made.split) == (30, 20, "validation")


def test_augmentation_of_ones_own_pictures_is_kept():
    recipe = kinds_recipe(data__options={"flip": True})
    own = Augmentation(flip=True)
    made: Any = make_data(recipe, recipe.student.augment, 3)
    assert (made.train.augmentation, made.train.seed) == (own, 3)
    assert made.eval_dataset.augmentation == Augmentation()
    plain: Any = make_data(recipe, None, 3)
    assert plain.train.augmentation == Augmentation()
    with pytest.raises(DataError, match=r"toys:kinds is augmented \(.*and augment of the recipe"):
        make_data(recipe, Augmentation(crop=1), 3)
