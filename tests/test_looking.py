"""A look leaves no trace in the model, whatever happens in it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frugalkd.looking import looking, model_digest
from toys import net


def modes(model):
    return [module.training for module in model.modules()]


def test_every_submodule_gets_its_own_mode_back():
    model = net(0)
    model[1].eval()
    model[4].eval()
    before = modes(model)
    assert len(set(before)) == 2
    with looking(model):
        assert not any(modes(model))
        assert not torch.is_grad_enabled()
        with looking(model):
            pass
        assert not any(modes(model))
    assert modes(model) == before
    assert torch.is_grad_enabled()


def test_an_error_inside_puts_all_back():
    model = net(0)
    before, stream = modes(model), torch.get_rng_state()

    def fail():
        with looking(model):
            torch.rand(3)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert modes(model) == before
    assert torch.equal(torch.get_rng_state(), stream)


def test_nothing_of_the_model_moves():
    model = net(0).train()
    before = model_digest(model)
    with looking(model):
        one, other = (model(torch.ones(2, 1, 6, 6)) for _ in range(2))
    assert torch.equal(one, other)
    assert not one.requires_grad
    assert model_digest(model) == before


def test_a_digest_tells_every_parameter_and_buffer_apart():
    digests = {model_digest(net(0))}
    assert model_digest(net(0)) in digests
    digests.add(model_digest(net(1)))
    for change in (
        lambda m: m[0].bias.data.add_(1e-7),
        lambda m: m[1].running_var.add_(1e-3),
        lambda m: m[1].num_batches_tracked.add_(1),
        lambda m: m.to(torch.bfloat16),
        lambda m: m.append(nn.Linear(4, 4)),
    ):
        model = net(0)
        change(model)
        digests.add(model_digest(model))
    assert len(digests) == 7
    assert all(len(digest) == 64 for digest in digests)
    assert model_digest(net(0).eval().requires_grad_(False)) == model_digest(net(0))
