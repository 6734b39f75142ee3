from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare, kstest

from frugalkd.runtime.draws import hash64, order, stream, subset, uniform

seeds = st.integers(0, 2**63 - 1)
counters = st.integers(0, 2**62)
id_sets = st.lists(st.integers(0, 10**6), min_size=1, max_size=60, unique=True).map(
    lambda ids: np.array(sorted(ids), dtype=np.int64)
)
FROZEN = [11248596980798508817, 1173472824657711729, 668567293345086073]
FROZEN_STREAM = 65775573571409341


def test_the_bits_never_change():
    # Stored ledgers and targets rest on these: a change would silently break every old run.
    assert hash64(0).tolist() == [16294208416658607535]  # SplitMix64's first output for seed 0
    assert hash64(7, 3, np.arange(3)).tolist() == FROZEN
    assert stream("augmentation") == FROZEN_STREAM


@given(seeds, counters, st.lists(counters, min_size=1, max_size=30))
def test_a_draw_does_not_depend_on_its_batch(seed, first, others):
    batch = hash64(seed, first, np.array(others))
    alone = [int(hash64(seed, first, other)[0]) for other in others]
    assert batch.tolist() == alone
    assert hash64(seed, first, np.array(others[::-1])).tolist() == alone[::-1]


@given(seeds, seeds, counters, counters)
def test_seed_and_counters_all_matter(seed, other, a, b):
    if seed != other:
        assert hash64(seed, a) != hash64(other, a)
    if a != b:
        assert hash64(seed, a) != hash64(seed, b)
        assert hash64(seed, a, b) != hash64(seed, b, a)
    assert hash64(seed, a) != hash64(seed, a, 0)


def test_counters_broadcast():
    table = hash64(1, np.arange(3)[:, None], np.arange(4))
    assert table.shape == (3, 4)
    assert len(np.unique(table)) == 12
    assert table[2, 1] == hash64(1, 2, 1)[0]


@given(id_sets, seeds, counters)
def test_order_is_a_permutation_and_repeats(ids, seed, epoch):
    drawn = order(ids, seed, epoch)
    assert sorted(drawn.tolist()) == ids.tolist()
    assert order(ids, seed, epoch).tolist() == drawn.tolist()
    assert order(ids[::-1], seed, epoch).tolist() == drawn.tolist()


@given(id_sets, seeds, counters, st.randoms(use_true_random=False))
def test_a_subset_keeps_the_order_of_the_whole(ids, seed, epoch, random):
    kept = {i for i in ids.tolist() if random.random() < 0.5}
    part = np.array(sorted(kept), dtype=np.int64)
    whole = [i for i in order(ids, seed, epoch).tolist() if i in kept]
    assert order(part, seed, epoch).tolist() == whole


@pytest.mark.parametrize("size", [0, 1, 2, 5000, 70_001])  # the last ones: several blocks
@pytest.mark.parametrize("ids_are", ["all", "sorted", "shuffled", "backwards"])
def test_order_is_that_of_the_hashes(size, ids_are):
    stream = np.random.default_rng(size)
    ids = np.arange(size)
    if ids_are != "all":
        ids = np.unique(stream.integers(0, 2**62, size))
    if ids_are == "shuffled":
        stream.shuffle(ids)
    ids = ids[::-1] if ids_are == "backwards" else ids
    given = ids.copy()
    for seed, counters in ((0, (3,)), (2**63, (stream.integers(2**40), 7)), (-1, ())):
        keys = [hash64(seed, *counters, id)[0] for id in ids[:200]]
        assert hash64(seed, *counters, ids)[:200].tolist() == keys
        by_hash = ids[np.argsort(hash64(seed, *counters, ids), kind="stable")]
        drawn = order(ids, seed, *counters)
        assert drawn.dtype == np.int64
        np.testing.assert_array_equal(drawn, by_hash)
    np.testing.assert_array_equal(ids, given)


@given(id_sets, seeds, counters, st.integers(-1, 70))
def test_a_random_subset_is_the_start_of_the_order(ids, seed, epoch, wanted):
    drawn = subset(ids, wanted, seed, epoch)
    assert drawn.tolist() == sorted(order(ids, seed, epoch)[: max(wanted, 0)].tolist())


def test_large_arrays_are_drawn_as_their_elements_are():
    table = np.arange(120_000).reshape(300, 400)
    for given_as in (table, table.T, table[::-1, ::3], table.astype(np.int32)):
        drawn, flat = hash64(5, 2, given_as), hash64(5, 2, given_as.astype(np.int64).ravel())
        assert drawn.shape == given_as.shape
        np.testing.assert_array_equal(drawn.ravel(), flat)


def test_orders_of_epochs_and_seeds_differ():
    ids = np.arange(100)
    drawn = [tuple(order(ids, s, e)) for s in range(3) for e in range(3)]
    assert len(set(drawn)) == 9


@pytest.mark.parametrize("counters", [(np.arange(100_000),), (5, np.arange(100_000), 2)])
def test_uniform_is_uniform(counters):
    draws = uniform(0, *counters)
    assert draws.min() >= 0
    assert draws.max() < 1
    assert kstest(draws, "uniform").pvalue > 0.001
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01


def test_every_bit_is_fair_and_neighbours_are_independent():
    bits = hash64(3, np.arange(50_000))
    for shift in range(64):
        assert abs(((bits >> np.uint64(shift)) & np.uint64(1)).mean() - 0.5) < 0.011
    flipped = np.bitwise_count(hash64(3, np.arange(50_000)) ^ hash64(3, np.arange(50_000) + 1))
    assert abs(flipped.mean() - 32) < 0.1


def test_first_place_is_uniform():
    ids = np.arange(10)
    first = [int(order(ids, 0, epoch)[0]) for epoch in range(3000)]
    assert chisquare(np.bincount(first, minlength=10)).pvalue > 0.001


def test_streams_differ():
    names = ["augmentation", "order", "hold-out", "take", "digits"]
    assert len({stream(name) for name in names}) == len(names)
    assert all(0 <= stream(name) < 2**56 for name in names)
