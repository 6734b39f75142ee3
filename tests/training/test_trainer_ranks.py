"""Trainings on several ranks: what one rank does with the same global batches, and how they end."""

from __future__ import annotations

import warnings
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd import DataLoading, RunOptions, Sampling
from frugalkd.errors import NonFiniteLoss, RankError, Stopped
from frugalkd.objectives import CrossEntropy
from frugalkd.policies import All, RandomSubset, SelfRegulation
from frugalkd.teachers import EMATeacher
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.settings import Checkpointing, Optimizer, Training
from ranking import on_ranks
from toys import CLASSES, NothingPasses, OneBadRow, Spoil, Wild, grouped, images, net, order

TOLERANCE = 2e-6
"""Of a weight: float32 sums in another order, over some twenty steps."""


def plain(seed=0, hidden: type[nn.Module] = nn.Tanh):
    """No BatchNorm, whose statistics are those of each rank's rows, and no dropout."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 12), hidden(), nn.Linear(12, CLASSES))


def settings(batch, **more):
    return Training(**{"epochs": 3, "batch_size": batch, "optimizer": Optimizer(lr=0.01), **more})


CASES = {
    "all": (All(), {}),
    "accumulated": (All(), {"gradient_accumulation_steps": 2}),
    "sgd and clip": (All(), {"optimizer": Optimizer("sgd", lr=0.05), "max_grad_norm": 0.3}),
    "a part": (RandomSubset(fraction=0.5), {"epochs": 2.5}),
    "now": (NothingPasses(when="now"), {}),
    "bf16": (All(), {"precision": "bf16"}),
}


def run(case, world, **more):
    """What a run comes to, with batches that make global ones of 16 rows."""
    policy, changed = CASES[case]
    batch = 16 // world // changed.get("gradient_accumulation_steps", 1)
    model = plain()
    made = distill(
        model,
        images(64, augmented=False),
        **grouped(
            teacher=plain(1),
            policy=policy,
            training=settings(batch, **changed),
            eval_dataset=images(33, seed=1, augmented=False),
            device="cpu",
            **more,
        ),
    )
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights, made.meters.summary(), made.history, made.evaluation, made.ledger


def _run_all():
    return {case: run(case, 2) for case in CASES}


@pytest.mark.heavy
def test_two_ranks_learn_what_one_learns():
    first, second = on_ranks(2, _run_all)
    for case in CASES:
        weights, meters, history, evaluation, ledger = first[case]
        assert torch.equal(weights, second[case][0]), case
        expected = run(case, 1)
        tolerance = TOLERANCE if case != "bf16" else 2e-2
        torch.testing.assert_close(weights, expected[0], rtol=0, atol=tolerance, msg=case)
        assert not torch.equal(weights, torch.cat([p.flatten() for p in plain().parameters()]))
        for name in ("samples_backpropagated", "teacher_queries", "student_forwards"):
            assert meters[name] == expected[1][name] == second[case][1][name], case
        for mine, its in zip(history, expected[2], strict=True):
            assert mine["loss"] == pytest.approx(its["loss"], abs=2e-2), case
            assert (mine["steps"], mine["lr"]) == (its["steps"], its["lr"]), case
        if case != "bf16":
            assert evaluation is not None
            assert evaluation["accuracy"] == (expected[3] or {})["accuracy"]
            np.testing.assert_allclose(ledger["loss"], expected[4]["loss"], atol=1e-4)
        assert evaluation == second[case][3]


def _interrupted(folder, epochs, resume, stop_at):
    """With dropout, augmentation and BatchNorm, stopped by the last rank alone."""
    world, rank = torch.distributed.get_world_size(), torch.distributed.get_rank()
    calls = []

    def stop():
        calls.append(0)
        return rank == world - 1 and len(calls) == stop_at

    model = net()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            run = train_teacher(
                model,
                images(40),
                sampling=Sampling(policy=SelfRegulation(confidence=0.6)),
                training=settings(4, epochs=epochs, recalibrate_bn=10),
                device="cpu",
                run=RunOptions(
                    folder=folder,
                    checkpointing=Checkpointing(keep=9),
                    resume=resume,
                    should_stop=stop,
                ),
            )
        except Stopped as error:
            return str(error)
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    columns = {name: column.tobytes() for name, column in run.ledger.columns.items()}
    said = "".join(str(one.message) for one in caught if "resuming with" in str(one.message))
    return state, columns, run.history, run.meters.samples_backpropagated, said


@pytest.mark.heavy
def test_a_stop_on_one_rank_stops_all_and_they_resume(tmp_path):
    whole = on_ranks(2, _interrupted, tmp_path / "whole", 4, False, -1)
    stopped = on_ranks(2, _interrupted, tmp_path / "cut", 4, False, 8)
    assert stopped[0] == stopped[1]
    assert stopped[0].startswith("stopped at epoch 1, step 9")  # one call later
    assert sorted(path.stem for path in (tmp_path / "cut").iterdir()) == [
        "epoch-00001-step-000000005", "epoch-00001-step-000000009",
    ]  # fmt: skip
    rest = on_ranks(2, _interrupted, tmp_path / "cut", 4, True, -1)
    for one, other in zip(whole, rest, strict=True):
        assert all(torch.equal(one[0][name], other[0][name]) for name in one[0])
        assert one[1] == other[1]
        assert one[3] == other[3]
    assert all(torch.equal(whole[0][0][name], whole[1][0][name]) for name in whole[0][0])
    losses = [[record["loss"] for record in said[0][2]] for said in (whole, rest)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


@pytest.mark.heavy
def test_another_number_of_ranks_resumes_with_the_ledger(tmp_path):
    on_ranks(2, _interrupted, tmp_path, 4, False, 8)
    with pytest.warns(UserWarning, match="resuming with 1 ranks from a state of 2: the ledger"):
        run = train_teacher(
            net(),
            images(40),
            sampling=Sampling(policy=SelfRegulation(confidence=0.6)),
            training=settings(4, epochs=4, recalibrate_bn=10),
            device="cpu",
            run=RunOptions(folder=tmp_path, resume=True),
        )
    assert run.ledger.epochs == 4
    assert [record["epoch"] for record in run.history] == [0, 1, 2, 3]
    assert (run.ledger["visits"] >= 1).all()
    counts = run.ledger["participations"].sum() + run.ledger["forced"].sum()
    idle = sum(record["idle"] for record in run.history)
    assert counts + idle == run.meters.samples_backpropagated


def learn_from_average(world):
    """The weights, and those of the average that taught them."""
    model = plain()
    teacher = EMATeacher(model, decay=0.9)
    distill(
        model,
        images(64, augmented=False),
        teacher=teacher,
        sampling=Sampling(policy=All()),
        training=settings(16 // world, ema=0.5),
        device="cpu",
    )
    of = (model, teacher.teacher)
    return [torch.cat([p.detach().flatten() for p in each.parameters()]) for each in of]


@pytest.mark.heavy
def test_the_average_of_two_ranks_teaches_what_that_of_one_does():
    first, second = on_ranks(2, learn_from_average, 2)
    for mine, other, alone in zip(first, second, learn_from_average(1), strict=True):
        assert torch.equal(mine, other)
        torch.testing.assert_close(mine, alone, rtol=0, atol=TOLERANCE)
    assert not torch.allclose(*first, rtol=0, atol=100 * TOLERANCE)


def _differing():
    """What each of these says where one thing is another on the second rank."""
    rank = torch.distributed.get_rank()
    errors = {}

    def begin(name, model=None, data=None, **more):
        try:
            train_teacher(
                plain() if model is None else model,
                images(32, augmented=False) if data is None else data,
                **grouped(**{"training": settings(4, epochs=1), "device": "cpu", **more}),
            )
        except RankError as error:
            errors[name] = str(error)

    pixels = images(32, augmented=False)
    pixels.images[17, 0, 3, 3] ^= rank
    begin("data set", data=pixels)
    begin("samples", data=images(32 + 8 * rank, augmented=False))
    begin("the first rank's weights count", plain(rank))
    begin("model", plain(hidden=(nn.Tanh, nn.ReLU)[rank]))
    begin("seed", seed=rank)
    begin("training.batch_size", training=settings(4 + 4 * rank, epochs=1))
    begin("objective", objective=CrossEntropy(label_smoothing=0.1 * rank))
    begin("policy", policy=(All(), SelfRegulation())[rank])
    begin("held-out data", eval_dataset=images(9, seed=rank, augmented=False))
    begin("nothing")
    return errors


@pytest.mark.heavy
def test_ranks_with_different_inputs_do_not_train():
    first, second = on_ranks(2, _differing)
    assert first == second
    assert len(first) == 8
    for name, said in first.items():
        what = "data set" if name == "samples" else name
        assert said.startswith(f"ranks 0 and 1 differ in {what}: start all of them"), name


def _diverging():
    """One sample, in one rank's share, whose input is not finite."""
    model = plain()
    try:
        train_teacher(
            model,
            OneBadRow(32, bad=21),
            sampling=Sampling(policy=All()),
            training=settings(4),
            device="cpu",
        )
    except NonFiniteLoss as error:
        finite = all(bool(torch.isfinite(p).all()) for p in model.parameters())
        weights = torch.cat([p.detach().flatten() for p in model.parameters()])
        return error.epoch, error.step, error.ids, finite, weights
    return None


def test_a_bad_row_on_one_rank_leaves_the_weights_before_it():
    first, second = on_ranks(2, _diverging)
    assert first is not None
    assert first[:4] == second[:4]
    assert first[0] == 0
    assert first[2] == [21]
    assert first[3]
    assert torch.equal(first[4], second[4])


class _BadBackward(nn.Module):
    """Its ``at``-th training forward, from 1, has bad gradients under a finite loss."""

    def __init__(self, at):
        super().__init__()
        self.net, self.calls = plain(), SimpleNamespace(left=at)  # the same model on each rank

    def forward(self, x):
        self.calls.left -= self.training
        bad = self.training and self.calls.left == 0
        return Spoil.apply(self.net(x)) if bad else self.net(x)


def _train_badly(folder, at, policy, samples):
    """A gradient that is bad on the last rank alone; then a good run resumes from there."""
    last = torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
    data, training = (
        images(samples, augmented=False),
        settings(4, gradient_accumulation_steps=2, epochs=2),
    )
    common = {"policy": policy, "training": training, "device": "cpu", "folder": folder}
    model, again = _BadBackward(at if last else -1), _BadBackward(-1)
    said = None
    try:
        train_teacher(model, data, **grouped(**common))
    except NonFiniteLoss as error:
        said = (error.epoch, error.step, sorted(error.ids), str(error).split(" is not")[0])
    torch.distributed.barrier()
    names = sorted(path.name for path in folder.iterdir())
    if at > 0:
        train_teacher(again, data, **grouped(resume=True, **common))
    weights = [
        torch.cat([p.detach().flatten() for p in each.parameters()]) for each in (model, again)
    ]
    return said, names, weights


def _batchnorm():
    """With gates that leave plans of all lengths; batches' rows of each run."""
    rows = []
    for policy in (SelfRegulation(0.4, max_skip=2), SelfRegulation(0.4, when="now"), All()):
        for seed in (0, 1):
            torch.manual_seed(seed)
            layers = nn.Linear(36, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, CLASSES)
            model = nn.Sequential(nn.Flatten(), *layers)
            model[2].register_forward_pre_hook(
                lambda module, given: rows.append(len(given[0])) if module.training else None
            )
            gradient_accumulation_steps = 1 if policy.when == "now" else 2
            training = settings(
                2,
                gradient_accumulation_steps=gradient_accumulation_steps,
                recalibrate_bn=3,
                epochs=3,
            )
            train_teacher(
                model,
                images(21),
                sampling=Sampling(policy=policy),
                training=training,
                seed=seed,
                device="cpu",
            )
    return rows


def _hard_cases(folder):
    return (
        _train_badly(folder / "gradient", 7, All(), 32),
        _train_badly(folder / "weights", -1, Wild(epoch=1), 16),
        _batchnorm(),
    )


@pytest.fixture(scope="module")
def hard_cases(tmp_path_factory):
    return on_ranks(2, _hard_cases, tmp_path_factory.mktemp("hard_cases"))


def test_bad_gradients_and_overflows_stop_all_ranks(hard_cases):
    """In a micro-batch of the last step of all; the checkpoint before is the last good state."""
    (first, first_wild, _), (second, second_wild, _) = hard_cases
    step = sorted(order(32, 0, 1)[16:].tolist())
    assert first[0] == second[0] == (1, 1, step, "a gradient")
    assert first[1] == second[1] == ["epoch-00001-step-000000002.safetensors"]
    for mine, its in zip(first[2], second[2], strict=True):
        assert torch.equal(mine, its)
        assert torch.isfinite(mine).all()
    assert first_wild[0] == second_wild[0] == (1, 0, list(range(16)), "the weight net.1.weight")
    assert first_wild[1] == second_wild[1] == ["epoch-00001-step-000000001.safetensors"]


def test_no_rank_trains_on_a_batch_of_one_row(hard_cases):
    """Nor does it refresh BatchNorm's statistics with one."""
    for *_, rows in hard_cases:
        assert set(rows) == {2}
        assert len(rows) > 50


def test_one_rank_accumulates_to_what_it_does_at_once():
    once = train_teacher(
        plain(),
        images(40, augmented=False),
        sampling=Sampling(policy=All()),
        training=settings(8),
        device="cpu",
    )
    split = train_teacher(
        plain(),
        images(40, augmented=False),
        sampling=Sampling(policy=All()),
        training=settings(2, gradient_accumulation_steps=4),
        device="cpu",
    )
    for one, other in zip(once.model.parameters(), split.model.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=TOLERANCE)
    assert [record["steps"] for record in split.history] == [5, 5, 5]
    for one, other in zip(once.history, split.history, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], abs=1e-6)
        assert one["lr"] == other["lr"]


def _own_loop(folder: Path):
    """The README's loop within DistributedDataParallel."""
    from frugalkd import Selection

    model = plain()
    shared = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    selection = Selection(
        images(64, augmented=False),
        epochs=3,
        batch_size=4,
        model=model,
        sampling=Sampling(policy=SelfRegulation(confidence=0.5)),
        loading=DataLoading(gradient_accumulation_steps=2),
    )
    for epoch in selection:
        for batch in epoch:
            pixels, labels = batch.data
            logits = shared(pixels)
            losses = nn.functional.cross_entropy(logits, labels, reduction="none")
            batch.reduce(losses).backward()
            if batch.ends_step:
                optimizer.step()
                optimizer.zero_grad()
            batch.observe(logits, labels)
    columns = {name: column.tobytes() for name, column in selection.ledger.columns.items()}
    return model.state_dict(), columns, selection.meters.samples_backpropagated


@pytest.mark.heavy
def test_the_users_own_loop_under_ddp(tmp_path):
    first, second = on_ranks(2, _own_loop, tmp_path)
    assert all(torch.equal(first[0][name], second[0][name]) for name in first[0])
    assert first[1:] == second[1:]
    assert first[2] % 16 == 0


def _recalibrated():
    model, rows = net(), []

    def count(norm, inputs):
        if norm.training:
            rows.append(len(inputs[0]))

    model[1].register_forward_pre_hook(count)
    data, training = images(3, augmented=False), settings(1, epochs=1, recalibrate_bn=3)
    train_teacher(model, data, sampling=Sampling(policy=All()), training=training, device="cpu")
    return rows, model[1].running_var


def test_statistics_are_refreshed_on_two_rows_or_more():
    """Three samples in batches of one row are two rows of each rank, in one batch."""
    for rows, variance in on_ranks(2, _recalibrated):
        assert rows == [1, 2]
        assert torch.isfinite(variance).all()
