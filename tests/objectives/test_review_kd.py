"""Knowledge review against a float64 reference in numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from feature_cases import parts_of, transfer
from objective_cases import agrees

from frugalkd.objectives import ReviewKD, StepFeatures

OBJECTIVE = ReviewKD("a", "b", width=3, soft=2.0)
STUDENT, TEACHER = [(2, 8, 8), (4, 4, 4)], [(5, 8, 8), (6, 2, 2)]


def values(module):
    return [value.detach().numpy() for value in module.parameters()]


def pointwise(kernel, maps):
    return np.einsum("oi,rihw->rohw", kernel[:, :, 0, 0], maps)


def around(kernel, maps):
    """A 3x3 convolution with zeros around."""
    padded = np.pad(maps, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    return np.einsum("oiab,rihwab->rohw", kernel, windows)


def pooled(maps, level):
    side = maps.shape[2] // level
    return maps.reshape(*maps.shape[:2], level, side, level, side).mean(axis=(3, 5))


def distance(student, teacher):
    apart = student - teacher
    terms = [(1.0, apart)]
    for level in (4, 2, 1):
        if level < apart.shape[2]:
            terms.append((terms[-1][0] / 2, pooled(apart, level)))
    whole = sum(weight * (each**2).mean(axis=(1, 2, 3)) for weight, each in terms)
    return whole / sum(weight for weight, _ in terms)


@pytest.mark.parametrize("spread", [0.1, 1.0, 30.0])
def test_it_is_the_formula(spread):
    stream = np.random.default_rng(0)
    student, teacher = (
        [spread * stream.normal(size=(3, *shape)) for shape in shapes]
        for shapes in (STUDENT, TEACHER)
    )
    parts = parts_of(OBJECTIVE, STUDENT, TEACHER)
    first, last = parts
    deep = pointwise(values(last.own)[0], student[1])[:, :, ::2, ::2]  # to the teacher's 2 x 2
    expected = distance(around(values(last.out)[0], deep), teacher[1])
    own = pointwise(values(first.own)[0], student[0])
    deep = deep.repeat(4, axis=2).repeat(4, axis=3)
    kernel, bias = values(first.attention)
    shares = pointwise(kernel, np.concatenate([own, deep], axis=1)) + bias[:, None, None]
    shares = 1 / (1 + np.exp(-shares))
    fused = own * shares[:, :1] + deep * shares[:, 1:]
    expected = expected + distance(around(values(first.out)[0], fused), teacher[0])
    ours, theirs = (tuple(map(torch.from_numpy, each)) for each in (student, teacher))
    seen = StepFeatures(ours, theirs, parts, torch.arange(3))
    agrees(transfer(OBJECTIVE, seen, np.ones(3)), 2.0 * expected)


@pytest.mark.parametrize(("last", "width"), [(48, 48), (700, 512)])
def test_the_width_is_that_of_the_last_feature(last, width):
    """Published: at most 512, and convolutions that keep the variance at first."""
    student, teacher = [(40, 2, 2), (last, 1, 1)], [(32, 2, 2), (30, 1, 1)]
    for fusion in parts_of(ReviewKD("a", "b"), student, teacher):
        assert fusion.own.out_channels == width
        for layer in (fusion.own, fusion.out):
            inputs = layer.weight[0].numel()
            bound = (3 / inputs) ** 0.5
            assert 0.98 * bound < layer.weight.abs().max() <= bound


def test_features_that_are_no_maps_are_refused():
    with pytest.raises(ValueError, match="is not a map"):
        parts_of(OBJECTIVE, [(3,)], [(3,)])
    with pytest.raises(ValueError, match=r"^width must be"):
        ReviewKD("a", "b", width=0)
