"""One loss a token: chunks, accumulation, ranks and masks give the gradient of one big batch."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import parameters_to_vector

from frugalkd.errors import ObjectiveError, SettingError, TargetsError
from frugalkd.language.encodings import HeadAndTail, TopTokens
from frugalkd.language.loss import check_token_objective, token_loss
from frugalkd.language.models import CausalModel
from frugalkd.language.targets import LiveTokens, StoredTokens
from frugalkd.objectives import (
    DIST,
    DKD,
    KD,
    CrossEntropy,
    EmbedDistill,
    FitNets,
    JensenShannon,
    Objective,
    Ramp,
    WeightedSum,
    scheduled,
)

FORWARD = KD(temperature=1.0, alpha=0.7)
OBJECTIVES = [
    CrossEntropy(),
    FORWARD,
    KD(temperature=2.0, alpha=1.0),
    JensenShannon(beta=1.0, temperature=1.0, alpha=1.0),
    JensenShannon(beta=0.3, temperature=2.0, alpha=0.5),
    WeightedSum((KD(1.0, 1.0), CrossEntropy()), (0.5, 0.5)),
]
IDS = np.array([0, 1, 2, 3, 11, 12])
VIEWS = np.zeros(6, np.int64)


@pytest.fixture(scope="module")
def live(teacher, corpus):
    return LiveTokens(copy.deepcopy(teacher).double(), corpus)


@pytest.fixture(scope="module")
def stored(teacher, corpus, tmp_path_factory):
    return StoredTokens.fill(teacher, corpus, tmp_path_factory.mktemp("store") / "s")


@pytest.fixture
def double(student):
    """A student in float64, with a head of its own and a bias."""
    student = student.double()
    student.lm_head = nn.Linear(16, 304, dtype=torch.float64)
    return student


def gradient(student):
    found = parameters_to_vector([p.grad for p in student.parameters()])
    student.zero_grad()
    return found


def loss_of(student, corpus, targets, objective, ids: Any = IDS, **given):
    parts, data = CausalModel(student, corpus.vocabulary), corpus.batch(ids, ids * 0)
    found = None if targets is None else targets.fetch(ids, ids * 0, data)
    total = corpus.row_counts(IDS).sum()
    return token_loss(
        parts, parts.states(data), parts.labels(data), found, objective,
        **{"tokens": total, "chunk": 50, **given},
    )  # fmt: skip


def plainly(student, corpus, teacher, objective, weights):
    """All logits at once, by autograd alone."""
    data = corpus.batch(IDS, VIEWS)
    inputs = {name: data[name] for name in ("input_ids", "position_ids")}
    learned = data["labels"][:, 1:] != -100
    logits = student(**inputs).logits[:, :-1][learned][:, :300]
    with torch.no_grad():
        theirs = teacher(**inputs).logits[:, :-1][learned][:, :300]
    losses = objective(logits, theirs, data["labels"][:, 1:][learned])
    return (weights * losses).sum() / learned.sum()


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_chunks_are_the_batch(corpus, live, double, objective):
    weights = torch.rand(
        int(corpus.row_counts(IDS).sum()), generator=torch.Generator().manual_seed(0)
    )
    given = {"weights": weights.double()}
    wanted = plainly(double, corpus, live.model.model, objective, weights)
    wanted.backward()
    exact = gradient(double)
    for chunk in (7, 50, 10_000):
        found = loss_of(double, corpus, live, objective, chunk=chunk, **given)
        assert found.loss.item() == pytest.approx(wanted.item(), rel=1e-12)
        (2 * found.loss).backward()
        torch.testing.assert_close(gradient(double), 2 * exact, rtol=1e-9, atol=1e-12)
        assert found.losses.shape == weights.shape
        assert not found.losses.requires_grad


@pytest.mark.parametrize("kind", ["live", "stored"])
@pytest.mark.parametrize("parts", [[6], [1, 2, 3], [1] * 6, [0, 5, 1]])
def test_accumulation_and_ranks_do_not_change_the_gradient(
    corpus, live, stored, double, kind, parts
):
    """Each part is a batch of its own, with padding, masks and counts of its own; a rank's
    gradient is the sum of its parts'."""
    targets = live if kind == "live" else stored
    weights = torch.rand(6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    counts = torch.from_numpy(corpus.row_counts(IDS))
    assert len(set(counts.tolist())) > 1
    given = {"weights": weights.repeat_interleave(counts)}
    loss_of(double, corpus, targets, FORWARD, **given).loss.backward()
    whole = gradient(double)
    start = 0
    for count in parts:
        ids = IDS[start : start + count]
        start += count
        if count:
            own = slice(start - count, start)
            mine = {"weights": weights[own].repeat_interleave(counts[own])}
            loss_of(double, corpus, targets, FORWARD, ids, **mine).loss.backward()
    error = (gradient(double) - whole).norm() / whole.norm()
    assert error < 1e-6


def test_a_weight_of_zero_is_a_token_that_is_not_there(corpus, live, double):
    weights = torch.ones(int(corpus.row_counts(IDS).sum()), dtype=torch.float64)
    first = corpus.row_counts(IDS[:2]).sum()
    weights[first:] = 0.0
    loss_of(double, corpus, live, FORWARD, weights=weights).loss.backward()
    one = gradient(double)
    loss_of(double, corpus, live, FORWARD, IDS[:2]).loss.backward()
    torch.testing.assert_close(one, gradient(double), rtol=1e-9, atol=1e-12)


def test_stored_divergence_is_near_the_live_one(corpus, live, stored, double):
    """In the mean of many rows: the store keeps draws."""
    one, other = (
        loss_of(double, corpus, targets, KD(1.0, 1.0)).losses for targets in (live, stored)
    )
    assert (one != other).all()
    assert abs((one - other).mean()) < 5 * (one - other).std() / len(one) ** 0.5


def test_bfloat16_has_losses_in_float32(corpus, live, student):
    student = student.bfloat16()
    found = loss_of(student, corpus, live, FORWARD)
    assert found.losses.dtype == found.loss.dtype == torch.float32
    found.loss.backward()
    assert all(p.grad.dtype == torch.bfloat16 for p in student.parameters())


def test_without_gradients_none_are_computed(corpus, live, student, monkeypatch):
    monkeypatch.setattr(torch.autograd, "grad", None)
    with torch.no_grad():
        assert not loss_of(student, corpus, live, FORWARD).loss.requires_grad


def test_a_frozen_head_gets_no_gradient(corpus, live, double):
    double.lm_head.requires_grad_(False)
    loss_of(double, corpus, live, FORWARD).loss.backward()
    assert double.lm_head.weight.grad is None
    assert double.model.embed_tokens.weight.grad.norm() > 0


def test_the_logits_of_all_rows_never_exist(corpus, live, student, monkeypatch):
    shapes = []
    monkeypatch.setattr(F, "linear", lambda *given, inner=F.linear: noted(inner(*given), shapes))
    loss_of(student, corpus, live, FORWARD, chunk=16).loss.backward()
    wide = [shape[0] for shape in shapes if shape[-1] == 300]
    assert len(wide) > 20
    assert max(wide) == 16 < corpus.row_counts(IDS).sum()


def noted(output, shapes):
    shapes.append(output.shape)
    return output


def test_a_batch_without_rows_has_no_loss(corpus, student):
    parts = CausalModel(student, 300)
    states = torch.zeros(0, 16, requires_grad=True)
    found = token_loss(
        parts, states, torch.zeros(0, dtype=torch.long), None, CrossEntropy(), tokens=0
    )
    assert found.loss.item() == 0.0
    found.loss.backward()


@dataclass(frozen=True)
class Mean(Objective):
    def __call__(self, logits, targets, labels):
        return F.cross_entropy(logits, labels)


@dataclass(frozen=True)
class Failing(Objective):
    def __call__(self, logits, targets, labels):
        raise ValueError("no")


@pytest.mark.parametrize(
    ("objective", "error", "says"),
    [
        (Mean(), ObjectiveError, r"Mean gives .* for 50 rows: give one loss a row"),
        (Failing(), ObjectiveError, r"Failing fails on logits \(50, 300\) \(ValueError: no\)"),
    ],
)
def test_objectives_that_fail_are_named(corpus, live, student, objective, error, says):
    with pytest.raises(error, match=says):
        loss_of(student, corpus, live, objective)


def test_as_many_weights_as_rows_are_needed(corpus, live, student):
    with pytest.raises(SettingError, match=r"3 weights for \d+ rows"):
        loss_of(student, corpus, live, FORWARD, weights=torch.ones(3))


@pytest.mark.parametrize(
    ("objective", "kind", "says"),
    [
        (KD(1.0), "none", "KD needs a teacher"),
        (KD(4.0), "stored", "at temperature 1, and KD has 4.0"),
        (scheduled(KD(1.0), temperature=Ramp(4.0, 1.0)), "stored", "run the teacher live"),
        (
            JensenShannon(temperature=1.0),
            "stored",
            "fill one by top-k.tail, which is biased, or run",
        ),
        (DKD(temperature=1.0), "stored", "DKD reads more"),
        (DIST(), "live", "depends on features or on other tokens"),
        (FitNets("a", "b"), "live", "depends on features"),
        (WeightedSum((KD(1.0), DIST())), "live", "depends on features"),
        (EmbedDistill(), "live", "EmbedDistill learns embeddings, and a token is a class"),
    ],
    ids=str,
)
def test_objectives_that_do_not_fit_are_refused(live, stored, objective, kind, says):
    targets = {"live": live, "stored": stored, "none": None}[kind]
    with pytest.raises((SettingError, TargetsError), match=rf"^(?!.*\n).*{says}"):
        check_token_objective(objective, targets)


def test_objectives_that_fit(live, stored, teacher, corpus, tmp_path, double):
    for objective in OBJECTIVES:
        check_token_objective(objective, live)
    check_token_objective(FORWARD, stored)
    check_token_objective(CrossEntropy(), None)
    top = StoredTokens.fill(teacher, corpus, tmp_path / "t", encoding=TopTokens())
    jsd = JensenShannon(beta=0.5, temperature=1.0, alpha=1.0)
    check_token_objective(jsd, top)
    one, other = (loss_of(double, corpus, targets, jsd).losses for targets in (live, top))
    assert (one - other).abs().max() < one.mean()
    assert HeadAndTail().keeps < jsd.reads
