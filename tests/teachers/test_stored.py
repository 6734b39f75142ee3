"""Stored targets give what the live teacher gives, or are refused."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from frugalkd import DataLoading, Sampling
from frugalkd.data import Augmentation, ImageData
from frugalkd.errors import FrugalKDWarning, TargetsError
from frugalkd.objectives import KD
from frugalkd.policies import SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import (
    FillOptions,
    FirstVisitTargets,
    LiveTeacher,
    SeveralTeachers,
    StoredTargets,
)
from frugalkd.teachers.encodings import Dense, Sampled, TopK
from frugalkd.teachers.store import Header, Store, create_store
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Training

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


@pytest.mark.parametrize("policy", [None, SelfRegulation(confidence=0.4, max_skip=1),
                                    SelfRegulation(confidence=0.4, when="now")])  # fmt: skip
def test_with_a_view_for_each_epoch_they_are_the_live_teacher(policy):
    data, teacher, student = images(), net(1), net(2).eval()
    stored = StoredTargets.fill(
        teacher, data, views=EPOCHS, encoding=Dense("float32"), batch_size=7
    )
    assert stored.views == EPOCHS
    assert stored.queries == EPOCHS * len(data)
    seen = []
    for targets in (LiveTeacher(teacher), stored):
        selection = Selection(
            data,
            epochs=EPOCHS,
            batch_size=8,
            targets=targets,
            model=student,
            sampling=Sampling(policy=policy),
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
    exact = StoredTargets.fill(teacher, data, views=EPOCHS, encoding=Dense("float32"))
    for targets in (teacher, exact):
        run = distill(net(2), data, teacher=targets, training=training, device="cpu")
        weights.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    torch.testing.assert_close(*weights, rtol=1e-4, atol=1e-5)


def test_fewer_views_than_visits_are_cycled_with_their_pixels():
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data, views=2, encoding=Dense("float32"))
    teacher.eval()
    for epoch in Selection(data, epochs=5, batch_size=8, targets=stored):
        for batch in epoch:
            view = epoch.index % 2
            pixels = data.batch(batch.ids, np.full(len(batch.ids), view))[0]
            assert torch.equal(batch.data[0], pixels)
            with torch.no_grad():
                torch.testing.assert_close(batch.targets, teacher(pixels), rtol=1e-5, atol=1e-5)
            batch.observe(torch.zeros(len(batch.ids), 4))


def test_other_data_or_another_augmentation_is_refused():
    data = images()
    stored = StoredTargets.fill(net(1), data)
    stored.check(data)
    for other, what in (
        (images(seed=1), "another data set and another augmentation"),
        (data.with_augmentation(Augmentation(crop=2, flip=True)), "augmentation"),
        (data.with_augmentation(data.augmentation, seed=7), "augmentation"),
        (data.subset(range(29)), "another data set"),
    ):
        with pytest.raises(TargetsError, match=rf"^(?!.*\n).*{what}"):
            stored.check(other)


def at(rows, view=0):
    ids = np.asarray(rows)
    return ids, np.full(len(ids), view)


@pytest.mark.parametrize("view", [0, 1])
def test_float32_equals_the_live_teacher_on_the_same_batches(view):
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data, views=2, encoding=Dense("float32"), batch_size=8)
    live = LiveTeacher(teacher)
    for rows in np.split(np.arange(30), [8, 16, 24]):
        batch = data.batch(*at(rows, view))
        assert torch.equal(stored.fetch(*at(rows, view), batch), live.fetch(*at(rows, view), batch))


def test_float16_gives_nearly_the_live_distribution():
    data, teacher = images(), net(1)
    stored, rows = StoredTargets.fill(teacher, data), at(range(30))
    live = LiveTeacher(teacher).fetch(*rows, data.batch(*rows))
    got = stored.fetch(*rows, None)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got.softmax(1), live.softmax(1), rtol=2e-3, atol=1e-4)
    assert torch.equal(got.argmax(1), live.argmax(1))


def test_a_folder_gives_them_back_without_queries(tmp_path):
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data, tmp_path / "t", views=2)
    assert (stored.queries, stored.store.count()) == (60, 60)
    loaded = StoredTargets(tmp_path / "t")
    assert (loaded.about, loaded.views, loaded.queries) == (stored.about, 2, 0)
    for view in range(2):
        assert np.array_equal(loaded.all_logits(view), stored.all_logits(view))
    loaded.check(data)
    assert StoredTargets.fill(teacher, data, tmp_path / "t", views=2).queries == 0
    with pytest.raises(TargetsError, match="frugalkd store"):
        StoredTargets(tmp_path / "missing")


def test_without_a_folder_nothing_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    stored = StoredTargets.fill(net(1), images())
    assert not list(tmp_path.iterdir())
    assert stored.fetch(*at([3, 4]), None).shape == (2, 4)


def test_only_the_given_samples_are_stored():
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data, ids=np.array([4, 7, 29]))
    assert stored.queries == 3
    assert stored.fetch(*at([29, 4]), None).shape == (2, 4)
    assert np.flatnonzero(np.isfinite(stored.all_logits()).all(axis=1)).tolist() == [4, 7, 29]
    assert np.flatnonzero(np.isfinite(stored.truth(data.labels))).tolist() == [4, 7, 29]
    with pytest.raises(TargetsError, match="no soft targets of sample 5 in view 0"):
        stored.fetch(*at([4, 5]), None)


def test_disk_use_is_announced_before_any_is_taken(tmp_path):
    said = []

    def report(header):
        assert not (tmp_path / "t").exists()
        said.append(header.disk_bytes)

    StoredTargets.fill(net(1), images(), tmp_path / "t", options=FillOptions(on_create=report))
    assert said == [sum(path.stat().st_size for path in (tmp_path / "t").glob("*.bin"))]


@pytest.mark.parametrize("encoding", [TopK(2, 4.0), Sampled(8, 4.0)])
def test_what_is_stored_for_a_temperature_serves_no_other(encoding):
    data, teacher = images(), net(1)
    stored = StoredTargets.fill(teacher, data, encoding=encoding)
    assert stored.temperature == 4.0
    training = Training(epochs=1, batch_size=8)
    distill(net(2), data, teacher=stored, training=training, device="cpu")
    with pytest.raises(TargetsError, match=r"for temperature 4, the objective's is 2.0"):
        distill(net(2), data, teacher=stored, training=training, device="cpu", objective=KD(2.0))
    with pytest.raises(TargetsError, match=r"set targets.encoding to float16"):
        stored.truth(None)


def test_sampled_targets_stand_in_for_no_label():
    unlabelled = Unlabelled()
    for encoding in (TopK(2), Sampled(2)):
        stored = StoredTargets.fill(nn.Linear(3, 4), unlabelled, encoding=encoding)
        selection = Selection(unlabelled, epochs=1, batch_size=6, targets=stored)
        batch = next(iter(next(iter(selection))))
        if stored.knows_top:
            assert batch.labels.shape == (6,)
        else:
            with pytest.raises(TargetsError, match="top class"):
                _ = batch.labels


class Unlabelled(Dataset):
    """Inputs alone."""

    def __len__(self):
        return 6

    def __getitem__(self, id):
        return torch.full((3,), float(id))


class Noisy(Dataset):
    """Adds noise to each sample."""

    def __len__(self):
        return 6

    def __getitem__(self, id):
        return torch.rand(3), id % 2


class NoisyViews(Noisy):
    """The same, but as a function of the view."""

    def view(self, id, view):
        stream = torch.Generator().manual_seed(1000 * id + view)
        return torch.rand(3, generator=stream), id % 2


def test_random_data_are_refused_unless_they_take_views():
    teacher = nn.Linear(3, 2)
    with pytest.raises(TargetsError, match="live teacher"):
        StoredTargets.fill(teacher, Noisy())
    stored = StoredTargets.fill(teacher, NoisyViews(), views=2)
    assert stored.all_logits(0).shape == (6, 2)
    assert not np.array_equal(stored.all_logits(0), stored.all_logits(1))


def test_filling_does_not_change_teacher_and_streams():
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


def test_truth_is_the_probability_of_label_or_top_class(tmp_path):
    logits = np.array([[[0.0, math.log(3)], [math.log(4), 0.0]], [[9.0, 0.0], [0.0, 9.0]]])
    create_store(tmp_path / "t", Header(2, 2, 2, Dense("float32"), {}))
    store = Store(tmp_path / "t", write=None)
    for view in range(2):
        store.write(*at([0, 1], view), logits[view].astype(np.float32))
    store.sync()
    store.close()
    targets = StoredTargets(tmp_path / "t")
    assert targets.truth(torch.tensor([0, 0])) == pytest.approx([0.25, 0.8])
    assert targets.truth(None) == pytest.approx([0.75, 0.8])


def flipped(samples):
    x, y = torch.utils.data.default_collate(samples)
    return [x.flip(-1), y]


def noisy(samples):
    x, y = torch.utils.data.default_collate(samples)
    return [x + torch.randn_like(x), y]


def named_inputs(samples):
    x, y = torch.utils.data.default_collate(samples)
    return {"x": x, "labels": y, "rows": torch.arange(len(y))}


@pytest.mark.parametrize(
    ("stored", "trained", "same"),
    [
        (None, None, True), (flipped, flipped, True), (None, named_inputs, True),
        (None, flipped, False), (flipped, None, False), (flipped, noisy, False),
    ],
)  # fmt: skip
def test_another_collate_fn_than_the_stores_is_a_warning(stored, trained, same, tmp_path):
    data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 4)
    targets = StoredTargets.fill(torch.nn.Linear(3, 4), data, tmp_path, collate_fn=stored)
    loading = DataLoading(collate_fn=trained)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        Selection(data, epochs=1, batch_size=4, targets=targets, loading=loading)
    expected = [] if same else ["the stored soft targets"]
    assert [str(each.message)[:23] for each in said] == expected


def test_a_collate_fn_that_draws_is_not_stored(tmp_path):
    data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 4)
    with pytest.raises(TargetsError, match="collate_fn makes another batch"):
        StoredTargets.fill(torch.nn.Linear(3, 4), data, tmp_path, collate_fn=noisy)


class Ragged(Dataset):
    """Samples of as many rows as their number says."""

    def __len__(self):
        return 10

    def __getitem__(self, id):
        return torch.full((1 + id % 3, 3), float(id)), id % 4


class RowMeans(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(3, 4)

    def forward(self, x):
        return self.head(x.mean(1))


def test_samples_of_several_sizes_are_stored_one_by_one(tmp_path):
    targets = StoredTargets.fill(RowMeans(), Ragged(), tmp_path, batch_size=1)
    assert targets.queries == 10


def test_first_visits_and_a_filling_share_a_store(tmp_path):
    data, teacher = TensorDataset(torch.randn(20, 3), torch.arange(20) % 4), nn.Linear(3, 4)
    with FirstVisitTargets(teacher, data, tmp_path / "a") as visited:
        visited.fetch(np.arange(5), np.zeros(5, np.int64), [data.tensors[0][:5]])
    assert StoredTargets.fill(teacher, data, tmp_path / "a").queries == 15
    StoredTargets.fill(teacher, data, tmp_path / "b")
    FirstVisitTargets(teacher, data, tmp_path / "b").close()


def test_the_stores_of_several_teachers_are_compared(tmp_path):
    data = TensorDataset(torch.randn(20, 3), torch.arange(20) % 4)
    stores = [StoredTargets.fill(nn.Linear(3, 4), data, tmp_path / name) for name in "ab"]
    with pytest.warns(FrugalKDWarning, match="other batches than this training's"):
        Selection(
            data, epochs=1, batch_size=4, targets=SeveralTeachers(stores),
            loading=DataLoading(collate_fn=flipped),
        )  # fmt: skip
