"""A recorded training, followed again: the same one, and one of other samples."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

from frugalkd.errors import LedgerError, Stopped, UnsupportedData
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import EpochContext, InfoBatch, ProgressiveDataDropout, SelfRegulation
from frugalkd.policies.policy import Plan
from frugalkd.policies.replay import Replay, plans_digest, read_plans, save_plan
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Training
from toys import grouped, images, net, same_state

TRAINING = Training(epochs=4, batch_size=8, optimizer=Optimizer("sgd", lr=0.05))
GATE = SelfRegulation(confidence=0.3)


def learn(plans=None, **given):
    """A training that records its plans into the folder ``plans``."""
    record = None if plans is None else partial(save_plan, plans)
    common = {"dataset": images(), "teacher": net(seed=9), "training": TRAINING, "seed": 3}
    return distill(net(), **grouped(device="cpu", on_plan=record, **common | given))


def replay(folder, **settings):
    return Replay(str(folder), plans_digest(folder) or "", **settings)


@pytest.mark.parametrize(
    "policy",
    [GATE, SelfRegulation(confidence=0.3, when="now"), SelfRegulation(budget=0.4),
     SelfRegulation(0.3, cost=0.6), InfoBatch(), ProgressiveDataDropout(threshold=0.35)],
    ids=lambda policy: f"{type(policy).__name__}-{policy.when}",
)  # fmt: skip
def test_a_replayed_training_is_the_same(tmp_path, policy):
    first = learn(tmp_path / "first", policy=policy)
    assert first.meters.samples_backpropagated < 4 * 37
    rows, screened = policy.planned_rows(37, 4), ()
    if getattr(policy, "cost", None):
        screened = tuple(record["screened"] for record in first.history)
        assert sum(screened)
    again = learn(
        tmp_path / "again", policy=replay(tmp_path / "first", rows=rows, screened=screened)
    )
    same_plans(tmp_path / "first", tmp_path / "again")
    assert again.meters.student_forwards == first.meters.samples_backpropagated
    if policy.when == "last-visit":  # else augmentation and progress count what was read
        assert same_state(first.model, again.model)


def same_plans(*folders):
    plans = [read_plans(folder, plans_digest(folder) or "") for folder in folders]
    for one, other in zip(*plans, strict=True):
        assert np.array_equal(one.ids, other.ids)
        mine, others = (
            np.ones(len(it.ids)) if it.weights is None else it.weights for it in (one, other)
        )
        assert np.array_equal(mine, others)


def test_weights_and_a_dropped_batch_are_replayed(tmp_path):
    weights = np.random.default_rng(0).uniform(0.5, 2, 37)
    weights[:9] = 0
    short = Training(epochs=3, batch_size=8, optimizer=Optimizer("sgd", lr=0.05), drop_last=True)
    learn(tmp_path / "first", policy=GATE, weights=weights, training=short)
    plans = read_plans(tmp_path / "first", plans_digest(tmp_path / "first") or "")
    for plan in plans:
        assert len(plan.ids) % 8 == 0
        assert plan.weights is not None
        assert np.array_equal(plan.weights, weights.astype(np.float32)[plan.ids])
    learn(tmp_path / "again", policy=replay(tmp_path / "first"), training=short)
    same_plans(tmp_path / "first", tmp_path / "again")


@pytest.mark.parametrize("when", ["now", "last-visit"])
def test_a_stopped_training_records_the_same(tmp_path, when):
    given = {"policy": SelfRegulation(confidence=0.3, when=when)}
    learn(tmp_path / "whole", **given)
    steps = iter(range(100))
    given |= {"folder": tmp_path / "checkpoints"}
    with pytest.raises(Stopped):
        learn(tmp_path / "parts", should_stop=lambda: next(steps) == 5, **given)
    learn(tmp_path / "parts", resume=True, **given)
    assert plans_digest(tmp_path / "parts") == plans_digest(tmp_path / "whole")


def test_permuted_changes_only_which_samples(tmp_path):
    labels = np.arange(60) % 4
    pool, ledger = np.arange(6, 60), Ledger.new(60)
    ledger.labels = labels.astype(np.int32)
    stream = np.random.default_rng(1)
    plans = [stream.choice(pool, count, replace=False) for count in (40, 20, 7)]
    weights = [stream.uniform(1, 2, len(ids)).astype(np.float32) for ids in plans]
    for epoch, (ids, of) in enumerate(zip(plans, weights, strict=True)):
        save_plan(tmp_path, epoch, Plan(ids, of, lr_factor=0.5))
    policy, place = replay(tmp_path, permuted=True), {}
    for epoch, (ids, of) in enumerate(zip(plans, weights, strict=True)):
        plan = policy.plan(ledger, pool, EpochContext(epoch, 3, seed=7))
        assert np.array_equal(labels[plan.ids], labels[ids])
        assert plan.weights is not None
        assert np.array_equal(plan.weights, of)
        assert plan.lr_factor == 0.5
        assert np.isin(plan.ids, pool).all()
        for id, other in zip(ids.tolist(), plan.ids.tolist(), strict=True):
            assert place.setdefault(id, other) == other
    assert len(set(place.values())) == len(place)
    assert sum(id == other for id, other in place.items()) < len(place) / 2
    other = policy.plan(ledger, pool, EpochContext(0, 3, seed=8))
    assert not np.array_equal(np.sort(other.ids), np.sort(plans[0]))


def test_more_samples_come_from_the_rest(tmp_path):
    ids, weights = np.arange(0, 40, 2), np.full(20, 2, dtype=np.float32)
    save_plan(tmp_path, 0, Plan(ids, weights))
    policy = replay(tmp_path, extra=(5,))
    plan = policy.plan(Ledger.new(40), np.arange(40), EpochContext(0, 1, seed=0))
    assert np.array_equal(plan.ids[:20], ids)
    assert (plan.ids[20:] % 2 == 1).all()
    assert len(set(plan.ids[20:].tolist())) == 5
    assert plan.weights is not None
    assert plan.weights.tolist() == [2.0] * 20 + [1.0] * 5
    assert policy.plan(Ledger.new(40), np.arange(40), EpochContext(1, 2, seed=0)).stop


def test_other_plans_are_refused(tmp_path):
    save_plan(tmp_path, 0, Plan(np.arange(5)))
    policy = replay(tmp_path)
    save_plan(tmp_path, 0, Plan(np.arange(6)))
    with pytest.raises(LedgerError, match=r"does not hold the plans of digest .* run the training"):
        policy.plan(Ledger.new(9), np.arange(9), EpochContext(0, 1, seed=0))
    assert plans_digest(tmp_path / "none") is None


def test_permuted_needs_labels(tmp_path):
    learn(tmp_path, policy=GATE)
    data = torch.utils.data.TensorDataset(torch.randn(37, 1, 6, 6))
    with pytest.raises(UnsupportedData, match="label"):
        learn(policy=replay(tmp_path, permuted=True), dataset=data)
