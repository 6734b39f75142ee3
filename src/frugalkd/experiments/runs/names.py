"""What the samples of a ledger are called where they lie."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from frugalkd.data.probe import data_digest, names_of
from frugalkd.errors import DataError, LedgerError
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.material import data_of_run
from frugalkd.ledger.ledger import Ledger, ledger_file
from frugalkd.runtime.imports import Allowed


def names_of_run(
    path: Path, ledger: Ledger, allowed: Allowed, ids: Sequence[int] | None = None
) -> list[str]:
    """The names of samples, as the data that a run's folder names know them.

    Args:
        path: of the ledger, or the run's folder.
        ledger: what is there.
        allowed: what the folder may make us read, fetch and import.
        ids: of the samples; None: all.

    Raises:
        AccessRefused, ImportRefused, RunFolderError: as :func:`data_of_run`; or there are no
            results beside the ledger.
        LedgerError: the data are not those that the ledger is of.
        DataError: they cannot be read, or do not know what their samples are called.
    """
    folder = ledger_file(path).parent
    results = folder / "results.json"
    data = data_of_run(read_results(folder).get("recipe"), str(results), allowed).train
    if data_digest(data) != ledger.about.get("data"):
        raise LedgerError(f"the data that {results} names are not those that the ledger is of")
    names = names_of(data, range(len(ledger)) if ids is None else ids)
    if names is None:
        raise DataError(f"the data that {results} names know no names of samples: leave out --data")
    return names
