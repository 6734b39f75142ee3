"""Features that are kept: who finds them, what makes others of them, damage, other processes."""

from __future__ import annotations

import copy
import errno
import logging
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd import All, Sampling, train_head
from frugalkd.data import Augmentation
from frugalkd.errors import FrugalKDWarning, ModelError, WriteFailed
from frugalkd.files.arrays import load_arrays, save_arrays
from frugalkd.files.lock import Lock
from frugalkd.models.origin import note_origin, reorder_classes
from frugalkd.training import frozen
from frugalkd.training.frozen import FILE, features_of, predict_by_head
from frugalkd.training.settings import Training
from toys import Ids, images, net, same_columns, same_state

SAMPLES = 60
PROBED = frozen._PROBED


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def forwards(monkeypatch):
    """How many rows each forward pass of :func:`features_of` had."""
    rows, run = [], frozen._run

    def counted(model, dataset, ids, **options):
        rows.append(len(ids))
        return run(model, dataset, ids, **options)

    monkeypatch.setattr(frozen, "_run", counted)
    return rows


@contextmanager
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def data(**options):
    return images(SAMPLES, augmented=False, **options)


def kept(cache) -> list[Path]:
    return sorted(cache.glob(f"features-*/{FILE}"))


def test_they_are_computed_once_and_then_reused(cache, forwards, caplog):
    caplog.set_level(logging.INFO, "frugalkd")
    first = features_of(net(), data())
    (file,) = kept(cache)
    assert first.file is None
    assert str(file) in caplog.text
    assert [path.name for path in file.parent.iterdir()] == [FILE]
    caplog.clear()
    again = features_of(net(), data())
    assert forwards == [SAMPLES, PROBED]
    assert torch.equal(again.features, first.features)
    assert torch.equal(again.labels, first.labels)
    assert again.digest() == first.digest()
    assert again.note == {"rows": SAMPLES, "seconds": first.seconds, "reused_from": str(file)}
    assert f"the features of {SAMPLES} samples are reused from {file}" in caplog.text


def test_another_head_reads_the_same(cache, forwards):
    model, other = net(), net()
    with torch.no_grad():
        other[-1].weight.mul_(-2)
    features_of(model, data())
    probabilities, labels = predict_by_head(other, data())
    assert forwards == [SAMPLES, PROBED]
    x, y = data().batch(np.arange(SAMPLES), np.zeros(SAMPLES, np.int64))
    with torch.no_grad():
        wanted = torch.softmax(other.eval()(x), dim=1)
    torch.testing.assert_close(torch.from_numpy(probabilities), wanted)
    assert labels is not None
    assert labels.tolist() == y.tolist()


def test_a_training_is_the_same_with_kept_features(cache, monkeypatch):
    training = Training(epochs=2, batch_size=8)
    options = {"training": training, "sampling": Sampling(policy=All()), "device": "cpu"}
    models, runs = [net(), net(), net()], []
    for place, model in enumerate(models):
        if place == 2:
            monkeypatch.setenv("FRUGALKD_CACHE", "")
        runs.append(train_head(model, data(), eval_dataset=data(seed=3), **options))
    assert len(kept(cache)) == 2
    assert [run.features["reused_from"] is None for run in runs] == [True, False, True]
    for model, run in zip(models[1:], runs[1:], strict=True):
        assert same_state(model, models[0])
        assert same_columns(run.ledger, runs[0].ledger)
        assert run.evaluation == runs[0].evaluation
        assert run.meters.student_forwards == runs[0].meters.student_forwards
        assert run.meters.flops == runs[0].meters.flops


def body(model):
    with torch.no_grad():
        model[0].weight.mul_(1.5)
    return model


def constant(model):
    model[1].eps = 0.5
    return model


def spec(model):
    note_origin(model, spec={"name": "other"})
    return model


def turned(of):
    """The same inputs with other labels."""
    of.labels = of.labels.flip(0)
    return of


def other_threads(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 7)


def other_torch(monkeypatch):
    monkeypatch.setattr(torch, "__version__", "9.9")


def other_processor(monkeypatch):
    monkeypatch.setattr("platform.machine", lambda: "vax")


@pytest.mark.parametrize("change", [body, constant, spec])
def test_another_model_has_others(cache, forwards, change):
    features_of(net(), data())
    features_of(change(net()), data())
    assert forwards == [SAMPLES, SAMPLES]
    assert len(kept(cache)) == 2


@pytest.mark.parametrize(
    "other",
    [
        lambda: data(seed=2),
        lambda: turned(data()),
        lambda: images(SAMPLES),
        lambda: images(SAMPLES).with_augmentation(Augmentation(crop=1, flip=True), 1),
        lambda: data()._with(mean=(0.25,)),
    ],
)
def test_other_data_have_others(cache, forwards, other):
    for each in (data(), images(SAMPLES).with_augmentation(Augmentation(crop=1, flip=True), 5)):
        features_of(net(), each)
    features_of(net(), other())
    assert forwards == [SAMPLES] * 3
    assert len(kept(cache)) == 3


def test_the_seed_of_no_augmentation_changes_nothing(cache, forwards):
    for seed in (0, 1):
        features_of(net(), data().with_augmentation(Augmentation(), seed))
    assert forwards == [SAMPLES, PROBED]


@pytest.mark.parametrize("change", [other_threads, other_torch, other_processor])
def test_what_changes_the_last_digits_has_others(cache, forwards, change, monkeypatch):
    features_of(net(), data())
    change(monkeypatch)
    features_of(net(), data())
    assert forwards == [SAMPLES, SAMPLES]


def test_precision_and_memory_format_have_others(cache, forwards):
    found = [features_of(net(), data(), precision=each) for each in ("fp32", "bf16")]
    assert not torch.equal(found[0].features, found[1].features)
    features_of(net().to(memory_format=torch.channels_last), data())
    assert forwards == [SAMPLES] * 3
    again = features_of(net(), data(), precision="bf16")
    assert forwards[3:] == [PROBED]
    assert torch.equal(again.features, found[1].features)


def users_class(model):
    class Mine(nn.Sequential):
        pass

    return Mine(*model)


def hooked(model):
    model[0].register_forward_hook(lambda module, inputs, output: output * 2)
    return model


def patched(model):
    model[2].forward = lambda x: x.clamp(min=0.5)
    return model


@pytest.mark.parametrize("change", [users_class, hooked, patched])
def test_code_that_no_version_names_is_run_each_time(cache, forwards, change):
    for _ in range(2):
        features_of(change(net()), data())
    assert forwards == [SAMPLES, SAMPLES]
    assert not cache.exists()


def test_a_collate_function_is_run_each_time(cache, forwards):
    model = nn.Sequential(nn.Linear(1, 3), nn.Linear(3, 4))
    for _ in range(2):
        features_of(model, Ids(np.zeros(9)), collate_fn=torch.utils.data.default_collate)
    assert forwards == [9, 9]
    assert not cache.exists()


def test_nothing_is_kept_where_the_variable_is_empty(forwards):
    for _ in range(2):
        assert features_of(net(), data()).file is None
    assert forwards == [SAMPLES, SAMPLES]


def cut(file):
    file.write_bytes(file.read_bytes()[:-5])


def flipped(file):
    content = bytearray(file.read_bytes())
    content[-9] ^= 1
    file.write_bytes(bytes(content))


def emptied(file):
    file.write_bytes(b"")


def rewritten(file, about, arrays):
    """As a file of this format, with a right checksum."""
    columns, said = load_arrays(
        file, "features", what="", schema=1, error=WriteFailed, again=""
    )  # fmt: skip
    save_arrays(file, "features", {**columns, **arrays}, {"schema": 1, **said, **about})


def of_others(file):
    rewritten(file, {"made_of": {}}, {})


def stale(file):
    rewritten(file, {}, {"features": np.ones((SAMPLES, 144), np.float32)})


def not_finite(file):
    rewritten(file, {}, {"features": np.full((SAMPLES, 144), np.nan, np.float32)})


def too_few(file):
    rewritten(file, {}, {"features": np.ones((SAMPLES - 1, 144), np.float32)})


def mislabelled(file):
    rewritten(file, {}, {"labels": np.zeros(SAMPLES, np.int64)})


def of_a_later_version(file):
    rewritten(file, {"schema": 2}, {})


DAMAGE = [cut, flipped, emptied, of_others, stale, not_finite, too_few, mislabelled,
          of_a_later_version]  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_ones_are_made_again(cache, forwards, damage):
    first = features_of(net(), data())
    (file,) = kept(cache)
    damage(file)
    with pytest.warns(FrugalKDWarning, match="made again") as warned:
        found = features_of(net(), data())
    assert len(warned) == 1
    assert "\n" not in str(warned[0].message)
    assert torch.equal(found.features, first.features)
    assert torch.equal(found.labels, first.labels)
    assert forwards[0] == forwards[-1] == SAMPLES
    with no_warning():
        assert features_of(net(), data()).file == file


def test_a_cache_that_cannot_be_written_is_a_warning(tmp_path, forwards, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "file"))
    with pytest.warns(FrugalKDWarning, match="the features of 60 samples are not kept"):
        found = features_of(net(), data())
    assert len(found) == SAMPLES


def test_a_full_disk_is_a_warning(cache, forwards, monkeypatch):
    def full(*_):
        raise WriteFailed(errno.ENOSPC, "no space left")

    monkeypatch.setattr(frozen, "save_arrays", full)
    with pytest.warns(FrugalKDWarning, match="are not kept: no space left"):
        assert len(features_of(net(), data())) == SAMPLES


def test_of_two_at_once_one_waits(cache, forwards, monkeypatch, caplog):
    caplog.set_level(logging.INFO, "frugalkd")
    both, counted = Barrier(2), frozen._run

    def together(model, dataset, ids, **options):
        if len(ids) == SAMPLES:
            both.wait(10)  # until the other one waits for the lock
        return counted(model, dataset, ids, **options)

    monkeypatch.setattr(frozen, "_run", together)
    taken = frozen.Lock

    def waiting(folder, *, wait=False):
        if wait:
            both.wait(10)
        return taken(folder, wait=wait)

    monkeypatch.setattr(frozen, "Lock", waiting)
    models = [net(), net()]  # not in threads, which share a random stream
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda model: features_of(model, data()), models))
    assert sorted(forwards) == [PROBED, SAMPLES]
    assert torch.equal(found[0].features, found[1].features)
    assert [each.file is None for each in sorted(found, key=lambda it: str(it.file))] == [
        False,
        True,
    ]
    assert "waiting for another process, which computes the features of 60 samples" in caplog.text


def test_a_killed_process_leaves_nothing_that_counts(cache, forwards):
    features_of(net(), data())
    (file,) = kept(cache)
    file.unlink()
    (file.parent / f".{FILE}.0badcafe.tmp").write_bytes(b"half of it")
    (file.parent / ".lock").write_text("1")
    features_of(net(), data())
    assert forwards == [SAMPLES, SAMPLES]
    assert [path.name for path in file.parent.iterdir()] == [FILE]


def test_a_read_only_cache_is_read(cache, forwards, read_only):
    features_of(net(), data())
    read_only(cache)
    with no_warning():
        assert features_of(net(), data()).file is not None


def test_one_that_another_process_holds_is_read(cache, forwards):
    features_of(net(), data())
    with Lock(kept(cache)[0].parent):  # a process that makes a damaged one again
        assert features_of(net(), data()).file is not None


def test_without_labels_the_top_class_is_that_of_this_head(cache):
    class Inputs(Ids):
        def __init__(self):
            super().__init__(np.zeros(9))
            del self.labels

        def __len__(self):
            return 9

        def __getitem__(self, id):
            return torch.tensor([float(id), 1.0])

    model: Any = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
    other = copy.deepcopy(model)
    with torch.no_grad():
        other[-1].weight.mul_(-1)
    inputs = torch.stack([Inputs()[id] for id in range(9)])
    made = [features_of(each, Inputs()) for each in (model, other)]
    for each, found in zip((model, other), made, strict=True):
        assert not found.labelled
        with torch.no_grad():
            assert torch.equal(found.labels, each(inputs).argmax(1))
    assert made[1].file is not None
    with pytest.raises(ModelError, match="data without labels cannot be evaluated"):
        train_head(model, Inputs(), eval_dataset=Inputs(), training=Training(epochs=1))


def test_a_model_that_is_more_than_its_head_is_refused(cache):
    features_of(net(), data())
    model = net()
    reorder_classes_of(model)
    with pytest.raises(ModelError, match="not what its last linear layer gives"):
        features_of(model, data())


def reorder_classes_of(model):
    note_origin(model, classes=tuple("0123"))
    reorder_classes(model, tuple("3210"))
