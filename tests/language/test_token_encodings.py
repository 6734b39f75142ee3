"""Records of tokens: right in expectation where they say so, and of one size."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from frugalkd.errors import FrugalKDError, TargetsError, UnknownName
from frugalkd.language.encodings import (
    TOKEN_ENCODINGS,
    HeadAndTail,
    SampledTokens,
    TopTokens,
    entropy_of,
    label_logs_of,
    make_token_encoding,
)
from frugalkd.teachers.encodings import Fidelity

UNBIASED = [HeadAndTail(24), SampledTokens(24)]


def through(encoding, logits, views=0, labels=None, first=0):
    """Logits (rows, classes) to records and back."""
    rows = np.arange(first, first + len(logits))
    labels = torch.zeros(len(logits), dtype=torch.int64) if labels is None else labels
    records = encoding.encode(logits, labels, rows, np.full(len(logits), views))
    assert records.dtype == encoding.record(logits.shape[1])
    return records, encoding.decode(records, logits.shape[1])


def drawn(seed, spread, rows=1, classes=40):
    stream = torch.Generator().manual_seed(seed)
    return torch.randn(rows, classes, generator=stream) * spread


def repeated(logits, times=20_000):
    """One row many times, each with another draw."""
    return logits.expand(times, -1)


@pytest.mark.parametrize("classes", [4096, 49_152, 65_536, 65_537, 262_144])
@pytest.mark.parametrize("name", TOKEN_ENCODINGS)
def test_a_record_has_at_most_its_bytes(name, classes):
    for size in (32, 64):
        encoding = make_token_encoding(name, size)
        assert size - 3 <= encoding.record(classes).itemsize <= size
        assert make_token_encoding(**encoding.settings) == encoding
    assert make_token_encoding(name).record(classes).itemsize <= 64


def test_how_many_tokens_a_record_holds():
    assert HeadAndTail().count(49_152) == 19
    assert HeadAndTail().count(151_936) == 14
    assert SampledTokens().count(49_152) == 30


@pytest.mark.parametrize("size", [770, 774, 775, 776, 1024, 4096])
def test_a_head_of_more_than_255_tokens_is_as_exact(size):
    logits = torch.zeros(1, 4096)
    logits[0, :330] = 12 - torch.arange(330) * 0.02
    encoding = HeadAndTail(size)
    records, sparse = through(encoding, logits)
    assert size - 3 <= records.dtype.itemsize <= size
    p = torch.softmax(logits.double(), dim=1)[0]
    kept = sparse.weights[0].double()
    first = min(encoding.count(4096), 330) - 100  # the last ones may weigh tau
    torch.testing.assert_close(kept[:first], p[sparse.classes[0, :first]], rtol=0.15, atol=0)


@settings(max_examples=80, deadline=None)
@given(
    name=st.sampled_from(sorted(TOKEN_ENCODINGS)), seed=st.integers(0, 2**32),
    spread=st.sampled_from([0.0, 0.5, 2.0, 6.0, 40.0, 300.0]), classes=st.integers(31, 90),
)  # fmt: skip
def test_weights_sum_to_one(name, seed, spread, classes):
    logits = drawn(seed, spread, 20, classes)
    _, sparse = through(make_token_encoding(name), logits)
    total = sparse.weights.sum(dim=1) + (0 if sparse.rest is None else sparse.rest)
    torch.testing.assert_close(total, torch.ones(20))
    assert (sparse.weights >= 0).all()
    assert torch.isfinite(sparse.information).all()


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32), classes=st.integers(21, 90),
    spread=st.sampled_from([0.0, 0.5, 2.0, 6.0, 40.0, 300.0]),
)  # fmt: skip
def test_head_and_tail_has_distinct_tokens_with_their_weights(seed, spread, classes):
    logits = drawn(seed, spread, 20, classes)
    encoding = HeadAndTail()
    _, sparse = through(encoding, logits)
    assert all(len(set(row)) == encoding.count(classes) for row in sparse.classes.tolist())
    p = torch.softmax(logits.double(), dim=1).gather(1, sparse.classes)
    floor = sparse.weights.double().amin(dim=1, keepdim=True)
    # Each weighs its probability, or tau, which is larger. The tail gets what rounding the head's
    # probabilities to a byte has left over, too.
    wanted = torch.where(p > floor, p, torch.maximum(p, floor))
    torch.testing.assert_close(sparse.weights.double(), wanted, rtol=0.08, atol=0.03)


@pytest.mark.parametrize("encoding", UNBIASED, ids=lambda each: each.name)
@pytest.mark.parametrize("spread", [0.3, 1.5, 3.0, 8.0])
def test_expectations_are_unbiased(encoding, spread):
    logits = drawn(7, spread)
    _, sparse = through(encoding, repeated(logits))
    p = torch.softmax(logits.double(), dim=1)[0]
    mean = torch.zeros(40, dtype=torch.float64)
    mean.scatter_add_(0, sparse.classes.reshape(-1), sparse.weights.double().reshape(-1))
    mean /= len(sparse)
    # Five deviations of a share that is drawn, and the rounding of what is not.
    assert ((mean - p).abs() <= 5 * (p / len(sparse)).sqrt() * 0.5 + 5e-4 * (p + 0.2)).all()


@pytest.mark.parametrize("spread", [0.3, 1.5, 3.0])
def test_divergence_and_total_variation_are_unbiased(spread):
    teacher, student = drawn(7, spread), drawn(8, 1.0)
    logs, own = torch.log_softmax(student, dim=1), torch.log_softmax(teacher, dim=1)
    _, sparse = through(HeadAndTail(24), repeated(teacher))
    found = sparse.divergence(logs[0][sparse.classes])
    exact = (own.exp() * (own - logs)).sum()
    assert abs(found.mean() - exact) < 5 * found.std() / len(sparse) ** 0.5 + 1e-3
    ratio = (logs - own).exp()[0]
    varied = (sparse.weights * (1 - ratio[sparse.classes]).abs()).sum(dim=1) / 2
    exact = (own.exp() - logs.exp()).abs().sum() / 2
    assert abs(varied.mean() - exact) < 5 * varied.std() / len(sparse) ** 0.5 + 1e-3


@pytest.mark.parametrize("tail", [True, False])
def test_top_k_keeps_the_largest(tail):
    logits = drawn(3, 2.0, 5)
    encoding = TopTokens(24, tail)
    _, sparse = through(encoding, logits)
    p = torch.softmax(logits, dim=1)
    kept = p.topk(encoding.count(40), dim=1)
    assert torch.equal(sparse.classes, kept.indices)
    shares = kept.values if tail else kept.values / kept.values.sum(dim=1, keepdim=True)
    torch.testing.assert_close(sparse.weights, shares, rtol=0.06, atol=0)
    if tail:
        torch.testing.assert_close(sparse.rest, 1 - kept.values.sum(dim=1), rtol=0, atol=0.02)
        logs = torch.log_softmax(logits, dim=1).gather(1, sparse.classes)
        assert (sparse.divergence(logs).abs() < 2e-3).all()


@pytest.mark.parametrize("name", TOKEN_ENCODINGS)
def test_label_and_entropy_are_kept(name):
    logits, labels = drawn(3, 2.0, 6), torch.tensor([0, 39, 4, 4, 5, 6])
    logits[5] = 0.0
    logits[5, 6] = -1e4
    records, _ = through(make_token_encoding(name, 32), logits, labels=labels)
    logs = torch.log_softmax(logits.double(), dim=1)
    wanted = logs.gather(1, labels[:, None])[:, 0].clamp_min(-32)
    assert (label_logs_of(records) - wanted).abs().max() < 1 / 2000
    entropy = torch.distributions.Categorical(logits=logits.double()).entropy()
    assert (entropy_of(records) - entropy).abs().max() < 1 / 2000


@pytest.mark.parametrize("name", TOKEN_ENCODINGS)
def test_a_record_depends_on_its_own_row_alone(name):
    encoding, logits = make_token_encoding(name, 32), drawn(5, 2.0, 6)
    whole, _ = through(encoding, logits)
    alone = [through(encoding, logits[i : i + 1], first=i)[0] for i in range(6)]
    assert np.concatenate(alone).tobytes() == whole.tobytes()
    assert encoding.decode(whole[:0], 40).shape == (0, encoding.count(40))


@pytest.mark.parametrize("encoding", UNBIASED, ids=lambda each: each.name)
def test_rows_and_views_have_other_draws(encoding):
    logits = drawn(5, 0.3)
    first, again, view, row = (
        through(encoding, logits, **given)[0].tobytes()
        for given in ({}, {}, {"views": 1}, {"first": 1})
    )
    assert first == again
    assert len({first, view, row}) == 3


def test_more_tokens_than_two_bytes_can_number():
    logits = torch.zeros(2, 70_000)
    logits[0, [3, 69_999]] = 20.0
    records, sparse = through(HeadAndTail(), logits)
    assert records.dtype.itemsize == 63
    assert sparse.classes[0, :2].tolist() == [3, 69_999]
    assert sparse.classes[1].max() > 1 << 16


def test_a_sure_teacher_has_finite_targets():
    logits = torch.full((1, 40), -2000.0)
    logits[0, 5] = 0.0
    for name in TOKEN_ENCODINGS:
        _, sparse = through(make_token_encoding(name), logits)
        assert sparse.logits(40).softmax(dim=1)[0, 5] == pytest.approx(1.0, abs=1e-5)
        logs = torch.log_softmax(drawn(1, 1.0), dim=1).gather(1, sparse.classes)
        assert sparse.divergence(logs).isfinite().all()


def test_what_each_encoding_keeps():
    keeps = {name: make_token_encoding(name).keeps for name in TOKEN_ENCODINGS}
    assert keeps["head+tail"] == keeps["sampled"] == Fidelity.DRAWS
    assert keeps["top-k"] == keeps["top-k+tail"] == Fidelity.SOFTMAX


@pytest.mark.parametrize("given", [{"name": "top"}, {"name": "top-k", "record_bytes": 0},
                                   {"name": "sampled", "record_bytes": "64"}])  # fmt: skip
def test_impossible_settings_are_refused(given):
    with pytest.raises(FrugalKDError, match=r"^(?!.*\n)"):
        make_token_encoding(**given)
    with pytest.raises(UnknownName, match=r"did you mean top-k"):
        make_token_encoding("topk")


def test_records_that_hold_nothing_or_all_are_refused():
    with pytest.raises(TargetsError, match=r"hold 0 of 40 tokens: give at least 10"):
        HeadAndTail(7).record(40)
    with pytest.raises(TargetsError, match=r"hold 19 of 19 tokens"):
        HeadAndTail(64).record(19)


def test_a_token_that_does_not_exist_is_refused():
    records, _ = through(HeadAndTail(32), drawn(1, 1.0))
    records["classes"][0, 0] = 40
    with pytest.raises(TargetsError, match="names a token beyond the 40 that there are"):
        HeadAndTail(32).decode(records, 40)
