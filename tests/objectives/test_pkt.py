"""Probabilistic knowledge transfer against a float64 reference, and its weights against copies."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from objective_cases import agrees, cases, few, logs, reduced

from frugalkd.objectives import PKT


def neighbours(rows, weights):
    """Row by row, the probability of each row."""
    norms = [math.sqrt(math.fsum(value**2 for value in row)) for row in rows]
    found = []
    for one, norm in zip(rows, norms, strict=True):
        similar = [
            w * (1 + math.fsum(a * b for a, b in zip(one, other, strict=True)) / (norm * n)) / 2
            for w, other, n in zip(weights, rows, norms, strict=True)
        ]
        whole = math.fsum(similar)
        found.append([value / whole if whole else 0.0 for value in similar])
    return found


@few
@given(case=cases())
def test_it_is_the_formula(case):
    rows = len(case.logits)
    hard = [-logs(row)[label] for row, label in zip(case.logits, case.labels, strict=True)]
    for weights in ([1.0] * rows, case.weights.tolist()):
        student, teacher = (neighbours(given, weights) for given in (case.logits, case.targets))
        transfer = math.fsum(
            weights[i] * p * (math.log(p + 1e-7) - math.log(q + 1e-7))
            for i in range(rows)
            for p, q in zip(teacher[i], student[i], strict=True)
        )
        alone = math.fsum(w * value for w, value in zip(weights, hard, strict=True)) / rows
        weights_given = torch.tensor(weights, dtype=torch.float64)
        losses = PKT(soft=100.0, hard=0.5)(*case.tensors, weights=weights_given)
        expected = 100 * transfer / rows**2 + 0.5 * alone
        agrees(reduced(losses, weights_given.numpy()), expected, 100.0)
