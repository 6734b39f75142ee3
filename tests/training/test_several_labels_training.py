"""Several labels from Python: what is selected, measured, stored, resumed, and shared by ranks."""

# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false, reportArgumentType=false
from __future__ import annotations

from itertools import count

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from frugalkd import (
    All,
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
    FrugalKDWarning,
    ModelError,
    SelectionMisuse,
    SettingError,
    Stopped,
    TargetsError,
    UnsupportedData,
)
from frugalkd.objectives import BinaryCrossEntropy, MultiLabelKD
from frugalkd.policies import EL2N, InfoBatch, Kakurenbo, SelectiveBackprop, SwiftLearn, Unix
from frugalkd.teachers.encodings import Dense, Values
from frugalkd.training.evaluation import measure_labels
from frugalkd.training.settings import Checkpointing
from ranking import on_ranks
from toys import same_columns, same_state, train_by_hand


class Rows(Dataset):
    """Inputs, and labels that a linear model has; ``listed``: as an attribute."""

    def __init__(self, rows=64, labels=3, seed=0, listed=True, kind=torch.float32, given=None):
        self.x = torch.randn(rows, 5, generator=torch.Generator().manual_seed(seed))
        weight = torch.randn(5, labels, generator=torch.Generator().manual_seed(9))
        self.y = (self.x @ weight > 0.7).to(kind) if given is None else given
        if listed:
            self.labels = self.y

    def __len__(self):
        return len(self.x)

    def __getitem__(self, id):
        return self.x[id], self.y[id]


class Unlabelled(Rows):
    def __getitem__(self, id):
        return (self.x[id],)


def net(seed=0, labels=3):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, labels))


def teacher_net(labels=3):
    linear = nn.Linear(5, labels)
    weight = torch.randn(5, labels, generator=torch.Generator().manual_seed(9))
    linear.weight.data, linear.bias.data = 4 * weight.T.clone(), torch.full((labels,), -2.8)
    return nn.Sequential(linear, nn.Identity())


GATE = SelfRegulation(confidence=0.6, max_skip=2)


def run(student=None, data=None, *, policy=GATE, objective=None, teacher=None, epochs=4, **more):
    return distill(
        net(1) if student is None else student,
        Rows() if data is None else data,
        teacher=teacher_net() if teacher is None else teacher,
        objective=MultiLabelKD() if objective is None else objective,
        sampling=Sampling(policy=policy),
        training=Training(epochs=epochs, batch_size=8, optimizer=Optimizer(lr=0.05)),
        device="cpu",
        **more,
    )


@pytest.mark.parametrize("listed", [True, False])
@pytest.mark.parametrize("source", ["label", "teacher"])
def test_a_part_of_the_rows_is_enough(listed, source):
    policy = SelfRegulation(confidence=0.6, max_skip=2, label_source=source)
    made = run(data=Rows(listed=listed), policy=policy, epochs=15, eval_dataset=Rows(50, seed=1))
    assert made.output == "several-labels"
    assert made.meters.samples_backpropagated < 0.9 * 15 * 64
    assert made.evaluation["macro_f1"] > 0.75
    assert made.evaluation["teacher_agreement"] > 0.8
    assert made.probabilities.shape == (50, 3)
    assert ("mean" in made.ledger.reference) is (source == "teacher")
    score = made.ledger["confidence"]
    assert made.ledger.distance == pytest.approx((1 - score) * made.ledger.reference["d0"])


@pytest.mark.parametrize("kind", [torch.bool, torch.int64])
def test_a_teacher_is_trained_on_labels_of_any_type(kind):
    runs = [
        train_teacher(
            net(),
            Rows(kind=each),
            objective=BinaryCrossEntropy(),
            sampling=Sampling(policy=GATE),
            training=Training(epochs=8, batch_size=8, optimizer=Optimizer(lr=0.05)),
            eval_dataset=Rows(kind=each),
            device="cpu",
        )
        for each in (kind, torch.float32)
    ]
    assert same_state(runs[0].model, runs[1].model)
    assert runs[0].evaluation == runs[1].evaluation
    assert 0 < runs[0].ledger.significance.mean() < 1


def test_without_labels_the_teachers_probabilities_stand_in():
    plain = run(data=Unlabelled(listed=False))
    free = distill(
        net(1), Rows(), teacher=teacher_net(), objective=MultiLabelKD(),
        sampling=Sampling(policy=GATE, label_free=True),
        training=Training(epochs=4, batch_size=8, optimizer=Optimizer(lr=0.05)), device="cpu",
    )  # fmt: skip
    assert same_state(plain.model, free.model)
    assert "mean" in free.ledger.reference


@pytest.mark.parametrize(
    "policy",
    [
        All(),
        InfoBatch(),
        Kakurenbo(confidence=0.2),
        SwiftLearn(),
        SelectiveBackprop(),
        SelfRegulation(when="now", confidence=0.6),
        SelfRegulation(budget=0.5),
        SelfRegulation(cost=0.5, probe=0.1),
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
    says = f"several labels are not one class a sample, and .* {why}"
    with pytest.raises(SelectionMisuse, match=says):
        run(policy=policy)


class Same(nn.Sequential):
    def forward(self, x):
        return super().forward(x) * 0 + 1


def of(value):
    labels = Rows().y.clone()
    labels[13, 1] = value
    return labels


JUDGED = SelfRegulation(label_source="teacher")
BAD = {
    "class indices": (
        lambda: run(data=Rows(given=torch.arange(64) % 3)), UnsupportedData,
        "int64 .*0 or 1 for each label",
    ),
    "class indices of items alone": (
        lambda: run(data=Rows(given=torch.arange(64) % 3, listed=False)), UnsupportedData,
        "labels are int64 .*0 or 1 for each label",
    ),
    "a listed label of NaN": (
        lambda: run(data=Rows(given=of(torch.nan))), DataError, "a label of sample 13 is nan"
    ),
    "a label of 2": (
        lambda: run(data=Rows(given=of(2.0), listed=False)), DataError, "a label of sample 13 is 2"
    ),
    "labels that do not vary": (
        lambda: run(data=Rows(given=torch.tensor([[1.0, 0, 1]]).repeat(64, 1), listed=False)),
        TargetsError, "all of 64 samples have the same labels",
    ),
    "a teacher of one answer": (
        lambda: run(policy=JUDGED, teacher=Same(*net())), TargetsError, "the same probabilities"
    ),
    "another number of labels": (
        lambda: run(net(labels=2)), ModelError, "gives 2 logits a sample, and there are 3 labels"
    ),
    "a teacher of other labels": (
        lambda: run(teacher=net(labels=2)), TargetsError, "the teacher has 2 several labels"
    ),
    "training dynamics": (
        lambda: distill(
            net(1), Rows(), teacher=teacher_net(), objective=MultiLabelKD(),
            sampling=Sampling(policy=GATE, dynamics=True), device="cpu",
        ),
        SelectionMisuse, "several labels have no training dynamics",
    ),
    "a head alone": (
        lambda: train_head(net(), Rows(), objective=BinaryCrossEntropy()), SettingError,
        "BinaryCrossEntropy learns several labels: call train_teacher",
    ),
    "stored differences of logits": (
        lambda: run(teacher=StoredTargets.fill(teacher_net(), Rows())), TargetsError,
        "reads the teacher's outputs themselves",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "kind", "says"), BAD.values(), ids=BAD)
def test_bad_input_gets_one_line(make, kind, says):
    with pytest.raises(kind, match=says) as caught:
        make()
    assert str(caught.value).isprintable()


def test_a_label_that_no_sample_has_is_a_warning():
    data = Rows()
    data.y[:, 1] = 0
    vars(data).update(classes=("red", "green", "blue"))
    with pytest.warns(FrugalKDWarning, match=r"is of 1 of the 3 classes \(green\)"):
        run(data=data, epochs=1)


@pytest.mark.parametrize("value", [-1.0, torch.nan])
def test_every_held_out_label_is_checked(value):
    """Not those of the first batch alone: -1 would count as a label that is not there."""
    held_out = Rows(given=of(value), listed=False)
    with pytest.raises(DataError, match=r"^held-out data: a label of sample 13 is (-1|nan)"):
        train_teacher(
            net(), Rows(), eval_dataset=held_out, objective=BinaryCrossEntropy(), device="cpu",
            training=Training(epochs=1, batch_size=32),
        )  # fmt: skip


def test_stored_logits_select_the_same_rows():
    live = run()
    exact = run(teacher=StoredTargets.fill(teacher_net(), Rows(), encoding=Dense("float32")))
    torch.testing.assert_close(live.model.state_dict(), exact.model.state_dict())
    assert np.array_equal(live.ledger["participations"], exact.ledger["participations"])
    near = run(teacher=StoredTargets.fill(teacher_net(), Rows(), encoding=Values()))
    torch.testing.assert_close(live.model.state_dict(), near.model.state_dict(), rtol=0, atol=0.05)


def stopping(after):
    calls = count(1)
    return lambda: next(calls) >= after


@pytest.mark.parametrize("source", ["label", "teacher"])
def test_a_stopped_training_resumes_bit_for_bit(tmp_path, source):
    """In the middle of an epoch, with what scores refer to."""
    policy = SelfRegulation(confidence=0.6, max_skip=1, label_source=source)
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
        assert whole.ledger.reference.keys() == resumed.ledger.reference.keys()
        for name, part in whole.ledger.reference.items():
            assert np.array_equal(part, resumed.ledger.reference[name])


def _on_two():
    made = run(policy=SelfRegulation(confidence=0.6, label_source="teacher"),
               eval_dataset=Rows(9, seed=1))  # fmt: skip
    weights = torch.cat([p.detach().flatten() for p in made.model.parameters()])
    return weights, made.ledger, made.evaluation


@pytest.mark.heavy
def test_two_ranks_share_one_reference_and_one_student():
    (first, ledger, measured), (second, other, _) = on_ranks(2, _on_two)
    assert torch.equal(first, second)
    assert same_columns(ledger, other)
    assert measured["samples"] == 9
    assert ledger.reference.keys() == {"mean", "d0"}
    for name, part in ledger.reference.items():
        assert np.array_equal(part, other.reference[name])


def test_an_own_loop_comes_to_what_distill_does():
    student, objective = net(1), MultiLabelKD()
    selection = Selection(
        Rows(), epochs=4, batch_size=8, model=student, targets=LiveTeacher(teacher_net()),
        sampling=Sampling(policy=GATE, output="several-labels"),
    )  # fmt: skip
    train_by_hand(selection, student, objective, rate=0.05)
    made = run()
    torch.testing.assert_close(student.state_dict(), made.model.state_dict(), rtol=1e-4, atol=1e-5)
    assert np.array_equal(selection.ledger["participations"], made.ledger["participations"])


def test_measures_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics", reason="needs the extra report")
    stream = np.random.default_rng(0)
    right = (stream.random((80, 6)) < 0.3).astype(np.float32)
    given = stream.random((80, 6)).round(1).astype(np.float32)  # with equal scores
    given[:, 5] = 0.1  # which is never predicted
    found = measure_labels(given, right, given)
    said = given >= 0.5
    for name in ("micro", "macro"):
        wanted = metrics.f1_score(right, said, average=name, zero_division=0)
        assert found[f"{name}_f1"] == pytest.approx(wanted)
    wanted = metrics.average_precision_score(right, given, average="macro")
    assert found["mean_average_precision"] == pytest.approx(wanted)
    assert found["teacher_agreement"] == 1
    assert measure_labels(given, np.zeros_like(right))["mean_average_precision"] is None
