"""What a screening says of values, against its formulae in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import DataError, ModelError, TargetsError
from frugalkd.ledger.outcome import fails
from frugalkd.outputs import OUTPUTS

REGRESSION = OUTPUTS["regression"]


def pool(rows=60, targets=2, seed=0):
    stream = torch.Generator().manual_seed(seed)
    spread = torch.arange(1, targets + 1) * 10.0
    return torch.randn(rows, targets, generator=stream) * spread + 7


def reference_of(right, by_teacher=False):
    found = REGRESSION.reference(right, by_teacher=by_teacher)
    return {name: torch.from_numpy(part) for name, part in found.items()}


def test_the_distance_is_the_squared_error_over_the_variance():
    right, student = pool(), pool(seed=1)
    seen = REGRESSION.outcome(student, right, reference_of(right))
    wanted, given = right.double().numpy(), student.double().numpy()
    distance = (((given - wanted) / wanted.std(axis=0)) ** 2).mean(axis=1)
    assert seen.distance.numpy() == pytest.approx(distance, rel=1e-5)  # d0 is 1
    assert seen.confidence.numpy() == pytest.approx(1 - distance, rel=1e-5, abs=1e-6)
    assert torch.equal(seen.confidence, seen.truth)
    assert torch.equal(seen.correct, seen.confidence > 0)
    assert seen.confidence.min() < 0  # not clamped


def test_the_mean_score_of_one_target_is_r2():
    right, student = pool(targets=1), pool(targets=1) + pool(targets=1, seed=1) * 0.1
    seen = REGRESSION.outcome(student, right, reference_of(right))
    wanted, given = right.double().numpy(), student.double().numpy()
    r2 = 1 - ((given - wanted) ** 2).sum() / ((wanted - wanted.mean()) ** 2).sum()
    assert seen.confidence.mean().item() == pytest.approx(r2, abs=1e-6)


def test_the_mean_of_what_is_right_scores_nothing_on_average():
    right = pool()
    mean = right.mean(dim=0).expand_as(right)
    seen = REGRESSION.outcome(mean, right, reference_of(right))
    assert seen.confidence.mean().item() == pytest.approx(0, abs=1e-5)
    same = REGRESSION.outcome(right, right, reference_of(right))
    assert not fails(same.confidence, same.correct, 1.0).any()


def test_heavy_tails_are_measured_by_quartiles():
    right = pool(200)
    right[:3, 1] = torch.tensor([1e4, -1e4, 3e4])
    sigma = REGRESSION.reference(right, by_teacher=True)["sigma"]
    low, high = np.quantile(right[:, 1].double().numpy(), (0.25, 0.75))
    assert sigma[1] == pytest.approx((high - low) / 1.349, rel=1e-6)
    assert sigma[0] == pytest.approx(right[:, 0].double().numpy().std(), rel=1e-6)
    mostly_zero = torch.zeros(100, 1)
    mostly_zero[:5] = 3.0
    assert REGRESSION.reference(mostly_zero, by_teacher=True)["sigma"] == pytest.approx(
        mostly_zero.numpy().std()
    )


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_it_is_computed_in_float32_even_under_an_autocast(dtype):
    right, student = pool(), pool(seed=1).to(dtype)
    expected = REGRESSION.outcome(student.float(), right, reference_of(right))
    with torch.autocast("cpu", torch.bfloat16):
        seen = REGRESSION.outcome(student, right, reference_of(right))
    assert seen.confidence.dtype == torch.float32
    assert torch.equal(seen.confidence, expected.confidence)


@pytest.mark.parametrize(("by_teacher", "whose"), [(True, "the teacher"), (False, "the data")])
def test_targets_of_no_spread_are_refused(by_teacher, whose):
    right = pool()
    right[:, 1] = 1234.5
    with pytest.raises(TargetsError, match=f"{whose} has nearly the same value of target 1 for 60"):
        REGRESSION.reference(right, by_teacher=by_teacher)


def test_labels_are_floating_point_columns():
    made = REGRESSION.as_labels(torch.zeros(3, dtype=torch.float64))
    assert made is not None
    assert (made.shape, made.dtype) == ((3, 1), torch.float32)
    for wrong in (torch.zeros(3).long(), torch.zeros(3, 1).bool(), torch.zeros(3, 2, 2)):
        assert REGRESSION.as_labels(wrong) is None


def test_a_target_that_is_not_finite_is_named():
    right = pool(3)
    right[1, 0] = torch.nan
    with pytest.raises(DataError, match=r"the target of sample 8 is \[nan, .*not finite"):
        REGRESSION.check(right, np.array([5, 8, 9]), 2)
    with pytest.raises(ModelError, match="the model gives 3 numbers a sample, and there are 2"):
        REGRESSION.check(pool(3), np.arange(3), 3)
