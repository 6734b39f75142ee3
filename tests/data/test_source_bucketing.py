"""Batches of like length: against the rule in plain loops, and that the plan is what it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from frugalkd import DataLoading, RandomSubset, Sampling, Selection, SelfRegulation
from frugalkd.data.source import bucketed, by_length, lengths_of
from frugalkd.errors import DataError, UnsupportedData
from frugalkd.runtime import draws
from toys import Ids, order


class Long(Ids):
    """Samples that say how long they are."""

    def __init__(self, lengths):
        super().__init__(np.arange(len(lengths)) % 4)
        self.lengths = lengths


def by_hand(ids, lengths, size, window, seed, epoch):
    """The rule, batch by batch."""
    batches = [list(ids[start : start + size]) for start in range(0, len(ids), size)]
    short = batches.pop() if batches and len(batches[-1]) < size else []
    made = []
    for start in range(0, len(batches), window):
        rows = [id for batch in batches[start : start + window] for id in batch]
        rows.sort(key=lambda id: lengths[id])
        cut = [rows[at : at + size] for at in range(0, len(rows), size)]
        turn = draws.order(np.arange(len(cut)), seed, draws.stream("buckets"), epoch, start)
        made += [id for index in turn for id in cut[index]]
    return made + short


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=60),
    size=st.integers(1, 7),
    window=st.integers(0, 6),
    seed=st.integers(0, 3),
    epoch=st.integers(0, 3),
)
@settings(max_examples=60, deadline=None)
def test_it_is_the_rule_and_every_window_keeps_its_rows(lengths, size, window, seed, epoch):
    lengths = np.array(lengths)
    ids = order(len(lengths), seed, epoch)[: 1 + len(lengths) * 3 // 4]
    found = bucketed(ids, lengths, size, window, seed, epoch)
    again = bucketed(ids, lengths, size, window, seed, epoch)
    assert found.tolist() == again.tolist()
    if window <= 1:
        assert found.tolist() == ids.tolist()
        return
    assert found.tolist() == by_hand(ids, lengths, size, window, seed, epoch)
    for start in range(0, len(ids), window * size):
        rows = slice(start, start + window * size)
        assert sorted(found[rows]) == sorted(ids[rows])


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize(
    "policy", [None, RandomSubset(fraction=0.5), SelfRegulation(budget=0.4), SelfRegulation()]
)
def test_epochs_hold_the_same_samples_weights_and_steps(policy, drop_last):
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 30, 103)
    weights = rng.random(103).astype(np.float32)
    weights[::5] = 0
    seen, model = [], nn.Linear(1, 4)
    for length_bucket_batches in (0, 4):
        selection = Selection(
            Long(lengths),
            epochs=3,
            batch_size=8,
            seed=5,
            model=model,
            sampling=Sampling(policy=policy, weights=weights),
            loading=DataLoading(length_bucket_batches=length_bucket_batches, drop_last=drop_last),
        )
        seen.append([])
        for epoch in selection:
            rows, spread, steps, progress = [], 0, 0, []
            for batch in epoch:
                rows += zip(batch.ids.tolist(), batch.weights.tolist(), strict=True)
                spread += int(np.ptp(lengths[batch.ids]))
                steps, progress = steps + 1, [*progress, batch.progress]
                # A verdict of the sample alone: what comes after does not depend on the batches.
                sure = torch.from_numpy((batch.ids % 3 == 0).astype(np.float32) * 50)
                logits = nn.functional.one_hot(batch.data[1], 4) * sure[:, None]
                batch.observe(logits, batch.data[1])
            seen[-1].append((sorted(rows), steps, progress, spread))
    plain, grouped = seen
    assert [one[:3] for one in plain] == [one[:3] for one in grouped]
    assert sum(one[3] for one in grouped) < sum(one[3] for one in plain)


def test_without_the_setting_lengths_are_not_read():
    data = Ids([0, 1, 2])
    data.lengths = "no lengths"  # pyright: ignore[reportAttributeAccessIssue]
    Selection(data, epochs=1, batch_size=2)
    with pytest.raises(UnsupportedData, match=r"lengths are .* for 3 samples"):
        Selection(data, epochs=1, batch_size=2, loading=DataLoading(length_bucket_batches=4))


def test_data_without_lengths_keep_their_order():
    assert lengths_of(Ids([0, 1])) is None
    selection = Selection(
        Ids(np.zeros(20)),
        epochs=1,
        batch_size=4,
        seed=1,
        loading=DataLoading(length_bucket_batches=4),
    )
    for epoch in selection:
        ids = []
        for batch in epoch:
            ids += batch.ids.tolist()
            batch.observe(torch.zeros(4, 2), batch.data[1])
        assert ids == order(20, 1, 0).tolist()


def test_rows_of_one_length_stay_in_their_order():
    ids = np.array([5, 3, 1, 4])
    assert by_length(ids, np.array([9, 2, 9, 1, 2, 2])).tolist() == [3, 5, 1, 4]


def test_a_resumed_epoch_has_the_remaining_batches():
    data = Long(np.random.default_rng(1).integers(1, 30, 50))

    def batches(selection, most=None):
        seen = []
        for epoch in selection:
            for batch in epoch:
                seen.append(batch.ids.tolist())
                batch.observe(torch.zeros(len(batch.ids), 4))
                if len(seen) == most:
                    return seen
        return seen

    def make():
        return Selection(
            data, epochs=2, batch_size=4, seed=2, loading=DataLoading(length_bucket_batches=5)
        )

    whole, first, rest = batches(make()), make(), make()
    begun = batches(first, most=7)
    rest.load_state_dict(first.state_dict())
    assert begun + batches(rest) == whole


def test_lengths_are_the_data_sets_or_else_computed():
    class Rows(list):
        lengths = np.array([3, 1])

    def computed(rows) -> Any:
        return np.array([len(row) for row in rows])

    def nothing(rows) -> Any:
        return None

    def failing(rows) -> Any:
        return 1 // 0

    assert lengths_of(["abc", "d"]) is None
    assert np.array_equal(lengths_of(["abc", "d"], computed), [3, 1])  # pyright: ignore
    assert np.array_equal(lengths_of(Rows("ab"), computed), [3, 1])  # pyright: ignore
    with pytest.raises(DataError, match=r"given as lengths fails on the data set \(ZeroDivision"):
        lengths_of(["abc"], failing)
    with pytest.raises(UnsupportedData, match="one integer a sample"):
        lengths_of(["abc"], nothing)
