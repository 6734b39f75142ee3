"""Features that are stored beside the logits give what the live teacher's give, or are refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd.errors import ModelError, TargetsError
from frugalkd.objectives import AttentionTransfer, FitNets
from frugalkd.policies import SelfRegulation
from frugalkd.teachers import FillOptions, FirstVisitTargets, LiveTeacher, StoredTargets
from frugalkd.teachers.filling import feature_folder
from frugalkd.training.api import distill
from frugalkd.training.settings import Training
from toys import grouped, images, net

PATHS = ("0", "2")
SHORT = Training(epochs=2, batch_size=8)


def filled(folder, teacher=None, data=None, **more):
    more = {"views": 2, "features": PATHS, "batch_size": 8} | more
    return StoredTargets.fill(teacher or net(9, width=7), data or images(), folder, **more)


def fetch(targets, data, ids=(3, 30, 4), views=(0, 1, 3)):
    ids, views = np.array(ids), np.array(views)
    pixels = data.batch(ids, views % 2)
    return targets.fetch_features(ids, views, pixels, PATHS)


def test_they_are_the_live_teachers_to_float16(tmp_path):
    data, live = images(), LiveTeacher(net(9, width=7))
    targets = filled(tmp_path / "t")
    assert targets.queries == 2 * 37
    shapes = {"0": (7, 6, 6), "2": (7, 6, 6)}
    assert targets.feature_shapes(["[02]"], None) == shapes
    logits, features = fetch(targets, data)
    expected, wanted = fetch(live, data)
    torch.testing.assert_close(logits.softmax(1), expected.softmax(1), rtol=2e-3, atol=0)
    for path in PATHS:
        assert features[path].shape == (3, 7, 6, 6)
        assert features[path].dtype == torch.float32
        torch.testing.assert_close(features[path], wanted[path], rtol=2**-10, atol=1e-6)


def test_a_training_reads_them_with_a_ceiling(tmp_path):
    policy = SelfRegulation(
        confidence=0.9, ceiling=0.9, budget_schedule="early", budget_rule="random", budget=0.5
    )
    stored = filled(tmp_path / "t", views=1, data=images(augmented=False))
    learn = {"objective": FitNets("2", "2", soft=1.0), "training": SHORT, "device": "cpu"}
    run = distill(net(), images(augmented=False), **grouped(teacher=stored, policy=policy, **learn))
    assert run.meters.teacher_queries == 0
    assert 0 < run.meters.samples_backpropagated < 2 * 37


def test_stored_features_train_nearly_as_live_ones(tmp_path):
    learn = {
        "objective": AttentionTransfer("2", "2", soft=10.0),
        "training": SHORT,
        "device": "cpu",
    }
    data, teacher = images(augmented=False), net(9, width=7)
    live = distill(net(), data, **grouped(teacher=teacher, **learn))
    stored = distill(net(), data, **grouped(teacher=filled(tmp_path / "t", data=data), **learn))
    losses = [[record["loss"] for record in run.history] for run in (live, stored)]
    np.testing.assert_allclose(*losses, rtol=1e-3)


def test_features_are_added_to_a_store_that_has_none(tmp_path):
    assert filled(tmp_path / "t", features=()).queries == 74
    assert filled(tmp_path / "t", features=("0",)).queries == 74
    assert filled(tmp_path / "t", features=PATHS).queries == 74
    assert filled(tmp_path / "t").queries == 0
    assert filled(tmp_path / "t", features=()).features.keys() == {"0", "2"}


def test_a_half_filled_store_is_resumed(tmp_path):
    def stop(done, total):
        if done >= 24:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        filled(tmp_path / "t", options=FillOptions(on_progress=stop))
    assert filled(tmp_path / "t").queries == 74 - 24


def test_missing_features_are_refused_with_the_stored_ones(tmp_path):
    targets = filled(tmp_path / "t", features=("0",))
    with pytest.raises(TargetsError, match=r"features of 0 alone; the store has no module '2'"):
        targets.feature_shapes(["2"], None)
    with pytest.raises(TargetsError, match=r"hold no features, which the objective reads: set"):
        filled(tmp_path / "u", features=()).feature_shapes(["2"], None)
    first = FirstVisitTargets(net(9), images(), tmp_path / "v")
    with pytest.raises(TargetsError, match="hold no features"):
        first.feature_shapes(["2"], None)


def test_what_is_no_feature_is_refused_before_filling(tmp_path):
    with pytest.raises(ModelError, match="the teacher has no module 'nine'"):
        filled(tmp_path / "t", features=("nine",))

    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.flat, self.head = nn.Flatten(), nn.Linear(36, 4)

        def forward(self, x):
            return self.head(self.flat(x)) + self.head(self.flat(x))

    with pytest.raises(ModelError, match="runs 2 times in a forward pass"):
        filled(tmp_path / "t", Twice(), features=("flat",))
    assert not (tmp_path / "t").exists()


def test_a_feature_beyond_float16_is_refused(tmp_path):
    teacher = net(9)
    with torch.no_grad():
        teacher[0].weight *= 1e6
    with pytest.raises(TargetsError, match=r"beyond float16: of a feature name another"):
        filled(tmp_path / "t", teacher, features=("0",))


def test_features_of_another_teacher_are_refused(tmp_path):
    filled(tmp_path / "t")
    filled(tmp_path / "u", net(8, width=7), features=())
    shutil.copytree(tmp_path / "t" / "features", tmp_path / "u" / "features")
    with pytest.raises(TargetsError, match="differ in teacher"):
        StoredTargets(tmp_path / "u")


@pytest.mark.parametrize("shape", ["", "7 6 -6", "7 6 999999999999", "x"])
def test_a_damaged_shape_is_refused(tmp_path, shape):
    from frugalkd.teachers import store as store_module

    filled(tmp_path / "t")
    where = feature_folder(tmp_path / "t", "0")
    header = store_module.read_header(where)
    header.about["shape"] = shape
    store_module.write_header(where, header)
    with pytest.raises(TargetsError, match=r"damaged|differ in"):
        StoredTargets(tmp_path / "t")
    assert json.loads((where / "header.json").read_text())["about"]["feature"] == "0"


def test_a_path_of_any_letters_has_its_own_folder(tmp_path):
    assert feature_folder(tmp_path, "a/b.0").parent == tmp_path / "features"
