"""Large data: orders that are never materialised, plans by block, columns in files."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.timing import billion
from benchmarks.timing.large import RUNS, Permutation, planned
from frugalkd.errors import SelectionMisuse, WriteFailed
from frugalkd.files import arrays
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import Outcome
from frugalkd.policies import All, EpochContext, Plan, RandomSubset, SelfRegulation
from frugalkd.runtime import draws
from frugalkd.selection.observer import record
from toys import same_columns


@given(st.integers(1, 3000), st.integers(0, 2**63), st.integers(0, 9))
def test_a_permutation_contains_every_number_once(size, seed, epoch):
    order = Permutation(size, seed, epoch)(np.arange(size))
    assert sorted(order.tolist()) == list(range(size))


@given(st.integers(1, 2**40), st.data())
@settings(max_examples=50)
def test_permutations_of_up_to_2_to_the_40_numbers(size, data):
    places = data.draw(st.lists(st.integers(0, size - 1), max_size=200, unique=True))
    found = Permutation(size, 3)(np.array(places, dtype=np.int64))
    assert len(set(found.tolist())) == len(places)
    assert all(0 <= number < size for number in found.tolist())


def test_draws_differ_for_ids_near_2_to_the_40():
    ids = 2**40 - 1 - np.arange(1000)
    order = draws.order(ids, 3, 1)
    assert sorted(order.tolist()) == sorted(ids.tolist())
    assert order.tolist() != ids.tolist()
    assert len(set(draws.uniform(3, ids).tolist())) == 1000
    assert not set(draws.uniform(3, ids).tolist()) & set(draws.uniform(3, ids - 2**39).tolist())


def test_a_permutation_is_random():
    size = 1 << 16
    places = np.arange(size)
    one, other = (Permutation(size, 0, epoch)(places) for epoch in range(2))
    assert (one == other).sum() < 10
    for order in (one, other):
        assert abs(np.corrcoef(places, order)[0, 1]) < 0.02
        assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 0.02
        # The number that stays in the first half is nearly binomial.
        assert abs((order[: size // 2] < size // 2).mean() - 0.5) < 0.01
    with pytest.raises(ValueError, match="size must be in"):
        Permutation(0, 0)


@pytest.mark.parametrize("block", [7, 64, 1000])
@pytest.mark.parametrize("policy", [SelfRegulation(max_skip=2), SelfRegulation(warmup=2), All()])
def test_blocks_plan_the_same_samples_as_the_pool(policy, block):
    samples, stream = 500, np.random.default_rng(1)
    whole, parts = Ledger.new(samples), Ledger.new(samples)
    pool, orders = np.arange(samples), []
    for epoch in range(5):
        at = EpochContext(epoch, 9, seed=4)
        outcomes = Outcome(stream.random(samples, dtype=np.float32), stream.random(samples) < 0.8,
                     stream.random(samples, dtype=np.float32), None)  # fmt: skip

        def observe(ledger, ids, screening, outcomes=outcomes, at=at):
            seen = outcomes.each(lambda values: values[ids])
            record(policy, ledger, at, ids, seen, screening=screening)

        plan = policy.plan(whole, pool, at)
        if len(plan.screen):
            observe(whole, plan.screen, True)
            plan = policy.plan(whole, pool, at)
        forced = [] if plan.forced is None else plan.ids[plan.forced].tolist()
        observe(whole, plan.ids, False)

        found, found_forced = [], []
        blocks = planned(
            policy, parts, at, block=block, screen=lambda ids: observe(parts, ids, True)
        )
        for part in blocks:
            found += part.ids.tolist()
            found_forced += [] if part.forced is None else part.ids[part.forced].tolist()
            observe(parts, part.ids, False)
        assert sorted(found) == sorted(plan.ids.tolist())
        assert sorted(found_forced) == sorted(forced)
        assert same_columns(whole, parts)
        orders.append(found)
        assert found != sorted(found)
    assert len({tuple(order) for order in orders}) == len(orders)


@pytest.mark.parametrize(("samples", "block"), [(1000, 64), (1000, 640), (10_000, 1280)])
def test_a_block_is_complete_runs_shuffled(samples, block):
    """Each page of a mapped column is read for one block, or for two at the end of a run."""
    length, seen = max(1, block // RUNS), []
    for part in planned(All(), Ledger.new(samples), EpochContext(0, 2, seed=1), block=block):
        ids = part.ids
        runs = np.unique(ids // length)
        assert len(ids) <= block
        assert len(ids) == sum(min(length, samples - run * length) for run in runs.tolist())
        assert len(runs) < 2 or abs(np.corrcoef(np.arange(len(ids)), ids)[0, 1]) < 0.5
        seen.append(runs)
    runs = np.concatenate(seen)
    assert sorted(runs.tolist()) == list(range(-(-samples // length)))
    assert runs.tolist() != sorted(runs.tolist())


def test_samples_of_one_block_are_fully_shuffled():
    (plan,) = planned(All(), Ledger.new(5000), EpochContext(3, 9, seed=1))
    whole = draws.order(np.arange(5000), 1, draws.stream("order"), 3)
    assert plan.ids.tolist() == whole.tolist()


def test_weights_and_forced_stay_with_their_ids():
    @dataclass(frozen=True)
    class Weighing(All):
        def plan(self, ledger, pool, at):
            return Plan(pool[::-1], pool[::-1].astype(np.float32), pool[::-1] % 3 == 0)

    for plan in planned(Weighing(), Ledger.new(300), EpochContext(0, 2, seed=1), block=128):
        assert np.array_equal(plan.weights, plan.ids)  # pyright: ignore[reportArgumentType]
        assert np.array_equal(plan.forced, plan.ids % 3 == 0)  # pyright: ignore


def test_what_blocks_cannot_plan_is_refused():
    for policy in (
        SelfRegulation(budget=0.5),
        SelfRegulation(cost=0.5),
        SelfRegulation(keep_probability=0.5),
        RandomSubset(0.5),
    ):
        with pytest.raises(SelectionMisuse, match="plans all samples together"):
            next(planned(policy, Ledger.new(9), EpochContext(0, 2, 0)))
    ledger = Ledger.new(9)
    ledger["streak"][:] = 1
    with pytest.raises(SelectionMisuse, match="9 skipped samples are due in epoch 0: pass screen="):
        next(planned(SelfRegulation(), ledger, EpochContext(0, 2, 0)))


def test_mapped_columns_equal_columns_in_memory(tmp_path, monkeypatch):
    small = Ledger.new(1000, extra={"score": "float32"}, folder=tmp_path / "none")
    assert not isinstance(small["visits"], np.memmap)
    monkeypatch.setattr(arrays, "MAPPED_FROM", 1000 * 24)
    large = Ledger.new(1000, extra={"score": "float32"}, folder=tmp_path / "on-disk")
    assert all(isinstance(column, np.memmap) for column in large.columns.values())
    assert list((tmp_path / "on-disk").iterdir()) == []
    assert same_columns(small, large)
    for ledger in (small, large):
        ids, ones = np.array([3, 999]), np.array([0.2, 1], dtype=np.float32)
        seen = Outcome(ones, np.array([True, True]), ones, None)
        record(SelfRegulation(), ledger, EpochContext(0, 2, 0), ids, seen, screening=False)
        ledger.save(tmp_path / "saved")
        assert same_columns(Ledger.load(tmp_path / "saved"), ledger)
    assert same_columns(small, large)


def test_a_full_disk_is_an_error(tmp_path, monkeypatch):
    def full(file, size):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(arrays, "MAPPED_FROM", 0)
    monkeypatch.setattr(arrays, "set_aside", full)
    with pytest.raises(WriteFailed, match="No space left on device: free some space"):
        Ledger.new(1000, folder=tmp_path)


def test_the_billion_case_with_few_samples(tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "MAPPED_FROM", 0)
    torch.set_num_threads(1)
    figures = billion.measure(30_000, tmp_path)
    assert figures["mapped"]
    assert figures["bytes"] == 20
    assert figures["rows"] == pytest.approx(3600, rel=0.1)
    assert 0 < figures["own_memory_bytes"] <= figures["peak_memory_bytes"]
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="samples must be 1 or more"):
        billion.measure(0, tmp_path)
