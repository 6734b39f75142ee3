"""Relational knowledge distillation against a float64 reference: loops over pairs and triplets."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from feature_cases import Features, features, seen_of, transfer
from hypothesis import given
from objective_cases import agrees, few, reduced

from frugalkd.objectives import RKD


def huber(one, other):
    apart = abs(one - other)
    return apart**2 / 2 if apart < 1 else apart - 0.5


def scaled(rows, weights):
    """The distances over their weighted mean of different rows."""
    n = range(len(rows))
    found = [[math.dist(rows[i], rows[j]) for j in n] for i in n]
    pairs = [(i, j) for i, j in product(n, n) if i != j]
    total = math.fsum(weights[i] * weights[j] for i, j in pairs)
    mean = math.fsum(weights[i] * weights[j] * found[i][j] for i, j in pairs) / (total or 1)
    return [[value / (mean or math.inf) for value in line] for line in found]


def cosine(rows, i, j, k):
    if j in (i, k):
        return 0.0
    one, other = rows[i] - rows[j], rows[k] - rows[j]
    return math.fsum(one * other) / (math.hypot(*one) * math.hypot(*other))


@few
@given(case=features(largest=5))
def test_it_is_the_formula(case):
    n = range(len(case.weights))
    for weights in (np.ones(len(n)), case.weights):
        student, teacher = (scaled(each, weights) for each in (case.student, case.teacher))
        distance = math.fsum(
            weights[i] * weights[j] * huber(student[i][j], teacher[i][j]) for i, j in product(n, n)
        )
        angle = math.fsum(
            weights[i]
            * weights[j]
            * weights[k]
            * huber(cosine(case.student, i, j, k), cosine(case.teacher, i, j, k))
            for i, j, k in product(n, n, n)
        )
        expected = {
            (1.0, 0.0): distance / len(n) ** 2,
            (0.0, 1.0): angle / len(n) ** 3,
            (2.0, 3.0): 2 * distance / len(n) ** 2 + 3 * angle / len(n) ** 3,
        }
        for (of_distance, of_angle), value in expected.items():
            objective = RKD("a", "b", of_distance, of_angle)
            losses = transfer(objective, seen_of(objective, case), weights)
            agrees(reduced(losses, weights), value)


def test_a_turned_and_stretched_student_has_nothing_to_learn():
    stream = np.random.default_rng(0)
    teacher = stream.normal(size=(6, 4))
    turn, _ = np.linalg.qr(stream.normal(size=(4, 4)))
    case = Features(5 * teacher @ turn + 2, teacher, np.ones(6))
    objective = RKD("a", "b")
    assert transfer(objective, seen_of(objective, case), case.weights).abs().max() < 1e-12


@pytest.mark.parametrize("name", ["distance", "angle"])
def test_impossible_weights_are_refused(name):
    with pytest.raises(ValueError, match=f"^{name} must "):
        RKD("a", "b", **{name: -1.0})
