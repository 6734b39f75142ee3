"""The random control."""

from __future__ import annotations

import numpy as np
import pytest

from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import EpochContext, RandomSubset
from frugalkd.runtime import draws

POOL = np.arange(0, 400, 2)


def plans(policy, epochs=6, seed=0):
    ledger = Ledger.new(400)
    return [policy.plan(ledger, POOL, EpochContext(e, epochs, seed)).ids for e in range(epochs)]


@pytest.mark.parametrize("fraction", [0.1, 0.25, 0.5, 1.0])
def test_the_fraction_is_exact_and_redrawn(fraction):
    drawn = plans(RandomSubset(fraction))
    assert [len(ids) for ids in drawn] == [round(fraction * 200)] * 6
    assert all(np.isin(ids, POOL).all() and (np.diff(ids) > 0).all() for ids in drawn)
    if fraction < 1:
        assert not np.array_equal(drawn[0], drawn[1])


def test_the_lowest_hashes_are_drawn():
    for epoch, ids in enumerate(plans(RandomSubset(0.3))):
        keys = draws.hash64(0, draws.stream("random-subset"), epoch, POOL)
        assert ids.tolist() == sorted(POOL[np.argsort(keys)[:60]].tolist())


def test_static_stays_and_another_seed_draws_another():
    drawn = plans(RandomSubset(0.25, redraw=False))
    assert all(np.array_equal(drawn[0], other) for other in drawn[1:])
    assert not np.array_equal(drawn[0], plans(RandomSubset(0.25, redraw=False), seed=1)[0])


def test_redrawn_subsets_cover_evenly():
    counts = np.bincount(np.concatenate(plans(RandomSubset(0.5), epochs=200)), minlength=400)
    assert not counts[1::2].any()
    assert 60 < counts[::2].min() < counts[::2].max() < 140  # 100 expected, six sigma is 42


def test_counts_copy_another_run_epoch_by_epoch():
    drawn = plans(RandomSubset(counts=(200, 3, 0, 999)))
    assert [len(ids) for ids in drawn] == [200, 3, 0, 200, 0, 0]


def test_static_counts_are_nested():
    drawn = plans(RandomSubset(counts=(50, 20, 100), redraw=False), epochs=3)
    assert set(drawn[1]) < set(drawn[0]) < set(drawn[2])


@pytest.mark.parametrize("fraction", [0.0, -0.1, 1.5, float("nan")])
def test_an_impossible_fraction_is_refused(fraction):
    with pytest.raises(ValueError, match="fraction"):
        RandomSubset(fraction)
