from __future__ import annotations

import gzip
import resource
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

from frugalkd.data import load_data, named
from frugalkd.errors import DataError
from toys import as_images

NAMES: tuple[str, ...] = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)


def packed(array: np.ndarray) -> bytes:
    header = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, dtype=">i4").tobytes()
    return header + array.astype(np.uint8).tobytes()


def write(folder: Path, *, zipped: bool = False, rows: int = 4) -> dict[str, bytes]:
    """The four files, of random images and of the labels 0, 1, 2 ..."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    arrays = [
        array
        for count in (rows, rows - 1)
        for array in (rng.integers(0, 256, (count, 28, 28)), np.arange(count) % 10)
    ]
    files: dict[str, bytes] = dict(zip(NAMES, map(packed, arrays), strict=True))
    for name, content in files.items():
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return files


@pytest.fixture
def nowhere(monkeypatch, tmp_path):
    """No Debian package, and no torchvision to download with."""
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    return tmp_path


@pytest.mark.parametrize("zipped", [False, True])
@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("mnist", "mnist"),
        ("mnist", "MNIST/raw"),
        ("fashion-mnist", "fashion-mnist"),
        ("fashion-mnist", "FashionMNIST/raw"),
    ],
)
def test_reads_a_folder(nowhere, name, folder, zipped):
    files = write(nowhere / folder, zipped=zipped)
    splits = load_data(name, nowhere)
    train = as_images(splits.train)
    assert (len(train), len(splits.test)) == (4, 3)
    assert train.shape == (1, 28, 28)
    assert train.images.numpy().tobytes() == files[NAMES[0]][16:]
    assert splits.test.labels.tolist() == [0, 1, 2]
    assert train.num_classes == 10


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("by", ["root", "environment"])
def test_the_folder_of_the_files_is_a_root_too(nowhere, monkeypatch, name, by):
    write(nowhere / "files")
    monkeypatch.setenv("FRUGALKD_DATA", str(nowhere / "files"))
    root = nowhere / "files" if by == "root" else None
    assert len(load_data(name, root).train) == 4
    write(nowhere / "files" / name, rows=5)  # what is called so comes first
    assert len(load_data(name, root).train) == 5


@pytest.mark.parametrize("folder", ["mnist", "MNIST/raw"])
def test_mnist_is_not_taken_for_fashion_mnist(nowhere, folder):
    write(nowhere / folder)
    assert len(load_data("mnist", nowhere / folder).train) == 4
    with pytest.raises(DataError, match="fashion-mnist is not in"):
        load_data("fashion-mnist", nowhere / folder)


def test_debians_package_is_found_by_itself(nowhere, monkeypatch):
    write(named.DEBIAN_FASHION_MNIST, zipped=True)
    monkeypatch.setenv("FRUGALKD_DATA", str(nowhere / "empty"))
    assert len(load_data("fashion-mnist").train) == 4


def test_debians_package_is_no_root_that_was_given(nowhere):
    write(named.DEBIAN_FASHION_MNIST, zipped=True)
    with pytest.raises(DataError, match="fashion-mnist is not in"):
        load_data("fashion-mnist", nowhere / "mistyped")


def test_where_data_lie_is_said(nowhere, monkeypatch):
    monkeypatch.chdir(nowhere)
    monkeypatch.delenv("FRUGALKD_DATA", raising=False)
    for name in ("mnist", "fashion-mnist", "cifar10", "trec6"):
        with pytest.raises(
            DataError, match=r"data/.* \(data\.root in the recipe, or FRUGALKD_DATA"
        ):
            load_data(name)


@pytest.mark.heavy
def test_fashion_mnist_of_debian_is_the_real_one(require_data):
    require_data(str(named.DEBIAN_FASHION_MNIST))
    splits = load_data("fashion-mnist")
    train = as_images(splits.train)
    assert (len(train), len(splits.test)) == (60_000, 10_000)
    assert torch.bincount(train.labels).tolist() == [6000] * 10
    pixels = train.images.float() / 255
    assert abs(float(pixels.mean()) - train.mean[0]) < 1e-3
    assert abs(float(pixels.std()) - train.std[0]) < 1e-3


def test_absent_data_say_what_to_do(nowhere):
    with pytest.raises(DataError, match="apt-get install dataset-fashion-mnist"):
        load_data("fashion-mnist", nowhere)
    with pytest.raises(DataError, match=r"have torchvision fetch them \(--download, in Python"):
        load_data("mnist", nowhere)
    with pytest.raises(DataError, match="fetching mnist needs torchvision: pip install"):
        load_data("mnist", nowhere, download=True)
    write(nowhere / "mnist")
    (nowhere / "mnist" / NAMES[3]).unlink()  # an incomplete folder counts as none
    with pytest.raises(DataError, match="mnist is not in"):
        load_data("mnist", nowhere)


@pytest.mark.parametrize(
    ("name", "theirs"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST")]
)
def test_torchvision_downloads_what_is_not_there(monkeypatch, tmp_path, name, theirs):
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    monkeypatch.setattr(
        datasets, theirs, lambda root, download: write(Path(root) / theirs / "raw", zipped=True)
    )
    assert len(load_data(name, tmp_path, download=True).train) == 4
    assert (tmp_path / theirs / "raw").is_dir()
    monkeypatch.setattr(datasets, theirs, None)  # what is there is not fetched again
    assert len(load_data(name, tmp_path, download=True).train) == 4


def test_a_failed_download_is_one_line(monkeypatch, tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")

    def fail(root, download):
        raise RuntimeError("Error downloading\nmany\nlines")

    monkeypatch.setattr(datasets, "MNIST", fail)
    with pytest.raises(DataError, match=r"failed \(Error downloading\)") as caught:
        load_data("mnist", tmp_path, download=True)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
def test_nothing_is_downloaded_without_the_flag(monkeypatch, tmp_path, name):
    datasets = pytest.importorskip("torchvision.datasets")
    monkeypatch.setattr(named, "DEBIAN_FASHION_MNIST", tmp_path / "not-installed")
    monkeypatch.setattr(datasets, named.FETCHED[name], lambda *_, **__: pytest.fail("a download"))
    with pytest.raises(DataError, match=f"{name} is not in"):
        load_data(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


IMAGES = packed(np.arange(2 * 28 * 28).reshape(2, 28, 28))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (IMAGES[:-1], "claims 1568 bytes of data and holds only 1567"),
        (IMAGES + b"x", "holds more"),
        (IMAGES[:9], "does not begin as an idx file"),
        (b"", "does not begin as an idx file"),
        (b"\x00\x00\x0d\x03" + IMAGES[4:], "does not begin as an idx file"),
        (b"<html>not found</html>", "does not begin as an idx file"),
        (packed(np.zeros(5)), "in 3 dimensions"),
        (gzip.compress(IMAGES)[:-20], "cannot be read"),
        (gzip.compress(IMAGES)[:4], "cannot be read"),
        (b"\x1f\x8b" + b"garbage" * 10, "cannot be read"),
        (gzip.compress(IMAGES[:-1]), "holds only 1567"),
    ],
)
def test_broken_files(tmp_path, content, message):
    path = tmp_path / "images"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        named.read_idx(path, dims=3)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_flipped_bits_in_a_gzip_never_pass(tmp_path):
    path = tmp_path / "images"
    content = gzip.compress(IMAGES)
    for place in range(10, len(content), 7):
        path.write_bytes(content[:place] + bytes((content[place] ^ 255,)) + content[place + 1 :])
        with pytest.raises(DataError):
            named.read_idx(path, dims=3)


def test_a_header_cannot_make_it_allocate(tmp_path):
    path = tmp_path / "images"
    claims = b"\x00\x00\x08\x03" + b"\x7f\xff\xff\xff" * 3  # 8e27 bytes
    scale = 1 if sys.platform == "darwin" else 1024
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
    for content, says in (
        (claims + b"some", "holds only 4"),
        (gzip.compress(claims + b"some"), "more than 64 times its size"),
    ):
        path.write_bytes(content)
        with pytest.raises(DataError, match=says):
            named.read_idx(path, dims=3)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale - before < 64 << 20


def test_a_small_file_is_not_inflated_without_bound(tmp_path):
    """A hundred megabytes of zeros take 100 kB in a gzip: refused before they are unpacked."""
    path, plain = tmp_path / "images.gz", tmp_path / "images"
    header = bytes((0, 0, 8, 1)) + (100_000_000).to_bytes(4, "big")
    with gzip.GzipFile(path, "wb", compresslevel=1) as file:
        file.write(header)
        for _ in range(100):
            file.write(bytes(1_000_000))
    tracemalloc.start()
    with pytest.raises(DataError, match="claims 100000000 bytes of data, more than 64 times"):
        named.read_idx(path, dims=1)
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    content = packed(np.zeros(1_000_000))  # small enough to be what it is
    plain.write_bytes(gzip.compress(content))
    assert len(named.read_idx(plain, dims=1)) == 1_000_000


def test_labels_that_do_not_fit(nowhere):
    folder = nowhere / "mnist"
    write(folder)
    (folder / NAMES[1]).write_bytes(packed(np.array([0, 1, 2, 10])))
    with pytest.raises(DataError, match=r"train-images.*labels lie in 0 \.\. 10"):
        load_data("mnist", nowhere)
    (folder / NAMES[1]).write_bytes(packed(np.arange(3)))
    with pytest.raises(DataError, match=r"train-images.*3 labels for 4 images"):
        load_data("mnist", nowhere)
