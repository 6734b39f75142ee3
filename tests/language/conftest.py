"""Two models and a small corpus that the tests of this room read, and never change."""

from __future__ import annotations

import pytest
from language_cases import TEXTS

from frugalkd.language.corpus import tokenize_corpus
from frugalkd.language.tiny import tiny_model, tiny_splits, tiny_tokenizer


@pytest.fixture(scope="session")
def tokenizer():
    """Of 300 tokens: nothing of it takes long."""
    return tiny_tokenizer(tiny_splits()[1][:4000], 300)


@pytest.fixture(scope="session")
def corpus(tokenizer, tmp_path_factory):
    """Texts in blocks of at most 64 tokens."""
    return tokenize_corpus(TEXTS, tokenizer, tmp_path_factory.mktemp("corpus") / "c", length=64)


@pytest.fixture(scope="session")
def teacher():
    return tiny_model(2, 32, vocabulary=320, positions=64, seed=1).eval()


@pytest.fixture
def student():
    return tiny_model(1, 16, vocabulary=304, positions=64, seed=2)
