from __future__ import annotations

import io
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import torch

from frugalkd.data import load_data
from frugalkd.errors import DataError
from toys import as_images

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")
Image = pytest.importorskip("PIL.Image")

PIXELS = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)
LABELS = [3, 0, 9, 1, 4]


def png(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format=kind)
    return file.getvalue()


PNGS = [png(image) for image in PIXELS]


def write(path: Path, images=PNGS, labels=LABELS, **columns) -> None:
    path.parent.mkdir(exist_ok=True)
    rows = [{"bytes": image, "path": None} for image in images]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    table = {"img": pa.array(rows, kind), "label": pa.array(labels, pa.int64())} | columns
    pq.write_table(pa.table({k: v for k, v in table.items() if v is not None}), path)


@pytest.fixture
def train(tmp_path) -> Path:
    """A correct pair of files; the path of the one to spoil."""
    write(tmp_path / "cifar10" / "test.parquet", PNGS[:2], LABELS[:2])
    write(tmp_path / "cifar10" / "train.parquet")
    return tmp_path / "cifar10" / "train.parquet"


def load(path: Path):
    return load_data("cifar10", path.parent.parent)


def refused(path: Path, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_reads_pixels_and_labels(train):
    splits = load(train)
    found = as_images(splits.train)
    assert (found.images.permute(0, 2, 3, 1).numpy() == PIXELS).all()
    assert found.labels.tolist() == LABELS
    assert len(splits.test) == 2
    assert found.classes[3] == "cat"
    assert found.shape == (3, 32, 32)


def test_more_rows_than_are_read_at_once(train, monkeypatch):
    monkeypatch.setattr("frugalkd.data.named._ROWS_AT_ONCE", 2)
    assert load(train).train.labels.tolist() == LABELS


@pytest.mark.parametrize("keep", [0, 3, 100, -1])
def test_truncated_or_empty_files(train, keep):
    train.write_bytes(train.read_bytes()[:keep])
    refused(train, "cannot be read")


def test_absent_file(train):
    train.unlink()
    refused(train, "is not there")


def test_flipped_bytes_give_data_or_a_data_error(train):
    content = train.read_bytes()
    for place in range(0, len(content), 389):
        train.write_bytes(content[:place] + bytes((content[place] ^ 255,)) + content[place + 1 :])
        with suppress(DataError):  # any other error fails the test
            load(train)


@pytest.mark.parametrize(
    "columns",
    [
        {"img": None},
        {"label": None},
        {"img": pa.array(PNGS)},
        {"label": pa.array(["a"] * 5)},
    ],
)
def test_other_columns(train, columns):
    write(train, **columns)
    refused(train, r"the columns are \(.*need img")


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (None, "row 2: has no image"),
        (b"", "row 2: no picture of a known format: get the file again"),
        (b"not a PNG", "row 2: no picture of a known format"),
        (PNGS[2][:200], "row 2: cannot be decoded"),
        (png(PIXELS[2, :16]), r"row 2: it is PNG RGB \(32, 16\), not PNG RGB 32x32"),
        (png(PIXELS[2, :, :, 0]), "row 2: it is PNG L"),
        (png(PIXELS[2], "BMP"), "row 2: it is BMP RGB"),
    ],
)
def test_images_that_are_none(train, image, message):
    write(train, [*PNGS[:2], image, *PNGS[3:]])
    refused(train, message)


@pytest.mark.parametrize(
    ("label", "message"),
    [(10, r"labels lie in 0 \.\. 10"), (-1, r"labels lie in -1 \.\. 9"), (None, "no label")],
)
def test_labels_that_are_none(train, label, message):
    write(train, labels=[3, 0, 9, label, 4])
    refused(train, message)


def test_a_count_of_rows_that_cannot_be_true(train):
    write(train, [None] * 100_000, [0] * 100_000)
    refused(train, "claims 100000 images")


@pytest.mark.parametrize("missing", ["pyarrow", "PIL"])
def test_without_the_extra(train, monkeypatch, missing):
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(DataError, match=r"pip install 'frugalkd\[parquet\]'"):
        load(train)


@pytest.mark.heavy
def test_the_real_one(require_data):
    root = require_data("cifar10/train.parquet").parent.parent
    splits = load_data("cifar10", root)
    assert (len(splits.train), len(splits.test)) == (50_000, 10_000)
    train = as_images(splits.train)
    assert torch.bincount(train.labels).tolist() == [5000] * 10
    pixels = train.images.float() / 255
    assert torch.allclose(pixels.mean((0, 2, 3)), torch.tensor(train.mean), atol=1e-3)
    assert torch.allclose(pixels.std((0, 2, 3)), torch.tensor(train.std), atol=1e-3)
