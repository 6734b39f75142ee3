"""What several policies share, against brute force."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import EpochContext
from frugalkd.policies.keeping import (
    balanced,
    cross_entropy,
    full_from,
    lowest_rows,
    race,
    rest_of,
    share,
    stale,
)


def test_cross_entropy_is_finite_and_nan_is_the_worst():
    truth = np.array([1.0, 0.5, 0.0, np.nan, 1e-30], np.float32)
    losses = cross_entropy(Outcome(truth, truth > 0.5, truth))
    assert losses[:2] == pytest.approx([0, np.log(2)])
    assert losses[4] == pytest.approx(30 * np.log(10), rel=1e-6)
    assert losses[2] == losses[3] == losses.max()
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("wanted", range(-1, 9))
def test_lowest_rows_are_as_many_as_wanted_and_nan_is_lowest(wanted):
    values = np.array([3.0, np.nan, -1.0, 3.0, np.inf, -np.inf, 3.0])
    order = [1, 5, 2, 0, 3, 6, 4]
    kept = np.flatnonzero(lowest_rows(values, wanted)).tolist()
    assert kept == sorted(order[: max(wanted, 0)])


def test_a_share_is_rounded_by_a_draw_so_that_its_mean_is_exact():
    counts = [share(0.3, np.arange(k, k + 8), "test", EpochContext(2, 5, 0)) for k in range(4000)]
    assert set(counts) == {2, 3}
    assert np.mean(counts) == pytest.approx(2.4, abs=4 * 0.49 / 4000**0.5)
    assert share(0.25, np.arange(8), "test", EpochContext(2, 5, 0)) == 2
    assert share(1.0, np.arange(7), "test", EpochContext(2, 5, 0)) == 7


def test_a_race_draws_pairs_with_the_chance_of_two_draws():
    weights, draws = np.array([1.0, 2.0, 5.0]), np.random.default_rng(0).random((20_000, 3))
    chances = weights / weights.sum()
    order = np.argsort(race(np.log(weights), draws), axis=1)[:, :2]
    for first in range(3):
        for second in set(range(3)) - {first}:
            expected = chances[first] * chances[second] / (1 - chances[first])
            found = ((order[:, 0] == first) & (order[:, 1] == second)).mean()
            assert found == pytest.approx(expected, abs=4 * (0.25 / 20_000) ** 0.5)
    assert np.isposinf(race(np.zeros(1), np.zeros(1)))


def test_neither_trained_on_before_nor_screened_now_is_stale():
    ledger = Ledger.new(5)
    ledger["last_epoch"][:] = [3, 3, 4, 2, 65535]
    ledger["flags"][:] = [0, 2, 2, 0, 0]  # 2: by a screening
    pool = np.arange(5)
    assert stale(ledger, pool, EpochContext(4, 9, 0)).tolist() == [False, True, False, True, True]
    assert not stale(ledger, pool, EpochContext(0, 9, 0)).any()
    assert stale(ledger, np.array([1, 2]), EpochContext(4, 9, 0)).tolist() == [True, False]


@pytest.mark.parametrize("epochs", [1, 2.5, 10, 10.5, 30.1])
@pytest.mark.parametrize("wanted", [0, 0.9, 1, 3])
@pytest.mark.parametrize("budget", [None, 0.05, 0.3, 1.0])
def test_full_epochs_come_last_and_all_together_spend_the_budget(epochs, wanted, budget):
    start = full_from(epochs, wanted, budget)
    assert epochs - start <= wanted
    if budget is None:
        assert start == min(epochs, np.ceil(epochs - int(wanted)))
        return
    assert epochs - start <= budget * epochs / 2 + 1e-9
    part = rest_of(budget, epochs, epochs - start)
    lengths = np.minimum(1, epochs - np.arange(np.ceil(epochs)))
    parts = np.where(np.arange(len(lengths)) >= start, 1.0, part)
    assert (parts * lengths).sum() == pytest.approx(budget * epochs)


@given(st.lists(st.integers(0, 9), max_size=7), st.integers(0, 50), st.integers(0, 3))
def test_shares_are_those_of_giving_one_at_a_time(counts, wanted, seed):
    """Recounted: the class that has been given least, and has some left, gives the next one."""
    at = EpochContext(1, 3, seed)
    turn = at.uniform("shares", np.arange(len(counts)))
    given_so_far = [0] * len(counts)
    for _ in range(wanted):
        able = [k for k, count in enumerate(counts) if given_so_far[k] < count]
        if not able:
            break
        given_so_far[min(able, key=lambda k: (given_so_far[k], turn[k]))] += 1
    classes = np.repeat(np.arange(len(counts)), counts)
    kept = balanced(np.arange(len(classes)), classes, wanted, at)
    assert np.bincount(classes[kept], minlength=len(counts)).tolist() == given_so_far


def test_within_a_class_the_lowest_are_kept():
    ids = np.arange(0, 60, 2)
    classes = np.array([0] * 20 + [1] * 8 + [5] * 2)
    kept = np.sort(balanced(ids, classes, 11, EpochContext(0, 3, 0), lambda ids: -ids))
    found = classes[np.searchsorted(ids, kept)]
    sizes = np.bincount(found)[[0, 1, 5]].tolist()
    assert sorted(sizes) == [2, 4, 5]
    for one, size in zip((0, 1, 5), sizes, strict=True):
        assert kept[found == one].tolist() == ids[classes == one][-size:].tolist()
    more = [
        np.bincount(
            classes[np.searchsorted(ids, balanced(ids, classes, 11, EpochContext(e, 99, 0)))]
        )[0]
        for e in range(99)
    ]
    assert 30 < sum(size == 5 for size in more) < 70, "the one more is drawn in each epoch"
    assert balanced(ids[:0], classes[:0], 3, EpochContext(0, 3, 0)).tolist() == []
    assert len(balanced(ids, classes, 99, EpochContext(0, 3, 0))) == 30
