import numpy as np
import pytest
import torch

from frugalkd.errors import UnsupportedData
from frugalkd.experiments.estimate.part import Within, part_of
from frugalkd.teachers import StoredTargets
from toys import Ids, images, net


class Views(Ids):
    def view(self, id, view):
        return self[id]


def test_parts_lie_within_each_other_and_hold_the_samples_of_their_ids():
    data = images(37, augmented=False)
    large = part_of(data, 20)
    small = large.some(5)
    assert len(small.ids) == 5
    assert set(small.ids) < set(large.ids)
    assert small.whole == 37
    for row, id in enumerate(small.ids):
        assert torch.equal(small.data[row][0], data[int(id)][0])
    again = part_of(data, 20)
    assert (again.ids == large.ids).all()


def test_all_of_it_is_the_data_set_itself():
    data = images(37)
    assert part_of(data, 99).data is data


def test_data_of_your_own():
    data = Ids(torch.arange(10))
    part = part_of(data, 4)
    assert [int(part.data[row][1]) for row in range(4)] == part.ids.tolist()
    with pytest.raises(UnsupportedData, match=r"subset\(ids\)"):
        part_of(Views(torch.arange(10)), 4)


def test_targets_of_a_part_are_those_of_its_samples():
    data = images(37, augmented=False)
    large = part_of(data, 20)
    small = large.some(6)
    stored = StoredTargets.fill(net(), large.data)
    targets = Within(stored, large, small)
    rows = np.arange(6)
    inside = np.searchsorted(large.ids, small.ids)
    x = small.data.batch(rows, rows * 0)
    zeros = np.zeros(6, dtype=np.int64)
    assert torch.equal(targets.fetch(rows, zeros, x), stored.fetch(inside, zeros, x))
    truth = targets.truth(small.data.labels)
    assert (truth == stored.truth(large.data.labels)[inside]).all()
