"""MNIST-like data in idx files (LeCun, Cortes and Burges, 1998), gzip-compressed or not."""

from __future__ import annotations

import gzip
import math
import os
import zlib
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data.images import ImageData
from frugalkd.data.root import NAME_A_ROOT, data_root, located
from frugalkd.data.splits import Splits
from frugalkd.errors import DataError
from frugalkd.files import StrPath
from frugalkd.files.parsing import most_unpacked
from frugalkd.runtime.imports import require_extra

MNIST_CLASSES = tuple("0123456789")
MNIST_MEAN, MNIST_STD = (0.1307,), (0.3081,)
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
FASHION_MNIST_MEAN, FASHION_MNIST_STD = (0.2860,), (0.3530,)

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")

_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
FETCHED = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""Data sets that :func:`fetch` downloads, and what torchvision calls them."""

_CHUNK = 1 << 20
_UNSIGNED_BYTE = 8


def read_idx(path: Path, dims: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an idx file, which must have ``dims`` dimensions.

    Reads in chunks and never allocates what only the header claims. Raises DataError for a file
    that is missing, truncated, too long, or of another kind, and for a compressed one that would
    take more than 16 MiB and 64 times its size.
    """
    try:
        with path.open("rb") as raw:
            packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            if not packed:
                return _parse(raw, path, dims, math.inf)
            most = most_unpacked(os.fstat(raw.fileno()).st_size)
            with gzip.GzipFile(fileobj=raw) as unpacked:
                return _parse(cast(BinaryIO, unpacked), path, dims, most)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): get the file again") from error


def _parse(file: BinaryIO, path: Path, dims: int, most: float) -> NDArray[np.uint8]:
    """``most``: bytes that the file may come to."""
    header = file.read(4 + 4 * dims)
    if len(header) < 4 + 4 * dims or header[:4] != bytes((0, 0, _UNSIGNED_BYTE, dims)):
        raise DataError(
            f"{path} does not begin as an idx file of unsigned bytes in {dims} dimensions: "
            "get the file again"
        )
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4)]
    wanted = math.prod(shape)
    if wanted > most:
        raise DataError(
            f"{path} claims {wanted} bytes of data, more than 64 times its size: "
            "get the file again, or unpack it yourself"
        )
    content = bytearray()
    while len(content) <= wanted and (chunk := file.read(_CHUNK)):
        content += chunk
    if len(content) != wanted:
        found = "more" if len(content) > wanted else f"only {len(content)}"
        raise DataError(
            f"{path} claims {wanted} bytes of data and holds {found}: get the file again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def load_mnist(root: StrPath | None = None) -> Splits:
    """MNIST (60,000 / 10,000, 28x28) from ``<root>/mnist``, ``<root>/MNIST/raw`` or ``<root>``.
    Raises DataError."""
    return _load(_place("mnist", root), MNIST_CLASSES, MNIST_MEAN, MNIST_STD)


def load_fashion_mnist(root: StrPath | None = None) -> Splits:
    """Fashion-MNIST (Xiao, Rasul and Vollgraf, 2017; 60,000 / 10,000, 28x28) from
    ``<root>/fashion-mnist``, ``<root>/FashionMNIST/raw`` or ``<root>``; without a ``root`` also
    from Debian's package. Raises DataError."""
    folder = _place("fashion-mnist", root)
    return _load(folder, FASHION_MNIST_CLASSES, FASHION_MNIST_MEAN, FASHION_MNIST_STD)


def _folders(name: str, root: StrPath | None) -> list[Path]:
    """Where the files of a data set may lie: in folders of its name, or in the root itself, unless
    that is called as the other data set is, whose files have the same names. Debian's package
    stands in for no root that was given."""
    base = data_root(root)
    others = {word for pair in FETCHED.items() if pair[0] != name for word in pair}
    folders = [base / name, base / FETCHED[name] / "raw"]
    folders += [] if others & {*base.absolute().parts[-2:]} else [base]
    return folders + ([DEBIAN_FASHION_MNIST] if name == "fashion-mnist" and root is None else [])


def _place(name: str, root: StrPath | None) -> Path:
    folder = _find(_folders(name, root))
    if folder is None:
        package = "apt-get install dataset-fashion-mnist, " if name == "fashion-mnist" else ""
        raise DataError(
            f"{name} is not in {data_root(root) / name}, nor right in that root: {package}put "
            f"{_FILES[0]}[.gz] and the other three files there, {NAME_A_ROOT}, or have torchvision "
            "fetch them (--download, in Python download=True)"
        )
    return folder


def _find(folders: list[Path]) -> Path | None:
    """The first folder that holds all four files."""
    complete = (folder for folder in folders if all(_file(folder, name) for name in _FILES))
    return next(complete, None)


def _file(folder: Path, name: str) -> Path | None:
    either = (folder / name, folder / f"{name}.gz")
    return next((path for path in either if path.is_file()), None)


def fetch(name: str, root: StrPath | None = None) -> None:
    """Have torchvision download ``name``, a key of ``FETCHED``, into the data root, unless its
    files are there already.

    Raises:
        DataError: torchvision is not installed, or the download fails.
    """
    base = data_root(root)
    if _find(_folders(name, root)) is not None:
        return
    require_extra("torchvision", f"fetching {name} needs torchvision", DataError, "torchvision")
    from torchvision import datasets

    try:
        getattr(datasets, FETCHED[name])(str(base), download=True)
    except (RuntimeError, OSError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        package = " or apt-get install dataset-fashion-mnist" if name == "fashion-mnist" else ""
        raise DataError(
            f"downloading {name} to {base} failed ({reason}): put the four idx files into "
            f"{base / name}{package}"
        ) from error


def _load(
    folder: Path, classes: tuple[str, ...], mean: tuple[float, ...], std: tuple[float, ...]
) -> Splits:
    parts = []
    for images_name, labels_name in (_FILES[:2], _FILES[2:]):
        images_path = _file(folder, images_name) or folder / images_name
        images = read_idx(images_path, dims=3)
        labels = read_idx(_file(folder, labels_name) or folder / labels_name, dims=1)
        with located(images_path):
            parts.append(
                ImageData(
                    torch.from_numpy(images)[:, None],
                    torch.from_numpy(labels.astype(np.int64)),
                    classes,
                    mean=mean,
                    std=std,
                )
            )
    with located(folder):
        return Splits(*parts)
