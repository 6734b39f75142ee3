"""What a training may cost: recounts, equal trainings, refusals."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frugalkd.errors import FrugalKDWarning, SelectionMisuse, SettingError
from frugalkd.ledger.ledger import ASIDE, Ledger
from frugalkd.objectives import KD
from frugalkd.policies import All, EpochContext, RandomSubset, Sampling, SelfRegulation
from frugalkd.policies.modes import CEILING, HORIZON, PROBE, significance_weights
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.teachers.encodings import make_encoding
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.settings import Optimizer, Training
from toys import grouped, images, net, same_state

EASY = 600
TRAINING = Training(epochs=8, batch_size=16, optimizer=Optimizer(lr=0.01))


def easy():
    """Data of which a model soon passes most."""
    torch.manual_seed(0)
    inputs = torch.randn(EASY, 6)
    return TensorDataset(inputs, (inputs @ torch.randn(6, 3)).argmax(1))


def learned(training=TRAINING, seed=0, **sampling):
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    return train_teacher(
        model, easy(), training=training, seed=seed, **grouped(device="cpu", **sampling)
    )  # fmt: skip


@pytest.mark.parametrize("cost", [0.1, 0.25, 0.5])
def test_a_training_costs_what_it_may(cost):
    run = learned(mode="regulated", cost=cost)
    trained, forwards = run.meters.samples_backpropagated, run.meters.student_forwards
    assert (trained + (forwards - trained) / 3) / EASY == pytest.approx(8 * cost, abs=1 / EASY)
    assert trained == sum(record["rows"] for record in run.history)
    assert len(run.history) <= math.ceil(8 * cost * HORIZON)
    if cost == 0.5:  # spread over more epochs than it pays for in full
        assert len(run.history) > 4
        assert forwards > trained


@pytest.mark.parametrize("cost", [0.25, 0.3])
def test_without_a_gate_the_epochs_are_fewer(cost):
    short = learned(mode="vanilla", cost=cost)
    plain = train_teacher(
        (torch.manual_seed(1), nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3)))[1],
        easy(), training=Training(epochs=8 * cost, batch_size=16, optimizer=TRAINING.optimizer),
        **grouped(device="cpu", policy=All()),
    )  # fmt: skip
    assert same_state(short.model, plain.model)


def test_the_last_step_is_at_the_end_of_the_schedule():
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))
    selection = Selection(
        easy(), sampling=Sampling(cost=0.5), model=model, epochs=8, batch_size=16, seed=0
    )
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    after = 0.0
    for epoch in selection:
        for batch in epoch:
            assert batch.progress >= after - 1e-9 or batch.index == 0
            inputs, labels = batch.data
            logits = model(inputs)
            batch.reduce(nn.functional.cross_entropy(logits, labels, reduction="none")).backward()
            optimizer.step()
            optimizer.zero_grad()
            batch.observe(logits, labels)
            after = batch.progress_after
    assert after == pytest.approx(1.0, abs=2 / (4 * EASY))
    assert selection.epoch < selection.epochs == 16  # ended by the cost
    rows = selection.meters.samples_backpropagated
    assert selection.budget == rows / (8 * EASY)
    screened = selection.meters.student_forwards - rows
    assert rows + screened / 3 == pytest.approx(4 * EASY, abs=1)


def test_where_nothing_passes_it_is_a_short_training():
    """Every epoch uses all samples but the probe, as many epochs as the cost pays for."""
    gate = SelfRegulation(confidence=1.0, ceiling=100.0)
    run = distill(
        net(), images(), teacher=net(seed=9), training=Training(epochs=8, batch_size=8),
        **grouped(device="cpu", mode="regulated", regulation=gate, cost=0.5),
    )  # fmt: skip
    probe = int(SelfRegulation(probe=PROBE).set_aside(37, seed=0).sum())  # pyright: ignore
    *whole, last = [record["rows"] for record in run.history]
    assert whole == [37 - probe] * 4
    assert sum(whole) + last == 4 * 37
    assert run.meters.student_forwards == 4 * 37  # no probe is screened while nothing passes


@pytest.mark.parametrize(("encoding", "ceiling"), [("float32", CEILING), ("top-k", None)])
def test_a_cost_has_a_ceiling_where_the_teacher_is_known(encoding, ceiling):
    kept = StoredTargets.fill(net(2), images(), encoding=make_encoding(encoding, 2))
    sampling = Sampling(cost=0.5).fitted(kept)
    gate = sampling.chosen_policy
    assert isinstance(gate, SelfRegulation)
    assert (gate.ceiling, gate.probe, gate.cost) == (ceiling, PROBE, 1 / HORIZON)
    training = Training(epochs=2, batch_size=8)
    objective = KD(temperature=kept.temperature or 4.0)
    given = {"teacher": kept, "training": training, "objective": objective, "device": "cpu"}
    run = distill(net(), images(), cost=0.5, **given)  # pyright: ignore[reportArgumentType]
    assert ("teacher_truth" in run.ledger.columns) == (ceiling is not None)


def test_settings_of_its_own_stand():
    own = SelfRegulation(ceiling=0.5, probe=0.1)
    gate = Sampling(cost=0.5, regulation=own).fitted(LiveTeacher(net())).chosen_policy
    assert isinstance(gate, SelfRegulation)
    assert (gate.ceiling, gate.probe) == (0.5, 0.1)
    assert Sampling(regulation=own).fitted(LiveTeacher(net())).chosen_policy == own


def test_it_ends_where_what_is_left_is_no_batch():
    whole = Training(epochs=4, batch_size=128, drop_last=True, optimizer=TRAINING.optimizer)
    run = learned(whole, mode="regulated", cost=0.5)
    assert all(record["rows"] for record in run.history)


@pytest.mark.parametrize("accumulated", [1, 2, 4])
def test_accumulated_batches_do_not_end_it_early(accumulated):
    """On one rank a step may be of fewer batches; at the end the rate is next to nothing."""
    whole = Training(
        epochs=4, batch_size=32, drop_last=True, gradient_accumulation_steps=accumulated,
        optimizer=TRAINING.optimizer,
    )  # fmt: skip
    run = learned(whole, cost=0.3)
    screened = run.meters.student_forwards - run.meters.samples_backpropagated
    spent = run.meters.samples_backpropagated + screened / 3
    assert 4 * 0.3 * EASY - 32 <= spent <= 4 * 0.3 * EASY


def test_a_cost_that_pays_for_nothing_is_refused():
    with pytest.raises(
        SettingError, match=r"cost pays for 0.48 samples in all, and a step needs 1: raise the cost"
    ):
        learned(cost=0.0001)
    whole = Training(epochs=4, batch_size=128, drop_last=True, optimizer=TRAINING.optimizer)
    with pytest.raises(SettingError, match="pays for 120 samples in all, and a step needs 128"):
        learned(whole, cost=0.05)
    with pytest.warns(FrugalKDWarning, match="nothing was trained"):
        learned(mode="vanilla", cost=0.0001)


def test_what_is_left_trains_where_screening_costs_more():
    ledger = Ledger.new(1000)
    ledger["visits"][:] = ledger["streak"][:] = 1  # all are due for a screening
    pool = np.arange(1000)
    at = EpochContext(3, 3.5, 0, 700)  # half an epoch, and 175 samples are paid for
    assert len(SelfRegulation(cost=0.25).plan(ledger, pool, at).ids) == 350
    plan = SelfRegulation(cost=0.25, keep_probability=0.1).plan(ledger, pool, at)
    assert plan.weights is not None
    assert plan.weights.sum() == pytest.approx(1000)


def test_what_cannot_be_limited_is_refused():
    for policy, says in [
        (RandomSubset(0.5), "RandomSubset has settings of its own"),
        (SelfRegulation(budget=0.5), "limit of its own"),
        (SelfRegulation(cost=0.5), "limit of its own"),
        (SelfRegulation(when="now"), "cost is decided before the epoch"),
        (SelfRegulation(final_full_epochs=1), "final_full_epochs may never come where cost"),
    ]:
        with pytest.raises(SettingError, match=says):
            Sampling(policy=policy, cost=0.5)
    assert Sampling(cost=0.5).chosen_policy == SelfRegulation(cost=1 / HORIZON, probe=PROBE)
    assert Sampling(mode="vanilla", cost=0.5).epochs_of(10) == 5
    assert Sampling().epochs_of(10) == 10
    with pytest.raises(SettingError, match="epochs, of which a cost allows more than are given"):
        learned(Training(epochs=20_000), cost=1.0)  # the ledger counts in 16 bits


def test_a_small_pool_spends_what_it_can_with_the_whole_schedule():
    """A tenth of the samples has a weight; the gate lets none of them rest."""
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    weights = (torch.arange(EASY) % 10 == 0).float().numpy()
    gate = SelfRegulation(confidence=1.0, budget=0.5)
    sampling = Sampling(policy=gate, weights=weights)
    selection = Selection(
        easy(), sampling=sampling, model=model, epochs=5, batch_size=16, seed=0
    )  # fmt: skip
    starts = []
    for epoch in selection:
        for batch in epoch:
            starts += [batch.progress] * (batch.index == 0)
            logits = model(batch.data[0])
            batch.observe(logits, batch.data[1])
    assert starts == pytest.approx([0, 0.2, 0.4, 0.6, 0.8])


def small():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 3))


def remembering(streaks, right=0.5):
    """A ledger after an epoch in which everything was used: right on all that was trained on, and
    on a fraction of the probe."""
    gate = SelfRegulation(probe=0.2)
    ledger, probe = Ledger.new(1000, extra=gate.columns), gate.set_aside(1000, seed=0)
    assert probe is not None
    ledger[ASIDE][:] = probe
    ledger["visits"][:], ledger["flags"][:], ledger["last_epoch"][:] = 1, 1, 0
    ledger["streak"][:] = streaks
    ledger["due"][:] = 1 + 4 * (ledger["streak"] > 0)
    wrong = np.flatnonzero(probe)[round(right * probe.sum()) :]
    ledger["flags"][wrong] = 0
    return gate, ledger, probe


@pytest.mark.parametrize(("right", "everything"), [(0.5, True), (0.95, True), (0.97, False)])
def test_a_model_that_remembers_is_trained_on_everything(right, everything):
    """3 points and a standard error: 1.2 points at 97 %. The probe decides once it was screened,
    and with it all that are due."""
    gate, ledger, probe = remembering(np.arange(1000) % 2, right)
    pool = np.flatnonzero(~probe)
    ledger["due"][pool[pool % 2 == 1][:7]] = 1
    ledger["confidence"][pool] = 0.5
    never = pool[pool % 2 == 0][:3]  # judged: views that are mixed with others have no verdict
    ledger["confidence"][never], ledger["flags"][never] = np.nan, 0
    plan = gate.plan(ledger, pool, EpochContext(1, 10, 0))
    assert sorted(plan.screen) == sorted([*np.flatnonzero(probe), *pool[pool % 2 == 1][:7]])
    ledger["last_epoch"][plan.screen], ledger["due"][plan.screen] = 1, 3
    plan = gate.plan(ledger, pool, EpochContext(1, 10, 0))
    wanted = pool if everything else pool[pool % 2 == 0]
    assert sorted(plan.ids) == list(wanted)
    assert len(plan.screen) == 0


@pytest.mark.parametrize(("passed", "everything"), [(390, True), (410, False)])
def test_while_most_samples_fail_none_is_left_out(passed, everything):
    gate, ledger, probe = remembering(np.zeros(1000))
    pool = np.flatnonzero(~probe)
    some = pool[: round(passed * len(pool) / 1000)]
    ledger["streak"][some], ledger["due"][some] = 1, 5
    plan = gate.plan(ledger, pool, EpochContext(1, 10, 0))
    assert len(plan.screen) == (0 if everything else probe.sum())
    assert len(plan.ids) == (len(pool) if everything else len(pool) - len(some))
    without = SelfRegulation().plan(ledger, pool, EpochContext(1, 10, 0))  # no probe, no rule
    assert len(without.ids) == len(pool) - len(some)


@pytest.mark.parametrize("cost", [0.25, 0.5])
@pytest.mark.parametrize("seed", range(3))
def test_a_cost_is_kept_with_a_probe(seed, cost):
    gate = SelfRegulation(probe=0.1, confidence=0.6)
    run = learned(seed=seed, mode="regulated", regulation=gate, cost=cost)
    spent = run.meters.samples_backpropagated
    screened = run.meters.student_forwards - spent
    assert spent + screened / 3 == pytest.approx(8 * cost * EASY, abs=1)


def test_who_is_screened_is_decided_once():
    """Samples whose labels were disbelieved pass, and fewer fail than before they were screened."""
    gate, ledger, probe = remembering(np.zeros(1000))
    pool = np.flatnonzero(~probe)
    ledger["streak"][pool[:300]], ledger["due"][pool[:300]] = 1, 1  # due, and most others fail
    assert len(gate.plan(ledger, pool, EpochContext(1, 10, 0)).screen) == 0
    ledger["streak"][pool[300:500]] = 1  # what a screening found
    ledger["last_epoch"][pool[300:500]] = 1
    plan = gate.plan(ledger, pool, EpochContext(1, 10, 0))
    assert len(plan.screen) == 0
    assert sorted(plan.ids) == list(pool[500:])


def test_a_probe_of_nothing_stops_no_screening():
    gate, pool = SelfRegulation(probe=0.001), np.arange(20)
    ledger = Ledger.new(20, extra=gate.columns)
    aside = gate.set_aside(20, seed=0)
    assert aside is not None
    assert not aside.any()
    ledger["visits"][:], ledger["last_epoch"][:] = 1, 0
    ledger["streak"][:15], ledger["due"][:15] = 1, 1
    plan = gate.plan(ledger, pool, EpochContext(1, 10, 0))
    assert sorted(plan.screen) == list(range(15))


class ScreensTwice(SelfRegulation):
    def plan(self, ledger, pool, at):
        return replace(super().plan(ledger, pool, at), screen=pool[:3])


def test_a_plan_screens_once():
    with pytest.raises(SelectionMisuse, match="gives 3 samples to screen once the screening of ep"):
        learned(policy=ScreensTwice())


def test_the_probe_is_never_trained_on_and_paid_for():
    gate = SelfRegulation(probe=0.1)
    run = learned(mode="regulated", regulation=gate, cost=0.5)
    probe = gate.set_aside(EASY, seed=0)
    assert probe is not None
    assert 30 < probe.sum() < 90
    used = run.ledger["participations"] + run.ledger["forced"]
    assert not used[probe].any()
    assert np.isnan(run.ledger["loss"][probe]).all()
    screened = sum(record["screened"] > 0 for record in run.history)
    assert (run.ledger["visits"][probe] == screened).all()
    trained, forwards = run.meters.samples_backpropagated, run.meters.student_forwards
    assert (trained + (forwards - trained) / 3) / EASY == pytest.approx(4, abs=2 / EASY)


def test_a_probe_has_no_sample_of_weight_0():
    weights = np.where(np.arange(EASY) % 2, 1.0, 0.0).astype(np.float32)
    gate = SelfRegulation(probe=0.2)
    run = learned(weights=weights, policy=gate, cost=0.5)
    probe = gate.set_aside(EASY, seed=0)
    assert probe is not None
    assert not run.ledger["visits"][weights == 0].any()
    assert run.ledger["visits"][probe & (weights > 0)].any()
    assert (run.ledger[ASIDE] == (probe & (weights > 0))).all()


def test_what_a_probe_set_aside_weighs_the_mean():
    run = learned(mode="regulated", regulation=SelfRegulation(probe=0.1), cost=0.5)
    aside = run.ledger[ASIDE] > 0
    assert 30 < aside.sum() < 90
    weights = significance_weights(run.ledger)
    assert (weights[aside] == 1).all()
    used = run.ledger.significance > 0
    assert weights[used].mean() == pytest.approx(1)
    assert (weights > 0).sum() == aside.sum() + used.sum()


def test_a_cost_of_whole_epochs_has_no_rest():
    sampling = Sampling(mode="vanilla", cost=0.07)
    assert sampling.epochs_of(100.0) == 7.0


def test_a_probe_of_everything_is_none():
    assert SelfRegulation(probe=0.999).set_aside(1, seed=0) is None
    assert SelfRegulation().set_aside(10, seed=0) is None


@pytest.mark.parametrize("setting", [{"budget": 0.5}, {"when": "now"}])
def test_a_probe_is_refused_where_it_has_no_meaning(setting):
    with pytest.raises(SettingError, match="probe"):
        SelfRegulation(probe=0.5, **setting)


def test_the_cost_of_distill_is_that_of_its_sampling():
    runs = []
    for given in ({"cost": 0.5}, {"sampling": Sampling(cost=0.5)}):
        same: Any = given | {"training": Training(epochs=4, batch_size=8), "device": "cpu"}
        runs.append(distill(net(), images(), teacher=net(seed=9), **same))
    assert same_state(runs[0].model, runs[1].model)
    assert runs[0].meters.samples_backpropagated == runs[1].meters.samples_backpropagated
    with pytest.raises(SettingError, match=r"cost=0.25, and sampling has a cost of 0.5: give one"):
        Sampling(cost=0.5).at_cost(0.25)


@pytest.mark.parametrize(
    ("budget", "epochs", "few"), [(0.25, 6, True), (0.25, 8, False), (1, 1, False)]
)
def test_a_budget_of_few_visits_warns(budget, epochs, few):
    sampling = Sampling(regulation=SelfRegulation(budget=budget))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Selection(easy(), sampling=sampling, model=small(), epochs=epochs, batch_size=16)
    said = [str(each.message) for each in caught]
    wanted = (
        "a budget of 0.25 over 6 epochs trains each sample 1.5 times on average, which is too few "
        "to select by: set a cost in place of the budget, or more epochs"
    )
    assert said == ([wanted] if few else [])
