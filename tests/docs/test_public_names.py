"""What a user imports is the same object at every access, and paths are text or ``os.PathLike``."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import frugalkd
from frugalkd import (
    All,
    FirstVisitTargets,
    Ledger,
    Sampling,
    StoredTargets,
    Training,
)
from frugalkd.experiments.comparison import demo
from frugalkd.experiments.recipes.load import load_recipe, recipe_text
from frugalkd.experiments.runs.chain import chain
from frugalkd.integrations.lightning import FrugalCallback
from frugalkd.integrations.transformers import FrugalTrainer
from frugalkd.ledger.from_log import ledger_from_log
from toys import grouped, images, net, same_state

NAMES = """
import importlib, pkgutil, types
import frugalkd

def read(packages):
    return [(module.__name__, name, getattr(module, name))
            for module in packages for name in module.__all__]

first = read([frugalkd]) + read([frugalkd])
found = [module.name for module in pkgutil.walk_packages(frugalkd.__path__, "frugalkd.")
         if not module.name.endswith("__main__") and ".integrations." not in module.name]
for name in found:
    importlib.import_module(name)
packages = [module for module in map(importlib.import_module, ["frugalkd", *found])
            if hasattr(module, "__all__")]
second = read(packages) + read(packages)
objects = {}
for home, name, value in first + second:
    assert not isinstance(value, types.ModuleType), f"{home}.{name} is a module"
    assert objects.setdefault((home, name), value) is value, f"{home}.{name} is two things"
print(len(packages), len(objects))
"""


@pytest.mark.heavy
def test_every_public_name_is_one_object_and_no_module():
    """Also once every submodule was imported: a module may not bear the name of a function."""
    done = subprocess.run(
        [sys.executable, "-c", NAMES], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    packages, objects = map(int, done.stdout.split())
    assert packages > 8
    assert objects > 100


def test_compare_is_the_only_experiment_among_the_public_names():
    homes = frugalkd._HOMES
    outside = {name for name, home in homes.items() if home.startswith(("experiments", "cli"))}
    assert outside == {"compare"}


class Somewhere(os.PathLike):
    """A path that is neither text nor a ``pathlib.Path``."""

    def __init__(self, path):
        self._path = str(path)

    def __fspath__(self):
        return self._path


PUBLIC = [
    *(getattr(frugalkd, name) for name in frugalkd.__all__), demo, chain, load_recipe,
    ledger_from_log, FrugalCallback, FrugalTrainer,
]  # fmt: skip
METHODS = ("new", "save", "load", "export", "fill")


def path_parameters():
    """Every parameter of the public functions, constructors and methods that takes a path."""
    for thing in PUBLIC:
        if thing is frugalkd.FrugalKDError:
            continue
        calls = [thing, *(getattr(thing, name) for name in METHODS if inspect.isclass(thing)
                          and hasattr(thing, name))]  # fmt: skip
        for call in filter(callable, calls):
            for parameter in inspect.signature(call).parameters.values():
                if "Path" in str(parameter.annotation):
                    yield f"{call.__qualname__}({parameter.name})", str(parameter.annotation)


def test_every_path_parameter_takes_text_and_pathlike():
    found = dict(path_parameters())
    assert {name: kind for name, kind in found.items() if "StrPath" not in kind} == {}
    assert set(found) >= {
        "RunOptions(folder)", "compare(out)", "demo(out)", "chain(out)", "chain(teacher)",
        "load(path)", "load_data(root)", "load_recipe(name_or_path)", "Ledger.save(path)",
        "Ledger.load(path)", "Ledger.export(path)", "Ledger.new(folder)", "StoredTargets(folder)",
        "StoredTargets.fill(folder)", "FirstVisitTargets(folder)", "FrugalCallback(store)",
        "FrugalTrainer(teacher)", "FrugalTrainer(store)", "build_model(init_weights)",
        "ledger_from_log(path)",
    }  # fmt: skip


@pytest.fixture(params=[str, Somewhere], ids=["str", "PathLike"])
def kind(request):
    """Makes a path of the kind that a user gives."""
    return request.param


SHORT = Training(epochs=1, batch_size=16)


def test_checkpoints(kind, tmp_path):
    data, folder = images(), kind(tmp_path / "new" / "kept")
    given = {"training": SHORT, "folder": folder, "device": "cpu"}
    frugalkd.train_teacher(net(), data, **grouped(**given))
    assert len(list((tmp_path / "new" / "kept").glob("epoch-*"))) == 1
    again = [
        frugalkd.train_teacher(net(seed), data, **grouped(resume=True, **given)) for seed in (1, 2)
    ]
    assert same_state(again[0].model, again[1].model)
    other = {**given, "folder": kind(tmp_path / "student")}
    frugalkd.distill(net(), data, **grouped(teacher=net(1), policy=All(), **other))
    assert len(list((tmp_path / "student").glob("epoch-*"))) == 1
    head = {**given, "folder": kind(tmp_path / "head")}
    frugalkd.train_head(net(), images(augmented=False), **grouped(**head))
    assert len(list((tmp_path / "head").glob("epoch-*"))) == 1


def test_a_ledger(kind, tmp_path, monkeypatch):
    monkeypatch.setattr("frugalkd.files.arrays.MAPPED_FROM", 1)
    ledger = Ledger.new(5, folder=kind(tmp_path / "columns"))
    ledger.save(kind(tmp_path / "ledger.safetensors"))
    for path in (tmp_path, tmp_path / "ledger.safetensors"):
        assert len(Ledger.load(kind(path))) == 5
    ledger.export(kind(tmp_path / "table.csv"))
    assert (tmp_path / "table.csv").read_text().startswith("id,")
    np.savetxt(tmp_path / "log.csv", [], header="epoch,id,confidence,correct", comments="")
    with pytest.raises(frugalkd.FrugalKDError, match=r"log\.csv"):
        ledger_from_log(kind(tmp_path / "log.csv"), 5)


def test_stores(kind, tmp_path):
    data = images()
    StoredTargets.fill(net(), data, kind(tmp_path / "store"))
    assert len(StoredTargets(kind(tmp_path / "store")).all_logits()) == len(data)
    first = FirstVisitTargets(net(), data, kind(tmp_path / "first"))
    frugalkd.distill(
        net(1), data, teacher=first, sampling=Sampling(policy=All()), training=SHORT, device="cpu"
    )
    first.close()
    assert StoredTargets(kind(tmp_path / "first")).store.header.samples == len(data)


def test_a_recipe_a_run_and_a_chain(kind, tmp_path):
    (tmp_path / "mine.yaml").write_text(recipe_text("digits"))
    short = [
        f"{role}.training.epochs=1" for role in ("teacher", "student")
    ] + ["data.train_size=40", "student.mode=regulated"]  # fmt: skip
    recipe = load_recipe(kind(tmp_path / "mine.yaml"), short)
    chain([recipe], kind(tmp_path / "chain"))
    where = tmp_path / "chain" / "1-teacher"
    chain([recipe], kind(tmp_path / "again"), teacher=kind(where))
    assert (tmp_path / "again" / "1-student" / "student.safetensors").is_file()
    loaded = frugalkd.load(kind(where))
    assert loaded.classes == tuple("0123456789")
    weights = kind(where / "teacher.safetensors")
    model = recipe.teacher.model
    made = frugalkd.build_model(
        model.name or "", num_classes=10, in_channels=1, image_size=8, init_weights=weights,
        **model.options,
    )  # fmt: skip
    assert same_state(made, loaded.model)


def test_data(kind, tmp_path):
    assert len(frugalkd.load_data("digits", kind(tmp_path)).train) > 1000
    with pytest.raises(frugalkd.FrugalKDError, match=str(Path(tmp_path, "pictures"))):
        frugalkd.load_data("image-folder", kind(tmp_path), path=kind("pictures"))
