"""A distribution by some of its classes: expectations, the other classes together, and logits."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from frugalkd.errors import SettingError
from frugalkd.objectives import KD
from frugalkd.objectives._numerics import log_softmax_at
from frugalkd.teachers.sparse import Sparse

TEACHER = torch.randn(4, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
STUDENT = torch.randn(4, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
LABELS = torch.tensor([0, 3, 8, 2])


def whole():
    """All classes, each by itself."""
    logs = F.log_softmax(TEACHER, dim=1)
    return Sparse(torch.arange(9).expand(4, 9), logs.exp(), (logs.exp() * logs).sum(dim=1))


def top(k):
    """The k largest, and a rest."""
    logs, classes = F.log_softmax(TEACHER, dim=1).topk(k, dim=1)
    rest = 1 - logs.exp().sum(dim=1)
    information = (logs.exp() * logs).sum(dim=1) + rest * rest.log()
    return Sparse(classes, logs.exp(), information, rest)


def test_kd_on_all_classes_is_kd_on_logits():
    for alpha in (1.0, 0.3):
        kd = KD(temperature=1.0, alpha=alpha)
        torch.testing.assert_close(kd(STUDENT, whole(), LABELS), kd(STUDENT, TEACHER, LABELS))


def test_gradients_are_those_of_the_softmax():
    """Also twice, of a graph that is kept, and where a class is there twice."""
    classes = torch.tensor([[1, 1, 4], [0, 8, 2], [5, 5, 5], [7, 3, 0]])
    upstream = torch.randn(4, 3, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    logits = (40 * STUDENT).requires_grad_()
    plain = F.log_softmax(logits, dim=1).gather(1, classes)
    found = log_softmax_at(logits, classes)
    torch.testing.assert_close(found, plain)
    (wanted,) = torch.autograd.grad(plain, logits, upstream)
    for _ in range(2):
        (got,) = torch.autograd.grad(found, logits, upstream, retain_graph=True)
        torch.testing.assert_close(got, wanted)
    far = torch.tensor([[0.0, -3000.0]], requires_grad=True)
    assert log_softmax_at(far, torch.tensor([[1]])).item() == -3000.0


def test_the_rest_is_one_outcome():
    sparse, every, logs = top(3), whole(), F.log_softmax(STUDENT, dim=1)
    classes = sparse.classes
    assert sparse.rest is not None
    student = logs.exp().gather(1, classes)
    outcomes = torch.cat([sparse.weights, sparse.rest[:, None]], dim=1)
    ours = torch.cat([student, 1 - student.sum(dim=1, keepdim=True)], dim=1)
    wanted = (outcomes * (outcomes.log() - ours.log())).sum(dim=1)
    found = sparse.divergence(logs.gather(1, classes))
    torch.testing.assert_close(found, wanted)
    assert (found <= every.divergence(logs.gather(1, every.classes))).all()


@pytest.mark.parametrize("sure", [0.0, 20.0, 60.0])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rest_has_a_gradient_where_a_student_is_sure(dtype, sure):
    """Its sum over the kept classes is 1 in float32, and the others are not forgotten."""
    exact = top(3)
    assert exact.rest is not None
    sparse = Sparse(
        exact.classes, exact.weights.to(dtype), exact.information.to(dtype), exact.rest.to(dtype)
    )
    logits = STUDENT.to(dtype).scatter_add(
        1, sparse.classes[:, :1], torch.full((4, 1), sure, dtype=dtype)
    )
    found, plain = logits.clone().requires_grad_(), logits.double().requires_grad_()
    kept = torch.zeros(4, 9, dtype=torch.bool).scatter(1, sparse.classes, True)
    logs = F.log_softmax(plain, dim=1)
    others = logs.masked_fill(kept, -math.inf).logsumexp(dim=1)
    wanted = exact.divergence(logs.gather(1, sparse.classes), others)
    losses = KD(temperature=1.0, alpha=1.0)(found, sparse, LABELS)
    torch.testing.assert_close(losses.double(), wanted, rtol=1e-5, atol=1e-5)
    upstream = torch.tensor([1.0, 2.0, 0.5, 3.0], dtype=dtype)
    (got,) = torch.autograd.grad(losses, found, upstream)
    (right,) = torch.autograd.grad(wanted, plain, upstream.double())
    torch.testing.assert_close(got.double(), right, rtol=1e-4, atol=1e-6)
    assert (got.gather(1, sparse.classes[:, :1]) > 0).all() or not sure


def test_logits_share_the_rest_evenly():
    sparse = top(3)
    assert sparse.rest is not None
    shares = sparse.logits(9).softmax(dim=1)
    torch.testing.assert_close(shares.gather(1, sparse.classes), sparse.weights)
    assert shares.sum(dim=1) == pytest.approx([1.0] * 4)
    assert shares.min(dim=1).values == pytest.approx((sparse.rest / 6).tolist())
    twice = Sparse(torch.tensor([[5, 5, 1]]), torch.tensor([[0.25, 0.25, 0.5]]), torch.zeros(1))
    assert twice.logits(9).softmax(dim=1)[0, [1, 5]].tolist() == pytest.approx([0.5, 0.5])


def test_parts_and_devices_keep_every_column():
    for sparse in (top(3), whole()):
        part = sparse.part(slice(1, 3)).to(torch.float32)
        assert len(part) == 2
        assert part.weights.dtype == torch.float32
        assert (part.rest is None) == (sparse.rest is None)
        assert part.shape == (2, sparse.shape[1])


def test_another_temperature_is_refused():
    with pytest.raises(SettingError, match=r"the temperature is 4, .* at 1"):
        KD()(STUDENT, whole(), LABELS)


def test_a_student_without_a_rest_has_a_finite_loss():
    sure = torch.full((4, 9), -math.inf, dtype=torch.float64)
    sure[:, :3] = 0.0
    sparse = top(3)
    logs = F.log_softmax(sure, dim=1).scatter(1, sparse.classes, -math.log(3))
    assert torch.isfinite(sparse.divergence(logs.gather(1, sparse.classes))).all()
