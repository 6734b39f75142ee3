from __future__ import annotations

import numpy as np
import torch
from sklearn import datasets

from frugalkd.data import load_data
from frugalkd.data.named import stratified
from toys import as_images


def test_digits_are_all_there_once_and_in_proportion():
    splits = load_data("digits")
    train, test = as_images(splits.train), as_images(splits.test)
    assert (len(train), len(test)) == (1437, 360)
    assert train.shape == (1, 8, 8)
    assert train.classes == tuple("0123456789")
    original = np.rint(np.asarray(datasets.load_digits(return_X_y=True)[0]) * 255 / 16)
    pixels = torch.cat([train.images, test.images]).numpy().reshape(-1, 64)
    assert sorted(map(tuple, pixels)) == sorted(map(tuple, original))
    shares = torch.bincount(test.labels) / torch.bincount(torch.cat([train.labels, test.labels]))
    assert (shares - 360 / 1797).abs().max() < 0.005


def test_scale_and_constants():
    train = as_images(load_data("digits").train)
    pixels = train.images.double() / 255
    assert int(train.images.max()) == 255
    assert abs(float(pixels.mean()) - train.mean[0]) < 1e-4
    assert abs(float(pixels.std()) - train.std[0]) < 1e-4


def test_the_split_never_changes():
    digest = load_data("digits").test.digest()
    assert digest == load_data("digits").test.digest()
    assert digest.startswith("39bc4adea54770e6")


def test_stratified_fills_up_by_largest_remainder():
    labels = np.array([0] * 5 + [1] * 3 + [2] * 2)
    chosen = stratified(labels, 4)  # shares 2.0, 1.2 and 0.8
    assert np.bincount(labels[chosen]).tolist() == [2, 1, 1]
    assert (np.diff(chosen) > 0).all()
