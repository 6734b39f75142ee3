"""Objectives on the same tensors as torchdistill's losses, where it has them."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from frugalkd.objectives import DIST, KD, PKT, CorrelationCongruence, LogitStandardisation

pytestmark = pytest.mark.heavy
pytest.importorskip("torchdistill", reason="torchdistill is not installed: pip install '.[bench]'")

OUTPUT = (".", "output", ".", "output")


def batch(rows=32, classes=10):
    stream = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(2, rows, classes, generator=stream)
    return logits, targets, torch.randint(classes, (rows,), generator=stream)


def theirs(loss, logits, targets, labels):
    of_student, of_teacher = ({".": {"output": given.clone()}} for given in (logits, targets))
    return loss(of_student, of_teacher, targets=labels)


def pairs():
    from torchdistill.losses import mid_level

    return {
        "kd": (
            KD(4.0, alpha=0.9),
            mid_level.KDLoss(*OUTPUT, temperature=4.0, alpha=0.1, beta=0.9),
        ),
        "logit-standardisation": (
            LogitStandardisation(2.0, soft=9.0, hard=0.1),
            mid_level.LogitStdKDLoss(*OUTPUT, temperature=2.0, alpha=0.1, beta=9.0),
        ),
        "dist": (
            DIST(2.0, beta=2.0, gamma=3.0, hard=0.0),
            mid_level.DISTLoss(*OUTPUT, beta=2.0, gamma=3.0, tau=2.0),
        ),
        "pkt": (PKT(soft=1.0, hard=0.0), mid_level.PKTLoss(*OUTPUT)),
    }


@pytest.mark.parametrize("name", ["kd", "logit-standardisation", "dist", "pkt"])
def test_value_and_gradient_are_torchdistills(name):
    ours, loss = pairs()[name]
    logits, targets, labels = batch()
    logits.requires_grad_()
    mine = ours(logits, targets, labels).mean()
    other = theirs(loss, logits, targets, labels)
    torch.testing.assert_close(mine, other, rtol=2e-5, atol=1e-8)
    gradients = [torch.autograd.grad(value, logits)[0] for value in (mine, other)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)


def test_correlation_congruence_is_the_square_of_torchdistills():
    """It takes the matrices' distance, where the paper's formula has its square over rows^2."""
    from torchdistill.losses import mid_level

    logits, targets, labels = batch()
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    loss = mid_level.CCKDLoss(".", ".", kernel_config=kernel, reduction="sum")
    distance = theirs(loss, F.normalize(logits), F.normalize(targets), labels)
    mine = CorrelationCongruence(hard=0.0)(logits, targets, labels).mean()
    torch.testing.assert_close(mine, distance**2 / 32**2, rtol=2e-5, atol=1e-8)
