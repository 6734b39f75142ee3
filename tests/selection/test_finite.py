"""What is not finite is found, of any type, wherever it is kept, and nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from frugalkd.selection import finite
from frugalkd.selection.finite import Watch, bad_gradients, mark

VALUES = [math.nan, math.inf, -math.inf]


def numbers():
    stream = torch.Generator().manual_seed(0)
    made = [torch.randn(shape, generator=stream) for shape in [(3, 5), (1,), (), (0,), (1000,)]]
    rest = [torch.full((4,), 3e38), made[0].t(), made[4].double(), made[4].bfloat16()]
    return [*made, *rest]


@pytest.mark.parametrize("devices", [finite._ONE_PASS, ()], ids=["one pass", "any device"])
@pytest.mark.parametrize("place", [None, *(n for n in range(9) if n != 3)])
@pytest.mark.parametrize("value", VALUES)
def test_a_mark_is_set_for_one_bad_value_and_stays(value, place, devices, monkeypatch):
    monkeypatch.setattr(finite, "_ONE_PASS", devices)
    tensors, bad = numbers(), torch.zeros(())
    if place is not None:
        tensors[place] = tensors[place].clone()
        tensors[place][(-1,) * tensors[place].ndim] = value
    before = [tensor.clone() for tensor in tensors]
    mark(bad, tensors)
    assert bad.item() == (place is not None)
    for tensor, was in zip(tensors, before, strict=True):
        assert torch.equal(tensor.nan_to_num(7), was.nan_to_num(7))
    mark(bad, numbers())
    assert bad.item() == (place is not None)
    mark(bad, [])
    assert bad.item() == (place is not None)


def test_gradients_of_an_optimiser_also_sparse_and_missing():
    table, unused = nn.Embedding(4, 3, sparse=True), nn.Linear(2, 2)
    optimizer = torch.optim.SGD([*table.parameters(), *unused.parameters()], lr=0.1)
    assert bad_gradients(optimizer) == 0
    table(torch.tensor([1, 1])).sum().backward()
    assert bad_gradients(optimizer) == 0
    assert table.weight.grad is not None
    table.weight.grad._values()[0, 0] = math.nan
    assert bad_gradients(optimizer) == 1


class Everything(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 3), nn.BatchNorm1d(3)
        self.register_buffer("mask", torch.full((2, 2), -math.inf))
        self.register_buffer("nothing", torch.zeros(0))
        self.register_buffer("small", torch.zeros(2, dtype=torch.float8_e4m3fn))


@pytest.mark.parametrize("value", VALUES)
def test_a_watch_names_what_stopped_being_finite(value):
    model, parts = Everything(), nn.ModuleList([nn.Linear(3, 2)])
    optimizer = torch.optim.AdamW([*model.parameters(), *parts.parameters()], lr=0.1)
    watch = Watch({"": model, "objective": parts}, optimizer)
    assert watch.first_bad() is None
    parts[0](model.norm(model.linear(torch.randn(4, 3)))).sum().backward()
    optimizer.step()
    assert watch.first_bad() is None
    bias = model.linear.bias
    for tensor, name in [
        (bias.data, "the weight linear.bias"),
        (model.norm.running_var, "the buffer norm.running_var"),
        (parts[0].weight.data, "the weight objective.0.weight"),
        (optimizer.state[bias]["exp_avg_sq"], "the optimizer's exp_avg_sq of linear.bias"),
    ]:
        assert tensor is not None
        was = tensor.flatten()[1].item()
        tensor.view(-1)[1] = value
        assert watch.first_bad() == name
        tensor.view(-1)[1] = was
    assert watch.first_bad() is None


def test_a_watch_waits_for_layers_that_have_no_shape_yet():
    model = nn.Sequential(nn.LazyLinear(2))
    watch = Watch({"": model})
    model(torch.zeros(1, 3))
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan  # pyright: ignore[reportIndexIssue, reportArgumentType]
    assert watch.first_bad() == "the weight 0.weight"
    assert Watch({"": nn.Identity()}).first_bad() is None
