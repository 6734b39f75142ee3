"""Two ranks fill one store, and their gradients are those of one process with the global batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn.utils import parameters_to_vector

from frugalkd.distributed.ranks import Ranks
from frugalkd.language.corpus import Corpus
from frugalkd.language.loss import token_loss
from frugalkd.language.models import CausalModel
from frugalkd.language.targets import StoredTokens
from frugalkd.language.tiny import tiny_model
from frugalkd.objectives import KD
from frugalkd.teachers import FillOptions
from ranking import on_ranks

BATCH = np.array([0, 1, 10, 11, 12])


def fill(corpus, folder, ranks):
    """A store of the corpus at ``corpus``."""
    teacher = tiny_model(2, 32, vocabulary=320, positions=64, seed=1)
    options = FillOptions(ranks=ranks)
    return StoredTokens.fill(teacher, Corpus(corpus), folder, options=options, batch_size=16)


def gradient(targets, ids, rank=0, world=1):
    """Of a student on the blocks ``ids`` of one global batch, with weights by block."""
    corpus, torch_ids = targets.corpus, torch.from_numpy(ids)
    student = tiny_model(1, 16, vocabulary=304, positions=64, seed=2).double()
    model, data = CausalModel(student, corpus.vocabulary), corpus.batch(ids, ids * 0)
    counts = torch.from_numpy(corpus.row_counts(ids))
    weights = (1.0 + torch_ids.double() / 10).repeat_interleave(counts)
    tokens = float(corpus.row_counts(BATCH).sum()) / world
    token_loss(
        model, model.states(data), model.labels(data), targets.fetch(ids, ids * 0, data),
        KD(1.0, 0.8), tokens=tokens, weights=weights,
    ).loss.backward()  # fmt: skip
    return parameters_to_vector([p.grad for p in student.parameters() if p.grad is not None])


def on_a_rank(corpus, folder):
    ranks = Ranks.here()
    targets = fill(corpus, folder, ranks)
    assert fill(corpus, folder, ranks).tokens == 0  # all of it is there
    found = gradient(targets, BATCH[ranks.rank :: ranks.world], ranks.rank, ranks.world)
    torch.distributed.all_reduce(found)
    return targets.tokens, found / ranks.world


@pytest.mark.slow
@pytest.mark.heavy
def test_two_ranks_are_one_process(corpus, tmp_path):
    ranks = on_ranks(2, on_a_rank, str(corpus.folder), str(tmp_path / "two"))
    one, two = fill(corpus.folder, tmp_path / "one", None), StoredTokens(tmp_path / "two", corpus)
    assert two.store.header.shards == 2
    rows = np.arange(corpus.rows)
    records = [each.store.records(rows, rows * 0).tobytes() for each in (one, two)]
    assert records[0] == records[1]
    whole = gradient(one, BATCH)
    for tokens, found in ranks:
        assert corpus.rows <= tokens < corpus.rows + 16 * 64  # a batch at the border, twice
        assert (found - whole).norm() < 1e-6 * whole.norm()
