"""What holds of every policy: a new one in the registry is tested here without another line."""

from __future__ import annotations

import copy
import dataclasses
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import POLICIES, All, EpochContext, Sampling, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.training.api import train_teacher
from frugalkd.training.settings import Optimizer, Training

EVERYONE = {  # settings under which everything is used
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
    "self-regulation": {"confidence": 1.0},
    "swiftlearn": {"fraction": 1.0},
    "unix": {"keep": 1.0},
}

SHORT: dict[str, dict[str, Any]] = {  # settings under which a short training already leaves out
    "ies": {"threshold": 0.1, "window": 1},
    "kakurenbo": {"confidence": 0.0},
    "rho-loss": {"keep": 0.3},
    "swiftlearn": {"refresh": 2},
}
NO_BUDGET = {"all", "kakurenbo"}
UNBIASED: dict[str, list[dict[str, Any]]] = {
    "infobatch": [{}, {"skip": 0.9}, {"budget": 0.3}],
    "self-regulation": [{"keep_probability": 0.3}, {"keep_probability": 0.2, "budget": 0.3}],
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
def test_a_plan_is_of_the_pool_unique_and_changes_nothing(policy, pool, epoch):
    ledger = ledger_of(policy)
    before = copy.deepcopy(ledger)
    plans = [policy.plan(ledger, pool, EpochContext(epoch, 10, 5)) for _ in range(2)]
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
    first = policy.plan(ledger, pool, EpochContext(4, 10, 5)).ids
    np.random.seed(1)
    torch.manual_seed(1)
    state = _numpy_state()
    assert np.array_equal(policy.plan(ledger, pool, EpochContext(4, 10, 5)).ids, first)
    assert _numpy_state() == state


def test_settings_are_frozen_plain_values(policy: Any):
    assert policy.when in ("now", "last-visit")
    assert policy == type(policy)()
    assert dataclasses.is_dataclass(type(policy))
    with pytest.raises(dataclasses.FrozenInstanceError):
        policy.when = "now"


@pytest.mark.parametrize("name", POLICIES)
def test_verdicts_and_skips_have_one_value_a_row(name):
    values = np.array([0.1, 0.5, 0.95, np.nan], np.float32)
    seen = Outcome(values, np.array([True, False, True, True]), values, values)
    at, ids = EpochContext(4, 10, 5), np.arange(4)
    for settings in ({}, EVERYONE[name]):
        policy = POLICIES[name](**settings)
        ledger = Ledger.new(4, extra=policy.columns)
        for column, noted in policy.update_columns(seen, ids, ledger, at).items():
            assert noted.shape == (4,)
            assert np.isfinite(noted).all()
            ledger[column][ids] = noted
        failed = policy.needs_training(seen, ids, ledger, at)
        assert failed.shape == (4,)
        assert failed.dtype == bool
    assert failed.all(), "of everyone, some would be left out"
    skips = policy.skip_epochs(np.array([0, 1, 2, 255], np.uint8))
    assert (skips >= 0).all()
    assert skips[0] == 0


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
            model,
            data,
            sampling=Sampling(policy=policy, scores=scores),
            training=training,
            device="cpu",
        )
        assert run.meters.samples_backpropagated == 75
        weights.append(torch.cat([p.detach().flatten() for p in run.model.parameters()]))
    assert all(torch.equal(weights[0], other) for other in weights[1:])


def test_the_registry_names_every_policy():
    assert set(POLICIES) >= {"all", "random", "self-regulation"}
    assert POLICIES["self-regulation"] is SelfRegulation


class Watched(Selection):
    """Keeps all verdicts that are recorded: epoch, ids, which rows failed."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.entered: list[tuple[int, np.ndarray, np.ndarray]] = []
        record = self.ledger.record

        def watched(ids, *, epoch, failed, **given):
            self.entered.append((epoch, ids, failed))
            return record(ids, epoch=epoch, failed=failed, **given)

        self.ledger.record = watched


@dataclass
class Loop:
    """A user's own training of a linear model on data some of which it cannot learn.

    Attributes:
        batches: of what was trained on so far: the epoch, ids, which rows were forced.
    """

    policy: Any
    samples: int = 120
    epochs: float = 6.5
    rows: int = 8
    seed: int = 0
    batches: list[tuple[int, list[int], list[bool]]] = field(default_factory=list)

    def __post_init__(self):
        stream = np.random.default_rng(0)
        inputs = stream.normal(size=(self.samples, 6)).astype(np.float32)
        labels = np.where(stream.random(self.samples) < 0.2, 0, inputs[:, :3].argmax(1))
        data = TensorDataset(torch.from_numpy(inputs), torch.from_numpy(labels))
        self.model = nn.Linear(6, 3)
        nn.init.zeros_(self.model.weight)
        nn.init.zeros_(self.model.bias)
        scores = stream.random(self.samples).astype(np.float32)
        self.weights = stream.choice(np.array([0, 1, 2], np.float32), self.samples)
        self.selection = Watched(
            data,
            epochs=self.epochs,
            batch_size=self.rows,
            sampling=Sampling(
                policy=self.policy,
                weights=self.weights if self.samples < 400 else None,
                scores=None if self.policy.scoring is None else scores,
            ),
            model=self.model,
            seed=self.seed,
        )

    def run(self, stop_after=None):
        """Train, all or until so many batches; returns itself."""
        for epoch in self.selection:
            for batch in epoch:
                logits = self.model(batch.data[0])
                losses = nn.functional.cross_entropy(logits, batch.data[1], reduction="none")
                gradients = torch.autograd.grad(batch.reduce(losses), list(self.model.parameters()))
                with torch.no_grad():
                    for weight, gradient in zip(self.model.parameters(), gradients, strict=True):
                        weight -= epoch.lr_factor * gradient
                batch.observe(logits)
                self.batches.append((epoch.index, batch.ids.tolist(), batch.forced.tolist()))
                if len(self.batches) == stop_after:
                    return self
        return self


@pytest.mark.parametrize("name", POLICIES)
def test_the_ledger_counts_what_the_loop_saw(name):
    loop = Loop(POLICIES[name](**SHORT.get(name, {}))).run()
    pool = set(np.flatnonzero(loop.weights).tolist())
    verdicts, visits = {}, Counter()
    for epoch, ids, failed in loop.selection.entered:
        assert len(set(ids.tolist())) == len(ids)
        for id, fails in zip(ids.tolist(), failed.tolist(), strict=True):
            visits[id] += (epoch, id) not in verdicts
            verdicts[epoch, id] = fails
    participations, forced, trained = Counter(), Counter(), Counter()
    for epoch, ids, were_forced in loop.batches:
        for id, was_forced in zip(ids, were_forced, strict=True):
            assert id in pool
            trained[epoch, id] += 1
            forced[id] += was_forced
            participations[id] += verdicts[epoch, id] and not was_forced
    assert set(trained.values()) == {1}
    ledger = loop.selection.ledger
    for column, counts in (
        ("visits", visits),
        ("participations", participations),
        ("forced", forced),
    ):
        assert ledger[column].tolist() == [counts[id] for id in range(len(ledger))], column
    everything = 6 * len(pool) + round(0.5 * len(pool))
    assert len(trained) == everything if name == "all" else len(trained) < everything


@pytest.mark.parametrize("name", POLICIES)
def test_batches_are_of_the_seed_alone_after_a_resume(name):
    policy = POLICIES[name](**SHORT.get(name, {}))
    whole = Loop(policy).run().batches
    _ = np.random.random(), torch.rand(1)  # other states of the global streams
    steps = Counter(epoch for epoch, _, _ in whole)
    middle = min(epoch for epoch, count in steps.items() if epoch >= 3 and count > 1)
    stop = 1 + [epoch for epoch, _, _ in whole].index(middle)
    part = Loop(policy).run(stop)
    rest = Loop(policy)
    rest.selection.load_state_dict(copy.deepcopy(part.selection.state_dict()))
    rest.model.load_state_dict(part.model.state_dict())
    assert part.batches + rest.run().batches == whole
    assert Loop(policy, seed=1).run().batches != whole


@pytest.mark.parametrize("budget", [0.1, 0.5])
@pytest.mark.parametrize("name", POLICIES)
def test_at_a_budget_it_spends_it(name, budget):
    policy = POLICIES[name]().at_budget(budget)
    if policy is None:
        assert name in NO_BUDGET, f"{name} has settings for a budget and does not use them"
        return
    loop = Loop(policy, samples=400, epochs=12.5, rows=32).run()
    spent = sum(len(ids) for _, ids, _ in loop.batches)
    assert spent == loop.selection.meters.samples_backpropagated
    assert spent == pytest.approx(budget * 400 * 12.5, rel=0.02)


@pytest.mark.parametrize("name", UNBIASED)
@pytest.mark.heavy
def test_what_is_unbiased_sums_to_all_losses(name):
    for settings in UNBIASED[name]:
        policy: Any = POLICIES[name](**settings)
        ledger, pool = ledger_of(policy), np.arange(50)
        losses, sums = np.random.default_rng(3).exponential(size=50), []
        screened = policy.plan(ledger, pool, EpochContext(4, 10, 0)).screen
        ledger["due"][screened] = 5  # they are skipped again
        for seed in range(2000):
            plan = policy.plan(ledger, pool, EpochContext(4, 10, seed))
            assert not len(plan.screen)
            sums.append((plan.weights * losses[plan.ids]).sum())
        assert np.std(sums) > 0
        assert np.mean(sums) == pytest.approx(losses.sum(), abs=4 * np.std(sums) / 2000**0.5)
