"""The plan of an epoch, in its order: that of the hashes, with what the policy says of each id."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd import Sampling
from frugalkd.errors import SelectionMisuse
from frugalkd.policies import Plan, SelfRegulation
from frugalkd.policies.policy import Ungated
from frugalkd.runtime import draws
from frugalkd.selection import Selection
from frugalkd.training.api import train_teacher
from frugalkd.training.settings import Optimizer, Training
from toys import Ids, images, logits_for, net


class Said(Ungated):
    """Makes the given plan."""

    def __init__(self, plan):
        self.given = plan

    def plan(self, ledger, pool, at):
        return self.given


@pytest.mark.parametrize("what", ["ids", "weights", "forced", "both"])
@pytest.mark.parametrize("epochs", [2.0, 1.3])
def test_ids_weights_and_forced_stay_together(what, epochs):
    stream = np.random.default_rng(1)
    ids = stream.permutation(90)[:60]
    weights = stream.random(60, dtype=np.float32) if what in ("weights", "both") else None
    forced = stream.random(60) < 0.5 if what in ("forced", "both") else None
    policy = Said(Plan(ids, weights, forced, lr_factor=0.5))
    selection = Selection(
        Ids([0] * 90), epochs=epochs, batch_size=7, seed=4, sampling=Sampling(policy=policy)
    )
    for index, epoch in enumerate(selection):
        key = draws.hash64(4, draws.stream("order"), index, ids)
        by_hash = np.argsort(key, kind="stable")[: 18 if (index, epochs) == (1, 1.3) else 60]
        batches = []
        for batch in epoch:
            batches.append(batch)
            batch.observe(batch.weights[:, None].expand(-1, 2), batch.labels)
        assert np.concatenate([batch.ids for batch in batches]).tolist() == ids[by_hash].tolist()
        expected = np.ones(60, np.float32) if weights is None else weights
        assert np.concatenate([b.weights for b in batches]).tolist() == expected[by_hash].tolist()
        expected = np.zeros(60, bool) if forced is None else forced
        assert np.concatenate([b.forced for b in batches]).tolist() == expected[by_hash].tolist()
        assert epoch.lr_factor == 0.5


def run(what, sure_from, epochs=6.0, **settings):
    """A training in which everybody passes from epoch ``sure_from`` on."""
    policy = SelfRegulation(when_all_skipped=what, **settings)
    screened = []

    def sure(data):
        screened.append(len(data[1]))
        return 50.0 * torch.nn.functional.one_hot(data[1], 4).float()

    selection = Selection(
        images(),
        epochs=epochs,
        batch_size=8,
        model=net(),
        forward=sure,
        sampling=Sampling(policy=policy),
    )
    for epoch in selection:
        for batch in epoch:
            batch.observe(
                logits_for(batch, keep_probability=epoch.index >= sure_from), batch.labels
            )
    return selection, sum(screened)


def test_a_training_stops_once_everybody_has_passed():
    selection, screened = run("stop", sure_from=2)
    # Epoch 2 trains on all samples, and all pass; in epoch 3 no sample is due, for the first skip
    # is one epoch: they are due in epoch 4.
    assert selection.epoch == 3
    assert selection.ledger.epochs == 3
    assert screened == 0
    assert selection.meters.samples_backpropagated == 3 * 37


def test_without_active_samples_all_or_none_are_used():
    waiting, screened = run("wait", sure_from=2)
    assert (waiting.epoch, waiting.ledger.epochs) == (6, 6)
    assert waiting.meters.samples_backpropagated == 3 * 37
    assert screened == 37 * 1  # due in epoch 4, then for two more epochs not
    used, screened = run("all", sure_from=2)
    assert used.ledger.epochs == 6
    forced = used.ledger["forced"]
    assert forced.min() == forced.max() > 0
    assert used.meters.samples_backpropagated == 37 * (3 + forced[0])


def test_a_stopped_training_says_so_and_is_the_shorter_one():
    """Up to the epoch in which it stops, it is the same training."""
    policies = [SelfRegulation(confidence=0.3, when_all_skipped=what) for what in ("stop", "wait")]
    training = Training(epochs=40, batch_size=8, optimizer=Optimizer(lr=0.01))
    data = images(augmented=False)
    stopped, waited = (
        train_teacher(
            net(), data, sampling=Sampling(policy=policy), training=training, device="cpu"
        )
        for policy in policies
    )
    planned = [record["planned"] for record in waited.history]
    assert 0 in planned, "the toy data must be learned"
    first = planned.index(0)
    assert len(stopped.history) == first == stopped.ledger.epochs
    given = [{k: v for k, v in r.items() if k != "wall_seconds"} for r in stopped.history]
    same = [{k: v for k, v in r.items() if k != "wall_seconds"} for r in waited.history[:first]]
    assert given == same


@pytest.mark.parametrize(
    ("plan", "says"),
    [
        (Plan(np.array([3, 1, 3, 5, 5])), "ids name samples 3, 5 twice"),
        (Plan(np.array([3, 90])), "ids reach from 3 to 90, and the data set has 0 .. 89"),
        (Plan(np.array([-1, 2])), "ids reach from -1 to 2"),
        (Plan(np.array([1.0])), "ids must be a numpy array int64"),
        (Plan([1]), "ids must be a numpy array int64"),  # pyright: ignore[reportArgumentType]
        (
            Plan(np.array([1]), weights=np.ones(2, np.float32)),
            "weights are float32 (2,): return a numpy array of 1",
        ),
        (Plan(np.array([1]), forced=np.ones(2, bool)), "forced are bool (2,): return"),
    ],
)
def test_what_a_policy_of_ones_own_gets_wrong_is_named(plan, says):
    selection = Selection(
        Ids([0] * 90), epochs=1, batch_size=7, sampling=Sampling(policy=Said(plan))
    )
    with pytest.raises(SelectionMisuse) as caught:
        next(iter(selection))
    assert str(caught.value).startswith("Said.plan: ")
    assert says in str(caught.value)
