"""Tokens' distributions, live and stored: what a store belongs to, and how it is filled."""

from __future__ import annotations

import copy
import json
import os

import numpy as np
import pytest
import torch
from language_cases import TEXTS
from torch.nn import functional as F

from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import ModelError, TargetsError
from frugalkd.language import targets as targets_module
from frugalkd.language.corpus import tokenize_corpus
from frugalkd.language.encodings import (
    TOKEN_ENCODINGS,
    HeadAndTail,
    TopTokens,
    make_token_encoding,
)
from frugalkd.language.targets import LiveTokens, StoredTokens, TokenHeader
from frugalkd.language.tiny import tiny_model, tiny_tokenizer
from frugalkd.teachers import FillOptions
from frugalkd.teachers.store import Store, read_header

SMALL = HeadAndTail(32)
"""31 bytes a row."""


def fill(teacher, corpus, folder, **given):
    return StoredTokens.fill(teacher, corpus, folder, **{"encoding": SMALL, **given})


def bytes_of(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def logits_of(teacher, corpus, ids):
    """(rows, 300), by the model's own forward."""
    data = corpus.batch(ids, ids * 0)
    with torch.no_grad():
        out = teacher(data["input_ids"], position_ids=data["position_ids"], use_cache=False).logits
    learned = data["labels"][:, 1:] != -100
    return out[:, :-1][learned][:, :300], data["labels"][:, 1:][learned], data


def test_live_rows_are_the_models_logits(teacher, corpus):
    ids = np.array([3, 0])
    live, (wanted, _, data) = (
        LiveTokens(teacher, corpus),
        logits_of(teacher, corpus, np.array([3, 0])),
    )
    rows = live.fetch(ids, ids * 0, data)
    assert len(rows) == len(wanted) == corpus.row_counts(ids).sum()
    torch.testing.assert_close(rows.part(slice(5, 9)), wanted[5:9])
    assert not rows.part(slice(0, 1)).requires_grad
    assert (live.queries, live.tokens) == (2, len(wanted))


@pytest.mark.parametrize("name", TOKEN_ENCODINGS)
def test_a_store_keeps_every_row_once(teacher, corpus, tmp_path, name):
    encoding = make_token_encoding(name)
    stored = fill(teacher, corpus, tmp_path / "s", encoding=encoding, batch_size=4)
    assert stored.store.count() == corpus.rows == stored.tokens
    assert stored.queries == len(corpus)
    ids = np.array([5, 0, 5])
    logits, labels, data = logits_of(teacher, corpus, ids)
    sparse = stored.fetch(ids, ids * 0, data)
    rows = corpus.rows_of(ids)
    wanted = encoding.decode(encoding.encode(logits, labels, rows, rows * 0), 300)
    torch.testing.assert_close(sparse.weights, wanted.weights, rtol=1e-2, atol=1e-3)
    p, entropy = stored.statistics(ids, ids * 0)
    own = F.log_softmax(logits, dim=1)
    torch.testing.assert_close(p, own.gather(1, labels[:, None])[:, 0], rtol=0, atol=1e-3)
    torch.testing.assert_close(entropy, -(own.exp() * own).sum(dim=1), rtol=0, atol=1e-3)
    assert stored.store.header.record.itemsize <= 64


def test_masked_tokens_take_no_bytes(teacher, tokenizer, tmp_path):
    rows = [{"prompt": text[:20], "completion": text[20:40]} for text in TEXTS[:8]]
    corpus = tokenize_corpus(rows, tokenizer, tmp_path / "c", length=64, packing="padded")
    stored = fill(teacher, corpus, tmp_path / "s")
    completions = sum(len(tokenizer(row["completion"])["input_ids"]) + 1 for row in rows)
    assert corpus.rows == stored.tokens == completions < corpus.tokens
    assert (tmp_path / "s" / "rows-00000.bin").stat().st_size == 31 * completions


def test_views_are_other_draws(teacher, corpus, tmp_path):
    stored = fill(teacher, corpus, tmp_path / "s", views=2)
    ids = np.array([1])
    data = corpus.batch(ids, ids)
    first, second, third = (stored.fetch(ids, ids * 0 + view, data).classes for view in range(3))
    assert not torch.equal(first, second)
    assert torch.equal(first, third)
    assert stored.tokens == corpus.rows  # the teacher ran once
    assert stored.store.count() == 2 * corpus.rows


def test_a_store_of_all_rows_serves_those_of_a_visit(teacher, corpus, tmp_path):
    drawn = corpus.drawn(0.5, seed=1)
    whole = fill(teacher, corpus, tmp_path / "s", views=2)
    again = fill(teacher, drawn, tmp_path / "s", views=2)
    assert again.tokens == 0, "a draw is of the training, not of the store"
    assert again.views is None
    ids, views = np.array([5, 0, 1]), np.array([3, 0, 2])
    data = drawn.batch(ids, views)
    everything = whole.fetch(ids, views % 2, corpus.batch(ids, views))
    place = np.searchsorted(corpus.rows_of(ids[:1]), drawn.rows_of(ids[:1], views[:1]))
    some = again.fetch(ids, views, data)
    live = LiveTokens(teacher, drawn).fetch(ids, views, data)
    assert len(some) == len(live) == drawn.row_counts(ids).sum()
    assert torch.equal(some.part(slice(0, len(place))).classes, everything.classes[place])
    LiveTokens(teacher, corpus).check(drawn)  # whose rows are those of the batch
    for targets, dataset in ((whole, drawn), (again, corpus), (again, corpus.drawn(0.5, seed=2))):
        with pytest.raises(TargetsError, match="made for other token positions than this"):
            targets.check(dataset)


class Killed(BaseException):
    """Not even a handler of errors sees it."""


@pytest.mark.parametrize("after", [1, 70, 400])
def test_a_killed_fill_ends_in_the_same_bytes(teacher, corpus, tmp_path, monkeypatch, after):
    whole = fill(teacher, corpus, tmp_path / "whole", batch_size=3)
    with monkeypatch.context() as patch:
        patch.setattr("frugalkd.teachers.store.SYNC_ROWS", 50)
        patch.setattr(targets_module, "rows_at_once", lambda *_: 40)
        written, put = [0], Store.put

        def put_or_die(self, ids, views, records):
            if written[0] >= after:
                raise Killed
            written[0] += len(ids)
            put(self, ids, views, records)

        patch.setattr(Store, "put", put_or_die)
        patch.setattr(
            Store,
            "sync",
            lambda self, inner=Store.sync: None if written[0] >= after else inner(self),
        )
        with pytest.raises(Killed):
            fill(teacher, corpus, tmp_path / "s", batch_size=3)
    there = Store(tmp_path / "s", kind=TokenHeader).count()
    assert there < corpus.rows
    resumed = fill(teacher, corpus, tmp_path / "s", batch_size=3)
    assert bytes_of(tmp_path / "s") == bytes_of(tmp_path / "whole")
    assert resumed.tokens <= whole.tokens
    again = fill(teacher, corpus, tmp_path / "s", batch_size=3)
    assert again.tokens == again.queries == 0


def test_shards_end_in_the_same_rows(teacher, corpus, tmp_path):
    for shard in (1, 0):
        fill(teacher, corpus, tmp_path / "two", options=FillOptions(shard=(shard, 2)))
    one, two = fill(teacher, corpus, tmp_path / "one"), StoredTokens(tmp_path / "two", corpus)
    assert two.store.header.shards == 2
    rows = np.arange(corpus.rows)
    records = [each.store.records(rows, rows * 0) for each in (one, two)]
    assert records[0].tobytes() == records[1].tobytes()
    fill(teacher, corpus, tmp_path / "two")  # as many shards as there are


def test_options_are_called(teacher, corpus, tmp_path):
    seen = []
    options = FillOptions(
        ranks=Ranks(), on_create=lambda header: seen.append(header.disk_bytes),
        on_progress=lambda done, total: seen.append((done, total)),
        on_durable=lambda: seen.append("durable"),
    )  # fmt: skip
    fill(teacher, corpus, tmp_path / "s", options=options, batch_size=100)
    blocks = -(-corpus.rows // 256) * 64
    assert seen == [31 * corpus.rows + blocks, (corpus.rows, corpus.rows)]


def test_the_identity_is_the_teacher_and_the_tokens(teacher, corpus, tokenizer, tmp_path):
    fill(teacher, corpus, tmp_path / "s")
    about = read_header(tmp_path / "s", TokenHeader).about
    assert {"teacher", "teacher's model", "precision", "torch", targets_module.TOKENS} < set(about)
    others = {
        "teacher": (tiny_model(2, 32, vocabulary=320, positions=64, seed=5), corpus, {}),
        "precision": (LiveTokens(teacher, corpus, precision="bf16"), corpus, {}),
        "encoding": (teacher, corpus, {"encoding": TopTokens(32)}),
        "views": (teacher, corpus, {"views": 2}),
    }
    for name, (model, data, given) in others.items():
        with pytest.raises(TargetsError, match=rf"^(?!.*\n).*which differ in {name}.*: delete it"):
            fill(model, data, tmp_path / "s", **given)
    for length, positions in ((32, 1.0), (64, 0.5)):
        other = tokenize_corpus(
            TEXTS, tokenizer, tmp_path / f"{length}", length=length, positions=positions
        )
        with pytest.raises(TargetsError, match="tokens, loss mask and blocks"):
            fill(teacher, other, tmp_path / "s")
        with pytest.raises(TargetsError, match=r"another text, chat template, tokenizer or length"):
            StoredTokens(tmp_path / "s", other)
        with pytest.raises(TargetsError, match="belong to another corpus"):
            StoredTokens(tmp_path / "s", corpus).check(other)
    StoredTokens(tmp_path / "s", corpus).check(corpus)


TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}<|end|>{% endfor %}"


def test_another_template_is_another_store_if_its_tokens_are(teacher, tokenizer, tmp_path):
    chat = [{"messages": [{"role": role, "content": "ay"} for role in ("user", "assistant")]}]
    templates = {"a": TEMPLATE, "same": TEMPLATE + "{# a note #}", "b": TEMPLATE.replace("[", "<")}
    made = {}
    for name, template in templates.items():
        own = copy.deepcopy(tokenizer)
        own.chat_template = template
        made[name] = tokenize_corpus(chat, own, tmp_path / name, length=64)
    fill(teacher, made["a"], tmp_path / "s")
    assert StoredTokens(tmp_path / "s", made["same"]).store.count() == made["a"].rows
    with pytest.raises(TargetsError, match="another text, chat template"):
        StoredTokens(tmp_path / "s", made["b"])


def test_a_teacher_of_another_vocabulary_is_refused(teacher, corpus):
    with pytest.raises(TargetsError, match="another vocabulary"):
        LiveTokens(teacher, corpus, tiny_tokenizer("other words, other words", 300))


def test_damaged_tokens_are_refused(teacher, tokenizer, tmp_path):
    corpus = tokenize_corpus(TEXTS[:3], tokenizer, tmp_path / "c", length=64)
    path = tmp_path / "c" / "tokens.bin"
    content = bytearray(path.read_bytes())
    content[4] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match="is damaged: delete it and tokenise again"):
        fill(teacher, corpus, tmp_path / "s")


def test_outputs_that_are_not_finite_are_refused(teacher, corpus, tmp_path):
    broken = copy.deepcopy(teacher)
    with torch.no_grad():
        broken.model.embed_tokens.weight[corpus[2]["input_ids"][3]] = torch.nan
    with pytest.raises((TargetsError, ModelError), match=r"not finite|does more to its logits"):
        fill(broken, corpus, tmp_path / "s")


def test_a_damaged_header_is_refused(teacher, corpus, tmp_path):
    fill(teacher, corpus, tmp_path / "s")
    path = tmp_path / "s" / "header.json"
    value = json.loads(path.read_text())
    value["encoding"]["record_bytes"] = 64
    path.write_text(json.dumps(value))
    with pytest.raises(TargetsError, match="is damaged: its checksum is wrong"):
        StoredTokens(tmp_path / "s", corpus)
    with pytest.raises(TargetsError, match="is damaged: "):
        Store(tmp_path / "s")


def test_norm_and_head_run_in_float32(corpus, teacher):
    """A teacher of 16 bits gives what rounding only its layers gives."""
    half, ids = copy.deepcopy(teacher).bfloat16(), np.array([0])
    data = corpus.batch(ids, ids)
    rows = LiveTokens(half, corpus).fetch(ids, ids, data)
    assert rows.states.dtype == torch.float32
    taken = []
    hook = half.model.norm.register_forward_pre_hook(lambda module, given: taken.append(given[0]))
    with torch.no_grad():
        half.model(data["input_ids"], position_ids=data["position_ids"], use_cache=False)
    hook.remove()
    learned = data["labels"][:, 1:] != -100
    before = taken[0][:, :-1][learned].double()
    normed = before * torch.rsqrt(
        before.pow(2).mean(-1, keepdim=True) + half.model.norm.variance_epsilon
    )
    exact = normed * half.model.norm.weight.double() @ half.lm_head.weight[:300].double().T
    torch.testing.assert_close(rows.part(slice(None)).double(), exact, rtol=1e-5, atol=1e-5)
    assert half.model.norm.weight.dtype == torch.bfloat16


def test_a_norm_that_is_not_found_is_refused(corpus, teacher):
    half = copy.deepcopy(teacher).bfloat16()
    live = LiveTokens(half, corpus)
    half.model.norm.__class__ = type("Last", (type(half.model.norm),), {})
    ids = np.array([0])
    with pytest.raises(ModelError, match="the final norm of LlamaForCausalLM is not found"):
        live.fetch(ids, ids, corpus.batch(ids, ids))
