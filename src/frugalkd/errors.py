"""The errors a user can meet: each carries one line that says what is wrong, where, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class FrugalKDError(Exception):
    """Base of every expected failure. ``str(error)`` is one line."""


class RecipeError(FrugalKDError):
    """A recipe, or an override of one of its fields, is wrong."""


class UnknownName(FrugalKDError):
    """A name that no registry holds; the message lists the nearest names."""

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        super().__init__(f"unknown {kind} {name!r}: {nearest(name, known)}")


class DataError(FrugalKDError):
    """Data are missing, unreadable, or not what their format says."""


class UnsupportedData(DataError):
    """Data of a kind that no gate is defined for (iterable, multi-label, regression)."""


class ModelError(FrugalKDError):
    """A model cannot be built, loaded or used as asked."""


class LedgerError(FrugalKDError):
    """A ledger is missing, unreadable, or does not belong to the data."""


class TargetsError(FrugalKDError):
    """Stored soft targets do not belong to this teacher, these data, or this view."""


class RunFolderError(FrugalKDError):
    """A run folder cannot be used: it holds another run, or is incomplete."""


class SelectionMisuse(FrugalKDError):
    """A batch was left unobserved, observed twice, or observed with the wrong rows."""


class Stopped(FrugalKDError):
    """A training was asked to stop, and did so after a step; its checkpoint says where."""


class NonFiniteLoss(FrugalKDError):
    """Logits or losses stopped being finite.

    Attributes: ``epoch`` and ``step`` (0-based, of the first bad batch), ``ids`` (its bad samples).
    """

    def __init__(self, *, epoch: int, step: int, ids: list[int], what: str):
        self.epoch, self.step, self.ids = epoch, step, ids
        shown = ", ".join(map(str, ids[:8])) + (", ..." if len(ids) > 8 else "")
        super().__init__(
            f"{what} is not finite at epoch {epoch}, step {step}, samples {shown}: lower the "
            "learning rate, set training.clip, or look at these samples"
        )


def nearest(name: str, known: Iterable[str]) -> str:
    """The names in ``known`` closest to ``name``, as the end of a sentence."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    return f"known are {', '.join(names)}"
