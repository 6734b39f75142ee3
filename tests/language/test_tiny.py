"""The parts of ``tiny-lm``: the same text, tokens and weights each time."""

from __future__ import annotations

import gzip

import pytest
import torch

from frugalkd.errors import DataError
from frugalkd.language import tiny
from frugalkd.language.documents import tokenizer_digest
from frugalkd.language.tiny import STUDENT, TEACHER, tiny_model, tiny_splits, tiny_text
from frugalkd.language.tiny import tiny_tokenizer as make


def test_the_text_is_split_once():
    train, test = tiny_splits()
    assert train + test == tiny_text()
    assert len(tiny_text()) == 399_862
    assert 0.08 < len(test) / len(tiny_text()) < 0.12


def test_another_text_is_refused(tmp_path, monkeypatch):
    (tmp_path / "shakespeare.txt.gz").write_bytes(gzip.compress(b"To be"))
    monkeypatch.setattr(tiny, "files", lambda package: tmp_path)
    with pytest.raises(DataError, match="of this installation is damaged"):
        tiny_text.__wrapped__()


def test_the_tokenizer_is_the_same_each_time():
    text = tiny_splits()[1][:5000]
    first, again = make.__wrapped__(text, 300), make.__wrapped__(text, 300)
    assert tokenizer_digest(first) == tokenizer_digest(again)
    assert len(first) == 300
    assert first.decode(first("Yet ünseen ☃")["input_ids"]) == "Yet ünseen ☃"


@pytest.mark.slow
def test_the_vocabulary_is_full():
    tokenizer = make()
    assert len(tokenizer) == tiny.VOCABULARY
    text = tiny_splits()[1]
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == text
    assert len(ids) < len(text) / 3


def test_models_are_the_same_each_time():
    before = torch.random.get_rng_state()
    first, again, other = (tiny_model(1, 16, vocabulary=99, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    one, two, three = (model.get_input_embeddings().weight for model in (first, again, other))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    for sizes, parameters in ((TEACHER, 4_163_840), (STUDENT, 926_336)):
        made = tiny_model(**sizes)
        assert made.get_output_embeddings().weight.shape == (4096, sizes["width"])
        assert sum(p.numel() for p in made.parameters()) == parameters
