"""FLOPs against counts by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from frugalkd.models.flops import flops_of_data, flops_per_row
from toys import images, net, same_state


def test_a_linear_layer_is_two_operations_a_weight():
    model = nn.Sequential(nn.Linear(10, 20), nn.ReLU(), nn.Linear(20, 3))
    counted = flops_per_row(model, torch.randn(4, 10), 4)
    assert counted["forward"] == 2 * (10 * 20 + 20 * 3)
    # Gradients of both weights, and of the second layer's input.
    assert counted["backward"] == 2 * (10 * 20 + 20 * 3 + 20 * 3)


def test_a_convolution_is_two_operations_a_weight_and_pixel():
    counted = flops_per_row(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten()), torch.ones(2, 3, 6, 6), 2
    )
    assert counted["forward"] == 2 * 3 * 8 * 9 * 16


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_rows_do_not_matter(rows):
    model = net(0)
    assert flops_per_row(model, torch.ones(rows, 1, 6, 6), rows) == flops_per_row(
        model, torch.ones(3, 1, 6, 6), 3
    )


def test_nothing_of_the_model_changes_even_where_it_is_frozen():
    model = net(0).train()
    model[0].requires_grad_(False)
    before, stream = copy.deepcopy(model), torch.get_rng_state()
    counted = flops_of_data(model, images(), torch.device("cpu"))
    assert counted["forward"] == 2 * (4 * 9 * 36 + 144 * 4)
    assert same_state(model, before)
    assert model.training
    assert not model[0].weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert torch.equal(torch.get_rng_state(), stream)
