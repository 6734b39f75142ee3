"""What samples weigh by their class: a recount, the training with these weights, refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import Dataset

from frugalkd import All, Optimizer, Sampling, Training, train_teacher
from frugalkd.errors import SettingError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.runs.execute import teach
from frugalkd.selection.inputs import class_weights, weights_of

ROWS = [0, 2, 2, 1, 2, 2, 0, 2]


class Listed(Dataset):
    def __init__(self, labels, listed=True):
        self._labels = labels
        if listed:
            self.labels = np.array(labels)

    def __len__(self):
        return len(self._labels)

    def __getitem__(self, id):
        row = torch.randn(4, generator=torch.Generator().manual_seed(id))
        return row, torch.tensor(self._labels[id])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40))
def test_balanced_classes_weigh_the_same(labels):
    made = class_weights("balanced", Listed(labels))
    assert made.dtype == np.float32
    assert made.mean() == pytest.approx(1, rel=1e-6)
    sums = [made[np.array(labels) == k].sum() for k in set(labels)]
    assert sums == pytest.approx([sums[0]] * len(sums), rel=1e-5)


def test_numbers_are_scaled_and_multiplied_with_other_weights():
    data, each = Listed(ROWS), np.array([1.0, 0.0, 3.0])
    wanted = each[ROWS] / each[ROWS].mean()
    assert class_weights((1.0, 0.0, 3.0), data) == pytest.approx(wanted)
    own = np.linspace(0.5, 1.5, 8, dtype=np.float32)
    both = weights_of(Sampling(policy=All(), weights=own, class_weights=(1.0, 0.0, 3.0)), data)
    assert both == pytest.approx(wanted * own)


def test_a_training_is_that_with_these_weights():
    data = Listed(ROWS)
    training = Training(epochs=2, batch_size=3, optimizer=Optimizer(lr=0.1))

    def trained(**given):
        torch.manual_seed(0)
        model = torch.nn.Linear(4, 3)
        sampling = Sampling(policy=All(), **given)
        train_teacher(model, data, sampling=sampling, training=training, device="cpu")
        return model.weight.detach()

    ours = trained(class_weights="balanced")
    assert torch.equal(ours, trained(weights=class_weights("balanced", data)))
    assert not torch.equal(ours, trained())


@pytest.mark.parametrize(
    ("given", "data", "said"),
    [
        ("balanced", Listed(ROWS, listed=False), "need data.labels"),
        ((1.0, 2.0), Listed(ROWS), "class_weights are 2, and there are 3 classes"),
        ((0.0, 0.0, 0.0), Listed(ROWS), "0 for all classes"),
    ],
)
def test_weights_without_sense_are_refused(given, data, said):
    with pytest.raises(SettingError, match=said):
        class_weights(given, data)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"label_free": True}, "which this does not read"),
        ({"output": "regression"}, "which this does not read"),
        ({"class_weights": (1.0, -1.0)}, "0 or more"),
        ({"class_weights": ()}, "0 or more"),
        ({"class_weights": "even"}, "class_weights must be"),
    ],
)
def test_settings_that_do_not_fit_are_refused(more, said):
    with pytest.raises(SettingError, match=said):
        Sampling(**{"class_weights": "balanced", **more})


def test_a_recipe_weighs_classes(tmp_path):
    few = {"data.train_size": 100, "teacher.training.epochs": 1, "teacher.policy": {"name": "all"}}
    plain = override(load_recipe("digits"), few)
    weighed = override(plain, {"teacher.class_weights": [1.0] * 9 + [0.2]})
    results = [teach(each, tmp_path / name) for each, name in ((plain, "a"), (weighed, "b"))]
    assert results[0]["digest"] != results[1]["digest"]
    counted = [each["history"][0]["effective_samples"] for each in results]
    assert counted[1] < counted[0] == 100
