"""What a screening says of several labels, against its formulae in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import DataError, ModelError, TargetsError
from frugalkd.ledger.outcome import fails
from frugalkd.outputs import OUTPUTS

LABELS = OUTPUTS["several-labels"]


def logits(rows=60, labels=4, seed=0):
    return 2 * torch.randn(rows, labels, generator=torch.Generator().manual_seed(seed)) - 1


def reference_of(right, by_teacher):
    found = LABELS.reference(right, by_teacher=by_teacher)
    return {name: torch.from_numpy(part) for name, part in found.items()}


def sigmoid(values):
    return 1 / (1 + np.exp(-values.double().numpy()))


def test_against_labels_it_is_the_least_confident_right_answer():
    student, right = logits(), (logits(seed=1) > 0).float()
    seen = LABELS.outcome(student, right, reference_of(right, False))
    p, y = sigmoid(student), right.numpy()
    least = np.where(y == 1, p, 1 - p).min(axis=1)
    assert seen.confidence.numpy() == pytest.approx(least, abs=1e-6)
    assert seen.correct.numpy().tolist() == (((p > 0.5) == (y == 1)).all(axis=1)).tolist()
    assert torch.equal(seen.confidence, seen.truth)
    assert seen.distance.numpy() == pytest.approx(1 - least, abs=1e-6)


def test_against_the_teacher_probabilities_are_compared():
    student, teacher = logits(), logits(seed=1)
    right = LABELS.from_teacher(teacher)
    reference = reference_of(right, True)
    seen = LABELS.outcome(student, right, reference)
    p, t = sigmoid(student), sigmoid(teacher)
    expected = np.maximum(1, t.sum(axis=1))
    distance = np.abs(p - t).sum(axis=1) / 2 / expected
    d0 = (np.abs(t.mean(axis=0) - t).sum(axis=1) / 2 / expected).mean()
    assert reference["d0"].item() == pytest.approx(d0, rel=1e-5)
    assert seen.distance.numpy() == pytest.approx(distance / d0, rel=1e-4)
    assert seen.confidence.numpy() == pytest.approx(1 - distance / d0, rel=1e-4, abs=1e-5)
    assert torch.equal(seen.correct, seen.confidence > 0)
    same = LABELS.outcome(teacher, right, reference)
    assert not fails(same.confidence, same.correct, 1.0).any()


def test_the_teachers_mean_scores_nothing_on_average():
    right = LABELS.from_teacher(logits())
    mean = torch.logit(right.mean(dim=0)).expand_as(right)
    seen = LABELS.outcome(mean, right, reference_of(right, True))
    assert seen.confidence.mean().item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("by_teacher", [True, False])
def test_it_is_computed_in_float32_even_under_an_autocast(by_teacher):
    right = LABELS.from_teacher(logits(seed=1)) if by_teacher else (logits(seed=1) > 0).float()
    student, reference = logits().bfloat16(), reference_of(right, by_teacher)
    expected = LABELS.outcome(student.float(), right, reference)
    with torch.autocast("cpu", torch.bfloat16):
        seen = LABELS.outcome(student, right, reference)
    assert seen.confidence.dtype == torch.float32
    assert torch.equal(seen.confidence, expected.confidence)


def test_infinite_logits_are_no_fault():
    outputs = torch.tensor([[torch.inf, -torch.inf], [torch.nan, 0.0]])
    assert LABELS.not_finite(outputs).tolist() == [False, True]
    seen = LABELS.outcome(outputs[:1], torch.tensor([[1.0, 0.0]]))
    assert seen.confidence.tolist() == [1.0]


def test_what_does_not_vary_is_refused():
    with pytest.raises(TargetsError, match="60 samples the same probabilities"):
        LABELS.reference(torch.full((60, 4), 0.3), by_teacher=True)
    same = torch.tensor([[0.0, 1.0]]).repeat(60, 1)
    with pytest.raises(TargetsError, match="all of 60 samples have the same labels"):
        LABELS.reference(same, by_teacher=False)


def test_labels_are_columns_of_0_and_1():
    for kind in (torch.bool, torch.int64, torch.float64):
        made = LABELS.as_labels(torch.eye(3).to(kind))
        assert made is not None
        assert made.dtype == torch.float32
    assert LABELS.as_labels(torch.zeros(3).long()) is None


@pytest.mark.parametrize("wrong", [2.0, -1.0, torch.nan])
def test_other_numbers_are_named(wrong):
    right = torch.eye(3)
    right[1, 2] = wrong
    with pytest.raises(DataError, match=f"a label of sample 8 is {wrong:g}: give 1"):
        LABELS.check(right, np.array([5, 8, 9]), 3)
    with pytest.raises(ModelError, match="the model gives 2 logits a sample, and there are 3"):
        LABELS.check(torch.eye(3), np.arange(3), 2)


def test_words_name_the_labels():
    assert LABELS.words(np.array([0.9, 0.1, 0.5]), ("a", "b", "c")) == "a, c"
    assert LABELS.words(np.zeros(3), ("a", "b", "c")) == "none"
