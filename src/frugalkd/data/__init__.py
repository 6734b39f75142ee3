"""Data by name, and the sources that turn ids into batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any

from frugalkd.data.hugging_face import load_hugging_face
from frugalkd.data.images import Augmentation, ImageData, Pictures
from frugalkd.data.mixing import Mix
from frugalkd.data.named import (
    FETCHED,
    fetch,
    load_cifar10,
    load_digits,
    load_idx,
    load_image_folder,
    load_lines,
    load_texts,
)
from frugalkd.data.probe import data_digest, randomness
from frugalkd.data.samples import Samples, Splits, data_root, hold_out, take
from frugalkd.data.table import TableData, load_table
from frugalkd.data.text import TextData
from frugalkd.data.transforms import Transform
from frugalkd.errors import DataError, UnknownName
from frugalkd.files import StrPath
from frugalkd.runtime.imports import check_options

DATA: dict[str, Callable[..., Splits]] = {
    "digits": load_digits,
    "fashion-mnist": partial(load_idx, "fashion-mnist"),
    "mnist": partial(load_idx, "mnist"),
    "cifar10": load_cifar10,
    "image-folder": load_image_folder,
    "banking77": partial(load_texts, "banking77"),
    "trec6": partial(load_texts, "trec6"),
    "text-lines": load_lines,
    "hugging-face": load_hugging_face,
    "table": load_table,
}


def check_data(
    name: str, options: Collection[str], known: Mapping[str, Callable[..., Any]] = DATA
) -> None:
    """Checks the name of a data set, a key of ``known``, and its options, and reads nothing. Raises
    UnknownName, whose message has the nearest names; DataError where it takes no such option."""
    if name not in known:
        raise UnknownName("data set", name, known)
    what = f"data set {name!r}"
    check_options(known[name], options, fixed={"root"}, what=what, error=DataError)


def load_data(
    name: str, root: StrPath | None = None, *, download: bool = False, **options: Any
) -> Splits:
    """The data set ``name`` (a key of ``DATA``), not augmented, from the data root (see
    ``data_root``). ``options`` go to its loader; ``download`` first has torchvision fetch mnist or
    fashion-mnist, where their files are not there. Raises UnknownName, DataError."""
    if download and name in FETCHED:
        fetch(name, root)
    check_data(name, options)
    return DATA[name](root, **options)


__all__ = [
    "DATA", "FETCHED", "Augmentation", "ImageData", "Mix", "Pictures", "Samples", "Splits",
    "TableData", "TextData", "Transform", "data_digest", "data_root", "fetch", "hold_out",
    "load_data", "randomness", "take",
]  # fmt: skip
