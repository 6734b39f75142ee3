"""Skips, quota and settings. Whole runs are recounted in test_selection_recount."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.ledger.dynamics import NEVER
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext, SelfRegulation
from frugalkd.runtime import draws

POOL = np.arange(10)
AT = EpochContext(0, 20.0, 0)


def at(epoch, epochs=20.0, seed=0):
    return EpochContext(epoch, epochs, seed)


def seen(epoch=0):
    ledger = Ledger.new(10)
    ledger["last_epoch"][:] = epoch
    ledger["confidence"][:] = np.linspace(0.05, 0.95, 10)
    return ledger


def test_skips_double_up_to_their_cap():
    streaks = np.array([0, 1, 2, 3, 4, 5, 6, 255], np.uint8)
    assert SelfRegulation(max_skip=8).skip_epochs(streaks).tolist() == [0, 1, 2, 4, 8, 8, 8, 8]
    assert SelfRegulation(max_skip=1).skip_epochs(streaks).tolist() == [0, 1, 1, 1, 1, 1, 1, 1]
    assert SelfRegulation(max_skip=60_000).skip_epochs(streaks)[-1] == 60_000


def test_tau_itself_passes_and_nan_fails():
    confidence = np.array(
        [0.9, np.nextafter(np.float32(0.9), np.float32(0)), 1, 1, np.nan], np.float32
    )
    correct = np.array([True, True, True, False, True])
    seen = Outcome(confidence, correct, confidence)
    failed = SelfRegulation(confidence=0.9).needs_training(seen, np.arange(5), Ledger.new(5), AT)
    assert failed.tolist() == [False, True, False, True, True]


def test_a_ceiling_is_a_part_of_the_teachers_probability():
    policy = SelfRegulation(confidence=0.9, ceiling=0.5)
    ledger = Ledger.new(6, extra=policy.columns)
    ledger["teacher_truth"][:] = [1, 1, 0.4, 0.4, 0.0, 0.4]
    truth = np.array([0.5, 0.49, 0.2, 0.19, 0.0, np.nan], np.float32)
    seen = Outcome(np.full(6, 0.5, np.float32), np.zeros(6, bool), truth)
    failed = policy.needs_training(seen, np.arange(6), ledger, AT)
    assert failed.tolist() == [False, True, False, True, False, True]
    high = SelfRegulation(confidence=0.9, ceiling=2.0)  # tau is the most that is ever required
    assert (
        high.needs_training(
            seen._replace(truth=np.full(6, 0.9, np.float32)), np.arange(6), ledger, AT
        ).sum()
        == 0
    )


def test_warm_up_and_finale_force_everybody():
    policy = SelfRegulation(warmup=2, final_full_epochs=3)
    ledger = seen()
    ledger["due"][:] = 1000
    for epoch in range(20):
        plan = policy.plan(ledger, POOL, at(epoch))
        everybody = epoch < 2 or epoch >= 17
        assert len(plan.ids) == (10 if everybody else 0)
        assert (plan.forced is not None and plan.forced.all()) == everybody


def test_full_epochs_are_paid_from_half_of_a_budget():
    policy = SelfRegulation(budget=0.25, warmup=1, final_full_epochs=1)
    assert spending(policy, [1000] * 20, 20) == [1000, *[167] * 18, 1000]
    short = SelfRegulation(budget=0.25, warmup=3, final_full_epochs=1)
    assert spending(short, [1000] * 8, 8) == [*[143] * 7, 1000]  # half of it pays for one


def test_due_samples_are_screened_and_failed_ones_train():
    ledger = seen()
    ledger["streak"][[1, 2, 3]] = 1
    ledger["due"][[2, 3]] = [6, 5]
    plan = SelfRegulation().plan(ledger, POOL, at(5))
    assert plan.screen.tolist() == [1, 3]
    assert plan.ids.tolist() == [0, 4, 5, 6, 7, 8, 9]


def test_a_quota_keeps_the_least_confident_and_the_unseen_first():
    ledger = seen()
    ledger["last_epoch"][[8, 9]] = NEVER
    ledger["confidence"][[8, 9]] = np.nan
    plan = SelfRegulation(budget=0.4).plan(ledger, POOL, at(1))
    assert sorted(plan.ids) == [0, 1, 8, 9]
    assert plan.forced is None or not plan.forced.any()


def test_a_quota_among_the_unseen_is_a_random_draw():
    drawn = {
        tuple(sorted(SelfRegulation(budget=0.3).plan(Ledger.new(10), POOL, at(0, seed=s)).ids))
        for s in range(20)
    }
    assert len(drawn) > 10


def test_a_quota_is_filled_with_samples_that_are_due_next():
    ledger = seen()
    ledger["streak"][3:] = 1
    ledger["due"][3:] = [9, 5, 7, 4, 8, 6, 9]
    plan = SelfRegulation(budget=0.5).plan(ledger, POOL, at(1))
    assert set(plan.ids) == {0, 1, 2, 6, 4}
    assert set(plan.ids[plan.forced]) == {6, 4}


def test_a_random_quota_is_not_the_least_confident():
    drawn = [
        SelfRegulation(budget=0.5, budget_rule="random").plan(seen(), POOL, at(1, seed=s)).ids
        for s in range(40)
    ]
    counts = np.bincount(np.concatenate(drawn), minlength=10)
    assert counts.min() > 5
    assert all(len(ids) == 5 for ids in drawn)


def test_what_a_cost_cannot_pay_for_is_left_out_at_random():
    policy = SelfRegulation(cost=0.5)
    rest = [replace(at(9, seed=s), spent=97.0) for s in range(40)]  # of 100
    drawn = [policy.plan(seen(), POOL, each).ids for each in rest]
    assert {len(ids) for ids in drawn} == {3}
    assert np.bincount(np.concatenate(drawn), minlength=10).min() > 3


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    samples=st.integers(1, 40),
    budget=st.floats(0.01, 1),
    quota=st.sampled_from(["least-confident", "random"]),
)
def test_a_budget_keeps_what_a_full_sort_puts_first(seed, samples, budget, quota):
    stream = np.random.default_rng(seed)
    ledger, epoch = Ledger.new(samples), 3
    pool = np.flatnonzero(stream.random(samples) < stream.choice([0.6, 1.0]))
    ledger["streak"][:] = stream.random(samples) < 0.5
    # Active, or skipped for a few epochs: none is due for a screening, and many are tied.
    ledger["due"][:] = np.where(
        ledger["streak"] > 0, epoch + 1 + stream.integers(3, size=samples), 0
    )
    seen = stream.random(samples) < 0.7
    ledger["last_epoch"][seen] = 2
    ledger["confidence"][seen] = stream.choice(np.array([0.2, 0.5, 0.5001], np.float32), seen.sum())
    policy = SelfRegulation(budget=budget, budget_rule=quota)
    plan = policy.plan(ledger, pool, at(epoch, seed=seed))

    def drawn(purpose, id):
        return draws.uniform(seed, draws.stream(purpose), epoch, id)[0]

    def rank(id):
        confidence = -1.0 if not seen[id] else ledger["confidence"][id]
        return (confidence if quota == "least-confident" else 0, drawn("quota", id))

    wanted = max(1, round(budget * len(ledger)))
    active = sorted((id for id in pool if ledger["streak"][id] == 0), key=rank)
    skipped = [id for id in pool if ledger["streak"][id] > 0]
    skipped.sort(key=lambda id: (ledger["due"][id], drawn("filler", id)))
    forced = skipped[: max(0, wanted - len(active))]
    assert len(set(plan.ids.tolist())) == len(plan.ids)
    assert set(plan.ids) == set(active[:wanted]) | set(forced)
    assert set(() if plan.forced is None else plan.ids[plan.forced]) == set(forced)


@pytest.mark.parametrize(
    "given_settings",
    [
        {"confidence": 0.0},
        {"confidence": math.nan},
        {"max_skip": -1},
        {"max_skip": 0},
        {"budget": 0.0},
        {"budget": 1.5},
        {"budget": 0.5, "when": "now"},
    ],
)
def test_impossible_settings_are_refused(given_settings):
    with pytest.raises(ValueError, match=next(iter(given_settings))):
        SelfRegulation(**given_settings)


def skipped(due=9):
    ledger = seen()
    ledger["streak"][:] = 1
    ledger["due"][:] = due
    return ledger


@pytest.mark.parametrize("pool", [POOL, POOL[::3]])
def test_without_active_samples_the_user_decides(pool):
    wait, used, stop = (
        SelfRegulation(when_all_skipped=what).plan(skipped(), pool, at(4))
        for what in ("wait", "all", "stop")
    )
    assert (wait.ids.tolist(), wait.stop) == ([], False)
    assert (used.ids.tolist(), used.stop) == (pool.tolist(), False)
    assert used.forced is not None
    assert used.forced.all()
    assert (stop.ids.tolist(), stop.stop) == ([], True)
    assert not len(used.screen)
    assert not len(stop.screen)


@pytest.mark.parametrize("what", ["all", "stop"])
def test_while_a_sample_is_active_or_due_nothing_is_decided(what):
    policy, plain = SelfRegulation(when_all_skipped=what), SelfRegulation()
    one_due, one_active = skipped(), skipped()
    one_due["due"][3] = 4
    one_active["due"][3], one_active["streak"][3] = 4, 0
    for ledger in (one_due, one_active):
        plan, same = policy.plan(ledger, POOL, at(4)), plain.plan(ledger, POOL, at(4))
        assert plan.ids.tolist() == same.ids.tolist()
        assert plan.screen.tolist() == same.screen.tolist()
        assert plan.forced is None
        assert not plan.stop
    others = np.setdiff1d(POOL, [3])  # samples outside the pool do not count
    assert policy.plan(one_active, others, at(4)).stop == (what == "stop")


def test_a_budget_reactivates_samples_in_any_case():
    policy = SelfRegulation(budget=0.5, when_all_skipped="stop")
    plan = policy.plan(skipped(), POOL, at(4))
    assert len(plan.ids) == 5
    assert not plan.stop


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"when_all_skipped": "now"}, "must be wait, all or stop"),
        (
            {"when_all_skipped": "all", "when": "now"},
            "when_all_skipped is decided before the epoch",
        ),
        ({"when_all_skipped": "stop", "final_full_epochs": 1}, "final_full_epochs may never come"),
    ],
)
def test_impossible_settings_of_skipping_are_refused(settings, says):
    with pytest.raises(ValueError, match=says):
        SelfRegulation(**settings)


def half_active(samples=200):
    """A ledger of which every other sample passed once, and is skipped."""
    ledger = Ledger.new(samples)
    ledger["last_epoch"][:] = 3
    ledger["streak"][1::2] = 1
    ledger["due"][1::2] = 60
    return ledger


@pytest.mark.parametrize("keep_probability", [0.1, 1.0])
@pytest.mark.parametrize("budget", [None, 0.1, 0.7])
def test_the_unbiased_gate_weighs_for_all_in_expectation(keep_probability, budget):
    ledger, pool = half_active(), np.arange(200)
    policy = SelfRegulation(keep_probability=keep_probability, budget=budget)
    losses = np.random.default_rng(0).exponential(size=200)
    sums = []
    for seed in range(1500):
        plan = policy.plan(ledger, pool, at(4, seed=seed))
        assert plan.weights is not None
        assert plan.forced is not None
        assert np.array_equal(plan.forced, plan.ids % 2 == 1)
        if budget is not None:
            assert len(plan.ids) == round(200 * budget)
        sums.append((plan.weights * losses[plan.ids]).sum())
    assert np.mean(sums) == pytest.approx(losses.sum(), abs=4 * np.std(sums) / 1500**0.5 + 1e-3)


def test_the_unbiased_gate_keeps_active_samples_within_budget():
    ledger, pool = half_active(), np.arange(200)
    plan = SelfRegulation(keep_probability=0.1, budget=0.7).plan(ledger, pool, at(4))
    assert set(range(0, 200, 2)) <= set(plan.ids)
    with pytest.raises(ValueError, match="keep_probability"):
        SelfRegulation(keep_probability=0.1, when="now")
    with pytest.raises(ValueError, match="keep_probability"):
        SelfRegulation(keep_probability=0.0)


def test_a_budget_is_of_all_samples_whatever_the_pool():
    plan = SelfRegulation(budget=0.3).plan(Ledger.new(10), np.arange(5), at(0))
    assert len(plan.ids) == 3
    assert len(SelfRegulation(budget=0.9).plan(Ledger.new(10), np.arange(5), at(0)).ids) == 5


def spending(policy, active, epochs, samples=1000, screened=0):
    """Samples of each epoch where so many are active in it, and so many were screened for it,
    whatever was used before."""
    spent = []
    for epoch, part in enumerate(active):
        ledger = Ledger.new(samples)
        ledger["last_epoch"][:] = 0
        ledger["confidence"][:] = 0.5
        ledger["streak"][part:] = 1
        ledger["due"][part:] = 60
        moment = EpochContext(epoch, epochs, 0, sum(spent), screened * (epoch + 1))
        plan = policy.plan(ledger, np.arange(samples), moment)
        planned = 0 if plan.stop else len(plan.ids)
        spent.append(round(min(1.0, epochs - epoch) * planned))
    return spent


def test_an_early_budget_is_spent_to_the_last_sample():
    policy = SelfRegulation(budget=0.25, budget_schedule="early")
    spent = spending(policy, [1000, 500, 300, 200, 150, 150, 100, 100, 100, 100], 10)
    assert spent[:3] == [1000, 500, 125]  # half of an even epoch is left for each to come
    assert sum(spent) == pytest.approx(2500, abs=3)
    few = spending(policy, [1000, 400] + [50] * 8, 10)
    assert few[:2] == [1000, 400]
    assert sum(few) == pytest.approx(2500, abs=5)


def test_a_cost_is_spent_as_it_is_needed():
    policy = SelfRegulation(cost=0.25)
    spent = spending(policy, [1000] + [350] * 9, 10, screened=90)
    assert spent == [1000, 350, 350, 350, 300, 0, 0, 0, 0, 0]  # 2500 less the screenings' 150
    spent = spending(policy, [1000] + [50] * 9, 10, screened=90)
    assert sum(spent) + 10 * 90 / 3 == pytest.approx(2500, abs=5)  # filled with skipped samples
    last = EpochContext(9, 10, 0, sum(spent[:9]), 900)
    assert policy.paid(last) == sum(spent[:9]) + 300
    assert SelfRegulation(budget=0.25).paid(last) == sum(spent[:9])
    assert policy.planned_rows(1000, 10) == 2500


def test_a_cost_or_a_budget():
    with pytest.raises(ValueError, match="cost is decided before the epoch"):
        SelfRegulation(cost=0.5, when="now")
    with pytest.raises(ValueError, match="give one"):
        SelfRegulation(cost=0.5, budget=0.5)
    assert SelfRegulation(cost=0.5).at_budget(0.25) == SelfRegulation(budget=0.25)


@given(
    budget=st.floats(0.05, 1),
    epochs=st.floats(1, 12),
    active=st.lists(st.integers(0, 1000), min_size=12, max_size=12),
    budget_schedule=st.sampled_from(["even", "early"]),
    warmup=st.integers(0, 3),
    final_full_epochs=st.integers(0, 3),
)
@settings(max_examples=100, deadline=None)
@pytest.mark.heavy
def test_a_budget_is_kept_whatever_is_active(
    budget, epochs, active, budget_schedule, warmup, final_full_epochs
):
    policy = SelfRegulation(
        budget=budget,
        budget_schedule=budget_schedule,
        warmup=warmup,
        final_full_epochs=final_full_epochs,
    )
    spent = spending(policy, active[: math.ceil(epochs)], epochs)
    assert sum(spent) == pytest.approx(budget * epochs * 1000, abs=15, rel=0.02)
