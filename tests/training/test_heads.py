"""A head alone: against a plain loop over features, and the rest of the model stays."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd import All, RunOptions, Sampling, SelfRegulation, train_teacher
from frugalkd.data.probe import data_digest
from frugalkd.errors import ModelError, Stopped, UnsupportedData
from frugalkd.training.frozen import HeadFeatures, features_of
from frugalkd.training.heads import train_head
from frugalkd.training.settings import Optimizer, Schedule, Training
from toys import Ids, grouped, images, net, same_columns, same_state

TRAINING = Training(
    epochs=3, batch_size=8, optimizer=Optimizer(name="sgd", lr=0.1),
    schedule=Schedule(shape="linear"),
)  # fmt: skip


def plain_features(model, data):
    """The input of the last layer, one sample at a time."""
    body = copy.deepcopy(model)[:-1].eval()
    with torch.no_grad():
        return torch.cat([body(data[id][0][None]) for id in range(len(data))])


def test_it_trains_what_a_training_on_features_trains():
    model, data = net(), images(augmented=False)
    before = copy.deepcopy(model)
    features = plain_features(model, data)
    run = train_head(
        model,
        data,
        sampling=Sampling(policy=SelfRegulation(confidence=0.5)),
        training=TRAINING,
        seed=3,
        eval_dataset=data,
        device="cpu",
    )
    head = copy.deepcopy(before[-1])
    assert isinstance(run.model, nn.Sequential)
    plain = train_teacher(
        head,
        HeadFeatures(features, data.labels, data.classes, ""),
        sampling=Sampling(policy=SelfRegulation(confidence=0.5)),
        training=TRAINING,
        seed=3,
        device="cpu",
    )
    trained = run.model.get_parameter(f"{len(before) - 1}.weight")
    torch.testing.assert_close(trained, head.weight)
    assert run.ledger["participations"].tolist() == plain.ledger["participations"].tolist()
    assert same_state(before[:-1], run.model[:-1])
    assert not torch.equal(before[-1].weight, trained)
    assert run.model is model
    assert not model.training
    assert run.ledger.about["data"] == data_digest(data)
    assert run.evaluation is not None
    assert run.meters.student_forwards == plain.meters.student_forwards + len(data)
    assert run.meters.flops["student_forward"] > plain.meters.flops["student_forward"]


def test_a_head_that_is_reset_forgets_what_it_had_learned():
    data = images(augmented=False)
    one, other = net(), net()
    with torch.no_grad():
        other[-1].weight.mul_(-3)
    shared = {"policy": All(), "training": TRAINING, "seed": 1, "device": "cpu", "reset_head": True}
    runs = [train_head(model, data, **grouped(**shared)) for model in (one, other)]
    assert same_state(one, other)
    assert same_columns(runs[0].ledger, runs[1].ledger)
    train_head(other, data, **grouped(**{**shared, "seed": 2}))
    assert not same_state(one, other)


def test_features_are_those_of_each_sample_in_eval_mode():
    model, data = net(), images(samples=300, augmented=False)
    found = features_of(model, data)
    torch.testing.assert_close(found.features, plain_features(model, data))
    assert torch.equal(found.labels, data.labels)
    assert model.training


def test_without_labels_the_models_own_top_class_stands_in():
    class Inputs(Ids):
        def __init__(self):
            super().__init__(np.zeros(9))
            del self.labels

        def __len__(self):
            return 9

        def __getitem__(self, id):
            return torch.tensor([float(id), 1.0])

    model = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 3))
    found = features_of(model, Inputs())
    with torch.no_grad():
        expected = model(torch.stack([Inputs()[id] for id in range(9)])).argmax(1)
    assert torch.equal(found.labels, expected)


def test_what_has_no_head_or_no_features_is_refused():
    data = images(augmented=False)
    with pytest.raises(ModelError, match="no linear layer"):
        train_head(nn.Sequential(nn.Flatten()), data, device="cpu")
    with pytest.raises(ModelError, match="not what its last linear layer gives"):
        train_head(nn.Sequential(net(), nn.Tanh()), data, device="cpu")

    class Noisy(Ids):
        def __getitem__(self, id):
            return torch.randn(1), int(self.labels[id])

    with pytest.raises(UnsupportedData, match="no features to keep"):
        train_head(nn.Linear(1, 4), Noisy(np.zeros(9)), device="cpu")
    with pytest.raises(Stopped, match="evaluation"):
        train_head(net(), data, device="cpu", run=RunOptions(should_stop=lambda: True))


def test_progress_is_that_of_features_and_of_held_out_ones():
    heard = []
    run = RunOptions(on_progress=lambda *said: heard.append(said))
    data, held_out = (images(samples, augmented=False) for samples in (600, 37))
    train_head(net(), data, eval_dataset=held_out, training=TRAINING, device="cpu", run=run)
    assert heard == [
        *(("features", done, 600) for done in (256, 512, 600)),
        ("features of held-out data", 37, 37),
    ]
