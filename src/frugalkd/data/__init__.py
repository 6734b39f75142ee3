"""Data by name, and the sources that turn ids into batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

from frugalkd.data.cifar import load_cifar10
from frugalkd.data.digits import load_digits
from frugalkd.data.folder import load_image_folder
from frugalkd.data.hugging_face import load_hugging_face
from frugalkd.data.idx import FETCHED, fetch, load_fashion_mnist, load_mnist
from frugalkd.data.images import Augmentation, ImageData
from frugalkd.data.lazy_images import LazyImages
from frugalkd.data.root import data_root
from frugalkd.data.samples import Pictures, Samples
from frugalkd.data.source import (
    BatchIndexed,
    LoaderSource,
    MemorySource,
    Source,
    ViewIndexed,
    data_digest,
    open_source,
    randomness,
)
from frugalkd.data.splits import Splits, hold_out, take
from frugalkd.data.text import TextData
from frugalkd.data.texts import load_banking77, load_trec6
from frugalkd.errors import DataError, UnknownName
from frugalkd.files import StrPath
from frugalkd.runtime.imports import check_options

DATA: dict[str, Callable[..., Splits]] = {
    "digits": load_digits,
    "fashion-mnist": load_fashion_mnist,
    "mnist": load_mnist,
    "cifar10": load_cifar10,
    "image-folder": load_image_folder,
    "banking77": load_banking77,
    "trec6": load_trec6,
    "hugging-face": load_hugging_face,
}


def check_data(name: str, options: Collection[str]) -> None:
    """What every use of a data set's name comes by: recipes, dry runs, loading. Reads nothing.
    Raises UnknownName; DataError where it takes no such option."""
    if name not in DATA:
        raise UnknownName("data set", name, DATA)
    what = f"data set {name!r}"
    check_options(DATA[name], options, fixed={"root"}, what=what, error=DataError)


def load_data(
    name: str, root: StrPath | None = None, *, download: bool = False, **options: Any
) -> Splits:
    """The data set ``name`` (a key of ``DATA``), not augmented, from the data root (see
    ``data_root``). ``options`` go to its loader; ``download`` first has torchvision fetch mnist or
    fashion-mnist, where their files are not there. Raises UnknownName, DataError.
    """
    if download and name in FETCHED:
        fetch(name, root)
    return load_with(name, root, options)


def load_with(name: str, root: StrPath | None, options: Mapping[str, Any]) -> Splits:
    """:func:`load_data` with the options that a file names, none of which can ask for a
    download."""
    check_data(name, options)
    return DATA[name](root, **options)


__all__ = [
    "DATA",
    "FETCHED",
    "Augmentation",
    "BatchIndexed",
    "ImageData",
    "LazyImages",
    "LoaderSource",
    "MemorySource",
    "Pictures",
    "Samples",
    "Source",
    "Splits",
    "TextData",
    "ViewIndexed",
    "data_digest",
    "data_root",
    "fetch",
    "hold_out",
    "load_data",
    "load_with",
    "open_source",
    "randomness",
    "take",
]
