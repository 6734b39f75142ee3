"""The scores that a recipe's policy needs: computed once, kept, shared, and resumed."""

from __future__ import annotations

import json
import shutil
import threading
import time

import numpy as np
import pytest

from frugalkd.errors import RunFolderError, Stopped
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs import scores as module
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.experiments.runs.schema import Results
from frugalkd.experiments.runs.scores import FILE, load_scores
from frugalkd.files.arrays import save_arrays
from frugalkd.files.lock import Lock
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import Forgetting

SMALL = {
    "data.train_size": 200,
    "teacher.training.epochs": 3,
    "student.training.epochs": 4,
    "student.mode": None,
    "student.policy": {"name": "el2n", "budget": 0.3, "epochs": 2, "seeds": 2},
}


@pytest.fixture(scope="module")
def recipe():
    return override(load_recipe("digits"), SMALL)


def files(folder):
    return sorted(folder.rglob(FILE))


def weights(folder):
    return (folder / "student.safetensors").read_bytes()


def test_students_of_all_seeds_share_scores(recipe, teacher, tmp_path):
    first = distill(recipe, tmp_path / "a", teacher=teacher)
    again = distill(override(recipe, {"seed": 1}), tmp_path / "b", teacher=teacher)
    for results in (first, again):
        described = Results.model_validate(results)
        assert described.model_dump(mode="json", by_alias=True, exclude_unset=True) == results
        assert results["meters"]["samples_backpropagated"] == 4 * 60
        assert results["scoring"]["samples_backpropagated"] == 2 * 2 * 200
        assert results["scoring"]["student_forwards"] == 2 * 3 * 200
        assert (results["scoring"]["kind"], results["scoring"]["seeds"]) == ("el2n", 2)
    assert first["scoring"].pop("made_here")
    assert not again["scoring"].pop("made_here")
    assert first["scoring"] == again["scoring"]
    (kept,) = files(teacher)
    assert str(kept.relative_to(teacher)) == first["scoring"]["file"]
    assert sorted(path.name for path in kept.parent.iterdir()) == [FILE]
    ledger = Ledger.load(tmp_path / "a")
    assert np.array_equal(ledger["score"], Ledger.load(tmp_path / "b")["score"])
    chosen = np.flatnonzero(ledger["visits"])
    assert set(chosen) == set(np.argsort(-ledger["score"])[:60])


@pytest.mark.heavy
def test_made_and_kept_scores_give_the_same_student(recipe, teacher, tmp_path):
    live = override(recipe, {"student.targets.kind": "live", "student.augment.crop": 1, "seed": 5})
    distill(live, tmp_path / "a", teacher=teacher)
    distill(live, tmp_path / "b", teacher=teacher)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    distill(override(live, {"seed": 6}), tmp_path / "c", teacher=teacher)
    assert len(files(teacher)) == 1


@pytest.mark.heavy
def test_each_setting_that_decides_scores_has_its_file(recipe, teacher, tmp_path):
    changes = {
        "same": {"student.objective.temperature": 2.0, "student.training.epochs": 2},
        "model": {"student.model.options.hidden": [12]},
        "training": {"student.training.optimizer.lr": 0.01},
        "data": {"data.train_size": 150},
        "augment": {"student.augment.crop": 1},
        "scoring": {"student.policy.epochs": 2},
        "threads": {"threads": 2},
    }
    digests = set()
    short = {"epochs": 1, "seeds": 1}
    recipe = override(recipe, {f"student.policy.{name}": value for name, value in short.items()})
    recipe = override(recipe, {"student.training.epochs": 1})
    distill(recipe, tmp_path / "as it is", teacher=teacher)
    for count, (name, change) in enumerate(changes.items(), 1):
        results = distill(override(recipe, change), tmp_path / name, teacher=teacher)
        digests.add(results["scoring"]["digest"])
        assert len(files(teacher)) == count
    assert len(digests) >= 6  # with two threads they may come out the same


@pytest.mark.parametrize("policy", ["el2n", "forgetting", "rho-loss"])
def test_without_a_teacher_they_are_in_the_runs_folder(recipe, tmp_path, policy):
    alone = override(
        recipe,
        {
            "student.objective": {"name": "cross-entropy"},
            "student.policy": {"name": policy, "epochs": 2},
        },
    )
    results = distill(alone, tmp_path / "a")
    assert len(files(tmp_path / "a")) == 1
    assert results["scoring"]["made_here"]
    if policy == "rho-loss":
        assert results["meters"]["student_forwards"] == 4 * 200 + 4 * 20
        assert results["budget"] == pytest.approx(0.1)


def test_a_teacher_that_cannot_be_written(recipe, teacher, tmp_path, monkeypatch):
    there = sorted(teacher.iterdir())
    monkeypatch.setattr("os.access", lambda path, mode: path != teacher)
    results = distill(recipe, tmp_path / "a", teacher=teacher)
    assert sorted(teacher.iterdir()) == there
    assert results["scoring"]["made_here"]
    assert len(files(tmp_path / "a")) == 1


def test_a_teacher_may_need_scores_too(recipe, tmp_path):
    policy = {"name": "forgetting", "budget": 0.5, "epochs": 2}
    results = teach(override(recipe, {"teacher.policy": policy}), tmp_path / "t")
    assert results["scoring"]["made_here"]
    assert results["meters"]["samples_backpropagated"] == 3 * 100
    assert len(files(tmp_path / "t")) == 1


def test_without_a_scoring_policy_there_is_no_scoring_run(recipe, teacher, tmp_path):
    assert json.loads((teacher / "results.json").read_text())["scoring"] is None
    plain = override(recipe, {"student.policy": {"name": "random"}})
    assert distill(plain, tmp_path / "a", teacher=teacher)["scoring"] is None
    assert not files(teacher)


class Killed(BaseException):
    """The process ends here."""


def test_a_killed_scoring_run_starts_again(recipe, teacher, tmp_path, monkeypatch):
    undisturbed = distill(recipe, tmp_path / "a", teacher=teacher)
    shutil.rmtree(files(teacher)[0].parent)
    calls = []

    def stop():
        calls.append(1)
        return len(calls) == 7

    with pytest.raises(Stopped):
        distill(recipe, tmp_path / "b", teacher=teacher, should_stop=stop)
    assert not files(teacher)

    def kill(*_):
        raise Killed

    monkeypatch.setattr(module, "save_arrays", kill)
    with pytest.raises(Killed):
        distill(recipe, tmp_path / "b", teacher=teacher, resume=True)
    monkeypatch.undo()
    resumed = distill(recipe, tmp_path / "b", teacher=teacher, resume=True)
    assert weights(tmp_path / "a") == weights(tmp_path / "b")
    for results in (undisturbed, resumed):
        results["scoring"].pop("wall_seconds")
    assert resumed["scoring"] == undisturbed["scoring"]


def test_a_resumed_run_still_made_its_scores(recipe, teacher, tmp_path):
    stopped = []

    def stop():
        made = bool(files(teacher))
        stopped.append(made)
        return made

    with pytest.raises(Stopped):
        distill(recipe, tmp_path / "a", teacher=teacher, should_stop=stop)
    beside = shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert distill(recipe, tmp_path / "a", teacher=teacher, resume=True)["scoring"]["made_here"]
    # What another run noted in the same folder is not this one's.
    shutil.rmtree(beside / "checkpoints")
    other = override(recipe, {"seed": 1})
    assert not distill(other, beside, teacher=teacher)["scoring"]["made_here"]


def test_a_damaged_file_is_one_line(recipe, teacher, tmp_path):
    distill(recipe, tmp_path / "a", teacher=teacher)
    (path,) = files(teacher)
    whole = path.read_bytes()
    assert len(load_scores(path)[0]) == 200
    for place in [*range(0, len(whole), 97), len(whole) - 1]:
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(RunFolderError, match=r"^(?!.*\n).*scores\.safetensors"):
            load_scores(path)
    with pytest.raises(RunFolderError, match=r"scores\.safetensors"):
        distill(recipe, tmp_path / "b", teacher=teacher)
    path.unlink()
    assert distill(recipe, tmp_path / "b", teacher=teacher)["scoring"]["made_here"]


def test_a_sound_file_of_something_else_is_refused(tmp_path):
    path = tmp_path / FILE
    for arrays, meters in (({}, {"wall_seconds": 1.0}), ({"score": np.zeros(3)}, {})):
        save_arrays(path, "scores", arrays, {"schema": 1, "meters": meters})
        with pytest.raises(RunFolderError, match="delete it"):
            load_scores(path)
    meters = dict.fromkeys(["samples_backpropagated", "student_forwards", "wall_seconds"], 1)
    save_arrays(path, "scores", {"score": np.zeros(3)}, {"schema": 1, "meters": meters})
    with pytest.raises(RunFolderError, match="another scoring run: delete it"):
        load_scores(path, {"seed": 0})


@pytest.mark.heavy
def test_a_second_process_waits_for_the_scores(recipe, teacher, tmp_path):
    distill(recipe, tmp_path / "a", teacher=teacher)
    (path,) = files(teacher)
    made = path.read_bytes()
    path.unlink()
    lock = Lock(path.parent)

    def finish():
        time.sleep(0.5)
        path.write_bytes(made)
        lock.release()

    other = threading.Thread(target=finish)
    other.start()
    results = distill(recipe, tmp_path / "b", teacher=teacher)
    other.join()
    assert not results["scoring"]["made_here"]
    assert weights(tmp_path / "a") == weights(tmp_path / "b")


@pytest.mark.parametrize("policy", ["el2n", "rho-loss"])
@pytest.mark.heavy
def test_from_the_command_line(cli, trained, tmp_path, policy):
    teacher = shutil.copytree(trained, tmp_path / "t")
    out = str(tmp_path / "s")
    words = ["distill", "digits", "--teacher", str(teacher), "--out", out]
    words += ["--set", "student.mode=null", "--set", f"student.policy={{name: {policy}}}"]
    words += ["--set", "student.training.epochs=6", "--set", "data.train_size=300"]
    code, shown, _ = cli(*words)
    assert code == 0
    assert "scoring run" in shown
    results = json.loads(cli(*words, "--json")[1])
    assert results["train_samples"] == 300
    assert results["budget"] == pytest.approx({"el2n": 0.5, "rho-loss": 0.1}[policy], abs=0.01)
    kind = {"el2n": "el2n", "rho-loss": "holdout-loss"}[policy]
    assert results["scoring"]["kind"] == kind


def test_the_policys_scoring_is_what_is_made(recipe, teacher, tmp_path):
    policy = {"name": "forgetting", "epochs": 6, "seeds": 1, "budget": 0.4}
    results = distill(override(recipe, {"student.policy": policy}), tmp_path / "a", teacher=teacher)
    scores = Ledger.load(tmp_path / "a")["score"]
    assert scores.max() <= 6
    assert len(np.unique(scores)) > 1
    assert results["scoring"]["epochs"] == Forgetting(epochs=6).scoring.epochs
