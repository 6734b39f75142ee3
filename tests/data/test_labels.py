"""Corrections of labels by sample id, and injected noise."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from frugalkd.data import data_digest
from frugalkd.data.labels import (
    Corrections,
    Noise,
    corrections,
    save_corrections,
    with_labels,
    with_noise,
)
from frugalkd.errors import DataError, SettingError
from toys import images


def many(samples=4000):
    return images(samples, augmented=False)


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 1.0])
def test_symmetric_noise_flips_to_every_other_class(rate):
    data, noisy = many(), with_noise(many(), Noise(rate))
    old, new = data.labels.numpy(), noisy.labels.numpy()
    assert abs((old != new).mean() - rate) < 0.03
    moved = np.bincount((new - old) % 4, minlength=4)[1:]
    assert moved.min() >= 0.28 * moved.sum(), "each of the three others about as often"
    assert torch.equal(noisy.images, data.images)
    assert noisy.labels.dtype == torch.int64


def test_class_dependent_noise_flips_to_the_next_class():
    old, new = many().labels.numpy(), with_noise(many(), Noise(0.3, "next-class")).labels.numpy()
    assert set((new - old) % 4) == {0, 1}
    for label in range(4):
        assert abs((new[old == label] != label).mean() - 0.3) < 0.05


def test_noise_is_a_function_of_seed_and_sample():
    first, again, other = (with_noise(many(), Noise(0.3, seed=seed)).labels for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    less = with_noise(many(), Noise(0.1, seed=1)).labels
    old = many().labels
    assert ((less != old) <= (first != old)).all(), "a lower rate flips a part of them"


@pytest.mark.parametrize("settings", [{"rate": 1.2}, {"rate": 0.1, "kind": "x"},
                                      {"rate": 0.1, "seed": -1}])  # fmt: skip
def test_impossible_noise_is_refused(settings):
    with pytest.raises(SettingError):
        Noise(**settings)


def test_labels_that_fit_no_data_are_refused():
    with pytest.raises(DataError, match="labels for 37 samples"):
        with_labels(images(), np.zeros(3, np.int64))
    with pytest.raises(DataError, match=r"lie in 0 \.\. 4"):
        with_labels(images(), np.r_[np.zeros(36, np.int64), 4])


def made(**more):
    said = {"exclude": frozenset({3, 5}), "relabel": {0: "2", 4: "1"}, **more}
    return Corrections(data_digest(images()), **said)


def test_corrections_relabel_and_leave_out():
    data, fixed = images(), made().apply(images())
    kept = [id for id in range(37) if id not in (3, 5)]
    labels = data.labels.clone()
    labels[0], labels[4] = 2, 1
    assert torch.equal(fixed.labels, labels[kept])
    assert torch.equal(fixed.images, data.images[kept])
    assert made().kept(37).tolist() == kept
    assert data_digest(fixed) != data_digest(data)
    relabelled = made(exclude=frozenset()).apply(images())
    assert torch.equal(relabelled.labels, labels)
    assert data_digest(relabelled) != data_digest(data)


def test_files_keep_corrections_and_are_not_overwritten(tmp_path):
    files = save_corrections(made(), tmp_path)
    assert {key: path.name for key, path in files.items()} == {
        "exclude": "exclude.json", "relabel": "relabel.json",
    }  # fmt: skip
    assert corrections(files["exclude"], files["relabel"]) == made()
    assert corrections(files["exclude"], None) == made(relabel={})
    assert corrections(None, files["relabel"]) == made(exclude=frozenset())
    assert corrections(None, None) is None
    before = {path: path.read_bytes() for path in files.values()}
    with pytest.raises(DataError, match=r"would be overwritten"):
        save_corrections(made(relabel={1: "0"}), tmp_path)
    assert {path: path.read_bytes() for path in before} == before
    (tmp_path / "only").mkdir()
    assert list(save_corrections(made(relabel={}), tmp_path / "only")) == ["exclude"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"exclude": frozenset({37})}, r"no samples 37: the data have 0 \.\. 36"),
        ({"relabel": {-1: "0"}}, r"no samples -1"),
        ({"relabel": {1: "cat"}}, "sample 1: 'cat' is not a class; known are 0, 1"),
        ({"exclude": frozenset(range(37))}, "nothing is left"),
    ],
)
def test_corrections_that_fit_no_data_are_refused(more, says):
    with pytest.raises(DataError, match=says):
        made(**more).apply(images())


def test_corrections_of_other_data_are_refused(tmp_path):
    with pytest.raises(DataError, match="made for other data"):
        made().apply(images(seed=1))
    with pytest.raises(DataError, match="made for other data"):
        made().apply(with_noise(images(), Noise(1.0)))
    files = save_corrections(made(), tmp_path)
    other = json.loads(files["relabel"].read_text()) | {"data": "0" * 64}
    files["relabel"].write_text(json.dumps(other))
    with pytest.raises(DataError, match="made for different data"):
        corrections(files["exclude"], files["relabel"])


@pytest.mark.parametrize(
    ("key", "content", "says"),
    [
        ("exclude", None, "cannot be read"),
        ("exclude", "[", "is not JSON"),
        ("exclude", "[]", "needs schema: 1"),
        ("exclude", '{"schema": 1}', "needs schema: 1, and data"),
        ("exclude", '{"schema": 2, "data": "d", "exclude": []}', "needs schema: 1"),
        ("exclude", '{"schema": 1, "data": "d"}', "needs exclude"),
        ("exclude", '{"schema": 1, "data": "d", "exclude": [true]}', "needs exclude"),
        ("exclude", '{"schema": 1, "data": "d", "exclude": [1.5]}', "needs exclude"),
        ("relabel", '{"schema": 1, "data": "d", "relabel": [1]}', "needs relabel"),
        ("relabel", '{"schema": 1, "data": "d", "relabel": {"1": 2}}', "needs relabel"),
        ("relabel", '{"schema": 1, "data": "d", "relabel": {"-1": "a"}}', "needs relabel"),
        ("relabel", '{"schema": 1, "data": "d", "relabel": {"²": "a"}}', "needs relabel"),
    ],
)
def test_damaged_files_are_named(tmp_path, key, content, says):
    file = tmp_path / "f.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(DataError, match=rf"^(?!.*\n).*f\.json: {says}"):
        corrections(**{"exclude": None, "relabel": None, key: file})
