"""Plans that are balanced by class, recounted from the batches that come out of a selection."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.utils.data import TensorDataset

from frugalkd import Sampling
from frugalkd.data import ImageData
from frugalkd.errors import UnsupportedData
from frugalkd.policies import RandomSubset, SelfRegulation
from frugalkd.selection import Selection
from toys import logits_for, net

SIZES = (40, 12, 5, 3)
CLASSES = np.repeat(np.arange(4), SIZES)


def imbalanced() -> ImageData:
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (60, 1, 4, 4), dtype=torch.uint8, generator=generator)
    labels = torch.from_numpy(CLASSES)
    return ImageData(pixels, labels, tuple("abcd"), mean=(0.5,), std=(0.5,))


def planned(policy, epochs=4, keep_probability=None):
    """The ids of each epoch; those in ``keep_probability`` pass whenever they train."""
    selection = Selection(
        imbalanced(),
        epochs=epochs,
        batch_size=8,
        model=net(),
        forward=lambda data: torch.zeros(len(data[1]), 4),
        sampling=Sampling(policy=policy),
    )
    found = []
    for epoch in selection:
        found.append([])
        for batch in epoch:
            found[-1] += batch.ids.tolist()
            logits = logits_for(batch, keep_probability=False)
            if keep_probability is not None:
                sure = logits_for(batch, keep_probability=True)
                rows = torch.from_numpy(np.isin(batch.ids, keep_probability))
                logits = torch.where(rows[:, None], sure, logits)
            batch.observe(logits, batch.labels)
        assert len(set(found[-1])) == len(found[-1])
    return found


def shares(ids):
    return np.bincount(CLASSES[ids], minlength=4).tolist()


@pytest.mark.parametrize(
    "policy",
    [
        RandomSubset(0.4, balanced=True),
        SelfRegulation(budget=0.4, budget_rule="class-balanced"),
    ],
)
def test_small_classes_are_used_whole_and_the_others_equally(policy):
    epochs = planned(policy)
    for ids in epochs:
        first, second, *small = shares(ids)
        assert len(ids) == 24
        assert small == [5, 3]
        assert first + second == 16
        assert abs(first - second) <= 1 or second == 12
    assert set(epochs[0]) != set(epochs[1])


def test_one_draw_may_serve_the_whole_training():
    once, *others = planned(RandomSubset(0.4, redraw=False, balanced=True))
    assert all(set(ids) == set(once) for ids in others)


def test_only_active_samples_are_shared_out():
    """Of class 0 all but two passed in epoch 0, a full one: the others give what these lack."""
    policy = SelfRegulation(budget=0.5, budget_rule="class-balanced", warmup=1, max_skip=8)
    first, second, *_ = planned(policy, epochs=8, keep_probability=np.arange(2, 40))
    assert len(first) == 60
    active = shares(second)
    assert active[0] <= 2 + len(second) - sum(active[1:])
    assert active[1:] == [12, 5, 3]


def test_the_last_epoch_of_a_cost_is_balanced_too():
    """A cost of 1.4 of four epochs: 60 samples, and then 24."""
    first, last = planned(SelfRegulation(cost=0.35, budget_rule="class-balanced"), epochs=4)
    assert len(first) == 60
    assert len(last) == 24
    assert shares(last)[2:] == [5, 3]


def test_data_without_a_list_of_labels_are_refused():
    data = TensorDataset(torch.zeros(6, 3), torch.zeros(6, dtype=torch.int64))
    with pytest.raises(UnsupportedData, match="a plan that is balanced by class needs all lab"):
        Selection(
            data, epochs=1, batch_size=2, sampling=Sampling(policy=RandomSubset(balanced=True))
        )


def test_an_unbiased_gate_cannot_be_balanced():
    with pytest.raises(ValueError, match="favours small classes"):
        SelfRegulation(budget=0.5, budget_rule="class-balanced", keep_probability=0.1)
