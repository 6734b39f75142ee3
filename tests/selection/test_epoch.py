"""An epoch and its batches: each observed once, with its own rows, or refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from frugalkd import DataLoading, Sampling
from frugalkd.errors import FrugalKDError, FrugalKDWarning, NonFiniteLoss, SelectionMisuse
from frugalkd.policies import All, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.selection._epoch import CHECK_EVERY
from toys import Ids, logits_for, same_columns


def two_epochs(**settings):
    return Selection(Ids(np.arange(20) % 4), epochs=2, batch_size=8, **settings)


def test_an_unobserved_batch_is_refused_the_last_one_too():
    def leave_out(epoch, skipped):
        for step, batch in enumerate(epoch):
            if step != skipped:
                batch.observe(logits_for(batch))

    for skipped in (0, 2):
        selection = two_epochs()
        with pytest.raises(SelectionMisuse, match=rf"step {skipped} was not observed"):
            leave_out(next(iter(selection)), skipped)
        assert selection.ledger.epochs == 0


def test_a_batch_observed_twice_is_refused():
    batch = next(iter(next(iter(two_epochs()))))
    batch.observe(logits_for(batch))
    with pytest.raises(SelectionMisuse, match="already"):
        batch.observe(logits_for(batch))


@pytest.mark.parametrize("shape", [(7, 4), (9, 4), (8,), (8, 4, 1)])
def test_wrong_rows_are_refused(shape):
    batch = next(iter(next(iter(two_epochs()))))
    with pytest.raises(SelectionMisuse, match="for 8 rows"):
        batch.observe(torch.zeros(shape))


@pytest.mark.parametrize("shape", [(), (1,), (7,), (8, 4)])
def test_losses_reduced_already_are_refused(shape):
    batch = next(iter(next(iter(two_epochs()))))
    with pytest.raises(SelectionMisuse, match="one loss a row"):
        batch.reduce(torch.zeros(shape))


@pytest.mark.parametrize("argument", ["labels", "losses"])
def test_labels_and_losses_of_other_rows_are_refused(argument):
    batch = next(iter(next(iter(two_epochs()))))
    wrong: Any = {argument: torch.zeros(3, dtype=torch.int64)}
    with pytest.raises(SelectionMisuse, match="8 rows"):
        batch.observe(logits_for(batch), **wrong)


def test_an_epoch_left_early_is_refused():
    def leave():
        for epoch in two_epochs():
            for batch in epoch:
                batch.observe(logits_for(batch))
                break

    with pytest.raises(SelectionMisuse, match="epoch 0 was left before its last batch"):
        leave()


def test_an_epoch_runs_once():
    epoch = next(iter(two_epochs()))
    for batch in epoch:
        batch.observe(logits_for(batch))
    with pytest.raises(SelectionMisuse, match="runs once"):
        next(iter(epoch))


@pytest.mark.parametrize("bad_step", [0, 49, 50, 120])
def test_a_loss_that_is_not_finite_is_found_at_the_next_reading(bad_step):
    observed = []

    def train(epoch):
        for step, batch in enumerate(epoch):
            losses = torch.zeros(2)
            losses[1] = torch.inf if step == bad_step else 0.0
            observed.append(batch.ids)
            batch.observe(logits_for(batch), losses=losses)

    with pytest.raises(NonFiniteLoss) as raised:
        train(next(iter(Selection(Ids([0] * 300), epochs=1, batch_size=2))))
    bad = int(observed[bad_step][1])
    assert (raised.value.epoch, raised.value.step, raised.value.ids) == (0, bad_step, [bad])
    assert len(observed) == min(150, (bad_step // CHECK_EVERY + 1) * CHECK_EVERY)
    assert isinstance(raised.value, FrugalKDError)


def observed_later(keep, later, monkeypatch, spoil=False):
    """A ledger of one epoch whose batches are judged later or not; the most memory kept."""
    monkeypatch.setattr("frugalkd.selection.observer.KEEP_LOGITS", keep)
    selection = Selection(Ids(np.arange(500) % 4), epochs=1, batch_size=8)
    largest = 0
    for epoch in selection:
        for batch in epoch:
            stream = torch.Generator().manual_seed(int(batch.ids[0]))
            logits = torch.randn(8, 4, generator=stream)[: len(batch.ids)]
            batch.observe(logits, later=later)
            if spoil:
                logits.zero_()
            kept = {
                t.untyped_storage().data_ptr(): t for pair in epoch._observer._logits for t in pair
            }
            largest = max(largest, sum(t.untyped_storage().nbytes() for t in kept.values()))
    return selection.ledger, largest


@pytest.mark.parametrize("keep", [1, 100, 1 << 22])
def test_judging_later_changes_nothing_and_keeps_its_bound(keep, monkeypatch):
    at_once, nothing = observed_later(keep, False, monkeypatch)
    later, kept = observed_later(keep, True, monkeypatch)
    assert same_columns(at_once, later)
    assert (later["visits"] == 1).all()
    assert nothing == 0
    # Four logits and a label of 8 bytes a row.
    assert kept <= keep // 4 * (16 + 8) + 16 * 8
    assert (kept > 1000) is (keep == 1 << 22)


def test_what_was_observed_may_be_written_to_afterwards(monkeypatch):
    left_alone, _ = observed_later(1 << 22, False, monkeypatch)
    spoiled, _ = observed_later(1 << 22, False, monkeypatch, spoil=True)
    assert same_columns(left_alone, spoiled)


def test_half_precision_losses_are_summed_in_full():
    batch = next(iter(next(iter(two_epochs()))))
    losses = torch.tensor([1.0, *[2**-8] * 7], dtype=torch.bfloat16)
    assert float(batch.reduce(losses)) == (1 + 7 * 2**-8) / 8
    batch.weights = torch.full((8,), 2.0)
    assert float(batch.reduce(losses)) == (1 + 7 * 2**-8) / 4


def test_weights_of_one_are_made_when_they_are_read():
    batch = next(iter(next(iter(two_epochs()))))
    losses = torch.arange(8.0)
    assert float(batch.reduce(losses)) == 3.5
    assert batch.weights.tolist() == [1.0] * 8
    assert float(batch.reduce(losses)) == 3.5


def test_batches_of_one_step_share_its_rows():
    """Gradients of 8 + 8 + 4 rows that are accumulated weigh each row by 1 / 20."""
    losses = torch.rand(20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights = np.linspace(0.5, 1.5, 20, dtype=np.float32)
    for given in (None, weights):
        total = torch.zeros((), dtype=torch.float64)
        for batch in next(iter(two_epochs(sampling=Sampling(policy=All(), weights=given)))):
            assert batch.weighted == (given is not None)
            total += batch.reduce(losses[batch.ids], rows=20)
            batch.observe(logits_for(batch))
        expected = losses if given is None else losses * torch.from_numpy(given)
        assert float(total) == pytest.approx(float(expected.mean()), rel=1e-12)


def batches_of(selection, keep_probability=lambda epoch: False):
    """Ids of each epoch's batches, and its summary."""
    for epoch in selection:
        batches = []
        for batch in epoch:
            assert len(batch.data[0]) == len(batch.ids) == len(batch.labels) == batch.step_rows
            batches.append(batch.ids.tolist())
            batch.observe(logits_for(batch, keep_probability=keep_probability(epoch.index)))
        yield batches, epoch


@pytest.mark.parametrize(
    ("samples", "size", "drop_last", "rows", "deferred"),
    [
        (17, 8, False, [8, 9], 0),
        (18, 8, False, [8, 8, 2], 0),
        (16, 8, False, [8, 8], 0),
        (17, 8, True, [8, 8], 1),
        (9, 8, False, [9], 0),
        (3, 2, False, [3], 0),
        (3, 1, False, [1, 1, 1], 0),  # batches of one row were requested
        (1, 8, False, [1], 0),  # all that there is
    ],
)
@pytest.mark.parametrize("policy", [All(), SelfRegulation(when="now")], ids=["planned", "now"])
def test_no_batch_is_of_one_row_by_chance(samples, size, drop_last, rows, deferred, policy):
    selection = Selection(
        Ids(np.arange(samples) % 4),
        epochs=2,
        batch_size=size,
        model=torch.nn.Identity(),
        forward=lambda data: torch.zeros(len(data[0]), 4),
        sampling=Sampling(policy=policy),
        loading=DataLoading(drop_last=drop_last),
    )
    seen = []
    for batches, epoch in batches_of(selection):
        assert list(map(len, batches)) == rows
        assert len(epoch) == len(rows)
        assert epoch.summary["deferred"] == deferred
        assert (epoch.summary["rows"], epoch.summary["steps"]) == (sum(rows), len(rows))
        seen.append([id for batch in batches for id in batch])
    assert len(seen) == 2
    assert drop_last or sorted(seen[0]) == sorted(seen[1]) == list(range(samples))


@pytest.mark.parametrize("when", ["now", "last-visit"])
def test_a_lone_row_is_joined_by_a_forced_one(when):
    """Where nothing trains nothing changes, and it would wait for ever."""
    labels = np.arange(20) % 4

    def forward(data):
        logits = 50.0 * torch.nn.functional.one_hot(data[1], 4).float()
        logits[data[0][:, 0] == 7] = 0.0
        return logits

    selection = Selection(
        Ids(labels),
        epochs=5,
        batch_size=8,
        seed=1,
        model=torch.nn.Identity(),
        forward=forward,
        sampling=Sampling(policy=SelfRegulation(when=when)),
    )
    for epoch in selection:
        rows = 0
        for batch in epoch:
            rows += len(batch.ids)
            batch.observe(forward(batch.data), batch.labels)
        if when == "now" or epoch.index:
            assert rows == 2
            assert (epoch.counts["participations"], epoch.counts["forced"]) == (1, 1)
            assert epoch.counts["deferred"] == 0
    assert selection.ledger["participations"][7] == 5
    assert selection.ledger["participations"].sum() == 5
    assert selection.ledger["forced"].sum() == (5 if when == "now" else 4)


def test_a_row_left_by_gate_now_is_deferred_and_counted():
    """Of 20 rows the first 8 fail, which are a batch; and one of the others."""
    first = next(batches_of(Selection(Ids([1] * 20), epochs=1, batch_size=8, seed=1)))[0]
    failing = torch.tensor([*first[0], first[1][2]])

    def forward(data):
        passes = torch.isin(data[0][:, 0], failing, invert=True)
        return 50.0 * torch.nn.functional.one_hot(data[1], 4).float() * passes[:, None]

    selection = Selection(
        Ids([1] * 20),
        epochs=1,
        batch_size=8,
        seed=1,
        model=torch.nn.Identity(),
        forward=forward,
        sampling=Sampling(policy=SelfRegulation(when="now")),
    )
    (batches, epoch), *rest = batches_of(selection)
    assert not rest
    assert batches == [first[0]]
    assert epoch.counts == {"participations": 8, "idle": 0, "forced": 0, "deferred": 1}
    assert selection.ledger["due"][first[1][2]] == 0


@pytest.mark.parametrize("policy", [All(), SelfRegulation(when="now")], ids=["planned", "now"])
def test_a_training_without_a_step_is_no_silent_one(policy):
    selection = Selection(
        Ids([0]), epochs=2, batch_size=8, model=torch.nn.Identity(),
        forward=lambda data: torch.zeros(len(data[0]), 4), sampling=Sampling(policy=policy),
        loading=DataLoading(drop_last=True),
    )  # fmt: skip
    with pytest.warns(FrugalKDWarning, match="nothing was trained"):
        assert [epoch.summary["deferred"] for _, epoch in batches_of(selection)] == [1, 1]


def test_a_resumed_selection_counts_what_was_trained():
    def made():
        return Selection(Ids([k % 4 for k in range(33)]), epochs=4, batch_size=8)

    whole, first = made(), made()
    list(batches_of(whole))
    for _, epoch in batches_of(first):
        if epoch.index == 1:
            break
    (resumed := made()).load_state_dict(first.state_dict())
    assert [epoch.index for _, epoch in batches_of(resumed)] == [2, 3]
    assert (resumed.budget, resumed.cost) == (whole.budget, whole.cost) == (1, 1)


def test_an_old_state_with_one_row_left_drops_it():
    """Checkpoints of earlier versions, whose last batch was of that row."""
    selection = Selection(Ids([1] * 33), epochs=2, batch_size=16, seed=1)
    batch = next(iter(next(iter(selection))))
    batch.observe(logits_for(batch))
    state = selection.state_dict()
    state["under_way"] |= {"read": 32, "rows": 32}
    resumed = Selection(Ids([1] * 33), epochs=2, batch_size=16, seed=1)
    resumed.load_state_dict(state)
    epochs = list(batches_of(resumed))
    assert [list(map(len, batches)) for batches, _ in epochs] == [[], [16, 17]]
    assert [epoch.counts["deferred"] for _, epoch in epochs] == [1, 0]
