"""The model of docs/scaling.md compared with the counts of a training on several ranks."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmarks.timing.scaling import LEDGER_BYTES, Scale, table
from frugalkd import DataLoading, Sampling
from frugalkd.distributed.ranks import Ranks
from frugalkd.policies import RandomSubset, SelfRegulation
from frugalkd.selection import Selection
from ranking import on_ranks
from toys import Ids

SAMPLES, BATCH = 20_000, 50
CONSTANT = 2_000
"""Bytes that ranks exchange in addition to the rows: lengths, sums, and a check of the plans."""


def _counted(policy):
    """Steps, rows, screenings and received bytes per epoch on this rank."""
    received = [0]
    exchange = Ranks._all

    def counting(ranks, values):
        received[0] += values.nbytes * (ranks.world - 1)
        return exchange(ranks, values)

    Ranks._all = counting  # pyright: ignore[reportAttributeAccessIssue]
    selection = Selection(
        Ids([1] * SAMPLES),
        epochs=3,
        batch_size=BATCH,
        model=nn.Identity(),
        forward=lambda data: 50.0 * nn.functional.one_hot((data[0][:, 0] % 2).long(), 4),
        sampling=Sampling(policy=policy),
        loading=DataLoading(screen_batch=2_000),
    )
    found = []
    for epoch in selection:
        steps = 0
        for batch in epoch:
            sure = torch.from_numpy(batch.ids % 4 != 0)
            batch.observe(50.0 * nn.functional.one_hot(sure.long(), 4), batch.data[1])
            steps += 1
        found.append((steps, epoch.summary["rows"], epoch.summary["screened"], received[0]))
        received[0] = 0
    columns = sum(column.nbytes for column in selection.ledger.columns.values())
    return found, columns


def _both():
    return _counted(SelfRegulation()), _counted(RandomSubset(fraction=0.31))


@pytest.mark.heavy
def test_steps_traffic_and_memory_match_the_model():
    (gated, columns), (drawn, _) = on_ranks(2, _both)[0]
    assert columns == SAMPLES * LEDGER_BYTES
    for epoch, (steps, rows, screened, received) in enumerate([*gated, *drawn]):
        active = (1.0, 0.25, 0.25, 0.31, 0.31, 0.31)[epoch]
        if epoch in (1, 2):
            active = rows / SAMPLES  # which samples are reactivated depends on the logits
        scale = Scale(SAMPLES, 2, BATCH, active=active, screened=screened / SAMPLES)
        assert (steps, rows) == (scale.steps, scale.rows)
        assert received == pytest.approx(scale.received_bytes, abs=CONSTANT), epoch


@given(
    st.integers(1, 10**10), st.integers(1, 1024), st.integers(1, 4096), st.integers(1, 8),
    st.floats(0, 1),
)  # fmt: skip
def test_the_rows_of_steps_differ_by_less_than_one(
    samples, ranks, batch, gradient_accumulation_steps, active
):
    if samples < ranks * batch * gradient_accumulation_steps:
        with pytest.raises(ValueError, match="a step has at least one row"):
            Scale(samples, ranks, batch, gradient_accumulation_steps, active)
        return
    scale = Scale(samples, ranks, batch, gradient_accumulation_steps, active)
    planned = round(active * samples)
    assert scale.rows <= samples
    assert abs(scale.steps * scale.step_rows - planned) < scale.step_rows
    assert scale.received_bytes <= samples * 40


def test_shares_outside_0_to_1_are_refused():
    with pytest.raises(ValueError, match="are shares of the samples"):
        Scale(1000, active=1.1)


def test_the_page_contains_the_table():
    page = Path(__file__).parents[2] / "docs" / "scaling.md"
    assert table() in page.read_text()
