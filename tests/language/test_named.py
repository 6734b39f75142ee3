"""Corpora by name: what is held out is not trained on."""

from __future__ import annotations

import json

import pytest
from datasets import Dataset

from frugalkd.errors import DataError
from frugalkd.language.named import load_corpus


@pytest.fixture
def folder(tmp_path, tokenizer, monkeypatch):
    """Two files of texts, two of tables, and a tokenizer."""
    monkeypatch.setenv("FRUGALKD_CACHE", str(tmp_path / "cache"))
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    for kind in ("texts", "tables", "texts/more"):
        (tmp_path / kind).mkdir()
    for number, name in enumerate(("a", "val", "more/val")):
        rows = [{"text": f"the {number} verse, line {line}"} for line in range(4)]
        (tmp_path / f"texts/{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
        if number < 2:
            Dataset.from_list(rows).to_parquet(tmp_path / f"tables/{name}.parquet")
    (tmp_path / "linked.jsonl").symlink_to(tmp_path / "texts/val.jsonl")
    return tmp_path


def corpora(folder, path, test):
    return load_corpus(
        folder, path=path, test=str(folder / test), tokenizer=str(folder / "tokenizer"), length=32
    )


@pytest.mark.parametrize(
    ("path", "test"),
    [
        ("texts", "texts/val.jsonl"), ("texts", "linked.jsonl"), ("texts/val.jsonl", "texts"),
        ("tables", "tables/val.parquet"),
    ],
)  # fmt: skip
def test_held_out_text_in_the_training_folder_is_refused(folder, path, test):
    with pytest.raises(DataError, match=r"^(?!.*\n).* is held out, and some of its text is in .*"):
        corpora(folder, path, test)


def test_a_folder_in_a_folder_of_texts_is_not_read(folder):
    train, held_out = corpora(folder, "texts", "texts/more")
    assert (train.documents, held_out.documents) == (8, 4)


@pytest.mark.parametrize("test", ["more/b.jsonl", "more"])
def test_texts_in_a_folder_of_tables_are_not_read(folder, test):
    path = folder / "rows"
    (path / "more").mkdir(parents=True)
    Dataset.from_list([{"text": "a"}, {"text": "the verse"}]).to_parquet(path / "a.parquet")
    (path / "more/b.jsonl").write_text('{"text": "another one"}')
    train, held_out = corpora(folder, str(path), f"rows/{test}")
    assert (train.documents, held_out.documents) == (2, 1)


def test_texts_beside_others_in_folders_may_be_read(folder):
    for name in ("some", "more"):
        (folder / "lines" / name).mkdir(parents=True)
        (folder / "lines" / name / "a.jsonl").write_text('{"text": "one"}')
    with pytest.raises(DataError, match="and some of its text is in"):
        corpora(folder, str(folder / "lines"), "lines/more")
