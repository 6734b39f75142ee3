"""Stored targets give what the live teacher gives, or are refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from frugalkd.api import distill
from frugalkd.data import Augmentation, ImageData
from frugalkd.errors import TargetsError
from frugalkd.policies import SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.training import Optimizer, Training

EPOCHS = 4


def images(seed=0, samples=30):
    stream = torch.Generator().manual_seed(seed)
    return ImageData(
        torch.randint(256, (samples, 1, 6, 6), generator=stream).to(torch.uint8),
        torch.randint(4, (samples,), generator=stream),
        ("a", "b", "c", "d"),
        mean=(0.5,),
        std=(0.25,),
        augmentation=Augmentation(crop=1, flip=True),
        seed=seed,
    )


def net(seed):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 4)
    )


@pytest.mark.parametrize("policy", [None, SelfRegulation(confidence=0.4, max_sleep=1),
                                    SelfRegulation(confidence=0.4, when="now")])  # fmt: skip
def test_with_a_view_for_each_epoch_they_are_the_live_teacher(policy):
    data, teacher, student = images(), net(1), net(2).eval()
    stored = StoredTargets.fill(teacher, data, views=EPOCHS, batch_size=7)
    assert stored.views == EPOCHS
    assert stored.logits.dtype == torch.float32
    assert stored.queries == EPOCHS * len(data)
    seen = []
    for targets in (LiveTeacher(teacher), stored):
        selection = Selection(
            data, policy=policy, epochs=EPOCHS, batch_size=8, targets=targets, model=student
        )
        batches = []
        for epoch in selection:
            for batch in epoch:
                batches.append((batch.ids, batch.data[0], batch.targets))
                with torch.no_grad():
                    batch.observe(student(batch.data[0]))
        seen.append(batches)
    assert len(seen[0]) == len(seen[1]) > EPOCHS
    for (ids, x, live), (same_ids, same_x, kept) in zip(*seen, strict=True):
        assert np.array_equal(ids, same_ids)
        assert torch.equal(x, same_x)
        torch.testing.assert_close(kept, live, rtol=1e-5, atol=1e-5)


def test_a_student_distilled_from_either_is_the_same():
    training = Training(epochs=EPOCHS, batch_size=8, optimizer=Optimizer("sgd", lr=0.02))
    data, teacher, weights = images(), net(1), []
    for targets in (teacher, StoredTargets.fill(teacher, data, views=EPOCHS)):
        run = distill(net(2), data, teacher=targets, training=training, device="cpu")
        weights.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_fewer_views_than_visits_are_cycled_through_with_the_pixels_that_belong_to_them():
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data, views=2)
    teacher.eval()
    for epoch in Selection(data, epochs=5, batch_size=8, targets=stored):
        for batch in epoch:
            view = epoch.index % 2
            pixels = data.batch(batch.ids, np.full(len(batch.ids), view))[0]
            assert torch.equal(batch.data[0], pixels)
            with torch.no_grad():
                torch.testing.assert_close(batch.targets, teacher(pixels), rtol=1e-5, atol=1e-5)
            batch.observe(torch.zeros(len(batch.ids), 4))


def test_another_teacher_other_data_or_another_augmentation_are_refused():
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data)
    stored.check(teacher, data)
    trained = net(1)
    trained(data.batch([0, 1], [0, 0])[0])  # one forward in train mode moves BatchNorm
    for other, what in (
        ((net(2), data), "another teacher"),
        ((trained, data), "another teacher"),
        ((teacher, images(seed=1)), "another data set and another augmentation"),
        ((teacher, data.with_augmentation(Augmentation(crop=2, flip=True))), "augmentation"),
        ((teacher, data.with_augmentation(data.augmentation, seed=7)), "augmentation"),
        ((teacher, data.subset(range(29))), "another data set"),
    ):
        with pytest.raises(TargetsError, match=rf"^(?!.*\n).*{what}"):
            stored.check(*other)


def test_a_file_gives_them_back_and_nothing_else_does(tmp_path):
    data, teacher = images(), net(1)
    stored, path = StoredTargets.fill(teacher, data, views=2), tmp_path / "targets.safetensors"
    stored.save(path)
    loaded = StoredTargets.load(path)
    assert torch.equal(loaded.logits, stored.logits)
    assert (loaded.about, loaded.views, loaded.queries) == (stored.about, 2, 0)
    loaded.check(teacher, data)
    for damage in (b"", b"text", path.read_bytes()[:-9]):
        path.write_bytes(damage)
        with pytest.raises(TargetsError, match=r"^(?!.*\n)"):
            StoredTargets.load(path)
    with pytest.raises(TargetsError):
        StoredTargets.load(tmp_path / "missing")


class Noisy(Dataset):
    """Adds noise of its own to each sample."""

    def __len__(self):
        return 6

    def __getitem__(self, id):
        return torch.rand(3), id % 2


class NoisyViews(Noisy):
    """The same, but as a function of the view."""

    def view(self, id, view):
        stream = torch.Generator().manual_seed(1000 * id + view)
        return torch.rand(3, generator=stream), id % 2


def test_a_data_set_with_its_own_randomness_is_refused_unless_it_takes_views():
    teacher = nn.Linear(3, 2)
    with pytest.raises(TargetsError, match="live teacher"):
        StoredTargets.fill(teacher, Noisy())
    stored = StoredTargets.fill(teacher, NoisyViews(), views=2)
    assert stored.logits.shape == (2, 6, 2)
    assert not torch.equal(stored.logits[0], stored.logits[1])


def test_filling_leaves_teacher_and_streams_as_they_were():
    teacher, data = net(1).train(), TensorDataset(torch.rand(4, 1, 6, 6), torch.zeros(4).long())
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    stream = torch.get_rng_state()
    StoredTargets.fill(teacher, data)
    assert torch.equal(torch.get_rng_state(), stream)
    assert teacher.training
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


def test_targets_of_other_data_are_refused_by_distill():
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data)
    training = Training(epochs=1, batch_size=8)
    for other in (
        images(seed=1),
        data.subset(range(20)),
        data.with_augmentation(Augmentation(flip=True)),
    ):
        with pytest.raises(TargetsError, match="another"):
            distill(net(2), other, teacher=stored, training=training, device="cpu")


def test_truth_is_the_probability_of_the_label_or_of_the_top_class():
    logits = torch.tensor([[[0.0, math.log(3)], [math.log(4), 0.0]], [[9.0, 0.0], [0.0, 9.0]]])
    targets = StoredTargets(logits, {})
    assert targets.truth(torch.tensor([0, 0])) == pytest.approx([0.25, 0.8])
    assert targets.truth(None) == pytest.approx([0.75, 0.8])
