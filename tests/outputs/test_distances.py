"""Several heads, and whatever else a model gives: the loop says how far each row is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from frugalkd import (
    KD,
    DataLoading,
    LiveTeacher,
    Sampling,
    Selection,
    SelfRegulation,
    Training,
    distill,
)
from frugalkd.errors import SelectionMisuse, SettingError, TargetsError
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Policy
from frugalkd.policies.by_outcome import Kakurenbo

DISTANCES = OUTPUTS["distances"]
ROWS, BATCH, EPOCHS = 40, 8, 6


class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.classes, self.value = nn.Linear(4, 3), nn.Linear(4, 1)

    def forward(self, x):
        return {"class": self.classes(x), "value": self.value(x)[:, 0]}


def rows() -> Any:
    torch.manual_seed(0)
    x = torch.randn(ROWS, 4)
    return [{"x": row, "class": int(row[:3].argmax()), "value": float(row.sum())} for row in x]


def losses_of(given, batch):
    """(rows, heads)."""
    wrong = F.cross_entropy(given["class"], batch["class"], reduction="none")
    return torch.stack([wrong, (given["value"] - batch["value"]).float().square()], dim=1)


def distances_of(given, batch):
    """One minus the probability of the class, and the squared error over the variance, 4."""
    truth = given["class"].softmax(dim=1).gather(1, batch["class"][:, None])[:, 0]
    return torch.stack([1 - truth, (given["value"] - batch["value"]).float().square() / 4], dim=1)


def trained(policy: Policy, data=None, *, stop=None, state=None) -> Any:
    """The selection after its epochs or ``stop`` batches, its model, and the rows of each epoch."""
    torch.manual_seed(1)
    model, data = TwoHeads(), rows() if data is None else data
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    selection = Selection(
        data, epochs=EPOCHS, batch_size=BATCH, model=model, seed=3,
        sampling=Sampling(policy=policy, output="distances"), loading=DataLoading(screen_batch=7),
        forward=lambda batch, targets=None, progress=0.0: distances_of(model(batch["x"]), batch),
    )  # fmt: skip
    if state is not None:
        selection.load_state_dict(state[0])
        model.load_state_dict(state[1])
        optimizer.load_state_dict(state[2])
    used, seen = [], 0
    for epoch in selection:
        used.append([])
        for batch in epoch:
            given = model(batch.data["x"])
            losses = losses_of(given, batch.data).sum(dim=1)
            batch.reduce(losses).backward()
            batch.observe(distances_of(given, batch.data), losses=losses)
            optimizer.step()
            optimizer.zero_grad()
            used[-1] += batch.ids.tolist()
            seen += 1
            if seen == stop:
                states = (selection.state_dict(), model.state_dict(), optimizer.state_dict())
                return states, model, used
    return selection, model, used


def test_the_score_is_the_lowest_of_the_heads():
    given = [[0.1, 0.4], [1.2, 0.0], [float("nan"), 0.0], [-3.0, 0.5], [-1e-7, -1e-7]]
    given = torch.tensor(given, dtype=torch.float64)
    seen = DISTANCES.outcome(given, torch.zeros(5))
    assert seen.confidence[4] == 1
    assert seen.distance[:2].tolist() == pytest.approx([0.4, 1.2])
    assert seen.confidence[:2].tolist() == pytest.approx([0.6, -0.2])
    assert torch.equal(seen.truth[:2], seen.confidence[:2])
    assert seen.correct.tolist() == [True, False, False, False, True]
    assert seen.confidence.isnan().tolist() == [False, False, True, True, False]
    with pytest.raises(TargetsError, match="gives no distances"):
        DISTANCES.from_teacher(given)


def test_a_loop_with_two_heads_agrees_with_a_recount():
    gate = SelfRegulation(confidence=0.7, max_skip=2)
    selection, model, used = trained(gate)
    data = rows()
    torch.manual_seed(1)
    other = TwoHeads()
    optimizer = torch.optim.Adam(other.parameters(), 0.05)
    streak, due = np.zeros(ROWS, int), np.zeros(ROWS, int)

    def worst(ids):
        batch = {name: torch.tensor([data[i][name] for i in ids]) for name in ("class", "value")}
        batch["x"] = torch.stack([data[i]["x"] for i in ids])
        given = other(batch["x"])
        return losses_of(given, batch), distances_of(given, batch).amax(dim=1).detach().numpy()

    def judge(ids, distance, after):
        passed = (1 - distance >= np.float32(0.7)) & (distance < 1)
        for place, ok in zip(ids, passed, strict=True):
            streak[place] = streak[place] + 1 if ok else 0
            due[place] = after + (min(2 ** (streak[place] - 1), 2) if ok else 0)
        return passed

    for number, ids in enumerate(used):
        waiting = np.flatnonzero((streak > 0) & (due <= number))
        if len(waiting):
            with torch.no_grad():
                judge(waiting, worst(waiting)[1], number)
        assert sorted(ids) == np.flatnonzero(due <= number).tolist()
        for start in range(0, len(ids), BATCH):
            batch = ids[start : start + BATCH]
            losses, distance = worst(batch)
            losses.sum(dim=1).mean().backward()
            judge(batch, distance, number + 1)
            optimizer.step()
            optimizer.zero_grad()
    assert len(used[-1]) < ROWS
    for own, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(own, theirs)
    assert selection.ledger["streak"].tolist() == streak.tolist()


def test_a_loop_resumes_bit_for_bit():
    gate = SelfRegulation(confidence=0.7, budget=0.5)
    whole, model, used = trained(gate)
    state, _, before = trained(gate, stop=8)
    resumed, again, after = trained(gate, state=state)
    assert [*before[:-1], before[-1] + after[0], *after[1:]] == used
    assert all(map(torch.equal, model.parameters(), again.parameters()))
    for name, column in whole.ledger.columns.items():
        assert np.array_equal(column, resumed.ledger[name], equal_nan=column.dtype.kind == "f")


def test_a_policy_that_ranks_by_loss_ranks_by_the_distance():
    policy = Kakurenbo(fraction=0.5, confidence=0.0)
    (state, *_), _, _ = trained(policy, stop=ROWS // BATCH)
    distance = 1 - state["columns"]["confidence"].numpy()
    _, _, used = trained(policy)
    hidden = np.setdiff1d(np.arange(ROWS), used[1])
    assert 0 < len(hidden) <= ROWS // 2
    kept = np.setdiff1d(np.flatnonzero(distance < 1), hidden)
    assert distance[hidden].max() <= distance[kept].min()


def test_a_cost_sets_nothing_aside():
    sampling = Sampling(cost=0.5, output="distances")
    assert isinstance(sampling.chosen_policy, SelfRegulation)
    assert sampling.chosen_policy.probe == 0


def test_targets_reach_the_batch_and_the_screening():
    torch.manual_seed(0)
    data, model, teacher = torch.randn(12, 4), nn.Linear(4, 3), nn.Linear(4, 3)
    seen = []

    def forward(x, targets, progress):
        seen.append((targets, teacher(x), progress))
        return (model(x) - targets).square()

    selection = Selection(
        Only(data), epochs=3, batch_size=4, model=model, forward=forward,
        sampling=Sampling(policy=SelfRegulation(confidence=1e-9, max_skip=1), output="distances"),
        targets=LiveTeacher(teacher),
    )  # fmt: skip
    for epoch in selection:
        for batch in epoch:
            distance = (model(batch.data) - batch.targets).square() / 100
            batch.observe(distance)
            with pytest.raises(SelectionMisuse, match=r"read them from batch\.data"):
                _ = batch.labels
    assert seen
    for targets, expected, progress in seen:
        assert torch.allclose(targets, expected)
        assert progress == pytest.approx(2 / 3)


class Only(torch.utils.data.Dataset):
    def __init__(self, rows):
        self.rows = rows

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, id):
        return self.rows[id]


@dataclass(frozen=True)
class Learned(KD):
    output = "distances"


def test_what_is_not_possible_is_refused():
    given: dict[str, Any] = {"sampling": Sampling(output="distances"), "epochs": 1, "batch_size": 4}
    with pytest.raises(SelectionMisuse, match="how to screen distances is not known"):
        Selection(rows(), model=TwoHeads(), **given)
    given["sampling"] = Sampling(policy=SelfRegulation(ceiling=0.9), output="distances")
    with pytest.raises(SelectionMisuse, match="leave it out"):
        Selection(rows(), model=TwoHeads(), **given)
    data = torch.utils.data.TensorDataset(torch.randn(8, 4), torch.arange(8) % 3)
    pair = {"teacher": nn.Linear(4, 3), "training": Training(epochs=1)}
    with pytest.raises(SettingError, match="for a loop of your own"):
        distill(nn.Linear(4, 3), data, **pair, sampling=Sampling(output="distances"))
    with pytest.raises(SettingError, match="for a loop of your own"):
        distill(nn.Linear(4, 3), data, **pair, objective=Learned())


def test_a_trainer_refuses_them():
    pytest.importorskip("lightning", reason="needs the extra lightning")
    from frugalkd.integrations.lightning import FrugalCallback

    with pytest.raises(SettingError, match="for a loop of your own"):
        FrugalCallback(sampling=Sampling(output="distances"))
