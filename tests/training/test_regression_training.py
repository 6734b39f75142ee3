"""Regression from Python: what is selected, measured, stored, resumed, and shared by ranks."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportArgumentType=false
from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from frugalkd import (
    All,
    Ledger,
    LiveTeacher,
    Optimizer,
    RunOptions,
    Sampling,
    Selection,
    SelfRegulation,
    StoredTargets,
    Training,
    distill,
    train_head,
    train_teacher,
)
from frugalkd.errors import (
    DataError,
    ModelError,
    NonFiniteLoss,
    SelectionMisuse,
    SettingError,
    Stopped,
    TargetsError,
    UnsupportedData,
)
from frugalkd.objectives import KD, CrossEntropy, FitNets, RegressionKD, SquaredError, WeightedSum
from frugalkd.policies import (
    EL2N,
    InfoBatch,
    Kakurenbo,
    ProgressiveDataDropout,
    SelectiveBackprop,
    SwiftLearn,
    Unix,
)
from frugalkd.teachers import EMATeacher
from frugalkd.teachers.encodings import Dense, Values
from frugalkd.training.evaluation import measure_values
from frugalkd.training.settings import Checkpointing
from ranking import on_ranks
from toys import same_columns, same_state, train_by_hand


class Rows(Dataset):
    """Inputs, and values that a linear model has up to a little noise; ``listed``: as labels."""

    def __init__(self, rows=64, targets=2, seed=0, listed=True, labels=None):
        stream = torch.Generator().manual_seed(seed)
        self.x = torch.randn(rows, 5, generator=stream)
        weight = torch.randn(5, targets, generator=torch.Generator().manual_seed(9))
        noise = 0.1 * torch.randn(rows, targets, generator=stream)
        self.y = self.x @ weight + noise + 3 if labels is None else labels
        if listed:
            self.labels = self.y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, id):
        return self.x[id], self.y[id]


class Unlabelled(Rows):
    def __getitem__(self, id):
        return (self.x[id],)


def net(seed=0, targets=2):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, targets))


def teacher_net(targets=2):
    """A linear map that is nearly the data's."""
    linear = nn.Linear(5, targets)
    weight = torch.randn(5, targets, generator=torch.Generator().manual_seed(9))
    linear.weight.data, linear.bias.data = weight.T.clone(), torch.full((targets,), 3.0)
    return nn.Sequential(linear, nn.Identity())


GATE = SelfRegulation(confidence=0.9, max_skip=2)


def run(student=None, data=None, *, policy=GATE, objective=None, teacher=None, epochs=4, **more):
    return distill(
        net(1) if student is None else student,
        Rows() if data is None else data,
        teacher=teacher_net() if teacher is None else teacher,
        objective=RegressionKD() if objective is None else objective,
        sampling=Sampling(policy=policy),
        training=Training(epochs=epochs, batch_size=8, optimizer=Optimizer(lr=0.05)),
        device="cpu",
        **more,
    )


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("source", ["label", "teacher"])
def test_a_part_of_the_rows_is_enough(listed, source):
    policy = SelfRegulation(confidence=0.9, max_skip=2, label_source=source)
    made = run(data=Rows(listed=listed), policy=policy, epochs=20, eval_dataset=Rows(50, seed=1))
    assert made.output == "regression"
    assert made.meters.samples_backpropagated < 0.8 * 20 * 64
    assert made.evaluation["r2"] > 0.9
    assert made.evaluation["teacher_rmse"] < made.evaluation["rmse"] + 0.1
    assert made.probabilities.shape == (50, 2)
    assert made.ledger.labels is None
    score = made.ledger["confidence"]
    assert made.ledger.distance == pytest.approx((1 - score) * made.ledger.reference["d0"])


def test_the_reference_is_that_of_what_is_right():
    by_label = run(epochs=1).ledger.reference
    assert by_label["sigma"] == pytest.approx(Rows().y.double().numpy().std(axis=0), rel=1e-6)
    live = LiveTeacher(teacher_net())
    made = run(epochs=1, teacher=live, policy=SelfRegulation(label_source="teacher"))
    outputs = teacher_net()(Rows().x).detach().double().numpy()
    assert made.ledger.reference["sigma"] == pytest.approx(outputs.std(axis=0), rel=1e-6)
    assert made.meters.teacher_queries == 64 + 64
    assert run(epochs=1).meters.teacher_queries == 64  # labels need no teacher


def test_a_teacher_is_trained_and_one_target_needs_no_column():
    data = TensorDataset(Rows(targets=1).x, Rows(targets=1).y[:, 0].double())
    made = train_teacher(
        net(targets=1), data, objective=SquaredError(), sampling=Sampling(policy=GATE),
        training=Training(epochs=20, batch_size=8, optimizer=Optimizer(lr=0.05)),
        eval_dataset=data, device="cpu",
    )  # fmt: skip
    assert made.evaluation["r2"] > 0.9
    assert 0 < made.ledger.significance.mean() < 1
    assert made.evaluation["teacher_rmse"] is None


def test_without_labels_the_teacher_stands_in():
    plain = run(data=Unlabelled(listed=False))
    labelled = distill(
        net(1), Rows(), teacher=teacher_net(), objective=RegressionKD(),
        sampling=Sampling(policy=GATE, label_free=True),
        training=Training(epochs=4, batch_size=8, optimizer=Optimizer(lr=0.05)), device="cpu",
    )  # fmt: skip
    assert same_state(plain.model, labelled.model)


@pytest.mark.parametrize(
    "policy",
    [
        All(),
        InfoBatch(),
        Kakurenbo(confidence=0.2),
        SwiftLearn(),
        SelectiveBackprop(),
        ProgressiveDataDropout(),
        SelfRegulation(when="now", confidence=0.9),
        SelfRegulation(budget=0.5),
        SelfRegulation(cost=0.5, probe=0.1),
        SelfRegulation(keep_probability=0.2),
    ],
    ids=lambda policy: str(policy)[:40],
)
def test_policies_select_by_the_score(policy):
    made = run(policy=policy)
    assert 0 < made.meters.samples_backpropagated <= 4 * 64
    assert np.isfinite(made.ledger["confidence"]).sum() > 32


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (SelfRegulation(budget_rule="class-balanced", budget=0.5), "plans by class"),
        (SelfRegulation(ceiling=0.9), "has a ceiling"),
        (Unix(), "entropy of a softmax"),
        (EL2N(), "scored by trainings on classes"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_needs_classes_is_refused(policy, why):
    says = f"regression targets are not one class a sample, and .* {why}"
    with pytest.raises(SelectionMisuse, match=says):
        run(policy=policy)


def with_nan(listed):
    labels = Rows().y.clone()
    labels[13, 1] = torch.nan
    return Rows(labels=labels, listed=listed)


class Flat(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 0 + 1


class Broken(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * torch.nan


JUDGED = SelfRegulation(label_source="teacher")
BAD = {
    "class indices": (
        lambda: run(data=Rows(labels=torch.arange(64) % 3)), UnsupportedData,
        "int64 .*floating-point values are needed",
    ),
    "class indices of items alone": (
        lambda: run(data=Rows(labels=torch.arange(64) % 3, listed=False)), UnsupportedData,
        "labels are int64 .*floating-point values are needed",
    ),
    "values for classes": (
        lambda: run(objective=CrossEntropy()), UnsupportedData, "class indices .int64. are needed"
    ),
    "a listed target of NaN": (
        lambda: run(data=with_nan(True)), DataError, r"the target of sample 13 is .*nan.*not finite"
    ),
    "a target of NaN": (
        lambda: run(data=with_nan(False)), DataError, r"the target of sample 13 is .*nan.*not fin"
    ),
    "targets of no spread": (
        lambda: run(data=Rows(labels=torch.ones(64, 2))), TargetsError,
        "the data has nearly the same value of target 0 for 64 samples",
    ),
    "a teacher of no spread": (
        lambda: run(policy=JUDGED, teacher=Flat(*net())), TargetsError, "the teacher has nearly the"
    ),
    "a teacher that changes": (
        lambda: run(student := net(), policy=JUDGED, teacher=EMATeacher(student, 0.9)),
        TargetsError, "regression targets are judged by a teacher that does not change",
    ),
    "a teacher of NaN": (
        lambda: run(policy=JUDGED, teacher=Broken(*net())), ModelError, "of the teacher for sampl"
    ),
    "a teacher of NaN and labels": (
        lambda: run(teacher=Broken(*net())), NonFiniteLoss, "the teacher's output"
    ),
    "another number of targets": (
        lambda: run(net(targets=3)), ModelError, "gives 3 numbers a sample, and there are 2 targets"
    ),
    "a teacher of other targets": (
        lambda: run(teacher=net(targets=3)), TargetsError, "the teacher has 3 regression targets"
    ),
    "held-out data of other targets": (
        lambda: run(eval_dataset=Rows(9, targets=1)), ModelError, "held-out data: the model gives 2"
    ),
    "training dynamics": (
        lambda: distill(
            net(1), Rows(), teacher=teacher_net(), objective=RegressionKD(),
            sampling=Sampling(policy=GATE, dynamics=True), device="cpu",
        ),
        SelectionMisuse, "regression targets have no training dynamics",
    ),
    "a head alone": (
        lambda: train_head(net(), Rows(), objective=SquaredError()), SettingError,
        "SquaredError learns regression targets: call train_teacher",
    ),
    "no teacher": (
        lambda: distill(net(), Rows(), teacher=None, objective=RegressionKD()),
        TargetsError, "needs a teacher",
    ),
    "stored differences of logits": (
        lambda: run(teacher=StoredTargets.fill(teacher_net(), Rows())), TargetsError,
        "reads the teacher's outputs themselves",
    ),
    "another kind in the sampling": (
        lambda: distill(
            net(), Rows(), teacher=net(), objective=KD(), sampling=Sampling(output="regression")
        ),
        SettingError, "KD learns one-class",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line(make, kind, says):
    with pytest.raises(kind, match=says) as caught:
        make()
    assert str(caught.value).isprintable()


def test_stored_values_select_the_same_rows():
    live = run()
    exact = run(teacher=StoredTargets.fill(teacher_net(), Rows(), encoding=Dense("float32")))
    torch.testing.assert_close(live.model.state_dict(), exact.model.state_dict())
    assert np.array_equal(live.ledger["participations"], exact.ledger["participations"])
    near = run(teacher=StoredTargets.fill(teacher_net(), Rows(), encoding=Values()))
    torch.testing.assert_close(live.model.state_dict(), near.model.state_dict(), rtol=0, atol=0.05)


def test_features_may_be_learned_as_well():
    hints = FitNets("1", "2", hard=0.0)
    made = run(objective=WeightedSum((RegressionKD(), hints)), teacher=net(3), epochs=1)
    assert made.meters.flops["objective_forward"] > 0


def stopping(after):
    calls = count(1)
    return lambda: next(calls) >= after


@pytest.mark.parametrize("when", ["last-visit", "now"])
def test_a_stopped_training_resumes_bit_for_bit(tmp_path, when):
    """In the middle of an epoch, with what scores refer to."""
    policy = SelfRegulation(confidence=0.9, when=when, max_skip=1)
    whole = run(policy=policy)
    for steps in (5, 17):
        options = RunOptions(
            folder=tmp_path / str(steps), should_stop=stopping(steps), checkpointing=Checkpointing()
        )
        with pytest.raises(Stopped):
            run(policy=policy, run=options)
        again = RunOptions(folder=tmp_path / str(steps), resume=True)
        resumed = run(net(2), policy=policy, run=again)
        assert same_state(whole.model, resumed.model)
        assert same_columns(whole.ledger, resumed.ledger)
        for name, part in whole.ledger.reference.items():
            assert np.array_equal(part, resumed.ledger.reference[name])


def _on_two():
    made = run(eval_dataset=Rows(9, seed=1))
    weights = torch.cat([p.detach().flatten() for p in made.model.parameters()])
    return weights, made.ledger, made.evaluation


@pytest.mark.heavy
def test_two_ranks_share_one_reference_and_one_student():
    (first, ledger, measured), (second, other, _) = on_ranks(2, _on_two)
    assert torch.equal(first, second)
    assert same_columns(ledger, other)
    assert measured["samples"] == 9
    alone = run().ledger.reference
    for name, part in ledger.reference.items():
        assert np.array_equal(part, other.reference[name])
        assert part == pytest.approx(alone[name], rel=1e-6)


def test_an_own_loop_comes_to_what_distill_does():
    student, objective = net(1), RegressionKD()
    selection = Selection(
        Rows(), epochs=4, batch_size=8, model=student, targets=LiveTeacher(teacher_net()),
        sampling=Sampling(policy=GATE, output="regression"),
    )  # fmt: skip
    train_by_hand(selection, student, objective, rate=0.05)
    made = run()
    torch.testing.assert_close(student.state_dict(), made.model.state_dict(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(selection.ledger["participations"], made.ledger["participations"])


def test_a_ledger_keeps_the_reference(tmp_path):
    ledger = run(epochs=1).ledger
    ledger.save(tmp_path / "x.safetensors")
    again = Ledger.load(tmp_path / "x.safetensors")
    assert again.reference.keys() == {"sigma", "d0"}
    assert np.array_equal(again.distance, ledger.distance, equal_nan=True)


def test_measures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra report")
    wanted, given = Rows(40).y.numpy(), Rows(40, seed=1).y.numpy()
    found = measure_values(given, wanted, wanted)
    assert found["r2"] == pytest.approx(metrics.r2_score(wanted, given), abs=1e-5)
    assert found["mae"] == pytest.approx(metrics.mean_absolute_error(wanted, given), rel=1e-5)
    rmse = metrics.root_mean_squared_error(wanted, given)
    assert found["rmse"] == found["teacher_rmse"] == pytest.approx(rmse, rel=1e-5)
    assert measure_values(given, np.ones_like(given))["r2"] is None
