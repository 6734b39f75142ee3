"""A model's outputs under the names and in the order of the data's classes."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from frugalkd.data.table import Column, Columns, TableData
from frugalkd.errors import TargetsError
from frugalkd.models import name_classes, reorder_classes
from frugalkd.models.origin import InputColumnsHook, Origin, note_origin, origin_of, trained_on
from frugalkd.teachers.live import LiveTeacher
from toys import images, net

X = torch.rand(5, 1, 6, 6)
ABCD, BDAC = tuple("abcd"), tuple("bdac")


class WithLogits(nn.Module):
    """As models of transformers answer."""

    answers = True

    def forward(self, x):
        if self.answers:
            return SimpleNamespace(logits=x.flatten(1)[:, :4], loss=None)


class InDict(nn.Module):
    """As some models of one's own do."""

    def forward(self, x):
        return {"logits": x.flatten(1)[:, :4], "more": 1}


def test_outputs_are_given_in_another_order_from_then_on():
    model = net(0).eval()
    own = model(X)
    name_classes(model, ABCD)
    assert torch.equal(model(X), own)
    reorder_classes(model, BDAC)
    assert torch.equal(model(X), own[:, [1, 3, 0, 2]])
    assert torch.equal(copy.deepcopy(model)(X), model(X))
    assert origin_of(copy.deepcopy(model)).classes == BDAC
    reorder_classes(model, BDAC)
    assert torch.equal(model(X), own[:, [1, 3, 0, 2]])
    reorder_classes(model, ABCD)
    assert torch.equal(model(X), own)


def test_logits_inside_an_output_are_reordered():
    model, own = WithLogits(), WithLogits()(X).logits
    name_classes(model, ABCD)
    reorder_classes(model, BDAC)
    assert torch.equal(model(X).logits, own[:, [1, 3, 0, 2]])
    model.answers = False
    assert model(X) is None
    model = InDict()
    name_classes(model, ABCD)
    reorder_classes(model, BDAC)
    assert torch.equal(model(X)["logits"], own[:, [1, 3, 0, 2]])
    assert model(X)["more"] == 1


def test_names_that_are_not_there_cannot_be_reordered():
    with pytest.raises(TargetsError, match="call name_classes first"):
        reorder_classes(net(0), ABCD)
    model = net(0)
    name_classes(model, ABCD)
    with pytest.raises(TargetsError, match="the model has other classes"):
        reorder_classes(model, "abce")


def test_names_for_another_number_of_outputs_are_refused():
    model = net(0).eval()
    name_classes(model, "abc")
    reorder_classes(model, "cab")
    with pytest.raises(TargetsError, match="gives 4 classes and has names for 3"):
        model(X)


def test_data_say_what_a_model_is_trained_on():
    said = trained_on(images(3))
    assert said == {"classes": tuple("0123"), "mean": (0.5,), "std": (0.25,)}
    assert origin_of(net(0)) == Origin()


def columns(**means):
    return tuple(Column(name, mean=mean, std=mean + 1) for name, mean in means.items())


def test_columns_of_another_table_are_converted():
    table: Any = {"a": np.array([1.0, 4.0]), "b": np.array([2.0, 3.0])}
    table["kind"] = np.array(["hut", "flat"], dtype=object)
    here = Columns((*columns(a=1.0, b=2.0), Column("kind", texts=("hut", "tent"))))
    there = Columns((Column("kind", texts=("flat", "hut")), *columns(b=0.5, a=3.0)))
    hook = InputColumnsHook.between(here, there, "the teacher")
    wanted = there.inputs(table)
    wanted[1, 0] = 0.0  # a text that the data do not know
    assert torch.allclose(hook.rows(here.inputs(table)), wanted, atol=1e-6)


def test_conversions_are_copied_to_a_device_once(monkeypatch):
    here, there = Columns(columns(a=1.0, b=2.0)), Columns(columns(b=0.5, a=3.0))
    hook, x = InputColumnsHook.between(here, there, "the teacher"), torch.rand(3, 2)
    said, first = repr(hook), hook.rows(x)
    assert hook.rows(x.double()).dtype == torch.float64
    assert hook.rows(x.to("meta")).device.type == "meta"
    monkeypatch.setattr(torch, "tensor", None)
    monkeypatch.setattr(torch.Tensor, "new_tensor", None)
    assert torch.equal(hook.rows(x), first)
    assert repr(hook) == said  # which is part of a model's identity


@pytest.mark.parametrize(
    ("there", "says"),
    [
        (columns(a=1.0, b=1.0), "'b', as numbers, and the data have no such feature"),
        ((Column("a", log=True),), "'a', as a logarithm, and the data"),
        ((Column("a", texts=("x",)),), "'a', as texts, and the data"),
        ((), "without column 'a', a feature of the data"),
    ],
)
def test_other_columns_are_refused(there, says):
    with pytest.raises(TargetsError, match=says):
        InputColumnsHook.between(Columns(columns(a=1.0)), Columns(there), "the teacher")


def test_a_live_teacher_refuses_other_columns():
    teacher, labels = torch.nn.Linear(1, 2), torch.tensor([0, 1])
    data = TableData(torch.zeros(2, 1), labels, ("x", "y"), Columns(columns(a=1.0)))
    note_origin(teacher, **trained_on(data))
    LiveTeacher(teacher).check(data)
    note_origin(teacher, columns=Columns(columns(a=2.0)))
    with pytest.raises(TargetsError, match="a table of other columns"):
        LiveTeacher(teacher).check(data)
