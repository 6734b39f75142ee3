"""Logit standardisation against a float64 reference."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from objective_cases import TEMPERATURES, agrees, cases, few, kl, logs

from frugalkd.objectives import KD, LogitStandardisation


def standardised(row):
    mean = math.fsum(row) / len(row)
    deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in row) / (len(row) - 1))
    return [(value - mean) / (deviation + 1e-7) for value in row]


@few
@given(case=cases(), temperature=TEMPERATURES)
def test_it_is_the_formula(case, temperature):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        of, against = (logs(standardised(row), temperature) for row in (teacher, student))
        expected.append(9 * temperature**2 * kl(of, against) - 0.1 * logs(student)[label])
    agrees(LogitStandardisation(temperature)(*case.tensors), expected, temperature**2)


def test_neither_scale_nor_shift_of_a_row_is_seen():
    stream = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 6, 5, generator=stream, dtype=torch.float64)
    labels, alone = torch.arange(6) % 5, LogitStandardisation(hard=0.0)
    moved = alone(3 * logits - 7, targets / 2 + 1, labels)
    torch.testing.assert_close(moved, alone(logits, targets, labels), rtol=1e-6, atol=0)
    assert not torch.allclose(KD()(3 * logits, targets, labels), KD()(logits, targets, labels))
