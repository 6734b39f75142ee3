"""Data sets by name: digits, MNIST and Fashion-MNIST (idx), CIFAR-10 and texts (Parquet), pictures
in folders."""

from __future__ import annotations

import gzip
import json
import math
import os
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data.class_names import names_from
from frugalkd.data.images import ENDINGS, ImageData, opened, picture_splits, require_pillow
from frugalkd.data.probe import files_digest
from frugalkd.data.samples import NAME_A_ROOT, Splits, data_root, located, splits_of
from frugalkd.data.text import MAX_LENGTH, WORDS, TextData, tokenize
from frugalkd.errors import DataError, few, nearest
from frugalkd.files import StrPath
from frugalkd.files.parsing import most_unpacked, read_bounded
from frugalkd.runtime.draws import order, stream
from frugalkd.runtime.imports import require_extra

_CLASSES = {
    "digits": tuple("0123456789"),
    "mnist": tuple("0123456789"),
    "fashion-mnist": (
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ),
    "cifar10": (
        *("airplane", "automobile", "bird", "cat", "deer"),
        *("dog", "frog", "horse", "ship", "truck"),
    ),
}
_NUMBERS: dict[str, dict[str, Any]] = {
    "digits": {"mean": (0.3051,), "std": (0.3758,)},
    "mnist": {"mean": (0.1307,), "std": (0.3081,)},
    "fashion-mnist": {"mean": (0.2860,), "std": (0.3530,)},
    "cifar10": {"mean": (0.4914, 0.4822, 0.4465), "std": (0.2470, 0.2435, 0.2616)},
}

DEBIAN_FASHION_MNIST = Path("/usr/share/datasets/fashion-mnist")
FETCHED = {"mnist": "MNIST", "fashion-mnist": "FashionMNIST"}
"""Data sets that :func:`fetch` downloads, and what torchvision calls them."""

_FILES = [(f"{part}-images-idx3-ubyte", f"{part}-labels-idx1-ubyte") for part in ("train", "t10k")]
_CHUNK = 1 << 20
_UNSIGNED_BYTE = 8

_LARGEST_TEXT = 1 << 28
_SIDE = 32  # of CIFAR-10's pictures
_ROWS_AT_ONCE = 100  # few: a file may repeat one picture without holding it more than once


def load_digits(root: StrPath | None = None) -> Splits:
    """scikit-learn's handwritten digits (UCI, 1998), uint8 (N, 1, 8, 8): 1,437 for training and 360
    for test, each class in proportion in both, always the same. ``root`` is not used."""
    require_extra("report", "the digits come with scikit-learn", DataError, "sklearn")
    from sklearn import datasets

    flat, target = datasets.load_digits(return_X_y=True)
    levels = 16  # grey values are 0 .. 16
    images = np.rint(np.asarray(flat) * (255 / levels)).astype(np.uint8).reshape(-1, 1, 8, 8)
    labels = np.asarray(target).astype(np.int64)
    data = _pictures("digits", images, labels)
    test = stratified(labels, 360)
    return Splits(data.subset(np.setdiff1d(np.arange(len(data)), test)), data.subset(test))


def stratified(labels: NDArray[np.int64], rows: int) -> NDArray[np.int64]:
    """``rows`` ids (sorted) drawn from each class in proportion, the same ones every time. Classes
    get the floor of their share; what is left goes to the largest remainders."""
    share = np.bincount(labels) * (rows / len(labels))
    quota = np.floor(share).astype(np.int64)
    largest = np.argsort(quota - share, kind="stable")
    quota[largest[: rows - int(quota.sum())]] += 1
    drawn = order(np.arange(len(labels), dtype=np.int64), 0, stream("digits"))
    parts = [drawn[labels[drawn] == k][:count] for k, count in enumerate(quota)]
    return np.sort(np.concatenate(parts))


def _pictures(name: str, images: NDArray[np.uint8], labels: Any) -> ImageData:
    labels = torch.as_tensor(labels).long()
    return ImageData(torch.from_numpy(images), labels, _CLASSES[name], **_NUMBERS[name])


def load_idx(name: str, root: StrPath | None = None) -> Splits:
    """``mnist``, or ``fashion-mnist`` (Xiao, Rasul and Vollgraf, 2017), 60,000 and 10,000 pictures
    28x28 in the idx format (LeCun, Cortes and Burges, 1998), gzip-compressed or not.

    They lie in ``<root>/<name>``, in ``<root>/MNIST/raw`` or ``<root>/FashionMNIST/raw``, where
    torchvision keeps them, or in ``<root>``; without a ``root`` Fashion-MNIST also in Debian's
    package. Raises DataError.
    """
    folder = _find(name, root)
    if folder is None:
        package = "apt-get install dataset-fashion-mnist, " if name == "fashion-mnist" else ""
        raise DataError(
            f"{name} is not in {data_root(root) / name}, nor right in that root: {package}put "
            f"{_FILES[0][0]}[.gz] and the other three files there, {NAME_A_ROOT}, or have "
            "torchvision fetch them (--download, in Python download=True)"
        )
    parts = []
    for names in _FILES:
        # One that was removed meanwhile is reported by read_idx.
        images_path, labels_path = (_file(folder, name) or folder / name for name in names)
        images, labels = read_idx(images_path, dims=3), read_idx(labels_path, dims=1)
        with located(images_path):
            parts.append(_pictures(name, images[:, None], labels))
    return Splits(*parts)


def _find(name: str, root: StrPath | None) -> Path | None:
    """The first folder that holds all four files: a folder of the data set's name, or the root
    itself, unless that has the name of the other data set, whose files have the same names.
    Debian's package does not replace a root that was given."""
    base = data_root(root)
    others = {word for pair in FETCHED.items() if pair[0] != name for word in pair}
    folders = [base / name, base / FETCHED[name] / "raw"]
    folders += [] if others & {*base.absolute().parts[-2:]} else [base]
    folders += [DEBIAN_FASHION_MNIST] if name == "fashion-mnist" and root is None else []
    names = [name for pair in _FILES for name in pair]
    return next((each for each in folders if all(_file(each, name) for name in names)), None)


def _file(folder: Path, name: str) -> Path | None:
    either = (folder / name, folder / f"{name}.gz")
    return next((path for path in either if path.is_file()), None)


def read_idx(path: Path, dims: int) -> NDArray[np.uint8]:
    """The array of unsigned bytes in an idx file, which must have ``dims`` dimensions.

    Reads in chunks and never allocates what only the header claims. Raises DataError for a file
    that is missing, truncated, too long, or of another kind, and for a compressed one that would
    take more than 16 MiB and 64 times its size.
    """
    content, most = bytearray(), math.inf
    try:
        with path.open("rb") as raw:
            file: Any = raw
            if raw.read(2) == b"\x1f\x8b":
                most = most_unpacked(os.fstat(raw.fileno()).st_size)
                file = gzip.GzipFile(fileobj=raw)
            raw.seek(0)
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
            while len(content) <= wanted and (chunk := file.read(_CHUNK)):
                content += chunk
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"{path} cannot be read ({error}): get the file again") from error
    if len(content) != wanted:
        found = "more" if len(content) > wanted else f"only {len(content)}"
        raise DataError(
            f"{path} claims {wanted} bytes of data and holds {found}: get the file again"
        )
    return np.frombuffer(content, dtype=np.uint8).reshape(shape)


def fetch(name: str, root: StrPath | None = None) -> None:
    """Have torchvision download ``name``, a key of ``FETCHED``, into the data root, unless its
    files are there. Raises DataError where torchvision is not installed, or the download fails."""
    base = data_root(root)
    if _find(name, root) is not None:
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


@contextmanager
def _parquet(path: Path, needs: str, *packages: str, **options: Any) -> Iterator[Any]:
    """An open ``pyarrow.parquet.ParquetFile``, the Arrow type of each column, and all of them as
    text. What pyarrow raises becomes DataError."""
    require_extra("parquet", f"reading {path.name} needs {needs}", DataError, *packages)
    import pyarrow as pa
    import pyarrow.parquet as pq

    if not path.is_file():
        raise DataError(f"is not there: put the Parquet file there, {NAME_A_ROOT}")
    try:
        with pq.ParquetFile(path, **options) as file:
            types = {field.name: field.type for field in file.schema_arrow}
            yield file, types, ", ".join(f"{name}: {kind}" for name, kind in types.items())
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot be read ({reason}): get the file again") from error


def load_cifar10(root: StrPath | None = None) -> Splits:
    """CIFAR-10 (Krizhevsky, 2009; 50,000 / 10,000, 3x32x32) from
    ``<root>/cifar10/{train,test}.parquet``.

    Columns: ``img`` (struct of ``bytes``, a PNG, and ``path``) and ``label`` (0 .. 9). Raises
    DataError for files that are missing or wrong, and where the extra ``parquet`` (pyarrow, pillow)
    is not installed.
    """
    return Splits(*map(read_cifar, _parquet_files("cifar10", root)))


def _parquet_files(name: str, root: StrPath | None) -> list[Path]:
    return [data_root(root) / name / f"{part}.parquet" for part in ("train", "test")]


def read_cifar(path: Path) -> ImageData:
    """The pictures of one of CIFAR-10's Parquet files. Raises DataError."""
    opening = _parquet(path, "pyarrow and pillow", "pyarrow", "PIL")
    with located(path), opening as (file, types, columns):
        import pyarrow as pa

        image, label = types.get("img", pa.null()), types.get("label", pa.null())
        if not (
            isinstance(image, pa.StructType)
            and image.get_field_index("bytes") >= 0
            and pa.types.is_binary(image.field("bytes").type)
            and pa.types.is_integer(label)
        ):
            raise DataError(
                f"the columns are ({columns}): need img (struct of bytes, path) and label (integer)"
            )
        size, rows = path.stat().st_size, file.metadata.num_rows
        if rows * 3 * _SIDE**2 > most_unpacked(size):
            raise DataError(f"claims {rows} images in {size} bytes: get it again")
        pixels, labels = bytearray(), []
        for batch in file.iter_batches(batch_size=_ROWS_AT_ONCE, columns=["img", "label"]):
            encoded = batch.column("img").field("bytes").to_pylist()
            for png, label in zip(encoded, batch.column("label").to_pylist(), strict=True):
                with located(f"row {len(labels)}"):
                    if png is None or label is None:
                        raise DataError("has no image or no label: get the file again")
                    try:
                        with opened(png) as picture:
                            kind, mode, size = picture.format, picture.mode, picture.size
                            if (kind, mode, size) != ("PNG", "RGB", (_SIDE, _SIDE)):
                                raise DataError(f"it is {kind} {mode} {size}, not PNG RGB 32x32")
                            pixels += picture.tobytes()
                    except DataError as error:
                        raise DataError(f"{error}: get the file again") from None
                labels.append(label)
        images = np.frombuffer(pixels, dtype=np.uint8).reshape(-1, _SIDE, _SIDE, 3)
        return _pictures("cifar10", images.transpose(0, 3, 1, 2), labels)


def load_texts(
    name: str, root: StrPath | None = None, *, tokenizer: str = WORDS, max_length: int = MAX_LENGTH
) -> Splits:
    """Questions of people, from ``<root>/<name>/{train,test}.parquet``.

    ``banking77`` (Casanueva et al., 2020; CC BY 4.0): 10,003 and 3,080 of a bank's customers, with
    77 intents. ``trec6`` (Li and Roth, 2002): 5,452 and 500 of TREC, with six kinds of answers; 10
    test questions are among those for training.

    ``tokenizer`` and ``max_length`` are those of :func:`frugalkd.data.text.tokenize`. Raises
    DataError for files that are missing or wrong, ModelError for a tokenizer that is not there.
    """
    paths = _parquet_files(name, root)
    return Splits(*(read_texts(path, tokenizer, max_length) for path in paths))


def load_lines(
    root: StrPath | None = None,
    *,
    path: str = "",
    test: float = 0.1,
    tokenizer: str = WORDS,
    max_length: int = MAX_LENGTH,
) -> Splits:
    """Texts alone, without labels: the lines of a UTF-8 file, without empty ones.

    Args:
        root: the data root.
        path: the file, in the root or on its own.
        test: the fraction of the lines that is held out, the same ones every time.
        tokenizer, max_length: as of :func:`frugalkd.data.text.tokenize`.

    Raises:
        DataError: the file cannot be read, or has too few lines for two parts.
        ModelError: the tokenizer is not there.
    """
    file = Path(path) if path and Path(path).is_file() else data_root(root) / path
    with located(file):
        lines = [line for line in read_lines(file) if line.strip()]
        return splits_of([TextData.of(lines, tokenizer, max_length=max_length)], test)


def read_lines(path: Path) -> list[str]:
    """The lines of a UTF-8 file. Raises DataError, which does not name it."""
    try:
        text = read_bounded(path, _LARGEST_TEXT).decode("utf-8")
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text") from None
    except ValueError:
        raise DataError(f"is larger than {_LARGEST_TEXT >> 20} MiB: cut it") from None
    # Not splitlines, which ends a line at signs that stand within texts, too (U+2028, U+0085).
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return lines if lines[-1] else lines[:-1]


def read_texts(path: Path, tokenizer: str = WORDS, max_length: int = MAX_LENGTH) -> TextData:
    """The texts of a Parquet file with the columns ``text`` and ``label``; names of classes come
    from what the Hugging Face hub notes in such files. Raises DataError, ModelError."""
    with located(path):
        about = path.stat() if path.is_file() else None
        changed = about and (about.st_size, about.st_mtime_ns)
        return _read_texts(path, changed, tokenizer, max_length)


@lru_cache(maxsize=4)  # a comparison's process reads them in each of its runs
def _read_texts(
    path: Path, changed: tuple[int, int] | None, tokenizer: str, max_length: int
) -> TextData:
    """``changed``: the size of the file, and when it was written."""
    texts, labels, names = read_columns(path)
    tokens = tokenize(texts, tokenizer, max_length=max_length)
    return TextData(tokens, torch.from_numpy(labels), names, partial(_read_again, path))


def _read_again(path: Path, rows: list[int]) -> list[str]:
    """The texts of these rows. Raises DataError."""
    with located(path):
        texts = read_columns(path)[0]
        if max(rows, default=0) >= len(texts):
            raise DataError(f"has {len(texts)} texts now: it changed since it was read")
    return [texts[row] for row in rows]


def read_columns(path: Path) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """The columns ``text`` and ``label`` of a Parquet file, and the names of the classes, which are
    numbers where the file has none. Raises DataError, which does not name the file."""
    # As a dictionary: a file may repeat one text without holding it more than once.
    opening = _parquet(path, "pyarrow", "pyarrow", read_dictionary=["text"])
    with opening as (file, types, columns):
        import pyarrow as pa
        import pyarrow.compute as pc

        text, label = types.get("text", pa.null()), types.get("label", pa.null())
        text = getattr(text, "value_type", text)
        is_text = pa.types.is_string(text) or pa.types.is_large_string(text)
        if not (is_text and pa.types.is_integer(label)):
            raise DataError(f"the columns are ({columns}): need text and label (integer)")
        size, rows = path.stat().st_size, file.metadata.num_rows
        # A row takes more than a bit, so that a header cannot claim what is not there.
        if rows > 8 * size:
            raise DataError(f"claims {rows} texts: get the file again")
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        most, claimed = most_unpacked(size), sum(group.total_byte_size for group in groups)
        if claimed > most:
            raise DataError(f"claims {claimed} bytes, more than 64 times its size")
        table = file.read(columns=["text", "label"])
        if table["text"].null_count or table["label"].null_count:
            raise DataError("a row has no text or no label: get the file again")
        chunks = table["text"].chunks
        lengths = [pc.call_function("utf8_length", [c.dictionary]).take(c.indices) for c in chunks]
        if sum(int(part.to_numpy().sum()) for part in lengths) > most:
            raise DataError("repeats its texts to more than 64 times its size")
        texts, labels = table["text"].to_pylist(), table["label"].to_numpy().astype(np.int64)
        known = _noted(file.schema_arrow.metadata or {})
    highest = int(labels.max(initial=-1))
    if known and len(known) > highest:
        return texts, labels, known
    if highest >= len(labels):
        raise DataError(f"a label is {highest}, of {len(labels)} texts: count classes from 0")
    return texts, labels, tuple(map(str, range(highest + 1)))


def _noted(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The names of ``label``'s classes, as the hub notes them in a Parquet file."""
    try:
        said: Any = json.loads(metadata.get(b"huggingface", b"{}"))
        return names_from(json.dumps(said["info"]["features"]["label"]["names"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()


def load_image_folder(
    root: StrPath | None = None,
    *,
    path: str = "",
    train: str = "train",
    test: str | float = "test",
    size: int | list[int] | None = None,
    channels: int = 3,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    in_memory: bool = False,
) -> Splits:
    """Pictures from ``<root>/<path>/{train,test}/<class>/**``, or from ``<root>/<path>/<class>/**``
    where a part is held out.

    The classes are the sub-folders' names in order, and samples the files in order of their names.
    The header of each file is read now; a picture is decoded on access.

    Args:
        root: the data root.
        path: the folder, in the root or on its own.
        train: the sub-folder to train on.
        test: the sub-folder to evaluate on; or a fraction of the pictures that is held out, the
            same ones every time. The classes then may lie in the folder itself.
        size: a side or [height, width] that all pictures are resized to (bilinear, antialiased,
            without regard to their proportions); default that of the first one.
        channels: 3 (colour) or 1 (grey), to which all are converted.
        mean, std: a number a channel on the [0, 1] scale; default ImageNet's, 0.5 for grey.
        in_memory: decode everything now and keep the pixels: much faster where they fit.

    Raises:
        DataError: a folder is missing or empty, a class of the test part is none of train's, or
            files are not readable pictures (all are named in one error, up to eight of them).
    """
    require_pillow()
    folder = Path(path) if path and Path(path).is_dir() else data_root(root) / path
    places = [folder / train]
    if isinstance(test, str):
        places.append(folder / test)
    elif not (places[0].is_dir() and _names(places[0])):  # or that is a class
        places = [folder]
    for place in places:
        if not place.is_dir():
            raise DataError(
                f"no folder {place}: put one folder of pictures a class into it, or set test to a "
                "fraction (0.2) that is held out"
            )
    classes = _folders(places[0])
    files = [_pictures_in(place, classes) for place in places]
    _refuse_unreadable([file for part in files for file, _ in part])
    parts = [Files(*each) for each in zip(places, files, strict=True)]
    labels = [torch.tensor([label for _, label in part]) for part in files]
    with located(folder):
        return picture_splits(
            parts, labels, classes, test,
            size=size, channels=channels, mean=mean, std=std, in_memory=in_memory,
        )  # fmt: skip


@final
class Files:
    """Pictures as files of a folder, by row."""

    def __init__(self, folder: Path, files: list[tuple[Path, int]]) -> None:
        self._folder, self._files = folder, [file for file, _ in files]

    def __call__(self, row: int) -> Path:
        return self._files[row]

    def name(self, row: int) -> str:
        return str(self._files[row])

    def feed(self, digest: Any, rows: NDArray[np.int64]) -> None:
        names = [os.path.relpath(self._files[row], self._folder) for row in rows.tolist()]
        digest.update(files_digest(os.fspath(self._folder), names).encode())


def _folders(place: Path) -> tuple[str, ...]:
    """The names of the classes. Raises DataError for fewer than two."""
    names = _names(place)
    if len(names) < 2:
        raise DataError(f"{place} holds {len(names)} folders: one folder of pictures a class")
    return tuple(names)


def _names(place: Path) -> list[str]:
    """Of the folders in ``place``, sorted."""
    return sorted(each.name for each in place.iterdir() if visible(each, place) and each.is_dir())


def _pictures_in(place: Path, classes: tuple[str, ...]) -> list[tuple[Path, int]]:
    """The files of ``place`` with their classes, sorted."""
    for name in _folders(place):
        if name not in classes:
            raise DataError(f"{place / name} is not a class of train: {nearest(name, classes)}")
    found = []
    for label, name in enumerate(classes):
        files = sorted((place / name).rglob("*"))
        found += [(file, label) for file in files if visible(file, place) and file.is_file()]
    if not found:
        raise DataError(f"{place} holds no pictures in its class folders")
    return found


def visible(path: Path, folder: Path) -> bool:
    """Whether neither ``path`` nor a folder of it below ``folder`` is one that systems hide, or
    make beside the user's."""
    parts = path.relative_to(folder).parts
    return not any(part.startswith(".") or part in ("Thumbs.db", "__MACOSX") for part in parts)


def _refuse_unreadable(files: list[Path]) -> None:
    """Raises DataError where some are not pictures by their ending or their head."""
    wrong = []
    for file in files:
        try:
            if file.suffix.lower() not in ENDINGS:
                raise DataError("not the ending of a picture")
            with opened(file):
                pass
        except DataError as error:
            wrong.append(f"{file} ({error})")
    if wrong:
        raise DataError(
            f"{len(wrong)} of {len(files)} files are not readable pictures, remove {few(wrong)}"
        )
