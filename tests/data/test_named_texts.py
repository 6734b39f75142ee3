"""Banking77 and TREC-6 as they are, and files that are not what they should be."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

from frugalkd.data import TextData, hold_out, load_data, take
from frugalkd.data.named import read_columns, read_texts
from frugalkd.data.text import tokenize
from frugalkd.errors import DataError

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")


@pytest.mark.parametrize(
    ("name", "train", "test", "classes"), [("banking77", 10003, 3080, 77), ("trec6", 5452, 500, 6)]
)
def test_the_real_ones(require_data, name, train, test, classes):
    require_data(f"{name}/train.parquet")
    splits = load_data(name)
    assert (len(splits.train), len(splits.test)) == (train, test)
    assert splits.train.num_classes == len(set(splits.train.classes)) == classes
    assert sorted(set(splits.train.labels.tolist())) == list(range(classes))
    batch = splits.train.batch(np.arange(5), np.zeros(5))  # pyright: ignore
    assert batch["input_ids"].shape == batch["attention_mask"].shape
    again = load_data(name, max_length=3)
    assert int(again.train.lengths.max()) == 3  # pyright: ignore


@pytest.mark.parametrize("name", ["banking77", "trec6"])
def test_the_words_of_a_part_are_those_of_its_rows(require_data, name):
    written = pq.read_table(require_data(f"{name}/train.parquet")).to_pylist()
    whole = load_data(name).train
    part = take(hold_out(whole, 500)[0], 300)
    assert isinstance(part, TextData)
    said = part.texts(range(300))
    assert said is not None
    labels = {row["text"]: row["label"] for row in written}
    assert [labels[text] for text in said] == part.labels.tolist()
    ours = tokenize(said, max_length=part.tokens.max_length)
    assert np.array_equal(ours.ids, part.tokens.ids)
    assert np.array_equal(ours.ends, part.tokens.ends)


def test_words_that_are_gone_are_said_to_be(tmp_path):
    path = write(tmp_path / "a.parquet", text=["one", "two", "three"], label=[0, 1, 1])
    data = read_texts(path)
    assert data.texts([2, 0, 2]) == ["three", "one", "three"]
    write(path, text=["one"], label=[0])
    with pytest.raises(DataError, match="it changed since it was read"):
        data.texts([2])
    path.unlink()
    with pytest.raises(DataError, match=r"a\.parquet: is not there"):
        data.texts([0])


def test_a_text_is_not_repeated_without_bound(tmp_path):
    """A long text stands in the file once, and all rows repeat it."""
    text = "".join(chr(97 + n % 26) for n in np.random.default_rng(0).integers(0, 26, 100_000))
    path = write(tmp_path / "a.parquet", text=[text] * 400, label=[0] * 400)
    assert path.stat().st_size < 200_000
    tracemalloc.start()
    with pytest.raises(DataError, match="repeats its texts to more than 64 times its size"):
        read_columns(path)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    pq.write_table(pa.table({"text": ["a" * 20_000_000], "label": [0]}), path, compression="zstd")
    with pytest.raises(DataError, match=r"claims 20.* bytes, more than 64 times its size"):
        read_columns(path)


def write(path, metadata=None, **columns):
    table = pa.table(columns)
    pq.write_table(table.replace_schema_metadata(metadata), path)
    return path


def test_classes_without_names_are_numbers(tmp_path):
    data = read_texts(write(tmp_path / "a.parquet", text=["one", "two", "three"], label=[0, 2, 2]))
    assert data.classes == ("0", "1", "2")
    names = b'{"info": {"features": {"label": {"names": ["x", "y", "z"]}}}}'
    found = read_columns(
        write(tmp_path / "b.parquet", {b"huggingface": names}, text=["a", "b"], label=[0, 2])
    )
    assert found[2] == ("x", "y", "z")


@pytest.mark.parametrize("noted", [b"{", b"[]", b'{"info": {"features": {"label": {"names": 3}}}}'])
def test_what_a_file_notes_of_itself_may_be_nonsense(tmp_path, noted):
    path = write(tmp_path / "a.parquet", {b"huggingface": noted}, text=["a", "b"], label=[0, 1])
    assert read_columns(path)[2] == ("0", "1")


def test_wrong_files_are_refused(tmp_path):
    with pytest.raises(DataError, match="is not there"):
        read_texts(tmp_path / "a.parquet")
    (tmp_path / "a.parquet").write_text("no table")
    with pytest.raises(DataError, match="cannot be read"):
        read_texts(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="need text and label"):
        read_texts(write(tmp_path / "b.parquet", text=["a"], label=["b"]))
    with pytest.raises(DataError, match="no text or no label"):
        read_texts(write(tmp_path / "c.parquet", text=["a", None], label=[0, 1]))
    with pytest.raises(DataError, match="count classes from 0"):
        read_texts(write(tmp_path / "d.parquet", text=["a", "b"], label=[0, 10**9]))
    with pytest.raises(DataError, match="labels lie in -1"):
        read_texts(write(tmp_path / "e.parquet", text=["a", "b"], label=[0, -1]))
