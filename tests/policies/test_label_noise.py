"""Which labels a gate disbelieves, and what it does with their samples."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalkd import Sampling
from frugalkd.errors import SettingError
from frugalkd.ledger.dynamics import counts_early
from frugalkd.ledger.ledger import ASIDE, Ledger
from frugalkd.policies import EpochContext, SelfRegulation
from frugalkd.policies.label_noise import (
    ENOUGH,
    LEAST,
    MOST_OF_A_CLASS,
    MOST_REFUSED,
    PRECISION,
    UNDECIDED,
    disbelieved,
    wrong_labels,
)
from frugalkd.policies.modes import CEILING

AUTO = SelfRegulation(label_noise="auto", max_skip=2)
EVERY = np.arange(300)
WRONG = np.flatnonzero(EVERY % 5 == 0)
HARD = np.flatnonzero((EVERY % 5 != 0) & (EVERY < 75))


def visited(epoch=5, wrong=WRONG) -> Any:
    """A ledger before ``epoch``: the ``wrong`` labels are refused, and those of every second one of
    the ``HARD`` samples, between whose classes the model hesitates."""
    ledger = Ledger.new(300, extra=AUTO.columns, dynamics=True)
    ledger["margin"][:], ledger["flags"][:] = 2 + EVERY / 1000, 4 + 1
    ledger["margin"][HARD] = 0.5 + HARD / 1000
    ledger["margin"][HARD[::2]] *= -1
    ledger["flags"][HARD[::2]] = 0
    ledger["margin"][wrong], ledger["flags"][wrong] = -3 - wrong / 1000, 0
    ledger["counted"][:] = ledger["visits"][:] = epoch
    ledger["last_epoch"][:], ledger["due"][:] = epoch - 1, epoch
    return ledger


def at(epoch=5, epochs=20.0):
    return EpochContext(epoch, epochs, 0)


def chosen(ledger, rate: float | None = None, pool=EVERY, teacher=False, **more):
    found = disbelieved(ledger, pool, at(**more), rate=rate, teacher=teacher)
    return found.tolist()


def drawn(samples, c, wrong, seed=0):
    """Margins of a model whose logits are log-odds up to the factor ``c``: the given label is the
    likelier class of two as often as they say, or one of the ``wrong`` ones, of which it is surer
    than of others. And which are wrong."""
    stream = np.random.default_rng(seed)
    size = np.abs(stream.normal(0, 8 / c, samples))
    right = stream.uniform(size=samples) < 1 / (1 + np.exp(-c * size))
    flipped = stream.uniform(size=samples) < wrong
    margins = np.where(flipped, -size - 3 / c, np.where(right, size, -size))
    return margins.astype(np.float32), flipped


def softmaxes(classes, spread, tail=0.0, samples=4000, seed=0):
    """Margins of labels that are drawn from a model's own softmax, which are all right, and the
    labels."""
    stream = np.random.default_rng(seed)
    logits = stream.normal(0, spread, (samples, classes)) - tail * np.log1p(np.arange(classes))
    labels = (logits + stream.gumbel(size=logits.shape)).argmax(1)
    label = np.take_along_axis(logits, labels[:, None], 1)
    np.put_along_axis(logits, labels[:, None], -np.inf, 1)
    return (label[:, 0] - logits.max(1)).astype(np.float32), labels


def found_in(margins, labels=None, settled=None, classes=2):
    margins = np.asarray(margins, dtype=np.float32)
    settled = np.ones(len(margins), dtype=bool) if settled is None else settled
    labels = np.zeros(len(margins), dtype=np.int64) if labels is None else labels
    return wrong_labels(margins, labels, settled, classes)


def recounted(margins, labels, settled, classes):
    """The definition, sample by sample."""
    rows = [(float(m), y, s) for m, y, s in zip(margins, labels, settled, strict=True)]

    def refused(some):
        return sum(m < 0 for m in some) / max(1, len(some))

    of_class = {y: refused([m for m, label, _ in rows if label == y]) for _, y, _ in rows}
    known = [row for row in rows if of_class[row[1]] <= MOST_OF_A_CLASS]
    size = [abs(m) for m, _, tried in known if tried]
    if not size or refused([m for m, _, _ in rows]) > MOST_REFUSED:
        return 0
    edge = np.quantile(size, UNDECIDED)
    least = [m for m, _, tried in known if tried and abs(m) <= edge]
    c = 2 * sum(least) / (sum(m * m for m in least) or 1)
    found = 0
    for place, threshold in enumerate(sorted(m for m, _, _ in known if m < 0), start=1):
        right = 1 + sum(np.exp(-max(c, 0) * m) for m, _, _ in known if m >= -threshold)
        if c > 0 and max(1, np.log2(classes) / 2) * right <= (1 - PRECISION) * place:
            found = place
    return found if found >= LEAST * len(margins) else 0


@given(
    c=st.floats(0.1, 2), wrong=st.sampled_from([0.0, 0.1, 0.4]), seed=st.integers(0, 99),
    samples=st.integers(20, 200), classes=st.sampled_from([2, 10]), often=st.floats(0, 1),
    groups=st.integers(1, 3),
)  # fmt: skip
def test_wrong_labels_are_counted_by_mirrored_margins(
    c, wrong, seed, samples, classes, often, groups
):
    stream = np.random.default_rng(seed)
    margins, _ = drawn(samples, c, wrong, seed)
    labels, settled = stream.integers(groups, size=samples), stream.uniform(size=samples) < often
    margins -= np.float32(1) * labels  # some classes are harder than others
    found = found_in(margins, labels, settled, classes)
    assert found.sum() == recounted(margins, labels, settled, classes)
    bound = MOST_OF_A_CLASS * np.bincount(labels)
    easy = (np.bincount(labels[margins < 0], minlength=len(bound)) <= bound)[labels]
    assert not found[~easy].any()
    assert margins[found].max(initial=-np.inf) <= margins[easy & ~found].min(initial=np.inf)


@pytest.mark.parametrize("c", [0.5, 1, 2])
def test_right_labels_of_hard_samples_are_not_taken_for_wrong(c):
    """However many of them are refused, as long as it is where the model hesitates."""
    margins, _ = drawn(20_000, c, 0.0)
    assert (margins < 0).mean() > 0.06
    assert not found_in(margins).any()


@pytest.mark.parametrize(
    ("classes", "spread", "tail"),
    [
        (10, 0.5, 0),
        (10, 4, 0),
        (10, 1, 2),
        (77, 0.5, 0),
        (77, 2, 0),
        (77, 6, 0),
        (77, 2, 1),
        (77, 1, 2),
        (500, 2, 0),
        (500, 9, 0),
    ],
)
def test_nor_are_those_of_many_classes(classes, spread, tail):
    """But of a few thousand samples now and then."""
    found = []
    for seed in range(3):
        margins, labels = softmaxes(classes, spread, tail, seed=seed)
        found.append(found_in(margins, labels, classes=classes).mean())
    assert np.median(found) == 0
    assert max(found) < 0.05


@pytest.mark.parametrize("c", [0.5, 1, 2])
@pytest.mark.parametrize("classes", [2, 10])
@pytest.mark.parametrize("wrong", [0.1, 0.2, 0.4])
def test_of_the_labels_taken_for_wrong_most_are(c, classes, wrong):
    margins, flipped = drawn(20_000, c, wrong)
    found = found_in(margins, classes=classes)
    assert flipped[found].mean() > PRECISION
    assert found.sum() > 0.3 * flipped.sum()


def test_samples_that_were_seen_once_do_not_calibrate():
    """The margins of an untrained network are small, and its own."""
    margins, _ = drawn(7000, 1, 0.1)
    early = np.random.default_rng(1).normal(0.05, 0.1, 3000).astype(np.float32)
    both, settled = np.concatenate([margins, early]), np.arange(10_000) < 7000
    found = [
        each.sum() for each in (found_in(margins), found_in(both, settled=settled), found_in(both))
    ]
    assert found[1] == pytest.approx(found[0], rel=0.02)
    assert found[2] > 1.1 * found[0]


@pytest.mark.parametrize(
    "margins",
    [
        [], [0, 0, 0], [1, 2], [-1, -2], [3e4, -3e4, 0.1], [-5, 1, 2, 3, 4, 4.9],
        [*np.linspace(-9, -8, 25), *np.linspace(-0.2, -0.1, 30), *np.linspace(5, 6, 45)],
    ],
    ids=["none", "zeros", "accepted", "refused", "huge", "one of few", "refused where undecided"],
)  # fmt: skip
def test_no_label_is_doubted_without_evidence(margins):
    assert not found_in(margins).any()


def test_the_lowest_mean_margins_are_disbelieved():
    ledger = visited()
    assert chosen(ledger) == WRONG.tolist()
    assert chosen(ledger, rate=0.1) == WRONG[-27:].tolist()
    assert chosen(ledger, rate=1.0) == np.sort([*WRONG, *HARD[::2]]).tolist(), (
        "all that are refused"
    )
    odd = EVERY[1::2]
    assert chosen(ledger, pool=odd) == np.intersect1d(WRONG, odd).tolist()
    ledger["counted"][:150], ledger["margin"][:150] = 0, np.nan
    assert chosen(ledger) == WRONG[30:].tolist(), "of those that were visited"
    assert len(chosen(ledger, rate=0.1)) == 27


def test_what_is_accepted_by_now_is_not_replaced_by_others():
    ledger = visited()
    ledger["flags"][WRONG[:30]] = 4
    assert chosen(ledger) == WRONG[30:].tolist()
    assert len(chosen(ledger, rate=0.2)) == 54, "a given rate is that of what is refused"


@pytest.mark.parametrize("unknown", [-1, -100, 2**31 - 1])
def test_a_class_that_the_model_does_not_know_is_left_alone(unknown):
    ledger = visited()
    assert chosen(ledger) == WRONG.tolist()
    ledger.labels = np.zeros(300, np.int32)
    assert chosen(ledger) == WRONG.tolist()
    ledger.labels[WRONG[:30]] = unknown  # all of these are refused
    assert chosen(ledger) == WRONG[30:].tolist()
    ledger["margin"][WRONG[-1]] = np.nan
    assert chosen(ledger) == WRONG[30:-1].tolist()


def test_little_noise_is_none_unless_it_is_given():
    few = np.arange(200, 300, 25)
    assert chosen(visited(wrong=few)) == []
    assert chosen(visited(wrong=few), rate=0.01) == few[1:].tolist()


@pytest.mark.parametrize(
    ("epochs", "some"),
    [(4, []), (5, [3]), (6, [3]), (7, [4]), (8, [4]), (9, [5]), (12, [5, 6]), (20, range(5, 11))],
)
def test_labels_are_disbelieved_in_the_first_half(epochs, some):
    for epoch in range(1, epochs):
        ledger = visited(epoch=epoch)
        early = sum(counts_early(each, epochs) for each in range(epoch))
        ledger["counted"][:] = early  # as many as a training enters
        for rate in (None, 0.2):
            assert bool(chosen(ledger, rate, epoch=epoch, epochs=epochs)) is (epoch in some)


def test_what_is_disbelieved_stays_so_and_more_is_added():
    ledger = visited()
    ledger["disbelieved"][WRONG[:40]] = 5
    assert chosen(ledger, epoch=15) == chosen(ledger, epoch=5) == WRONG[:40].tolist()
    assert chosen(ledger, epoch=6) == WRONG.tolist()
    assert chosen(ledger, rate=0.1, epoch=6) == WRONG[:40].tolist(), "more than nine tenths of it"
    assert len(chosen(ledger, rate=0.2, epoch=6)) == 54


@given(rate=st.sampled_from([0.1, 0.2, 0.5]), seed=st.integers(0, 99))
def test_a_given_rate_is_not_exceeded(rate, seed):
    """Margins change from epoch to epoch, and with them which are lowest."""
    ledger, stream = visited(), np.random.default_rng(seed)
    refused = np.union1d(WRONG, HARD[::2])
    for epoch in range(5, 11):
        ledger["margin"][:] += stream.normal(0, 0.3, 300)
        ledger["flags"][refused] = 4 * (stream.uniform(size=len(refused)) < 0.1)  # some are learned
        found = chosen(ledger, rate, epoch=epoch)
        ledger["disbelieved"][:] = 0
        ledger["disbelieved"][found] = epoch
        assert len(found) == min(round(0.9 * rate * 300), (ledger["flags"][refused] == 0).sum())


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
    aside = np.zeros(len(EVERY), dtype=bool) if aside is None else aside
    pool, ledger.columns[ASIDE] = EVERY[~aside], aside.astype(np.uint8)
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
