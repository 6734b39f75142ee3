"""Measures of a language model against all logits of a corpus at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from frugalkd.errors import Stopped, TargetsError
from frugalkd.language.corpus import tokenize_corpus
from frugalkd.language.encodings import SampledTokens, TopTokens
from frugalkd.language.evaluation import measure_tokens
from frugalkd.language.targets import LiveTokens, StoredTokens


def all_logits(model, corpus):
    ids = np.arange(len(corpus))
    data = corpus.batch(ids, ids)
    with torch.no_grad():
        logits = model(input_ids=data["input_ids"], position_ids=data["position_ids"]).logits
    learned = data["labels"][:, 1:] != -100
    return logits[:, :-1][learned][:, :300], data["labels"][:, 1:][learned]


@pytest.mark.parametrize("chunk", [7, 4096])
@pytest.mark.heavy
def test_measures_are_those_of_all_logits(chunk, student, teacher, corpus):
    student.train()
    found = measure_tokens(student, corpus, teacher, chunk=chunk, batch_size=5)
    assert student.training
    logits, labels = all_logits(student, corpus)
    theirs, _ = all_logits(teacher, corpus)
    entropy = F.cross_entropy(logits, labels).item()
    kl = F.kl_div(logits.log_softmax(1), theirs.log_softmax(1), log_target=True, reduction="none")
    assert found == {
        "samples": len(corpus),
        "tokens": len(labels),
        "cross_entropy": pytest.approx(entropy, rel=1e-5),
        "perplexity": pytest.approx(math.exp(entropy), rel=1e-5),
        "entropy_saved": pytest.approx(1 - entropy / math.log(300), abs=1e-5),
        "accuracy": pytest.approx((logits.argmax(1) == labels).float().mean().item()),
        "teacher_kl": pytest.approx(kl.sum(1).mean().item(), rel=1e-3),
        "teacher_agreement": pytest.approx(
            (logits.argmax(1) == theirs.argmax(1)).float().mean().item()
        ),
    }


def test_a_model_agrees_with_itself(teacher, corpus):
    found = measure_tokens(teacher, corpus, LiveTokens(teacher, corpus))
    assert found["teacher_kl"] == pytest.approx(0, abs=1e-6)
    assert found["teacher_agreement"] == 1.0
    assert "teacher_kl" not in measure_tokens(teacher, corpus)


@pytest.mark.heavy
def test_a_store_is_compared_with(student, teacher, corpus, tmp_path):
    live = measure_tokens(student, corpus, teacher)
    top = StoredTokens.fill(teacher, corpus, tmp_path / "t", encoding=TopTokens())
    stored = measure_tokens(student, corpus, top)
    # The likeliest two may be rounded to one probability.
    assert stored["teacher_agreement"] == pytest.approx(live["teacher_agreement"], abs=0.01)
    draws = StoredTokens.fill(teacher, corpus, tmp_path / "d", encoding=SampledTokens())
    assert measure_tokens(student, corpus, draws)["teacher_agreement"] is None


def test_a_store_of_another_corpus_is_refused(student, teacher, corpus, tokenizer, tmp_path):
    other = tokenize_corpus(["another text, of some tokens"], tokenizer, tmp_path / "o", length=64)
    stored = StoredTokens.fill(teacher, other, tmp_path / "s")
    with pytest.raises(TargetsError, match="belong to another corpus"):
        measure_tokens(student, corpus, stored)


def test_an_evaluation_can_be_stopped(student, corpus):
    with pytest.raises(Stopped):
        measure_tokens(student, corpus, should_stop=lambda: True)
