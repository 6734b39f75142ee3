"""Bad data, models, objectives, policies and settings by every way in: one typed line each.

A row of a table is a kind of fault, and what its message has to name: the sample, the field, or
the part that is at fault. What is accepted on purpose stands in tables of its own, with the reason.
"""

# pyright: reportArgumentType=false, reportAssignmentType=false
from __future__ import annotations

import math
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    default_collate,
)

from frugalkd import (
    KD,
    All,
    CrossEntropy,
    DataLoading,
    EMATeacher,
    Ledger,
    LiveTeacher,
    Objective,
    Optimizer,
    Sampling,
    Schedule,
    Selection,
    SelfRegulation,
    SeveralTeachers,
    StoredTargets,
    Targets,
    Training,
    distill,
    gate,
    train_head,
    train_teacher,
)
from frugalkd.errors import FrugalKDError, OutOfMemory
from frugalkd.policies import EL2N, Plan, Policy, Ungated
from frugalkd.training.evaluation import predict
from frugalkd.training.settings import Checkpointing
from toys import grouped

ROWS, WIDTH, CLASSES, BAD = 24, 6, 4, 17
SHORT = Training(epochs=1, batch_size=8)
NAN = math.nan
NAMED = f"sample {BAD}"


def linear(classes=CLASSES, width=WIDTH):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Linear(width, classes)


class Pairs(Dataset):
    """Good pairs but for the samples in ``bad``, with ``change`` made to each of them."""

    def __init__(self, change=lambda x, y: (x, y), bad=None, rows=ROWS):
        self.x = torch.randn(max(1, rows), WIDTH, generator=torch.Generator().manual_seed(0))
        self.change, self.bad, self.rows = change, bad or {}, rows

    def __len__(self):
        return self.rows

    def __getitem__(self, id):
        if not 0 <= id < ROWS:
            raise IndexError(f"no row {id}")
        return self.bad.get(id, self.change)(self.x[id], id % CLASSES)


def one(change, others=lambda x, y: (x, y)) -> Pairs:
    """The sample BAD alone is changed."""
    return Pairs(others, {BAD: change})


def mine(**attributes) -> Any:
    """Pairs whose class has methods or attributes of its own."""
    return type("Mine", (Pairs,), attributes)()


def fails(error) -> Any:
    """A function that raises, whatever it is given."""

    def fail(*_, **__):
        raise error

    return fail


class Mute(Exception):
    """An error whose text fails too."""

    def __str__(self):
        raise ValueError("mute")


def refused(says: str, call: Callable[[], Any]) -> None:
    """The call ends in a FrugalKDError: one line that can be printed, and names what is wrong."""
    with pytest.raises(FrugalKDError) as caught:
        call()
    said = str(caught.value)
    assert said.isprintable(), said
    assert len(said) < 500, said
    assert says in said


# The ways in.


PAIRS = Pairs()
SAMPLING = {field.name for field in fields(Sampling)} - {"ledger"}
LOADING = {field.name for field in fields(DataLoading)}


def plain_loop(data: Any = PAIRS, model=None, step=None, **settings):
    """A loop of the user's around a Selection; ``step`` in the place of its own. ``settings`` are
    those of Selection, Sampling and DataLoading."""
    model = linear() if model is None else model
    sampling: dict[str, Any] = {"policy": SelfRegulation(when="now")}
    sampling |= {key: settings.pop(key) for key in SAMPLING if key in settings}
    loading = {key: settings.pop(key) for key in LOADING if key in settings}
    selection = Selection(
        data,
        **{"epochs": 1, "batch_size": 8, **settings},
        sampling=Sampling(**sampling),
        model=model,
        loading=DataLoading(**loading),
    )

    def train(batch):
        inputs = batch.data[0] if isinstance(batch.data, tuple | list) else batch.data
        batch.observe(model(inputs), batch.labels)

    for epoch in selection:
        for batch in epoch:
            (step or train)(batch)


def taught(model=None, data: Any = PAIRS, **settings):
    model = linear() if model is None else model
    given: dict[str, Any] = {"training": SHORT, "device": "cpu", "policy": All(), **settings}
    return train_teacher(model, data, **grouped(**given))


def distilled(model=None, data: Any = PAIRS, **settings):
    given: dict[str, Any] = {"training": SHORT, "device": "cpu", "teacher": linear(), **settings}
    return distill(linear() if model is None else model, data, **grouped(**given))


TRAINING = ("train_teacher", "distill", "Selection")
WAYS: dict[str, Callable[[Any, Any], Any]] = {
    "train_teacher": lambda data, model: taught(model, data),
    "distill": lambda data, model: distilled(model, data, mode="regulated"),
    "Selection": plain_loop,
    "store": lambda data, model: StoredTargets.fill(model, data, batch_size=8),
    "predict": lambda data, model: predict(model, data, batch_size=8),
    "train_head": lambda data, model: train_head(model, data, training=SHORT, device="cpu"),
}


# Data. Each row: how to make it, what the message names; the ways, where these are not all.

Kind = tuple[Callable[[], Any], str] | tuple[Callable[[], Any], str, tuple[str, ...]]

READ: dict[str, Kind] = {
    "raises two lines": (lambda: one(fails(ValueError("a\n\x1b[31mb"))), f"{NAMED} cannot be read"),
    "raises OSError": (lambda: one(fails(FileNotFoundError(2, "gone", "a.png"))), "'a.png'"),
    "raises StopIteration": (lambda: one(fails(StopIteration())), NAMED),
    "raises KeyError": (lambda: one(fails(KeyError("label"))), NAMED),
    "raises without text": (lambda: one(fails(AssertionError())), NAMED),
    "raises what has no text": (lambda: one(fails(Mute())), NAMED),
    "raises a long text": (lambda: one(fails(ValueError("x" * 10_000))), NAMED),
    "None": (lambda: one(lambda x, y: None), f"{NAMED} has the form None"),
    "an input of None": (lambda: one(lambda x, y: (None, y)), f"{NAMED} has the form (None, int)"),
    "a label of None": (lambda: one(lambda x, y: (x, None)), NAMED),
    "a label of text": (lambda: one(lambda x, y: (x, "cat")), NAMED),
    "a label of 2.5": (lambda: one(lambda x, y: (x, 2.5)), NAMED),
    "a label of NaN": (lambda: one(lambda x, y: (x, NAN)), NAMED),
    "a label of two numbers": (lambda: one(lambda x, y: (x, torch.tensor([y, y]))), NAMED),
    "a label of 70 bits": (lambda: one(lambda x, y: (x, 2**70)), "cannot be put into a batch"),
    "an input of text": (lambda: one(lambda x, y: ("text", y)), NAMED),
    "an input of another size": (lambda: one(lambda x, y: (x[:4], y)), "(float32 (4,), int)"),
    "an input of other dimensions": (lambda: one(lambda x, y: (x[None], y)), NAMED),
    "an input of float64": (lambda: one(lambda x, y: (x.double(), y)), NAMED),
    "an input of uint8": (lambda: one(lambda x, y: (x.to(torch.uint8), y)), NAMED),
    "a sparse input": (lambda: one(lambda x, y: (x.to_sparse(), y)), NAMED),
    "an input without data": (lambda: one(lambda x, y: (x.to("meta"), y)), NAMED),
    "inputs without data": (lambda: Pairs(lambda x, y: (x.to("meta"), y)), "sample"),
    "a triple among pairs": (lambda: one(lambda x, y: (x, y, y)), NAMED),
    "lists of other lengths": (lambda: Pairs(lambda x, y: ([1.0] * (y + 1), y)), "sample"),
    "a key is missing": (
        lambda: one(lambda x, y: {"input": x}, lambda x, y: {"input": x, "label": y}), NAMED
    ),
    "objects": (lambda: Pairs(lambda x, y: (object(), y)), "each of the form (object, int)"),
    "generators": (lambda: Pairs(lambda x, y: ((v for v in x), y)), "(generator, int)"),
    "arrays of objects": (lambda: Pairs(lambda x, y: (np.array([object()]), y)), "(object (1,)"),
    "arrays of text": (lambda: Pairs(lambda x, y: (np.array(["a"]), y)), "cannot be put"),
    "complex labels": (lambda: Pairs(lambda x, y: (x, complex(y))), "(float32 (6,), complex)"),
    "a list of None": (lambda: [None] * ROWS, "each of the form None"),
    "labels of text": (lambda: Pairs(lambda x, y: (x, "cat")), "(str, str"),
    "labels of text by key": (lambda: Pairs(lambda x, y: {"x": x, "label": "a"}), "labels are"),
    "labels of 0.0, 1.0": (lambda: Pairs(lambda x, y: (x, float(y))), "labels are float64"),
    "labels of booleans": (
        lambda: Pairs(lambda x, y: (x, torch.tensor(y > 1))), "labels are bool"
    ),
    "labels that are one-hot": (
        lambda: Pairs(lambda x, y: (x, torch.eye(CLASSES)[y])), "labels are float32",
        (*TRAINING, "predict", "train_head"),  # a store reads no labels
    ),
    "labels of shape (1,)": (
        lambda: Pairs(lambda x, y: (x, torch.tensor([y]))), "labels are int64"
    ),
    "labels in lists": (lambda: Pairs(lambda x, y: (x, [y])), ", (int64 ("),
    "triples": (lambda: Pairs(lambda x, y: (x, y, y)), "a batch of the form (float32"),
    "empty tuples": (lambda: Pairs(lambda x, y: ()), "a batch of the form ()"),
    "empty": (lambda: Pairs(rows=0), "is empty"),
    "a length below 0": (lambda: Pairs(rows=-1), "the length of this Pairs is not known"),
    "a length that raises": (lambda: mine(__len__=fails(RuntimeError("?"))), "the length of this"),
    "a length of 2.5": (lambda: mine(__len__=lambda self: 2.5), "the length of this Mine"),
    "a length that is too long": (lambda: Pairs(rows=ROWS + 5), "sample 2"),
    "iterable": (
        lambda: type("It", (IterableDataset,), {"__iter__": lambda self: iter([])})(), "map-style"
    ),
    "a DataLoader": (lambda: DataLoader(Pairs()), "give its .dataset"),
    "text": (lambda: "digits", "str is not map-style"),
    "nothing": (lambda: None, "NoneType is not map-style"),
    "a number": (lambda: 5, "int is not map-style"),
    "a dictionary": (lambda: {0: 1}, "dict is not map-style"),
    "a set": (lambda: {1, 2}, "set is not map-style"),
    "a class": (lambda: Pairs, "class Pairs is not map-style"),
    "a generator": (lambda: (pair for pair in Pairs()), "generator is not map-style"),
    "a Subset of rows that are not there": (lambda: Subset(Pairs(), [0, 1, 99]), "sample 2"),
    "view() raises": (lambda: mine(view=lambda self, id, view: fails(KeyError(id))()), "sample"),
    "batch() raises": (lambda: mine(batch=lambda self, ids, views: 1 / 0), "cannot be read"),
    "batch() gives None": (lambda: mine(batch=lambda self, ids, views: None), "is None"),
    "batch() leaves out a row": (
        lambda: mine(batch=lambda self, ids, views: (self.x[ids[1:]], torch.as_tensor(ids[1:]))),
        "rows, not",
    ),
    "batch() gives rows": (
        lambda: mine(batch=lambda self, ids, views: [self[id] for id in ids]), "a batch of"
    ),
    "row_bytes is text": (
        lambda: mine(batch=lambda self, ids, views: None, row_bytes="a"), "row_bytes is 'a'"
    ),
    "inputs are not finite": (lambda: Pairs(lambda x, y: (x * NAN, y)), "not finite"),
    "an input is not finite": (lambda: one(lambda x, y: (x * math.inf, y)), f"s {BAD}"),
    "digest() raises": (
        lambda: mine(digest=lambda self: fails(ValueError())()), "this Mine",
        ("train_teacher", "distill", "store", "train_head"),
    ),
    "inputs of another size": (lambda: Pairs(lambda x, y: (x[:4], y)), "fails on samples"),
    "inputs of float64": (lambda: Pairs(lambda x, y: (x.double(), y)), "fails on samples"),
    "inputs of integers": (lambda: Pairs(lambda x, y: (x.long(), y)), "fails on samples"),
    "inputs of text": (lambda: Pairs(lambda x, y: ("text", y)), "inputs are texts: give token ids"),
    "inputs of one number": (lambda: Pairs(lambda x, y: (float(y), y)), "fails on samples"),
    "a label below 0": (lambda: one(lambda x, y: (x, -1)), f"{NAMED} has label -1", TRAINING),
    "a label of no class": (lambda: one(lambda x, y: (x, 4)), f"{NAMED} has label 4", TRAINING),
    "no labels": (lambda: Pairs(lambda x, y: x), "have no labels", ("train_teacher", "Selection")),
    "data.labels raises": (
        lambda: mine(labels=property(fails(OSError("?")))), "data.labels", TRAINING[:2]
    ),
    "data.labels of text": (lambda: mine(labels=["a"] * ROWS), "data.labels are", TRAINING[:2]),
    "data.labels is too short": (lambda: mine(labels=[0] * 5), "shape (5,)", TRAINING[:2]),
    "data.classes raises": (
        lambda: mine(classes=property(fails(OSError("?")))), "data.classes", TRAINING[:2]
    ),
}  # fmt: skip


def rows_of(table: dict[str, Any], ways: tuple[str, ...], turns: tuple[str, ...]) -> list[Any]:
    """Each kind by all its ways, or by ``ways`` and, in turn, one of ``turns``."""
    return [
        pytest.param(make, says, way, id=f"{name}-{way}")
        for place, (name, (make, says, *only)) in enumerate(table.items())
        for way in (only[0] if only else (*ways, turns[place % len(turns)]))
    ]


@pytest.mark.parametrize(
    ("make", "says", "way"),
    rows_of(READ, ("train_teacher", "Selection"), ("store", "distill", "predict", "train_head")),
)
def test_bad_data(make, says, way):
    refused(says, lambda: WAYS[way](make(), linear()))


COLLATE: dict[str, tuple[Any, str]] = {
    "raises": (fails(ValueError("c")), "collate fails on samples"),
    "leaves out a row": (lambda samples: default_collate(samples[1:]), "rows, not"),
    "doubles rows": (lambda samples: default_collate(samples + samples), "rows, not"),
    "gives None": (lambda samples: None, "is None"),
    "gives a list": (lambda samples: samples, "a batch of"),
    "gives an object": (lambda samples: object(), ""),
    "leaves out an input": (
        lambda samples: (default_collate(samples[1:])[0], default_collate(samples)[1]), "float32"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("collate_fn", "says"), COLLATE.values(), ids=COLLATE)
def test_bad_collate(collate_fn, says):
    refused(says, lambda: taught(collate_fn=collate_fn))
    refused(says, lambda: plain_loop(collate_fn=collate_fn))
    refused(says, lambda: StoredTargets.fill(linear(), Pairs(), collate_fn=collate_fn))


ACCEPTED_DATA: dict[str, Callable[[], Any]] = {
    # Labels may be any whole numbers, in any form that torch collates.
    "labels of numpy": lambda: Pairs(lambda x, y: (x, np.int64(y))),
    "labels of int32 among int64": lambda: one(
        lambda x, y: (x, torch.tensor(y, dtype=torch.int32)), lambda x, y: (x, torch.tensor(y))
    ),
    # Python's own sequences are map-style.
    "a list of pairs": lambda: [(torch.zeros(WIDTH), 1)] * ROWS,
    "lists among tuples": lambda: one(lambda x, y: [x, y]),
    # One sample is few, and no fault.
    "one sample": lambda: Pairs(rows=1),
    # What lies behind a length that is too short is not used.
    "a length that is too short": lambda: Pairs(rows=ROWS - 5),
    # The number of classes in place of their names says nothing.
    "classes is a number": lambda: mine(classes=CLASSES),
    # The loop detaches nothing that a data set gives, and needs no gradient of it.
    "inputs that need gradients": lambda: Pairs(lambda x, y: (x.clone().requires_grad_(), y)),
}


@pytest.mark.parametrize("make", ACCEPTED_DATA.values(), ids=ACCEPTED_DATA)
def test_data_that_are_accepted(make):
    for way in ("train_teacher", "Selection", "store"):
        WAYS[way](make(), linear())


HELD_OUT: dict[str, tuple[Any, str]] = {
    "empty": (lambda: Pairs(rows=0), "held-out data: the data set is empty"),
    "of another size": (lambda: Pairs(lambda x, y: (x[:3], y)), "held-out data: the model fails"),
    "of another type": (lambda: Pairs(lambda x, y: (x.double(), y)), "held-out data: the model"),
    "without labels": (lambda: Pairs(lambda x, y: x), "held-out data: data without labels"),
    "labels of text": (
        lambda: Pairs(lambda x, y: (x, "cat")),
        "held-out data: a batch of the form",
    ),
    "labels of no class": (lambda: Pairs(lambda x, y: (x, 9)), "held-out data: sample 0 has label"),
    "a sample that raises": (lambda: one(fails(ValueError())), f"held-out data: {NAMED}"),
    "an input that is not finite": (lambda: one(lambda x, y: (x * NAN, y)), f"samples {BAD}"),
    "text": (lambda: "digits", "str is not map-style"),
}


@pytest.mark.parametrize(("make", "says"), HELD_OUT.values(), ids=HELD_OUT)
def test_bad_held_out_data(make, says, steps_done):
    refused(says, lambda: taught(eval_dataset=make()))
    if "samples" not in says and "sample 17" not in says:  # one sample is met when it is measured
        assert not steps_done


# Models.


class Changed(nn.Module):
    """A linear layer whose outputs are changed: always, in one mode, or from a call on."""

    def __init__(self, change, when=None):
        super().__init__()
        self.inner, self.change, self.when, self.calls = linear(), change, when, 0

    def forward(self, x):
        self.calls += 1
        outputs = self.inner(x)
        mode = "train" if self.training else "eval"
        now = self.calls >= self.when if isinstance(self.when, int) else self.when in (None, mode)
        return self.change(outputs) if now else outputs


class Bag:
    def __init__(self, logits):
        self.logits = logits


class NoParameters(nn.Module):
    def forward(self, x):
        return x[:, :CLASSES]


class NoForward(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = linear()


class TwoInputs(NoForward):
    def forward(self, x, more):
        return self.inner(x + more)


class NoEval(NoForward):
    def train(self, mode=True):
        if not mode:
            raise RuntimeError("no eval mode")
        return self

    def forward(self, x):
        return self.inner(x)


class Hooked(NoForward):
    def __init__(self):
        super().__init__()
        self.inner.register_forward_hook(fails(ValueError("hook")))

    def forward(self, x):
        return self.inner(x)


class Locked(NoForward):
    """Nothing can copy it."""

    def __init__(self):
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x):
        return self.inner(x)


class Remembering(NoForward):
    """It keeps an activation, which nothing can copy."""

    def forward(self, x):
        self.last = self.inner(x)
        return self.last


class SparseGradients(NoForward):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(3, CLASSES, sparse=True)

    def forward(self, x):
        return self.inner(x) + self.table(torch.zeros(len(x), dtype=torch.int64))


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, *gradients):
        raise ValueError("no gradient of mine")


class InPlace(NoForward):
    def forward(self, x):
        return self.inner(x).exp().add_(1)


def broken(model, change) -> Any:
    change(model)
    return model


BY_MODEL: dict[str, Callable[[Any], Any]] = {
    "student": taught,
    "gated": lambda model: taught(model, policy=SelfRegulation(when="now")),
    "teacher": lambda model: distilled(teacher=model),
    "teachers": lambda model: distilled(teacher=[model, linear()]),
    "store": lambda model: StoredTargets.fill(model, Pairs(), batch_size=8),
    "Selection": lambda model: plain_loop(model=model),
    "predict": lambda model: predict(model, Pairs(), batch_size=8),
}
TRAINED, TEACHING = ("student", "gated"), ("teacher", "teachers")
ANY = tuple(BY_MODEL)

MODELS: dict[str, Kind] = {
    "forward raises": (lambda: Changed(fails(ValueError("a\nb"))), "(ValueError: a b)"),
    "forward raises what has no text": (lambda: Changed(fails(Mute())), "(Mute)"),
    "forward raises StopIteration": (lambda: Changed(fails(StopIteration())), "(StopIteration)"),
    "forward raises in train mode": (
        lambda: Changed(fails(KeyError("k")), "train"), "the model fails on samples", TRAINED
    ),
    "forward raises in eval mode": (lambda: Changed(fails(KeyError("k")), "eval"), "fails on"),
    "forward raises at the third call": (
        lambda: Changed(fails(KeyError("k")), 3), "fails on samples",
        (*TRAINED, *TEACHING, "store", "predict"),
    ),
    "a hook raises": (Hooked, "(ValueError: hook)"),
    "no forward": (NoForward, "NotImplementedError"),
    "a list of modules": (lambda: nn.ModuleList([linear()]), "NotImplementedError"),
    "two inputs": (TwoInputs, "missing 1 required"),
    "no eval mode": (NoEval, "eval mode"),
    "returns a tuple": (lambda: Changed(lambda y: (y, y)), "gives a tuple"),
    "returns a dictionary": (lambda: Changed(lambda y: {"hidden": y}), "gives a dict of hidden"),
    "returns None": (lambda: Changed(lambda y: None), "gives a NoneType"),
    "returns a number": (lambda: Changed(lambda y: 1.5), "gives a float"),
    "returns an array": (lambda: Changed(lambda y: y.detach().numpy()), "gives a ndarray"),
    "returns logits of None": (lambda: Changed(lambda y: Bag(None)), "gives a NoneType"),
    "too few rows": (lambda: Changed(lambda y: y[1:]), "gives float32 ("),
    "too many rows": (lambda: Changed(lambda y: torch.cat([y, y])), "gives float32 ("),
    "one row": (lambda: Changed(lambda y: y.mean(0, keepdim=True)), "gives float32 ("),
    "one dimension": (lambda: Changed(lambda y: y[:, 0]), "gives float32 ("),
    "no dimension": (lambda: Changed(lambda y: y.sum()), "gives float32 ()"),
    "three dimensions": (lambda: Changed(lambda y: y[:, :, None]), "gives float32 ("),
    "no classes": (lambda: Changed(lambda y: y[:, :0]), "gives float32 ("),
    "integers": (lambda: Changed(lambda y: y.long()), "gives int64"),
    "classes in place of logits": (lambda: Changed(lambda y: y.argmax(1)), "gives int64"),
    "booleans": (lambda: Changed(lambda y: y > 0), "gives bool"),
    "complex numbers": (lambda: Changed(lambda y: y + 0j), "gives complex64"),
    "another device": (lambda: Changed(lambda y: y.to("meta")), "without data"),
    "a sparse tensor": (lambda: Changed(lambda y: y.to_sparse()), "sparse_coo"),
    "not finite": (
        lambda: Changed(lambda y: y * NAN), "finite", (*TRAINED, *TEACHING, "store", "predict")
    ),
    "infinite": (lambda: Changed(lambda y: y + math.inf), "finite"),
    "not finite in train mode": (lambda: Changed(lambda y: y * NAN, "train"), "finite", TRAINED),
    "weights that are not finite": (
        lambda: broken(linear(), lambda m: m.weight.data.fill_(NAN)), "finite"
    ),
    "fewer classes than labels": (
        lambda: linear(2), "and the model 2 classes", (*TRAINED, "Selection")
    ),
    "other classes than the student's": (lambda: linear(7), "classes", TEACHING),
    "classes that change": (
        lambda: Changed(lambda y: y[:, :3], 4), "", ("student", "teacher")
    ),
    "another width": (lambda: linear(width=9), "fails on"),
    "float64": (lambda: linear().double(), "fails on"),
    "float16": (lambda: linear().half(), "fails on"),
    "no parameters": (NoParameters, "no parameters", TRAINED),
    "all frozen": (lambda: linear().requires_grad_(False), "all 2 parameters", TRAINED),
    "detached": (lambda: Changed(lambda y: y.detach()), "no gradient reaches", TRAINED),
    "constant": (lambda: Changed(torch.zeros_like), "no gradient reaches", TRAINED),
    "backward raises": (
        lambda: Changed(NoBackward.apply), "the backward pass of samples", TRAINED
    ),
    "changed in place": (InPlace, "the backward pass of samples", TRAINED),
    "sparse gradients": (SparseGradients, "the optimiser's step", TRAINED),
    "lazy": (lambda: nn.LazyLinear(CLASSES), "is not initialised"),
    "on meta": (lambda: nn.Linear(WIDTH, CLASSES, device="meta"), "is not initialised"),
    "a function": (lambda: lambda x: x, "function"),
    "a class": (lambda: nn.Linear, "class"),
    "a name": (lambda: "resnet18", ""),
    "a state dict": (lambda: linear().state_dict(), "OrderedDict"),
}  # fmt: skip


@pytest.mark.parametrize(
    ("make", "says", "way"),
    rows_of(MODELS, ("student", "teacher"), ("store", "gated", "Selection", "teachers", "predict")),
)
def test_bad_models(make, says, way):
    refused(says, lambda: BY_MODEL[way](make()))


def test_a_model_that_cannot_be_copied():
    """It is trained, and its operations are counted on itself; an average needs a copy."""
    for model in (Locked(), Remembering()):
        flops = taught(model).meters.flops
        assert flops["student_forward"] == taught().meters.flops["student_forward"] > 0
        assert flops["student_backward"] == taught().meters.flops["student_backward"] > 0
        assert all(parameter.grad is None for parameter in model.parameters())
    averaged = replace(SHORT, ema=0.9)
    refused("cannot be copied", lambda: taught(Locked(), training=averaged))
    refused("cannot be copied", lambda: distilled(teacher=EMATeacher(Locked())))
    refused("not initialised", lambda: EMATeacher(nn.LazyLinear(3)))


ACCEPTED_MODELS: dict[str, tuple[Callable[[], Any], tuple[str, ...]]] = {
    # A teacher needs no gradient.
    "a detached teacher": (lambda: Changed(lambda y: y.detach()), (*TEACHING, "store")),
    "a frozen teacher": (lambda: linear().requires_grad_(False), (*TEACHING, "store")),
    "a teacher without parameters": (NoParameters, (*TEACHING, "store", "predict")),
    "a teacher without a backward": (lambda: Changed(NoBackward.apply), (*TEACHING, "store")),
    # Probabilities cannot be distinguished from logits, and are some.
    "softmax": (lambda: Changed(lambda y: y.softmax(1)), ANY),
    # What transformers' models return.
    "an object with logits": (lambda: Changed(Bag), ("student", "teacher", "predict")),
    # Part of a model may serve another time.
    "unused parameters": (lambda: broken(linear(), lambda m: m.add_module("more", linear())), ANY),
    # More classes than there are labels of.
    "more classes": (lambda: linear(9), ("student", "Selection", "store", "predict")),
}


@pytest.mark.parametrize(("make", "ways"), ACCEPTED_MODELS.values(), ids=ACCEPTED_MODELS)
def test_models_that_are_accepted(make, ways):
    for way in ways:
        BY_MODEL[way](make())


class Answers(Targets):
    """Soft targets of a user's class."""

    views, queries = None, 0

    def __init__(self, answer):
        self.answer = answer

    def fetch(self, ids, views, data):
        return self.answer(len(ids))

    def truth(self, labels):
        return np.zeros(ROWS, np.float32)


TEACHERS: dict[str, tuple[Callable[[], Any], str]] = {
    "a path": (
        lambda: "runs/teacher",
        "teacher must be a Module, a Targets, a list or None, not 'runs",
    ),
    "a dictionary": (lambda: {"big": linear()}, "teacher must be"),
    "no teacher in a list": (list, "0 of several teachers"),
    "names in a list": (lambda: ["a", "b"], "teacher 1 must be a Module or a Targets, not 'a'"),
    "two of other classes": (lambda: [linear(7), linear(4)], "different numbers of classes"),
    "targets that are None": (lambda: Answers(lambda n: None), "gives a NoneType"),
    "targets that are an array": (lambda: Answers(lambda n: np.zeros((n, 4))), "gives a ndarray"),
    "targets of too few rows": (lambda: Answers(lambda n: torch.zeros(n - 1, 4)), "gives float32"),
    "targets of integers": (lambda: Answers(lambda n: torch.zeros(n, 4).int()), "int32"),
    "targets of other classes": (lambda: Answers(lambda n: torch.zeros(n, 7)), "(8, 7)"),
    "targets that raise": (lambda: Answers(fails(ValueError("t"))), "Answers.fetch fails on"),
    "targets that are not finite": (lambda: Answers(lambda n: torch.full((n, 4), NAN)), "finite"),
}


@pytest.mark.parametrize(("make", "says"), TEACHERS.values(), ids=TEACHERS)
def test_bad_teachers(make, says):
    refused(says, lambda: distilled(teacher=make()))


# Objectives.


class Mine(Objective):
    needs_targets = False

    def __init__(self, change):
        self.change = change

    def __call__(self, logits, targets, labels):
        return self.change(CrossEntropy()(logits, targets, labels))


OBJECTIVES: dict[str, tuple[Callable[[], Any], str]] = {
    "raises": (lambda: Mine(fails(ValueError("a\nb"))), "Mine fails on logits (8, 4)"),
    "a mean": (lambda: Mine(lambda losses: losses.mean()), "Mine gives float32 ()"),
    "a column": (lambda: Mine(lambda losses: losses[:, None]), "Mine gives float32 (8, 1)"),
    "too few": (lambda: Mine(lambda losses: losses[1:]), "Mine gives float32 (7,)"),
    "a number": (lambda: Mine(lambda losses: 1.0), "Mine gives float"),
    "None": (lambda: Mine(lambda losses: None), "Mine gives None"),
    "a tuple": (lambda: Mine(lambda losses: (losses, losses)), "Mine gives (float32"),
    "integers": (lambda: Mine(lambda losses: losses.long()), "losses of type torch.int64"),
    "complex numbers": (lambda: Mine(lambda losses: losses + 0j), "torch.complex64"),
    "detached": (lambda: Mine(lambda losses: losses.detach()), "without a gradient"),
    "of nothing that is trained": (
        lambda: Mine(lambda losses: torch.ones(8, requires_grad=True) * 1), "no gradient reaches"
    ),
    "not finite": (lambda: Mine(lambda losses: losses * NAN), "the loss is not finite"),
    "backward raises": (lambda: Mine(NoBackward.apply), "the backward pass"),
    "torch's own": (nn.CrossEntropyLoss, "objective must be an Objective, not CrossEntropyLoss()"),
    "a function": (lambda: lambda *given: 0, "objective must be"),
    "a name": (lambda: "kd", "objective must be an Objective, not 'kd'"),
    "a class": (lambda: KD, "objective must be"),
    "one that needs a teacher": (KD, "teacher"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), OBJECTIVES.values(), ids=OBJECTIVES)
def test_bad_objectives(make, says):
    refused(says, lambda: taught(objective=make()))
    refused(says, lambda: distilled(teacher=None, objective=make()))


# Policies.


class Plans(Ungated):
    columns: Any = {}  # noqa: RUF012

    def __init__(self, plan=Plan, **attributes):
        self.make = plan
        vars(self).update(attributes)

    def plan(self, ledger, pool, at):
        return self.make(pool)


class Screens(Policy):
    """Screens everything before each epoch."""

    when = "last-visit"

    def __init__(self, needs_training=None, skips=None, note=None):
        self._admit = needs_training or (lambda rows: np.ones(rows, bool))
        self._skips = skips or (lambda rows: np.zeros(rows, np.int64))
        self._note = note or (lambda rows: {})

    def plan(self, ledger, pool, at):
        return Plan(pool, screen=pool[ledger["last_epoch"][pool] != at.epoch])

    def needs_training(self, outcome, ids, ledger, at):
        return self._admit(len(ids))

    def skip_epochs(self, streak):
        return self._skips(len(streak))

    def update_columns(self, outcome, ids, ledger, at):
        return self._note(len(ids))


def weighing(weights) -> Callable[[], Any]:
    return lambda: Plans(lambda pool: Plan(pool, weights(len(pool))))


POLICIES: dict[str, tuple[Callable[[], Any], str]] = {
    "plan raises": (lambda: Plans(fails(ValueError("a\nb"))), "Plans.plan fails in epoch 0"),
    "plans None": (lambda: Plans(lambda pool: None), "returns a NoneType"),
    "plans ids alone": (lambda: Plans(lambda pool: pool), "returns a ndarray"),
    "ids of no sample": (lambda: Plans(lambda pool: Plan(pool + 1)), "reach from 1 to 24"),
    "ids below 0": (lambda: Plans(lambda pool: Plan(pool - 1)), "reach from -1"),
    "ids twice": (lambda: Plans(lambda pool: Plan(pool // 2)), "twice"),
    "ids of int32": (lambda: Plans(lambda pool: Plan(pool.astype(np.int32))), "ids must be"),
    "ids of floats": (lambda: Plans(lambda pool: Plan(pool * 1.0)), "ids must be"),
    "ids in a list": (lambda: Plans(lambda pool: Plan([0, 1])), "ids must be"),
    "ids in a tensor": (lambda: Plans(lambda pool: Plan(torch.arange(3))), "ids must be"),
    "ids in two dimensions": (lambda: Plans(lambda pool: Plan(pool[None])), "ids must be"),
    "a mask": (lambda: Plans(lambda pool: Plan(pool > 3)), "ids must be"),
    "weights below 0": (weighing(lambda n: np.full(n, -1.0, np.float32)), "sample 0 weighs -1"),
    "weights of NaN": (weighing(lambda n: np.full(n, NAN, np.float32)), "sample 0 weighs nan"),
    "weights of inf": (weighing(lambda n: np.full(n, np.inf, np.float32)), "0 weighs inf"),
    "too few weights": (weighing(lambda n: np.ones(3, np.float32)), "are float32 (3,)"),
    "weights in a list": (weighing(lambda n: [1.0] * n), "weights are a list"),
    "weights of integers": (weighing(lambda n: np.ones(n, np.int64)), "weights are int64"),
    "too few marks": (
        lambda: Plans(lambda pool: Plan(pool, forced=np.ones(3, bool))), "forced are bool (3,)"
    ),
    "marks of integers": (
        lambda: Plans(lambda pool: Plan(pool, forced=np.ones(len(pool), int))), "forced are int64"
    ),
    "screens no sample": (lambda: Plans(lambda pool: Plan(pool, screen=pool + 9)), "screen reach"),
    "lr_factor of NaN": (lambda: Plans(lambda pool: Plan(pool, lr_factor=NAN)), "lr_factor"),
    "lr_factor below 0": (lambda: Plans(lambda pool: Plan(pool, lr_factor=-1)), "lr_factor"),
    "lr_factor of text": (lambda: Plans(lambda pool: Plan(pool, lr_factor="1")), "lr_factor"),
    "the gate raises": (
        lambda: Screens(needs_training=fails(ValueError("a"))),
        "Screens fails on the outcome",
    ),
    "the gate gives None": (
        lambda: Screens(needs_training=lambda rows: None),
        "needs_training returns a NoneType",
    ),
    "the gate gives floats": (
        lambda: Screens(needs_training=np.ones),
        "needs_training returns float64",
    ),
    "the gate gives too few": (
        lambda: Screens(needs_training=lambda rows: np.ones(1, bool)),
        "returns bool (1,)",
    ),
    "skipping raises": (lambda: Screens(skips=fails(ValueError("a"))), "Screens.skip_epochs fails"),
    "skipping below 0": (lambda: Screens(skips=lambda rows: np.full(rows, -3)), "returns -3"),
    "skipping gives floats": (lambda: Screens(skips=np.ones), "skip_epochs returns float64"),
    "skipping gives too few": (lambda: Screens(skips=lambda rows: np.ones(1, int)), "int64 (1,)"),
    "note names no column": (lambda: Screens(note=lambda rows: {"x": np.ones(rows)}), "'x'"),
    "note gives None": (lambda: Screens(note=lambda rows: None), "Screens fails on the outcome"),
    "note gives too few": (lambda: Screens(note=lambda rows: {"loss": np.ones(3)}), "(3,)"),
    "columns of no type": (lambda: Plans(columns={"x": "any"}), "'x' is of no numpy type"),
    "columns of the ledger's": (lambda: Plans(columns={"visits": "float32"}), "'visits'"),
    "columns in a list": (lambda: Plans(columns=["x"]), "Plans.columns"),
    "another when": (lambda: Plans(when="later"), "Plans.when"),
    "another label_source": (lambda: Plans(label_source="me"), "Plans.label_source"),
    "a name": (lambda: "all", "policy must be a Policy or None, not 'all'"),
    "a class": (lambda: All, "policy must be"),
    "a function": (lambda: lambda *given: None, "policy must be"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), POLICIES.values(), ids=POLICIES)
def test_bad_policies(make, says):
    refused(says, lambda: taught(policy=make()))
    refused(says, lambda: distilled(policy=make()))
    refused(says, lambda: plain_loop(policy=make()))


def test_a_plan_of_samples_without_weight():
    weights = np.ones(ROWS, np.float32)
    weights[[3, 5]] = 0
    policy = Plans(lambda pool: Plan(np.arange(ROWS)))
    refused(
        "name samples 3, 5, which have weight 0", lambda: plain_loop(policy=policy, weights=weights)
    )


@pytest.mark.parametrize(
    "plan",
    [
        lambda pool: Plan(pool[::-1].copy()),  # the order says nothing
        lambda pool: Plan(pool, np.ones(len(pool))),  # float64 is precise enough
        lambda pool: Plan(pool[:0]),  # an epoch of nothing
        lambda pool: Plan(pool, stop=True),
    ],
)
@pytest.mark.filterwarnings("ignore:nothing was trained")
def test_plans_that_are_accepted(plan):
    taught(policy=Plans(plan))


# Settings and arguments.

OPTIMIZER = {
    "lr": [-1, NAN, math.inf, "0.1", None, True, 1j, 10**400],
    "weight_decay": [-1, "x"],
    "momentum": [1, -0.1, "0.9"],
    "betas": [(0.9, 1), (0.9,), 0.9, (-1, 0.9), ("a", "b")],
    "name": ["adam", None, torch.optim.Adam],
}
SCHEDULE = {"shape": ["step", 3], "warmup": [-1, 1.5, 1], "final": [-1, NAN]}
TRAINING_FIELDS = {
    "epochs": [0, -1, NAN, math.inf, "3", None, True, 70_000, 10**400],
    "batch_size": [0, -1, 2.5, 8.0, "8", None, True, 10**30],
    "gradient_accumulation_steps": [0, 1.5, 10**30],
    "screen_batch": [0, -1],
    "max_grad_norm": [0, NAN, "1"],
    "precision": ["fp16", None],
    "ema": [1, -0.1, NAN, "0.9"],
    "recalibrate_bn": [-1, 1.5],
    "num_workers": [-1, 1.5, 10**6],
    "length_bucket_batches": [-1],
    "compile": ["yes"],
    "drop_last": [1],
    "optimizer": [torch.optim.Adam, {"lr": 1}, "adamw"],
    "schedule": ["cosine"],
}
CHECKPOINTING = {"steps": [-1, 1.5], "minutes": [-1, NAN], "keep": [0, "2"]}


@pytest.mark.parametrize(
    ("make", "field", "value"),
    [
        pytest.param(make, field, value, id=f"{make.__name__}-{field}-{str(value)[:12]}")
        for make, fields in (
            (Optimizer, OPTIMIZER), (Schedule, SCHEDULE), (Training, TRAINING_FIELDS),
            (Checkpointing, CHECKPOINTING),
        )
        for field, values in fields.items()
        for value in values
    ],
)  # fmt: skip
def test_bad_settings(make, field, value):
    refused(field, lambda: make(**{field: value}))
    with pytest.raises(ValueError, match=field):
        make(**{field: value})


ARGUMENTS: dict[str, tuple[Callable[..., Any], dict[str, Any], str]] = {
    "seed of 26 digits": (taught, {"seed": 10**25}, "not 1000000"),
    "seed below 0": (taught, {"seed": -1}, "seed"),
    "seed of 1.5": (taught, {"seed": 1.5}, "seed"),
    "seed of text": (taught, {"seed": "1"}, "seed"),
    "seed is True": (taught, {"seed": True}, "seed"),
    "a head's seed": (lambda **s: train_head(linear(), Pairs(), **s), {"seed": 2**64}, "seed"),
    "training is a dictionary": (taught, {"training": {"epochs": 1}}, "training must"),
    "device": (taught, {"device": "gpu"}, "did you mean cuda"),
    "device is None": (taught, {"device": None}, "device"),
    "collate_fn": (taught, {"collate_fn": "x"}, "collate_fn"),
    "on_epoch_end": (taught, {"on_epoch_end": 5}, "on_epoch_end"),
    "should_stop": (taught, {"should_stop": 5}, "should_stop"),
    "folder": (taught, {"folder": 5}, "folder is not a path"),
    "folder with a NUL": (taught, {"folder": "a\0b"}, "folder is not a path"),
    "folder in a file": (taught, {"folder": "/dev/null/x"}, "/dev/null"),
    "checkpointing": (taught, {"checkpointing": {"keep": 1}}, "checkpointing"),
    "eval_dataset": (taught, {"eval_dataset": 5}, "int is not map-style"),
    "nothing is left": (
        taught, {"training": replace(SHORT, drop_last=True, batch_size=64)}, "drop_last"
    ),
    "mode": (distilled, {"mode": "fancy"}, "fancy"),
    "mode is a number": (distilled, {"mode": 3}, "mode must be"),
    "mode and policy": (distilled, {"mode": "vanilla", "policy": All()}, "mode"),
    "ledger is a path": (distilled, {"mode": "hybrid", "ledger": "runs/x"}, "ledger must be"),
    "ledger of other data": (distilled, {"mode": "hybrid", "ledger": Ledger.new(5)}, "5 samples"),
    "regulation": (distilled, {"mode": "regulated", "regulation": All()}, "regulation"),
    "gamma": (distilled, {"mode": "hybrid", "ledger": Ledger.new(ROWS), "gamma": NAN}, "gamma"),
    "too few weights": (distilled, {"weights": np.ones(5)}, "weights"),
    "weights below 0": (distilled, {"weights": -np.ones(ROWS)}, "weights"),
    "weights of NaN": (distilled, {"weights": np.full(ROWS, NAN)}, "weights"),
    "weights of 0": (distilled, {"weights": np.zeros(ROWS)}, "weights"),
    "weights of text": (distilled, {"weights": ["a"] * ROWS}, "weights"),
    "weights of None": (distilled, {"weights": [None] * ROWS}, "weights"),
    "complex weights": (distilled, {"weights": np.ones(ROWS, complex)}, "weights"),
    "ragged weights": (distilled, {"weights": [[1], [1, 2]]}, "weights"),
    "no scores": (distilled, {"policy": EL2N(budget=0.5)}, "scores"),
    "too few scores": (distilled, {"policy": EL2N(budget=0.5), "scores": np.ones(3)}, "scores"),
    "scores of NaN": (
        distilled, {"policy": EL2N(budget=0.5), "scores": np.full(ROWS, NAN)}, "scores"
    ),
    "no labels and no teacher": (
        distilled, {"label_free": True, "teacher": None, "objective": CrossEntropy()}, "label-free"
    ),
    "a selection's batch_size": (plain_loop, {"batch_size": 2.5}, "batch_size"),
    "a selection's epochs": (plain_loop, {"epochs": "x"}, "epochs"),
    "a selection's seed": (plain_loop, {"seed": 10**25}, "seed"),
    "a selection's workers": (plain_loop, {"num_workers": -1}, "num_workers"),
    "a selection's ledger": (plain_loop, {"ledger": "x"}, "ledger"),
    "a ledger without the policy's column": (
        plain_loop,
        {"ledger": Ledger.new(ROWS), "policy": EL2N(budget=0.5), "scores": np.ones(ROWS)}, "score",
    ),
    "a selection's targets": (plain_loop, {"targets": linear()}, "targets must be"),
    "a selection's ranks": (plain_loop, {"ranks": 2}, "ranks"),
    "a selection's device": (plain_loop, {"device": "gpux"}, "device gpux"),
    "a selection's forward": (plain_loop, {"forward": fails(ValueError("f"))}, "fails on samples"),
    "a forward that is none": (plain_loop, {"forward": lambda data: None}, "gives a NoneType"),
    "labels raise": (plain_loop, {"labels": fails(ValueError("l"))}, "given as labels fails"),
    "labels are text": (plain_loop, {"labels": lambda data: "x"}, "labels are str"),
    "labels are floats": (plain_loop, {"labels": lambda data: data[1] / 2}, "labels are float32"),
    "labels are too few": (
        plain_loop, {"labels": lambda data: data[1][:2], "policy": All()}, "labels are int64 (2,)"
    ),
    "join raises": (
        plain_loop,
        {"join": fails(ValueError("j")), "batch_size": 5, "forward": lambda data: 9.0 * (
            torch.arange(len(data[1])) % 2 * nn.functional.one_hot(data[1], 4).T).T},
        "say how with join=",
    ),
    "logits in an array": (plain_loop, {"step": lambda b: b.observe(np.zeros((8, 4)))}, "ndarray"),
    "logits without data": (
        plain_loop, {"step": lambda b: b.observe(torch.zeros(8, 4, device="meta"))}, "without data"
    ),
    "labels of no class": (
        plain_loop, {"step": lambda b: b.observe(torch.zeros(8, 4), b.labels + 9)}, "has label"
    ),
    "losses in one number": (
        plain_loop, {"step": lambda b: b.observe(torch.zeros(8, 4), b.labels, 1.0)}, "losses are"
    ),
    "a mean is reduced": (plain_loop, {"step": lambda b: b.reduce(torch.ones(()))}, "losses are"),
    "nothing is observed": (plain_loop, {"step": lambda b: None}, "was not observed"),
    "a store's views": (StoredTargets.fill, {"views": 0}, "views"),
    "a store's batch_size": (StoredTargets.fill, {"batch_size": 0}, "batch_size"),
    "a store's device": (StoredTargets.fill, {"device": "gpux"}, "device gpux"),
    "a store's encoding": (StoredTargets.fill, {"encoding": "float16"}, "encoding"),
    "a store's ids": (StoredTargets.fill, {"ids": np.array([99])}, "ids reach"),
    "a store's features": (StoredTargets.fill, {"features": ["nope"]}, "'nope'"),
    "predict's batch_size": (predict, {"batch_size": 0}, "batch_size"),
    "a live teacher's precision": (lambda **s: LiveTeacher(linear(), **s), {"precision": "x"}, "x"),
    "an average's decay": (lambda **s: EMATeacher(linear(), **s), {"decay": 2}, "decay"),
    "a mean's seed": (
        lambda **s: SeveralTeachers([linear(), linear()], **s), {"seed": 2**64}, "seed"
    ),
    "a gate's logits": (gate, {"logits": torch.zeros(3), "labels": torch.zeros(3).long()}, "(3,)"),
    "a gate's labels": (gate, {"logits": torch.zeros(3, 4), "labels": torch.zeros(3)}, "labels"),
    "a gate's rows": (
        gate, {"logits": torch.zeros(3, 4), "labels": torch.zeros(2).long()}, "2 labels for 3"
    ),
    "a gate's classes": (
        gate, {"logits": torch.zeros(3, 4), "labels": torch.tensor([0, 9, 0])}, "label 9"
    ),
    "KD's temperature": (KD, {"temperature": "4"}, "temperature"),
    "a policy's setting": (SelfRegulation, {"confidence": "high"}, "confidence"),
    "a policy's choice": (SelfRegulation, {"when": "later"}, "when"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "settings", "says"), ARGUMENTS.values(), ids=ARGUMENTS)
def test_bad_arguments(call, settings, says):
    given = (linear(), Pairs()) if call in (StoredTargets.fill, predict) else ()
    refused(says, lambda: call(*given, **settings))


# The command line.

OWN = """
import torch
from torch import nn
from torch.utils.data import TensorDataset

x, y = torch.randn(24, 6), torch.arange(24) % 4

class Torn(TensorDataset):
    def __getitem__(self, id):
        if id == 17:
            raise OSError("torn\\nred")
        return super().__getitem__(id)

class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = net()
    def forward(self, x):
        return self.inner(x), x

def net(): return nn.Linear(6, 4)
def narrow(): return nn.Linear(5, 4)
def lazy(): return nn.LazyLinear(4)
def frozen(): return net().requires_grad_(False)
def text(): return "resnet"
def fails(): raise ValueError("a\\nb")
def good(): return TensorDataset(x, y), TensorDataset(x, y)
def torn(): return Torn(x, y), None
def eval_dataset(): return TensorDataset(x, y), TensorDataset(x, y + 9)
def nothing(): return None
def numbers(): return iter(x), None
number = 5
"""

COMMANDS: dict[str, tuple[dict[str, Any], str]] = {
    "a sample that raises": (
        {"data": "torn"},
        "error: sample 17 cannot be read (OSError: torn red)",
    ),
    "held-out labels": ({"data": "eval_dataset"}, "error: held-out data: sample 0 has label 9"),
    "no data": ({"data": "nothing"}, "error: NoneType is not map-style"),
    "an iterator": ({"data": "numbers"}, "error: tuple_iterator is not map-style"),
    "data that cannot be made": ({"data": "fails"}, "ValueError: a"),
    "a model that cannot be made": ({"model": "fails"}, "ValueError: a"),
    "no model": ({"model": "text"}, "made a str, not a torch module"),
    "a number": ({"model": "number"}, "name a class or a function"),
    "another width": ({"model": "narrow"}, "error: the model fails on samples 0, 1"),
    "a tuple": ({"model": "Pair"}, "error: the model gives a tuple"),
    "a lazy model": ({"model": "lazy"}, "is not initialised"),
    "a frozen model": ({"model": "frozen"}, "error: all 2 parameters of the model are frozen"),
    "100,000 threads": ({"threads": 100_000}, "error: threads: 100000 are too many"),
    "threads of 28 digits": ({"threads": 10**27}, "are too many for this machine"),
    "a seed of 26 digits": ({"seed": 10**25}, "error: seed is 1"),
    "100,000 workers": ({"teacher.training.num_workers": 100_000}, "num_workers"),
    "a batch of 10^30": ({"teacher.training.batch_size": 10**30}, "batch_size"),
}


@pytest.mark.parametrize(("settings", "says"), COMMANDS.values(), ids=COMMANDS)
def test_bad_recipes(settings, says, cli, tmp_path, monkeypatch):
    name = f"own_{abs(hash(tmp_path))}"  # Python imports a module of one name once
    (tmp_path / f"{name}.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    own = {"data": "good", "model": "net"} | settings
    wanted = {
        "data.path": f"{name}:{own.pop('data')}",
        "teacher.model.path": f"{name}:{own.pop('model')}",
        "teacher.augment.crop": 0, "teacher.training.epochs": 1, **own,
    }  # fmt: skip
    command = ["teach", "digits", "--out", str(tmp_path / "run")]
    for key, value in wanted.items():
        command += ["--set", f"{key}={value}"]
    code, out, err = cli(*command)
    *progress, line = err.splitlines()
    assert (code, out) == (2, "")
    assert says in line
    assert not any("Traceback" in other for other in progress)
    if own:  # a setting is refused by a dry run, too
        code, out, again = cli(*command, "--dry-run")
        assert (code, out, again) == (2, "", err)


def test_more_seeds_than_can_be():
    from frugalkd.experiments.comparison.run import ComparisonRun
    from frugalkd.experiments.recipes.load import load_recipe

    recipe = load_recipe("digits")
    for seeds, says in (
        (10**12, "seeds must be"),
        ([-1], "seed"),
        ([10**25], "seed must be 0 or more"),
    ):
        refused(
            says, lambda seeds=seeds: ComparisonRun(recipe, ["vanilla"], seeds, Path("nowhere"))
        )


# Interrupts, memory errors and a callback's own errors pass.


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, MemoryError])
def test_interrupts_and_memory_pass(error):
    for call in (
        lambda: plain_loop(one(fails(error()))),
        lambda: plain_loop(model=Changed(fails(error()))),
        lambda: plain_loop(policy=Plans(fails(error()))),
    ):
        with pytest.raises(error):
            call()
    wanted = OutOfMemory if error is MemoryError else error
    for model, objective in (
        (Changed(fails(error())), None), (None, Mine(fails(error()))),
    ):  # fmt: skip
        with pytest.raises(wanted):
            taught(model, objective=objective)


@pytest.mark.parametrize("name", ["on_epoch_end", "should_stop"])
def test_errors_of_a_callback_are_the_callers_own(name):
    with pytest.raises(ValueError, match=r"^mine$"):
        taught(**{name: fails(ValueError("mine"))})


# Worker processes.


class Forking(DataLoader):
    """Forked workers start at once; the loader spawns them, which takes seconds."""

    def __init__(self, *args, **settings):
        if settings.get("num_workers"):
            settings["multiprocessing_context"] = "fork"
        super().__init__(*args, **settings)


class Dying(Pairs):
    """Reading the sample BAD raises, or ends the process."""

    def __init__(self, how):
        super().__init__()
        self.how, self.change = how, None

    def __getitem__(self, id):
        if id == BAD and self.how == "raise":
            raise ValueError("torn\n\x1b[31mred")
        if id == BAD and os.getpid() != PARENT:
            os._exit(3) if self.how == "exit" else os.kill(os.getpid(), signal.SIGKILL)
        return self.x[id], id % CLASSES


PARENT = os.getpid()


@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("raise", f"{NAMED} cannot be read (ValueError: torn ?[31mred)"),
        ("exit", "a worker process died while samples 23, 0, 22, 11, 17, 12, 13, 21"),
        ("kill", "a worker process died while samples 23, 0, 22, 11, 17, 12, 13, 21"),
    ],
)
@pytest.mark.heavy
def test_a_worker_that_fails(how, says, monkeypatch):
    monkeypatch.setattr("frugalkd.data.source.DataLoader", Forking)
    refused(says, lambda: plain_loop(Dying(how), num_workers=1))
    training = replace(SHORT, num_workers=1)
    if how != "raise":  # which is met before, where the data are read for their digest
        refused("worker process died", lambda: taught(data=Dying(how), training=training))
