"""NKD against a float64 reference."""

from __future__ import annotations

import math

from hypothesis import given
from objective_cases import TEMPERATURES, agrees, cases, few, logs, softmax

from frugalkd.objectives import NKD


@few
@given(case=cases(), temperature=TEMPERATURES)
def test_it_is_the_formula(case, temperature):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        rest = [at for at in range(len(student)) if at != label]
        p, q = softmax(teacher[rest], temperature), logs(student[rest], temperature)
        others = -math.fsum(a * b for a, b in zip(p, q, strict=True))
        of_label = -softmax(teacher)[label] * logs(student)[label]
        hard = -0.5 * logs(student)[label]
        expected.append(hard + of_label + 2 * temperature**2 * others)
    scale = temperature * 1e3
    agrees(NKD(temperature, gamma=2.0, hard=0.5)(*case.tensors), expected, scale)
