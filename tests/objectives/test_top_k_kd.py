"""Distillation on the top classes and the rest against a float64 reference, and from a store."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st
from objective_cases import TEMPERATURES, agrees, cases, few, kl, logs

from frugalkd.objectives import KD, TopKKD
from frugalkd.teachers.encodings import TopK


def top_and_rest(values, top):
    """From logarithms of probabilities; without a rest where all are at the top."""
    rest = [value for at, value in enumerate(values) if at not in top]
    kept = [values[at] for at in top]
    if not rest:
        return kept
    most = max(rest)
    return [*kept, most + math.log(math.fsum(math.exp(value - most) for value in rest))]


@few
@given(case=cases(), temperature=TEMPERATURES, k=st.sampled_from([1, 2, 5, 32]))
def test_it_is_the_formula(case, temperature, k):
    expected = []
    for student, teacher, label in zip(case.logits, case.targets, case.labels, strict=True):
        top = set(np.argsort(-teacher)[:k].tolist())
        pair = (top_and_rest(logs(row, temperature), top) for row in (teacher, student))
        expected.append(0.7 * temperature**2 * kl(*pair) - 0.3 * logs(student)[label])
    agrees(TopKKD(temperature, 0.7, k)(*case.tensors), expected, temperature * 1e3)


def batch():
    stream = torch.Generator().manual_seed(0)
    logits, targets = 3 * torch.randn(2, 6, 9, generator=stream, dtype=torch.float64)
    return logits, targets, torch.arange(6) % 9


def test_it_grows_into_knowledge_distillation():
    logits, targets, labels = batch()
    steps = [TopKKD(k=k)(logits, targets, labels) for k in (1, 3, 8, 9, 500)]
    for fewer, more in pairwise(steps):
        assert (fewer <= more + 1e-12).all()
    for whole in steps[2:]:
        torch.testing.assert_close(whole, KD()(logits, targets, labels))


def test_a_top_k_store_keeps_all_that_it_reads():
    """Stored, it is what it is live, to the rounding of float16; KD is not."""
    logits, targets, labels = batch()
    encoding, ids = TopK(3, 4.0), np.arange(6)
    records = encoding.encode(targets.float().numpy(), ids, ids)
    stored = torch.from_numpy(encoding.decode(records, 9)).double()
    same = [
        loss(logits, stored, labels) - loss(logits, targets, labels) for loss in (TopKKD(k=3), KD())
    ]
    assert same[0].abs().max() < 2e-2
    assert same[1].abs().max() > 0.1
