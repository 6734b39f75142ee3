"""Meters against hooks on the models, label-free distillation, and what is refused."""

from __future__ import annotations

import copy
import itertools
from contextlib import ExitStack
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, TensorDataset

from frugalkd import Sampling
from frugalkd.errors import DataError, LedgerError, SettingError, TargetsError, UnsupportedData
from frugalkd.ledger.ledger import Ledger
from frugalkd.models import reorder_classes
from frugalkd.models.flops import flops_of_data
from frugalkd.models.origin import origin_of
from frugalkd.objectives import KD, CrossEntropy
from frugalkd.policies import All, SelfRegulation
from frugalkd.policies.modes import MODES, significance_weights
from frugalkd.selection import Selection
from frugalkd.teachers import EMATeacher, FirstVisitTargets, LiveTeacher, StoredTargets
from frugalkd.teachers.encodings import Dense
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.settings import Optimizer, Training
from toys import CLASSES, Scaled, grouped, images, kinds, net, same_columns, same_state

TRAINING = Training(epochs=4.5, batch_size=8, optimizer=Optimizer("sgd", lr=0.05))
CPU = {"device": "cpu", "seed": 3}


class Counter:
    """Rows through a model, forward and backward, counted by hooks."""

    def __init__(self, model):
        self.forwards = self.backwards = self.modes = 0
        self.in_train_mode = 0
        model.register_forward_hook(self.forward)

    def forward(self, model, inputs, output):
        self.forwards += len(output)
        self.in_train_mode += len(output) * model.training
        if output.requires_grad:
            output.register_hook(self.backward)

    def backward(self, gradient):
        self.backwards += len(gradient)


def ledger(samples=37):
    made = Ledger.new(samples)
    made["participations"][:] = np.arange(samples) % 5
    made.epochs = 4
    return made


@pytest.fixture
def no_flops(monkeypatch):
    """FLOPs are counted on copies of the model, whose hooks would count too; nor is the first batch
    at two samples, before the training, part of what is metered."""
    nothing = {"forward": 0.0, "backward": 0.0}
    monkeypatch.setattr("frugalkd.training.api.flops_of_data", lambda *_, **__: nothing)
    monkeypatch.setattr("frugalkd.selection._selection.check_first_batch", lambda *_, **__: CLASSES)


def check_meters(run, student, teacher=None):
    meters = run.meters
    assert meters.samples_backpropagated == student.backwards > 0
    assert meters.student_forwards == student.forwards
    assert meters.teacher_queries == (teacher.forwards if teacher else 0)
    if teacher:
        assert teacher.backwards == teacher.in_train_mode == 0
    ledger = run.ledger
    rows = sum(record["rows"] for record in run.history)
    assert rows == meters.samples_backpropagated
    idle = sum(record["idle"] for record in run.history)
    assert ledger["participations"].sum() + ledger["forced"].sum() + idle == rows


CASES = [
    (mode, when, recalibrate)
    for mode, when in itertools.product(MODES, ["now", "last-visit"])
    for recalibrate in (0, 20)
    if MODES[mode].gated or when == "last-visit"
]


@pytest.mark.usefixtures("no_flops")
@pytest.mark.parametrize(("mode", "when", "recalibrate"), CASES)
def test_meters_of_a_distillation_are_the_hooks_counts(mode, when, recalibrate):
    student, teacher = net(1), net(2)
    on_student, on_teacher = Counter(student), Counter(teacher)
    run = distill(
        student,
        images(),
        **grouped(
            teacher=teacher,
            mode=mode,
            ledger=ledger(),
            regulation=SelfRegulation(confidence=0.5, when=when, max_skip=1),
            training=Training(**{**vars(TRAINING), "recalibrate_bn": recalibrate}),
            **CPU,
        ),
    )
    check_meters(run, on_student, on_teacher)
    assert run.meters.teacher_queries == run.meters.samples_backpropagated
    if MODES[mode].weighted:
        assert not run.ledger["visits"][::5].any()
    if not MODES[mode].gated:
        assert run.meters.student_forwards == run.meters.samples_backpropagated + recalibrate
    else:
        assert run.meters.student_forwards > run.meters.samples_backpropagated + recalibrate


@pytest.mark.usefixtures("no_flops")
@pytest.mark.parametrize("when", ["now", "last-visit"])
@pytest.mark.parametrize("drop_last", [False, True])
def test_meters_of_a_teachers_training_are_the_hooks_counts(when, drop_last):
    model = net(1)
    counter = Counter(model)
    run = train_teacher(
        model,
        images(),
        **grouped(
            policy=SelfRegulation(confidence=0.5, when=when, max_skip=1, warmup=1),
            training=Training(**{**vars(TRAINING), "drop_last": drop_last}),
            **CPU,
        ),
    )
    check_meters(run, counter)


@pytest.mark.usefixtures("no_flops")
@pytest.mark.parametrize("listed", [True, False])
def test_a_ceiling_queries_a_live_teacher_ahead(listed, tmp_path):
    """The same run as with stored targets; every query is counted, each of a store once."""
    data: Any = images(augmented=False)
    if not listed:
        data = list(data)  # its labels are read with the items
    gate = SelfRegulation(0.4, ceiling=0.9, budget_schedule="early", budget=0.5)
    settings = {"sampling": Sampling(regulation=gate), "training": TRAINING, **CPU}
    stored = net(1)
    kept = StoredTargets.fill(net(2), data, encoding=Dense("float32"))
    wanted = distill(stored, data, teacher=kept, **settings)
    assert 0 < wanted.ledger["participations"].sum() < 37 * 5, "a gate that some pass"

    for store in (False, True):
        student, teacher = net(1), net(2)
        counter = Counter(teacher)
        with ExitStack() as stack:
            targets: Any = teacher
            if store:
                visited = FirstVisitTargets(
                    teacher, data, tmp_path / "t", encoding=Dense("float32")
                )
                targets = stack.enter_context(visited)
            run = distill(student, data, teacher=targets, **settings)
        # A teacher's outputs differ in their last bits by the size of the batch, on some CPUs.
        torch.testing.assert_close(student.state_dict(), stored.state_dict(), atol=1e-4, rtol=1e-3)
        for column in ("participations", "forced", "visits"):
            assert (run.ledger[column] == wanted.ledger[column]).all()
        backpropagated = run.meters.samples_backpropagated
        assert run.meters.teacher_queries == counter.forwards
        assert counter.forwards == 37 + (0 if store else backpropagated)


def test_a_ceiling_on_a_changing_teacher_is_refused():
    gate, student = SelfRegulation(ceiling=0.9), net(1)
    with pytest.raises(TargetsError, match="this one changes with each step"):
        distill(
            student, images(), teacher=EMATeacher(student), sampling=Sampling(regulation=gate),
            training=TRAINING, **CPU,
        )  # fmt: skip


@pytest.mark.usefixtures("no_flops")
def test_stored_targets_query_the_teacher_once():
    student, teacher = net(1), net(2)
    on_student, on_teacher = Counter(student), Counter(teacher)
    stored = StoredTargets.fill(teacher, images(), views=2)
    assert on_teacher.forwards == stored.queries == 74
    run = distill(student, images(), **grouped(teacher=stored, training=TRAINING, **CPU))
    check_meters(run, on_student)
    assert on_teacher.forwards == 74


def test_flops_are_the_counters_rows_times_the_meters():
    student, teacher, data = net(1), net(2, width=8), images()
    run = distill(
        student,
        data,
        **grouped(
            teacher=teacher,
            mode="regulated",
            regulation=SelfRegulation(confidence=0.5),
            training=TRAINING,
            **CPU,
        ),
    )
    row = flops_of_data(student, data, torch.device("cpu"))
    of_teacher = flops_of_data(teacher, data, torch.device("cpu"))
    assert run.meters.flops == {
        "student_forward": row["forward"] * run.meters.student_forwards,
        "student_backward": row["backward"] * run.meters.samples_backpropagated,
        "teacher_forward": of_teacher["forward"] * run.meters.teacher_queries,
    }
    assert of_teacher["forward"] == 2 * row["forward"]
    meters = run.meters
    rows, screened = meters.samples_backpropagated, meters.student_forwards
    screened -= rows
    assert min(screened, meters.teacher_queries) > 0
    cost = (3 * rows + screened + 2 * meters.teacher_queries) / (3 * len(data))
    assert meters.cost(len(data)) == {"epochs": cost, "filling": 0.0, "teacher_ratio": 2.0}


def test_phases_add_up_to_no_more_than_the_wall():
    run = distill(
        net(1),
        TensorDataset(torch.randn(60, 1, 6, 6), torch.arange(60) % 4),
        **grouped(
            teacher=net(2),
            regulation=SelfRegulation(confidence=0.4, when="now"),
            mode="regulated",
            training=TRAINING,
            **CPU,
        ),
    )
    meters = run.meters
    assert sum(meters.phases.values()) <= meters.wall_seconds
    assert sum(meters.summary()["phases"].values()) == pytest.approx(meters.wall_seconds)


class Inputs(Dataset):
    """Inputs without labels."""

    def __init__(self, x):
        self.x = x

    def __len__(self):
        return len(self.x)

    def __getitem__(self, id):
        return self.x[id]


@pytest.mark.parametrize("when", ["now", "last-visit"])
@pytest.mark.parametrize("mode", ["vanilla", "regulated", "hybrid"])
def test_without_labels_the_teachers_top_class_stands_in(mode, when):
    x, teacher = torch.randn(37, 1, 6, 6, generator=torch.Generator().manual_seed(0)), net(2)
    with torch.no_grad():
        labels = teacher.eval()(x).argmax(dim=1)
    runs = [
        distill(
            net(1),
            data,
            **grouped(
                teacher=teacher,
                mode=mode,
                ledger=ledger(),
                regulation=SelfRegulation(confidence=0.5, when=when, max_skip=2),
                training=TRAINING,
                **CPU,
            ),
        )
        for data in (Inputs(x), TensorDataset(x, labels))
    ]
    assert same_state(runs[0].model, runs[1].model)
    assert same_columns(runs[0].ledger, runs[1].ledger)
    assert runs[0].ledger["visits"].any()


class InDict(torch.nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return {"logits": self.inner(x)}


def test_models_may_return_a_dict_with_logits():
    plain, wrapped, data = net(1), InDict(net(1)), images()
    for student, teacher in ((plain, net(2)), (wrapped, InDict(net(2)))):
        distill(student, data, teacher=teacher, training=TRAINING, eval_dataset=data, **CPU)
    assert same_state(plain, wrapped.inner)


def test_teacher_and_its_labels_are_untouched_by_distillation():
    teacher = net(2).train()
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    distill(net(1), images(), **grouped(teacher=teacher, training=TRAINING, **CPU))
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())
    assert teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def test_held_out_data_are_measured_apart():
    run = distill(
        net(1),
        images(),
        **grouped(
            teacher=net(2),
            training=TRAINING,
            eval_dataset=images(30, seed=1, augmented=False),
            **CPU,
        ),
    )
    assert run.evaluation is not None
    assert run.evaluation["samples"] == 30
    assert 0 <= run.evaluation["teacher_agreement"] <= 1
    assert run.meters.eval_seconds > 0
    assert not run.model.training


@pytest.mark.heavy
def test_a_self_regulated_teachers_ledger_weighs_the_student():
    data = images(60, augmented=False)
    training = Training(epochs=8, batch_size=8, optimizer=Optimizer("adamw", lr=0.01))
    policy = SelfRegulation(confidence=0.6, max_skip=1)
    taught = train_teacher(
        net(2, width=8), data, **grouped(policy=policy, training=training, **CPU)
    )
    weights = significance_weights(taught.ledger)
    assert (weights > 0).sum() > 0
    assert len(set(weights.tolist())) > 2
    by_mode = distill(
        net(1),
        data,
        **grouped(
            teacher=taught.model,
            mode="significance",
            ledger=taught.ledger,
            training=training,
            **CPU,
        ),
    )
    by_hand = distill(
        net(1),
        data,
        **grouped(teacher=taught.model, policy=All(), weights=weights, training=training, **CPU),
    )
    assert same_state(by_mode.model, by_hand.model)
    assert taught.ledger.about["data"] == data.digest()


def test_what_cannot_be_is_refused_in_one_line():
    data, teacher = images(), net(2)

    def refused(error, match, **settings):
        with pytest.raises(error, match=rf"^(?!.*\n).*{match}"):
            distill(
                net(1),
                settings.pop("data", data),
                **grouped(training=TRAINING, device="cpu", **settings),
            )

    refused(TargetsError, "needs a teacher", teacher=None)
    refused(LedgerError, "frugalkd teach", teacher=teacher, mode="hybrid")
    refused(LedgerError, "5 samples", teacher=teacher, mode="hybrid", ledger=ledger(5))
    other = ledger()
    other.about["data"] = "of other data"
    refused(LedgerError, "other data", teacher=teacher, mode="significance", ledger=other)
    refused(ValueError, "either one", teacher=teacher, mode="vanilla", policy=All())
    unlabelled = Inputs(torch.zeros(9, 1, 6, 6))
    refused(UnsupportedData, "no labels", teacher=None, data=unlabelled, objective=CrossEntropy())
    refused(DataError, "not finite", teacher=teacher, data=Inputs(unlabelled.x + torch.nan))
    for labels, message in ((torch.rand(9, 4), "multi-label"), (torch.rand(9), "regression")):
        mixed = TensorDataset(torch.zeros(9, 1, 6, 6), labels)
        refused(UnsupportedData, message, teacher=teacher, data=mixed, objective=KD())


@pytest.fixture(scope="module")
def knows_kinds():
    """A teacher that was trained here."""
    training = Training(epochs=8, batch_size=10, optimizer=Optimizer("adamw", lr=0.02))
    return train_teacher(
        Scaled(), kinds()[0], sampling=Sampling(policy=All()), training=training, device="cpu"
    ).model


def test_a_model_that_was_trained_here_knows_its_classes(knows_kinds, tmp_path):
    teacher, data = copy.deepcopy(knows_kinds), kinds(("dog", "ant", "bee", "cat"))[0]
    run, says = Training(epochs=1, batch_size=10), "the teacher has the data's classes in another"
    for query in (
        lambda: distill(Scaled(), data, teacher=teacher, training=run, device="cpu"),
        lambda: distill(Scaled(), data, teacher=[teacher, Scaled()], training=run, device="cpu"),
        lambda: Selection(data, epochs=1, batch_size=8, targets=LiveTeacher(teacher)),
        lambda: StoredTargets.fill(teacher, data, tmp_path / "t"),
        lambda: FirstVisitTargets(teacher, data, tmp_path / "t"),
    ):
        with pytest.raises(TargetsError, match=says):
            query()
    assert not (tmp_path / "t").exists()
    reorder_classes(teacher, data.classes)
    LiveTeacher(teacher).check(data)
    logits = StoredTargets.fill(teacher, data).all_logits()
    assert np.mean(logits.argmax(1) == data.labels.numpy()) > 0.9


def test_pictures_of_another_normalisation_are_refused(knows_kinds):
    data, training = kinds(mean=0.1)[0], Training(epochs=1, batch_size=10)
    says = r"trained on pictures of mean \(0\.5,\) and std .* these are normalised by \(0\.1,\)"
    with pytest.raises(TargetsError, match=says):
        distill(Scaled(), data, teacher=knows_kinds, training=training, device="cpu")


def test_a_student_may_be_its_own_teacher_on_other_data(knows_kinds):
    data, student = kinds(("w", "x", "y", "z"), mean=0.1)[0], copy.deepcopy(knows_kinds)
    training = Training(epochs=1, batch_size=10)
    run = distill(student, data, teacher=EMATeacher(student), training=training, device="cpu")
    assert origin_of(run.model).classes == ("w", "x", "y", "z")


@pytest.mark.parametrize(
    ("eval_dataset", "says"),
    [
        ({"classes": ("dog", "ant", "bee", "cat")}, r"class 0 is 'ant' and 'dog'"),
        ({"mean": 0.1}, r"held-out ones by \(\(0\.1,\), \(0\.25,\)\)"),
    ],
)
def test_held_out_data_of_another_kind_measure_nothing(eval_dataset, says):
    with pytest.raises(DataError, match=rf"^(?!.*\n).*{says}"):
        train_teacher(
            Scaled(),
            kinds()[0],
            eval_dataset=kinds(**eval_dataset)[1],
            training=TRAINING,
            device="cpu",
        )


def test_a_misspelt_mode_names_all_modes():
    with pytest.raises(SettingError, match="regulated or hybrid or None, not 'hybird'"):
        distill(net(), images(), **grouped(teacher=net(), mode="hybird", **CPU))  # pyright: ignore


def test_a_teacher_that_is_not_run_is_still_compared_with():
    teacher = net(seed=9)
    run = distill(
        net(), images(), teacher=teacher, objective=CrossEntropy(), eval_dataset=images(20, seed=3),
        training=Training(epochs=1, batch_size=8), device="cpu",
    )  # fmt: skip
    assert run.meters.teacher_queries == 0
    assert run.evaluation is not None
    assert run.evaluation["teacher_agreement"] is not None
