"""When checkpoints are saved, which are kept, and which training resumes from them."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frugalkd.errors import (
    FrugalKDWarning,
    RunFolderError,
    SelectionMisuse,
    Stopped,
    WriteFailed,
)
from frugalkd.files.tensors import load_tree, save_tree
from frugalkd.objectives import KD, CrossEntropy, Objective
from frugalkd.policies import All, RandomSubset
from frugalkd.teachers import StoredTargets
from frugalkd.teachers.encodings import Dense
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.checkpoints import Checkpoints, random_state, set_random_state
from frugalkd.training.settings import Checkpointing, Optimizer, Training
from toys import grouped, images, net

TRAINING = Training(epochs=2, batch_size=8, optimizer=Optimizer("sgd", lr=0.05))


def test_all_random_streams_are_restored(tmp_path):
    cpu = torch.device("cpu")

    def draw():
        return [*torch.rand(5).tolist(), random.gauss(0, 1), *np.random.normal(size=3)]

    draw()  # leaves a cached normal value in numpy's and Python's streams
    save_tree(tmp_path / "r", random_state(cpu))
    drawn = draw()
    draw()
    set_random_state(load_tree(tmp_path / "r"), cpu)
    assert draw() == drawn


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_last_are_kept_and_those_of_another_run_removed(tmp_path):
    kept = Checkpoints(tmp_path / "c", Checkpointing(keep=2))
    assert kept.newest() is None
    for epoch, step in ((0, 5), (1, 8), (1, 12)):
        kept.save(epoch, step, {"step": step})
    assert names(kept.folder) == [
        "epoch-00001-step-000000008.safetensors",
        "epoch-00001-step-000000012.safetensors",
    ]
    assert kept.newest() == {"step": 12}
    fresh = Checkpoints(tmp_path / "c", Checkpointing(keep=1))
    fresh.save(0, 3, {"step": 3})
    assert names(kept.folder) == ["epoch-00000-step-000000003.safetensors"]


@pytest.mark.parametrize("keep", [1, 2, 3, 4, 7])
def test_keep_is_how_many_are_kept(keep, tmp_path):
    kept = Checkpoints(tmp_path, Checkpointing(keep=keep))
    for step in range(1, 10):
        kept.save(0, step, {})
        last = range(max(1, step + 1 - keep), step + 1)
        assert names(tmp_path) == [f"epoch-00000-step-{n:09d}.safetensors" for n in last]


@pytest.mark.parametrize("damage", [0, 20, -1])
def test_a_torn_one_is_skipped_with_a_warning(tmp_path, damage):
    kept = Checkpoints(tmp_path, Checkpointing(keep=3))
    for step in (1, 2, 3):
        kept.save(0, step, {"step": step, "x": torch.zeros(9)})
    for name in names(tmp_path)[1:]:
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(whole[:damage])
    with pytest.warns(UserWarning, match="resuming from the one before it"):
        assert kept.newest()["step"] == 1
    (tmp_path / names(tmp_path)[0]).write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="resuming from"),
        pytest.raises(RunFolderError, match=r"; there is no other: delete .* start again$"),
    ):
        kept.newest()


def test_due_by_steps_and_by_minutes(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("frugalkd.training.checkpoints.time.monotonic", lambda: now[0])
    by_steps = Checkpoints(tmp_path / "s", Checkpointing(steps=4, minutes=0))
    assert [step for step in range(1, 10) if by_steps.due(step)] == [4, 8]
    by_minutes = Checkpoints(tmp_path / "m", Checkpointing(minutes=2))
    now[0] += 119
    assert not by_minutes.due(7)
    now[0] += 1
    assert by_minutes.due(8)
    by_minutes.save(0, 8, {})
    assert not by_minutes.due(9)


def test_a_place_that_cannot_be_written(tmp_path, read_only):
    keeper = Checkpoints(tmp_path / "run" / "checkpoints", Checkpointing(keep=1))
    keeper.save(0, 1, {"a": 1})
    read_only(tmp_path)
    with pytest.raises(WriteFailed, match=r"^cannot write .*epoch-00000-step-000000002"):
        keeper.save(0, 2, {"a": 2})
    assert keeper.newest() == {"a": 1}
    with pytest.raises(WriteFailed, match=r"^cannot write .*other: .*: "):
        Checkpoints(tmp_path / "other", Checkpointing()).save(0, 1, {"a": 1})


@dataclass(frozen=True)
class Softened(Objective):
    """Not the objective of anybody else."""

    needs_targets = False

    def __call__(self, logits, targets, labels):
        return F.cross_entropy(logits / 2, labels, reduction="none")


class Plain(Objective):
    """An objective whose text says where it is in memory."""

    needs_targets = False
    __repr__ = object.__repr__

    def __call__(self, logits, targets, labels):
        return F.cross_entropy(logits, labels, reduction="none")


def teach(folder, **given):
    common = {"dataset": images(), "training": TRAINING, "policy": All(), "seed": 1}
    return train_teacher(net(), **grouped(folder=folder, device="cpu", **common | given))


def learn(folder, **given):
    common = {"dataset": images(), "teacher": net(seed=9), "training": TRAINING, "seed": 1}
    return distill(
        given.pop("student", net()), **grouped(folder=folder, device="cpu", **common | given)
    )


def otherwise(model):
    """The same weights, in another model."""
    model[2] = nn.Tanh()
    return model


def begun(train, folder, **given):
    with pytest.raises(Stopped):
        train(folder, should_stop=lambda: True, **given)


@pytest.mark.parametrize("train", [teach, learn])
@pytest.mark.parametrize(
    ("given", "differing"),
    [
        ({"dataset": images(36)}, "data set"),
        ({"dataset": images(augmented=False)}, "augmentation"),
        ({"policy": RandomSubset(0.5)}, "policy"),
        ({"cost": 0.5}, "cost"),
        ({"objective": Softened()}, "objective"),
        ({"training": replace(TRAINING, epochs=3)}, "training.epochs"),
        ({"training": replace(TRAINING, optimizer=Optimizer("sgd"))}, "training.optimizer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_another_training_is_refused_by_name(train, given, differing, tmp_path):
    begun(train, tmp_path)
    with pytest.raises(RunFolderError, match=rf"^(?!.*\n).*other .*{differing}.*start in"):
        train(tmp_path, resume=True, **given)


@pytest.mark.parametrize(
    ("given", "differing"),
    [
        ({"teacher": net(seed=8)}, "teacher"),
        ({"teacher": otherwise(net(seed=9))}, "teacher's model"),
        ({"student": otherwise(net())}, "model"),
        ({"weights": np.arange(37, dtype=np.float32)}, "weights"),
        ({"objective": KD(temperature=2.0)}, "objective"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_student_of_another_teacher_is_refused(given, differing, tmp_path):
    begun(learn, tmp_path)
    with pytest.raises(RunFolderError, match=rf"other {differing}\)?"):
        learn(tmp_path, resume=True, **given)


def test_another_torch_than_the_checkpoints_is_a_warning(tmp_path, monkeypatch):
    with monkeypatch.context() as older:
        older.setattr("frugalkd.training.checkpoints.this_torch", lambda: {"torch": "1.13.0"})
        begun(learn, tmp_path)
    with pytest.warns(FrugalKDWarning, match=r"the checkpoint was made with torch 1\.13\.0, and"):
        learn(tmp_path, resume=True)


def test_stored_targets_of_other_views_are_refused(tmp_path):
    stored = [
        StoredTargets.fill(net(seed=9), images(), views=views, encoding=Dense("float32"))
        for views in (1, 2)
    ]
    begun(learn, tmp_path, teacher=stored[0])
    with pytest.raises(RunFolderError, match="other soft targets"):
        learn(tmp_path, resume=True, teacher=stored[1])
    learn(tmp_path, resume=True, teacher=stored[0])


def test_another_seed_is_refused(tmp_path):
    begun(teach, tmp_path)
    with pytest.raises(SelectionMisuse, match="another seed"):
        teach(tmp_path, resume=True, seed=2)


def test_what_decides_nothing_may_change(tmp_path):
    begun(teach, tmp_path, objective=Plain())
    elsewhere = Plain()
    assert str(elsewhere) != str(Plain())
    training = replace(TRAINING, num_workers=1)
    run = teach(tmp_path, resume=True, objective=elsewhere, training=training)
    whole = teach(tmp_path / "whole", objective=CrossEntropy())
    for one, other in zip(run.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.filterwarnings("ignore:samples of this Drawn differ")
def test_data_that_draw_count_by_their_number(tmp_path):
    class Drawn(torch.utils.data.Dataset):
        def __init__(self, samples):
            self.samples, self.own = samples, np.random.default_rng(0)

        def __len__(self):
            return self.samples

        def __getitem__(self, index):
            return torch.from_numpy(self.own.random((1, 6, 6), dtype=np.float32)), index % 4

    begun(teach, tmp_path, dataset=Drawn(37))
    teach(tmp_path, dataset=Drawn(37), resume=True)
    with pytest.raises(RunFolderError, match="other data set"):
        teach(tmp_path, dataset=Drawn(36), resume=True)
