"""Sequences of tokens: how many tokens are learned, and no verdict."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.data.batches import checked_labels
from frugalkd.errors import TargetsError, UnsupportedData
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import All, InfoBatch, RandomSubset, SelfRegulation
from frugalkd.selection.inputs import why_not_for

TOKENS = OUTPUTS["tokens"]


def test_labels_are_how_many_tokens_are_learned():
    labels = torch.tensor([[5, -100, 7, 8], [-100, -100, -100, 2], [9, -100, -100, -100]])
    counts = checked_labels(labels, TOKENS)
    assert counts.tolist() == [2, 1, 0]  # nothing predicts the first token
    assert torch.equal(checked_labels(counts, TOKENS), counts)
    for wrong in (labels.float(), labels[None], labels > 0):
        with pytest.raises(UnsupportedData, match="token numbers"):
            checked_labels(wrong, TOKENS)


def test_the_outcome_is_the_mean_loss():
    outputs = torch.tensor([[0.5], [2.0]])
    seen = TOKENS.outcome(outputs, torch.tensor([3, 4]))
    assert seen.confidence.tolist() == pytest.approx(np.exp([-0.5, -2.0]).tolist())
    assert not seen.correct.any()
    assert torch.equal(TOKENS.losses(outputs, torch.tensor([3, 4])), outputs[:, 0])
    assert TOKENS.not_finite(torch.tensor([[torch.nan], [1.0]])).tolist() == [True, False]
    with pytest.raises(TargetsError, match="do not stand in for labels"):
        TOKENS.from_teacher(outputs)


def test_policies_that_go_by_outcomes_are_refused():
    for policy in (All(), RandomSubset(0.5)):
        assert why_not_for(policy, TOKENS) is None
    for policy in (SelfRegulation(), InfoBatch()):
        assert type(policy).__name__ in (why_not_for(policy, TOKENS) or "")
