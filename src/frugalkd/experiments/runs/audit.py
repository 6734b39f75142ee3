"""``frugalkd ledger audit``: what is decided about labels, and the recipe that it makes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from numpy.typing import NDArray

from frugalkd.data.labels import Corrections, corrections, save_corrections
from frugalkd.errors import DataError, LedgerError, TargetsError, few, nearest
from frugalkd.experiments.runs.folder import recipe_of
from frugalkd.files.opening import named
from frugalkd.files.parsing import cell, one_line, read_bounded
from frugalkd.files.writing import make_folder, write_atomic
from frugalkd.ledger.audit import classes_of, name_of
from frugalkd.ledger.ledger import Ledger, ledger_file

DECISIONS = ("keep", "exclude", "relabel")
RECIPE = "recipe.yaml"
_LARGEST = 1 << 28


def logits_of(folder: Path, ledger: Ledger) -> NDArray[np.float32]:
    """The teacher's logits (samples, classes) in a store of soft targets, in the order of the
    ledger's classes; NaN where nothing is stored. Raises TargetsError where it is of other data."""
    from frugalkd.teachers import StoredTargets

    found = StoredTargets(folder)
    if found.about.get("data set") != ledger.about.get("data"):
        raise TargetsError(f"{folder} holds soft targets of other data than the ledger's")
    found.match_classes(classes_of(ledger))
    return found.all_logits()


def read_decisions(path: Path, ledger: Ledger) -> Corrections:
    """The decisions in a table: of ``ledger audit --out``, filled in, or from a report's page.

    Columns: ``id``; ``decision``, ``exclude``, ``relabel``, or ``keep`` or nothing; for relabel
    ``label``, a class, by default ``suggested``. Where there are columns ``given`` and ``data``,
    they have to be those of ``ledger``. Raises DataError, which names the line."""
    names = classes_of(ledger)
    exclude, relabel = set(), dict[int, str]()
    for line, row in _rows(path):
        try:
            id, decision = _checked(row, ledger, names)
            if id in exclude or id in relabel:
                raise DataError(f"sample {id} is decided twice")
            if decision == "exclude":
                exclude.add(id)
            elif decision == "relabel":
                relabel[id] = _label(row, names)
        except DataError as error:
            raise DataError(f"{path}, line {line}: {error}") from None
    if not exclude and not relabel:
        raise DataError(f"{path} decides nothing: set decision to exclude or relabel somewhere")
    return Corrections(ledger.about.get("data", ""), frozenset(exclude), relabel)


def _rows(path: Path) -> Iterator[tuple[int, dict[str, str]]]:
    try:
        text = read_bounded(path, _LARGEST).decode("utf-8-sig")
        table = csv.DictReader(io.StringIO(text, newline=""), restval="")
        missing = [name for name in ("id", "decision") if name not in (table.fieldnames or ())]
        if missing:
            raise DataError(f"{path} has no column {few(missing)}")
        for row in table:
            yield table.line_num, {str(k): str(v).strip() for k, v in row.items()}
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or one_line(error)}") from None
    except (ValueError, csv.Error) as error:  # no UTF-8, too large, no table
        raise DataError(f"{path} is not a readable CSV file: {one_line(error, 100)}") from None


def _checked(row: Mapping[str, str], ledger: Ledger, names: list[str]) -> tuple[int, str]:
    """The sample of a row and the decision about it, if they are possible."""
    said, id = one_line(row["id"], 40), -1
    if said.isascii() and said.isdigit() and len(said) < 19:
        id = int(said)
    if not 0 <= id < len(ledger):
        raise DataError(f"no sample {said!r}: the ledger has 0 .. {len(ledger) - 1}")
    decision = row["decision"].lower() or "keep"
    if decision not in DECISIONS:
        raise DataError(f"no decision {one_line(decision, 40)!r}: {nearest(decision, DECISIONS)}")
    data = row.get("data", "")
    if data and not ledger.about.get("data", "").startswith(data):
        raise DataError("it was decided about other data than the ledger's")
    if row.get("given") and ledger.labels is not None:
        own = name_of(names, int(ledger.labels[id]))
        if row["given"] not in (own, cell(own)):
            raise DataError(
                f"the given label of sample {id} is {one_line(own, 60)!r}, not "
                f"{one_line(row['given'], 60)!r}: these decisions are about another ledger"
            )
    return id, decision


def _label(row: Mapping[str, str], names: Sequence[str]) -> str:
    """The new label's class: where the ledger has no names of classes, their numbers."""
    said = row.get("label") or row.get("suggested") or ""
    if not names and said.isascii() and said.isdigit():
        return said
    found = [name for name in names if said in (name, cell(name))]
    if not found:
        raise DataError(f"{one_line(said, 60)!r} is not a class; {nearest(said, names)}")
    return found[0]


def fix(path: Path, ledger: Ledger, decided: Corrections, out: Path) -> dict[str, Any]:
    """Write ``decided`` into the new folder ``out``: files for ``data.exclude`` and
    ``data.relabel``, and the run's recipe with them. What the run's own recipe had excluded and
    relabelled stays so. Nothing is overwritten.

    Args:
        path: the run's folder, or the file of ``ledger`` in it.

    Returns:
        ``excluded``, ``relabelled`` (samples, in all), ``files`` and ``recipe``, the path of it.

    Raises:
        RunFolderError, DataError: the folder has no recipe, or its corrections cannot be read; a
            file would be overwritten.
        WriteFailed: it cannot be written.
    """
    if not decided.data:
        raise LedgerError("this ledger does not say which data it is of: make it with 'teach'")
    recipe = recipe_of(ledger_file(path).parent)
    data = recipe["data"]
    before = corrections(data.get("exclude"), data.get("relabel"))
    if before is not None:
        # The ledger's samples are what those corrections left, renumbered.
        ids = before.kept(len(ledger) + len(before.exclude))
        gone = before.exclude | {int(ids[id]) for id in decided.exclude}
        renamed = {int(ids[id]): name for id, name in decided.relabel.items()}
        renamed = {id: n for id, n in {**before.relabel, **renamed}.items() if id not in gone}
        decided = Corrections(before.data, gone, renamed)
    target = named(out)
    make_folder(target)
    if (target / RECIPE).exists():
        raise DataError(f"{target / RECIPE} would be overwritten: name another folder")
    files = {key: str(out / made.name) for key, made in save_corrections(decided, target).items()}
    recipe = {**recipe, "data": {**data, "exclude": None, "relabel": None, **files}}
    said = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    write_atomic(target / RECIPE, said.encode())
    return {
        "excluded": len(decided.exclude),
        "relabelled": len(decided.relabel),
        "files": files,
        "recipe": str(out / RECIPE),
    }
