"""Features of padded texts, whose number of places is another one in each batch."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

from frugalkd.errors import ModelError, TargetsError
from frugalkd.models import build_text_model
from frugalkd.objectives import CRD, NST, VID, AttentionTransfer, FitNets, SimilarityPreserving
from frugalkd.teachers import StoredTargets
from frugalkd.training.api import distill
from frugalkd.training.settings import Training

SHORT = Training(epochs=1, batch_size=4)


class Texts(Dataset):
    """Of 3 to 14 tokens."""

    def __len__(self):
        return 12

    def __getitem__(self, id):
        ids = torch.arange(id, 2 * id + 3) % 50
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, id % 3


def collate_fn(rows):
    texts, labels = zip(*rows, strict=True)
    padded = {
        name: nn.utils.rnn.pad_sequence([text[name] for text in texts], batch_first=True)
        for name in texts[0]
    }
    return padded, torch.tensor(labels)


def reader(width):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(width)
        return build_text_model(
            "text-cnn", num_classes=3, vocabulary=50, width=width, hidden=6, buckets=64
        )


def learn(objective):
    return distill(
        reader(4), Texts(), teacher=reader(7), objective=objective, training=SHORT, device="cpu",
        collate_fn=collate_fn,
    )  # fmt: skip


@pytest.mark.parametrize("made_of", [FitNets, VID, AttentionTransfer, NST, SimilarityPreserving])
def test_places_are_compared_as_each_batch_has_them(made_of):
    assert learn(made_of("rows", "rows")).meters.samples_backpropagated == 12


def test_a_memory_of_features_of_no_one_shape_is_refused():
    learn(CRD("head:input", "head:input", negatives=4))
    with pytest.raises(ModelError, match=r"CRD: a feature of shape .*head:input"):
        learn(CRD("rows", "rows", negatives=4))


def test_so_is_a_store_of_them(tmp_path):
    with pytest.raises(TargetsError, match=r"features of rows are of shape \(4, 7\) in one batch"):
        StoredTargets.fill(
            reader(7), Texts(), tmp_path, features=("rows",), batch_size=2, collate_fn=collate_fn
        )
