"""Positions that rivals of random ones choose, against brute force and the training on all."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra transformers")

from benchmarks.language.rivals import Chosen, soft_or, table, top_of_each
from frugalkd import Training, distill
from frugalkd.language import (
    StoredTokens,
    tiny_model,
    tiny_splits,
    tiny_tokenizer,
    tokenize_corpus,
)
from frugalkd.training import api


def test_the_largest_of_each_block_are_kept():
    counts, values = [3, 5, 1], torch.randn(9, generator=torch.Generator().manual_seed(0))
    kept = top_of_each(values, counts, 0.5)
    assert len(kept) == 2 + 3 + 1
    for begin, end, wanted in ((0, 3, 2), (3, 8, 3), (8, 9, 1)):
        own = sorted(range(begin, end), key=lambda at: -values[at])[:wanted]
        assert sorted(own) == [at for at in sorted(kept.tolist()) if begin <= at < end]


def test_a_position_is_chosen_for_either_of_two_reasons():
    entropy, divergence = torch.tensor([4.0, 0.0, 0.0, 2.0]), torch.tensor([0.0, 9.0, 0.0, 4.5])
    assert soft_or(entropy, divergence).tolist() == pytest.approx([1.0, 1.0, 0.0, 0.75])


@pytest.mark.heavy
@pytest.mark.parametrize("rule", ["SE-KD", "TIP"])
def test_all_positions_chosen_are_the_plain_training(rule, tmp_path, monkeypatch):
    tokenizer = tiny_tokenizer(tiny_splits()[1][:4000], 300)
    corpus = tokenize_corpus([tiny_splits()[1][:3000]], tokenizer, tmp_path / "c", length=64)
    teacher = tiny_model(2, 32, vocabulary=300, positions=64, seed=1).eval()
    targets = StoredTokens.fill(teacher, corpus, tmp_path / "s")

    def weights(part):
        student = tiny_model(1, 16, vocabulary=300, positions=64, seed=2)
        if part is not None:
            monkeypatch.setattr(api, "TokenCriterion", partial(Chosen, part=part, rule=rule))
        distill(student, corpus, teacher=targets, training=Training(epochs=1, batch_size=4))
        return torch.nn.utils.parameters_to_vector(student.parameters()).detach().numpy()

    plain, whole, half = (weights(part) for part in (None, 1.0, 0.5))
    np.testing.assert_allclose(whole, plain, rtol=0, atol=1e-5)
    assert np.abs(half - plain).max() > 1e-3


def test_the_table_pairs_seeds():
    runs = {
        "all": {"perplexity": [100.0, 200.0], "seconds": [10.0, 20.0]},
        "random 0.5": {"perplexity": [100.0, 200.0], "seconds": [9.0, 16.0]},
        "TIP 0.5": {"perplexity": [110.0, 220.0], "seconds": [9.0, 16.0]},
    }
    lines = table(runs).splitlines()
    assert lines[2] == "| all | 2 | 141.42 |  |  | 15 | 1.00 |"
    over = "+10.00 (+10.00 to +10.00)"
    assert lines[4] == f"| TIP 0.5 | 2 | 155.56 | {over} | {over} | 12 | 0.85 |"
