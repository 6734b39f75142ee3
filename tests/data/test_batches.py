"""What is taken for inputs, what for labels, and what is refused."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from frugalkd.data.batches import call, inputs_of, join_padded, run_model, split
from frugalkd.errors import ModelError, UnsupportedData

X, Y = torch.randn(3, 2), torch.tensor([0, 1, 1])


@pytest.mark.parametrize("pair", [(X, Y), [X, Y]])
def test_a_pair_is_inputs_and_labels(pair):
    inputs, labels = split(pair)
    assert inputs is X
    assert labels is not None
    assert torch.equal(labels, Y)


@pytest.mark.parametrize("key", ["label", "labels"])
def test_a_mapping_holds_its_labels_by_name(key):
    inputs, labels = split({"a": X, key: Y})
    assert list(inputs) == ["a"]
    assert labels is not None
    assert torch.equal(labels, Y)


def test_the_inputs_of_a_pair_may_be_a_mapping():
    assert inputs_of(({"a": X}, Y)) == {"a": X}


@pytest.mark.parametrize("alone", [X, {"a": X}])
def test_what_has_no_labels_is_inputs(alone):
    assert split(alone) == (alone, None)


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int16])
def test_labels_come_out_as_int64(dtype):
    labels = split((X, Y.to(dtype)))[1]
    assert labels is not None
    assert labels.dtype == torch.int64
    assert labels.tolist() == [0, 1, 1]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(3, 4), r"float32 \(3, 4\): .*multi-label"),
        (torch.zeros(3, 1, dtype=torch.int64), r"class indices .*one a sample"),
        (torch.tensor(1), r"class indices .*one a sample"),
        (torch.zeros(3), r"float32 \(3,\): .*regression"),
        (torch.zeros(3, dtype=torch.float64), "regression"),
        (torch.zeros(3, dtype=torch.bool), r"bool \(3,\)"),
    ],
)
def test_labels_that_no_gate_is_defined_for_are_refused(labels, message):
    for data in ((X, labels), {"x": X, "labels": labels}):
        with pytest.raises(UnsupportedData, match=rf"^(?!.*\n).*{message}"):
            split(data)


@pytest.mark.parametrize("data", [(X, Y, Y), (X, "name"), (X, ("a", "b")), ()])
def test_other_sequences_are_refused(data):
    with pytest.raises(UnsupportedData, match=r"^(?!.*\n).*\(inputs, class indices\)"):
        split(data)


def test_a_model_is_called_with_what_its_inputs_are():
    assert call(lambda x: x + 1, X).equal(X + 1)
    assert call(lambda a, b: a + b, {"a": X, "b": X}).equal(2 * X)
    assert call(lambda x: SimpleNamespace(logits=x), X) is X
    assert call(lambda x: {"loss": None, "logits": x}, X) is X
    assert call(lambda x: {"hidden": x}, X).keys() == {"hidden"}


def test_padded_batches_are_joined_on_either_side():
    short = {"input_ids": torch.tensor([[1]]), "attention_mask": torch.tensor([[1]])}
    long = {"input_ids": torch.tensor([[2, 3]]), "attention_mask": torch.tensor([[1, 1]])}
    left = join_padded([short, long], 9, "left")
    assert left["input_ids"].tolist() == [[9, 1], [2, 3]]
    assert left["attention_mask"].tolist() == [[0, 1], [1, 1]]
    assert join_padded([short, long])["input_ids"].tolist() == [[1, 0], [2, 3]]


def test_token_ids_beyond_an_embedding_are_named():
    embedding = torch.nn.Embedding(10, 3)
    data = {"input_ids": torch.tensor([[1, 2], [3, 61]])}
    with pytest.raises(ModelError, match=r"fails on samples 4, 5, whose token ids reach 61 \(Ind"):
        run_model(lambda batch: embedding(batch["input_ids"]).sum(dim=1), data, np.array([4, 5]))
