"""A selection on several ranks against a recount in plain Python: the same ledger, equal steps."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd import DataLoading, Sampling
from frugalkd.errors import NonFiniteLoss, RankError, SelectionMisuse
from frugalkd.policies import All, RandomSubset, SelfRegulation
from frugalkd.runtime import draws
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher
from ranking import on_ranks
from toys import Ids, check_dynamics

SCREEN, TRAIN = 0, 1
LABEL = 1


@dataclass
class Case:
    """A run whose every logit is written down before: (epochs, kinds, samples, classes)."""

    policy: Any
    samples: int
    epochs: int
    batch: int
    gradient_accumulation_steps: int = 1
    keep_probability: float | None = (
        None  # the chance to pass; None: the upper half of the ids, always
    )
    seed: int = 5
    world: int = 1

    def logits(self):
        stream = np.random.default_rng(3)
        logits = stream.random((self.epochs, 2, self.samples, 4), dtype=np.float32)
        sure = np.arange(self.samples) >= self.samples // 2
        if self.keep_probability is not None:
            sure = stream.random((self.epochs, 2, self.samples)) < self.keep_probability
        logits[..., LABEL] += np.where(sure, 20, 0)
        logits[..., 0] += np.where(sure, 0, 2)
        return logits

    def run(self):
        """What the package does, on this rank."""
        logits = torch.from_numpy(self.logits())

        def forward(data):
            return logits[selection.epoch, SCREEN][data[0][:, 0].long()]

        selection = Selection(
            Ids([LABEL] * self.samples),
            epochs=self.epochs,
            batch_size=self.batch,
            seed=self.seed,
            model=nn.Identity(),
            forward=forward,
            sampling=Sampling(policy=self.policy, dynamics=True),
            loading=DataLoading(
                gradient_accumulation_steps=self.gradient_accumulation_steps, screen_batch=3
            ),
        )
        batches, summaries, progress = [], [], []
        for epoch in selection:
            here = []
            for batch in epoch:
                assert len(batch.ids) == self.batch
                assert batch.data[0][:, 0].long().tolist() == batch.ids.tolist()
                assert batch.step_rows == self.batch * self.gradient_accumulation_steps
                assert batch.begins_step == (len(here) % self.gradient_accumulation_steps == 0)
                assert batch.ends_step == ((len(here) + 1) % self.gradient_accumulation_steps == 0)
                batch.observe(logits[epoch.index, TRAIN][batch.ids], batch.data[1])
                here.append(batch.ids.tolist())
                progress.append(batch.progress)
            assert self.policy.when == "now" or len(epoch) == len(here)
            batches.append(here)
            summaries.append(epoch.summary)
        return batches, summaries, progress, selection.ledger, selection.meters


@dataclass
class Recount:
    """The same with lists and loops; shares only the random draws with the package."""

    case: Case
    world: int
    samples: list[dict[str, Any]] = field(default_factory=list)

    def __post_init__(self):
        new = {
            "visits": 0, "participations": 0, "forced": 0, "streak": 0, "due": 0,
            "last_epoch": 65535, "confidence": math.nan, "loss": math.nan, "flags": 0,
        }  # fmt: skip
        self.samples = [{**new, "outcomes": []} for _ in range(self.case.samples)]
        self.logits = self.case.logits()
        self.rows = self.world * self.case.batch * self.case.gradient_accumulation_steps

    def draw(self, purpose: str, epoch: int, id: int) -> float:
        return float(draws.uniform(self.case.seed, draws.stream(purpose), epoch, [id])[0])

    def judge(self, id: int, epoch: int, kind: int) -> bool:
        sample, logits = self.samples[id], self.logits[epoch, kind, id].astype(np.float64)
        sample["outcomes"].append((epoch, logits))
        odds = np.exp(logits - logits.max())
        confidence = odds.max() / odds.sum()
        correct = int(logits.argmax()) == LABEL
        failed = not (correct and confidence >= self.case.policy.confidence)
        first = sample["last_epoch"] != epoch
        sample["visits"] += first
        streak = max(1, sample["streak"] + first)
        sample["streak"] = 0 if failed else streak
        sample["confidence"], sample["last_epoch"] = confidence, epoch
        first = next(row for seen, row in sample["outcomes"] if seen == epoch)
        sample["flags"] = correct + 2 * (kind == SCREEN) + 4 * (int(first.argmax()) == LABEL)
        skipped = 0 if failed else min(2 ** (streak - 1), self.case.policy.max_skip)
        sample["due"] = epoch + skipped + (kind == TRAIN)
        return failed

    def trained(self, id: int, epoch: int, *, failed: bool, forced: bool) -> None:
        sample, logits = self.samples[id], self.logits[epoch, TRAIN, id].astype(np.float64)
        sample["participations"] += failed and not forced
        sample["forced"] += forced
        sample["loss"] = math.log(np.exp(logits).sum()) - logits[LABEL]

    def last_visit(self, epoch: int) -> tuple[list[int], int]:
        """The ids of an epoch, and how many were deferred."""
        for id, sample in enumerate(self.samples):
            if sample["due"] <= epoch and sample["streak"] > 0:
                self.judge(id, epoch, SCREEN)
        everybody = range(self.case.samples)
        if epoch < self.case.policy.warmup:
            plan, forced = list(everybody), set(everybody)
        else:
            plan = [i for i in everybody if self.samples[i]["due"] <= epoch
                    and self.samples[i]["streak"] == 0]  # fmt: skip
            forced = set()
        lacking = -len(plan) % self.rows
        others = [id for id in everybody if id not in plan]
        asleep = [id for id in others if self.samples[id]["due"] > epoch]
        deferred = 0
        if lacking and (len(plan) < self.rows or len(asleep) >= lacking):
            others = asleep if len(plan) >= self.rows else others
            others.sort(key=lambda id: (self.samples[id]["due"], self.draw("woken", epoch, id)))
            plan += others[:lacking]
            forced |= set(others[:lacking])
        elif lacking:
            plan.sort(key=lambda id: self.priority(epoch, id))
            deferred = len(plan) % self.rows
            plan = plan[: len(plan) - deferred]
        for id in plan:
            self.trained(id, epoch, failed=self.judge(id, epoch, TRAIN), forced=id in forced)
        return plan, deferred

    def priority(self, epoch: int, id: int) -> tuple[float, float]:
        known = self.samples[id]["last_epoch"] != 65535
        confidence = np.float32(self.samples[id]["confidence"]) if known else -1.0
        return float(confidence), self.draw("deferred", epoch, id)

    def now(self, epoch: int) -> tuple[list[int], int]:
        order = draws.order(
            np.arange(self.case.samples), self.case.seed, draws.stream("order"), epoch
        )
        waiting, trained = [], []
        for id in order.tolist():
            if self.judge(id, epoch, SCREEN):
                waiting.append(id)
        while len(waiting) >= self.rows:
            trained += waiting[: self.rows]
            waiting = waiting[self.rows :]
        for id in trained:
            self.trained(id, epoch, failed=True, forced=False)
        return trained, len(waiting)


SKEWED = Case(SelfRegulation(max_skip=4), samples=48, epochs=6, batch=3)
CASES = {
    "skewed": SKEWED,
    "skewed, accumulated": Case(SelfRegulation(warmup=1), 50, 5, 2, gradient_accumulation_steps=2),
    "by chance": Case(SelfRegulation(max_skip=3), 61, 7, 2, keep_probability=0.5),
    "most skipped": Case(SelfRegulation(), 40, 6, 3, keep_probability=0.95),
    "none skipped": Case(SelfRegulation(), 43, 3, 3, keep_probability=0.0),
    "now": Case(SelfRegulation(when="now"), 61, 3, 2, keep_probability=0.5),
    "now, skewed": Case(SelfRegulation(when="now"), 48, 3, 3),
}


def _run_all():
    return {name: case.run() for name, case in CASES.items()}


@pytest.mark.parametrize("world", [2, 3])
@pytest.mark.heavy
def test_the_merged_ledger_is_that_of_a_recount(world):
    found = on_ranks(world, _run_all)
    for name, case in CASES.items():
        ranks = [said[name] for said in found]
        _, summaries, progress, ledger, meters = ranks[0]
        recount = Recount(case, world)
        for epoch in range(case.epochs):
            gate_now = case.policy.when == "now"
            ids, deferred = (recount.now if gate_now else recount.last_visit)(epoch)
            steps = [len(said[0][epoch]) for said in ranks]
            assert len(set(steps)) == 1, f"{name}: unequal steps"
            rows = [row for said in ranks for batch in said[0][epoch] for row in batch]
            assert sorted(rows) == sorted(ids), name
            assert summaries[epoch]["deferred"] == deferred, name
            assert summaries[epoch]["rows"] == len(ids)
            assert summaries[epoch]["steps"] == len(ids) / recount.rows
            if gate_now:  # global batches in the order in which rows failed
                for index in range(steps[0]):
                    batch = [row for said in ranks for row in said[0][epoch][index]]
                    start = index * world * case.batch
                    assert batch == ids[start : start + world * case.batch]
        for column, dtype in (("confidence", np.float32), ("loss", np.float32), (None, None)):
            if column is not None:
                expected = np.array([sample[column] for sample in recount.samples], dtype)
                np.testing.assert_allclose(ledger[column], expected, rtol=2e-5, atol=1e-6)
        exact = ("visits", "participations", "forced", "streak", "flags", "last_epoch", "due")
        for column in exact:
            if column == "due" and case.policy.when == "now":
                continue
            expected = [sample[column] for sample in recount.samples]
            assert ledger[column].tolist() == expected, f"{name}: {column}"
        outcomes = [sample["outcomes"] for sample in recount.samples]
        check_dynamics(ledger, outcomes, [LABEL] * case.samples, case.epochs)
        backpropagated = sum(map(len, (row for said in ranks for e in said[0] for row in e)))
        for _, other_summaries, other_progress, other_ledger, other_meters in ranks[1:]:
            assert other_summaries == summaries
            assert other_progress == progress
            assert all(
                other_ledger[name].tobytes() == ledger[name].tobytes() for name in ledger.columns
            )
            assert other_meters.samples_backpropagated == meters.samples_backpropagated
            assert other_meters.student_forwards == meters.student_forwards
        assert meters.samples_backpropagated == backpropagated


def _ungated():
    case = Case(RandomSubset(fraction=0.1), samples=64, epochs=3, batch=4)
    small = Case(All(), samples=21, epochs=2, batch=3)
    return case.run()[0], small.run()[0], small.run()[1]


@pytest.mark.heavy
def test_ungated_plans_come_out_even_too():
    found = on_ranks(2, _ungated)
    for epoch in range(3):  # a plan of 6 ids is filled up to the 8 of a step
        rows = [row for said in found for batch in said[0][epoch] for row in batch]
        assert len(rows) == len(set(rows)) == 8
    for epoch in range(2):
        rows = [row for said in found for batch in said[1][epoch] for row in batch]
        assert len(rows) == len(set(rows)) == 18
        assert found[0][2][epoch]["deferred"] == 3


def _with_a_ceiling():
    """The probabilities that are known before the first batch, and the teacher's queries."""
    model = nn.Linear(1, 4)
    with torch.no_grad():
        model.weight[:] = torch.arange(4.0)[:, None] / 10
        model.bias[:] = 0
    items: Any = Ids([id % 4 for id in range(15)])
    data: Any = [items[id] for id in range(15)]  # their labels are not listed
    gate = SelfRegulation(ceiling=0.9)
    selection = Selection(
        data, epochs=1, batch_size=2, seed=1, model=model, sampling=Sampling(regulation=gate),
        targets=LiveTeacher(model), loading=DataLoading(screen_batch=3),
    )  # fmt: skip
    next(iter(selection))
    selection.count_together()
    return selection.ledger["teacher_truth"], selection.meters.teacher_queries


def test_ranks_share_the_queries_of_a_ceiling():
    logits = np.outer(np.arange(15), np.arange(4) / 10)
    softmax = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    for truth, queries in on_ranks(2, _with_a_ceiling):
        np.testing.assert_allclose(truth, softmax[np.arange(15), np.arange(15) % 4], rtol=1e-5)
        assert queries == 16, "one of them twice: 15 is not a multiple of 2"


def _go_on(state):
    """Three epochs of which some were gone through already."""
    ids, steps, states = [], 0, []
    selection = Selection(Ids([1] * 30), epochs=3, batch_size=2, seed=1)
    if state is not None:
        selection.load_state_dict(state)
    for epoch in selection:
        for batch in epoch:
            batch.observe(torch.zeros(len(batch.ids), 4))
            ids.append((epoch.index, batch.ids.tolist()))
            steps += 1
            if state is None and steps == 10:
                states.append(selection.state_dict())
        if state is None and not states:
            states.append(selection.state_dict())
    counts = {name: column.tolist() for name, column in selection.ledger.columns.items()}
    return ids, states, counts, selection.meters.samples_backpropagated


@pytest.mark.parametrize("place", [0, 1], ids=["between-epochs", "within-one"])
@pytest.mark.heavy
def test_a_state_resumes_with_the_same_ranks(place):
    whole = on_ranks(2, _go_on, None)
    state = whole[0][1][place]
    rest = on_ranks(2, _go_on, state)
    for rank in range(2):
        assert rest[rank][0] == whole[rank][0][(7, 10)[place] :]
        assert rest[rank][2] == whole[rank][2]


@pytest.mark.parametrize("place", [0, 1], ids=["between-epochs", "within-one"])
def test_a_state_resumes_with_fewer_ranks(place):
    state = on_ranks(2, _go_on, None)[0][1][place]
    with pytest.warns(UserWarning, match="resuming with 1 ranks from a state of 2: the ledger"):
        ids, _, counts, _ = _go_on(state)
    assert counts["visits"] == [3 - (id in _deferred(state)) for id in range(30)]
    assert len([row for epoch, rows in ids if epoch == 2 for row in rows]) == 30


def _deferred(state):
    """Ids that two ranks left out of the epochs before the state: 30 is not a multiple of 4."""
    visits = state["columns"]["visits"].tolist()
    under_way = state["under_way"]
    epochs = state["epoch"] + (under_way is not None)
    planned = set() if under_way is None else set(under_way["ids"].tolist()[under_way["read"] :])
    return [id for id in range(30) if visits[id] + (id in planned) < epochs]


def test_a_state_resumes_with_more_ranks():
    alone = Selection(Ids([1] * 30), epochs=3, batch_size=2, seed=1)
    epoch = next(iter(alone))
    for _, batch in zip(range(4), epoch, strict=False):
        batch.observe(torch.zeros(2, 4))
    found = on_ranks(2, _warned, alone.state_dict())
    first = [row for said in found for index, rows in said[0] for row in rows if index == 0]
    assert len(first) == 20  # 22 were left, and come out even at 20
    assert not set(first) & set(epoch._plan.ids[:8].tolist())
    assert "resuming with 2 ranks from a state of 1" in found[0][1]
    assert found[1][1] == ""  # said once


def _warned(state):
    import warnings

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ids, *_ = _go_on(state)
    return ids, "".join(str(warning.message) for warning in caught)


def _places(state, batch, stop=None):
    """Of each batch its index, the epoch's batches, and whether it ends a step; the steps, and the
    state after ``stop`` batches."""
    loading = DataLoading(gradient_accumulation_steps=2)
    selection = Selection(Ids([1] * 70), epochs=1, batch_size=batch, seed=1, loading=loading)
    if state is not None:
        selection.load_state_dict(state)
    (epoch,), places = [next(iter(selection))], []
    for each in epoch:
        each.observe(torch.zeros(len(each.ids), 4))
        places.append((each.index, len(epoch), each.ends_step))
        if len(places) == stop:
            return places, None, selection.state_dict()
    return places, epoch.summary["steps"], None


@pytest.mark.filterwarnings("ignore:resuming with")
@pytest.mark.parametrize(
    ("batch", "places"),
    [
        (3, [(4, 12), (5, 12), (6, 12), (7, 12), (8, 12), (9, 12), (10, 12), (11, 12)]),
        (7, [(2, 4), (3, 4)]),  # the 20 rows count as one step of 28
    ],
)
@pytest.mark.heavy
def test_batches_are_counted_as_they_come_on_other_ranks(batch, places):
    """70 rows on one rank, of which the first 20 are trained on in 4 batches of 5."""
    state = _places(None, 5, stop=4)[2]
    for found, steps, _ in on_ranks(2, _places, state, batch):
        assert found == [(*place, place[0] % 2 == 1) for place in places]
        assert steps == places[-1][1] / 2
    state = on_ranks(2, _places, None, 5, 2)[0][2]
    found, steps, _ = _places(state, batch)
    assert [index for index, _, _ in found] == list(range(found[0][0], found[-1][1]))
    assert steps == math.ceil(found[-1][1] / 2)
    assert found[-1][2]


def _bad_row():
    selection = Selection(Ids([1] * 32), epochs=1, batch_size=2, seed=1)
    rank = torch.distributed.get_rank()
    try:
        for epoch in selection:
            for number, batch in enumerate(epoch):
                logits = torch.zeros(2, 4)
                if number == 3 and rank == 1:
                    logits[0, 0] = float("nan")
                batch.observe(logits)
    except NonFiniteLoss as error:
        return error.step, error.ids, str(error)
    return None


def test_what_is_not_finite_on_one_rank_ends_all_of_them():
    found = on_ranks(2, _bad_row)
    assert found[0] == found[1]
    assert found[0] is not None
    assert found[0][0] == 3
    assert len(found[0][1]) == 1


def _refused():
    rank = torch.distributed.get_rank()
    of: dict[str, Any] = {"epochs": 1, "batch_size": 4}
    weights = np.where(np.arange(64) == 3 * rank, np.float32(2), np.float32(1))

    def one(**more):
        return Selection(Ids([1] * 64), **{**of, **more})

    return [
        _error(make)
        for make in (
            lambda: Selection(Ids([1] * 7), **of),
            lambda: one(seed=rank),
            lambda: one(sampling=Sampling(policy=All(), weights=weights)),
            lambda: Selection(Ids([1] * 63 + [rank]), **of),
            lambda: Selection(Ids([1] * (64 + rank)), **of),
            lambda: one(targets=LiveTeacher(nn.Linear(1, 2 + rank))),
            lambda: one(batch_size=4 + rank, epochs=2 + rank),
        )
    ]


def _error(make):
    try:
        make()
    except RankError as error:
        return str(error)
    return None


def test_what_ranks_cannot_do_is_refused():
    for said in on_ranks(2, _refused):
        assert said[0].startswith("7 samples are less than a step of 2 ranks with 1 batches of 4")


def test_different_inputs_are_refused_on_all_ranks():
    first, second = on_ranks(2, _refused)
    assert first[1:] == second[1:]
    differing = [
        "seed", "weights", "data", "data", "teacher, teacher's model",
        "epochs, batch_size",
    ]  # fmt: skip
    for said, what in zip(first[1:], differing, strict=True):
        assert said.startswith(f"ranks 0 and 1 differ in {what}: start all of them with the same")


def test_accumulation_is_refused_where_batches_are_gathered():
    policy = SelfRegulation(when="now")
    with pytest.raises(SelectionMisuse, match="gradient_accumulation_steps must be 1 under when"):
        Selection(
            Ids([1] * 8),
            model=nn.Identity(),
            epochs=1,
            batch_size=2,
            sampling=Sampling(policy=policy),
            loading=DataLoading(gradient_accumulation_steps=2),
        )


@pytest.mark.parametrize(
    ("samples", "last"),
    [
        (10, [(2, 4, True, False), (2, 4, False, True)]),
        # One row that is left joins the batch before, in whatever step that is.
        (9, [(3, 3, True, True)]),
        (11, [(2, 5, True, False), (3, 5, False, True)]),
        (13, [(2, 7, True, False), (2, 7, False, False), (3, 7, False, True)]),
    ],
)
def test_an_accumulated_step_is_divided_by_all_its_rows(samples, last):
    selection = Selection(
        Ids([1] * samples),
        epochs=1,
        batch_size=2,
        seed=1,
        loading=DataLoading(gradient_accumulation_steps=3),
    )
    said = []
    for epoch in selection:
        for batch in epoch:
            if not batch.ends_step:
                batch.observe(torch.zeros(len(batch.ids), 4))
                with pytest.raises(SelectionMisuse, match="a step of epoch 0 is under way"):
                    selection.state_dict()
            else:
                batch.observe(torch.zeros(len(batch.ids), 4))
            total = batch.reduce(torch.ones(len(batch.ids))).item() * batch.step_rows
            assert total == pytest.approx(len(batch.ids))
            said.append((len(batch.ids), batch.step_rows, batch.begins_step, batch.ends_step))
    assert said == [(2, 6, True, False), (2, 6, False, False), (2, 6, False, True), *last]
    assert (epoch.summary["steps"], epoch.summary["deferred"], len(epoch)) == (2, 0, len(said))
