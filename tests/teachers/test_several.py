"""Several teachers as one, against numpy and a plain loop."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax, logsumexp, softmax
from torch import nn

from frugalkd.errors import ModelError, Stopped, TargetsError, UnknownName
from frugalkd.objectives import KD, LogitMSE
from frugalkd.policies import All, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, SeveralTeachers, StoredTargets
from frugalkd.teachers.encodings import Dense, Fidelity, make_encoding
from frugalkd.teachers.several import confidence_shares, mean_of
from frugalkd.training.api import distill
from frugalkd.training.settings import Optimizer, Schedule, Training
from toys import grouped, images, net, order, same_columns, same_state

TRAINING = Training(
    epochs=2,
    batch_size=8,
    optimizer=Optimizer("sgd", lr=0.05),
    schedule=Schedule("constant"),
)
WAYS = {
    "mean": {},
    "weighted": {"weights": [0.2, 0.3, 0.5]},
    "confidence": {},
    "random": {},
}


def teachers(number=3):
    """Nets that have seen something, so that their BatchNorms differ."""
    made = [net(seed=9 + i) for i in range(number)]
    for each in made:
        with torch.no_grad():
            each.train()(images().batch(range(37), [0] * 37)[0])
        each.eval()
    return made


def stored(teacher, data, encoding="float32", **more):
    return StoredTargets.fill(teacher, data, encoding=make_encoding(encoding, 2, 4.0), **more)


def learn(several, *, data=None, policy=None, training=TRAINING, **more):
    return distill(
        net(),
        data or images(),
        **grouped(
            teacher=several, policy=policy or All(), training=training, seed=5, device="cpu", **more
        ),
    )


def plain(loss, teachers, epochs=2):
    """A plain loop; ``loss`` of (student's logits, teachers' logits, labels, epoch, step)."""
    model, data = net(), images()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, nesterov=True)
    torch.manual_seed(5)
    model.train()
    for epoch in range(epochs):
        ids = order(37, 5, epoch)
        for step, start in enumerate(range(0, 37, 8)):
            chunk = ids[start : start + 8]
            x, y = data.batch(chunk, np.full(len(chunk), epoch))
            with torch.no_grad():
                said = [each(x) for each in teachers]
            loss(model(x), said, y, epoch, step).backward()
            optimizer.step()
            optimizer.zero_grad()
    return model


def close(one, other):
    for name, value in one.state_dict().items():
        torch.testing.assert_close(value, other.state_dict()[name], rtol=1e-4, atol=1e-5)


# Their combination.

LOGITS = st.integers(0, 2**32 - 1).map(np.random.default_rng)


@given(LOGITS, st.integers(2, 5), st.integers(1, 6), st.integers(2, 9), st.floats(0.5, 20))
@settings(deadline=None, max_examples=60)
def test_the_combinations_equal_numpys(rng, number, rows, classes, temperature):
    logits = rng.normal(scale=10.0, size=(number, rows, classes))
    weights = rng.dirichlet(np.ones(number))
    labels = rng.integers(classes, size=rows)
    given = [torch.from_numpy(each) for each in logits]
    shares = torch.from_numpy(weights)
    expected = np.einsum("k,krc->rc", weights, logits)
    np.testing.assert_allclose(mean_of(given, shares), expected, rtol=1e-5, atol=1e-5)
    mixed = np.einsum("k,krc->rc", weights, softmax(logits / temperature, axis=2))
    said = mean_of(given, shares, temperature).double().numpy()
    np.testing.assert_allclose(softmax(said / temperature, axis=1), mixed, rtol=1e-4, atol=1e-6)
    losses = -np.take_along_axis(log_softmax(logits, 2), labels[None, :, None], 2)[..., 0]
    by_row = (1 - np.exp(losses - logsumexp(losses, axis=0))) / (number - 1)
    found = confidence_shares(given, torch.from_numpy(labels)).numpy()
    np.testing.assert_allclose(found, by_row, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.sum(axis=0), 1, rtol=1e-5)


def test_of_two_the_shares_follow_the_label_probabilities():
    logits = [torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 1.0]])]
    found = confidence_shares(logits, torch.tensor([0]))
    right = np.array([softmax([2.0, 0.0])[0], softmax([0.0, 1.0])[0]])
    np.testing.assert_allclose(found[:, 0], right / right.sum(), rtol=1e-6)


def test_equal_teachers_are_one_of_them():
    one = torch.randn(5, 4)
    for shares in (torch.full((3,), 1 / 3), confidence_shares([one] * 3, torch.arange(5) % 4)):
        torch.testing.assert_close(mean_of([one] * 3, shares), one)
        said = mean_of([one] * 3, shares, 4.0) / 4
        torch.testing.assert_close(torch.softmax(said, 1), torch.softmax(one / 4, 1))


# A training with them.


@pytest.mark.parametrize("way", ["mean", "weighted"])
def test_a_mean_of_softmaxes_is_the_mean_of_the_losses(way):
    """The gradient of KD against each teacher, averaged in a plain loop."""
    three = teachers()
    shares = WAYS[way].get("weights", [1 / 3] * 3)

    def loss(logits, said, labels, *_):
        each = zip(shares, said, strict=True)
        return sum(share * KD()(logits, one, labels).mean() for share, one in each)

    run = learn(SeveralTeachers(three, way, temperature=4.0, **WAYS[way]))
    close(run.model, plain(loss, three))


def test_confidence_is_a_plain_loops():
    three = teachers()

    def loss(logits, said, labels, *_):
        right = [-torch.log_softmax(one, 1).gather(1, labels[:, None])[:, 0] for one in said]
        shares = (1 - torch.softmax(torch.stack(right), 0)) / 2
        together = (shares[:, :, None] * torch.stack(list(said))).sum(0)
        return KD()(logits, together, labels).mean()

    close(learn(SeveralTeachers(three, "confidence")).model, plain(loss, three))


@pytest.mark.parametrize("weights", [None, [0.6, 0.3, 0.1]])
def test_random_runs_one_teacher_per_step(weights):
    three = teachers()
    several = SeveralTeachers(three, "random", weights=weights, seed=3)
    queries = Counter()

    def loss(logits, said, labels, epoch, step):
        place = list(several.teachers.values()).index(several.drawn(epoch, step))
        queries[f"teacher {place + 1}"] += len(labels)
        return KD()(logits, said[place], labels).mean()

    expected = plain(loss, three, epochs=4)
    run = learn(several, training=replace(TRAINING, epochs=4))
    close(run.model, expected)
    assert run.meters.teacher_queries == 4 * 37
    assert run.meters.queries_of == {f"teacher {i}": queries[f"teacher {i}"] for i in (1, 2, 3)}
    assert len(queries) > 1


def test_random_draws_by_its_weights():
    several = SeveralTeachers(teachers(), "random", weights=[0.6, 0.3, 0.1])
    drawn = Counter(id(several.drawn(epoch, step)) for epoch in range(40) for step in range(50))
    parts = [drawn[id(each)] / 2000 for each in several.teachers.values()]
    np.testing.assert_allclose(parts, [0.6, 0.3, 0.1], atol=0.04)


def test_accumulated_batches_of_a_step_have_one_teacher():
    several = SeveralTeachers(teachers(), "random")
    seen = []
    fetch = several.fetch

    def noting(ids, views, data):
        seen.append(several._step)
        return fetch(ids, views, data)

    several.fetch = noting
    learn(several, training=replace(TRAINING, epochs=1, gradient_accumulation_steps=2))
    assert seen == [(0, 0), (0, 0), (0, 1), (0, 1), (0, 2)]


@pytest.mark.parametrize("way", WAYS)
def test_stored_ones_give_what_live_ones_give(way, tmp_path):
    data, three = images(augmented=False), teachers()
    mixed = {
        "live": LiveTeacher(three[0]),
        "stored": stored(three[1], data),
        "visited": FirstVisitTargets(three[2], data, tmp_path, encoding=Dense("float32")),
    }
    runs = [
        learn(SeveralTeachers(each, way, **WAYS[way]), data=data, policy=SelfRegulation(0.5))
        for each in (three, mixed, [stored(one, data) for one in three])
    ]
    for other in runs[1:]:
        close(runs[0].model, other.model)
        assert (runs[0].ledger["visits"] == other.ledger["visits"]).all()
    rows = runs[0].meters.samples_backpropagated
    assert runs[0].meters.teacher_queries == (rows if way == "random" else 3 * rows)
    assert runs[1].meters.queries_of["stored"] == 0
    assert 0 < runs[1].meters.queries_of["visited"] <= 37
    assert runs[2].meters.teacher_queries == 0
    assert "teacher_forward" not in runs[2].meters.flops
    mixed["visited"].close()


def test_operations_are_counted_of_each_by_its_own():
    small, large = net(seed=1, width=2), net(seed=2, width=16)
    alone = [learn(each).meters.flops["teacher_forward"] for each in (small, large)]
    run = learn([small, large])
    assert run.meters.flops["teacher_forward"] == sum(alone)
    assert run.meters.summary()["queries_of"] == {"teacher 1": 74, "teacher 2": 74}


def test_the_ledger_is_that_of_one_teacher():
    one = teachers(1)[0]
    gate = SelfRegulation(confidence=0.4, when="now")
    single, twice = (learn(each, policy=gate) for each in (one, [one, one]))
    assert same_state(single.model, twice.model)
    assert same_columns(single.ledger, twice.ledger)


@pytest.mark.parametrize("way", WAYS)
def test_a_stopped_training_resumes_bit_for_bit(way, tmp_path, steps_done):
    def run(**more):
        several = SeveralTeachers(teachers(), way, **WAYS[way])
        return learn(several, policy=SelfRegulation(0.4, when="now"), **more)

    whole = run()
    steps_done.clear()
    with pytest.raises(Stopped):
        run(folder=tmp_path, should_stop=lambda: len(steps_done) >= 3)
    resumed = run(folder=tmp_path, resume=True)
    assert same_state(whole.model, resumed.model)
    assert same_columns(whole.ledger, resumed.ledger)
    for name in ("teacher_queries", "queries_of", "flops"):
        assert getattr(whole.meters, name) == getattr(resumed.meters, name)


def test_other_weights_do_not_resume_a_checkpoint(tmp_path):
    def run(weights, **more):
        return learn(SeveralTeachers(teachers(2), "weighted", weights=weights), **more)

    with pytest.raises(Stopped):
        run([0.5, 0.5], folder=tmp_path, should_stop=lambda: True)
    with pytest.raises(Exception, match=r"another training \(other teacher\)"):
        run([0.4, 0.6], folder=tmp_path, resume=True)


def truth(several, labels) -> Any:
    return several.truth(labels)


def test_a_ceiling_uses_their_combination():
    data = images(augmented=False)
    two = [stored(each, data) for each in teachers(2)]
    labels = data.labels
    logits = [each.all_logits().astype(float) for each in two]
    rows = np.arange(37)
    of_mean = softmax((logits[0] + logits[1]) / 2, axis=1)[rows, labels]
    np.testing.assert_allclose(truth(SeveralTeachers(two), labels), of_mean, rtol=1e-4)
    mixed = (softmax(logits[0], axis=1) + softmax(logits[1], axis=1)) / 2
    for several in (SeveralTeachers(two, temperature=4.0), SeveralTeachers(two, "random")):
        np.testing.assert_allclose(truth(several, labels), mixed[rows, labels], rtol=1e-4)
        np.testing.assert_allclose(truth(several, None), mixed.max(axis=1), rtol=1e-4)
    mixed = [two[0], teachers(1)[0]]
    assert SeveralTeachers(mixed).truth(labels) is None, "not known before the teacher has run"
    with pytest.raises(TargetsError, match="a ceiling needs all teachers of a random draw"):
        SeveralTeachers(mixed, "random").truth(labels)
    with pytest.raises(TargetsError, match=r"at temperature 4, .* average their logits"):
        SeveralTeachers(mixed, temperature=4.0).truth(labels)


# What is refused.


def test_what_cannot_be_combined_is_refused_in_one_line(tmp_path):
    data, two = images(augmented=False), teachers(2)
    sampled, top = (stored(two[0], data, name) for name in ("sampled", "top-k"))
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, 7))
    other = StoredTargets.fill(two[0], data, encoding=make_encoding("top-k", 2, 2.0))
    mistyped: Any = "wieghted"
    cases = [
        (TargetsError, "give two or more", lambda: SeveralTeachers(two[:1])),
        (UnknownName, "did you mean.*weighted", lambda: SeveralTeachers(two, mistyped)),
        (TargetsError, "need weights", lambda: SeveralTeachers(two, "weighted")),
        (TargetsError, "no use for weights", lambda: SeveralTeachers(two, weights=[1, 0])),
        (TargetsError, r"0.5, 0.6 sum to 1.1: give shares",
         lambda: SeveralTeachers(two, "weighted", weights=[0.5, 0.6])),
        (TargetsError, "2 teachers and the weights 1: give each",
         lambda: SeveralTeachers(two, "weighted", weights=[1.0])),
        (TargetsError, "must be above 0", lambda: SeveralTeachers(two, "random", weights=[0, 1])),
        (TargetsError, "classes .teacher 1 4, teacher 2 7",
         lambda: learn([two[0], wide], data=data)),
        (TargetsError, "classes .teacher 1 4, teacher 2 7",
         lambda: SeveralTeachers([stored(two[0], data), stored(wide, data)])),
        (TargetsError, "no soft targets|no store", lambda: [two[0], StoredTargets(tmp_path)]),
        (TargetsError, "teacher 2 was stored for one temperature",
         lambda: SeveralTeachers([two[0], sampled])),
        (TargetsError, "which confidence cannot be made of",
         lambda: SeveralTeachers([two[0], top], "confidence", temperature=4.0)),
        (TargetsError, r"teacher 2 \(4\) was stored for another temperature than 2",
         lambda: SeveralTeachers([two[0], top], temperature=2.0)),
        (TargetsError, r"teacher 2 \(2\) was stored for another temperature than 4",
         lambda: SeveralTeachers([top, other], "random")),
        (TargetsError, "stored for temperature 2, the objective's is 4.0",
         lambda: learn(SeveralTeachers(two, temperature=2.0))),
        (TargetsError, "LogitMSE reads the teacher's logits themselves",
         lambda: learn(SeveralTeachers(two, temperature=4.0), objective=LogitMSE())),
        (ModelError, "same object", lambda: distill(two[1], data, teacher=two)),
        (TargetsError, "another data set", lambda: learn([stored(two[0], images(9)), two[1]])),
        (TargetsError, "no features in common",
         lambda: SeveralTeachers(two).feature_shapes(["0"], None)),
    ]  # fmt: skip
    for error, words, make in cases:
        with pytest.raises(error, match=words) as raised:
            make()
        assert "\n" not in str(raised.value)


def test_confidence_needs_labels():
    class Unlabelled(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            return torch.randn(1, 6, 6)

    with pytest.raises(TargetsError, match="needs labels, and these data have none"):
        learn(SeveralTeachers(teachers(2), "confidence"), data=Unlabelled())


def test_sampled_ones_mix_at_their_temperature():
    """Draws are linear in the softmax: their mixture is that of the shares drawn."""
    data, two = images(augmented=False), teachers(2)
    each = [stored(one, data, "sampled") for one in two]
    several = SeveralTeachers(each, temperature=4.0)
    assert several.keeps == Fidelity.DRAWS
    assert not several.knows_top
    ids = np.arange(37)
    x = data.batch(ids, np.zeros(37, int))
    said = several.fetch(ids, np.zeros(37, int), x)
    mixed = sum(torch.softmax(one.fetch(ids, ids * 0, x) / 4, 1) for one in each) / 2
    torch.testing.assert_close(torch.softmax(said / 4, 1), mixed)


def test_views_are_those_that_all_have():
    data = images()
    two = [stored(one, data, views=views) for one, views in zip(teachers(2), (3, 2), strict=True)]
    several = SeveralTeachers([*two, net(seed=4)])
    assert several.views == 2
    seen = Selection(data, epochs=4, batch_size=8, targets=several)
    for epoch in seen:
        for batch in epoch:
            ids, views = batch.ids, np.full(len(batch.ids), epoch.index % 2)
            expected = sum(one.fetch(ids, views, batch.data) for one in several.teachers.values())
            torch.testing.assert_close(batch.targets, expected / 3)
            batch.observe(torch.zeros(len(ids), 4))
