"""What holds of every objective that reads features: a new one is tested without another line."""

from __future__ import annotations

import copy
import dataclasses
from typing import Any

import pytest
import torch
from feature_cases import SAMPLES, TEACHER, parts_of, student_shapes

from frugalkd.objectives import OBJECTIVES, FeatureObjective, Step, StepFeatures

FEATURES = [name for name, made in OBJECTIVES.items() if issubclass(made, FeatureObjective)]
WEIGHTS = torch.tensor([0.7, 0.0, 2.0, 1.0, 1.3], dtype=torch.float64)


@pytest.fixture(params=FEATURES)
def objective(request) -> Any:
    made_of: Any = OBJECTIVES[request.param]
    few = {"negatives": 8} if "negatives" in made_of.__dataclass_fields__ else {}
    return made_of(student="*", teacher="*", **few)


def step(objective, rows=5, dtype=torch.float64, seed=0, spread=1.0, weights=None) -> Any:
    stream = torch.Generator().manual_seed(seed)

    def drawn(*size):
        return spread * torch.randn(rows, *size, generator=stream, dtype=torch.float64).to(dtype)

    shapes = student_shapes(objective), TEACHER
    student, teacher = (tuple(drawn(*shape) for shape in each) for each in shapes)
    parts = parts_of(objective, *shapes).to(torch.promote_types(dtype, torch.float32))
    seen = StepFeatures(student, teacher, parts, torch.randperm(SAMPLES, generator=stream)[:rows])
    logits, targets = drawn(4), drawn(4)
    labels = torch.randint(4, (rows,), generator=stream)
    given = Step(logits, targets, labels, weights, seen=(seen,))
    losses_of(objective, given, weights=None)  # its first batch sets its state
    parts.eval()
    return given


def losses_of(objective, step, **changed):
    """The losses; what is drawn is always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return objective.losses(step._replace(**changed))


def with_student(step, features):
    assert step.seen[0] is not None
    return step._replace(seen=(step.seen[0]._replace(student=tuple(features)),))


def loss_of(objective, step, features):
    """Reduced as ``Batch.reduce`` does it."""
    losses = losses_of(objective, with_student(step, features))
    weights = torch.ones_like(losses) if step.weights is None else step.weights
    return (weights * losses).sum() / len(losses)


def gradients(objective, step):
    features = [feature.clone().requires_grad_() for feature in step.seen[0].student]
    return torch.autograd.grad(loss_of(objective, step, features), features)


@pytest.mark.parametrize("rows", [1, 5])
def test_it_gives_one_finite_loss_a_row_in_float32(objective, rows):
    for dtype in (torch.float32, torch.bfloat16):
        for spread in (0.0, 1.0, 100.0):
            given = step(objective, rows, dtype, spread=spread)
            features = [feature.clone().requires_grad_() for feature in given.seen[0].student]
            losses = losses_of(objective, with_student(given, features))
            assert losses.shape == (rows,)
            assert losses.dtype == torch.float32
            assert losses.isfinite().all()
            assert all(g.isfinite().all() for g in torch.autograd.grad(losses.sum(), features))


def test_an_autocast_rounds_nothing(objective):
    given = step(objective, dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        within = losses_of(objective, given)
    assert torch.equal(within, losses_of(objective, given))


@pytest.mark.parametrize("rows", [1, 4])
def test_its_gradient_is_that_of_the_weighted_loss(objective, rows):
    given = step(objective, rows, weights=WEIGHTS[:rows])
    features = [feature.requires_grad_() for feature in given.seen[0].student]
    torch.autograd.gradcheck(
        lambda *each: loss_of(objective, given, each), features, fast_mode=True
    )


def test_what_is_trained_beside_the_student_has_its_gradient(objective):
    given = step(objective, weights=WEIGHTS)
    parts = given.seen[0].parts
    features = [feature.requires_grad_() for feature in given.seen[0].student]
    loss_of(objective, given, features).backward()
    for name, parameter in parts.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_weights_of_one_change_nothing(objective):
    given = step(objective)
    ones = torch.ones(5, dtype=torch.float64)
    assert torch.equal(losses_of(objective, given, weights=ones), losses_of(objective, given))


def test_a_sample_of_weight_zero_is_as_if_it_were_not_there(objective):
    """It has no gradient, and whatever it is, the others' gradients and the loss stay the same."""
    given = step(objective, weights=WEIGHTS)
    first = gradients(objective, given)
    assert all(g[1].eq(0).all() for g in first)
    assert all(g[[0, 2, 3, 4]].flatten(1).any(1).all() for g in first)
    loss = loss_of(objective, given, given.seen[0].student)
    for features in (given.seen[0].student, given.seen[0].teacher):
        for feature in features:
            feature[1] *= -9.0
        again = gradients(objective, given)
        for one, other in zip(first, again, strict=True):
            torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-14)
        same = loss_of(objective, given, given.seen[0].student)
        torch.testing.assert_close(same, loss, rtol=1e-12, atol=0)


def test_a_sample_of_weight_zero_is_not_remembered(objective):
    given = step(objective, weights=WEIGHTS)
    seen = given.seen[0]
    before = copy.deepcopy(seen.parts.state_dict())
    seen.parts.train()
    losses_of(objective, given)
    for feature in (*seen.student, *seen.teacher):
        feature[1] *= -9.0
    once = copy.deepcopy(seen.parts.state_dict())
    seen.parts.load_state_dict(before)
    losses_of(objective, given)
    for name, value in seen.parts.state_dict().items():
        torch.testing.assert_close(value, once[name], rtol=1e-12, atol=0, equal_nan=True)


def test_rows_mix_only_where_it_says_so(objective):
    given = step(objective)
    features = [feature.clone().requires_grad_() for feature in given.seen[0].student]
    losses = losses_of(objective, with_student(given, features))
    found = torch.autograd.grad(losses[2], features)
    rows = torch.stack([g.abs().flatten(1).sum(1) for g in found]).sum(0) > 0
    alone = [row == 2 for row in range(5)]
    assert (rows.tolist() == alone) is not objective.mixes_rows


def test_the_logits_get_the_gradient_of_the_labels_alone(objective):
    objective, given = dataclasses.replace(objective, hard=0.5), step(objective)
    logits = given.logits.clone().requires_grad_()
    hard = torch.nn.functional.cross_entropy(logits, given.labels)
    loss = losses_of(objective, given, logits=logits).mean()
    expected = torch.autograd.grad(objective.hard * hard, logits)
    torch.testing.assert_close(torch.autograd.grad(loss, logits), expected)


def test_soft_and_hard_weigh_its_two_parts(objective):
    given = step(objective)
    alone = dataclasses.replace(objective, hard=0.0)
    other = dataclasses.replace(objective, soft=3 * objective.soft, hard=0.5)
    hard = torch.nn.functional.cross_entropy(given.logits, given.labels, reduction="none")
    expected = 3 * losses_of(alone, given) + 0.5 * hard
    torch.testing.assert_close(losses_of(other, given), expected)


def test_impossible_settings_are_refused_by_name(objective):
    for field in dataclasses.fields(objective):
        if isinstance(field.default, float):
            for wrong in (-1.0, float("nan"), float("inf")):
                with pytest.raises(ValueError, match=f"^{field.name} must "):
                    dataclasses.replace(objective, **{field.name: wrong})
    for wrong in ("", (), ("2", "")):
        with pytest.raises(ValueError, match="must name modules"):
            dataclasses.replace(objective, student=wrong)
