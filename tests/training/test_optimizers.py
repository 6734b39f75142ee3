"""The optimisers against plain ones, the mask, and the schedule by hand."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from frugalkd.training.optimizers import factor, make_optimizer
from frugalkd.training.settings import Optimizer, Schedule
from toys import net

SETTINGS = [
    Optimizer("sgd", lr=0.1, weight_decay=0.01),
    Optimizer("sgd", lr=0.1, momentum=0.0),
    Optimizer("adamw", lr=0.01, weight_decay=0.1, betas=(0.8, 0.9)),
]


def by_hand(model, settings):
    """The same optimiser in torch's plain form, decaying matrices and kernels alone."""
    groups = [
        {"params": [p], "weight_decay": settings.weight_decay if p.ndim > 1 else 0.0}
        for p in model.parameters()
    ]
    if settings.name == "sgd":
        nesterov = settings.momentum > 0
        momentum = settings.momentum
        return torch.optim.SGD(groups, lr=settings.lr, momentum=momentum, nesterov=nesterov)
    return torch.optim.AdamW(groups, lr=settings.lr, betas=settings.betas, foreach=False)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_it_steps_as_torchs_plain_form_does(settings):
    models = [net(0), net(0)]
    makers = [make_optimizer, by_hand]
    for model, make in zip(models, makers, strict=True):
        optimizer = make(model, settings)
        for step in range(4):
            stream = torch.Generator().manual_seed(step)
            for parameter in model.parameters():
                parameter.grad = torch.randn(parameter.shape, generator=stream)
            optimizer.step()
    for one, other in zip(*(m.parameters() for m in models), strict=True):
        torch.testing.assert_close(one, other)


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_a_masked_step_changes_neither_weights_nor_state(settings):
    model = net(0)
    optimizer = make_optimizer(model, settings)

    def step(value, masked):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, value)
        optimizer.found_inf = torch.tensor(float(masked))  # pyright: ignore
        optimizer.step()

    def state():
        tensors = [p.detach().clone() for p in model.parameters()]
        for kept in optimizer.state.values():
            tensors += [v.clone() for v in kept.values() if isinstance(v, torch.Tensor)]
        return tensors

    step(0.5, masked=False)
    before = state()
    step(math.nan, masked=True)
    assert all(torch.equal(a, b) for a, b in zip(before, state(), strict=True))
    step(0.5, masked=False)
    assert not torch.equal(before[0], state()[0])


def test_biases_and_norms_do_not_decay_and_frozen_ones_stay():
    model = net(0)
    model[5].requires_grad_(False)
    decayed, spared = make_optimizer(model, Optimizer(weight_decay=0.5)).param_groups
    assert [p.shape for p in decayed["params"]] == [model[0].weight.shape]
    assert len(spared["params"]) == 3
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.5, 0.0)
    assert len(make_optimizer(nn.Linear(2, 2, bias=False), Optimizer()).param_groups) == 1


@pytest.mark.parametrize(
    ("schedule", "progress", "after", "expected"),
    [
        (Schedule("cosine"), 0.0, 0.1, 1.0),
        (Schedule("cosine"), 0.5, 0.6, 0.5),
        (Schedule("cosine"), 1.0, 1.0, 0.0),
        (Schedule("cosine", final=0.1), 1.0, 1.0, 0.1),
        (Schedule("linear"), 0.25, 0.3, 0.75),
        (Schedule("linear", final=0.2), 0.5, 0.6, 0.6),
        (Schedule("constant"), 0.9, 1.0, 1.0),
        (Schedule("linear", warmup=0.4), 0.0, 0.1, 0.25),
        (Schedule("linear", warmup=0.4), 0.25, 0.3, 0.75**2),
        (Schedule("linear", warmup=0.4), 0.5, 0.6, 0.5),
    ],
)
def test_the_schedule_by_hand(schedule, progress, after, expected):
    assert factor(schedule, progress, after) == pytest.approx(expected, abs=1e-12)
