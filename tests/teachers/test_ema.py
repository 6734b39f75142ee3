"""The moving average against a plain loop in float64."""

import pytest
import torch
from torch import nn

from frugalkd.teachers.ema import EMA


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def move(model: nn.Module, step: int) -> None:
    """Something like a training step: other weights, and BatchNorm's statistics move."""
    generator = torch.Generator().manual_seed(step)
    model.train()
    model(torch.randn(8, 3, generator=generator))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator))


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9, 0.999])
def test_it_is_the_mean_until_the_decay_takes_over(decay):
    model = small()
    ema = EMA(model, decay)
    expected = {}
    for step in range(1, 15):
        move(model, step)
        ema.update(model)
        keep = min(decay, 1 - 1 / step)
        for name, value in model.state_dict().items():
            if not value.is_floating_point():
                expected[name] = value.clone()
                continue
            before = expected.get(name, torch.zeros_like(value, dtype=torch.float64))
            expected[name] = keep * before + (1 - keep) * value.double()
    for name, value in ema.model.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name].double(), rtol=1e-5, atol=1e-6)
    assert ema.steps == 14


def test_the_model_is_left_alone_and_the_average_has_no_gradients():
    model = small()
    ema = EMA(model)
    move(model, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    ema.update(model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(p.requires_grad for p in model.parameters())
    assert not any(module.training for module in ema.model.modules())
    assert not any(p.requires_grad for p in ema.model.parameters())


def test_it_goes_on_from_its_state_bit_for_bit():
    model = small()
    ema = EMA(model, 0.9)
    for step in range(5):
        move(model, step)
        ema.update(model)
    kept = {"steps": ema.steps, "model": {k: v.clone() for k, v in ema.model.state_dict().items()}}
    again = EMA(small(), 0.9)
    again.load_state_dict(kept)
    for step in range(5, 12):
        move(model, step)
        ema.update(model)
        again.update(model)
    for name, value in ema.model.state_dict().items():
        assert torch.equal(value, again.model.state_dict()[name])


@pytest.mark.parametrize("decay", [-0.1, 1.0, float("nan")])
def test_an_impossible_decay_is_refused(decay):
    with pytest.raises(ValueError, match=r"in \[0, 1\)"):
        EMA(small(), decay)
