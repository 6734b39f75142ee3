"""Measures against plain Python."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from frugalkd.data import ImageData
from frugalkd.data.images import rows_at_once
from frugalkd.errors import UnsupportedData
from frugalkd.training.evaluation import calibration_error, measure, predict
from frugalkd.training.trainer import accelerator_for
from toys import Ids, images, net


def by_hand(probabilities, labels):
    """Accuracy, worst class and calibration error, row by row."""
    hits: dict[int, list[bool]] = {}
    bins: dict[int, list[float]] = {}
    for row, label in zip(probabilities.tolist(), labels.tolist(), strict=True):
        hit = row.index(max(row)) == label
        hits.setdefault(label, []).append(hit)
        bins.setdefault(min(14, int(np.float32(max(row)) * np.float32(15))), []).append(
            max(row) - hit
        )
    flat = [hit for each in hits.values() for hit in each]
    return {
        "accuracy": sum(flat) / len(flat),
        "worst_class_accuracy": min(sum(each) / len(each) for each in hits.values()),
        "expected_calibration_error": sum(abs(sum(b)) for b in bins.values()) / len(flat),
    }


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**32), rows=st.integers(1, 40), classes=st.integers(2, 5))
def test_measures_are_those_of_plain_python(seed, rows, classes):
    stream = np.random.default_rng(seed)
    logits = torch.from_numpy(stream.normal(scale=3, size=(rows, classes)))
    probabilities = torch.softmax(logits, dim=1).float().numpy()
    labels = stream.integers(classes, size=rows)
    got = measure(probabilities, labels, teacher=probabilities[:, ::-1])
    for name, value in by_hand(probabilities, labels).items():
        assert got[name] == pytest.approx(value, abs=1e-6)
    assert got["samples"] == rows
    agree = probabilities.argmax(1) == probabilities[:, ::-1].argmax(1)
    assert got["teacher_agreement"] == pytest.approx(agree.mean())
    assert measure(probabilities, labels)["teacher_agreement"] is None


def test_certain_and_right_is_calibrated():
    certain = np.eye(3, dtype=np.float32)
    assert calibration_error(certain, np.arange(3)) == 0
    assert calibration_error(certain, np.array([1, 2, 0])) == 1


@pytest.mark.parametrize("label", [-1, 3])
def test_labels_beyond_the_classes_are_refused(label):
    with pytest.raises(UnsupportedData, match="3 classes"):
        measure(np.eye(3, dtype=np.float32), np.array([0, 1, label]))


def test_predictions_are_in_order_and_leave_the_model_as_it_was():
    data, model = images(25), net(1)
    model[1].train()
    model[3].eval()
    before = {k: v.clone() for k, v in model.state_dict().items()}
    stream = torch.get_rng_state()
    probabilities, labels = predict(model, data, batch_size=7)
    assert torch.equal(torch.get_rng_state(), stream)
    assert model[1].training
    assert not model[3].training
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    x, y = data.batch(range(25), [0] * 25)
    with torch.no_grad():
        expected = torch.softmax(model.eval()(x), dim=1)
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5, atol=1e-6)
    assert labels is not None
    assert labels.tolist() == y.tolist()


def test_without_labels_there_are_predictions_alone():
    class Alone(Ids):
        def __getitem__(self, id):
            return torch.tensor([float(id), 0.0])

    model = torch.nn.Linear(2, 3)
    probabilities, labels = predict(model, Alone([0] * 5), batch_size=2)
    assert probabilities.shape == (5, 3)
    assert labels is None
    pairs = TensorDataset(torch.zeros(4, 2), torch.arange(4) % 3)
    _, labels = predict(model, pairs)
    assert labels is not None
    assert labels.tolist() == [0, 1, 2, 0]


@pytest.mark.heavy
def test_large_pictures_run_a_few_at_a_time():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.rows = torch.nn.Linear(1, 2), []

        def forward(self, x):
            self.rows.append(len(x))
            return self.head(x[:, 0, 0, :1])

    images = torch.zeros((70, 1, 1024, 1024), dtype=torch.uint8)
    data = ImageData(images, torch.zeros(70, dtype=torch.int64), ("a", "b"), mean=(0,), std=(1,))
    model = Counting()
    predict(model, data)
    assert model.rows == [64, 6]  # 256 MiB in float32
    assert [rows_at_once(shape) for shape in ((3, 32, 32), (3, 4096, 4096))] == [1000, 1]


def test_predictions_after_bf16_are_in_full_precision():
    model, data = net(), images(augmented=False)
    before = predict(model, data)[0]
    accelerator_for("bf16", "cpu")  # which Accelerate keeps for the process
    assert np.array_equal(predict(model, data)[0], before)
