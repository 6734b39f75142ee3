"""Tables of numbers and texts, and values of their columns to learn: CSV, Parquet, npz."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.batches import form
from frugalkd.data.class_names import labels_by_name
from frugalkd.data.samples import Samples, Splits, data_root, located, splits_of
from frugalkd.errors import DataError, nearest
from frugalkd.files import StrPath
from frugalkd.files.parsing import most_unpacked, one_line
from frugalkd.runtime.imports import inside_package, require_extra

Table = dict[str, NDArray[Any]]
"""Columns by name, all (rows,): float64, or texts (object)."""

MOST_TEXTS = 256
"""Different texts of a column that becomes inputs, one for each."""
_ENDINGS = (".csv", ".parquet", ".npz")
_EXACT = 2.0**53
"""Whole numbers are exact below this as float64."""


@dataclass(frozen=True)
class Column:
    """One column and the inputs that it becomes: ``(value - mean) / std`` of numbers, or of their
    logarithm; of texts 1 for the one that it is, and 0 for the others."""

    __pydantic_config__: ClassVar = {"extra": "forbid", "allow_inf_nan": False}

    name: str
    mean: float = 0.0
    std: float = 1.0
    log: bool = False
    texts: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.std > 0:
            raise ValueError(f"std of column {self.name!r} is {self.std}, and not above 0")

    @property
    def width(self) -> int:
        return len(self.texts) or 1


@dataclass(frozen=True)
class Columns:
    """How the columns of a table become the inputs of a model."""

    columns: tuple[Column, ...]

    def card(self) -> list[dict[str, Any]]:
        """What :meth:`of_card` reads, for JSON."""
        return [asdict(column) for column in self.columns]

    @classmethod
    def of_card(cls, card: object) -> Self:
        """Raises ValueError (pydantic's) where ``card`` is not what :meth:`card` gave."""
        from pydantic import TypeAdapter

        return cls(TypeAdapter(tuple[Column, ...]).validate_python(card))

    @property
    def width(self) -> int:
        """Inputs of a row."""
        return sum(column.width for column in self.columns)

    @classmethod
    def of(cls, table: Table, names: Sequence[str], log: Sequence[str], rows: Any) -> Columns:
        """The columns ``names``, by the mean and standard deviation of ``rows`` and their texts,
        sorted. Raises DataError for too many different texts."""
        made = []
        for name in names:
            if table[name].dtype == object:
                texts = tuple(sorted(set(_texts(table, name)[rows])))
                if len(texts) > MOST_TEXTS:
                    raise DataError(
                        f"column {name!r} has {len(texts)} different texts, and each becomes an "
                        f"input: leave it out of the features ({MOST_TEXTS} are possible)"
                    )
                made.append(Column(name=name, texts=texts))
                continue
            numbers = _numbers(table, name, name in log)[rows]
            mean, std = float(numbers.mean()), float(numbers.std())
            made.append(Column(name=name, mean=mean, std=std or 1.0, log=name in log))
        return cls(tuple(made))

    def inputs(self, table: Table) -> Tensor:
        """float32 (rows, width). A text that is none of a column's is 0 in all. Raises DataError
        for a column that is missing, or of another type."""
        parts = []
        for column in self.columns:
            _check_columns(table, [column.name])
            if column.texts:
                texts = _texts(table, column.name).astype(str)
                parts.append(texts[:, None] == np.array(column.texts, dtype=str))
            else:
                numbers = _numbers(table, column.name, column.log)
                parts.append(((numbers - column.mean) / column.std)[:, None])
        return torch.from_numpy(np.concatenate(parts, axis=1).astype(np.float32))

    def described(self, inputs: NDArray[np.float32]) -> str:
        """A row of :meth:`inputs` in words."""
        said, at = [], 0
        for column in self.columns:
            part = inputs[at : at + column.width]
            at += column.width
            if column.texts:
                value = column.texts[int(part.argmax())] if part.any() else "another"
            else:
                value = float(part[0]) * column.std + column.mean
                value = f"{np.exp(value) if column.log else value:.4g}"
            said.append(f"{column.name} {value}")
        return ", ".join(said)


@final
class TableData(Samples):
    """Rows of a table as ``features`` float32 (N, width), made by ``columns``, and ``labels`` as of
    :class:`Samples`, both in RAM; classes are those of the column ``label``. A sample has one
    view."""

    def __init__(
        self,
        features: Tensor,
        labels: Tensor,
        classes: tuple[str, ...],
        columns: Columns,
        label: str = "",
    ) -> None:
        super().__init__(labels, classes)
        if features.shape != (len(labels), columns.width) or features.dtype != torch.float32:
            raise DataError(
                f"features are {form(features)}: give float32 ({len(labels)}, {columns.width})"
            )
        self.features, self.columns, self.label = features, columns, label
        self._rows = np.arange(len(labels))

    @property
    def row_bytes(self) -> int:
        return 4 * self.features.shape[1] + self.labels[:1].nbytes

    def __getitem__(self, id: int) -> tuple[Tensor, Any]:
        """Features float32 (width,), and the label: an int, or (targets,)."""
        features, labels = self.batch([id], [0])
        return features[0], int(labels[0]) if labels.ndim == 1 else labels[0]

    def batch(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        """``features`` (B, width) and ``labels`` (B, ...). Raises IndexError for ids outside ``0 ..
        N - 1``."""
        rows = self.rows(ids)
        return self.features.index_select(0, rows), self.labels.index_select(0, rows)

    def subset(self, ids: Any) -> Self:
        rows = self.rows(ids)
        return self._with(
            features=self.features[rows], labels=self.labels[rows], _rows=self._rows[rows.numpy()]
        )

    def digest(self) -> str:
        """SHA-256 (hex) of features and labels."""
        digest = hashlib.sha256(f"{len(self)} rows".encode())
        for part in (self.features, self.labels):
            digest.update(np.ascontiguousarray(part.numpy()).data)
        return digest.hexdigest()

    def names(self, ids: Any) -> list[str]:
        """The places of the rows in the table."""
        return [f"row {row}" for row in self._rows[self.rows(ids).numpy()]]

    def texts(self, ids: Any) -> list[str]:
        """The rows ``ids`` in words."""
        return [self.columns.described(row) for row in self.features[self.rows(ids)].numpy()]


def load_table(
    root: StrPath | None = None,
    *,
    path: str = "",
    target: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    features: Sequence[str] | None = None,
    log: Sequence[str] = (),
    test: float = 0.2,
) -> Splits:
    """Rows of a table: numbers, standardised, and texts, one input for each different one.

    Args:
        root: the data root.
        path: a .csv or .parquet file, or an .npz file of arrays (rows,) or (rows, columns): in the
            root, on its own, or inside an installed package (``package/folder/file``).
        target: the column or columns of numbers to learn, for regression.
        label: in its place the column of classes, texts or whole numbers; or the columns of several
            labels, each 1 for the samples that have it, else 0.
        features: the columns that a model receives; by default all others.
        log: columns of numbers above 0 whose logarithms take their place; that of a target is then
            learned, as ``log NAME``.
        test: the fraction of the rows that is held out, the same ones every time.

    Raises:
        DataError: the file cannot be read; a column is missing, lacks a value or is of another
            type; pyarrow is not installed.
    """
    file = table_file(path, root)
    with located(file):
        table = read_table(file)
        targets = [target] if isinstance(target, str) else list(target or ())
        if bool(targets) == (label is not None):
            raise DataError("say which column is learned: target (numbers), or label (classes)")
        several = [] if label is None or isinstance(label, str) else list(label)
        learned = [label] if isinstance(label, str) else several or targets
        names = [name for name in table if name not in learned] if features is None else features
        _check_columns(table, [*learned, *names, *log])
        if wrong := [name for name in log if name not in names and name not in targets]:
            raise DataError(
                f"log names column {wrong[0]!r}, which is neither a feature nor a target: leave it "
                "out of log"
            )
        for name in log:
            _numbers(table, name, True)
        if wrong := [name for name in names if name in learned]:
            raise DataError(f"column {wrong[0]!r} is learned, and cannot be a feature as well")
        if several:
            labels, classes = _several(table, several), tuple(several)
        elif not isinstance(label, str):
            values = [_numbers(table, name, name in log) for name in targets]
            labels = torch.from_numpy(np.stack(values, axis=1).astype(np.float32))
            classes = tuple(f"log {name}" if name in log else name for name in targets)
        else:
            labels, classes = _classes(table, label)
        # Two passes: which rows are held out first, then the numbers of the others alone.
        places = TableData(torch.zeros(len(labels), 0), labels, classes, Columns(()))
        splits = splits_of([places], test)
        parts = [part._rows for part in (splits.train, splits.test)]  # pyright: ignore
        columns = Columns.of(table, list(names), log, parts[0])
        named = label if isinstance(label, str) else ""
        whole = TableData(columns.inputs(table), labels, classes, columns, named)
        return Splits(*map(whole.subset, parts))


def table_file(path: str, root: StrPath | None = None) -> Path:
    """The file that ``path`` names (see :func:`load_table`), whether it is there or not."""
    places = [Path(path), inside_package(path) or Path(path)]
    return next((file for file in places if file.is_file()), data_root(root) / path)


def read_table(
    path: Path, columns: Collection[str] | None = None, texts: Collection[str] = ()
) -> Table:
    """The columns of a table, or those ``columns`` that it has; of a .csv file the columns
    ``texts`` as texts, where all that they hold are numbers, too. Raises DataError, which does not
    name it."""
    if not path.is_file():
        raise DataError("is not there: name a .csv, .parquet or .npz file")
    if path.suffix not in _ENDINGS:
        raise DataError(f"is not a table: {', '.join(_ENDINGS)} are read")
    if path.suffix == ".npz":
        return _from_arrays(path)
    require_extra("parquet", f"reading {path.name} needs pyarrow", DataError, "pyarrow")
    import pyarrow as pa
    import pyarrow.csv
    import pyarrow.parquet as pq

    try:
        if path.suffix == ".csv":
            lines = pyarrow.csv.ParseOptions(newlines_in_values=True)
            kinds = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(texts, pa.string()))
            found = pyarrow.csv.read_csv(path, parse_options=lines, convert_options=kinds)
        else:
            with pq.ParquetFile(path) as file:
                groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
                size, claimed = path.stat().st_size, sum(each.total_byte_size for each in groups)
                cells = file.metadata.num_rows * file.metadata.num_columns
                if max(claimed, cells) > most_unpacked(size):
                    raise DataError(f"claims {claimed} bytes, more than 64 times its size")
                found = file.read()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = one_line(str(error).splitlines()[0])
        raise DataError(f"cannot be read ({reason}): get the file again") from error
    names = [name for name in found.column_names if columns is None or name in columns]
    _refuse_twice(names)
    return {name: _from_arrow(name, found[name]) for name in names}


def _from_arrow(name: str, column: Any) -> NDArray[Any]:
    import pyarrow as pa

    kind = column.type
    if pa.types.is_dictionary(kind):
        column, kind = column.cast(kind.value_type), kind.value_type
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise DataError(f"column {name!r} has no value in row {row}: fill it in, or leave it out")
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return np.array(column.to_pylist(), dtype=object)
    if pa.types.is_boolean(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return np.asarray(column.to_numpy(), dtype=np.float64)
    raise DataError(f"column {name!r} is of type {kind}: numbers or texts are needed")


def _from_arrays(path: Path) -> Table:
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(part.file_size for part in archive.infolist())
        if claimed > most_unpacked(path.stat().st_size):
            raise DataError(f"claims {claimed} bytes, more than 64 times its size")
        with np.load(path, allow_pickle=False) as arrays:
            found = {name: arrays[name] for name in arrays.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot be read ({one_line(error, 100)}): get the file again") from None
    columns: list[tuple[str, NDArray[Any]]] = []
    for name, array in found.items():
        if array.ndim not in (1, 2) or array.dtype.kind not in "biufU":
            raise DataError(
                f"array {name!r} is of type {array.dtype} and shape {array.shape}: numbers or "
                "texts (rows,) or (rows, columns) are needed"
            )
        array = array.astype(object if array.dtype.kind == "U" else np.float64)
        if array.ndim == 1:
            columns.append((name, array))
        else:
            columns += [(f"{name} {place}", column) for place, column in enumerate(array.T)]
    _refuse_twice([name for name, _ in columns])
    table = dict(columns)
    if len({len(column) for column in table.values()}) > 1:
        raise DataError("its arrays have different numbers of rows")
    return table


def _check_columns(table: Mapping[str, Any], names: Sequence[str]) -> None:
    for name in names:
        if name not in table:
            raise DataError(f"there is no column {one_line(repr(name))}: {nearest(name, table)}")


def _refuse_twice(names: Sequence[str]) -> None:
    if len(set(names)) < len(names):
        twice = next(name for place, name in enumerate(names) if name in names[:place])
        raise DataError(f"two columns are called {one_line(repr(twice))}: rename one of them")


def _texts(table: Table, name: str) -> NDArray[Any]:
    """A column of texts. Raises DataError where it holds numbers, or one is empty."""
    column = table[name]
    if column.dtype != object:
        raise DataError(
            f"column {name!r} holds numbers, as {column[0]:g}, and held texts in the training: "
            "read it as texts"
        )
    empty = [row for row, text in enumerate(column) if not text]
    if empty:
        raise DataError(
            f"column {name!r} has no value in row {empty[0]}: fill it in, or leave it out"
        )
    return column


def _numbers(table: Table, name: str, log: bool) -> NDArray[np.float64]:
    """A column, or its logarithms. Raises DataError where one is not finite."""
    column = table[name]
    if column.dtype == object:
        raise DataError(f"column {name!r} holds texts, as {one_line(repr(column[0]))}: numbers are "
                        "needed")  # fmt: skip
    bad = ~np.isfinite(column) | ((column <= 0) if log else False)
    if bad.any():
        row = int(bad.argmax())
        why = "which has no logarithm" if np.isfinite(column[row]) else "which is not finite"
        raise DataError(f"column {name!r} is {column[row]:g} in row {row}, {why}: leave it out")
    return np.log(column) if log else column


def target_columns(
    table: Table, names: Sequence[str], label: str = "", *, several: bool = False
) -> NDArray[Any] | None:
    """What :func:`load_table` makes labels of, from another table: classes int64 (rows,) of the
    column ``label``, as indices into ``names``, else float32 (rows, targets) of the targets, or of
    ``several`` labels, ``names``. None where a column is not there. Raises DataError for a class of
    no name, and for what :func:`load_table` refuses."""
    if not label:
        whose = {name: name if name in table else name.removeprefix("log ") for name in names}
        if not names or not all(column in table for column in whose.values()):
            return None
        if several:
            return _several(table, names).numpy().astype(np.float32)
        values = [_numbers(table, column, name != column) for name, column in whose.items()]
        return np.stack(values, axis=1).astype(np.float32)
    if label not in table:
        return None
    given, said = _classes(table, label)
    return labels_by_name(given.numpy(), said, names, f"column {label!r}")


def _several(table: Table, names: Sequence[str]) -> Tensor:
    """bool (rows, labels) of columns of 0 and 1. Raises DataError for others."""
    values = np.stack([_numbers(table, name, False) for name in names], axis=1)
    rows, places = np.nonzero((values != 0) & (values != 1))
    if len(rows):
        value = values[rows[0], places[0]]
        raise DataError(
            f"label {names[places[0]]!r} is {value:g} in row {rows[0]}: 0 or 1 is needed"
        )
    return torch.from_numpy(values == 1)


def _classes(table: Table, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """Class indices int64 (rows,) of a column of texts, or of whole numbers, and their names.
    Raises DataError."""
    if table[name].dtype == object:
        column = _texts(table, name)
    else:
        column = whole_numbers(table[name])
    names, labels = np.unique(column, return_inverse=True)
    return torch.from_numpy(labels.astype(np.int64)), tuple(map(str, names.tolist()))


def whole_numbers(column: NDArray[np.float64]) -> NDArray[np.int64]:
    """A column of classes. Raises DataError where one is not a whole number below 2^53."""
    wrong = (column != np.floor(column)) | ~(np.abs(column) < _EXACT)
    if wrong.any():
        raise DataError(f"the label {column[wrong][0]:g} is not a class: for numbers name the "
                        "column as target")  # fmt: skip
    return column.astype(np.int64)
