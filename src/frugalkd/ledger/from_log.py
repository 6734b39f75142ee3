"""A ledger from the log of any training: each epoch's confidence of each sample.

The log is a table with the columns ``epoch`` and ``id`` (integers from 0), ``confidence`` (the top
softmax probability) and ``correct`` (whether the top class is the label: true, false, 1 or 0); a
row for each outcome, a sample at most once an epoch. It is ``.parquet``, ``.csv`` with a line of
names, or ``.jsonl``, one object a line; other columns are left alone.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import LedgerError
from frugalkd.files import StrPath
from frugalkd.files.parsing import one_line, parse_json
from frugalkd.ledger.ledger import Ledger
from frugalkd.ledger.outcome import fails
from frugalkd.runtime.imports import require_extra

COLUMNS = ("epoch", "id", "confidence", "correct")
_TRUTH = {"true": 1, "false": 0, "1": 1, "0": 0, "1.0": 1, "0.0": 0}


def ledger_from_log(
    path: StrPath, samples: int, *, confidence: float = 0.9, labels: NDArray | None = None
) -> Ledger:
    """The ledger of a training without a gate, as if its gate had only been recorded.

    A sample *would have been used* in an epoch whose outcome fails the gate: misclassified, or less
    confident than ``confidence``. Its significance is the part of the log's epochs in which it
    would have been. A sample that the log does not name in an epoch counts as passed there.

    Args:
        path: of the log, see this module.
        samples: how many there are; ids are positions in the data set.
        confidence: tau, the gate's.
        labels: int64 (samples,), for the ledger's own table.

    Raises:
        LedgerError: the file cannot be read, a column is missing, a value is impossible, or a
            sample is named twice in an epoch.
    """
    path = Path(path)
    epochs, ids, confident, correct = _checked(path, _columns(path), samples)
    ledger = Ledger.new(samples, labels=labels)
    failed = fails(confident, correct, confidence)
    for number, epoch in enumerate(np.unique(epochs)):
        rows = epochs == epoch
        ledger.record(
            ids[rows],
            epoch=number,
            confidence=confident[rows],
            correct=correct[rows],
            failed=failed[rows],
            screening=False,
        )
    ledger["participations"][:] = np.bincount(ids[failed], minlength=samples)
    ledger.epochs = float(len(np.unique(epochs)))
    return ledger


def _columns(path: Path) -> dict[str, list[Any]]:
    """The log's columns as they are."""
    try:
        if path.suffix == ".parquet":
            return _parquet(path)
        if path.suffix not in (".csv", ".jsonl"):
            raise LedgerError(f"a log ends in .parquet, .csv or .jsonl, not as {path.name!r}")
        columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
        with open(path, encoding="utf-8", newline="") as file:
            rows = csv.DictReader(file) if path.suffix == ".csv" else _lines(file, path)
            for number, row in enumerate(rows):
                for name, column in columns.items():
                    if row.get(name) is None:
                        raise LedgerError(
                            f"{path}: row {number} has no {name!r}: {', '.join(COLUMNS)} are needed"
                        )
                    column.append(row[name])
        return columns
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror or one_line(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LedgerError(f"{path} is not a table of text: {one_line(error)[:100]}") from None


def _lines(file: Any, path: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(file):
        try:
            row = parse_json(line.encode())
        except ValueError as error:
            raise LedgerError(f"{path}: line {number + 1} is no JSON: {one_line(error)}") from None
        if not isinstance(row, dict):
            raise LedgerError(f"{path}: line {number + 1} is no object with names")
        yield row


def _parquet(path: Path) -> dict[str, list[Any]]:
    needs = "Parquet needs pyarrow (.csv does not)"
    require_extra("parquet", needs, LedgerError, "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            missing = [name for name in COLUMNS if name not in file.schema_arrow.names]
            if missing:
                raise LedgerError(f"{path} has no column {missing[0]!r}: it needs {COLUMNS}")
            table = file.read(columns=list(COLUMNS))
    except pa.ArrowException as error:
        raise LedgerError(f"{path} cannot be read: {one_line(error)[:200]}") from None
    if any(table[name].null_count for name in COLUMNS):
        raise LedgerError(f"{path} has rows without a value: each needs {', '.join(COLUMNS)}")
    return {name: table[name].to_pylist() for name in COLUMNS}


def _checked(
    path: Path, columns: dict[str, list[Any]], samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """The columns as arrays, if they are possible."""

    def refuse(why: str) -> LedgerError:
        return LedgerError(f"{path}: {why}")

    if not columns["id"]:
        raise refuse("it holds no rows")
    try:
        whole = [np.array(columns[name], dtype=np.float64) for name in COLUMNS[:3]]
        truth = [_TRUTH[str(value).strip().lower()] for value in columns["correct"]]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise refuse(f"a value is impossible ({one_line(error)[:80]})") from None
    epochs, ids, confident = whole
    for name, values, most in (("epoch", epochs, 60_000), ("id", ids, samples - 1)):
        bad = ~((values == np.floor(values)) & (values >= 0) & (values <= most))
        if bad.any():
            raise refuse(f"row {np.argmax(bad)} has {name} {values[bad][0]:g}: 0 .. {most}")
    bad = ~((confident >= 0) & (confident <= 1))
    if bad.any():
        raise refuse(f"row {np.argmax(bad)} has confidence {confident[bad][0]:g}: 0 .. 1")
    epochs, ids = epochs.astype(np.int64), ids.astype(np.int64)
    rows, times = np.unique(epochs * samples + ids, return_counts=True)
    if len(rows) < len(ids):
        epoch, id = divmod(int(rows[times > 1][0]), samples)
        raise refuse(f"sample {id} is named more than once in epoch {epoch}")
    return epochs, ids, confident.astype(np.float32), np.array(truth, dtype=bool)
