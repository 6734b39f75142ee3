"""Ranks: shares, what they exchange, and what they refuse."""

from __future__ import annotations

import os
import threading

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from frugalkd.distributed.ranks import Agreed, Ranks
from frugalkd.errors import RankError
from frugalkd.policies import Plan
from ranking import on_ranks


@given(st.integers(0, 40), st.integers(1, 6))
def test_shares_are_equal_and_hold_every_id(samples, world):
    ids = np.arange(100, 100 + samples)
    shares = [Ranks(rank, world).share(ids) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    together = np.concatenate(shares)
    assert together[:samples].tolist() == ids.tolist()
    assert len(together) < samples + world


def test_parts_of_a_plan_are_cut_from_each_global_batch():
    plan = Plan(np.arange(12), np.arange(12, dtype=np.float32), np.arange(12) % 2 == 0)
    first, second = (Ranks(rank, 2).part_of(plan, 3) for rank in range(2))
    assert first.ids.tolist() == [0, 1, 2, 6, 7, 8]
    assert second.ids.tolist() == [3, 4, 5, 9, 10, 11]
    assert second.weights is not None
    assert second.weights.tolist() == second.ids.tolist()
    assert second.forced is not None
    assert second.forced.tolist() == [False, True, False, False, True, False]
    assert Ranks().part_of(plan, 3) is plan


def test_alone_everything_is_as_it_was():
    ranks, values = Ranks.here(), np.arange(3)
    assert ranks.alone
    assert ranks.first
    assert ranks.gathered(values)[0] is values
    assert ranks.sum(values).tolist() == [0, 1, 2]
    assert Agreed(ranks, lambda: True)()


def _exchange():
    ranks = Ranks.here()
    rank = ranks.rank
    model = nn.BatchNorm1d(2)
    torch.nn.init.constant_(model.weight, float(rank))
    shared = ranks.share_model(model)
    assert model.running_mean is not None
    model.running_mean.fill_(float(rank))
    ranks.share_buffers(model)
    answers = []
    agreed = Agreed(ranks, lambda: rank == 2 and len(answers) == 1)
    while len(answers) < 4:
        answers.append(agreed())
    bad = torch.tensor(float(rank == 1))
    ranks.worst(bad)
    streams = ranks.streams()
    assert streams is not None
    errors = []
    for mine in (np.arange(3), np.arange(3) + (rank == 3)):
        try:
            ranks.check_same("the plan", mine)
            errors.append(None)
        except RankError as error:
            errors.append(str(error))
    return {
        "gathered": ranks.gathered(
            np.arange(rank), np.full((rank, 2), rank, np.float32), np.ones(rank, bool)
        ),
        "empty": ranks.gathered(np.empty(0))[0],
        "sum": ranks.sum([rank, 0.5]),
        "answers": answers,
        "bad": bad.item(),
        "errors": errors,
        "weight": next(shared.parameters()).tolist(),
        "mean": model.running_mean.tolist(),
        "streams": len(streams),
    }


@pytest.mark.heavy
def test_ranks_exchange_all_they_have():
    for said in on_ranks(4, _exchange):
        ids, rows, flags = said["gathered"]
        assert ids.tolist() == [0, 0, 1, 0, 1, 2]
        assert rows.tolist() == [[1, 1], *[[2, 2]] * 2, *[[3, 3]] * 3]
        assert rows.dtype == np.float32
        assert flags.tolist() == [True] * 6
        assert said["empty"].tolist() == []
        assert said["sum"].tolist() == [6, 2]
        assert said["answers"] == [False, False, True, False]  # one call later, on all ranks
        assert said["bad"] == 1
        assert said["errors"][0] is None
        assert said["errors"][1].startswith("ranks 0 and 3 differ in the plan: ")
        assert said["weight"] == [0, 0]  # the first rank's
        assert said["mean"] == [1.5, 1.5]
        assert said["streams"] == 4


def _one_ends():
    """The last rank ends while the first waits for it."""
    ranks = Ranks.here()
    if ranks.rank == 1:
        threading.Timer(0.2, os._exit, (0,)).start()
        return []
    errors = []
    for exchange in (
        lambda: ranks.check_same_inputs(dict), lambda: ranks.from_first(dict), ranks.wait,
        lambda: ranks.gathered(np.arange(2)), ranks.begin_max(1.0),
    ):  # fmt: skip
        try:
            exchange()
        except RankError as error:
            errors.append(str(error))
    return errors


@pytest.mark.heavy
def test_a_rank_that_has_ended_is_a_rank_error_on_the_others():
    errors = on_ranks(2, _one_ends)[0]
    assert len(errors) == 5
    for error in errors:
        assert error.startswith("another rank has failed, and its own error says why: start all")
        assert "\n" not in error
