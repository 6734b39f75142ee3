"""A run's summary describes its ledger and its course, and stays small."""

from __future__ import annotations

import json

import numpy as np
import pytest

from frugalkd.errors import RunFolderError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach
from frugalkd.experiments.runs.summary import (
    FILE,
    LARGEST,
    mean_history,
    read_summary,
    write_summary,
)
from frugalkd.ledger.ledger import Ledger


def ledger(classes, epochs=4.0):
    made = Ledger.new(10 * len(classes), labels=np.repeat(np.arange(len(classes)), 10))
    made["participations"][:] = np.arange(len(made)) % 5
    made.epochs, made.about = epochs, {"classes": "\n".join(classes)}
    return made


def test_a_run_leaves_its_summary(tmp_path):
    recipe = override(
        load_recipe("digits"),
        {
            "data.train_size": 100,
            "teacher.model": {"name": "mlp", "options": {"hidden": [8]}},
            "teacher.training.epochs": 2,
        },
    )
    teach(recipe, tmp_path)
    found, record = read_summary(tmp_path), Ledger.load(tmp_path)
    assert found is not None
    assert (found["schema"], found["kind"], found["samples"]) == (1, "teach", 100)
    assert found["mean"] == pytest.approx(float(record.significance.mean()))
    assert sum(found["histogram"]) == 100
    assert {sample["significance"] for sample in found["most"]} <= {0.5, 1.0}


@pytest.mark.parametrize("name", ["{}", "{}" + "😀" * 500, "\u202e{}\u0000" + "x" * 10_000])
def test_many_classes_of_any_name_stay_small(tmp_path, name):
    write_summary(tmp_path, "teach", ledger([name.format(k) for k in range(1500)]))
    assert (tmp_path / FILE).stat().st_size <= LARGEST
    found = read_summary(tmp_path)
    assert found is not None
    assert len(found["classes"]) + found["classes_left_out"] == 1500
    assert len(found["classes"]) >= 20
    assert found["classes"][0]["mean"] >= found["classes"][-1]["mean"]


def test_nothing_where_no_epoch_ended(tmp_path):
    write_summary(tmp_path, "teach", ledger(["a"], epochs=0))
    assert not (tmp_path / FILE).exists()
    assert read_summary(tmp_path) is None


def test_a_damaged_one_is_refused(tmp_path):
    (tmp_path / FILE).write_text(json.dumps({"schema": 7}))
    with pytest.raises(RunFolderError, match="newer frugalkd"):
        read_summary(tmp_path)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(RunFolderError, match="damaged"):
        read_summary(tmp_path)


def epochs(rows, samples=1000):
    return [
        {"epoch": k, "samples": samples, "rows": n, "participations": n // 2, "screened": samples}
        for k, n in enumerate(rows)
    ]


def test_few_epochs_are_kept_as_they_are():
    found = mean_history([epochs([1000, 500, 250])])
    assert found == {
        "every": 1,
        "trained": [1.0, 0.5, 0.25],
        "participations": [0.5, 0.25, 0.125],
        "screened": [1.0, 1.0, 1.0],
    }


@pytest.mark.parametrize("count", [100, 101, 500, 1234])
def test_many_epochs_are_averaged_a_few_at_a_time(count):
    rows = np.random.default_rng(0).integers(0, 1001, count)
    found = mean_history([epochs(rows.tolist())])
    assert found is not None
    every = found["every"]
    assert every == -(-count // 100)
    parts = [rows[at : at + every].mean() / 1000 for at in range(0, count, every)]
    assert found["trained"] == pytest.approx(parts, abs=1e-4)
    assert len(found["trained"]) == len(found["screened"]) <= 100


def test_later_epochs_are_means_of_the_longer_runs():
    found = mean_history([epochs([1000]), epochs([500, 200])])
    assert found is not None
    assert found["trained"] == [0.75, 0.2]


@pytest.mark.parametrize("none", [[], [[]]])
def test_no_epoch_gives_no_history(none):
    assert mean_history(none) is None
