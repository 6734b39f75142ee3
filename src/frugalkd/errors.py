"""The errors a user can meet: each carries one line that says what is wrong, where, what to do.

``docs/errors.md`` lists them all, with their messages; it is written from the code.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence


class FrugalKDError(Exception):
    """Base of every expected failure. ``str(error)`` is one line."""


class FrugalKDWarning(UserWarning):
    """Something that is allowed and rarely intended; the run continues.

    What to do: read it once; ``warnings.filterwarnings`` silences it.
    """


class RecipeError(FrugalKDError):
    """A recipe, or an override of one of its fields, is wrong.

    What to do: correct the field that the line names; ``frugalkd schema recipe`` describes all of
    them, and ``--dry-run`` checks a recipe without running it.
    """


class SettingError(FrugalKDError, ValueError):
    """A setting, or an argument, is impossible, or of another type. In a recipe the same line is a
    ``RecipeError`` that names the field.

    What to do: correct the setting. (It is a ValueError, too.)
    """


class UnknownName(FrugalKDError):
    """A name that no registry holds; the message lists the nearest names.

    What to do: take one of the names, or give your own object by import path.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]):
        super().__init__(f"unknown {kind} {name[:100]!r}: {nearest(name[:100], known)}")


class ImportRefused(FrugalKDError):
    """A file names code to import, and the user has not allowed that.

    What to do: read what would be imported; if you trust it, leave ``--no-import`` out, or name it
    with ``--import`` (in Python ``imports=``).
    """


class AccessRefused(FrugalKDError):
    """A run folder, or a recipe under ``--no-import``, names data to read, or something to fetch
    from a network, that the user has not allowed.

    What to do: read what it names; if you trust it, allow it with ``--data``, ``--download`` or
    ``--tokenizer``.
    """


class DataError(FrugalKDError):
    """Data are missing, unreadable, or not what their format says.

    What to do: correct the data or the field that names them. Nothing was trained on them.
    """


class UnsupportedData(DataError):
    """Data of a kind that no gate is defined for (iterable), or labels of another kind than
    the objective learns.

    What to do: give a map-style data set of (inputs, class index).
    """


class ModelError(FrugalKDError):
    """A model cannot be built, loaded or used.

    What to do: correct its options, its weights, or the device, as the line says.
    """


class ObjectiveError(FrugalKDError):
    """An objective fails, or does not give one loss a row that can be trained on.

    What to do: correct the objective; it returns losses (rows,), floating-point, not reduced.
    """


class LedgerError(FrugalKDError):
    """A ledger is missing, unreadable, or does not belong to the data.

    What to do: train the teacher again with ``frugalkd teach``; a ledger cannot be repaired.
    """


class TargetsError(FrugalKDError):
    """Stored soft targets do not belong to this teacher, these data, or this view.

    What to do: fill them again with ``frugalkd store``, or name the folder that belongs to the run.
    """


class RunFolderError(FrugalKDError):
    """A run folder cannot be used: it holds another run, or is incomplete.

    What to do: choose another ``--out``, add ``--resume``, or delete the folder.
    """


class FolderBusy(RunFolderError):
    """Another process works in a folder.

    What to do: wait for it, or choose another ``--out``.
    """


class ClusterError(FrugalKDError):
    """Runs cannot be given to a cluster: its library is missing, or no cluster answers.

    What to do: as the line says; without ``--on`` runs are processes of this machine.
    """


class ReportError(FrugalKDError):
    """A report cannot be made of what is there.

    What to do: name the folder of a comparison or of a finished run, or make it again.
    """


class WriteFailed(FrugalKDError, OSError):
    """A file cannot be written: the disk is full or read-only, or a permission is missing. What
    was there before is still there.

    What to do: free some space or name another folder, and give the same command again.

    Attributes: ``errno``, as of the OSError that it stands for (it is one itself).
    """

    def __str__(self) -> str:
        return str(self.strerror)


class PathRefused(WriteFailed):
    """There is a link, a named pipe, a device or a folder where frugalkd keeps a file or a folder
    of its own. Nothing was read or written through it.

    What to do: delete what the line names. To keep a whole run, store or comparison elsewhere, let
    the folder that you name be the link.
    """


class OutOfMemory(FrugalKDError):
    """The device or the machine is out of memory.

    What to do: lower the batch size that the line names; the checkpoints are kept.
    """


class SelectionMisuse(FrugalKDError):
    """A batch was not observed, observed twice, or observed with the wrong rows; or a selection or
    a policy was used in a way that is not supported.

    What to do: correct the training loop, or the policy, as the line says.
    """


class TrackerError(FrugalKDError):
    """A tracker that the recipe names is not installed, or does not start. Nothing was trained.

    What to do: install it as the line says, set its environment variables right, or take it out of
    the recipe's ``trackers``; what a run says is in ``metrics.jsonl`` and ``results.json`` too.
    """


class PlotError(FrugalKDError):
    """A figure cannot be drawn: of what is there, into such a file, or without matplotlib.

    What to do: as the line says.
    """


class Stopped(FrugalKDError):
    """A training was stopped; it can resume from its last checkpoint.

    What to do: give the same command with ``--resume``.
    """


class RankError(FrugalKDError):
    """Several processes that train one model do not agree, or one of them has ended.

    What to do: as the line says; torchrun and accelerate launch start processes that agree, and
    with ``--max-restarts`` torchrun starts them again.
    """


class OtherRankFailed(RankError):
    """The first of several processes has failed, and this one ends with it.

    What to do: as the line of the first one says.
    """


class NonFiniteLoss(FrugalKDError):
    """Logits, losses, gradients or weights stopped being finite. The weights are those before the
    first bad step; where that step itself made them overflow, the last checkpoint has them.

    What to do: where inputs are not finite, correct these samples; else lower the learning rate or
    set ``training.max_grad_norm``, and resume from the last checkpoint.

    Attributes: ``epoch`` and ``step`` (0-based, of the first bad step), ``ids``: the samples of its
    first bad batch whose logits or losses are bad; of bad gradients or weights, all of the step's.
    """

    def __init__(
        self,
        *,
        epoch: int,
        step: int,
        ids: list[int],
        what: str,
        advice: str = "lower the learning rate, set training.max_grad_norm, or check these samples",
    ):
        self.epoch, self.step, self.ids = epoch, step, ids
        super().__init__(
            f"{what} is not finite at epoch {epoch}, step {step}, samples {few(ids)}: {advice}"
        )


_MEANT = {"gpu": "cuda"}
"""Names that people write for names of frugalkd."""


def nearest(name: str, known: Iterable[str]) -> str:
    """The names in ``known`` closest to ``name``, as the end of a sentence."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    if _MEANT.get(name.lower()) in names:
        close = [_MEANT[name.lower()]]
    if close:
        return f"did you mean {' or '.join(close)}?"
    if len(names) > 60:
        return f"known are {', '.join(names[:8])} and {len(names) - 8} more"
    return f"known are {', '.join(names)}"


def few(items: Sequence[object], comma: str = ", ") -> str:
    """The first items of a list that may be long, and how many more there are."""
    more = f" and {len(items) - 8:,} more" if len(items) > 8 else ""
    return comma.join(map(str, items[:8])) + more


def refuse_schema(
    found: object, ours: int, where: object, error: type[FrugalKDError], again: str
) -> None:
    """Raises ``error`` unless ``found``, the version that the file ``where`` says of itself, is
    ``ours``; ``again`` says how to make such a file.
    """
    said = str(found)
    if said == str(ours):
        return
    if not said.isdecimal():
        raise error(f"{where} does not say its schema ({ours} is read here): {again}")
    source = "an older"
    if int(said[:9]) > ours:
        source, again = "a newer", "install a newer one (pip install --upgrade frugalkd)"
    raise error(
        f"{where} is of schema {said[:9]}, from {source} frugalkd; this one reads schema {ours}: "
        f"{again}"
    )
