"""Multi-level logit distillation against a float64 reference."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from objective_cases import TEMPERATURES, agrees, cases, few, kl, logs, reduced, softmax
from torch.nn import functional as F

from frugalkd.errors import RecipeError
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.objectives import MLKD


def product(one, other):
    return math.fsum(a * b for a, b in zip(one, other, strict=True))


def products(rows, weights):
    """Of all pairs of columns, weighted."""
    columns = list(zip(*rows, strict=True))
    weighed = [[w * a for w, a in zip(weights, column, strict=True)] for column in columns]
    return [product(one, other) for one in weighed for other in columns]


def distance(one, other):
    """Squared."""
    return math.fsum((a - b) ** 2 for a, b in zip(one, other, strict=True))


@few
@given(case=cases(largest=50), temperature=TEMPERATURES)
def test_it_is_the_formula(case, temperature):
    rows, classes = case.logits.shape
    temperatures = (temperature, temperature + 1)
    objective = MLKD(temperatures, instance=0.9, batch=2.0, classes=3.0, hard=0.5)
    for weights in ([1.0] * rows, case.weights.tolist()):
        hard = (-logs(row)[label] for row, label in zip(case.logits, case.labels, strict=True))
        expected = 0.5 * math.fsum(w * value for w, value in zip(weights, hard, strict=True))
        for t in temperatures:
            student, teacher = (
                [softmax(row, t) for row in given] for given in (case.logits, case.targets)
            )
            alone = (
                w * t**2 * kl(logs(of, t), logs(against, t))
                for w, of, against in zip(weights, case.targets, case.logits, strict=True)
            )
            pairs = math.fsum(
                weights[i]
                * weights[j]
                * (product(teacher[i], teacher[j]) - product(student[i], student[j])) ** 2
                for i in range(rows)
                for j in range(rows)
            )
            of_classes = distance(products(teacher, weights), products(student, weights))
            expected += 0.9 * math.fsum(alone) + 2 * pairs + 3 * rows * of_classes / classes
        weighed = torch.tensor(weights, dtype=torch.float64)
        losses = objective(*case.tensors, weights=weighed)
        agrees(reduced(losses, weighed.numpy()), expected / rows, temperature * 1e3)


def test_the_defaults_are_the_authors():
    """Weights 0.1 and 0.9 at temperatures 2 to 6, of one view and without their masks."""
    stream = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 6, 4, generator=stream, dtype=torch.float64)
    labels = torch.arange(6) % 4
    expected = 0.1 * F.cross_entropy(logits, labels)
    for t in (2, 3, 4, 5, 6):
        s, p = (logits / t).softmax(1), (targets / t).softmax(1)
        instance = t**2 * (p * (p / s).log()).sum() / 6
        batch = (p @ p.T - s @ s.T).square().sum() / 6
        classes = (p.T @ p - s.T @ s).square().sum() / 4
        expected = expected + 0.9 * (instance + batch + classes)
    torch.testing.assert_close(MLKD()(logits, targets, labels).mean(), expected)


def test_temperatures_are_a_list_in_a_recipe():
    setting = "student.objective={name: mlkd, temperatures: [1, 2.5]}"
    recipe = load_recipe("digits", [setting])
    assert recipe.student.objective.build() == MLKD((1.0, 2.5))
    for wrong in ("[]", "[1, 0]"):
        with pytest.raises(RecipeError, match=r"^student\.objective\.temperatures must be "):
            load_recipe("digits", [f"student.objective={{name: mlkd, temperatures: {wrong}}}"])
