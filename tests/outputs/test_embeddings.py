"""The distance of embeddings, against its formula in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import ModelError, TargetsError
from frugalkd.ledger.outcome import fails
from frugalkd.outputs import OUTPUTS

EMBEDDINGS = OUTPUTS["embeddings"]


def pool(rows=50, width=6, seed=0, offset=0.0):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(rows, width, generator=stream) + offset


def reference_of(teacher):
    found = EMBEDDINGS.reference(teacher, by_teacher=True)
    return {name: torch.from_numpy(part) for name, part in found.items()}


def test_the_distance_is_one_minus_the_centred_cosine():
    teacher, student = pool(), pool(seed=1)
    seen = EMBEDDINGS.outcome(student, teacher, reference_of(teacher))
    mean = teacher.double().numpy().mean(axis=0)
    one, other = student.double().numpy() - mean, teacher.double().numpy() - mean
    norms = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    cosine = (one * other).sum(axis=1) / norms
    assert seen.distance.numpy() == pytest.approx(1 - cosine, abs=1e-5)
    assert seen.confidence.numpy() == pytest.approx(cosine, abs=1e-5)
    assert torch.equal(seen.confidence, seen.truth)
    assert torch.equal(seen.correct, seen.confidence > 0)
    assert seen.entropy is None


def test_what_the_teacher_says_itself_is_at_no_distance():
    teacher = pool()
    seen = EMBEDDINGS.outcome(teacher, teacher, reference_of(teacher))
    assert seen.distance.numpy() == pytest.approx(0, abs=1e-6)
    assert not fails(seen.confidence, seen.correct, 0.9).any()


def test_the_teachers_mean_scores_nothing_at_the_distance_d0():
    teacher = pool(offset=5.0)
    reference = reference_of(teacher)
    mean = reference["mean"].expand_as(teacher)
    seen = EMBEDDINGS.outcome(mean, teacher, reference)
    assert seen.confidence.eq(0).all()
    assert seen.distance.eq(reference["d0"]).all()
    assert fails(seen.confidence, seen.correct, 0.0).all()


def test_in_a_narrow_cone_a_student_that_knows_nothing_fails():
    teacher, student = pool(offset=30.0), pool(seed=1, offset=30.0)
    raw = torch.cosine_similarity(student, teacher)
    assert (raw > 0.99).all()  # which says nothing
    seen = EMBEDDINGS.outcome(student, teacher, reference_of(teacher))
    assert abs(seen.confidence.mean()) < 0.2
    assert seen.confidence.min() < -0.3  # not clamped


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_it_is_computed_in_float32_even_under_an_autocast(dtype):
    teacher, student = pool(), pool(seed=1).to(dtype)
    expected = EMBEDDINGS.outcome(student.float(), teacher, reference_of(teacher))
    with torch.autocast("cpu", torch.bfloat16):
        seen = EMBEDDINGS.outcome(student, teacher, reference_of(teacher))
    assert seen.confidence.dtype == torch.float32
    assert torch.equal(seen.confidence, expected.confidence)


def test_what_is_not_finite_has_no_score():
    teacher = pool(3)
    student = teacher.clone()
    student[0, 2], student[1, 2] = torch.nan, torch.inf
    seen = EMBEDDINGS.outcome(student, teacher, reference_of(pool()))
    assert seen.confidence.isfinite().tolist() == [False, False, True]
    assert EMBEDDINGS.not_finite(student).tolist() == [True, True, False]
    assert fails(seen.confidence, seen.correct, 0.0).tolist() == [True, True, False]


def test_an_embedding_of_zeros_is_finite():
    teacher = pool(2) * 0
    seen = EMBEDDINGS.outcome(teacher, teacher, reference_of(pool()))
    assert seen.confidence.isfinite().all()
    assert EMBEDDINGS.losses(teacher, teacher).isfinite().all()


def test_another_width_names_both():
    with pytest.raises(ModelError, match=r"embeddings of 4 numbers and the teacher of 6"):
        EMBEDDINGS.check(pool(2), np.arange(2), 4)


def test_a_teacher_that_says_one_thing_of_all_is_refused():
    with pytest.raises(TargetsError, match="50 samples one and the same embedding"):
        EMBEDDINGS.reference(torch.ones(50, 6) * 0.3, by_teacher=True)


def test_labels_of_classes_are_none():
    assert EMBEDDINGS.as_labels(torch.zeros(3, dtype=torch.int64)) is None
    assert not EMBEDDINGS.labelled
