"""Decoupled knowledge distillation against a float64 reference."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from objective_cases import TEMPERATURES, agrees, cases, few, kl, logs

from frugalkd.objectives import DKD, KD


def decoupled(student, teacher, label, temperature):
    """TCKD and NCKD, from the logits of a row."""

    def of_label(row):
        rest = [value for at, value in enumerate(row) if at != label]
        most = max(row)
        whole = math.fsum(math.exp((value - most) / temperature) for value in row)
        most_of_rest = max(rest)
        part = math.fsum(math.exp((value - most_of_rest) / temperature) for value in rest)
        others = (most_of_rest - most) / temperature + math.log(part) - math.log(whole)
        return [(row[label] - most) / temperature - math.log(whole), others]

    def over_others(row):
        return logs([value for at, value in enumerate(row) if at != label], temperature)

    target = kl(of_label(teacher), of_label(student))
    return target, kl(over_others(teacher), over_others(student))


@few
@given(case=cases(), temperature=TEMPERATURES)
def test_it_is_the_formula(case, temperature):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        target, others = decoupled(student, teacher, label, temperature)
        soft = temperature**2 * (1.5 * target + 6 * others)
        expected.append(soft - 0.5 * logs(student)[label])
    scale = temperature * 1e3
    agrees(DKD(temperature, alpha=1.5, beta=6, hard=0.5)(*case.tensors), expected, scale)


def test_knowledge_distillation_is_one_case_of_it():
    """KD is TCKD + (1 - the teacher's probability of the label) * NCKD."""
    stream = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(2, 6, 5, generator=stream, dtype=torch.float64)
    labels = torch.arange(6) % 5
    parts = [DKD(4.0, alpha, 1 - alpha, hard=0.0)(logits, targets, labels) for alpha in (1.0, 0.0)]
    sure = (targets / 4).softmax(dim=1).gather(1, labels[:, None])[:, 0]
    whole = KD(4.0, alpha=1.0)(logits, targets, labels)
    torch.testing.assert_close(parts[0] + (1 - sure) * parts[1], whole)


def test_of_two_classes_nothing_is_left_beside_the_label():
    logits, targets = torch.tensor([[[1.0, 5.0]], [[2.0, -3.0]]])
    assert DKD(alpha=0.0, hard=0.0)(logits, targets, torch.tensor([0])).item() == 0
