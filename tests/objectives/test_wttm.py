"""Weighted transformed teacher matching against a float64 reference."""

from __future__ import annotations

import math

from hypothesis import given
from objective_cases import TEMPERATURES, agrees, cases, few, kl, logs

from frugalkd.objectives import WTTM


@few
@given(case=cases(), temperature=TEMPERATURES)
def test_it_is_the_formula(case, temperature):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        unsure = math.fsum(math.exp(value / temperature) for value in logs(teacher))
        soft = unsure * kl(logs(teacher, temperature), logs(student))
        expected.append(2 * soft - 0.5 * logs(student)[label])
    agrees(WTTM(temperature, beta=2.0, hard=0.5)(*case.tensors), expected, 1e3)
