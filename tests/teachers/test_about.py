"""What soft targets belong to, and data that a teacher refuses."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from frugalkd.data import TextData
from frugalkd.data.text import tokenize
from frugalkd.errors import FrugalKDWarning, TargetsError
from frugalkd.models import identity
from frugalkd.models.origin import note_origin, trained_on
from frugalkd.teachers import LiveTeacher, StoredTargets
from frugalkd.teachers.about import describe
from toys import images, net


def texts(max_length=5, tokenizer="words", vocabulary=None):
    tokens = tokenize(["a b c", "d"], max_length=max_length)
    object.__setattr__(tokens, "tokenizer", tokenizer)
    if vocabulary is not None:
        object.__setattr__(tokens, "vocabulary", vocabulary)
    return TextData(tokens, torch.tensor([0, 1]), ("x", "y"))


def test_sound_2_what_decides_the_inputs_is_described():
    said = describe(None, images(4))
    assert said["normalisation"] == "mean (0.5,) std (0.25,)"
    assert said["classes"] == '["0", "1", "2", "3"]'
    assert describe(None, texts())["tokenizer"] == "words, at most 5 tokens"
    assert describe(None, texts(9)) != describe(None, texts())
    assert describe(net(), images(4)).keys() - said.keys() == {"teacher", "teacher's model"}


def test_sound_2_another_tokenizer_is_refused_or_a_warning():
    teacher = nn.Linear(2, 2)
    live = LiveTeacher(teacher)
    live.check(None, texts())  # its training data are not known
    note_origin(teacher, **trained_on(texts()))
    live.check(None, texts(9))
    with pytest.raises(TargetsError, match=r"tokenizer 'words' \(65536 tokens\), .*'words' \(9 "):
        live.check(None, texts(vocabulary=9))
    with pytest.warns(FrugalKDWarning, match=r"of the tokenizer 'words' .* are of 'own' \(65536"):
        live.check(None, texts(tokenizer="own"))


class Signed(nn.Module):
    """Keeps its parameter under another name, and counts."""

    def __init__(self, s):
        super().__init__()
        self.sign, self.calls = s, 0

    def forward(self, x):
        self.calls += 1
        return self.sign * x.flatten(1)[:, :4]


def test_sound_2_a_store_is_not_of_a_teacher_of_another_flag(tmp_path):
    teacher = Signed(1)
    filled = StoredTargets.fill(teacher, images(4), tmp_path)
    filled.check(teacher, images(4))
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
