"""Settings that change in the course of a training."""

from __future__ import annotations

import math

import pytest
import torch

from frugalkd.objectives import CRD, DKD, KD, CrossEntropy, FitNets, Ramp, Step, scheduled
from frugalkd.teachers.encodings import Fidelity
from frugalkd.training.api import distill
from frugalkd.training.settings import Training
from toys import grouped, images, net

COOLING = scheduled(KD(alpha=0.5), temperature=Ramp(8.0, 1.0))


def step(progress):
    stream = torch.Generator().manual_seed(0)
    logits, targets = torch.randn(2, 5, 4, generator=stream, dtype=torch.float64)
    return Step(logits, targets, torch.arange(5) % 4, progress=progress)


@pytest.mark.parametrize("progress", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_a_ramp_is_a_line_or_half_a_cosine(progress):
    assert Ramp(8.0, 1.0).at(progress) == pytest.approx(8 - 7 * progress)
    cosine = 4.5 + 3.5 * math.cos(math.pi * progress)
    assert Ramp(8.0, 1.0, "cosine").at(progress) == pytest.approx(cosine)


@pytest.mark.parametrize("epoch", [0, 5, 19, 20, 240])
def test_a_ramp_that_ends_early_is_a_warm_up(epoch):
    """As the authors of DKD and ReviewKD have it: over 20 of 240 epochs."""
    warm = Ramp(0.0, 5.0, until=20 / 240)
    assert warm.at(epoch / 240) == pytest.approx(5 * min(epoch / 20, 1))
    with pytest.raises(ValueError, match=r"until must be in \(0, 1\]"):
        Ramp(0.0, 5.0, until=0.0)


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.99])
def test_a_step_has_the_settings_of_its_progress(progress):
    both = scheduled(KD(), temperature=Ramp(8.0, 1.0), alpha=Ramp(0.0, 1.0, "cosine"))
    alpha = Ramp(0.0, 1.0, "cosine").at(progress)
    plain = KD(8 - 7 * progress, alpha).losses(step(progress))
    torch.testing.assert_close(both.losses(step(progress)), plain, rtol=1e-14, atol=0)


def test_a_training_passes_its_progress():
    data, training = images(augmented=False), Training(epochs=2, batch_size=37)
    learn = {"teacher": net(9), "training": training, "device": "cpu"}
    seen = []

    class Watched(KD):
        def __call__(self, logits, targets, labels):
            seen.append(self.temperature)
            return super().__call__(logits, targets, labels)

    distill(
        net(), data, **grouped(objective=scheduled(Watched(), temperature=Ramp(8.0, 2.0)), **learn)
    )
    assert seen == [8.0, 5.0]  # one step an epoch, at progress 0 and 1/2


def test_a_changing_temperature_needs_targets_of_every_one():
    assert KD().reads < Fidelity.DIFFERENCES
    assert COOLING.reads == Fidelity.DIFFERENCES
    assert getattr(COOLING, "temperature") is None  # noqa: B009
    fading = scheduled(KD(2.0), alpha=Ramp(1.0, 0.0))
    assert (fading.reads, getattr(fading, "temperature")) == (KD().reads, 2.0)  # noqa: B009


def test_a_whole_number_is_scheduled_too():
    cooling = scheduled(KD(temperature=4), temperature=Ramp(8.0, 2.0))
    assert cooling.at(0.5) == KD(5.0)


def test_what_it_says_of_itself_is_the_objectives():
    assert not scheduled(CrossEntropy(), label_smoothing=Ramp(0.1, 0.0)).needs_targets
    hints = scheduled(FitNets("2", "2"), soft=Ramp(100.0, 0.0))
    assert hints.terms == (FitNets("2", "2"),)
    assert not hints.mixes_rows


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: scheduled(KD(), temprature=Ramp(1.0, 2.0)), "no temprature to schedule: did you"),
        (lambda: scheduled(CRD("2", "2"), dim=Ramp(8.0, 4.0)), "no dim to schedule: known are"),
        (lambda: scheduled(COOLING, alpha=Ramp(0.0, 1.0)), "no alpha to schedule"),
        (lambda: scheduled(DKD(), beta=Ramp(8.0, -1.0)), "beta must be 0 or more"),
        (lambda: scheduled(KD(), temperature=Ramp(4.0, 0.0)), "temperature must be positive"),
        (lambda: Ramp(1.0, math.inf), "end must be a finite number"),
        (lambda: COOLING(*step(0.0)[:3]), r"call objective\.at\(batch\.progress\)"),
    ],
)
def test_what_cannot_be_is_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
