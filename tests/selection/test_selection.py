"""Selection in a user's own loop: ids, views, order, misuse, what screening leaves untouched."""

from __future__ import annotations

import math
import random
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from frugalkd import DataLoading, Ledger, Sampling, SelfRegulation, significance_weights
from frugalkd.errors import (
    LedgerError,
    ModelError,
    SelectionMisuse,
    SettingError,
    TargetsError,
    UnsupportedData,
)
from frugalkd.objectives import KD
from frugalkd.policies import All, Plan, Policy
from frugalkd.policies.policy import Ungated
from frugalkd.selection import Selection
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, ModelTeacher, StoredTargets
from toys import (
    Ids,
    IdsAndViews,
    NothingPasses,
    images,
    logits_for,
    net,
    order,
    same_columns,
    same_state,
)


def go_through(
    selection, keep_probability=lambda epoch, batch: False, each=lambda epoch, batch: None
):
    """Train on nothing, but observe; the ids of each epoch."""
    trained = []
    for epoch in selection:
        trained.append([])
        for batch in epoch:
            each(epoch, batch)
            trained[-1] += batch.ids.tolist()
            batch.observe(logits_for(batch, keep_probability(epoch, batch)))
    return trained


def test_the_loop_of_the_docstring_trains_a_student():
    data, student, teacher = images(60, augmented=False), net(1), net(2)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.05)
    kd, progress = KD(), []
    selection = Selection(
        data,
        epochs=6,
        batch_size=16,
        seed=0,
        targets=LiveTeacher(teacher),
        model=student,
        sampling=Sampling(policy=SelfRegulation(confidence=0.9)),
    )
    assert len(selection) == 6
    losses = []
    for epoch in selection:
        steps = len(epoch)
        student.train()
        for batch in epoch:
            x, y = batch.data
            logits = student(x)
            loss = batch.reduce(kd(logits, batch.targets, y))
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            progress.append(batch.progress)
            batch.observe(logits, y)
            steps -= 1
            losses.append(float(loss.detach()))
        assert steps == 0
        assert epoch.finished
    assert progress == sorted(progress)
    assert progress[0] == 0
    assert progress[-1] < 1
    assert losses[-1] < losses[0]
    assert selection.ledger.epochs == 6


def test_a_given_forward_is_used_for_screening():
    calls = []

    def forward(data):
        calls.append(len(data[0]))
        return logits_for_data(data)

    def logits_for_data(data):
        return torch.zeros(len(data[0]), 4)

    selection = Selection(
        Ids([0] * 10),
        epochs=1,
        batch_size=4,
        model=nn.Identity(),
        forward=forward,
        sampling=Sampling(policy=SelfRegulation(when="now")),
    )
    go_through(selection)
    assert calls == [4, 4, 2]


class Dicts(Ids):
    def __getitem__(self, id):
        return {"pixels": torch.tensor([float(id)]), "label": int(self.labels[id])}


class Named(nn.Module):
    def forward(self, pixels):
        return torch.cat([pixels * 0] * 4, dim=1)


@pytest.mark.parametrize("when", ["now", "last-visit"])
def test_batches_may_be_mappings(when):
    seen = []
    selection = Selection(
        Dicts([0, 1, 2, 3] * 5),
        epochs=4,
        batch_size=6,
        model=Named(),
        sampling=Sampling(policy=SelfRegulation(confidence=0.5, when=when, max_skip=1)),
    )
    for epoch in selection:
        for batch in epoch:
            assert batch.data["pixels"][:, 0].tolist() == batch.ids.tolist()
            assert batch.labels.tolist() == (batch.ids % 4).tolist()
            batch.observe(50.0 * nn.functional.one_hot(batch.labels, 4).float())
            seen += batch.ids.tolist()
    assert len(seen) > 20


def tagged(samples):
    """A collate function of the user's."""
    pairs = [(float(x[0]), y) for x, y in samples]
    return {
        "id": torch.tensor([x for x, _ in pairs]),
        "labels": torch.tensor([y for _, y in pairs]),
    }


@pytest.mark.parametrize(
    ("when", "workers"),
    [("now", 0), ("last-visit", 0), pytest.param("last-visit", 1, marks=pytest.mark.slow)],
)
@pytest.mark.heavy
def test_ids_are_right_with_workers_and_a_collate_function(when, workers):
    selection = Selection(
        Ids(np.arange(97) % 4),
        epochs=4,
        batch_size=8,
        seed=3,
        model=nn.Identity(),
        forward=lambda data: torch.zeros(len(data["id"]), 4),
        sampling=Sampling(policy=SelfRegulation(confidence=0.5, when=when, max_skip=1)),
        loading=DataLoading(collate_fn=tagged, num_workers=workers, screen_batch=16),
    )
    rows = 0
    for epoch in selection:
        for batch in epoch:
            assert batch.data["id"].tolist() == batch.ids.tolist()
            assert batch.data["labels"].tolist() == (batch.ids % 4).tolist()
            keep_probability = torch.from_numpy(batch.ids % 3 == 0)
            hits = nn.functional.one_hot(batch.labels, 4)
            batch.observe(50.0 * hits * keep_probability[:, None])
            rows += len(batch.ids)
    selection.source.close()
    assert (selection.meters.phases["wait"] > 0) is (workers > 0)  # loading is metered apart
    assert rows > 97
    if when == "last-visit":  # the passing third is skipped every other epoch
        participations = selection.ledger["participations"]
        assert (participations[np.arange(97) % 3 != 0] == 4).all()
        assert (participations[::3] < 4).all()


@pytest.mark.parametrize("when", ["now", "last-visit"])
def test_a_samples_view_is_its_visit_count(when):
    visits = dict.fromkeys(range(30), 0)

    def check(epoch, batch):
        rows = batch.data[0].tolist()
        assert [id for id, _ in rows] == batch.ids.tolist()
        for id, view in rows:
            assert view == visits[id]

    selection = Selection(
        IdsAndViews(np.arange(30) % 4),
        epochs=8,
        batch_size=4,
        model=nn.Identity(),
        forward=lookup(visits),
        sampling=Sampling(policy=SelfRegulation(confidence=0.2, when=when, max_skip=2)),
    )
    for epoch in selection:
        for batch in epoch:
            check(epoch, batch)
            keep_probability = torch.from_numpy((batch.ids + epoch.index) % 3 == 0)
            batch.observe(
                logits_for(batch) + 50.0 * keep_probability[:, None] * torch.eye(4)[batch.data[1]]
            )
        for id in range(30):
            visits[id] = int(selection.ledger["visits"][id])
    assert min(visits.values()) < max(visits.values()) or when == "now"


def lookup(visits):
    """Screening are of the same view as the training after them; every third sample passes."""

    def forward(data):
        for id, view in data[0].tolist():
            assert view == visits[id]
        wrong = torch.eye(4)[(data[1] + 1) % 4]
        return torch.where((data[0][:, :1] % 3 == 0), 50.0 * torch.eye(4)[data[1]], wrong)

    return forward


def test_the_order_is_of_seed_and_epoch_and_a_subset_keeps_it():
    whole = go_through(Selection(Ids([0] * 50), epochs=3, batch_size=7, seed=5))
    for epoch, ids in enumerate(whole):
        assert ids == order(50, 5, epoch).tolist()
        assert sorted(ids) == list(range(50))
    assert whole[0] != whole[1]
    assert whole[0] != go_through(Selection(Ids([0] * 50), epochs=1, batch_size=7, seed=6))[0]
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)
    weights = (np.arange(50) % 3 > 0).astype(np.float32)
    part = go_through(
        Selection(
            Ids([0] * 50),
            epochs=3,
            batch_size=7,
            seed=5,
            sampling=Sampling(policy=All(), weights=weights),
        )
    )
    for ids, subset in zip(whole, part, strict=True):
        assert subset == [id for id in ids if id % 3]


def test_a_fractional_last_epoch_is_a_random_part():
    selection = Selection(Ids([0] * 40), epochs=2.25, batch_size=8, seed=5)
    progress = []
    trained = go_through(selection, each=lambda _, batch: progress.append(batch.progress))
    assert [len(ids) for ids in trained] == [40, 40, 10]
    assert trained[2] == order(40, 5, 2)[:10].tolist()
    steps = [(e + k / 5) / 2.25 for e in range(2) for k in range(5)]
    assert progress == pytest.approx([*steps, 2 / 2.25, (2 + 0.25 * 0.8) / 2.25])
    assert selection.ledger.epochs == 2.25


@pytest.mark.parametrize("schedule", ["even", "early"])
def test_progress_is_what_is_spent_of_a_budget(schedule):
    policy = SelfRegulation(confidence=0.5, budget=0.4, budget_schedule=schedule, ceiling=None)
    selection = Selection(
        Ids([0, 1, 2, 3] * 10),
        epochs=5,
        batch_size=8,
        model=nn.Identity(),
        forward=lambda data: 50 * torch.eye(4)[data[1] * 0],
        sampling=Sampling(policy=policy),
    )
    found: list[tuple[float, float]] = []

    def note(_, batch):
        found.append((batch.progress, batch.progress_after))

    trained = go_through(selection, each=note)
    total = 0.4 * 40 * 5
    assert sum(map(len, trained)) == total
    steps = [min(8, len(ids) - k) for ids in trained for k in range(0, len(ids), 8)]
    ends = np.cumsum(steps) / total
    assert [before for before, _ in found] == pytest.approx([0.0, *ends[:-1]])
    assert [after for _, after in found] == pytest.approx(ends)
    if schedule == "early":
        assert len(trained[0]) > len(trained[-1])


def test_gate_nows_progress_is_the_rows_read():
    progress = []
    selection = Selection(
        Ids([0, 1] * 10),
        epochs=1,
        batch_size=5,
        model=nn.Identity(),
        forward=lambda data: 50 * torch.eye(4)[data[1] * 0],
        sampling=Sampling(policy=SelfRegulation(confidence=0.5, when="now")),
    )
    go_through(selection, each=lambda _, batch: progress.append(batch.progress))
    assert len(progress) == 2
    assert progress[0] in (0.25, 0.5, 0.75)
    assert progress[1] == 0.75


def test_weights_are_used_as_given_and_their_mean_is_reported():
    weights: Any = np.linspace(0, 2, 20)  # float64: kept as float32
    selection = Selection(
        Ids([0] * 20), epochs=1, batch_size=6, sampling=Sampling(policy=All(), weights=weights)
    )
    for epoch in selection:
        for batch in epoch:
            assert batch.weights.dtype == torch.float32
            assert batch.weights.tolist() == weights.astype(np.float32)[batch.ids].tolist()
            losses = torch.arange(len(batch.ids), dtype=torch.float32)
            expected = sum(w * i for i, w in enumerate(batch.weights.tolist())) / len(batch.ids)
            assert float(batch.reduce(losses)) == pytest.approx(expected)
            batch.observe(logits_for(batch))
        kept = weights[1:]
        assert epoch.summary["mean_weight"] == pytest.approx(kept.mean())
        effective = kept.sum() ** 2 / (kept**2).sum()
        assert epoch.summary["effective_samples"] == pytest.approx(effective)
    assert selection.ledger["visits"].tolist() == [0] + [1] * 19


def mixed_net():
    """BatchNorm, dropout, and submodules in modes of their own; gradients under way."""
    model = net(1)
    model.train()
    model[1].eval()
    model[3].train()
    model(torch.randn(8, 1, 6, 6)).sum().backward()
    return model


class Drawing(nn.Module):
    """Draws numbers even in eval mode."""

    def forward(self, x):
        return x + torch.rand_like(x)


@pytest.mark.parametrize("when", ["now", "last-visit"])
@pytest.mark.parametrize("draws", [False, True])
def test_a_screening_pass_leaves_no_trace(when, draws):
    data, inner = images(40), mixed_net()
    model = nn.Sequential(Drawing(), inner) if draws else inner
    selection = Selection(
        data,
        epochs=8,
        batch_size=8,
        model=model,
        sampling=Sampling(policy=SelfRegulation(confidence=0.2, when=when, max_skip=1)),
        loading=DataLoading(screen_batch=16),
    )

    def state():
        return (
            {k: v.clone() for k, v in model.state_dict().items()},
            {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None},
            [module.training for module in model.modules()],
            [p.requires_grad for p in model.parameters()],
            torch.get_rng_state(),
            str(np.random.get_state(legacy=False)),
            random.getstate(),
            torch.is_grad_enabled(),
        )

    before, screened = state(), 0
    for epoch in selection:
        for batch in epoch:
            batch.observe(logits_for(batch, keep_probability=True))
        screened += epoch.screened
    after = state()
    screened += selection.meters.student_forwards - selection.meters.samples_backpropagated
    assert screened > 40
    for old, new in zip(before[:2], after[:2], strict=True):
        assert old.keys() == new.keys()
        assert all(torch.equal(old[k], new[k]) for k in old)
    assert torch.equal(before[4], after[4])
    assert before[2:4] == after[2:4]
    assert before[5:] == after[5:]


def test_a_failing_screening_pass_restores_the_modes():
    model = nn.Sequential(nn.Linear(3, 3), nn.Dropout())
    selection = Selection(
        Ids([0] * 4),
        epochs=1,
        batch_size=4,
        model=model,
        sampling=Sampling(policy=SelfRegulation(when="now")),
    )
    with pytest.raises(ModelError, match="the model fails on samples"):
        go_through(selection)
    assert model.training
    assert model[1].training
    assert torch.is_grad_enabled()


# What is refused.


def two_epochs(**settings):
    return Selection(Ids(np.arange(20) % 4), epochs=2, batch_size=8, **settings)


@pytest.mark.parametrize("when", ["now", "last-visit"])
def test_a_policy_that_screens_needs_a_model_from_the_start(when):
    with pytest.raises(SelectionMisuse, match="pass model="):
        two_epochs(
            sampling=Sampling(policy=SelfRegulation(when=when)), forward=lambda data: data[0]
        )


class Endless(IterableDataset):
    def __iter__(self):
        yield from ()


def test_data_without_a_gate_are_refused():
    for data, message in (
        (Endless(), "map-style"),
        (TensorDataset(torch.zeros(0, 2)), "empty"),
    ):
        with pytest.raises(UnsupportedData, match=message):
            Selection(data, epochs=1, batch_size=2)
    x = torch.zeros(6, 2)
    for labels, message in (
        (torch.zeros(6, 3), "multi-label"),
        (torch.zeros(6), "regression"),
        (torch.zeros(6, dtype=torch.bool), "bool"),
        (torch.zeros(6, 1, dtype=torch.int64), "class indices .int64. are needed, one a sample"),
    ):
        selection = Selection(TensorDataset(x, labels), epochs=1, batch_size=2)
        batch = next(iter(next(iter(selection))))
        with pytest.raises(UnsupportedData, match=rf"^(?!.*\n).*{message}"):
            batch.observe(torch.zeros(2, 2))
    three = Selection(TensorDataset(x, x, x), epochs=1, batch_size=2)
    with pytest.raises(UnsupportedData, match="a batch of the form"):
        _ = next(iter(next(iter(three)))).labels


def test_data_without_labels_and_without_a_teacher_are_refused():
    class Alone(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, id):
            return torch.zeros(2)

    with pytest.raises(UnsupportedData, match="no labels"):
        _ = next(iter(next(iter(Selection(Alone(), epochs=1, batch_size=2))))).labels


@pytest.mark.parametrize(
    "weights", [np.zeros(20), np.ones(19), np.linspace(-1, 1, 20), np.full(20, math.nan)]
)
def test_impossible_weights_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        two_epochs(sampling=Sampling(policy=All(), weights=weights.astype(np.float32)))


@pytest.mark.parametrize(
    ("weight", "says"),
    [
        (1e30, r"sample 7 weighs 1e\+30: weights must be in \[0, 2\*\*32\]"),
        (5e9, r"sample 7 weighs 5e\+09"),
        (1e39, "sample 7 weighs inf"),
        (math.inf, "sample 7 weighs inf"),
        (math.nan, "sample 7 weighs nan"),
        (-1e-3, r"sample 7 weighs -0\.001"),
        (1e-50, "sample 7 weighs too little for float32"),
    ],
)
def test_a_weight_that_no_training_survives_is_refused(weight, says):
    weights = np.where(np.arange(20) == 7, weight, 1.0)
    with pytest.raises(SettingError, match=f"^weights: {says}"):
        two_epochs(sampling=Sampling(policy=All(), weights=weights))


def test_weights_of_another_order_are_refused():
    with pytest.raises(SettingError, match=r"weights: the largest is 1e-20: nothing would be le"):
        two_epochs(sampling=Sampling(policy=All(), weights=np.full(20, 1e-20)))
    assert len(two_epochs(sampling=Sampling(policy=All(), weights=np.full(20, 4e9))).pool) == 20
    assert (
        len(two_epochs(sampling=Sampling(policy=All(), weights=np.arange(20) % 2 == 0)).pool) == 10
    )


@dataclass(frozen=True)
class Planned(Ungated):
    weight: float = 1.0
    lr_factor: float = 1.0

    def plan(self, ledger, pool, at):
        weights = np.where(pool == 7, np.float32(self.weight), np.float32(1))
        return Plan(pool[::-1].copy(), weights=weights[::-1], lr_factor=self.lr_factor)


@pytest.mark.parametrize("settings", [{"weight": 1e30}, {"lr_factor": -1.0}])
def test_a_plan_that_no_training_survives_is_refused(settings):
    assert next(iter(two_epochs(sampling=Sampling(policy=Planned()))))
    says = r"^Planned\.plan: (sample 7 weighs 1e\+30|lr_factor must be 0 or more, not -1\.0)"
    with pytest.raises(SelectionMisuse, match=says):
        next(iter(two_epochs(sampling=Sampling(policy=Planned(**settings)))))


def test_impossible_sizes_are_refused():
    for epochs, rows in ((0, 1), (1, 0)):
        with pytest.raises(
            ValueError, match=r"batch_size must be 1 or more|epochs must be above 0"
        ):
            Selection(Ids([0]), epochs=epochs, batch_size=rows)


def test_a_state_resumes_where_another_selection_stopped():
    def make():
        return Selection(
            IdsAndViews(np.arange(40) % 4),
            epochs=6,
            batch_size=8,
            seed=2,
            model=nn.Identity(),
            forward=lambda data: 50.0 * torch.eye(4)[data[1]] * (data[0][:, :1] % 2),
            sampling=Sampling(policy=SelfRegulation(confidence=0.5, max_skip=2)),
        )

    def keep_probability(epoch, batch):
        return epoch.index % 2 == 0

    whole = make()
    expected = go_through(whole, keep_probability)
    first, second = make(), make()
    for epoch in first:
        if epoch.index == 3:
            state = first.state_dict()
            break
        for batch in epoch:
            batch.observe(logits_for(batch, keep_probability(epoch, batch)))
    # Epoch 3 was planned (and screened) before the state was taken: the same plans.
    second.load_state_dict(state)
    assert go_through(second, keep_probability) == expected[3:]
    assert same_columns(second.ledger, whole.ledger)
    other = Selection(Ids([0] * 40), epochs=6, batch_size=8, seed=3)
    with pytest.raises(SelectionMisuse, match="another seed"):
        other.load_state_dict(state)


def test_a_state_taken_after_an_epoch_resumes_with_the_next():
    whole = go_through(two_epochs())
    first, second = two_epochs(), two_epochs()
    for epoch in first:
        for batch in epoch:
            batch.observe(logits_for(batch, True))
        state = first.state_dict()
        break
    second.load_state_dict(state)
    assert second.epoch == 1
    assert go_through(second) == whole[1:]
    assert second.ledger.epochs == 2


def test_no_state_is_given_while_a_batch_is_not_observed():
    selection = two_epochs()
    batches = iter(next(iter(selection)))
    next(batches)
    with pytest.raises(SelectionMisuse, match="a step of epoch 0 is under way"):
        selection.state_dict()


@pytest.mark.parametrize("when", ["now", "last-visit"])
@pytest.mark.parametrize("dataset", [Ids, IdsAndViews])
def test_a_state_taken_between_batches_resumes_with_the_next(when, dataset):
    def make():
        return Selection(
            dataset(np.arange(40) % 4),
            epochs=3,
            batch_size=7,
            seed=2,
            model=nn.Identity(),
            forward=lambda data: 50.0 * torch.eye(4)[data[1]] * (data[0][:, :1] % 3 == 0),
            sampling=Sampling(
                policy=SelfRegulation(confidence=0.5, max_skip=2, when=when),
                weights=np.linspace(0, 2, 40, dtype=np.float32),
                dynamics=True,
            ),
        )

    def rest(selection, stop_at=None):
        """(epoch, ids, weights, progress) of the batches to come; the state after some of them."""
        seen = []
        for epoch in selection:
            for batch in epoch:
                batch.observe(logits_for(batch, epoch.index == 0))
                assert batch.data[0][:, 0].tolist() == batch.ids.tolist()
                seen.append((epoch.index, batch.ids.tolist(), batch.weights.tolist(),
                             batch.progress))  # fmt: skip
                if len(seen) == stop_at:
                    return seen, selection.state_dict()
        return seen, None

    undisturbed = make()
    whole, _ = rest(undisturbed)
    assert len({ids for _, batch, _, _ in whole for ids in batch}) < 40
    for stop_at in range(1, len(whole)):
        first, state = rest(make(), stop_at)
        assert state is not None
        again = make()
        again.load_state_dict(state)
        assert first + rest(again)[0] == whole
        assert same_columns(again.ledger, undisturbed.ledger)
        assert again.ledger.epochs == 3


def test_the_model_is_never_called_for_training():
    calls = []
    model = nn.Identity()
    model.register_forward_hook(lambda *_: calls.append(1))
    go_through(two_epochs(model=model))
    assert not calls


def test_a_ledger_of_other_data_is_refused():
    ledger = two_epochs().ledger
    with pytest.raises(LedgerError, match="ledger is of 20 samples, the data have 5"):
        Selection(Ids([0] * 5), epochs=1, batch_size=2, ledger=ledger)
    assert issubclass(SelfRegulation, Policy)
    assert not same_state(net(0), net(1))


@pytest.mark.parametrize("targets", [True, False])
def test_batches_cut_from_blocks_are_those_read_one_at_a_time(targets, tmp_path, monkeypatch):
    data = images(90)
    stored = StoredTargets.fill(net(seed=9), data, tmp_path, views=3)
    ids = np.random.default_rng(0).permutation(90)[:77]
    row_bytes = data.row_bytes + (4 * 4 if targets else 0)

    def read(block_rows):
        monkeypatch.setattr("frugalkd.selection.rows.BLOCK_BYTES", block_rows * row_bytes)
        selection = Selection(data, epochs=2, batch_size=8, targets=stored)
        requested, batches = [], selection.source.batches

        def listen(requests):
            requested.extend(len(ids) for ids, _ in requests)
            return batches(requests)

        selection.source.batches = listen  # pyright: ignore[reportAttributeAccessIssue]
        return requested, list(selection.reader.read(ids, 8, targets=targets))

    (by_batch, singly), (by_block, in_blocks) = read(1), read(35)
    assert by_batch == [8] * 9 + [5]
    assert by_block == [32, 32, 13]
    assert [len(rows.ids) for rows in in_blocks] == [8] * 9 + [5]
    for one, other in zip(singly, in_blocks, strict=True):
        assert np.array_equal(one.ids, other.ids)
        assert np.array_equal(one.views, other.views)
        assert (other.targets is not None) is targets
        torch.testing.assert_close(one[2:], other[2:], rtol=0, atol=0)


def test_a_teacher_is_queried_by_batch_and_once_a_row(tmp_path):
    class Counting(nn.Module):
        def __init__(self):
            super().__init__()
            self.rows = []

        def forward(self, x):
            self.rows.append(len(x))
            return x.flatten(1)[:, :4]

    def queries(targets, when):
        selection = Selection(
            images(60),
            epochs=1,
            batch_size=8,
            targets=targets,
            model=net(),
            sampling=Sampling(policy=NothingPasses(when=when)),
            loading=DataLoading(labels=lambda data: None),
        )
        for epoch in selection:
            for batch in epoch:
                batch.observe(torch.zeros(len(batch.ids), 4))
        return selection.meters.teacher_queries

    for when in ("now", "last-visit"):
        live, visits = Counting(), Counting()
        assert queries(LiveTeacher(live), when) == 60
        assert queries(FirstVisitTargets(visits, images(60), tmp_path / when), when) == 60
        assert live.rows == visits.rows == [8] * 7 + [4]


class DrawingData(Dataset):
    """Draws from all three streams when a sample is read."""

    def __len__(self):
        return 40

    def __getitem__(self, id):
        drawn = [torch.rand(()).item(), np.random.random(), random.random()]
        return torch.tensor(drawn), id % 4


@pytest.mark.heavy
def test_draws_of_workers_are_of_the_seed_and_their_number():
    def drawn(seed, workers):
        selection = Selection(
            DrawingData(),
            epochs=2,
            batch_size=8,
            seed=seed,
            sampling=Sampling(policy=All()),
            loading=DataLoading(num_workers=workers),
        )
        seen = []
        for epoch in selection:
            for batch in epoch:
                seen.append(batch.data[0])
                batch.observe(logits_for(batch), batch.data[1])
        selection.source.close()
        return torch.cat(seen)

    first = drawn(0, 1)
    for column in range(3):
        assert len(first[:, column].unique()) > 70
    assert torch.equal(first, drawn(0, 1))
    for other in (drawn(1, 1), drawn(0, 2)):
        for column in range(3):
            assert not torch.equal(first[:, column], other[:, column])


def test_the_time_of_teacher_and_store_are_metered_apart(tmp_path):
    class Slow(nn.Module):
        def forward(self, x):
            time.sleep(0.02)
            return torch.zeros(len(x), 4)

    for targets, slow in (
        (LiveTeacher(Slow()), True),
        (FirstVisitTargets(Slow(), images(16), tmp_path / "visits"), True),
        (StoredTargets.fill(Slow(), images(16), tmp_path / "ahead"), False),
    ):
        selection = Selection(images(16), epochs=1, batch_size=8, targets=targets)
        for epoch in selection:
            for batch in epoch:
                batch.observe(logits_for(batch))
        phases = selection.meters.phases
        assert phases["teacher"] >= 0.02 if slow else phases["teacher"] == 0
        assert phases["store"] >= 0


class Sure(nn.Module):
    """Knows class 1 everywhere."""

    def forward(self, x):
        return torch.tensor([[0.0, 9.0]]).expand(len(x), 2)


@pytest.mark.parametrize("when", ["now", "last-visit"])
@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_a_gate_that_takes_the_teachers_word_ignores_the_labels(when):
    """The teacher knows class 1 everywhere; so does the model; half of the labels say 0."""
    data = TensorDataset(torch.randn(8, 2), torch.arange(8) % 2)

    def counts(label_source):
        selection = Selection(
            data,
            epochs=1,
            batch_size=4,
            targets=LiveTeacher(Sure()),
            model=nn.Identity(),
            forward=lambda data: torch.tensor([[0.0, 9.0]]).expand(len(data[0]), 2),
            sampling=Sampling(policy=SelfRegulation(when=when, label_source=label_source)),
        )
        for epoch in selection:
            for batch in epoch:
                batch.observe(torch.tensor([[0.0, 9.0]]).expand(len(batch.ids), 2))
        return selection.ledger["participations"].tolist()

    assert counts("teacher") == [0] * 8
    assert counts("label") == [1, 0] * 4


@pytest.mark.parametrize("when", ["now", "last-visit"])
@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_training_dynamics_are_of_the_given_label(when):
    """Whatever the gate goes by: the teacher's word here."""
    data = TensorDataset(torch.randn(8, 2), torch.arange(8) % 2)
    selection = Selection(
        data,
        epochs=1,
        batch_size=4,
        targets=LiveTeacher(Sure()),
        model=Sure(),
        sampling=Sampling(policy=SelfRegulation(when=when, label_source="teacher"), dynamics=True),
    )
    for epoch in selection:
        for batch in epoch:
            batch.observe(torch.tensor([[0.0, 9.0]]).expand(len(batch.ids), 2))
    ledger, own = selection.ledger, 1 / (1 + np.exp([9.0, -9.0] * 4))
    assert ledger.correct.all()
    assert ledger["margin"].tolist() == [-9.0, 9.0] * 4
    np.testing.assert_allclose(ledger["probability"], own, rtol=1e-5)
    assert ledger["other"].tolist() == [1, 0] * 4
    assert ledger["first_learned"].tolist() == [65535, 0] * 4


@pytest.mark.parametrize("logits", [[0.0, -math.inf], [-math.inf, 0.0]])
def test_a_class_that_is_ruled_out_leaves_margins_numbers(logits):
    data = TensorDataset(torch.randn(4, 2), torch.zeros(4, dtype=torch.int64))
    selection = Selection(data, epochs=2, batch_size=4, sampling=Sampling(All(), dynamics=True))
    for epoch in selection:
        for batch in epoch:
            loss = torch.zeros(4)
            batch.observe(torch.tensor([logits]).expand(4, 2), losses=loss)
    assert selection.ledger["margin"].tolist() == [math.copysign(1e6, -logits[1] or logits[0])] * 4


def test_what_lacks_the_columns_of_training_dynamics_is_refused():
    with pytest.raises(LedgerError, match=r"no columns of training dynamics.*dynamics=True"):
        two_epochs(sampling=Sampling(All(), dynamics=True), ledger=Ledger.new(20))
    plain, full = (two_epochs(sampling=Sampling(All(), dynamics=on)) for on in (False, True))
    for one, other in ((plain, full), (full, plain)):
        with pytest.raises(SelectionMisuse, match=r"other ledger columns \(counted.*dynamics"):
            one.load_state_dict(other.state_dict())


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"sampling": Sampling(policy=All())}, "policy"),
        ({"sampling": Sampling(mode="regulated", cost=0.25)}, "cost"),
        ({"sampling": Sampling(mode="regulated", cost=0.5, class_weights=(1.0, 2.0))}, "weights"),
    ],
)
def test_a_state_resumes_the_same_choice_of_samples(change, named):
    data = Pairs(torch.randn(8, 2), torch.arange(8) % 2)
    gate = Sampling(mode="regulated", cost=0.5)
    same: dict[str, Any] = {"epochs": 4, "batch_size": 4, "sampling": gate}
    model = nn.Linear(2, 2)
    state = Selection(data, model=model, **same).state_dict()
    for epochs in (4, 8):  # a training may last longer
        longer: dict[str, Any] = same | {"epochs": epochs}
        Selection(data, model=model, **longer).load_state_dict(state)
    with pytest.raises(SelectionMisuse, match=f"with another .*{named}.*: give"):
        Selection(data, model=model, **same | change).load_state_dict(state)


class Half(ModelTeacher):
    """A quarter for class 0, three for class 1, of every sample, and known beforehand."""

    @property
    def about(self):
        return {}

    def truth(self, labels):
        each = np.array([0.25, 0.75], dtype=np.float32)
        return each[np.ones(8, dtype=int) if labels is None else labels.numpy()]


class Pairs(TensorDataset):
    """Pairs whose labels are listed."""

    @property
    def labels(self):
        return self.tensors[1]


@pytest.mark.parametrize(
    ("data", "label_source", "truth"),
    [
        (Pairs, "label", [0.25, 0.75] * 4),
        (Pairs, "teacher", [0.75] * 8),
        (TensorDataset, "teacher", [0.75] * 8),
        # The labels are read from the items, and the teacher is queried with them.
        (TensorDataset, "label", np.tile(np.exp([-9, 0]) / (1 + np.exp(-9)), 4)),
        (lambda x, y: TensorDataset(x), "label", [0.75] * 8),  # no labels: the top class stands in
    ],
)
def test_a_ceiling_is_of_what_counts_as_right(data, label_source, truth):
    made = data(torch.randn(8, 2), torch.arange(8) % 2)

    selection = Selection(
        made,
        epochs=1,
        batch_size=4,
        targets=Half(Sure()),
        model=nn.Identity(),
        sampling=Sampling(policy=SelfRegulation(ceiling=0.9, label_source=label_source)),
    )
    next(iter(selection))
    assert selection.ledger["teacher_truth"] == pytest.approx(np.array(truth))


@pytest.mark.parametrize("stored", [False, True])
def test_a_ceiling_is_of_the_labels_that_a_loop_reads(stored):
    """Where a loop has labels of its own, the listed ones of the data set do not count."""
    torch.manual_seed(0)
    data, teacher = Pairs(torch.randn(8, 2), torch.arange(8) % 2), nn.Linear(2, 2)
    selection = Selection(
        data,
        epochs=1,
        batch_size=4,
        targets=StoredTargets.fill(teacher, data) if stored else LiveTeacher(teacher),
        model=nn.Identity(),
        sampling=Sampling(policy=SelfRegulation(ceiling=0.9)),
        loading=DataLoading(labels=lambda batch: 1 - batch[1]),
    )
    next(iter(selection))
    expected = teacher(data.tensors[0]).softmax(1)[torch.arange(8), 1 - data.labels]
    assert selection.ledger["teacher_truth"] == pytest.approx(expected.detach().numpy(), abs=1e-3)


def test_a_policy_that_needs_scores_or_a_teacher_says_so():
    data = TensorDataset(torch.randn(8, 2), torch.arange(8) % 2)
    with pytest.raises(TargetsError, match="judges by what the teacher says"):
        Selection(
            data,
            epochs=1,
            batch_size=4,
            model=nn.Identity(),
            sampling=Sampling(policy=SelfRegulation(label_source="teacher")),
        )


def test_a_bare_selection_uses_every_sample():
    selection = Selection(Ids([0] * 9), epochs=1, batch_size=4)
    assert selection.policy == All()
    assert sorted(go_through(selection)[0]) == list(range(9))


def test_a_mode_weighs_by_its_ledger_of_the_same_data():
    data, ledger = images(12), Ledger.new(12)
    ledger["participations"][:] = np.arange(12) % 3
    ledger.epochs = 2
    sampling = Sampling(mode="significance", ledger=ledger)
    selection = Selection(data, epochs=1, batch_size=4, sampling=sampling)
    assert selection.weights is not None
    assert np.array_equal(selection.weights, significance_weights(ledger))
    ledger.about["data"] = "another digest"
    with pytest.raises(LedgerError, match="made on other data"):
        Selection(data, epochs=1, batch_size=4, sampling=sampling)
