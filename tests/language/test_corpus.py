"""Blocks of tokens: which documents they hold, what is learned, and where it is kept."""

from __future__ import annotations

import json
import math
import os
import time
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from language_cases import TEXTS

from frugalkd.data.source import is_batch_indexed, lengths_of
from frugalkd.errors import DataError, SettingError
from frugalkd.files import headers
from frugalkd.language import corpus as corpus_module
from frugalkd.language.corpus import Corpus, _blocks, tokenize_corpus
from frugalkd.language.documents import Part
from frugalkd.teachers.live import describe
from memory_of import peak_of


def tokens_of(*documents):
    """Rows of tokens: document d has the tokens 100 d + 1, 100 d + 2, ..."""
    return [{"input_ids": [10 * d + 1 + t for t in range(n)]} for d, n in enumerate(documents)]


def made(tmp_path, rows, tokenizer, **given):
    return tokenize_corpus(rows, tokenizer, tmp_path / "c", **{"length": 8, **given})


def test_packed_blocks_hold_whole_documents(tmp_path, tokenizer):
    corpus = made(tmp_path, tokens_of(3, 4, 2, 8), tokenizer)
    assert corpus.lengths.tolist() == [7, 2, 8]
    batch = corpus.batch([0, 1], [0, 0])
    assert batch["input_ids"].tolist() == [[1, 2, 3, 11, 12, 13, 14], [21, 22, 0, 0, 0, 0, 0]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 0, 1, 2, 3], [0, 1, 0, 1, 2, 3, 4]]
    assert batch["labels"].tolist() == [
        [-100, 2, 3, -100, 12, 13, 14],
        [-100, 22, -100, -100, -100, -100, -100],
    ]
    assert corpus.rows_of([2, 0]).tolist() == [*range(6, 13), *range(5)]
    assert corpus.row_counts([1, 1]).tolist() == [1, 1]
    assert (corpus.rows, corpus.documents, corpus.tokens, corpus.longest) == (13, 4, 17, 8)


def test_a_long_text_is_cut_and_fills_blocks(tmp_path, tokenizer):
    corpus = made(tmp_path, tokens_of(3, 12), tokenizer)
    assert corpus.lengths.tolist() == [8, 7]
    batch = corpus.batch([1], [0])
    assert batch["position_ids"].tolist() == [[*range(7)]]
    assert batch["labels"][0, 0] == -100


def test_padded_blocks_are_documents(tmp_path, tokenizer):
    corpus = made(tmp_path, tokens_of(3, 4, 2), tokenizer, packing="padded")
    assert corpus.lengths.tolist() == [3, 4, 2]
    assert is_batch_indexed(corpus)
    assert lengths_of(corpus) is corpus.lengths
    one, other = corpus.batch([0], [0]), corpus.batch([1, 2], [0, 0])
    joined, whole = corpus.join([one, other]), corpus.batch([0, 1, 2], [0] * 3)
    for name in whole:
        assert torch.equal(joined[name], whole[name])
    assert {name: part.tolist() for name, part in corpus[2].items()} == {
        "input_ids": [21, 22],
        "position_ids": [0, 1],
        "labels": [-100, 22],
    }
    with pytest.raises(IndexError):
        corpus.batch([3], [0])


def test_masked_tokens_are_no_rows(tmp_path, tokenizer):
    rows = [{"input_ids": [1, 2, 3, 4], "labels": [-100, -100, 3, 4]}]
    corpus = made(tmp_path, rows, tokenizer)
    assert corpus[0]["labels"].tolist() == [-100, -100, 3, 4]
    assert corpus.rows == 2


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.integers(2, 9))
def test_blocks_cover_all_and_cut_only_long_documents(lengths, most):
    ends = np.cumsum(lengths)
    blocks = _blocks(ends.tolist(), most)
    sizes = np.diff(blocks, prepend=0)
    assert blocks[-1] == ends[-1]
    assert (sizes > 0).all()
    assert (sizes <= most).all()
    for begin, end in zip(ends - lengths, ends, strict=True):
        if end - begin <= most:
            assert not ((blocks > begin) & (blocks < end)).any()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32))
def test_any_batch_is_its_blocks(corpus, seed):
    ids = np.random.default_rng(seed).integers(len(corpus), size=5)
    batch = corpus.batch(ids, ids * 0)
    for row, id in enumerate(ids):
        for name, part in corpus[id].items():
            assert torch.equal(batch[name][row, : len(part)], part)
    learned = batch["labels"] != -100
    assert learned.sum().item() == len(corpus.rows_of(ids)) == corpus.row_counts(ids).sum()
    assert not learned[batch["position_ids"] == 0].any()


def test_every_row_is_one_learned_token(corpus, tokenizer):
    rows = corpus.rows_of(np.arange(len(corpus)))
    assert rows.tolist() == [*range(corpus.rows)]
    tokens = sum(len(tokenizer(text)["input_ids"]) + 1 for text in TEXTS)
    assert corpus.tokens == tokens


def test_a_part_of_the_positions_is_always_the_same(tmp_path, tokenizer):
    full = tokenize_corpus(TEXTS, tokenizer, tmp_path / "full", length=64)
    halves = [
        tokenize_corpus(TEXTS, tokenizer, tmp_path / name, length=64, positions=0.5)
        for name in ("a", "b")
    ]
    assert halves[0].digest() == halves[1].digest() != full.digest()
    assert 0.4 < halves[0].rows / full.rows < 0.6
    labels, all_labels = (c.batch([1], [0])["labels"] for c in (halves[0], full))
    kept = labels != -100
    assert torch.equal(labels[kept], all_labels[kept])


@pytest.mark.parametrize("part", [0.14, 0.55, 1.0])
@pytest.mark.heavy
def test_each_visit_learns_another_part_of_the_rows(corpus, part):
    drawn, ids = corpus.drawn(part, seed=3), np.arange(len(corpus))[::-1]
    exact = Fraction(str(part))
    counts = [math.ceil(exact * count) for count in corpus.row_counts(ids).tolist()]
    assert drawn.row_counts(ids).tolist() == counts
    assert drawn.rows == sum(counts)
    seen, how_often = set(), np.zeros(corpus.rows)
    for view in range(20):
        views = np.full_like(ids, view)
        labels, all_labels = (each.batch(ids, views)["labels"] for each in (drawn, corpus))
        kept = labels != -100
        assert kept.sum(dim=1).tolist() == counts
        assert torch.equal(labels[kept], all_labels[kept])
        numbers = torch.full_like(labels, -1)
        numbers[all_labels != -100] = torch.from_numpy(corpus.rows_of(ids))
        rows = drawn.rows_of(ids, views)
        assert numbers[kept].tolist() == rows.tolist()
        alone = [drawn.rows_of(ids[at : at + 1], views[at : at + 1]) for at in range(len(ids))]
        assert np.concatenate(alone).tolist() == rows.tolist()
        seen.add(tuple(rows.tolist()))
        how_often[rows] += 1
    assert len(seen) == (20 if part < 1 else 1)
    assert how_often.std() < 1.1 * (20 * part * (1 - part)) ** 0.5 + 1e-9, "a binomial"
    assert drawn.digest() == corpus.digest()
    assert drawn.whole is corpus
    equal = [
        describe(None, each) == describe(None, drawn) for each in (corpus, corpus.drawn(part, 4))
    ]
    assert equal == [part == 1] * 2
    drawn.verify()


def test_a_part_of_the_documents_is_not_all_of_them(tmp_path, tokenizer):
    for first, second in ((None, Part(0.5, True)), (Part(0.5, True), None)):
        there = tmp_path / str(first)
        tokenize_corpus(tokens_of(*[3] * 9), tokenizer, there, length=8, part=first)
        with pytest.raises(DataError, match="holds tokens of another documents"):
            tokenize_corpus(tokens_of(*[3] * 9), tokenizer, there, length=8, part=second)


@pytest.mark.parametrize("part", [0.0, 1.1, "a half"])
def test_an_impossible_part_of_the_rows_is_refused(corpus, part):
    with pytest.raises(SettingError):
        corpus.drawn(part)


def test_a_corpus_is_made_once(tmp_path, tokenizer, monkeypatch):
    first = made(tmp_path, tokens_of(3, 4), tokenizer)
    monkeypatch.setattr(corpus_module, "_write_tokens", None)
    assert made(tmp_path, tokens_of(3, 4), tokenizer).digest() == first.digest()
    for change in ({"length": 9}, {"packing": "padded"}, {"positions": 0.5}):
        with pytest.raises(
            DataError, match=r"^(?!.*\n).* holds tokens of another (blocks|positions)"
        ):
            made(tmp_path, tokens_of(3, 4), tokenizer, **change)
    with pytest.raises(DataError, match="tokens of another source: delete it, or name another"):
        made(tmp_path, tokens_of(3, 5), tokenizer)


def test_prompts_by_other_rules_are_not_read(tmp_path, tokenizer, monkeypatch):
    prompts, texts = [{"prompt": "To", "completion": " be"}], ["To be", "or not"]
    with monkeypatch.context() as before:
        before.setattr(corpus_module, "rendering_of", lambda source, rows: {})
        made(tmp_path, prompts, tokenizer)
        tokenize_corpus(texts, tokenizer, tmp_path / "texts")
    with pytest.raises(DataError, match="holds tokens of another rendering: delete it, or name"):
        made(tmp_path, prompts, tokenizer)
    assert tokenize_corpus(texts, tokenizer, tmp_path / "texts").documents == 2


def test_a_killed_tokenisation_starts_again(tmp_path, tokenizer, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(headers, "write_header", lambda *given: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            made(tmp_path, tokens_of(3, 4), tokenizer)
    with pytest.raises(DataError, match="holds no corpus"):
        Corpus(tmp_path / "c")
    again, other = made(tmp_path, tokens_of(3, 4), tokenizer), tmp_path / "other"
    assert again.digest() == made(other, tokens_of(3, 4), tokenizer).digest()
    for name in os.listdir(tmp_path / "c"):
        assert (tmp_path / "c" / name).read_bytes() == (other / "c" / name).read_bytes()


@pytest.mark.parametrize(
    ("rows", "given", "says"),
    [
        ([], {}, "the corpus is empty: no document has a token: give more text"),
        ([""], {}, "the corpus is empty"),
        ([{"text": "a"}] * 2, {"part": Part(0.001, True)}, "part that is held out: no document"),
        ([{"text": ""}, *tokens_of(2, 9)], {"packing": "padded"}, "document 2 has 9 tokens"),
        ([{"input_ids": [4]}], {}, "no position carries a loss"),
        (
            [{"input_ids": [4, 300]}],
            {},
            r"document 0 has tokens 4 \.\. 300, and the tokenizer 0 \.\. 299",
        ),
        ([{"input_ids": [4, -1]}], {}, "has tokens -1"),
        (tokens_of(2, 9), {"packing": "padded"}, "document 1 has 9 tokens, and a block 8: raise"),
        ([{"prompt": "To be or not", "completion": " to be"}], {}, "and a block 8"),
    ],
)
def test_a_corpus_without_sense_is_refused(tmp_path, tokenizer, rows, given, says):
    with pytest.raises(DataError, match=rf"^(?!.*\n).*{says}"):
        made(tmp_path, rows, tokenizer, **given)
    with pytest.raises(DataError, match="holds no corpus"):
        Corpus(tmp_path / "c")


@pytest.mark.parametrize("given", [{"length": 1}, {"packing": "tight"}, {"positions": 0.0}])
def test_impossible_settings_are_refused(tmp_path, tokenizer, given):
    with pytest.raises(SettingError):
        made(tmp_path, tokens_of(3), tokenizer, **given)


def test_another_folder_is_left_as_it_is(tmp_path, tokenizer):
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is not empty and holds no corpus"):
        made(tmp_path, tokens_of(3), tokenizer)
    assert os.listdir(tmp_path / "c") == ["thesis.txt"]


def test_damage_is_refused(tmp_path, tokenizer):
    corpus = made(tmp_path, tokens_of(3, 4), tokenizer)
    corpus.verify()
    path = tmp_path / "c" / "tokens.bin"
    kept = path.read_bytes()
    path.write_bytes(kept[:-2] + b"\0\0")
    with pytest.raises(DataError, match="is damaged: delete it and tokenise again"):
        Corpus(tmp_path / "c").verify()
    path.write_bytes(kept[:-1])
    with pytest.raises(DataError, match=r"tokens\.bin is damaged: 13 bytes, not 14"):
        Corpus(tmp_path / "c")
    path.unlink()
    with pytest.raises(DataError, match=r"tokens\.bin is missing"):
        Corpus(tmp_path / "c")
    header = tmp_path / "c" / "header.json"
    header.write_text(header.read_text().replace('"documents": 2', '"documents": 3'))
    with pytest.raises(DataError, match="its checksum is wrong"):
        Corpus(tmp_path / "c")
    value = {k: v for k, v in json.loads(header.read_text()).items() if k not in ("crc32", "rows")}
    for name in ("format", "schema"):
        del value[name]
    headers.write_header(header, corpus_module.FORMAT, corpus_module.SCHEMA, value)
    with pytest.raises(DataError, match=r"header\.json is damaged"):
        Corpus(tmp_path / "c")


def billion(folder):
    """A corpus of 1e9 tokens in a million blocks, of files without content."""
    tokens, blocks = 10**9, 10**6
    header = {
        "about": {}, "vocabulary": 50_000, "padding": 0, "documents": blocks, "tokens": tokens,
        "blocks": blocks, "longest": 1000, "rows": tokens - blocks, "digest": "",
    }  # fmt: skip
    folder.mkdir()
    for name, (kind, count) in corpus_module._layout(header).items():
        with open(folder / f"{name}.bin", "wb") as file:
            file.truncate(count * np.dtype(kind).itemsize)
    for name in ("documents", "blocks"):
        ends = np.memmap(folder / f"{name}.bin", "<i8", "r+")
        ends[:] = np.arange(1, blocks + 1) * 1000
        ends.flush()
    headers.write_header(folder / "header.json", corpus_module.FORMAT, corpus_module.SCHEMA, header)


def read_a_batch(folder):
    started = time.perf_counter()
    corpus = Corpus(folder)
    opened = time.perf_counter() - started
    batch = corpus.batch([0, 10**6 - 1], [0, 0])
    assert batch["input_ids"].shape == (2, 1000)
    assert batch["position_ids"][1].tolist() == [*range(1000)]
    return opened


@pytest.mark.slow
@pytest.mark.heavy
def test_a_billion_tokens_open_at_once_and_take_no_memory(tmp_path):
    billion(tmp_path / "c")
    assert read_a_batch(tmp_path / "c") < 1
    before = "from frugalkd.language.corpus import Corpus"
    folder = str(tmp_path / "c")
    taken = peak_of(before, f"corpus = Corpus({folder!r}); corpus.batch([0, 999_999], [0, 0])")
    assert taken < 20 << 20
