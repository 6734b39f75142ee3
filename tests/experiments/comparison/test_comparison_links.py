"""A comparison's folder from elsewhere leads none of its runs out of it."""

from __future__ import annotations

import pytest

from frugalkd.experiments.comparison import compare
from frugalkd.experiments.recipes.load import override
from planting import KINDS, nothing_is_written_outside, places, refusal


@pytest.fixture
def less(tiny, monkeypatch):
    monkeypatch.setattr("frugalkd.experiments.comparison.pool.EVERY", 0)
    part = {"training.epochs": 1, "training.batch_size": 30}
    settings = {f"{role}.{key}": value for role in ("teacher", "student") for key, value in
                part.items()}  # fmt: skip
    return override(tiny, {**settings, "data.train_size": 60})


# What holds for one run folder holds for each: see tests/files/test_links.py.
COMPARISON = ("comparison.json", ".lock", "runs", "teachers", "stores", "progress")


@pytest.mark.slow
@pytest.mark.parametrize("state", ["begun", "all but one"])
@pytest.mark.heavy
def test_no_way_out_of_a_comparison(workers, less, tmp_path, state):
    check(less, tmp_path, state, "link")


@pytest.mark.heavy
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("state", ["begun", "all but one"])
def test_no_way_out_of_a_comparison_of_all_kinds(workers, less, tmp_path, kind, state):
    check(less, tmp_path, state, kind)


def check(less, tmp_path, state, kind):
    def act(copy):
        content = compare(less, arms=["vanilla"], seeds=1, out=copy)
        failed.extend(run["error"] for run in content["failed"])

    failed, sound = [], tmp_path / "sound"
    act(sound)
    assert not failed
    (sound / ".lock").write_bytes(b"1")
    (sound / "progress").mkdir(exist_ok=True)
    student, teacher = next((sound / "runs").iterdir()), next((sound / "teachers").iterdir())
    stores = sorted(teacher.glob("targets-*"))
    assert len(stores) == 2
    wanted = [student, teacher, *stores, *(store / "rows-00000.bin" for store in stores)]
    wanted += [student / "run.json", *(sound / name for name in COMPARISON)]
    (student / "results.json").unlink()
    if state == "begun":
        (teacher / "results.json").unlink()
        for store in stores:
            (store / "header.json").unlink()
    found = [str(place.relative_to(sound)) for place in wanted]
    assert set(found) <= set(places(sound))

    def again(copy):
        refusal(act, copy)

    tried = nothing_is_written_outside(sound, again, kind, tmp_path, found)
    assert tried == len(found) - (kind == "hard link") * 8
    assert all("\n" not in line for line in failed)
    linked = kind.endswith("link") and kind != "hard link"
    assert not linked or any("is a symbolic link" in line for line in failed)
