"""A look at features: their shapes, and what cannot be one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frugalkd.errors import ModelError
from frugalkd.models.features import probe_features
from toys import net, same_state


def probe(model, *patterns, rows=2):
    x = torch.ones(rows, 1, 6, 6)
    return probe_features(model, patterns, lambda: model(x), "the student")


def test_shapes_are_without_the_rows_and_in_the_paths_order():
    assert probe(net(), "4", "[01]") == {"4": (144,), "0": (4, 6, 6), "1": (4, 6, 6)}


def test_nothing_of_the_model_changes():
    model, other = net(), net()
    model[1].train()
    model[3].eval()
    state = torch.get_rng_state()
    probe(model, "0", "3")
    assert same_state(model, other)
    assert torch.equal(torch.get_rng_state(), state)
    assert (model.training, model[1].training, model[3].training) == (True, True, False)
    assert not any(module._forward_hooks for module in model.modules())


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer, self.idle = nn.Linear(36, 36), nn.Linear(1, 1)
        self.odd = Odd()

    def forward(self, x):
        x = self.layer(self.layer(x.flatten(1)))
        return x + self.odd(x)[0].sum()


class Odd(nn.Module):
    def forward(self, x):
        return (x[0],)


class Whole(nn.Module):
    def forward(self, x):
        return x.argmax(1)


@pytest.mark.parametrize(
    ("model", "path", "says"),
    [
        (Twice(), "layer", "module layer of the student runs 2 times in a forward pass"),
        (Twice(), "idle", "module idle of the student does not run in a forward pass"),
        (Twice(), "odd", r"features of shape \(36,\) for 2 rows"),
        (nn.Sequential(nn.Flatten(), Whole()), "1", "returns torch.int64: name one that"),
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)), "0", "is changed in place"),
        (nn.Sequential(nn.Flatten()), "1", "has no module '1': did you mean 0"),
    ],
)
def test_what_is_no_feature_is_refused(model, path, says):
    with pytest.raises(ModelError, match=says):
        probe(model, path)
    assert not any(module._forward_hooks for module in model.modules())


def test_the_module_that_changes_it_in_place_will_do():
    assert probe(nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True)), "1") == {"1": (2, 4, 4)}


def test_an_input_that_its_module_changes_in_place_is_none():
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(inplace=True), nn.Flatten())
    with pytest.raises(ModelError, match="is changed in place"):
        probe(model, "1:input")
    assert probe(model, "2:input") == {"2:input": (2, 4, 4)}
    assert not any(module._forward_pre_hooks for module in model.modules())
