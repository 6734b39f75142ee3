"""A live teacher runs without a trace in it; what decides its outputs, and data that it refuses."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from frugalkd.data import TextData
from frugalkd.data.text import tokenize
from frugalkd.errors import FrugalKDWarning, TargetsError
from frugalkd.models import identity
from frugalkd.models.origin import note_origin, trained_on
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.teachers.encodings import Dense
from frugalkd.teachers.live import HeadTeacher, describe
from toys import images, net


def teacher():
    torch.manual_seed(0)
    made = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Dropout(0.5), nn.Linear(5, 2))
    made.train()
    made[1].eval()
    return made


def test_it_runs_in_eval_mode_and_does_not_change():
    model, x = teacher(), torch.randn(8, 3)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    live = LiveTeacher(model)
    stream = torch.get_rng_state()
    at = np.arange(8), np.zeros(8, np.int64)
    answers = [live.fetch(*at, x) for _ in range(2)]
    assert torch.equal(torch.get_rng_state(), stream)
    assert torch.equal(answers[0], answers[1])
    assert not answers[0].requires_grad
    assert [module.training for module in model] == [True, False, True, True]
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    torch.testing.assert_close(answers[0], model.eval()(x).detach())


def test_it_counts_its_queries_and_knows_any_view():
    live = LiveTeacher(teacher())
    assert live.views is None
    for rows in (8, 3):
        live.fetch(np.arange(rows), np.zeros(rows, np.int64), torch.zeros(rows, 3))
    assert live.queries == 11


def test_inputs_are_the_batch_without_its_labels():
    class Named(nn.Module):
        def forward(self, pixels):
            return pixels * 2

    live = LiveTeacher(Named())
    data = {"pixels": torch.ones(2, 3), "label": torch.zeros(2, dtype=torch.int64)}
    assert live.fetch(np.arange(2), np.zeros(2, np.int64), data).eq(2).all()
    by_hand = LiveTeacher(Named(), forward=lambda data: data["pixels"] - 1)
    assert by_hand.fetch(np.arange(2), np.zeros(2, np.int64), data).eq(0).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_logits_are_float32(dtype):
    live = LiveTeacher(nn.Linear(3, 2).to(dtype))
    answer = live.fetch(np.arange(2), np.zeros(2, np.int64), torch.zeros(2, 3, dtype=dtype))
    assert answer.dtype == torch.float32


def test_bf16_is_the_teacher_under_autocast():
    model, x = teacher(), torch.randn(8, 3)
    at = np.arange(8), np.zeros(8, np.int64)
    got = LiveTeacher(model, precision="bf16").fetch(*at, x)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        wanted = model.eval()(x).float()
    assert got.dtype == torch.float32
    assert torch.equal(got, wanted)
    assert not torch.equal(got, LiveTeacher(model).fetch(*at, x))


def test_channels_last_reaches_inputs_and_weights():
    seen = []

    class Watching(nn.Conv2d):
        def forward(self, x):
            seen.append((x, self.weight))
            return super().forward(x).mean(dim=(2, 3))

    live = LiveTeacher(Watching(3, 4, 3), channels_last=True)
    x = torch.randn(2, 3, 5, 5)
    labels = torch.zeros(2, dtype=torch.int64)
    assert live.fetch(np.arange(2), np.zeros(2, np.int64), (x, labels)).shape == (2, 4)
    ((inputs, weights),) = seen
    for tensor in (inputs, weights):
        assert tensor.is_contiguous(memory_format=torch.channels_last)


def texts(max_length=5, tokenizer="words", vocabulary=None):
    tokens = tokenize(["a b c", "d"], max_length=max_length)
    object.__setattr__(tokens, "tokenizer", tokenizer)
    if vocabulary is not None:
        object.__setattr__(tokens, "vocabulary", vocabulary)
    return TextData(tokens, torch.tensor([0, 1]), ("x", "y"))


def test_what_decides_the_inputs_is_described():
    said = describe(None, images(4))
    assert said["normalisation"] == "mean (0.5,) std (0.25,)"
    assert said["classes"] == '["0", "1", "2", "3"]'
    assert describe(None, texts())["tokenizer"] == "words, at most 5 tokens"
    assert describe(None, texts(9)) != describe(None, texts())
    assert describe(net(), images(4)).keys() - said.keys() == {"teacher", "teacher's model"}


def test_names_of_a_config_are_compared_by_their_order():
    teacher, data = nn.Linear(2, 2), texts()
    names = {"same": {0: "X", 1: "Y"}, "other": {0: "none", 1: "some"}, "order": {0: "Y", 1: "x"}}
    for which, id2label in names.items():
        teacher.config = SimpleNamespace(id2label=id2label)  # pyright: ignore
        if which != "order":
            LiveTeacher(teacher).check(data)
    with pytest.raises(TargetsError, match="the data's classes in another order"):
        LiveTeacher(teacher).check(data)


def test_another_tokenizer_is_refused_or_a_warning():
    teacher = nn.Linear(2, 2)
    live = LiveTeacher(teacher)
    live.check(texts())  # its training data are not known
    note_origin(teacher, **trained_on(texts()))
    live.check(texts(9))
    with pytest.raises(TargetsError, match=r"tokenizer 'words' \(65536 tokens\), .*'words' \(9 "):
        live.check(texts(vocabulary=9))
    with pytest.warns(FrugalKDWarning, match=r"of the tokenizer 'words' .* are of 'own' \(65536"):
        live.check(texts(tokenizer="own"))


class Signed(nn.Module):
    """Keeps its parameter under another name, and counts."""

    def __init__(self, s):
        super().__init__()
        self.sign, self.calls = s, 0

    def forward(self, x):
        self.calls += 1
        return self.sign * x.flatten(1)[:, :4]


def test_a_store_is_not_of_a_teacher_of_another_flag(tmp_path):
    teacher = Signed(1)
    StoredTargets.fill(teacher, images(4), tmp_path)
    for again in (teacher, Signed(1)):
        assert StoredTargets.fill(again, images(4), tmp_path).queries == 0
    with pytest.raises(TargetsError, match="differ in teacher's model: delete"):
        StoredTargets.fill(Signed(-1), images(4), tmp_path)


def test_a_fill_reads_the_weights_once(monkeypatch):
    digests = []
    digest = identity.weights_digest
    monkeypatch.setattr(
        identity, "weights_digest", lambda model: digests.append(model) or digest(model)
    )
    StoredTargets.fill(net(), images(40), views=2, batch_size=8)
    assert len(digests) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_head_on_features_fills_the_teachers_store(precision, tmp_path):
    model, data = net(), images(augmented=False)
    live = LiveTeacher(model, precision=precision)
    x, y = data.batch(np.arange(len(data)), np.zeros(len(data), np.int64))
    with torch.no_grad(), live.autocast():
        features = model[:-1].eval()(x).float()
    by_head = HeadTeacher(live, model[-1], data)
    made = TensorDataset(features, y)
    found = StoredTargets.fill(by_head, made, tmp_path / "a", encoding=Dense("float32"))
    assert live.queries == found.queries == len(data)
    assert 0 < live.seconds == found.seconds
    wanted = StoredTargets.fill(
        LiveTeacher(model, precision=precision), data, tmp_path / "b", encoding=Dense("float32")
    )
    assert np.array_equal(found.all_logits(), wanted.all_logits())
    assert found.about == wanted.about
    found.check(data)
    # What the whole teacher finds there is complete.
    again = StoredTargets.fill(live, data, tmp_path / "a", encoding=Dense("float32"))
    assert again.queries == 0


def test_a_head_of_a_teacher_of_other_data_is_refused(tmp_path):
    model, data = net(), images(augmented=False)
    note_origin(model, classes=("a", "b", "c", "d"))
    by_head = HeadTeacher(LiveTeacher(model), model[-1], data)
    with pytest.raises(TargetsError, match="class"):
        StoredTargets.fill(by_head, TensorDataset(torch.zeros(37, 144), data.labels), tmp_path)
