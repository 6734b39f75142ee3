"""Any data set of the Hugging Face hub, or a local one in its formats, through ``datasets``."""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

import numpy as np
import torch
import yaml
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.class_names import labels_by_name
from frugalkd.data.images import picture_splits, require_pillow
from frugalkd.data.probe import feed, files_digest, share
from frugalkd.data.samples import Splits, data_root, located, splits_of
from frugalkd.data.text import MAX_LENGTH, WORDS, TextData, quiet, tokenize
from frugalkd.errors import DataError, UnsupportedData, nearest
from frugalkd.files import StrPath
from frugalkd.files.parsing import one_line, read_bounded
from frugalkd.runtime.imports import require_extra

if TYPE_CHECKING:
    from datasets import Dataset

_AT_ONCE = 256
_FILES = {
    ".arrow": "arrow", ".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet",
}  # fmt: skip
_LARGEST_CARD = 1 << 20
_TEST_PART = ("the test part", "the training part", "give both splits the same classes")


def load_hugging_face(
    root: StrPath | None = None,
    *,
    path: str,
    image: str | None = None,
    text: str | None = None,
    label: str = "label",
    train: str = "train",
    test: str | float = "test",
    config: str | None = None,
    size: int | list[int] | None = None,
    channels: int = 3,
    mean: list[float] | None = None,
    std: list[float] | None = None,
    in_memory: bool = False,
    tokenizer: str = WORDS,
    max_length: int = MAX_LENGTH,
) -> Splits:
    """Pictures, or texts, of a Hugging Face data set.

    Args:
        root: the data root; a relative ``path`` may lie in it.
        path: a folder made by ``save_to_disk``; a file of Parquet, Arrow, CSV or JSON, or a folder
            of such files; or else a name on the hub (downloaded and kept by ``datasets``; no code
            of it is run).
        image: the column of encoded pictures.
        text: the column of texts, in place of ``image``.
        label: the column of class indices or of names; of lists of these, several labels; or of
            floating-point numbers, for regression.
        train: the split to train on.
        test: the split to evaluate on; or a fraction of ``train`` that is held out, the same one
            every time.
        config: the hub's name for a part of the data set.
        tokenizer, max_length: of texts, as in :func:`frugalkd.data.text.tokenize`.
        size, channels, mean, std, in_memory: as in :func:`frugalkd.data.named.load_image_folder`.

    Raises:
        DataError: ``datasets`` is not installed, nothing of the kind is there, a split or a column
            is missing, labels are not classes, or a picture is a file outside the table's folder.
    """
    tables = open_tables(path, root, config, [train, test] if isinstance(test, str) else [train])
    with located(path):
        labels, classes = read_labels(tables, label)
        if text is not None and image is None:
            parts = []
            for table, given in zip(tables, labels, strict=True):
                read = partial(_texts, table, text)
                tokens = tokenize(read(), tokenizer, max_length=max_length)
                parts.append(TextData(tokens, given, classes, read))
            return splits_of(parts, test)
        if image is None or text is not None:
            raise DataError(
                "say which column holds the pictures: image; or the texts: text; columns are "
                f"{', '.join(tables[0].column_names)}"
            )
        require_pillow()
        place = _place(path, data_root(root))
        columns = [PictureColumn(table, image, place) for table in tables]
        return picture_splits(
            columns, labels, classes, test,
            size=size, channels=channels, mean=mean, std=std, in_memory=in_memory,
        )  # fmt: skip


def open_tables(
    path: str, root: StrPath | None, config: str | None, splits: list[str]
) -> list[Dataset]:
    """The table of each of the ``splits``, memory-mapped; see :func:`load_hugging_face`. Raises
    DataError."""
    require_extra("datasets", "Hugging Face data sets need datasets", DataError, "datasets")
    import datasets

    place = _place(path, data_root(root))
    if place is not None:
        _refuse_remote(place)
    try:
        with quiet(datasets.utils.logging):
            if place is None:
                found = datasets.load_dataset(path, config)
            elif (place / "dataset_dict.json").exists() or (place / "state.json").exists():
                found = datasets.load_from_disk(os.fspath(place))
            elif place.suffix in _FILES and place.is_file():
                found = datasets.load_dataset(_FILES[place.suffix], data_files=os.fspath(place))
            elif place.is_file():
                raise DataError(f"give a folder, or a file that ends in {', '.join(_FILES)}")
            else:
                found = datasets.load_dataset(os.path.abspath(place), config)
    except Exception as error:  # its readers, and the network, fail in many ways
        what = "the hub's" if place is None else "the local"
        reason = one_line(str(error).partition("\n")[0] or type(error).__name__)
        raise DataError(f"{what} data set {path} cannot be read: {reason}") from None
    if isinstance(found, datasets.Dataset):
        found = {str(found.split or "train"): found}
    for split in splits:
        if split not in found:
            raise DataError(
                f"{path} has no split {split!r}: {nearest(split, map(str, found))} For test, a "
                "fraction (0.2) holds out a part of train"
            )
        if not len(found[split]):
            raise DataError(f"{path}: split {split!r} is empty")
    return [found[split] for split in splits]


def read_labels(tables: list[Dataset], column: str) -> tuple[list[Tensor], tuple[str, ...]]:
    """Labels int64 (rows,) of each table, and the names of the classes, which are the first
    table's; of lists bool (rows, labels) and the labels' names; of floating-point numbers float32
    (rows, 1) and the column. Where a table notes names of its own (``ClassLabel``), its indices are
    matched by them. Raises DataError, UnsupportedData."""
    import pyarrow as pa

    for table in tables:
        _check_column(table, column)
    arrow = (table.select_columns([column]).with_format("arrow") for table in tables)
    values = [table[:][column].combine_chunks() for table in arrow]
    if any(part.null_count for part in values):
        raise DataError(f"column {column!r} lacks some labels: leave those samples out")
    type_ = values[0].type
    families = {_family(part.type) for part in values}
    if all(family.startswith("lists of ") for family in families):
        families -= {"lists of null"}  # all of them empty
    if len(families) > 1:
        raise DataError(
            f"column {column!r} is of type {type_} in the training part and {values[1].type} in "
            "the test part: write both in the same way"
        )
    if pa.types.is_floating(type_):
        return [torch.from_numpy(part.to_numpy().astype(np.float32))[:, None] for part in values], (
            column,
        )
    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        noted = [_noted(getattr(table.features[column], "feature", None)) for table in tables]
        return _several([part.to_pylist() for part in values], noted)
    if pa.types.is_string(type_) or pa.types.is_large_string(type_):
        names = tuple(sorted(set(values[0].to_pylist())))
        places = {name: place for place, name in enumerate(names)}
        for part in values:
            strange = sorted(set(part.to_pylist()) - places.keys())
            if strange:
                raise DataError(f"label {strange[0][:100]!r} of the test part is none of train's")
        return [torch.tensor([places[name] for name in part.to_pylist()]) for part in values], names
    if not pa.types.is_integer(type_):
        raise UnsupportedData(
            f"column {column!r} is of type {type_}: class indices or names, lists of these, or "
            "floating-point numbers are needed"
        )
    labels = [part.to_numpy().astype(np.int64) for part in values]
    noted = [_noted(table.features[column]) for table in tables]
    names = noted[0] or tuple(map(str, range(max(int(part.max()) for part in labels) + 1)))
    if noted[0]:
        whose = zip(labels, noted, strict=True)
        labels = [labels_by_name(part, own, names, *_TEST_PART) for part, own in whose]
    return [torch.from_numpy(part) for part in labels], names


def _family(type_: Any) -> str:
    """What labels of an Arrow type are: types of one family are read in the same way."""
    import pyarrow as pa

    if pa.types.is_list(type_) or pa.types.is_large_list(type_):
        return f"lists of {_family(type_.value_type)}"
    if pa.types.is_floating(type_):
        return "values"
    return "indices" if pa.types.is_integer(type_) else str(type_).removeprefix("large_")


def _noted(kind: object) -> tuple[str, ...]:
    """The names of a column of ``ClassLabel``, () of another."""
    return tuple(map(str, getattr(kind, "names", None) or ()))


def _several(
    parts: list[list[list[Any]]], noted: Sequence[tuple[str, ...]]
) -> tuple[list[Tensor], tuple[str, ...]]:
    """bool (rows, labels) of each part's lists of labels, texts or numbers, and their names: those
    that are ``noted`` of the first part, else its labels, sorted. Raises DataError."""
    known = noted[0] or sorted({label for row in parts[0] for label in row})
    made = []
    for part, own in zip(parts, noted, strict=True):
        places = {label: place for place, label in enumerate(known)}
        if noted[0]:  # the labels are indices
            used = {label for row in part for label in row}.intersection(range(len(own or known)))
            indices = np.array(sorted(used), dtype=np.int64)
            order = labels_by_name(indices, own, known, *_TEST_PART)
            places = dict(zip(indices.tolist(), order.tolist(), strict=True))
        labels = torch.zeros(len(part), len(known), dtype=torch.bool)
        for row, given in enumerate(part):
            for label in given:
                if label not in places:
                    said = one_line(repr(label), 100)
                    raise DataError(f"label {said} of row {row} is none of those for training")
                labels[row, places[label]] = True
        made.append(labels)
    return made, tuple(map(str, known))


def _check_column(table: Dataset, column: str) -> None:
    if column not in table.column_names:
        known = one_line(", ".join(table.column_names), 500)
        raise DataError(f"there is no column {column!r}: the columns are {known}")


def _texts(table: Dataset, column: str, rows: list[int] | None = None) -> list[str]:
    _check_column(table, column)
    texts = (table if rows is None else table.select(rows))[column][:]
    strange = [row for row, text in enumerate(texts) if not isinstance(text, str)]
    if strange:
        raise DataError(f"column {column!r} holds no text in row {strange[0]}: leave it out")
    return texts


@final
class PictureColumn:
    """The encoded pictures of a column, by row: their bytes, or files below ``place``, the table's
    file or folder; None for a table of the hub, whose files ``datasets`` keeps in its caches."""

    def __init__(self, table: Dataset, column: str, place: Path | None) -> None:
        import datasets.config
        from huggingface_hub import constants

        _check_column(table, column)
        kind = datasets.Image(decode=False)
        try:
            with quiet(datasets.utils.logging):
                self._table = table.select_columns([column]).cast_column(column, kind)
        except (TypeError, ValueError, NotImplementedError):
            found = one_line(table.features[column])
            raise DataError(f"column {column!r} holds no pictures but {found}") from None
        caches = [datasets.config.HF_DATASETS_CACHE, constants.HF_HUB_CACHE]
        folders = caches if place is None else [place if place.is_dir() else place.parent]
        self._column, self._folders = column, [os.path.realpath(folder) for folder in folders]

    def __call__(self, row: int) -> bytes | Path:
        value = self._table[row][self._column]
        encoded = value and (value["bytes"] or value["path"])
        if not encoded:
            raise DataError("no picture")
        return encoded if isinstance(encoded, bytes) else Path(self._inside(encoded))

    def name(self, row: int) -> str:
        return f"row {row} of column {self._column!r}"

    def feed(self, digest: Any, rows: NDArray[np.int64]) -> None:
        most = share(self._table.data.nbytes, len(rows))
        table, beside = self._table.with_format("arrow"), list[str]()
        for first in range(0, len(rows), _AT_ONCE):
            part = table[rows[first : first + _AT_ONCE].tolist()]
            for value in part[self._column].to_pylist():
                encoded = value and value["bytes"]
                feed(digest, encoded or b"", most)
                if value and value["path"] and not encoded:
                    beside.append(self._inside(value["path"]))
        if beside:
            folder = os.path.commonpath(map(os.path.dirname, beside))
            names = [os.path.relpath(path, folder) for path in beside]
            digest.update(files_digest(folder, names).encode())

    def _inside(self, path: str) -> str:
        """``path``, absolute. Raises DataError where it leads out of the folders, by a link too:
        a table from elsewhere could name any file of the user's."""
        real = os.path.realpath(path)
        if not any(real.startswith(folder + os.sep) for folder in self._folders):
            raise DataError(
                f"{one_line(path)} lies outside {self._folders[0]}, the folder of the table: copy "
                "it there, or save the table with the bytes of its pictures"
            )
        return os.path.abspath(path)


def is_on_hub(path: str, root: StrPath | None) -> bool:
    """Whether :func:`load_hugging_face` reads ``path`` as a name on the hub."""
    try:
        return _place(path, data_root(root)) is None
    except DataError:  # a local file, which is not there
        return False


def _refuse_remote(place: Path) -> None:
    """Raises DataError where the card of a local data set names files that lie elsewhere, which
    ``datasets`` would fetch."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    for card in (place / "README.md", place / ".huggingface.yaml"):
        if not card.is_file():
            continue
        try:
            text = read_bounded(card, _LARGEST_CARD).decode("utf-8", "replace")
            if card.suffix == ".md":
                block = REGEX_YAML_BLOCK.search(text)
                text = block.group(2) if block else ""
            root = yaml.compose(text, Loader=yaml.SafeLoader)
            parts = root.value if isinstance(root, yaml.MappingNode) else []
            remote = any(k.value == "configs" and "://" in yaml.serialize(v) for k, v in parts)
        except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
            raise DataError(f"{card} cannot be read: {one_line(error)}") from None
        if remote:
            raise DataError(
                f"{card} names files on a network (configs), which are not fetched for a local "
                "folder: give the data set's name on the hub, or remove the card"
            )


def _place(path: str, root: Path) -> Path | None:
    """The local file or folder that ``path`` names, None for a name on the hub."""
    for place in (Path(path), root / path):
        if os.path.exists(place):  # False for what no file system takes, too
            return place
    if Path(path).is_absolute() or path.startswith(".") or Path(path).suffix in _FILES:
        raise DataError(
            f"{path} is neither in the current folder nor in {root}: give a path from there, or a "
            "whole one"
        )
    return None
