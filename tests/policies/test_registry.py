"""What holds of every policy: a new one in the registry is tested here without another line."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frugalkd.api import train_teacher
from frugalkd.ledger import Ledger
from frugalkd.policies import POLICIES, All, Moment, SelfRegulation
from frugalkd.training import Optimizer, Training
from frugalkd.verdict import Look

EVERYONE = {  # settings under which everything takes part
    "all": {},
    "el2n": {"budget": 1.0},
    "forgetting": {"budget": 1.0},
    "ies": {"threshold": 0.0},
    "infobatch": {"skip": 0.0},
    "kakurenbo": {"fraction": 0.0},
    "pdd": {"threshold": 1.1},
    "random": {"fraction": 1.0},
    "rho-loss": {"keep": 1.0},
    "selective-backprop": {"least": 1.0},
    "self-regulation": {"confidence": 1.1},
    "swiftlearn": {"fraction": 1.0},
    "unix": {"keep": 1.0},
}


def ledger_of(policy, samples=50, seed=0):
    """A ledger in the middle of a training."""
    stream = np.random.default_rng(seed)
    ledger = Ledger.new(samples, extra=policy.columns)
    ledger["visits"][:] = 3
    ledger["last_epoch"][:] = stream.integers(4, size=samples)
    ledger["last_epoch"][:5] = 65535
    ledger["confidence"][:] = stream.random(samples)
    ledger["loss"][:] = stream.random(samples)
    ledger["streak"][:] = stream.integers(3, size=samples)
    ledger["due"][:] = stream.integers(8, size=samples)
    if policy.scoring is not None:
        ledger["score"][:] = stream.random(samples)
    return ledger


def _numpy_state() -> list[int]:
    return np.random.get_state(legacy=False)["state"]["key"].tolist()  # pyright: ignore


@pytest.fixture(params=POLICIES)
def policy(request):
    return POLICIES[request.param]()


@pytest.mark.parametrize("epoch", [0, 4, 9])
@pytest.mark.parametrize("pool", [np.arange(50), np.arange(0, 50, 3), np.array([17])])
def test_a_plan_is_within_the_pool_without_duplicates_and_changes_nothing(policy, pool, epoch):
    ledger = ledger_of(policy)
    before = ledger.copy()
    plans = [policy.plan(ledger, pool, Moment(epoch, 10, 5)) for _ in range(2)]
    plan = plans[0]
    for ids in (plan.ids, plan.screen):
        assert ids.dtype == np.int64
        assert len(np.unique(ids)) == len(ids)
        assert np.isin(ids, pool).all()
    assert not np.intersect1d(plan.ids, plan.screen).size
    if plan.weights is not None:
        assert plan.weights.shape == plan.ids.shape
    if plan.forced is not None:
        assert plan.forced.shape == plan.ids.shape
        assert plan.forced.dtype == bool
    assert np.array_equal(plans[0].ids, plans[1].ids)
    for name, column in ledger.columns.items():
        assert column.tobytes() == before[name].tobytes()


def test_the_draws_come_from_the_seed_alone(policy):
    ledger, pool = ledger_of(policy), np.arange(50)
    np.random.seed(0)
    first = policy.plan(ledger, pool, Moment(4, 10, 5)).ids
    np.random.seed(1)
    torch.manual_seed(1)
    state = _numpy_state()
    assert np.array_equal(policy.plan(ledger, pool, Moment(4, 10, 5)).ids, first)
    assert _numpy_state() == state


def test_settings_are_frozen_plain_values(policy: Any):
    assert policy.when in ("now", "last-visit")
    assert policy == type(policy)()
    assert dataclasses.is_dataclass(type(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.when = "now"


@pytest.mark.parametrize("name", POLICIES)
def test_admit_and_sleep_answer_row_by_row_whatever_the_look_says(name):
    values = np.array([0.1, 0.5, 0.95, np.nan], np.float32)
    look = Look(values, np.array([True, False, True, True]), values, values)
    at, ids = Moment(4, 10, 5), np.arange(4)
    for settings in ({}, EVERYONE[name]):
        policy = POLICIES[name](**settings)
        ledger = Ledger.new(4, extra=policy.columns)
        for column, noted in policy.note(look, ids, ledger, at).items():
            assert noted.shape == (4,)
            assert np.isfinite(noted).all()
            ledger[column][ids] = noted
        failed = policy.admit(look, ids, ledger, at)
        assert failed.shape == (4,)
        assert failed.dtype == bool
    assert failed.all(), "of everyone, some would be left out"
    sleep = policy.sleep(np.array([0, 1, 2, 255], np.uint8))
    assert (sleep >= 0).all()
    assert sleep[0] == 0


@pytest.mark.parametrize("name", POLICIES)
def test_with_everything_selected_it_is_plain_training(name):
    stream = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(30, 5, generator=stream), torch.randint(3, (30,), generator=stream)
    )
    assert name in EVERYONE, f"say here with which settings {name} selects everything"
    whens = ["now", "last-visit"] if name == "self-regulation" else [None]
    policies = [POLICIES[name](**EVERYONE[name], **({"when": w} if w else {})) for w in whens]
    weights = []
    for policy in (All(), *policies):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 3))
        training = Training(epochs=2.5, batch_size=8, optimizer=Optimizer("sgd", lr=0.1))
        scores = None if policy.scoring is None else np.linspace(0, 1, 30, dtype=np.float32)
        run = train_teacher(
            model, data, policy=policy, scores=scores, training=training, device="cpu"
        )
        assert run.meters.samples_backpropagated == 75
        weights.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    assert all(torch.equal(weights[0], other) for other in weights[1:])


def test_the_registry_names_every_policy():
    assert set(POLICIES) >= {"all", "random", "self-regulation"}
    assert POLICIES["self-regulation"] is SelfRegulation
