"""Views that are mixed with other samples: trained on and counted, but never judged."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from frugalkd import KD, Checkpointing, RunOptions, Sampling, SelfRegulation, distill
from frugalkd.data import Augmentation, Mix
from frugalkd.errors import (
    DataError,
    RecipeError,
    SelectionMisuse,
    Stopped,
    TargetsError,
    UnsupportedData,
)
from frugalkd.experiments.estimate.run import estimate
from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.policies import All, InfoBatch
from frugalkd.selection import Selection
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.training.evaluation import predict
from frugalkd.training.frozen import features_of
from frugalkd.training.settings import Optimizer, Schedule, Training
from ranking import as_launched, on_ranks
from toys import images, net, order, same_columns, same_state

GATE = SelfRegulation(0.4, max_skip=2)
TRAINING = Training(
    epochs=6, batch_size=8, optimizer=Optimizer("sgd", lr=0.1, momentum=0.0),
    schedule=Schedule("constant"),
)  # fmt: skip


def data(name: Any = "mixup", part=0.5) -> Any:
    return images().with_augmentation(Augmentation(crop=1, mix=Mix(name, part)), 5)


class Noting:
    """Notes the ids and views of each batch that is read."""

    def __init__(self, samples):
        self.samples, self.read = samples, []

    def __getattr__(self, name):
        return getattr(self.samples, name)

    def __len__(self):
        return len(self.samples)

    def batch(self, ids, views):
        self.read.append((np.array(ids), np.array(views)))
        return self.samples.batch(ids, views)


def test_only_plain_views_are_judged():
    """Each epoch recounted from the columns before it and the views that were read: a plain row has
    the verdict of its own outcome, a mixed one keeps what it had, and every row was visited."""
    noted: Any = Noting(data())
    student = net()
    selection = Selection(
        noted, epochs=8, batch_size=8, model=student, targets=LiveTeacher(net(seed=9)), seed=3,
        sampling=Sampling(policy=GATE, label_free=True),
    )  # fmt: skip
    ledger, judged, kept = selection.ledger, 0, 0
    optimizer = torch.optim.SGD(student.parameters(), lr=0.2)
    for epoch in selection:
        screened = sum(len(ids) for ids, _ in noted.read)
        for ids, views in noted.read:  # before the epoch's own batches
            assert not noted.mixed(ids, views).any()
        before = {name: column.copy() for name, column in ledger.columns.items()}
        noted.read.clear()
        outcomes: dict[int, float] = {}
        for batch in epoch:
            logits = student(batch.data[0])
            batch.reduce(KD(alpha=1.0)(logits, batch.targets, batch.labels)).backward()
            optimizer.step()
            optimizer.zero_grad()
            batch.observe(logits)
            top = torch.softmax(logits.detach(), 1).amax(1)
            outcomes |= dict(zip(batch.ids.tolist(), top.tolist(), strict=True))
        trained = np.array(sorted(outcomes))
        ids, views = (np.concatenate(part) for part in zip(*noted.read, strict=True))
        noted.read.clear()
        mixed = dict(zip(ids.tolist(), noted.mixed(ids, views).tolist(), strict=True))
        for id in trained.tolist():
            assert ledger["last_epoch"][id] == epoch.index
            first = before["last_epoch"][id] != epoch.index
            assert ledger["visits"][id] == before["visits"][id] + first
            assert ledger["participations"][id] == before["participations"][id] + (
                mixed[id] or ledger["streak"][id] == 0
            )
            if mixed[id]:
                kept += 1
                for name in ("confidence", "streak", "due", "flags"):
                    np.testing.assert_array_equal(ledger[name][id], before[name][id], name)
            else:
                judged += 1
                assert ledger["confidence"][id] == pytest.approx(outcomes[id], rel=1e-5)
        assert screened == epoch.screened
    assert min(judged, kept) > 40
    assert selection.meters.student_forwards > selection.meters.samples_backpropagated


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_a_training_on_mixed_views_is_a_plain_loop(name):
    """From a store of three views, whose teacher ran on the mixed pictures."""
    mixed, teacher, kd = data(name), net(seed=9).eval(), KD(alpha=0.5)
    run = distill(
        net(), mixed, teacher=StoredTargets.fill(teacher, mixed, views=3), objective=kd,
        sampling=Sampling(policy=All(), label_free=True), training=TRAINING, seed=4, device="cpu",
    )  # fmt: skip
    student = net()
    optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
    torch.manual_seed(4)  # of dropout
    for epoch in range(6):
        for ids in np.split(order(37, 4, epoch), range(8, 37, 8)):
            x, _ = mixed.rendered(ids, np.full_like(ids, epoch % 3))
            with torch.no_grad():
                targets = teacher(x)
            kd(student(x), targets, targets.argmax(1)).mean().backward()
            optimizer.step()
            optimizer.zero_grad()
    for name, found in run.model.state_dict().items():
        torch.testing.assert_close(found, student.state_dict()[name], rtol=1e-3, atol=1e-4)


def trained(mixed, **more):
    given = {"training": TRAINING, "seed": 4, "device": "cpu", "objective": KD(alpha=1.0)}
    sampling = Sampling(policy=GATE, label_free=True)
    return distill(net(), mixed, **{"teacher": net(seed=9), "sampling": sampling, **given, **more})


@pytest.mark.heavy
def test_a_gate_resumes_in_the_middle_of_an_epoch(tmp_path):
    def run(folder, stop=None, resume=False):
        options = RunOptions(
            folder=tmp_path / folder, checkpointing=Checkpointing(steps=1), should_stop=stop,
            resume=resume,
        )  # fmt: skip
        return trained(data(), run=options)

    whole, calls = run("whole"), iter(range(1000))
    with pytest.raises(Stopped):
        run("again", stop=lambda: next(calls) == 13)
    again = run("again", resume=True)
    assert same_state(whole.model, again.model)
    assert same_columns(whole.ledger, again.ledger)
    assert whole.meters.samples_backpropagated < 6 * 37


def on_a_rank():
    as_launched()
    run = trained(images(40).with_augmentation(data().augmentation, 5), training=HALF)
    return run.ledger.columns, run.model.state_dict()


HALF = replace(TRAINING, batch_size=4)


@pytest.mark.slow
@pytest.mark.heavy
def test_two_ranks_agree():
    (first, one), (second, other) = on_ranks(2, on_a_rank)
    for name, column in first.items():
        np.testing.assert_array_equal(column, second[name], name)
    assert all(torch.equal(one[name], other[name]) for name in one if "running" not in name)
    assert np.isnan(first["confidence"]).sum() < 40


@pytest.mark.parametrize("live", [False, True])
def test_a_ceiling_is_of_plain_views(live):
    mixed, teacher = data(), net(seed=9).eval()
    stored = StoredTargets.fill(teacher, mixed, views=4)
    sampling = Sampling(regulation=SelfRegulation(0.4, ceiling=0.9), label_free=True)
    run = trained(mixed, teacher=teacher if live else stored, sampling=sampling)
    ids, views = np.arange(37), np.zeros(37, dtype=np.int64)
    views += mixed.mixed(ids, views)
    assert views.any()
    assert not mixed.mixed(ids, views).any()
    with torch.no_grad():
        expected = torch.softmax(teacher(mixed.rendered(ids, views)[0]), 1).amax(1).numpy()
    np.testing.assert_allclose(run.ledger["teacher_truth"], expected, rtol=2e-3)


def test_a_cost_is_kept_to():
    run = trained(data(), cost=0.5, sampling=Sampling(regulation=GATE, label_free=True))
    trained_rows, forwards = run.meters.samples_backpropagated, run.meters.student_forwards
    assert 0.4 < (trained_rows + (forwards - trained_rows) / 3) / (6 * 37) <= 0.5


@pytest.mark.heavy
def test_what_is_measured_is_not_mixed():
    mixed = data()
    with pytest.raises(UnsupportedData, match=r"give the samples as they are \(data\.without_aug"):
        trained(mixed, eval_dataset=mixed)
    for function in (predict, features_of):
        with pytest.raises(UnsupportedData, match="have no label of their own: give the samples"):
            function(net(), mixed)
    for other in (None, True, "x"):  # an attribute of another kind
        plain: Any = Noting(images())
        plain.mixed = other
        assert trained(plain, sampling=Sampling(policy=All())).history


def test_views_that_are_all_mixed_are_refused():
    class Always(Noting):
        def mixed(self, ids, views):
            return np.ones(len(ids), dtype=bool)

    ceiling = SelfRegulation(0.4, ceiling=0.9)
    with pytest.raises(DataError, match="has 1000 views in a row that are mixed with others"):
        trained(Always(images()), sampling=Sampling(regulation=ceiling, label_free=True))


def test_what_needs_a_label_or_a_verdict_is_refused():
    for sampling, error, says in (
        (Sampling(policy=All()), SelectionMisuse, "have no label of their own: set label_free"),
        (Sampling(mode="regulated"), SelectionMisuse, "have no label of their own: set label_free"),
        (
            Sampling(policy=replace(GATE, when="now"), label_free=True),
            SelectionMisuse,
            "SelfRegulation judges every view that it trains on",
        ),
        (
            Sampling(policy=InfoBatch(), label_free=True),
            SelectionMisuse,
            "InfoBatch judges every view that it trains on",
        ),
    ):
        with pytest.raises(error, match=rf"^(?!.*\n).*{says}"):
            trained(data(), sampling=sampling)
    for part, views in ((0.5, 1), (0.8, 4)):
        stored = StoredTargets.fill(net(seed=9), mixed := data(part=part), views=views)
        with pytest.raises(TargetsError, match=rf"^(?!.*\n)of sample \d+ all views .* \({views}\)"):
            trained(mixed, teacher=stored)
    enough = StoredTargets.fill(net(seed=9), mixed := data(part=0.8), views=5)
    assert trained(mixed, teacher=enough).meters.teacher_queries == 0
    with pytest.raises(TargetsError, match="augmentation"):
        trained(data("cutmix", part=0.8), teacher=enough)


MIXED = ["student.augment.mix={name: cutmix, part: 0.3}", "student.label_free=true"]


def test_recipes():
    plain, mixed = load_recipe("digits"), load_recipe("digits", MIXED)
    assert mixed.student.augment.mix == Mix("cutmix", 0.3)
    assert run_digest("distill", plain, None) != run_digest("distill", mixed, None)
    for settings, says in (
        (MIXED[:1], "student: augment.mix: mixed views have no label of their own: set label_free"),
        (["teacher.augment.mix={name: mixup}"], "a teacher learns from labels"),
        ([MIXED[0].replace("cutmix", "mixed")], "mix"),
    ):
        with pytest.raises(RecipeError, match=says):
            load_recipe("digits", settings)
    with pytest.raises(RecipeError, match="an estimate is of plain views"):
        estimate(mixed)


@pytest.mark.heavy
def test_from_the_command_line(cli, tmp_path):
    few = ("--set", "teacher.training.epochs=2", "--set", "student.training.epochs=3")
    assert cli("teach", "digits", "--out", str(tmp_path / "t"), *few)[0] == 0
    settings = [word for setting in MIXED for word in ("--set", setting)]
    words = ("--teacher", str(tmp_path / "t"), "--out", str(tmp_path / "s"), "--mode", "regulated")
    code, text, err = cli(
        "distill", "digits", *words, *few, *settings, "--set", "student.targets.views=2"
    )
    assert code == 0, err
    results = json.loads((tmp_path / "s" / "results.json").read_text())
    assert results["recipe"]["student"]["augment"]["mix"] == {"name": "cutmix", "part": 0.3}
    assert "accuracy" in text
    settings += ["--set", "student.targets.views=2", "--teacher", str(tmp_path / "t")]
    arms = ("--arms", "vanilla,regulated,random:regulated", "--seeds", "1", "--jobs", "1")
    code, text, err = cli("compare", "digits", *arms, "--out", str(tmp_path / "c"), *few, *settings)
    assert code == 0, err
    assert "regulated" in text
    for folder in ("s", "c"):
        page = tmp_path / f"{folder}.html"
        assert cli("report", str(tmp_path / folder), "--out", str(page))[0] == 0
        assert "regulated" in page.read_text()
