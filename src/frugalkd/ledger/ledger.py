"""The ledger: the record of each sample of a training set."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frugalkd.errors import LedgerError, SettingError, few
from frugalkd.files import StrPath, path_of
from frugalkd.files.arrays import filled_columns, load_arrays, save_arrays
from frugalkd.files.opening import named_file
from frugalkd.files.parsing import cell
from frugalkd.files.writing import atomic
from frugalkd.ledger.dynamics import COLUMNS as _DYNAMICS
from frugalkd.ledger.dynamics import LEARNED, NEVER
from frugalkd.runtime.imports import require_extra
from frugalkd.runtime.settings import check_integer

SCHEMA = 1
_KIND = "ledger"
_AGAIN = "make it again with 'frugalkd teach'"
_REFERENCE, _NONE = "reference ", np.empty(0)
ASIDE = "set_aside"
"""Column of a policy: 1 for a sample that is never trained on, and could have been."""

_CORRECT, _SCREENED = np.uint8(1), np.uint8(2)
_COLUMNS: dict[str, tuple[str, float]] = {
    "visits": ("uint16", 0),
    "participations": ("uint16", 0),
    "forced": ("uint16", 0),
    "confidence": ("float32", np.nan),
    "loss": ("float32", np.nan),
    "flags": ("uint8", 0),
    "streak": ("uint8", 0),
    "due": ("uint16", 0),
    "last_epoch": ("uint16", float(NEVER)),
}


@dataclass
class Ledger:
    """The per-sample record of one training, 20 bytes a sample, 40 with training dynamics; row
    ``i`` is sample id ``i``.

    Attributes:
        columns: name -> array (samples,):
            ``visits`` epochs in which the sample was evaluated;
            ``participations`` backward passes whose own verdict failed the gate, or of a view that
            is mixed with another sample, which has no verdict;
            ``forced`` backward passes that were not the gate's choice;
            ``confidence`` the last top softmax probability (NaN: never judged);
            ``loss`` the objective's last training value, unweighted (NaN: never trained on);
            ``flags`` bit 0 the last verdict was correct, bit 1 it came from a screening, bit 2 the
            given label had the largest logit (with training dynamics);
            ``streak`` passes in a row, up to 255;
            ``due`` the epoch from which the sample is used again or screened;
            ``last_epoch`` the epoch of the last visit (65535: never); and a policy's own columns.
            With training dynamics (:mod:`frugalkd.ledger.dynamics`), of the given label:
            ``margin`` the mean of its logit minus the largest other one; ``probability`` and
            ``variability`` the mean and standard deviation of its softmax probability; ``counted``
            the visits of these three, in the first half of the epochs; ``first_learned`` the first
            epoch in which it had the largest logit (65535: never); ``forgotten`` how often it lost
            that, up to 255; ``other`` the class that most often had the largest logit among the
            others (65535: not known, or a higher one), with its lead in votes, ``other_votes``.
        labels: int32 (samples,), -1 where not known, or None.
        epochs: epochs that the training has finished; may be fractional.
        reference: of a kind of output with distances, but tokens, what scores refer to, float32
            arrays by name; ``confidence`` is then the score 1 - d / d0 of a distance d, see
            :attr:`distance`, and ``d0`` (1,) is among the arrays.
        about: metadata of the file: data digest, class names, policy.
    """

    columns: dict[str, NDArray]
    labels: NDArray[np.int32] | None = None
    epochs: float = 0.0
    about: dict[str, str] = field(default_factory=dict)
    reference: dict[str, NDArray[np.float32]] = field(default_factory=dict)

    @classmethod
    def new(
        cls,
        samples: int,
        *,
        labels: NDArray | None = None,
        extra: Mapping[str, str] | None = None,
        folder: StrPath | None = None,
        dynamics: bool = False,
    ) -> Ledger:
        """An empty ledger.

        Args:
            samples: how many.
            labels: integers (samples,), where they are known.
            extra: a policy's own columns and their numpy dtypes.
            folder: where the columns of a ledger above
                :data:`~frugalkd.files.arrays.MAPPED_FROM` bytes lie, in nameless files that go away
                with it; None: all of them in memory.
            dynamics: with the columns of training dynamics, which a training then fills in.

        Raises:
            SettingError: an extra column has the name of one of the ledger's own, or no numpy type.
            WriteFailed: the disk has no room for them.
        """
        check_integer("samples", samples, 0)
        own = extra or {}
        for name, dtype in own.items():
            try:
                np.dtype(dtype)
            except TypeError:
                raise SettingError(f"column {name!r} is of no numpy type: {dtype!r}") from None
            if name in _COLUMNS or name in _DYNAMICS:
                raise SettingError(f"column {name!r} is the ledger's own: choose another name")
        wanted = _COLUMNS | (_DYNAMICS if dynamics else {})
        wanted |= {name: (dtype, 0.0) for name, dtype in own.items()}
        columns = filled_columns(samples, wanted, None if folder is None else path_of(folder))
        if labels is not None:
            known = np.abs(labels) <= np.iinfo(np.int32).max
            labels = np.where(known, labels, -1).astype(np.int32)
        return cls(columns, labels)

    def __len__(self) -> int:
        return len(self.columns["visits"])

    def __getitem__(self, column: str) -> NDArray:
        return self.columns[column]

    @property
    def correct(self) -> NDArray[np.bool_]:
        """Whether each sample's last verdict was correct."""
        return (self["flags"] & _CORRECT) != 0

    @property
    def accepted(self) -> NDArray[np.bool_]:
        """Whether each sample's given label had the largest logit in the last epoch counted; False
        without training dynamics."""
        return (self["flags"] & LEARNED) != 0

    @property
    def screened(self) -> NDArray[np.bool_]:
        """Whether each sample's last verdict came from a forward pass in eval mode."""
        return (self["flags"] & _SCREENED) != 0

    @property
    def has_dynamics(self) -> bool:
        """Whether it has the columns of training dynamics."""
        return "margin" in self.columns

    @property
    def distance(self) -> NDArray[np.float32]:
        """The last distance of each sample from what is right, float32 (samples,), 0 or more but
        for rounding; NaN: never visited. Raises LedgerError for a ledger of one class."""
        if not self.reference:
            raise LedgerError("this ledger has probabilities and no distances: read confidence")
        return (1 - self["confidence"]) * self.reference["d0"]

    @property
    def significance(self) -> NDArray[np.float32]:
        """Participations / epochs, float32 (samples,) in [0, 1].

        The count is the paper's (arXiv 2102.07125); dividing it by the epochs is our reading.
        """
        if self.epochs <= 0:
            raise LedgerError("this ledger has no finished epoch: significance is not defined yet")
        return np.minimum(self["participations"] / np.float32(self.epochs), np.float32(1))

    def record(
        self,
        ids: NDArray[np.int64],
        *,
        epoch: int,
        confidence: NDArray[np.float32],
        correct: NDArray[np.bool_],
        failed: NDArray[np.bool_],
        screening: bool,
        learned: NDArray[np.uint8] | None = None,
    ) -> NDArray[np.uint8]:
        """Enter one verdict of each of ``ids``, without duplicates. Returns the new streaks.

        A screening and the training after it in the same epoch are one visit. ``learned``: what
        :func:`frugalkd.ledger.dynamics.enter` returned of the same rows.
        """
        # What counts here is how often memory is touched: once to read a column, once to write it.
        first = self.visited(ids, epoch=epoch)
        streak = self["streak"].take(ids)
        streak += first & (streak < 255)
        np.maximum(streak, 1, out=streak)
        streak[failed] = 0
        self["streak"][ids] = streak
        self["confidence"][ids] = confidence
        flags = correct * _CORRECT + np.uint8(screening) * _SCREENED
        self["flags"][ids] = flags if learned is None else flags + learned
        return streak

    def visited(self, ids: NDArray[np.int64], *, epoch: int) -> NDArray[np.bool_]:
        """Enter a visit of ``ids``, without duplicates. Returns which had none in this epoch."""
        first = self["last_epoch"].take(ids) != epoch
        visits = self["visits"]
        visits[ids] = visits.take(ids) + first
        self["last_epoch"][ids] = epoch
        return first

    def trained(
        self,
        ids: NDArray[np.int64],
        *,
        participated: NDArray[np.bool_],
        forced: NDArray[np.bool_],
        losses: NDArray[np.float32],
    ) -> None:
        """Enter a backward pass of ``ids``; a row may be idle: neither of the two."""
        for name, counted in (("participations", participated), ("forced", forced)):
            if counted.any():
                column = self[name]
                column[ids] = column.take(ids) + counted
        self["loss"][ids] = losses

    def views(self, ids: NDArray[np.int64], epoch: int) -> NDArray[np.int64]:
        """The view int64 (rows,) of each sample in ``epoch``: its visits before, from 0."""
        again = self["last_epoch"][ids] == epoch
        return self["visits"][ids].astype(np.int64) - again

    def save(self, path: StrPath) -> None:
        """Write a safetensors file, atomically.

        Raises:
            WriteFailed: it cannot be written.
        """
        arrays = dict(self.columns)
        if self.labels is not None:
            arrays["label"] = self.labels
        arrays |= {_REFERENCE + name: array for name, array in self.reference.items()}
        about = {**self.about, "schema": str(SCHEMA), "epochs": repr(float(self.epochs))}
        save_arrays(named_file(path), _KIND, arrays, about)

    @classmethod
    def load(cls, path: StrPath) -> Ledger:
        """Read what :meth:`save` wrote; ``path`` may be the folder of the run.

        Raises:
            LedgerError: there is no such file, or it is not a ledger of this schema.
        """
        path = ledger_file(path)
        if not path.is_file():
            raise LedgerError(
                f"no ledger at {path}: make one with 'frugalkd teach' or 'frugalkd ledger make'"
            )
        arrays, about = load_arrays(
            path, _KIND, what="ledger", schema=SCHEMA, error=LedgerError, again=_AGAIN
        )
        named = [name for name in arrays if name.startswith(_REFERENCE)]
        reference = {name.removeprefix(_REFERENCE): arrays.pop(name) for name in named}
        kinds = {name: dtype for name, (dtype, _) in _COLUMNS.items()}
        kinds |= {"label": "int32"} if "label" in arrays else {}
        if not _DYNAMICS.keys().isdisjoint(arrays):
            kinds |= {name: dtype for name, (dtype, _) in _DYNAMICS.items()}
        wrong = [n for n in kinds if n not in arrays or arrays[n].dtype != kinds[n]]
        shapes = {array.shape for array in arrays.values()}
        if wrong or len(shapes) != 1 or len(next(iter(shapes))) != 1:
            raise LedgerError(
                f"{path} is damaged: columns {wrong} are missing or of the wrong type, or lengths "
                f"differ ({few(list(shapes))}); {_AGAIN}"
            )
        try:
            epochs = float(about.pop("epochs"))
        except (KeyError, TypeError, ValueError):
            epochs = math.nan
        wrong = [array for array in reference.values() if array.dtype != np.float32]
        if (reference and reference.get("d0", _NONE).shape != (1,)) or wrong:
            raise LedgerError(f"{path} is damaged: its scores refer to nothing; {_AGAIN}")
        if not 0 <= epochs <= NEVER or not all(isinstance(text, str) for text in about.values()):
            raise LedgerError(f"{path} is damaged: no epochs, or metadata not of text; {_AGAIN}")
        return cls(arrays, arrays.pop("label", None), epochs, about, reference)

    def export(self, path: StrPath, *, names: Sequence[str] | None = None) -> None:
        """Write a table, one row a sample: ``.csv``, or ``.parquet`` (extra ``parquet``).

        Args:
            path: the table.
            names: of the samples, for a column ``sample``.

        Raises:
            LedgerError: another ending, or pyarrow is not installed.
            WriteFailed: it cannot be written; PathRefused where it is a link.
        """
        path = named_file(path)
        table: dict[str, NDArray] = {"id": np.arange(len(self))}
        if names is not None:
            said = map(cell, names) if path.suffix == ".csv" else names
            table["sample"] = np.array(list(said), dtype=object)
        if self.labels is not None:
            table["label"] = self.labels
        if self.epochs > 0:
            table["significance"] = self.significance
        table |= {name: column for name, column in self.columns.items() if name != "flags"}
        table |= {"correct": self.correct, "screened": self.screened}
        if path.suffix == ".csv":
            with (
                atomic(path) as file,
                open(file, "w", newline="", encoding="utf-8", closefd=False) as text,
            ):
                writer = csv.writer(text)
                writer.writerow(map(cell, table))
                writer.writerows(zip(*(column.tolist() for column in table.values()), strict=True))
        elif path.suffix == ".parquet":
            needs = "Parquet needs pyarrow (.csv does not)"
            require_extra("parquet", needs, LedgerError, "pyarrow")
            import pyarrow
            import pyarrow.parquet

            with atomic(path) as file, open(file, "wb", closefd=False) as content:
                pyarrow.parquet.write_table(pyarrow.table(table), content)
        else:
            raise LedgerError(f"cannot export to {path.name!r}: end it in .csv or .parquet")


def ledger_file(path: StrPath) -> Path:
    """The ledger in a run's folder, or the file that ``path`` is."""
    path = path_of(path)
    return path / "ledger.safetensors" if path.is_dir() else path
