"""A sum of objectives is the sum of their losses, whatever they read."""

from __future__ import annotations

import pytest
import torch

from frugalkd.objectives import (
    DIST,
    DKD,
    KD,
    AttentionTransfer,
    CrossEntropy,
    FitNets,
    Ramp,
    Step,
    WeightedSum,
    scheduled,
)
from frugalkd.teachers.encodings import Fidelity
from frugalkd.training.api import distill
from frugalkd.training.settings import Training
from toys import grouped, images, net, same_state

SHORT = Training(epochs=1, batch_size=8)


def step(progress=0.0):
    stream = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 5, 4, generator=stream, dtype=torch.float64)
    weights = torch.rand(5, generator=stream, dtype=torch.float64)
    return Step(logits, targets, torch.arange(5) % 4, weights, progress)


def test_it_is_the_sum():
    whole = WeightedSum((KD(), DIST(), CrossEntropy()), (0.5, 2.0, 1.0))
    parts = [each.losses(step()) for each in whole.objectives]
    expected = 0.5 * parts[0] + 2 * parts[1] + parts[2]
    torch.testing.assert_close(whole.losses(step()), expected, rtol=1e-14, atol=0)
    assert torch.equal(whole(*step()[:4]), whole.losses(step()))
    assert torch.equal(
        WeightedSum((KD(), DIST())).losses(step()), KD().losses(step()) + DIST().losses(step())
    )


def test_weights_and_settings_follow_the_progress():
    cooling = scheduled(KD(), temperature=Ramp(8.0, 2.0))
    whole = WeightedSum((cooling, DIST()), (1.0, Ramp(3.0, 0.0)))
    expected = KD(5.0).losses(step()) + 1.5 * DIST().losses(step())
    torch.testing.assert_close(whole.losses(step(0.5)), expected, rtol=1e-14, atol=0)
    assert whole.at(0.5) == WeightedSum((KD(5.0), DIST()), (1.0, 1.5))
    assert torch.equal(whole.at(0.5)(*step()[:4]), whole.losses(step(0.5)))
    with pytest.raises(ValueError, match=r"call objective\.at\(batch\.progress\)"):
        whole(*step()[:4])


def test_each_term_has_its_own_features_and_adapter():
    """Alone and in the sum a term learns the same, if all the others weigh nothing."""
    hints, attention = FitNets("2", "2", soft=3.0), AttentionTransfer("0", "1", soft=9.0, hard=0.0)
    learn = {"teacher": net(9, width=7), "training": SHORT, "device": "cpu"}
    alone = distill(net(), images(), **grouped(objective=hints, **learn))
    terms = (hints, WeightedSum((KD(), attention)))
    other = distill(net(), images(), **grouped(objective=WeightedSum(terms, (1.0, 0.0)), **learn))
    assert same_state(alone.model, other.model)
    third = distill(net(), images(), **grouped(objective=WeightedSum(terms[::-1]), **learn))
    assert not same_state(alone.model, third.model)


def test_it_says_what_its_terms_need():
    assert not WeightedSum((CrossEntropy(), CrossEntropy(0.1))).needs_targets
    one = WeightedSum((KD(2.0), DKD(2.0), CrossEntropy()))
    assert (one.reads, getattr(one, "temperature")) == (Fidelity.SOFTMAX, 2.0)  # noqa: B009
    two = WeightedSum((KD(2.0), KD(4.0)))
    assert (two.reads, getattr(two, "temperature")) == (Fidelity.DIFFERENCES, None)  # noqa: B009
    assert WeightedSum((KD(), DIST())).mixes_rows
    assert not two.mixes_rows


@pytest.mark.parametrize(
    ("objectives", "weights", "says"),
    [
        ((KD(),), (), "a sum has two terms or more, not 1"),
        ((KD(), DIST()), (1.0,), "1 weights for 2 objectives"),
        ((KD(), DIST()), (1.0, -1.0), "weights must be 0 or more, not -1"),
        ((KD(), DIST()), (1.0, Ramp(1.0, -0.5)), "weights must be 0 or more"),
        ((KD(), DIST()), (1.0, float("nan")), "weights must be "),
        ((KD(), DIST()), (1.0, float("inf")), "weights must be .*inf"),
    ],
)
def test_impossible_sums_are_refused(objectives, weights, says):
    with pytest.raises(ValueError, match=says):
        WeightedSum(objectives, weights)
