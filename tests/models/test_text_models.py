"""Models of token ids: padding does not count, the hash is what it says, what cannot be built."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from frugalkd.errors import ModelError, UnknownName
from frugalkd.models import build_text_model
from frugalkd.models.text import hashed

ROWS = [[5, 9, 2], [7], [5, 9, 2, 11, 3, 4], [1, 1]]


def batch(rows, width=None):
    width = width or max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return {"input_ids": ids, "attention_mask": mask}


@pytest.fixture
def encoder(tmp_path):
    """A tiny BERT with weights, in a folder."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=32,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(tmp_path / "bert")
    return tmp_path / "bert"


@pytest.mark.parametrize("options", [{}, {"ngrams": 3}, {"kernel": 0}, {"kernel": 5, "hidden": 7}])
def test_padding_does_not_count(options):
    model = build_text_model("text-cnn", num_classes=3, vocabulary=50, **options).eval()
    together = model(**batch(ROWS, width=9))
    for row, logits in zip(ROWS, together, strict=True):
        torch.testing.assert_close(model(**batch([row]))[0], logits)


def test_a_text_without_tokens_has_finite_logits():
    model = build_text_model("text-cnn", num_classes=3, vocabulary=50)
    logits = model(torch.zeros(2, 1, dtype=torch.int64), torch.zeros(2, 1, dtype=torch.int64))
    assert torch.isfinite(logits).all()
    logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())  # pyright: ignore


def test_an_ngram_is_a_function_of_its_tokens_alone():
    inputs = batch([[5, 9, 2], [3, 5, 9], [9, 5, 2]])
    known = inputs["attention_mask"].bool()
    pairs = hashed(inputs["input_ids"], known, 2, 1000)
    assert pairs[0, 0] == pairs[1, 0] == pairs[2, 0] == 0  # nothing before the first token
    assert pairs[0, 1] == pairs[1, 2]  # 5 9, wherever it stands
    assert pairs[0, 1] != pairs[2, 1]  # 9 5
    single = hashed(inputs["input_ids"], known, 1, 1000)
    assert single[0, 0] == single[1, 1]
    assert pairs[0, 1] != single[0, 1]
    padded = hashed(
        batch([[5, 9]], width=4)["input_ids"], batch([[5, 9]], 4)["attention_mask"].bool(), 1, 9
    )
    assert padded[0, 2:].tolist() == [0, 0]
    assert (padded[0, :2] > 0).all()


def test_buckets_are_filled_evenly():
    ids = torch.arange(20000)[None]
    found = hashed(ids, torch.ones_like(ids, dtype=torch.bool), 1, 50)[0]
    counts = torch.bincount(found, minlength=51)
    assert counts[0] == 0
    assert (counts[1:] - 400).abs().max() < 100  # five standard deviations


def test_an_encoder_by_path(encoder):
    transformers = pytest.importorskip("transformers")
    model = build_text_model(
        "text-encoder", num_classes=3, vocabulary=50, path=str(encoder)
    ).eval()  # fmt: skip
    plain = transformers.BertModel.from_pretrained(encoder, add_pooling_layer=False).eval()
    for row, logits in zip(ROWS, model(**batch(ROWS)), strict=True):
        states = plain(**batch([row])).last_hidden_state
        torch.testing.assert_close(model.get_submodule("head")(states.mean(1))[0], logits)
    first = build_text_model(
        "text-encoder", num_classes=3, vocabulary=50, path=str(encoder), pooling="first",
        pretrained=False,
    )  # fmt: skip
    assert first(**batch(ROWS)).shape == (4, 3)


def test_the_first_layers_of_an_encoder(encoder):
    build = {"num_classes": 3, "vocabulary": 50, "path": str(encoder)}
    model = build_text_model("text-encoder", **build)
    whole = list(model.get_submodule("encoder.encoder.layer").children())
    assert len(whole) > 1
    for pretrained in (True, False):
        cut = build_text_model("text-encoder", **build, layers=1, pretrained=pretrained)
        (only,) = cut.get_submodule("encoder.encoder.layer").children()
        same = all(
            torch.equal(a, b) for a, b in zip(only.parameters(), whole[0].parameters(), strict=True)
        )
        assert same == pretrained
    for layers in (0, len(whole) + 1):
        with pytest.raises(ModelError, match=rf"layers must be in 1 .. {len(whole)}"):
            build_text_model("text-encoder", **build, layers=layers)


def test_what_cannot_be_built_is_refused(encoder):
    build = {"num_classes": 3, "vocabulary": 50}
    with pytest.raises(UnknownName, match="model of texts 'lenet5'"):
        build_text_model("lenet5", **build)
    with pytest.raises(ModelError, match="takes no option 'widht'"):
        build_text_model("text-cnn", **build, widht=3)
    with pytest.raises(ModelError, match="kernel odd or 0"):
        build_text_model("text-cnn", **build, kernel=4)
    with pytest.raises(ModelError, match="num_classes 0"):
        build_text_model("text-cnn", num_classes=0, vocabulary=50)
    with pytest.raises(ModelError, match="knows 50 tokens and the data's tokenizer 60"):
        build_text_model("text-encoder", num_classes=3, vocabulary=60, path=str(encoder))
    with pytest.raises(ModelError, match="pooling must be mean or first"):
        build_text_model("text-encoder", **build, path=str(encoder), pooling="max")
    with pytest.raises(ModelError, match="nothing to load at"):
        build_text_model("text-encoder", **build, path="./nowhere")


def test_a_sentence_encoder_is_its_mean_state_of_length_1(encoder):
    model: Any = build_text_model(
        "sentence-encoder", num_classes=0, vocabulary=50, path=str(encoder)
    )
    model.eval()
    together = model(**batch(ROWS, width=9))
    assert together.shape == (4, 8)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(4))
    states = model.encoder(**batch([ROWS[0]])).last_hidden_state[0]
    torch.testing.assert_close(together[0], torch.nn.functional.normalize(states.mean(0), dim=0))
    plain: Any = {"vocabulary": 50, "num_classes": 1, "path": str(encoder), "normalise": False}
    first: Any = build_text_model("sentence-encoder", layers=1, pooling="first", **plain).eval()
    assert len(first.encoder.encoder.layer) == 1
    wanted = first.encoder(**batch([ROWS[0]])).last_hidden_state[:, 0]
    torch.testing.assert_close(first(**batch([ROWS[0]])), wanted)


def test_a_static_embedding_is_the_mean_of_its_tokens_rows(encoder):
    model: Any = build_text_model("static-embedding", num_classes=0, vocabulary=50, width=3)
    out = model(**batch(ROWS, width=9))
    assert out.shape == (4, 3)
    torch.testing.assert_close(out[0], model.rows.weight[ROWS[0]].mean(0))
    begun: Any = build_text_model(
        "static-embedding", num_classes=1, vocabulary=50, path=str(encoder)
    )
    own: Any = build_text_model("sentence-encoder", num_classes=1, vocabulary=50, path=str(encoder))
    assert torch.equal(begun.rows.weight, own.encoder.embeddings.word_embeddings.weight)
    empty: Any = {"num_classes": 1, "vocabulary": 50, "path": str(encoder), "pretrained": False}
    made: Any = build_text_model("static-embedding", **empty)
    assert made.rows.weight.shape == (50, 8)
    with pytest.raises(ModelError, match="width from 1"):
        build_text_model("static-embedding", num_classes=1, vocabulary=50, width=0)
