from __future__ import annotations

import torch
from torch import nn

from frugalkd.models.mlp import MLP


def sizes(model: MLP) -> list[tuple[int, int]]:
    return [(m.in_features, m.out_features) for m in model.modules() if isinstance(m, nn.Linear)]


def test_layers():
    assert sizes(MLP(10, 1, (8, 8))) == [(64, 64), (64, 10)]
    assert sizes(MLP(10, 3, (2, 4), hidden=[5, 6])) == [(24, 5), (5, 6), (6, 10)]
    assert sizes(MLP(10, 1, (8, 8), hidden=())) == [(64, 10)]


def test_dropout_acts_in_training_only():
    model = MLP(10, 1, (8, 8), dropout=0.5)
    x = torch.randn(3, 1, 8, 8)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))
