"""Sequences of tokens: how many tokens are learned, and their mean loss."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.data.batches import checked_labels
from frugalkd.errors import TargetsError, UnsupportedData
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import All, RandomSubset, SelfRegulation
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
    assert torch.equal(seen.truth, seen.confidence)
    assert torch.equal(seen.distance, outputs[:, 0])
    assert seen.correct.all()
    lost = TOKENS.outcome(torch.tensor([[torch.nan], [torch.inf]]), torch.tensor([3, 4]))
    assert not lost.correct.any()
    assert torch.equal(TOKENS.losses(outputs, torch.tensor([3, 4])), outputs[:, 0])
    assert TOKENS.not_finite(torch.tensor([[torch.nan], [1.0]])).tolist() == [True, False]
    with pytest.raises(TargetsError, match="do not stand in for labels"):
        TOKENS.from_teacher(outputs)


def test_agreement_is_no_less_than_the_score():
    """exp(-KL) <= 1 - TV^2 of a token, and so in the mean of a block."""
    stream = torch.Generator().manual_seed(0)
    for spread in (0.1, 1.0, 5.0):
        own, teacher = (spread * torch.randn(2, 40, 30, generator=stream)).double().softmax(-1)
        divergence = (teacher * (teacher / own).log()).sum(-1).mean()
        agreement = (1 - (0.5 * (teacher - own).abs().sum(-1)) ** 2).mean()
        score = TOKENS.outcome(divergence[None, None], torch.tensor([40])).confidence
        assert score <= agreement
        same = (teacher * (teacher / teacher).log()).sum(-1).mean()
        assert TOKENS.outcome(same[None, None], torch.tensor([40])).confidence == 1


def test_policies_that_go_by_classes_are_refused():
    for policy in (All(), RandomSubset(0.5), SelfRegulation(), SelfRegulation(budget=0.5)):
        assert why_not_for(policy, TOKENS) is None
    for policy, says in (
        (SelfRegulation(ceiling=0.9), "has a ceiling"),
        (SelfRegulation(label_source="teacher"), "leave label_source out"),
    ):
        assert says in (why_not_for(policy, TOKENS) or "")
