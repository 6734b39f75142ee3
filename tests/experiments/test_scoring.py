"""Scores against plain loops on small data, and what they are said to cost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frugalkd.errors import SelectionMisuse, Stopped, UnknownName, UnsupportedData
from frugalkd.experiments.scoring import SCORINGS, ScoringRun, score
from frugalkd.objectives import CrossEntropy
from frugalkd.policies import EL2N, Scoring
from frugalkd.runtime import draws
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Schedule, Training
from tests.toys import images, order
from toys import grouped

SAMPLES, ROWS, LR = 60, 8, 0.3
TRAINING = Training(
    epochs=99,
    batch_size=ROWS,
    optimizer=Optimizer("sgd", lr=LR, momentum=0.0),
    schedule=Schedule("constant"),
)


def make_model(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))


@pytest.fixture(scope="module")
def data():
    stream = torch.Generator().manual_seed(0)
    inputs = torch.randn(SAMPLES, 4, generator=stream)
    labels = (inputs @ torch.randn(4, 3, generator=stream)).argmax(1)
    labels[::7] = (labels[::7] + 1) % 3  # some that are hard to learn
    return TensorDataset(inputs, labels)


def scored(kind, data, epochs=4, seeds=1, **settings):
    settings = {"training": TRAINING, "seed": 3, "device": "cpu"} | settings
    return score(Scoring(kind, epochs, seeds), make_model, data, **settings)


def plain_loop(data, seed, epochs, ids=None):
    """A loop of torch alone: the trained model, and each epoch's verdicts before the steps."""
    model, verdicts = make_model(seed), []
    inputs, labels = data.tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for epoch in range(epochs):
        correct = np.zeros(len(labels), dtype=bool)
        planned = order(SAMPLES if ids is None else ids, seed, epoch)
        for start in range(0, len(planned), ROWS):
            rows = planned[start : start + ROWS]
            logits = model(inputs[rows])
            correct[rows] = (logits.argmax(1) == labels[rows]).numpy()
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits, labels[rows]).backward()
            optimizer.step()
        verdicts.append(correct)
    return model.eval(), verdicts


def seeds_of(count):
    drawn = [draws.hash64(3, draws.stream("scoring"), index)[0] for index in range(count)]
    return [int(seed >> np.uint64(32)) for seed in drawn]


def test_el2n_is_the_mean_error_norm(data):
    inputs, labels = data.tensors
    expected = []
    for seed in seeds_of(2):
        model, _ = plain_loop(data, seed, 4)
        with torch.no_grad():
            errors = torch.softmax(model(inputs), 1) - nn.functional.one_hot(labels, 3)
        expected.append(errors.norm(dim=1).numpy())
    scores, meters = scored("el2n", data, seeds=2)
    assert scores.dtype == np.float32
    assert scores == pytest.approx(np.mean(expected, axis=0), abs=1e-5)
    assert meters.samples_backpropagated == 2 * 4 * SAMPLES
    assert meters.student_forwards == 2 * (4 + 1) * SAMPLES
    assert meters.teacher_queries == 0
    assert meters.wall_seconds > 0
    forward = meters.flops["student_forward"] / meters.student_forwards
    assert meters.flops["student_backward"] / meters.samples_backpropagated > forward > 0


def test_forgetting_counts_flips_from_correct_to_wrong(data):
    epochs, expected = 12, []
    for seed in seeds_of(2):
        _, verdicts = plain_loop(data, seed, epochs)
        flips = []
        for history in np.array(verdicts).T:
            flips.append((history[:-1] & ~history[1:]).sum() if history.any() else epochs)
        expected.append(flips)
    assert len(np.unique(expected)) > 3  # never forgotten, forgotten now and then, never learned
    scores, meters = scored("forgetting", data, epochs=epochs, seeds=2)
    assert scores == pytest.approx(np.mean(expected, axis=0))
    assert meters.student_forwards == meters.samples_backpropagated == 2 * epochs * SAMPLES


def test_holdout_loss_is_of_the_other_half(data):
    inputs, labels = data.tensors
    (seed,) = seeds_of(1)
    first = draws.subset(np.arange(SAMPLES), SAMPLES // 2, seed, draws.stream("holdout"))
    second = np.setdiff1d(np.arange(SAMPLES), first)
    expected = np.zeros(SAMPLES)
    for half, others in ((first, second), (second, first)):
        model, _ = plain_loop(data, seed, 4, half)
        with torch.no_grad():
            losses = nn.functional.cross_entropy(
                model(inputs[others]), labels[others], reduction="none"
            )
        expected[others] = losses.numpy()
    scores, meters = scored("holdout-loss", data)
    assert scores == pytest.approx(expected, abs=1e-4)
    assert meters.samples_backpropagated == 4 * SAMPLES
    assert meters.student_forwards == (4 + 1) * SAMPLES


def test_mislabelled_samples_have_a_high_holdout_loss(data):
    scores, _ = scored("holdout-loss", data, epochs=30)
    wrong = np.arange(SAMPLES) % 7 == 0
    assert np.median(scores[wrong]) > 2 * np.median(scores[~wrong])


@pytest.mark.parametrize("kind", SCORINGS)
def test_same_seed_same_bits_and_streams_restored(data, kind):
    torch.manual_seed(11)
    before = torch.get_rng_state()
    first, _ = scored(kind, data)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(12)
    again, _ = scored(kind, data)
    other, _ = scored(kind, data, seed=4)
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert np.isfinite(first).all()


def test_images_are_scored_without_augmentation():
    data = images(40)
    plain = images(40, augmented=False)

    def make(seed):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 4))

    run = ScoringRun(make, data, Training(epochs=1), "cpu")
    trained = run.train(0)
    with torch.no_grad():
        expected = torch.softmax(trained.model(plain.batch(range(40), [0] * 40)[0]), 1).numpy()
    assert run.predict(trained)[0] == pytest.approx(expected, abs=1e-6)
    assert run.predict(trained, np.array([7, 3]))[0] == pytest.approx(expected[[7, 3]], abs=1e-6)


def test_scores_decide_who_is_distilled(data):
    policy = EL2N(budget=0.25, epochs=2, seeds=1)
    student, settings = make_model(0), {"objective": CrossEntropy(), "device": "cpu"}
    settings |= {"policy": policy, "training": Training(epochs=2)}
    with pytest.raises(SelectionMisuse, match=r"frugalkd\.experiments\.scoring"):
        distill(student, data, **grouped(teacher=None, **settings))
    scores, _ = score(policy.scoring, make_model, data, training=TRAINING, device="cpu")
    run = distill(student, data, **grouped(teacher=None, scores=scores, **settings))
    trained = np.flatnonzero(run.ledger["participations"])
    assert set(trained) == set(np.argsort(-scores)[: SAMPLES // 4])
    assert np.array_equal(run.ledger["score"], scores)
    assert run.meters.samples_backpropagated == 2 * SAMPLES // 4  # its own alone


def test_what_cannot_be_scored_is_one_line(data):
    with pytest.raises(UnknownName, match="el2n"):
        scored("eln2", data)
    with pytest.raises(UnsupportedData, match="labels"):
        scored("el2n", TensorDataset(data.tensors[0]))
    with pytest.raises(UnsupportedData, match="two samples"):
        scored("holdout-loss", TensorDataset(data.tensors[0][:1], data.tensors[1][:1]))
    with pytest.raises(Stopped):
        scored("el2n", data, should_stop=lambda: True)
