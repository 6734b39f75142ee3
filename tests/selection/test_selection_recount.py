"""Gate, counts, weights and plans against a recount in plain Python over whole runs."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from frugalkd import DataLoading, Sampling
from frugalkd.errors import NonFiniteLoss
from frugalkd.policies import All, RandomSubset, SelfRegulation
from frugalkd.runtime import draws
from frugalkd.selection import Selection
from toys import Ids, check_dynamics

CLASSES = 4
SCREEN, TRAIN = 0, 1
# Equal logits give exactly 0.25, a pair beside two of -200 exactly 0.5: p == tau can be met.
GRID = np.array([0.0, 1.0, 3.0, -200.0])


@dataclass
class Case:
    policy: Any
    samples: int
    epochs: float
    batch: int
    drop_last: bool
    weighted: bool
    seed: int
    script: int

    def __post_init__(self):
        stream = np.random.default_rng(self.script)
        shape = (math.ceil(self.epochs), 2, self.samples, CLASSES)
        self.logits = stream.choice(GRID, size=shape, p=[0.3, 0.2, 0.3, 0.2]).astype(np.float32)
        # A few rows that tie completely, or in pairs.
        self.logits[stream.random(shape[:3]) < 0.15] = 1.0
        pairs = stream.random(shape[:3]) < 0.15
        self.logits[pairs] = np.array([3.0, -200.0, 3.0, -200.0], np.float32)
        self.labels = stream.integers(CLASSES, size=self.samples)
        self.weights = None
        if self.weighted:
            self.weights = stream.choice([0.0, 0.5, 1.0, 2.0], size=self.samples)
            self.weights[stream.integers(self.samples)] = 1.0
            self.weights = self.weights.astype(np.float32)

    def run(self):
        """What the package does: its ledger, each epoch's batches of trained ids, its counts."""

        def forward(data):
            return torch.from_numpy(self.logits[selection.epoch, SCREEN][ids_of(data)])

        selection = Selection(
            Ids(self.labels),
            epochs=self.epochs,
            batch_size=self.batch,
            seed=self.seed,
            model=nn.Identity(),
            forward=forward,
            sampling=Sampling(policy=self.policy, weights=self.weights, dynamics=True),
            loading=DataLoading(drop_last=self.drop_last, screen_batch=3),
        )
        trained, counts, weights = [], [], []
        for epoch in selection:
            rows = []
            for batch in epoch:
                assert ids_of(batch.data).tolist() == batch.ids.tolist()
                assert len(batch.ids) == self.batch or not self.drop_last
                assert len(batch.ids) > 1 or self.batch == 1 or len(selection.pool) == 1
                assert batch.step_rows == len(batch.ids)
                logits = torch.from_numpy(self.logits[epoch.index, TRAIN][batch.ids])
                batch.observe(logits, batch.data[1])
                rows.append(batch.ids.tolist())
                weights += batch.weights.tolist()
            ids = [id for batch in rows for id in batch]
            assert len(ids) == len(set(ids))
            assert len(rows) == len(epoch) if not epoch._gated_now else len(rows) <= len(epoch)
            trained.append(rows)
            counts.append(epoch.summary)
        return selection, trained, counts, weights


def ids_of(data):
    return data[0][:, 0].long().numpy()


@dataclass
class Sample:
    visits: int = 0
    participations: int = 0
    forced: int = 0
    streak: int = 0
    due: int = 0
    last_epoch: int = -1
    confidence: float = math.nan
    rank: float = math.nan
    loss: float = math.nan
    correct: bool = False
    screened: bool = False
    outcomes: list = field(default_factory=list)


@dataclass
class Recount:
    """The same run with dicts and loops; shares only the random draws with the package."""

    case: Case
    samples: dict[int, Sample] = field(default_factory=dict)
    screenings: int = 0

    def key(self, purpose: str, epoch: int, id: int) -> int:
        return int(draws.hash64(self.case.seed, draws.stream(purpose), epoch, id)[0])

    def nearest(self, id: int, purpose: str, epoch: int):
        return self.samples[id].due, self.key(purpose, epoch, id) >> 11

    def judge(self, id: int, epoch: int, kind: int) -> bool:
        """Enter a verdict; whether it fails the gate."""
        case, sample = self.case, self.samples[id]
        self.screenings += kind == SCREEN
        row = case.logits[epoch, kind, id].astype(float).tolist()
        sample.outcomes.append((epoch, row))
        top = max(row)
        confidence = 1 / sum(math.exp(value - top) for value in row)
        correct = row.index(top) == case.labels[id]
        tau = case.policy.confidence if isinstance(case.policy, SelfRegulation) else math.inf
        fails = not (correct and confidence >= tau)
        if sample.last_epoch != epoch:
            sample.visits += 1
            sample.streak += 1
        else:
            sample.streak = max(1, sample.streak)
        if fails:
            sample.streak = 0
        sample.confidence, sample.correct = confidence, correct
        # Ranks are decided by the last bit, and so by torch's own.
        sample.rank = float(torch.softmax(torch.from_numpy(case.logits[epoch, kind]), 1)[id].max())
        sample.screened, sample.last_epoch = kind == SCREEN, epoch
        skip = 0
        if sample.streak:
            longest = getattr(case.policy, "max_skip", 0)
            skip = min(2 ** (sample.streak - 1), longest)
        # A screening comes before its epoch: active in it, or skipped from it on.
        sample.due = epoch + skip + (kind == TRAIN)
        return fails

    def run(self):
        case, policy = self.case, self.case.policy
        self.samples = {id: Sample() for id in range(case.samples)}
        pool = [i for i in range(case.samples) if case.weights is None or case.weights[i] > 0]
        trained, counts = [], []
        for epoch in range(math.ceil(case.epochs)):
            screened, forced, gated_now, planned = 0, set(), False, pool
            if isinstance(policy, RandomSubset):
                draw = epoch if policy.redraw else 0
                wanted = max(1, round(policy.fraction * len(pool)))
                ranked = sorted(pool, key=lambda i: self.key("random-subset", draw, i))
                planned = ranked[:wanted]
            elif isinstance(policy, SelfRegulation):
                first, last = self.gated()
                if not first <= epoch < last:
                    forced = set(pool)
                elif policy.when == "now":
                    gated_now = True
                else:
                    due = [i for i in pool if self.samples[i].due <= epoch]
                    skipped = [i for i in due if self.samples[i].streak]
                    screened = len(skipped)
                    returned = [i for i in skipped if self.judge(i, epoch, SCREEN)]
                    active = [i for i in due if i not in skipped or i in returned]
                    planned, forced = self.within_budget(pool, active, epoch)
            size = case.batch if len(pool) > 1 or case.drop_last else 1
            if len(planned) == 1 < size and not (gated_now or case.drop_last):
                others = [i for i in pool if i not in planned]
                returned = min(others, key=lambda i: self.nearest(i, "woken", epoch))
                planned, forced = [*planned, returned], forced | {returned}
            part = min(1.0, case.epochs - epoch)
            planned = sorted(planned, key=lambda i: self.key("order", epoch, i))
            planned = planned[: round(part * len(planned))]
            batches, left = self.batches(planned, size, case.drop_last)
            if gated_now:
                batches, left, forced = self.gathered(planned, size, epoch)
            rows = [i for batch in batches for i in batch]
            count = {"planned": len(planned), "screened": screened, "rows": len(rows)}
            count |= {"participations": 0, "idle": 0, "forced": 0, "deferred": left}
            for id in rows:
                sample = self.samples[id]
                failed = gated_now or self.judge(id, epoch, TRAIN)
                row = case.logits[epoch, TRAIN, id].astype(float).tolist()
                sample.loss = math.log(sum(map(math.exp, row))) - row[case.labels[id]]
                if id in forced:
                    sample.forced += 1
                    count["forced"] += 1
                elif failed:
                    sample.participations += 1
                    count["participations"] += 1
                else:
                    count["idle"] += 1
            trained.append(batches)
            counts.append(count)
        return trained, counts

    @staticmethod
    def batches(rows, size, drop_last):
        """A last row that is left joins the batch before, or is deferred where there is none."""
        batches = [rows[start : start + size] for start in range(0, len(rows), size)]
        deferred = 0
        if drop_last and batches and len(batches[-1]) < size:
            deferred = len(batches.pop())
        elif size > 1 and batches and len(batches[-1]) == 1:
            last = batches.pop()
            if batches:
                batches[-1] += last
            else:
                deferred = 1
        return batches, deferred

    def gathered(self, planned, size, epoch):
        """A last row of what was read is screened with the batch before; one of those that fail
        joins the batch before where that was not given out before the last screening."""
        blocks, _ = self.batches(planned, size, False)
        batches, waiting = [], []
        for block in blocks or [planned]:
            waiting += [i for i in block if self.judge(i, epoch, SCREEN)]
            if block is (blocks or [planned])[-1]:
                break
            while len(waiting) >= size:
                batches.append(waiting[:size])
                waiting = waiting[size:]
        forced = set()
        if len(waiting) == 1 < min(size, len(planned)) and not (batches or self.case.drop_last):
            forced = {next(i for i in planned if i not in waiting)}
            waiting += forced
        rest, deferred = self.batches(waiting, size, self.case.drop_last)
        return batches + rest, deferred, forced

    def gated(self):
        """The first epoch with a gate, and the end of the last; half a budget pays the others."""
        epochs, policy = self.case.epochs, self.case.policy
        last, first = epochs - policy.final_full_epochs, policy.warmup
        if policy.budget is not None:
            paid = policy.budget * epochs / 2
            last = epochs - math.floor(min(policy.final_full_epochs, paid) + 1e-9)
        last = min(epochs, math.ceil(last))
        if policy.budget is not None:
            first = min(first, math.floor(max(0.0, paid - (epochs - last))))
        return first, last

    def within_budget(self, pool, active, epoch):
        policy, epochs = self.case.policy, self.case.epochs
        if policy.budget is None:
            return active, set()
        first, last = self.gated()
        full = first + epochs - last
        part = policy.budget - full * (1 - policy.budget) / (epochs - full)
        quota = max(1, round(min(1.0, max(0.0, part)) * len(self.samples)))
        if len(active) >= quota:

            def rank(id):
                sample, draw = self.samples[id], self.key("quota", epoch, id) >> 11
                if policy.budget_rule == "random":
                    return (draw,)
                return (-1.0 if sample.visits == 0 else sample.rank, draw)

            return sorted(active, key=rank)[:quota], set()
        inactive = [i for i in pool if i not in active]
        inactive.sort(key=lambda i: self.nearest(i, "filler", epoch))
        filler = inactive[: quota - len(active)]
        return active + filler, set(filler)


def check(case: Case):
    selection, trained, counts, weights = case.run()
    recount = Recount(case)
    expected, expected_counts = recount.run()
    assert trained == expected
    for got, wanted in zip(counts, expected_counts, strict=True):
        assert {name: got[name] for name in wanted} == wanted
    ledger = selection.ledger
    for name in ("visits", "participations", "forced", "streak", "due"):
        assert ledger[name].tolist() == [getattr(s, name) for s in recount.samples.values()], name
    for name in ("correct", "screened"):
        assert getattr(ledger, name).tolist() == [
            getattr(s, name) for s in recount.samples.values()
        ]
    for name in ("confidence", "loss"):
        wanted = [getattr(s, name) for s in recount.samples.values()]
        np.testing.assert_allclose(ledger[name], wanted, rtol=1e-5, atol=1e-6)
    last = [s.last_epoch if s.visits else 65535 for s in recount.samples.values()]
    assert ledger["last_epoch"].tolist() == last
    outcomes = [sample.outcomes for sample in recount.samples.values()]
    check_dynamics(ledger, outcomes, case.labels, case.epochs)
    assert math.isclose(ledger.epochs, case.epochs)
    significance = [min(1.0, s.participations / case.epochs) for s in recount.samples.values()]
    np.testing.assert_allclose(ledger.significance, significance, rtol=1e-6)
    given_weights = [
        1.0 if case.weights is None else float(case.weights[i])
        for batches in expected
        for rows in batches
        for i in rows
    ]
    assert weights == given_weights
    rows = sum(len(batch) for batches in expected for batch in batches)
    assert selection.meters.samples_backpropagated == rows
    assert selection.meters.student_forwards == rows + recount.screenings


common = {
    "samples": st.integers(1, 13),
    "epochs": st.sampled_from([0.4, 1.0, 2.5, 4.0, 6.3]),
    "batch": st.integers(1, 6),
    "drop_last": st.booleans(),
    "weighted": st.booleans(),
    "seed": st.integers(0, 2**32),
    "script": st.integers(0, 2**32),
}
taus = st.sampled_from([0.25, 0.5, 0.9, 1.0])
ends = st.sampled_from([0, 0, 1, 2])


@settings(max_examples=120, deadline=None)
@given(
    policy=st.builds(
        SelfRegulation,
        confidence=taus,
        max_skip=st.sampled_from([1, 2, 8]),
        warmup=ends,
        final_full_epochs=ends,
        budget=st.sampled_from([None, None, 0.1, 0.4, 0.8]),
        budget_rule=st.sampled_from(["least-confident", "random"]),
    ),
    rest=st.fixed_dictionaries(common),
)
@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_last_visit_agrees_with_a_recount(policy, rest):
    check(Case(policy, **rest))


@settings(max_examples=80, deadline=None)
@given(
    policy=st.builds(
        SelfRegulation, confidence=taus, when=st.just("now"), warmup=ends, final_full_epochs=ends
    ),
    rest=st.fixed_dictionaries(common),
)
@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_now_agrees_with_a_recount(policy, rest):
    check(Case(policy, **rest))


@settings(max_examples=40, deadline=None)
@given(
    policy=st.one_of(
        st.just(All()),
        st.builds(RandomSubset, fraction=st.sampled_from([0.1, 0.5, 1.0]), redraw=st.booleans()),
    ),
    rest=st.fixed_dictionaries(common),
)
@pytest.mark.heavy
@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_ungated_policies_agree_with_a_recount(policy, rest):
    check(Case(policy, **rest))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", ["now", "last-visit"])
@pytest.mark.parametrize("kind", [SCREEN, TRAIN])
def test_non_finite_logits_are_reported_with_epoch_step_and_ids(when, kind, value):
    policy = SelfRegulation(confidence=0.5, when=when, max_skip=1)
    case = Case(policy, samples=12, epochs=6, batch=2, drop_last=False, weighted=False, seed=3,
                script=5)  # fmt: skip
    _, trained, counts, _ = case.run()
    epoch = 4
    if kind == TRAIN:
        bad = trained[epoch][1]
        step = 1
        case.logits[epoch, TRAIN, bad[1]] = value
        bad = bad[1:]
    else:
        case.logits[epoch, SCREEN] = value
        step, bad = 0, None
        if when == "last-visit":
            assert counts[epoch]["screened"]
    with pytest.raises(NonFiniteLoss) as raised:
        case.run()
    assert (raised.value.epoch, raised.value.step) == (epoch, step)
    assert bad is None or raised.value.ids == bad
    assert "\n" not in str(raised.value)
