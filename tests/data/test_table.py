"""Tables: what becomes an input, what is learned, what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from frugalkd.data import DATA, TableData, load_data
from frugalkd.data.labels import Corrections, Noise, with_noise
from frugalkd.data.samples import take
from frugalkd.data.table import Columns, read_table, target_columns
from frugalkd.errors import DataError

pyarrow = pytest.importorskip("pyarrow", reason="needs the extra parquet")

ROWS = 40
STREAM = np.random.default_rng(0)
COLUMNS = {
    "size": STREAM.uniform(1, 5, ROWS).round(3).tolist(),
    "rooms": STREAM.integers(1, 6, ROWS).tolist(),
    "kind": STREAM.choice(["flat", "house", "hut"], ROWS).tolist(),
    "price": STREAM.uniform(10, 1000, ROWS).round(2).tolist(),
}


def text_of(columns):
    rows = zip(*columns.values(), strict=True)
    lines = [",".join(columns), *(",".join(map(str, row)) for row in rows)]
    return "\n".join(lines) + "\n"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "homes.csv"
    path.write_text(text_of(COLUMNS))
    return path


def table(path, **options) -> TableData:
    made = load_data("table", path=str(path), **options)
    assert isinstance(made.train, TableData)
    return made.train


def test_numbers_are_standardised_and_texts_are_one_of_several(file):
    splits = load_data("table", path=str(file), target="price", log=["price"])
    train, test = splits.train, splits.test
    assert isinstance(train, TableData)
    assert isinstance(test, TableData)
    assert (len(train), len(test)) == (32, 8)
    assert train.columns.width == 5
    assert train.features[:, :2].mean(dim=0).numpy() == pytest.approx(0, abs=1e-6)
    assert train.features[:, :2].std(dim=0, correction=0).numpy() == pytest.approx(1, rel=1e-5)
    assert torch.equal(train.features[:, 2:].sum(dim=1), torch.ones(32))
    assert test.columns == train.columns
    assert train.classes == ("log price",)
    row = int(train.names([3])[0].removeprefix("row "))
    assert train.labels[3].item() == pytest.approx(np.log(COLUMNS["price"][row]), rel=1e-6)
    said = f"rooms {COLUMNS['rooms'][row]}, kind {COLUMNS['kind'][row]}"
    assert train.texts([3])[0].endswith(said)
    features, labels = train.batch(np.array([3]), np.array([0]))
    assert torch.equal(features[0], train[3][0])
    assert torch.equal(labels[0], train[3][1])


def test_every_format_is_the_same_table(file, tmp_path):
    import pyarrow.parquet

    wanted = table(file, target=["price", "size"])
    pyarrow.parquet.write_table(pyarrow.table(COLUMNS), tmp_path / "homes.parquet")
    arrays: Any = {name: np.array(values) for name, values in COLUMNS.items()}
    np.savez(tmp_path / "homes.npz", **arrays)
    for name in ("homes.parquet", "homes.npz"):
        made = table(tmp_path / name, target=["price", "size"])
        assert made.digest() == wanted.digest()
        assert made.classes == ("price", "size")


def test_arrays_of_columns_are_numbered(tmp_path):
    x = STREAM.standard_normal((ROWS, 3))
    np.savez(tmp_path / "x.npz", x=x, y=x.sum(axis=1))
    made = table(tmp_path / "x.npz", target="y")
    assert [column.name for column in made.columns.columns] == ["x 0", "x 1", "x 2"]


def test_classes_are_those_of_a_column(file):
    made = table(file, label="kind", features=["size", "price"])
    assert made.classes == ("flat", "house", "hut")
    assert made.labels.dtype == torch.int64
    assert made[0][1] == made.labels[0]
    assert table(file, label="rooms").classes == ("1", "2", "3", "4", "5")


def test_large_class_names_are_kept_apart(tmp_path):
    (tmp_path / "x.csv").write_text("x,y\n1,12345678\n2,12345679\n3,-1\n4,-1\n5,12345678\n")
    made = table(tmp_path / "x.csv", label="y", test=0.2)
    assert made.classes == ("-1", "12345678", "12345679")


def test_texts_of_digits_alone_stay_texts(tmp_path):
    file = tmp_path / "x.csv"
    file.write_text("code,y\n01,1\n02,2\nA,3\n01,4\n02,5\n")
    columns = table(file, target="y").columns
    file.write_text("code\n01\n02\n")
    inputs = columns.inputs(read_table(file, texts=["code"]))
    assert inputs[:, :2].tolist() == [[1, 0], [0, 1]]
    with pytest.raises(DataError, match="'code' holds numbers, as 1, and held texts in the"):
        columns.inputs(read_table(file))


def test_another_table_has_the_same_labels_or_none():
    columns = {"a": np.array([0.0, 1.0]), "b": np.array([1.0, 1.0])}
    found = target_columns(columns, ("a", "b"), several=True)
    assert found is not None
    assert found.tolist() == [[0, 1], [1, 1]]
    columns["a"][0] = -1
    with pytest.raises(DataError, match="label 'a' is -1 in row 0: 0 or 1 is needed"):
        target_columns(columns, ("a", "b"), several=True)


def test_two_arrays_of_one_name_are_refused(tmp_path):
    np.savez(tmp_path / "x.npz", **{"x": np.zeros((3, 2)), "x 1": np.ones(3)})
    with pytest.raises(DataError, match="two columns are called 'x 1'"):
        read_table(tmp_path / "x.npz")


def test_another_table_becomes_the_same_inputs(file):
    made = table(file, target="price", log=["price", "size"])
    again = Columns.of_card(made.columns.card())
    other = read_table(file)
    rows = [int(name.removeprefix("row ")) for name in made.names(range(len(made)))]
    assert torch.equal(again.inputs(other)[rows], made.features)
    values = target_columns(other, made.classes)
    assert values is not None
    assert np.array_equal(values[rows], made.labels.numpy())
    classes = target_columns(other, ("hut", "house", "flat"), "kind")
    assert classes is not None
    assert classes[0] == ("hut", "house", "flat").index(COLUMNS["kind"][0])
    other["kind"][:] = "tent"
    assert again.inputs(other)[:, -3:].eq(0).all()
    assert "kind another" in again.described(again.inputs(other)[0].numpy())
    del other["price"]
    assert target_columns(other, made.classes) is None
    assert target_columns(other, ("a",), "price") is None


def test_what_changes_samples_works_or_says_why(file):
    made = table(file, target="price")
    assert len(take(made, 5)) == 5
    kept = Corrections(made.digest(), exclude=frozenset([0, 3])).apply(made)
    assert len(kept) == 30
    with pytest.raises(DataError, match="no class each"):
        with_noise(made, Noise(0.1))
    with pytest.raises(DataError, match="no class each"):
        Corrections(made.digest(), relabel={1: "flat"}).apply(made)


def changed(path, **columns):
    path.write_text(text_of({**COLUMNS, **columns}))
    return path


@pytest.mark.parametrize("name", ["NA", "null", "nan"])
def test_a_text_may_be_any_that_is_not_empty(file, name):
    changed(file, kind=[name, *COLUMNS["kind"][1:]])
    assert name in table(file, label="kind").classes


BAD = {
    "no column": (lambda f: table(f, target="cost"), "there is no column 'cost'"),
    "nothing to learn": (lambda f: table(f), "say which column is learned"),
    "two kinds": (lambda f: table(f, target="price", label="kind"), "say which column is learned"),
    "a learned feature": (
        lambda f: table(f, target="price", features=["price"]), "cannot be a feature as well"
    ),
    "texts as values": (lambda f: table(f, target="kind"), "'kind' holds texts"),
    "values as classes": (lambda f: table(f, label="price"), "is not a class: for numbers name"),
    "no logarithm": (
        lambda f: table(changed(f, price=[0.0, *COLUMNS["price"][1:]]), target="price",
                        log=["price"]),
        "'price' is 0 in row 0, which has no logarithm",
    ),
    "an empty cell": (
        lambda f: table(changed(f, price=[*COLUMNS["price"][:-1], ""]), target="price"),
        "'price' has no value in row 39",
    ),
    "a target of NaN": (
        lambda f: table(changed(f, price=["nan", *COLUMNS["price"][1:]]), target="price"),
        "'price' (has no value|is nan) in row 0",
    ),
    "names": (
        lambda f: table(changed(f, kind=[f"n{k}" for k in range(ROWS)]), target="price"),
        "32 different texts, and each becomes an input",
    ),
    "no table": (lambda f: table(f.with_suffix(".txt"), target="price"), "is not there"),
    "another ending": (lambda f: table(f.rename(f.parent / "x.xls"), target="x"), "is not a table"),
    "an empty text": (
        lambda f: table(changed(f, kind=[*COLUMNS["kind"][:-1], ""]), target="price"),
        "'kind' has no value in row 39: fill it in",
    ),
    "an empty label": (
        lambda f: table(changed(f, kind=[*COLUMNS["kind"][:-1], ""]), label="kind"),
        "'kind' has no value in row 39: fill it in",
    ),
    "an infinite label": (
        lambda f: table(changed(f, rooms=["inf", *COLUMNS["rooms"][1:]]), label="rooms"),
        "label inf is not a class",
    ),
    "a label that is not exact": (
        lambda f: table(changed(f, rooms=[2**53 + 1, *COLUMNS["rooms"][1:]]), label="rooms"),
        r"label 9\.0072e\+15 is not a class",
    ),
    "the logarithm of texts": (
        lambda f: table(f, target="price", log=["kind"]), "'kind' holds texts"
    ),
    "the logarithm of nothing": (
        lambda f: table(f, target="price", features=["kind"], log=["size"]),
        "log names column 'size', which is neither a feature nor a target",
    ),
    "two of one name": (
        lambda f: (f.write_text("a,b,a\n1,2,3\n4,5,6\n"), table(f, target="b")),
        "two columns are called 'a'",
    ),
    "no archive": (
        lambda f: table(f.rename(f.parent / "x.npz"), target="x"), "cannot be read"
    ),
    "no parquet": (
        lambda f: table(f.rename(f.parent / "x.parquet"), target="x"), "cannot be read"
    ),
    "a ragged table": (
        lambda f: (f.write_text("a,b\n1,2\n3\n"), table(f, target="a")), "cannot be read"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "says"), BAD.values(), ids=BAD)
def test_bad_tables_get_one_line(file, monkeypatch, make, says):
    monkeypatch.setattr("frugalkd.data.table.MOST_TEXTS", 20)
    with pytest.raises(DataError, match=says) as caught:
        make(file)
    assert str(caught.value).isprintable()


def test_an_archive_that_unpacks_to_much_is_refused(tmp_path):
    np.savez_compressed(tmp_path / "x.npz", x=np.zeros(4_000_000))
    with pytest.raises(DataError, match="more than 64 times its size"):
        read_table(tmp_path / "x.npz")


def test_labels_of_other_forms_are_refused():
    columns = Columns(())
    with pytest.raises(DataError, match=r"float32 .samples, targets. or bool"):
        TableData(torch.zeros(3, 0), torch.zeros(3, 2), ("a",), columns)
    with pytest.raises(DataError, match=r"target of sample 1 is .nan."):
        TableData(torch.zeros(2, 0), torch.tensor([[0.0], [torch.nan]]), ("a",), columns)
    with pytest.raises(DataError, match="features are float32"):
        TableData(torch.zeros(3, 1), torch.zeros(3, 1), ("a",), columns)
    assert "table" in DATA
