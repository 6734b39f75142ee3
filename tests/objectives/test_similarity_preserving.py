"""Similarity preserving against a float64 reference, and its weights against copies."""

from __future__ import annotations

import math

import numpy as np
import torch
from feature_cases import Features, features, seen_of, transfer
from hypothesis import given
from objective_cases import agrees, few, reduced

from frugalkd.objectives import SimilarityPreserving

SP = SimilarityPreserving("a", "b", soft=3.0)


def similarities(rows, weights):
    found = []
    for one in rows:
        products = [math.fsum(a * b for a, b in zip(one, other, strict=True)) for other in rows]
        squares = (w * value**2 for w, value in zip(weights, products, strict=True))
        norm = math.sqrt(math.fsum(squares)) or math.inf
        found.append([value / norm for value in products])
    return found


@few
@given(case=features((3, 1, 2), (4, 1, 2)))
def test_it_is_the_formula(case):
    rows = len(case.weights)
    flat = [each.reshape(rows, -1).tolist() for each in (case.student, case.teacher)]
    for weights in (np.ones(rows), case.weights):
        student, teacher = (similarities(each, weights) for each in flat)
        whole = math.fsum(
            weights[i] * weights[j] * (student[i][j] - teacher[i][j]) ** 2
            for i in range(rows)
            for j in range(rows)
        )
        losses = transfer(SP, seen_of(SP, case), weights)
        agrees(reduced(losses, weights), 3.0 * whole / rows**2, 10.0)


def test_a_weight_of_two_is_the_row_twice():
    stream = np.random.default_rng(0)
    student, teacher = stream.normal(size=(5, 3)), stream.normal(size=(5, 5))
    weights, copies = np.array([1.0, 2.0, 0.0, 1.0, 1.0]), [0, 1, 1, 3, 4]
    case = Features(student, teacher, weights)
    copied = Features(student[copies], teacher[copies], np.ones(5))
    one = reduced(transfer(SP, seen_of(SP, case), weights), weights)
    torch.testing.assert_close(one, transfer(SP, seen_of(SP, copied), copied.weights).mean())
