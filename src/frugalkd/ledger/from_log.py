"""A ledger from the log of any training: each epoch's confidence of each sample."""

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
    """The ledger of a training without a gate, as if a gate of tau ``confidence`` had been
    recorded: a sample participated in an epoch whose outcome fails it. A sample that the log does
    not name in an epoch counts as passed there.

    The log is a table with the columns ``epoch`` and ``id`` (integers from 0), ``confidence`` (the
    top softmax probability) and ``correct`` (whether the top class is the label: true, false, 1 or
    0); a row for each outcome, a sample at most once an epoch. It is ``.parquet``, ``.csv`` with a
    line of names, or ``.jsonl``, one object a line; other columns are ignored. Raises LedgerError.
    """
    path = Path(path)
    epochs, ids, confident, correct = _checked(path, _columns(path), samples)
    ledger = Ledger.new(samples, labels=labels)
    failed = fails(confident, correct, confidence)
    for number, epoch in enumerate(np.unique(epochs)):
        rows = epochs == epoch
        ledger.record(
            ids[rows], epoch=number, confidence=confident[rows], correct=correct[rows],
            failed=failed[rows], screening=False,
        )  # fmt: skip
    ledger["participations"][:] = np.bincount(ids[failed], minlength=samples)
    ledger.epochs = float(len(np.unique(epochs)))
    return ledger


def _columns(path: Path) -> dict[str, list[Any]]:
    """The log's columns as they are."""
    read = {".csv": _csv, ".jsonl": _json_lines, ".parquet": _parquet}.get(path.suffix)
    if read is None:
        raise LedgerError(f"a log ends in .parquet, .csv or .jsonl, not as {path.name!r}")
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    try:
        for number, row in enumerate(read(path)):
            for name, column in columns.items():
                if row.get(name) is None:
                    raise LedgerError(
                        f"{path}: row {number} has no {name!r}: {', '.join(COLUMNS)} are needed"
                    )
                column.append(row[name])
    except OSError as error:
        raise LedgerError(f"cannot read {path}: {error.strerror or one_line(error)}") from None
    except (UnicodeDecodeError, csv.Error) as error:
        raise LedgerError(f"{path} is not a table of text: {one_line(error)[:100]}") from None
    return columns


def _csv(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def _json_lines(path: Path) -> Iterator[dict[str, Any]]:
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                row = parse_json(line.encode())
            except ValueError as error:
                raise LedgerError(f"{path}: line {number} is not JSON: {one_line(error)}") from None
            if not isinstance(row, dict):
                raise LedgerError(f"{path}: line {number} is not an object with names")
            yield row


def _parquet(path: Path) -> Iterator[dict[str, Any]]:
    require_extra("parquet", "Parquet needs pyarrow (.csv does not)", LedgerError, "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=list(COLUMNS)):
                yield from batch.to_pylist()
    except pa.ArrowException as error:
        raise LedgerError(f"{path} cannot be read: {one_line(error)[:200]}") from None


def _checked(
    path: Path, columns: dict[str, list[Any]], samples: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32], NDArray[np.bool_]]:
    """The columns as arrays, if they are possible."""

    def refuse(why: str) -> LedgerError:
        return LedgerError(f"{path}: {why}")

    if not columns["id"]:
        raise refuse("it holds no rows")
    try:
        numbers = [np.array(columns[name], dtype=np.float64) for name in COLUMNS[:3]]
        truth = [_TRUTH[str(value).strip().lower()] for value in columns["correct"]]
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        raise refuse(f"a value is impossible ({one_line(error)[:80]})") from None
    for name, values, most in zip(COLUMNS, numbers, (60_000, samples - 1, 1), strict=False):
        whole = name == "confidence" or values == np.floor(values)
        bad = ~((values >= 0) & (values <= most) & whole)
        if bad.any():
            raise refuse(f"row {np.argmax(bad)} has {name} {values[bad][0]:g}: 0 .. {most}")
    epochs, ids = numbers[0].astype(np.int64), numbers[1].astype(np.int64)
    rows, times = np.unique(epochs * samples + ids, return_counts=True)
    if len(rows) < len(ids):
        epoch, id = divmod(int(rows[times > 1][0]), samples)
        raise refuse(f"sample {id} is named more than once in epoch {epoch}")
    return epochs, ids, numbers[2].astype(np.float32), np.array(truth, dtype=bool)
