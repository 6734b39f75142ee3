"""Bad input: refused before the training, in one line; named after it, where it comes late."""

from __future__ import annotations

import warnings
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from frugalkd import DataLoading, Sampling
from frugalkd.data import ImageData
from frugalkd.errors import (
    DataError,
    FrugalKDWarning,
    LedgerError,
    ModelError,
    NonFiniteLoss,
    OutOfMemory,
    TargetsError,
    UnsupportedData,
)
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.origin import name_classes
from frugalkd.objectives import CrossEntropy
from frugalkd.policies import All, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.selection.checks import (
    check_first_batch,
    check_labels,
    check_listed,
    check_pair,
    labels_of,
)
from frugalkd.selection.inputs import weights_of
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.training.api import distill, train_teacher
from frugalkd.training.evaluation import predict
from frugalkd.training.heads import train_head
from frugalkd.training.settings import Optimizer, Training
from toys import CLASSES, grouped, images, net, same_state

TRAINING = Training(epochs=1, batch_size=8, optimizer=Optimizer(lr=1e-3))
CPU = torch.device("cpu")


class Pairs(Dataset):
    """(x, y) pairs without ``labels``."""

    def __init__(self, labels, width=6, holds_labels=False, classes=None):
        self.y = labels
        self.x = torch.randn(len(labels), width, generator=torch.Generator().manual_seed(0))
        if holds_labels:
            self.labels: Any = labels
        if classes is not None:
            self.classes = classes

    def __len__(self):
        return len(self.y)

    def __getitem__(self, id):
        return self.x[id], self.y[id]


def linear(classes=CLASSES, width=6):
    torch.manual_seed(0)
    return nn.Linear(width, classes)


def teach(data, model=None, **settings):
    return train_teacher(
        model or linear(),
        data,
        **grouped(policy=All(), training=TRAINING, device="cpu", **settings),
    )


def refused(error, says, call, *arguments, **settings):
    with pytest.raises(error) as caught:
        call(*arguments, **settings)
    assert type(caught.value) is error
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("held", [False, True])
@pytest.mark.parametrize("bad", [CLASSES, -1, 2**40])
@pytest.mark.parametrize("where", [0, 20])
def test_a_label_out_of_range_names_the_sample(held, bad, where):
    labels = [1] * 24
    labels[where] = bad
    says = f"sample {where} has label {bad}, and the model 4 classes: labels 0 .. 3 are possible"
    refused(DataError, says, teach, Pairs(labels, holds_labels=held))


def test_labels_that_count_from_one_are_recognised():
    refused(DataError, "seem to count from 1", teach, Pairs([1, 2, 3, 4] * 3, holds_labels=True))


def test_all_labels_that_the_model_has_classes_for_pass():
    teach(Pairs([0, 1, 2, 3] * 3, holds_labels=True))
    teach(Pairs([0, 1, 2, 3] * 3))


@pytest.mark.parametrize(
    ("labels", "says"),
    [
        ([0.5] * 9, "class indices (int64) are needed, one a sample; regression"),
        (torch.zeros(9), "class indices (int64) are needed, one a sample; regression"),
        (["cat"] * 9, "class indices"),
        ([[0, 1]] * 9, "shape (9, 2) for 9 samples"),
        ([0] * 8, "shape (8,) for 9 samples"),
        ([[0], [0, 1]], "class indices"),
        (None, None),
        (["cat", "dog", "eel"], None),
    ],
)
def test_labels_of_another_kind_are_refused(labels, says):
    data = Pairs([0] * 9)
    data.labels = labels
    if says is None:
        assert labels_of(data) is None
        assert teach(data).ledger.labels is None
    else:
        refused(UnsupportedData, says, teach, data)


@pytest.mark.parametrize(
    "given", [[2, 0, 1], np.array([2, 0, 1], np.uint8), torch.tensor([2, 0, 1])]
)
def test_labels_come_as_int64(given):
    data = Pairs([2, 0, 1])
    data.labels = given
    labels = labels_of(data)
    assert labels is not None
    assert labels.dtype == np.int64
    assert labels.tolist() == [2, 0, 1]


def test_regression_without_labels_attribute_is_refused():
    refused(UnsupportedData, "regression", teach, Pairs([0.5] * 9))
    one_hot = TensorDataset(torch.randn(9, 6), torch.eye(CLASSES)[torch.zeros(9, dtype=torch.long)])
    refused(UnsupportedData, "multi-label", teach, one_hot)


def test_a_class_without_a_sample_is_a_warning():
    data = Pairs([0, 1, 3] * 3, holds_labels=True, classes=("a", "b", "c", "d"))
    with pytest.warns(
        FrugalKDWarning, match=r"^no sample that is used is of 1 of the 4 classes \(c\): "
    ):
        teach(data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_labels(Pairs([0, 1], holds_labels=True, classes=("a", "b")), np.arange(2), 2)


def weighted(data, weights, **settings):
    return distill(
        linear(),
        data,
        **grouped(
            teacher=None,
            weights=np.array(weights, np.float32),
            objective=CrossEntropy(),
            training=TRAINING,
            device="cpu",
            **settings,
        ),
    )


@pytest.mark.parametrize("held", [False, True])
def test_only_samples_of_the_pool_are_evaluated(held):
    """The first and the last sample are of no class and not finite, and weigh nothing."""
    data = Pairs([-1, 0, 1, 2, 3, 255], holds_labels=held)
    data.x[[0, 5]] = torch.nan
    run = weighted(data, [0, 1, 1, 1, 1, 0])
    assert run.ledger["visits"].tolist() == [0, 1, 1, 1, 1, 0]
    data.x.nan_to_num_(0.0)
    refused(DataError, "sample 0 has label -1", weighted, data, [1, 1, 1, 1, 1, 0])
    refused(DataError, "sample 5 has label 255", weighted, data, [0, 1, 1, 1, 1, 1])


def test_a_class_whose_samples_all_weigh_nothing_is_a_warning():
    data = Pairs([0, 1, 2, 3] * 2, holds_labels=True, classes=("a", "b", "c", "d"))
    with pytest.warns(FrugalKDWarning, match=r"is of 1 of the 4 classes \(b\): "):
        weighted(data, [1, 0, 1, 1] * 2)


def test_held_labels_are_taken_at_their_word():
    """No sample is read for its label where the data set holds them all."""

    class Counting(Pairs):
        reads = 0

        def __getitem__(self, id):
            Counting.reads += 1
            return super().__getitem__(id)

    data = Counting([0, 1, 2, 3] * 50, holds_labels=True)
    check_labels(data, np.arange(200), CLASSES)
    assert np.array_equal(labels_of(data), data.labels)  # pyright: ignore[reportArgumentType]
    assert Counting.reads == 0


def contradicting(where):
    """Items whose label ``where`` is another one than ``data.labels`` says."""
    data = Pairs(torch.arange(24) % CLASSES)
    data.labels = data.y.clone()
    data.labels[where] = (data.y[where] + 1) % CLASSES
    return data


@pytest.mark.parametrize("where", [0, 20])
@pytest.mark.parametrize("policy", [All(), SelfRegulation(), SelfRegulation(when="now")])
def test_labels_that_contradict_the_items_are_refused(where, policy):
    says = f"sample {where} has label 0, and data.labels says 1: correct one"
    data = contradicting(where)
    for train in (train_teacher, train_head):
        settings = {"sampling": Sampling(policy=policy), "training": TRAINING, "device": "cpu"}
        refused(DataError, says, train, linear(), data, **settings)

    def loop(label_free=False, **settings):
        sampling = Sampling(policy=policy, label_free=label_free)
        made = Selection(
            data, epochs=1, batch_size=5, sampling=sampling, model=linear(), **settings
        )
        for batch in next(iter(made)):
            batch.observe(linear()(batch.data[0]), torch.zeros(len(batch.ids), dtype=torch.int64))

    refused(DataError, says, loop)
    loop(label_free=True, targets=LiveTeacher(linear()))
    loop(
        loading=DataLoading(labels=lambda batch: batch[1] // 2)
    )  # another question than data.labels answers


class OnDevice(torch.Tensor):
    """Says that it is on a device, where reading its values would wait."""

    device = torch.device("cuda")  # pyright: ignore


@pytest.mark.parametrize("where", [None, 0, 20])
def test_listed_labels_on_a_device_are_compared_once(where, monkeypatch):
    data = Pairs(torch.arange(24) % CLASSES) if where is None else contradicting(where)
    data.labels = data.y.clone() if where is None else data.labels
    reader = Selection(data, epochs=1, batch_size=4).reader
    reader._labels = lambda data: data[1].as_subclass(OnDevice)
    compared = []
    monkeypatch.setattr(
        "frugalkd.selection.rows.check_listed",
        lambda labels, *rest: compared.append(len(labels)) or check_listed(labels, *rest),
    )
    if where is None:
        assert len(list(reader.read(np.arange(len(data)), 4))) == 6
    else:
        says = f"sample {where} has label"
        refused(DataError, says, lambda: list(reader.read(np.arange(len(data)), 4)))
    assert compared == [len(data)]


class Wave(nn.Module):
    """A linear model with one complex weight."""

    def __init__(self):
        super().__init__()
        self.turn = nn.Parameter(torch.ones(CLASSES, dtype=torch.complex64))
        self.linear = linear()

    def forward(self, x):
        return self.linear(x) * self.turn.abs()


def test_complex_parameters_are_refused_before_training():
    says, data = "parameter turn is complex (torch.complex64)", Pairs([0, 1, 2] * 3)
    refused(ModelError, says, train_teacher, Wave(), data, device="cpu")
    refused(ModelError, says, Selection, data, epochs=1, batch_size=2, model=Wave())


def test_labels_that_are_no_indices_are_not_compared():
    data = Pairs(torch.arange(8) % CLASSES)
    for labels in (["a"] * 8, torch.zeros(8, 3), ["one", "two"]):
        data.labels = labels
        for batch in next(iter(Selection(data, epochs=1, batch_size=4))):
            batch.observe(torch.zeros(4, CLASSES))


def test_labels_stay_where_their_tensor_goes_to_shared_memory():
    data = Pairs(torch.arange(50_000) % CLASSES, holds_labels=True)
    labels = labels_of(data)
    data.labels.share_memory_()  # as when it is sent to a worker
    torch.zeros(50_000, dtype=torch.int64).fill_(99)
    assert labels is not None
    assert (labels == np.arange(50_000) % CLASSES).all()


def test_other_class_counts_of_teacher_and_student(tmp_path):
    data = images()
    wide = nn.Sequential(nn.Flatten(), nn.Linear(36, CLASSES + 1))

    def run(teacher):
        distill(
            net(),
            data,
            teacher=teacher,
            sampling=Sampling(policy=All()),
            training=TRAINING,
            device="cpu",
        )

    says = "the teacher has 5 classes and the student 4"
    refused(TargetsError, says, run, wide)
    refused(TargetsError, says, run, LiveTeacher(wide))
    refused(TargetsError, says, run, StoredTargets.fill(wide, data, tmp_path / "store"))
    # It does not matter where the teacher is not used.
    distill(
        net(),
        data,
        teacher=wide,
        sampling=Sampling(policy=All()),
        objective=CrossEntropy(),
        training=TRAINING,
        device="cpu",
    )


def test_the_check_of_the_first_batch_leaves_no_trace():
    model, before = net(), net()
    model.train()
    stream = torch.get_rng_state()
    at = {"pool": np.arange(len(images())), "forward": lambda data: model(data[0]), "device": CPU}
    assert check_first_batch(model, images(), None, **at) == CLASSES
    assert torch.equal(stream, torch.get_rng_state())
    assert all(module.training for module in model.modules())
    assert same_state(model, before)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (nn.Sequential(nn.Linear(6, 4), nn.Flatten(0)), "gives float32 (8,) for 2 rows"),
        (nn.Sequential(nn.Linear(6, 4), nn.Unflatten(1, (2, 2))), "gives float32 (2, 2, 2)"),
        (nn.LSTM(6, 4), "the model gives a tuple"),
    ],
)
def test_outputs_that_are_no_logits_are_refused(model, says):
    refused(ModelError, says, teach, Pairs([0] * 9), model)


class TinyForCausalLM(nn.Linear):
    """Of such a name."""


def test_embeddings_are_refused_and_many_outputs_a_warning():
    says = "TinyForCausalLM is for causal language modelling, and the data set is not a Corpus"
    refused(ModelError, says, teach, Pairs([0] * 9), TinyForCausalLM(6, 4))

    def check(width, data, labels=None, unit=False):
        model = nn.Linear(6, width)
        forward = model if not unit else lambda x: nn.functional.normalize(model(x))
        at: Any = {"pool": np.arange(len(data)), "device": CPU, "known_labels": labels}
        return check_first_batch(model, data, None, forward=lambda d: forward(d[0]), **at)

    few, many = Pairs([0, 1, 2] * 10), Pairs([0, 1, 2] * 30)
    refused(ModelError, "8 numbers a sample, of length 1", check, 8, few, unit=True)
    assert check(8, few, np.array(few.y)) == 8, "too few samples to know"
    assert check(6, many, np.array(many.y)) == 6, "half of them are not used"
    with pytest.warns(FrugalKDWarning, match="7 numbers a sample, and the data have labels of 3"):
        check(7, many, np.array(many.y))
    few = Pairs(few.y, classes=("a", "b", "c"))
    with pytest.warns(FrugalKDWarning, match="7 numbers a sample, and the data name 3 classes"):
        check(7, few)
    assert check(3, few, unit=True) == 3, "as many as the data name"
    few = Pairs([0, 1, 2] * 10)
    assert check(3, few, np.array(few.y), unit=True) == 3, "as many as there are labels"


def test_a_teacher_of_other_classes_than_the_students_config():
    student, teacher = nn.Linear(6, 2), nn.Linear(6, 2)
    student.config = SimpleNamespace(id2label={0: "Cat", 1: "Dog"})  # pyright: ignore
    name_classes(teacher, ["cat", "dog"])
    check_pair(student, teacher)
    name_classes(teacher, ["house cat", "dog"])  # the same, perhaps
    check_pair(student, teacher)
    name_classes(teacher, ["dog", "cat"])
    with pytest.raises(TargetsError, match="the student's classes in another order"):
        check_pair(student, teacher)


def test_a_teacher_of_another_shape_is_refused():
    teacher = LiveTeacher(nn.Sequential(nn.Linear(6, 4), nn.Flatten(0)))
    ids = np.arange(3)
    refused(ModelError, "float32 (12,) for 3 rows", teacher.fetch, ids, ids, torch.zeros(3, 6))


def test_training_a_student_may_not_change_its_teacher():
    model = net()

    def run(student, teacher):
        distill(
            student,
            images(),
            teacher=teacher,
            sampling=Sampling(policy=All()),
            training=TRAINING,
            device="cpu",
        )

    refused(ModelError, "the same object", run, model, model)
    refused(ModelError, "the same object", run, model, LiveTeacher(model))
    head = nn.Linear(36, CLASSES)
    sharing = nn.Sequential(nn.Flatten(), head)
    refused(
        ModelError, "share the parameter 1.weight", run, sharing, nn.Sequential(nn.Flatten(), head)
    )
    frozen = nn.Linear(36, 36).requires_grad_(False)
    both = [nn.Sequential(nn.Flatten(), frozen, nn.Linear(36, CLASSES)) for _ in range(2)]
    run(*both)


def test_a_teacher_left_in_training_mode_runs_in_eval_mode():
    data, student, teacher = images(), net(0), net(1)
    runs = []
    for training in (True, False):
        teacher.train(training)
        model = net(0)
        distill(
            model,
            data,
            teacher=teacher,
            sampling=Sampling(policy=All()),
            training=TRAINING,
            device="cpu",
        )
        assert all(module.training is training for module in teacher.modules())
        runs.append(model)
    assert same_state(*runs)
    assert not same_state(runs[0], student)


def poisoned(samples, at):
    data = Pairs([0, 1, 2, 3] * (samples // 4), holds_labels=True)
    data.x[at] = torch.nan
    return data


@pytest.mark.parametrize("policy", [All(), SelfRegulation(when="now")])
def test_inputs_that_are_not_finite_are_named(policy):
    def run(at):
        train_teacher(
            linear(),
            poisoned(24, at),
            sampling=Sampling(policy=policy),
            training=TRAINING,
            device="cpu",
        )

    refused(DataError, "the inputs of samples 1 are not finite", run, 1)
    says = "held-out data: the inputs of samples 1 are not finite"
    refused(DataError, says, teach, Pairs([0, 1, 2, 3]), eval_dataset=poisoned(24, 1))
    with pytest.raises(NonFiniteLoss) as caught:
        run([13, 17])
    assert set(caught.value.ids) <= {13, 17}
    assert str(caught.value).startswith("the data set's input is not finite at epoch 0")
    assert str(caught.value).endswith("clean or leave out these samples")


class Careful(nn.Module):
    """Ignores its last input."""

    def __init__(self):
        super().__init__()
        self.inner = linear(width=5)

    def forward(self, x):
        return self.inner(x[:, :5])


@pytest.mark.parametrize("policy", [All(), SelfRegulation(when="now"), SelfRegulation()])
def test_a_nan_that_the_model_ignores_does_not_matter(policy):
    data = Pairs([0, 1, 2, 3] * 3, holds_labels=True)
    data.x[:, 5] = torch.nan
    run = train_teacher(
        Careful(), data, sampling=Sampling(policy=policy), training=TRAINING, device="cpu"
    )
    assert run.ledger["visits"].min() == 1
    # Nor is it to blame for what comes of something else.
    model = Careful()
    with torch.no_grad():
        model.inner.bias[2] = -torch.inf
    with pytest.raises(NonFiniteLoss, match="learning rate"):
        train_teacher(
            model, data, sampling=Sampling(policy=policy), training=TRAINING, device="cpu"
        )


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_model_whose_outputs_are_not_finite_is_refused(value):
    model = linear()
    with torch.no_grad():
        model.bias[1] = value
    says = "the model's outputs for samples 0, 1 are not finite, and the inputs are"
    refused(ModelError, says, teach, Pairs([0, 1, 2, 3] * 3), model)


def test_a_class_that_the_model_rules_out_is_its_own_business():
    model = linear(CLASSES + 1)
    with torch.no_grad():
        model.bias[CLASSES] = -torch.inf
    assert np.isfinite(teach(Pairs([0, 1, 2, 3] * 3), model).history[0]["loss"])


@pytest.mark.parametrize("policy", [All(), SelfRegulation(when="now"), SelfRegulation()])
def test_a_model_of_bf16_weights_trains_under_bf16(policy, tmp_path):
    data = Pairs([0, 1, 2, 3] * 3, holds_labels=True)
    training = Training(epochs=2, batch_size=8, precision="bf16")
    settings = {"training": training, "eval_dataset": data, "device": "cpu"}
    run = train_teacher(
        linear().bfloat16(), data, **grouped(policy=policy, folder=tmp_path, **settings)
    )
    assert run.model.weight.dtype == torch.bfloat16
    assert np.isfinite(run.history[-1]["loss"])
    assert run.meters.flops["student_forward"] == 2 * 6 * CLASSES * run.meters.student_forwards
    teacher = LiveTeacher(run.model, precision="bf16")
    distill(linear().bfloat16(), data, **grouped(teacher=teacher, policy=policy, **settings))


def test_a_batch_that_one_row_spoils_names_that_row():
    data = poisoned(24, 13)
    model = nn.Sequential(nn.BatchNorm1d(6), linear())
    with pytest.raises(NonFiniteLoss) as caught:
        train_teacher(model, data, sampling=Sampling(policy=All()), training=TRAINING, device="cpu")
    assert caught.value.ids == [13]


def test_a_teacher_that_is_not_finite_is_named():
    class Overflows(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(()))

        def forward(self, x):
            logits = x.flatten(1)[:, :CLASSES] * self.scale
            return torch.where(x.sum((1, 2, 3))[:, None] == of_30, torch.inf, logits)

    data = images(augmented=False)
    of_30 = data.batch([30], [0])[0].sum()
    with pytest.raises(NonFiniteLoss) as caught:
        distill(
            net(),
            data,
            teacher=Overflows(),
            sampling=Sampling(policy=All()),
            training=TRAINING,
            device="cpu",
        )
    assert caught.value.ids == [30]
    assert str(caught.value).startswith("the teacher's output is not finite")


def test_a_training_that_diverges_stays_what_it_was():
    wild = Training(epochs=9, batch_size=8, optimizer=Optimizer(name="sgd", lr=1e30))
    deep = nn.Sequential(nn.Flatten(), linear(36, 36), linear(CLASSES, 36))
    with pytest.raises(NonFiniteLoss, match=r"^the (loss|output) is not finite.*learning rate"):
        train_teacher(deep, images(), sampling=Sampling(policy=All()), training=wild, device="cpu")


class Stream(IterableDataset):
    def __iter__(self):
        yield torch.zeros(6), 0


class Endless:
    def __getitem__(self, id):
        return torch.zeros(6), 0


class Countable:
    def __len__(self):
        return 3


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (Stream(), "Stream is not map-style"),
        (Endless(), "Endless is not map-style"),
        (Countable(), "Countable is not map-style"),
        (DataLoader(Pairs([0] * 9)), "give its .dataset"),
    ],
)
def test_data_that_are_not_map_style_are_refused_everywhere(data, says, tmp_path):
    good = Pairs([0, 1, 2, 3] * 3)
    refused(UnsupportedData, says, teach, data)
    refused(UnsupportedData, says, teach, good, eval_dataset=data)
    refused(UnsupportedData, says, distill, linear(), data, teacher=linear())
    refused(UnsupportedData, says, StoredTargets.fill, linear(), data, tmp_path / "store")
    refused(UnsupportedData, says, predict, linear(), data)
    refused(UnsupportedData, says, Selection, data, epochs=1, batch_size=2)


def test_a_batch_larger_than_the_data_may_not_be_dropped():
    dropping = Training(epochs=1, batch_size=10, drop_last=True)
    data = Pairs([0, 1, 2] * 3)
    with pytest.raises(DataError, match=r"leaves nothing of 9 samples in batches of 10"):
        train_teacher(
            linear(), data, sampling=Sampling(policy=All()), training=dropping, device="cpu"
        )


def test_changed_data_are_refused():
    data, ledger = Pairs([0, 1, 2, 3] * 3), Ledger.new(12)
    run = teach(data)
    assert run.ledger.about["data"]
    changed = Pairs([0, 1, 2, 3] * 3)
    changed.x[5] += 1
    weighed = [Sampling(mode="significance", ledger=each) for each in (run.ledger, ledger)]
    refused(LedgerError, "made on other data", weights_of, weighed[0], changed)
    refused(LedgerError, "ledger is of 12 samples", weights_of, weighed[1], Pairs([0] * 11))


def test_a_selection_refuses_what_was_made_on_other_data(tmp_path):
    data, changed = images(), images(seed=1)
    run = train_teacher(
        net(), data, sampling=Sampling(policy=All()), training=TRAINING, device="cpu"
    )
    stored = StoredTargets.fill(net(), data, tmp_path / "store")
    again: dict[str, Any] = {"epochs": 2, "batch_size": 8}
    says = "the ledger was made on other data, or these have changed: start with a new one"
    refused(LedgerError, says, Selection, changed, ledger=run.ledger, **again)
    says = "the stored soft targets belong to another data set"
    refused(TargetsError, says, Selection, changed, targets=stored, **again)
    says = "the ledger is the record of another training: start with a new one"
    refused(LedgerError, says, Selection, data, ledger=run.ledger, **again)
    Selection(data, ledger=Ledger.new(len(data)), targets=stored, **again)


def test_ids_of_a_filling_are_checked(tmp_path):
    def fill(ids):
        StoredTargets.fill(net(), images(), tmp_path / "store", ids=np.asarray(ids))

    refused(TargetsError, "ids reach from -1 to 2: the data set has 0 .. 36", fill, [2, -1])
    refused(TargetsError, "ids reach from 0 to 37", fill, [0, 37])


class Exhausting(nn.Module):
    """Runs out of memory for batches of more than two rows, as torch says it."""

    def __init__(self):
        super().__init__()
        self.inner = linear()

    def forward(self, x):
        if len(x) > 2:
            torch.empty(1 << 50)
        return self.inner(x)


def test_running_out_of_memory_names_the_batch_size():
    data = Pairs([0, 1, 2, 3] * 3)
    says = "out of memory for batches of 8 (screenings of 256): lower training.batch_size"
    refused(OutOfMemory, says, teach, data, Exhausting())
    refused(OutOfMemory, "batches of 1000", predict, Exhausting(), data)
    refused(OutOfMemory, "batches of 256", StoredTargets.fill, Exhausting(), data)


def test_images_are_not_mistaken():
    assert isinstance(images(), ImageData)
    assert labels_of(images()) is not None
