"""Contrastive representation distillation against a float64 reference."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from feature_cases import LABELS, SAMPLES, features, parts_of, seen_of, transfer
from hypothesis import given
from objective_cases import agrees, few

from frugalkd.objectives import CRD

OBJECTIVE = CRD("a", "b", dim=6, negatives=9, temperature=0.3, momentum=0.25, soft=2.0)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def part(anchors, memory, ids, weights, scale):
    """The losses of the rows, and their Z."""
    values = np.exp(np.einsum("rd,rmd->rm", anchors, memory[ids]) / 0.3)
    if scale is None:
        total = math.fsum(weights)
        scale = SAMPLES * (weights @ values.mean(axis=1)) / total if total else 1.0
    values, noise = values / scale, 9 / SAMPLES
    own, others = values[:, 0], values[:, 1:]
    losses = -np.log(own / (own + noise + 1e-7))
    return losses - np.log(noise / (others + noise + 1e-7)).sum(axis=1), scale


@few
@given(case=features())
def test_two_batches_are_the_formula(case):
    """The first decides Z and moves the memory, which the second sees."""
    seen = seen_of(OBJECTIVE, case)
    (memory,) = seen.parts
    vectors = memory.vectors.numpy().copy()
    layers = [
        [value.detach().numpy() for value in (layer.weight, layer.bias)]
        for layer in (memory.student, memory.teacher)
    ]
    given = zip((case.student, case.teacher), layers, strict=True)
    embedded = [unit(rows @ kernel.T + bias) for rows, (kernel, bias) in given]
    known: list[Any] = [None, None]
    own = np.arange(len(case.weights))
    for _ in range(2):
        torch.manual_seed(5)
        losses = transfer(OBJECTIVE, seen, case.weights)
        torch.manual_seed(5)
        ids = np.column_stack([own, memory.others(seen.ids, 9).numpy()])
        expected = 0.0
        for place in (0, 1):
            of_place, scale = part(
                embedded[place], vectors[1 - place], ids, case.weights, known[place]
            )
            expected = expected + 2.0 * of_place
            if case.weights.any():
                known[place] = scale
        agrees(losses, expected)
        for place in (0, 1):
            moved = unit(0.25 * vectors[place][own] + 0.75 * embedded[place])
            weighs = case.weights > 0
            vectors[place][own[weighs]] = moved[weighs]
        np.testing.assert_allclose(memory.vectors.numpy(), vectors, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("labels", [LABELS, LABELS.flip(0) * 7 - 3, None])
def test_the_others_are_evenly_all_of_other_classes(labels):
    (memory,) = parts_of(OBJECTIVE, [(3,)], [(5,)], labels)
    classes = torch.arange(SAMPLES) if labels is None else labels
    ids = torch.tensor([0, 3, 7, 11])
    torch.manual_seed(0)
    drawn = memory.others(ids, 20_000)
    for id, others in zip(ids, drawn, strict=True):
        counts = others.bincount(minlength=SAMPLES)
        apart = classes != classes[id]
        assert counts[~apart].eq(0).all()
        expected = 20_000 / int(apart.sum())
        assert (counts[apart] - expected).abs().max() < 5 * math.sqrt(expected)


def test_classes_of_unequal_size_are_drawn_evenly_too():
    labels = torch.tensor([2] * 9 + [0, 1, 1])
    (memory,) = parts_of(OBJECTIVE, [(3,)], [(5,)], labels)
    torch.manual_seed(0)
    counts = memory.others(torch.tensor([0, 9]), 9000)
    assert set(counts[0].unique().tolist()) == {9, 10, 11}
    assert set(counts[1].unique().tolist()) == {0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 11}


def test_the_memory_is_saved_and_what_labels_say_is_not():
    (memory,) = parts_of(OBJECTIVE, [(3,)], [(5,)])
    linear = {f"{of}.{what}" for of in ("student", "teacher") for what in ("weight", "bias")}
    assert memory.state_dict().keys() == {"vectors", "scales", *linear}
    assert memory.vectors.shape == (2, SAMPLES, 6)


def test_samples_of_one_class_are_refused():
    with pytest.raises(ValueError, match="samples of one class have no others"):
        parts_of(OBJECTIVE, [(3,)], [(5,)], torch.zeros(SAMPLES, dtype=torch.int64))


@pytest.mark.parametrize(
    "settings", [{"negatives": 0}, {"dim": 0}, {"temperature": 0.0}, {"momentum": 1.5}]
)
def test_impossible_settings_are_refused(settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"^{name} must be"):
        CRD("a", "b", **settings)
