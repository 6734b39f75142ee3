"""Runs logged to a tracker that records its calls, and fails where a test wants it to."""

from __future__ import annotations

import json
import random
import time
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import tracking as theirs

from frugalkd.errors import FrugalKDWarning, RecipeError, RunFolderError, Stopped, TrackerError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.tracking.trackers import numbers, settings_of

SMALL = {
    "data.train_size": 120,
    "teacher.training.epochs": 3,
    "student.training.epochs": 3,
    "student.objective": {"name": "cross-entropy"},
}


class Recorder(theirs.GeneralTracker):
    """Draws from every stream at each call and prints, as trackers do."""

    name, requires_logging_directory = "wandb", False
    made: list[Recorder] = []  # noqa: RUF012
    fails: str | None = None
    waits = 0.0

    def __init__(self, run_name, **more):
        super().__init__()
        self.arguments = {"run_name": run_name, **more}
        self.settings, self.logged, self.finished = None, [], 0
        self.id = more["id"] or f"id-{len(self.made)}"
        self.made.append(self)

    @property
    def tracker(self):
        return self

    def _called(self, what):
        for draw in (random.random, np.random.rand, lambda: torch.rand(1)):
            draw()
        print("a tracker was here")
        time.sleep(self.waits * (what == "log"))
        if self.fails == what:
            raise ConnectionError(f"no {what}\nin two lines")

    def start(self):
        self._called("start")

    def store_init_configuration(self, values):
        self._called("settings")
        self.settings = values

    def log(self, values, step=None, **more):
        self._called("log")
        self.logged.append((step, values))

    def finish(self):
        self._called("finish")
        self.finished += 1


@pytest.fixture
def recorder(monkeypatch):
    monkeypatch.setitem(theirs.LOGGER_TYPE_TO_CLASS, "wandb", Recorder)
    monkeypatch.setattr(theirs, "get_available_trackers", lambda: ["wandb"])
    for name, value in (("made", []), ("fails", None), ("waits", 0.0)):
        monkeypatch.setattr(Recorder, name, value)
    return Recorder


@pytest.fixture(scope="module")
def plain():
    return override(load_recipe("digits"), SMALL)


@pytest.fixture
def tracked(plain):
    return override(plain, {"trackers": ["wandb"]})


def files(folder):
    names = ("ledger.safetensors", "teacher.safetensors")
    return [(folder / name).read_bytes() for name in names]


def seed_streams(seed):
    random.seed(seed)
    np.random.seed(seed)


def stopping_after(epochs) -> Any:
    """A listener and a stop: the training stops in the epoch after ``epochs``."""
    seen = []
    return {"on_epoch_end": seen.append, "should_stop": lambda: len(seen) == epochs}


@pytest.mark.parametrize(
    "said", ["wandb", ["wandb"], {"wandb": None}, {"wandb": {}}, {"wandb": {"project": None}}]
)
def test_one_line_names_a_tracker(plain, said):
    recipe = override(plain, {"trackers": said})
    assert list(recipe.trackers.chosen) == ["wandb"]
    assert Recipe.model_validate(recipe.model_dump(mode="json")) == recipe


def test_none_is_the_default_and_says_nothing(plain, recorder, tmp_path):
    assert plain.model_dump(mode="json")["trackers"] == {}
    teach(plain, tmp_path / "a")
    assert recorder.made == []
    assert not (tmp_path / "a" / "notes.json").exists()


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("trackers=wandbb", "no such setting trackers.wandbb: did you mean wandb?"),
        ("trackers=[wandb, 3]", "trackers is ['wandb', 3]: it is a section"),
        ("trackers.wandb.projekt=x", "no such setting trackers.wandb.projekt: did you mean proj"),
        ("trackers.wandb=3", "trackers.wandb is 3: it is a section"),
        ("trackers.tensorboard.dir=/etc", "no such setting trackers.tensorboard.dir"),
    ],
)
def test_a_mistyped_tracker_is_one_line(said, line):
    with pytest.raises(RecipeError) as caught:
        load_recipe("digits", [said])
    assert str(caught.value).startswith(line)


def test_trackers_are_no_part_of_the_digest(plain, tracked):
    for kind in ("teach", "distill"):
        assert run_digest(kind, tracked, None) == run_digest(kind, plain, None)


def test_a_missing_tracker_is_named_before_the_training(tracked, monkeypatch, tmp_path):
    monkeypatch.setattr(theirs, "get_available_trackers", lambda: [])
    says = r"^tracker wandb is not installed: pip install 'frugalkd\[wandb\]', or remove it"
    with pytest.raises(TrackerError, match=says):
        teach(tracked, tmp_path / "a")
    assert not list((tmp_path / "a").glob("*.safetensors"))
    assert not (tmp_path / "a" / "metrics.jsonl").exists()


def test_each_epoch_and_the_results_are_logged(tracked, recorder, tmp_path):
    results = teach(override(tracked, {"trackers.wandb.tags": ["x"]}), tmp_path / "a")
    (tracker,) = recorder.made
    assert tracker.arguments["run_name"] == "digits"
    assert tracker.arguments["name"] == "a"
    assert tracker.arguments["tags"] == ["x"]
    assert tracker.settings["teacher.training.epochs"] == 3
    assert tracker.settings["digest"] == results["digest"]
    assert [step for step, _ in tracker.logged] == [0, 1, 2, 3]
    for record, (_, logged) in zip(results["history"], tracker.logged, strict=False):
        assert logged == {f"train/{name}": record[name] for name in record if name != "epoch"}
        assert {"train/loss", "train/lr", "train/rows", "train/participations", "train/screened",
                "train/samples_backpropagated", "train/student_forwards",
                "train/wall_seconds"} <= logged.keys()  # fmt: skip
    last = tracker.logged[-1][1]
    assert last["evaluation/accuracy"] == results["evaluation"]["accuracy"]
    assert last["meters/phases/forward"] == results["meters"]["phases"]["forward"]
    assert last["budget"] == results["budget"]
    assert tracker.finished == 1


def test_a_distillation_is_logged_too(tracked, recorder, tmp_path):
    distill(tracked, tmp_path / "s")
    (tracker,) = recorder.made
    assert tracker.arguments["job_type"] == "distill"
    assert len(tracker.logged) == 4


def test_the_bits_are_those_of_a_run_without(plain, tracked, recorder, tmp_path, capsys):
    teach(plain, tmp_path / "a")
    seed_streams(5)
    expected = random.random(), np.random.rand()
    seed_streams(5)
    teach(tracked, tmp_path / "b")
    assert (random.random(), np.random.rand()) == expected
    assert files(tmp_path / "a") == files(tmp_path / "b")
    out, err = capsys.readouterr()
    assert out == ""  # what trackers print would be no JSON
    assert "a tracker was here" in err


def test_logging_is_its_own_phase(tracked, recorder, monkeypatch, tmp_path):
    monkeypatch.setattr(recorder, "waits", 0.05)
    meters = teach(tracked, tmp_path / "a")["meters"]
    assert 0.15 <= meters["phases"]["track"] <= meters["wall_seconds"]
    others = sum(spent for name, spent in meters["phases"].items() if name != "track")
    assert others == pytest.approx(meters["wall_seconds"] - meters["phases"]["track"])


@pytest.mark.parametrize("what", ["log", "finish"])
def test_a_tracker_that_fails_does_not_stop_the_run(
    plain, tracked, recorder, monkeypatch, tmp_path, what
):
    monkeypatch.setattr(recorder, "fails", what)
    with pytest.warns(FrugalKDWarning, match=rf"^tracker wandb failed \(no {what} in two lines\)"):
        teach(tracked, tmp_path / "a")
    teach(plain, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


@pytest.mark.parametrize("what", ["start", "settings"])
def test_a_tracker_that_does_not_start_is_one_line(tracked, recorder, monkeypatch, tmp_path, what):
    monkeypatch.setattr(recorder, "fails", what)
    with pytest.raises(TrackerError, match=rf"^tracker wandb does not start \(no {what} in two l"):
        teach(tracked, tmp_path / "a")
    assert not (tmp_path / "a" / "metrics.jsonl").exists()


def test_a_resumed_run_continues_the_run_of_the_tracker(plain, tracked, recorder, tmp_path):
    with pytest.raises(Stopped):
        teach(tracked, tmp_path / "a", **stopping_after(2))
    teach(tracked, tmp_path / "a", resume=True)
    first, second = recorder.made
    assert first.arguments["id"] is None
    assert second.arguments["id"] == first.id
    assert first.settings is not None
    assert second.settings is None
    assert first.finished == 1
    assert [step for step, _ in first.logged] == [0, 1]
    assert [step for step, _ in second.logged] == [2, 3]
    teach(plain, tmp_path / "b")
    assert files(tmp_path / "a") == files(tmp_path / "b")


def test_a_late_tracker_receives_earlier_epochs(plain, tracked, recorder, tmp_path):
    with pytest.raises(Stopped):
        teach(plain, tmp_path / "a", **stopping_after(2))
    teach(tracked, tmp_path / "a", resume=True)
    (tracker,) = recorder.made
    assert [step for step, _ in tracker.logged] == [0, 1, 2, 3]


def test_an_epoch_lost_by_a_kill_is_logged_at_the_end(tracked, recorder, tmp_path):
    with pytest.raises(Stopped):
        teach(tracked, tmp_path / "a", **stopping_after(2))
    metrics = tmp_path / "a" / "metrics.jsonl"
    metrics.write_text(metrics.read_text().splitlines()[0] + "\n")  # killed before it was logged
    teach(tracked, tmp_path / "a", resume=True)
    assert [step for step, _ in recorder.made[1].logged] == [2, 1, 3]


def test_another_run_in_the_folder_starts_a_new_one(tracked, recorder, monkeypatch, tmp_path):
    with pytest.raises(Stopped):
        teach(tracked, tmp_path / "a", should_stop=lambda: True)
    for checkpoint in (tmp_path / "a" / "checkpoints").iterdir():
        checkpoint.unlink()
    teach(override(tracked, {"seed": 1}), tmp_path / "a")
    assert [tracker.arguments["id"] for tracker in recorder.made] == [None, None]


@pytest.mark.parametrize("runs", [None, [], {"wandb": 3}])
def test_a_damaged_note_is_named(tracked, recorder, tmp_path, runs):
    with pytest.raises(Stopped):
        teach(tracked, tmp_path / "a", **stopping_after(1))
    note = tmp_path / "a" / "notes.json"
    note.write_text(json.dumps({"schema": 1, "trackers": runs}))
    with pytest.raises(RunFolderError, match=r"notes.json is damaged: delete it"):
        teach(tracked, tmp_path / "a", resume=True)


def test_numbers_are_found_by_their_path():
    tree = {"a": 1, "b": {"c": 0.5, "d": None, "e": "text"}}
    assert numbers(tree, "x") == {"x/a": 1, "x/b/c": 0.5}


def test_settings_are_dotted_keys_of_what_every_tracker_takes():
    said = {"a": {"b": 1, "options": {"any key": [2]}}, "c": None, "d": [1, 2], "e": True}
    assert settings_of(said) == {
        "a.b": 1, "a.options": '{"any key": [2]}', "c": "null", "d": "[1, 2]", "e": True,
    }  # fmt: skip
