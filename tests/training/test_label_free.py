"""Without labels: none of them has any influence, whatever decides which samples are used."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from frugalkd import Sampling
from frugalkd.errors import RecipeError, RunFolderError, SelectionMisuse, Stopped
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.execute import distill as distill_recipe
from frugalkd.experiments.runs.execute import teach
from frugalkd.models.saved import load
from frugalkd.objectives import DKD, KD, CrossEntropy
from frugalkd.policies import POLICIES, All, RandomSubset, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher, SeveralTeachers, StoredTargets
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Training
from toys import grouped, images, net, same_columns, same_state

TRAINING = Training(epochs=3, batch_size=8, optimizer=Optimizer("sgd", lr=0.1))
LABELS = {
    "right": lambda labels: labels,
    "shuffled": lambda labels: (labels + 1 + torch.arange(len(labels)) % 3) % 4,
    "placeholders": lambda labels: torch.full_like(labels, -1),
}


def data(labels="right", **more):
    made = images(**more)
    made.labels = LABELS[labels](made.labels)
    return made


def learn(labels="right", *, policy=None, teacher=None, augmented=True, **more):
    made = data(labels, augmented=augmented)
    teacher = teacher or net(seed=9)
    if teacher == "stored":
        teacher = StoredTargets.fill(net(seed=9), made)
    common = {"policy": policy or All(), "training": TRAINING, "label_free": True, "seed": 4}
    return distill(net(), made, **grouped(teacher=teacher, device="cpu", **common | more))


def check_same_run(one, other):
    assert same_state(one.model, other.model)
    assert same_columns(one.ledger, other.ledger)
    assert one.meters.samples_backpropagated == other.meters.samples_backpropagated


@pytest.mark.parametrize("name", POLICIES)
def test_no_policy_is_moved_by_labels(name):
    """Those that need labels refuse."""
    policy = POLICIES[name]()
    if policy.scoring is not None:
        scores = np.zeros(37, dtype=np.float32)
        with pytest.raises(SelectionMisuse, match="trainings on labels"):
            learn(policy=policy, scores=scores)
        return
    right, shuffled = (learn(labels, policy=policy) for labels in ("right", "shuffled"))
    check_same_run(right, shuffled)
    assert not same_state(right.model, net())


GATES = {
    "now": SelfRegulation(0.4, when="now"),
    "ceiling": SelfRegulation(0.4, ceiling=0.9),
    "budget": SelfRegulation(0.4, budget=0.5),
}


@pytest.mark.filterwarnings("ignore:no sample that is used is of")
@pytest.mark.parametrize("policy", GATES.values(), ids=GATES)
def test_a_gate_tests_whether_student_and_teacher_agree(policy):
    """It is the gate that judges by the teacher, with labels that are the teacher's word."""
    made = data(augmented=False)
    with torch.no_grad():
        word = net(seed=9).eval()(made.batch(range(37), np.zeros(37, int))[0]).argmax(1)
    free = learn("placeholders", policy=policy, teacher="stored", augmented=False)
    check_same_run(free, learn("shuffled", policy=policy, teacher="stored", augmented=False))
    made.labels = word
    labelled = distill(
        net(),
        made,
        teacher=StoredTargets.fill(net(seed=9), made),
        sampling=Sampling(policy=policy),
        training=TRAINING,
        seed=4,
        device="cpu",
    )
    check_same_run(free, labelled)


@pytest.mark.parametrize("objective", [KD(alpha=0.5), DKD()])
def test_no_objective_is_moved_by_labels(objective):
    check_same_run(learn("right", objective=objective), learn("placeholders", objective=objective))


def test_a_loop_of_ones_own_gets_the_teachers_word():
    teacher = net(seed=9)
    selection = Selection(
        data("placeholders"),
        epochs=1,
        batch_size=8,
        targets=LiveTeacher(teacher),
        sampling=Sampling(policy=All(), label_free=True),
    )
    for batch in next(iter(selection)):
        assert batch.targets is not None
        assert torch.equal(batch.labels, batch.targets.argmax(1))
        batch.observe(batch.targets)


def test_what_needs_labels_is_refused_in_one_line():
    two = [net(seed=1), net(seed=2)]
    cases = [
        ("learns from a teacher alone", {"objective": CrossEntropy()}),
        ("plans by class", {"policy": RandomSubset(balanced=True)}),
        ("confidence in a label", {"teacher": SeveralTeachers(two, "confidence")}),
    ]
    for words, more in cases:
        with pytest.raises(SelectionMisuse, match=words) as raised:
            learn(**more)
        assert "\n" not in str(raised.value)
    learn(teacher=SeveralTeachers(two), training=Training(epochs=1))


def test_one_with_labels_does_not_resume_one_without(tmp_path):
    with pytest.raises(Stopped):
        learn(folder=tmp_path, should_stop=lambda: True)
    with pytest.raises(RunFolderError, match=r"another training \(other labels\)"):
        learn(folder=tmp_path, resume=True, label_free=False)


def test_a_recipe_reads_none_of_the_digits_labels(tmp_path, monkeypatch):
    small = {
        "data.train_size": 100,
        "teacher.training.epochs": 6,
        "student.training.epochs": 3,
        "student.label_free": True,
    }
    recipe = override(load_recipe("digits"), small)
    teach(recipe, tmp_path / "teacher")
    results = distill_recipe(recipe, tmp_path / "right", teacher=tmp_path / "teacher")
    from frugalkd.experiments.runs import execute

    make_data = execute.make_data

    def shuffled(*given):
        made = make_data(*given)
        train: Any = made.train
        train.labels = train.labels.roll(1)
        return made

    monkeypatch.setattr(execute, "make_data", shuffled)
    other = distill_recipe(recipe, tmp_path / "other", teacher=tmp_path / "teacher")
    assert same_state(load(tmp_path / "right").model, load(tmp_path / "other").model)
    assert results["evaluation"] == other["evaluation"]
    labelled = override(recipe, {"student.label_free": False})
    assert run_digest("distill", labelled, None) != run_digest("distill", recipe, None)
    for setting in (
        {"student.objective": {"name": "cross-entropy"}},
        {"student.mode": None, "student.policy": {"name": "el2n"}},
        {"student.teachers": {"combine": "confidence", "of": {"a": {}, "b": {"folder": "x"}}}},
    ):
        with pytest.raises(RecipeError, match=r"student: .*label"):
            override(recipe, setting)
