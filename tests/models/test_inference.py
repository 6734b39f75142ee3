"""An evaluation forward leaves no trace in the model, whatever happens in it."""

from __future__ import annotations

import pytest
import torch

from frugalkd.models.identity import identity
from frugalkd.models.inference import inference_mode
from toys import net


def modes(model):
    return [module.training for module in model.modules()]


def test_every_submodule_gets_its_own_mode_back():
    model = net(0)
    model[1].eval()
    model[4].eval()
    before = modes(model)
    assert len(set(before)) == 2
    with inference_mode(model):
        assert not any(modes(model))
        assert not torch.is_grad_enabled()
        with inference_mode(model):
            pass
        assert not any(modes(model))
    assert modes(model) == before
    assert torch.is_grad_enabled()


def test_an_error_inside_puts_all_back():
    model = net(0)
    before, stream = modes(model), torch.get_rng_state()

    def fail():
        with inference_mode(model):
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), stream)


def test_the_model_does_not_change():
    model = net(0).train()
    before = identity(model)
    with inference_mode(model):
        one, other = (model(torch.ones(2, 1, 6, 6)) for _ in range(2))
    assert torch.equal(one, other)
    assert not one.requires_grad
    assert identity(model) == before
