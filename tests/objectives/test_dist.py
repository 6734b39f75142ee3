"""DIST against a float64 reference, and its weighted moments against copies of rows."""

from __future__ import annotations

import math

import torch
from hypothesis import given
from objective_cases import TEMPERATURES, agrees, cases, few, logs, reduced, softmax
from torch.nn import functional as F

from frugalkd.objectives import DIST


def correlation(one, other, weights):
    """Pearson's, of weighted values; a norm below 1e-8 counts as that."""
    total = math.fsum(weights) or 1.0
    centred, norms = [], []
    for values in (one, other):
        mean = math.fsum(w * value for w, value in zip(weights, values, strict=True)) / total
        centred.append([value - mean for value in values])
        squares = (w * value**2 for w, value in zip(weights, centred[-1], strict=True))
        norms.append(max(math.sqrt(math.fsum(squares)), 1e-8))
    products = (w * a * b for w, a, b in zip(weights, *centred, strict=True))
    return math.fsum(products) / (norms[0] * norms[1])


@few
@given(case=cases(largest=100), temperature=TEMPERATURES)
def test_it_is_the_formula(case, temperature):
    rows, classes = case.logits.shape
    student, teacher = (
        [softmax(row, temperature) for row in given] for given in (case.logits, case.targets)
    )
    inter = [1 - correlation(s, t, [1] * classes) for s, t in zip(student, teacher, strict=True)]
    hard = [-logs(row)[label] for row, label in zip(case.logits, case.labels, strict=True)]
    objective = DIST(temperature, beta=2.0, gamma=3.0, hard=0.5)
    for weights in ([1.0] * rows, case.weights.tolist()):
        columns = zip(zip(*student, strict=True), zip(*teacher, strict=True), strict=True)
        mean = math.fsum(correlation(s, t, weights) for s, t in columns) / classes
        intra = math.fsum(weights) * (1 - mean)
        each = (2 * temperature**2 * i + 0.5 * h for i, h in zip(inter, hard, strict=True))
        alone = math.fsum(w * value for w, value in zip(weights, each, strict=True))
        weights_given = torch.tensor(weights, dtype=torch.float64)
        losses = objective(*case.tensors, weights=weights_given)
        expected = (alone + 3 * temperature**2 * intra) / rows
        # Where probabilities hardly vary, a correlation has few digits in any order of summing.
        agrees(reduced(losses, weights_given.numpy()), expected, 1e3 * temperature**2)


def test_a_weight_of_two_is_the_row_twice():
    stream = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 5, 4, generator=stream, dtype=torch.float64)
    labels, weights = torch.arange(5) % 4, torch.tensor([1.0, 2.0, 0.0, 1.0, 1.0])
    copies = torch.tensor([0, 1, 1, 3, 4])
    weighted = (weights * DIST()(logits, targets, labels, weights)).sum()
    copied = DIST()(logits[copies], targets[copies], labels[copies]).sum()
    torch.testing.assert_close(weighted, copied)


def test_the_defaults_are_the_authors():
    """Inter and intra count twice, at temperature 1."""
    stream = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 6, 4, generator=stream, dtype=torch.float64)
    labels = torch.arange(6) % 4
    s, t = logits.softmax(1), targets.softmax(1)
    inter = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s, t, strict=True)]
    intra = [1 - torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(s.T, t.T, strict=True)]
    soft = torch.stack(inter).mean() + torch.stack(intra).mean()
    expected = F.cross_entropy(logits, labels) + 2 * soft
    torch.testing.assert_close(DIST()(logits, targets, labels).mean(), expected)


def test_a_student_that_only_scales_has_no_inter_loss():
    """It need not reach the teacher's probabilities, if they rise and fall together."""
    student = torch.tensor([[0.3, 0.3, 0.4], [0.4, 0.3, 0.3]], dtype=torch.float64)
    teacher = torch.tensor([[0.1, 0.1, 0.8], [0.8, 0.1, 0.1]], dtype=torch.float64)
    objective = DIST(gamma=0.0, hard=0.0)
    assert objective(student.log(), teacher.log(), torch.tensor([2, 0])).abs().max() < 1e-12
