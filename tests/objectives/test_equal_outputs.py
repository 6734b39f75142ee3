"""Students whose outputs do not vary, as those of a head that begins with zeros: bounded gradients,
and the same bits as before elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from frugalkd.objectives import (
    DIST,
    PKT,
    CorrelationCongruence,
    EmbedDistill,
    LogitStandardisation,
    _numerics,
    logits,
    other_outputs,
)

OBJECTIVES = {
    "dist": DIST(), "logit-standardisation": LogitStandardisation(), "pkt": PKT(soft=1.0),
    "cc": CorrelationCongruence(), "embeddings": EmbedDistill(),
}  # fmt: skip
LABELS = torch.arange(48) % 10


def drawn(seed, dtype=torch.float32):
    return torch.randn(48, 10, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def found(objective, student):
    student = student.clone().requires_grad_()
    losses = objective(student, drawn(1, student.dtype), LABELS)
    losses.sum().backward()
    return losses.detach(), student.grad


@pytest.mark.parametrize("objective", OBJECTIVES.values(), ids=OBJECTIVES)
@pytest.mark.parametrize("rows", [slice(None), slice(0, 1)])
@pytest.mark.parametrize("value", [0.0, 5.3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_are_bounded_where_nothing_varies(objective, rows, value, dtype):
    student = drawn(0, dtype)
    student[rows] = value
    losses, gradient = found(objective, student)
    assert losses.isfinite().all()
    assert gradient.isfinite().all()  # pyright: ignore
    assert gradient.abs().max() < 20  # pyright: ignore


def test_embeddings_of_zeros_are_drawn_to_the_teacher():
    losses, gradient = found(EmbedDistill(), torch.zeros(48, 10))
    assert losses.tolist() == [1.0] * 48
    torch.testing.assert_close(gradient, -F.normalize(drawn(1), dim=1))


def standardised(given):
    centred = given - given.mean(dim=1, keepdim=True)
    return centred / (given.std(dim=1, keepdim=True) + 1e-7)


def parts(one, other, weights):
    weights = weights[:, None]
    total = weights.sum().clamp_min(torch.finfo(weights.dtype).tiny)
    units = []
    for values in (one, other):
        centred = values - (weights * values).sum(dim=0) / total
        norm = torch.linalg.vector_norm(weights.sqrt() * centred, dim=0)
        units.append(centred / norm.clamp_min(1e-8))
    return units[0] * units[1]


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("spread", [1e-4, 1.0, 30.0])
def test_other_outputs_have_the_same_bits(name, spread, monkeypatch):
    student = spread * drawn(0)
    losses, gradient = found(OBJECTIVES[name], student)
    monkeypatch.setattr(logits, "_standardised", standardised)
    monkeypatch.setattr(logits, "_correlation_parts", parts)
    monkeypatch.setattr(_numerics, "unit", F.normalize)
    monkeypatch.setattr(other_outputs, "_cosine", F.cosine_similarity)
    before, gradient_before = found(OBJECTIVES[name], student)
    assert torch.equal(losses, before)
    assert torch.equal(gradient, gradient_before)
