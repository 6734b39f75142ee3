"""Which labels a gate disbelieves, and what it does with their samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from frugalkd import Sampling
from frugalkd.errors import SettingError
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import EpochContext, SelfRegulation
from frugalkd.policies.label_noise import ENOUGH, LEAST, disbelieved, noise_rate
from frugalkd.policies.modes import CEILING

AUTO = SelfRegulation(label_noise="auto", max_skip=2)
EVERY = np.arange(300)
WRONG = np.flatnonzero(EVERY % 5 == 0)
HARD = np.flatnonzero((EVERY % 5 != 0) & (EVERY < 75))


def visited(epoch=5, wrong=WRONG) -> Any:
    """A ledger before ``epoch``: the ``wrong`` labels are refused, of samples of any confidence,
    and those of the ``HARD`` ones, of which the model is not sure."""
    ledger = Ledger.new(300, extra=AUTO.columns, dynamics=True)
    ledger["confidence"][:] = np.linspace(0.5, 1, 300)
    ledger["margin"][:], ledger["flags"][:] = 2, 4 + 1
    ledger["margin"][HARD], ledger["flags"][HARD] = -0.5, 0
    ledger["margin"][wrong], ledger["flags"][wrong] = -3 - wrong / 1000, 0
    ledger["counted"][:] = ledger["visits"][:] = epoch
    ledger["last_epoch"][:], ledger["due"][:] = epoch - 1, epoch
    return ledger


def at(epoch=5, epochs=20.0):
    return EpochContext(epoch, epochs, 0)


def chosen(ledger, rate: float | None = None, pool=EVERY, teacher=False, **more):
    found = disbelieved(ledger, pool, at(**more), rate=rate, tau=0.9, teacher=teacher)
    return found.tolist()


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.2, 0.4])
def test_the_rate_is_that_of_the_labels_of_confident_samples(rate):
    ledger = visited(wrong=np.flatnonzero(10 * rate > EVERY % 10))
    assert noise_rate(ledger, EVERY) == pytest.approx(rate, abs=0.04)
    ledger["confidence"][:] *= 0.5  # no sample is as confident as tau: a tenth of them is taken
    assert noise_rate(ledger, EVERY) == pytest.approx(rate, abs=0.04)


def test_the_rate_is_of_given_samples_that_were_visited():
    ledger = visited()
    assert noise_rate(ledger, WRONG) == 1
    assert noise_rate(ledger, np.setdiff1d(EVERY, WRONG)) == 0
    ledger["counted"][WRONG] = 0
    assert noise_rate(ledger, EVERY) == noise_rate(ledger, WRONG) == 0


def test_most_of_the_labels_that_seem_wrong_are_disbelieved():
    assert chosen(visited()) == WRONG[-54:].tolist(), "the lowest margins"
    assert chosen(visited(), rate=0.1) == WRONG[-27:].tolist()
    assert chosen(visited(), rate=1.0) == np.sort([*WRONG, *HARD]).tolist(), "all that are refused"
    assert len(chosen(visited(), pool=EVERY[1::2])) == 27
    assert set(chosen(visited(), pool=EVERY[1::2])) < {id for id in WRONG if id % 2}


def test_little_noise_is_none_unless_it_is_given():
    few = np.arange(200, 300, 25)
    assert 0 < noise_rate(visited(wrong=few), EVERY) < LEAST
    assert chosen(visited(wrong=few)) == []
    assert chosen(visited(wrong=few), rate=0.01) == few[1:].tolist()


def test_a_model_that_still_learns_says_nothing_of_labels():
    """Samples that it accepts by now, and of which it is sure, it refused on average."""
    ledger = visited()
    ledger["margin"][np.setdiff1d(EVERY, WRONG)[-4:]] = -1
    assert chosen(ledger) == []
    assert noise_rate(ledger, EVERY) == noise_rate(visited(), EVERY)
    assert len(chosen(ledger, rate=0.2)) == 54, "a given rate needs no estimate"


@pytest.mark.parametrize(
    ("epoch", "epochs", "some"),
    [(2, 20, False), (3, 20, True), (10, 20, True), (11, 20, False), (3, 5, True), (2, 5, False)],
)
def test_labels_are_disbelieved_from_the_fourth_epoch_to_half(epoch, epochs, some):
    assert bool(chosen(visited(), epoch=epoch, epochs=epochs)) is some
    assert bool(chosen(visited(), rate=0.2, epoch=epoch, epochs=epochs)) is some


def test_what_is_disbelieved_stays_so_and_more_is_added():
    ledger = visited()
    ledger["disbelieved"][WRONG[:40]] = 5
    assert chosen(ledger, epoch=15) == chosen(ledger, epoch=5) == WRONG[:40].tolist()
    more = chosen(ledger, epoch=6)
    assert len(more) == 40 + round(0.9 * 0.2 * 260)
    assert set(WRONG.tolist()) < set(more)
    assert len(chosen(ledger, rate=0.2, epoch=6)) == 54
    assert chosen(ledger, rate=0.1, epoch=6) == WRONG[:40].tolist()


@pytest.mark.parametrize(
    ("column", "value"), [("flags", 4), ("counted", ENOUGH - 1)], ids=["accepted", "too new"]
)
@pytest.mark.parametrize("rate", [None, 0.4])
def test_which_labels_are_believed(column, value, rate):
    ledger = visited()
    ledger["disbelieved"][WRONG[::2]] = 5
    ledger[column][WRONG[:4]] = value
    for epoch in (6, 15):
        found = chosen(ledger, rate, epoch=epoch)
        assert len(found) > 20
        assert not set(found) & set(WRONG[:4].tolist())


def test_the_teacher_has_to_refuse_the_label_too():
    """What the model prefers is right by the teacher, or else nothing is known."""
    ledger = visited()
    ledger["disbelieved"][WRONG[0]] = 5
    assert chosen(ledger, 0.4, teacher=True, epoch=6) == []
    ledger["flags"][WRONG[:5]] = 1
    assert chosen(ledger, 0.4, teacher=True, epoch=6) == WRONG[:5].tolist()


def test_they_are_screened_once_in_a_while_and_not_trained_on():
    ledger, gate = visited(), replace(AUTO, label_noise=0.2)
    ledger["disbelieved"][WRONG] = 4
    rest = np.setdiff1d(EVERY, WRONG)
    for epoch, screened in ((5, []), (6, []), (7, WRONG.tolist()), (15, WRONG.tolist())):
        plan = gate.plan(ledger, EVERY, at(epoch))
        assert plan.ids.tolist() == rest.tolist()
        assert plan.screen.tolist() == screened
        assert plan.disbelieved.tolist() == WRONG.tolist()
    ledger["last_epoch"][WRONG], ledger["flags"][WRONG[0]] = 15, 4
    plan = gate.plan(ledger, EVERY, at(15))
    assert plan.ids.tolist() == np.sort([*rest, WRONG[0]]).tolist(), "one is accepted again"
    assert not len(plan.screen)
    off = SelfRegulation(max_skip=2).plan(visited(), EVERY, at())
    assert (off.ids.tolist(), off.disbelieved.tolist()) == (EVERY.tolist(), [])


LIMITED = {
    "budget": replace(AUTO, budget=0.9),
    "early": replace(AUTO, budget=0.5, budget_schedule="early", budget_rule="random"),
    "balanced": replace(AUTO, budget=0.9, budget_rule="class-balanced"),
    "cost": replace(AUTO, cost=0.95),
    "unbiased": replace(AUTO, keep_probability=0.5),
    "unbiased budget": replace(AUTO, keep_probability=0.5, budget=0.9),
    "all": replace(AUTO, when_all_skipped="all"),
    "full": replace(AUTO, final_full_epochs=16),
    "warm-up": replace(AUTO, warmup=9),
    "probe": replace(AUTO, probe=0.1),
    "now": replace(AUTO, when="now"),
}


@pytest.mark.parametrize("policy", LIMITED.values(), ids=LIMITED)
@pytest.mark.parametrize("passed", [False, True])
def test_nothing_fills_an_epoch_with_them(policy, passed):
    ledger = visited()
    ledger["disbelieved"][WRONG] = 5
    if passed:
        ledger["streak"][:], ledger["due"][:] = 2, 9
    aside = policy.set_aside(len(EVERY), 0)
    pool = EVERY if aside is None else EVERY[~aside]
    ledger["last_epoch"][:] = 5
    plan = policy.plan(ledger, pool, at())
    assert set(plan.disbelieved) == set(pool) & set(WRONG)
    assert not set(plan.ids) & set(WRONG)
    assert not set(plan.screen) & set(WRONG), "they were, for this epoch"
    assert len(plan.ids) or (passed and policy.budget is None)


def test_settings():
    for off in ("off", False, 0, 0.0):  # YAML reads off as false
        assert SelfRegulation(label_noise=off).label_noise == "off"
    assert (AUTO.columns, SelfRegulation().columns) == ({"disbelieved": "uint16"}, {})
    for value in ("on", 1.5, -0.1, True, None):
        with pytest.raises(SettingError, match="label_noise must be"):
            SelfRegulation(label_noise=value)  # pyright: ignore[reportArgumentType]


class Soft:
    """What a sampling reads of soft targets."""

    def __init__(self, truth=True, top=True):
        self.knows_truth, self.knows_top = truth, top


@pytest.mark.parametrize("name", ["policy", "regulation"])
def test_a_sampling_has_what_label_noise_needs(name):
    def fitted(targets, gate=AUTO, **more) -> Any:
        return Sampling(**{name: gate}, **more).fitted(targets)  # pyright: ignore

    for targets, source in ((None, "label"), (Soft(top=False), "label"), (Soft(), "teacher")):
        sampling = fitted(targets)
        assert sampling.dynamics
        assert sampling.chosen_policy == replace(AUTO, label_source=source)
    off = fitted(Soft(), SelfRegulation())
    assert not off.dynamics
    assert off.chosen_policy == SelfRegulation()
    if name == "regulation":
        gate = fitted(Soft(), cost=0.5).chosen_policy
        assert (gate.label_source, gate.ceiling, gate.cost) == ("teacher", CEILING, 0.25)
