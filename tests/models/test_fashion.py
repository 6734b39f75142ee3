from __future__ import annotations

import torch
from torch.utils.flop_counter import FlopCounterMode

from frugalkd.models.fashion import FashionConv


def test_about_17_megaflops():
    model = FashionConv(10, 1, (28, 28)).eval()
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(1, 1, 28, 28))
    assert 16e6 < counter.get_total_flops() < 17e6


def test_dropout_acts_in_training_only():
    torch.manual_seed(0)
    model = FashionConv(10, 1, (8, 8), width=4, dropout=0.5)
    x = torch.randn(3, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


def test_any_size_from_eight():
    assert FashionConv(10, 3, (8, 9), width=2).eval()(torch.zeros(1, 3, 8, 9)).shape == (1, 10)
