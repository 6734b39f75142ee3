"""The run folder: the files that a run writes, and whether it is finished."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from frugalkd.errors import RunFolderError, WriteFailed
from frugalkd.experiments.runs.schema import Number, Record, section
from frugalkd.files import StrPath
from frugalkd.files.lock import FILE as LOCK
from frugalkd.files.lock import Lock
from frugalkd.files.opening import list_folder, named, remove, remove_folder
from frugalkd.files.parsing import (
    LARGEST_JSON,
    one_line,
    parse_json_lines,
    read_bounded,
    read_json,
)
from frugalkd.files.writing import (
    is_left_aside,
    make_folder,
    sweep,
    write_atomic,
    write_json,
    writing,
)

SCHEMA = 1
MADE = "ledger.json"
"""What ``frugalkd ledger make`` says of its ledger."""
NAMED = ("image-folder", "hugging-face", "banking77", "trec6")
"""Data sets whose samples have names: of files, or the beginnings of texts."""
_NOTES = "notes.json"
_AGAIN = "delete it; costs before a stop are then not counted, and trackers begin a new run"


class Notes(Record):
    """What a resumed run has to know of the one that was stopped."""

    queries_of: dict[str, int] = Field({}, description="rows through each teacher, by name")
    seconds: Number = Field(0.0, description="of filling stores")
    teacher_seconds: Number = Field(0.0, description="of these, in teachers")
    scored: bool = Field(False, description="whether it computed the scores that it trains with")
    trackers: dict[str, str] = Field({}, description="each tracker's own name of the run")


class RunFolder(contextlib.ExitStack):
    """One run's folder; ``run.json`` says which run it is, ``results.json`` that it is finished.

    A context: from :meth:`begin` to its end no other process can use the folder. Of several ranks
    the first one ``writes``, and it alone begins and finishes the run.

    Raises:
        WriteFailed: the folder cannot be made or written.
    """

    def __init__(self, path: StrPath, writes: bool = True):
        super().__init__()
        self.path, self._writes = named(path), writes
        self.checkpoints = self.path / "checkpoints"
        self.records: list[dict[str, Any]] = []
        """Of the finished epochs, as metrics.jsonl holds them."""

    def begin(
        self, digest: str, recipe: dict[str, Any], kind: str, resume: bool
    ) -> dict[str, Any] | None:
        """Claim the folder for a run; returns its results if it is finished already. Raises
        RunFolderError: it holds another run, or an unfinished one and ``resume`` is off, or another
        process uses it."""
        make_folder(self.path)
        done = (self.path / "results.json").exists()
        if not done:  # a finished run can be read while it is locked
            self.enter_context(Lock(self.path))
        begun = done or any(_checkpoints(self.checkpoints))
        if begun:
            found = read_json(self.path / "run.json")
            if found.get("digest") != digest:
                other = one_line(found.get("kind"), 20)
                raise RunFolderError(
                    f"{self.path} holds another run ({other}, other settings): choose another "
                    "--out, or delete it"
                )
            if done:
                results = read_results(self.path)
                if self.checkpoints.exists() or (self.path / LOCK).exists():
                    # Left by a stopped process; or in use, or read-only.
                    with contextlib.suppress(RunFolderError, WriteFailed), Lock(self.path):
                        self._drop_checkpoints()
                return results
            if not resume:
                raise RunFolderError(
                    f"{self.path} holds this run, unfinished: add --resume to continue, or delete "
                    "it"
                )
        elif (self.path / "run.json").exists():
            self._forget_other(digest)
        elif any(name != LOCK and not is_left_aside(name) for name in list_folder(self.path)):
            raise RunFolderError(f"{self.path} is not empty and holds no run: choose another --out")
        for folder in (self.path, self.checkpoints):
            sweep(folder)
        run = {"schema": SCHEMA, "kind": kind, "digest": digest, "recipe": recipe}
        write_json(self.path / "run.json", run)
        if begun:
            self.records = read_metrics(self.path)
        return None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add an epoch's record, in place of what a resumed run repeats."""
        self.records = [old for old in self.records if old["epoch"] < record["epoch"]]
        self.records.append(record)
        self._write_metrics()

    @property
    def plans(self) -> Path:
        """Where the plans of the epochs are recorded, if they are."""
        return self.path / "plans"

    def note(self, **fields: Any) -> None:
        """Write some of the fields of :class:`Notes`, for all processes of this run."""
        if self._writes:
            noted = {**self.notes().model_dump(), **fields}
            write_json(self.path / _NOTES, {"schema": SCHEMA, **noted})

    def notes(self) -> Notes:
        """What :meth:`note` wrote; nothing is noted without it. Raises RunFolderError."""
        path = self.path / _NOTES
        try:
            return Notes.model_validate(read_json(path, again=_AGAIN) if path.exists() else {})
        except ValidationError:
            raise RunFolderError(f"{path} is damaged: {_AGAIN}") from None

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, which ends the run, and remove its checkpoints."""
        if self.records != results["history"]:  # stopped between a checkpoint and its record
            self.records = list(results["history"])
            self._write_metrics()
        write_json(self.path / "results.json", results)
        self._drop_checkpoints()

    def _drop_checkpoints(self) -> None:
        """The run is finished, whether or not they can be removed."""
        with contextlib.suppress(OSError):
            remove(self.path / _NOTES)
            sweep(self.checkpoints)
            for name in _checkpoints(self.checkpoints):
                remove(self.checkpoints / name)
            remove_folder(self.checkpoints)

    def _forget_other(self, digest: str) -> None:
        """Remove the notes of another run that was stopped before its first step."""
        with contextlib.suppress(RunFolderError):
            if read_json(self.path / "run.json").get("digest") == digest:
                return
        with writing(self.path / _NOTES):
            remove(self.path / _NOTES)

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in self.records)
        write_atomic(self.path / "metrics.jsonl", lines.encode())


def _checkpoints(folder: Path) -> list[str]:
    """The names of checkpoints in a folder. Raises PathRefused where it is a link."""
    return [name for name in list_folder(folder) if name.startswith("epoch-")]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl`` in a run folder, [] without it. Raises RunFolderError: it is
    damaged."""
    file = path / "metrics.jsonl"
    try:
        records = list(parse_json_lines(read_bounded(file, LARGEST_JSON)))
        if not all(isinstance(one, dict) and type(one.get("epoch")) is int for one in records):
            raise ValueError("a record has no epoch")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise RunFolderError(
            f"{file} is damaged ({one_line(error, 100)}): delete it, the run writes it again"
        ) from None
    return records


def read_results(path: Path) -> dict[str, Any]:
    """``results.json`` of a finished run. Raises RunFolderError: ``path`` has none, or it is
    damaged or of another schema."""
    if not (path / "results.json").is_file():
        raise RunFolderError(f"{path} holds no finished run (no results.json)")
    return read_json(path / "results.json")


def recipe_of(folder: Path) -> dict[str, Any]:
    """The recipe, as resolved, of a run's folder, or of a ledger that ``ledger make`` made, not
    validated. Raises RunFolderError where there is none."""
    made = folder / MADE
    said = read_json(made) if made.is_file() else read_results(folder)
    recipe = said.get("recipe")
    if not isinstance(recipe, dict) or not isinstance(recipe.get("data"), dict):
        raise RunFolderError(f"{folder} holds no recipe: make it again")
    return recipe


def has_names(folder: Path) -> bool:
    """Whether the samples of a run's folder have names in its data, as far as its recipe says."""
    try:
        return recipe_of(folder)["data"].get("name") in NAMED
    except RunFolderError:
        return False


def results_of(folder: Path | None) -> dict[str, Any]:
    """As :func:`read_results`; {} without a finished run."""
    return read_results(folder) if folder and (folder / "results.json").is_file() else {}


def head_alone(folder: Path | None) -> bool:
    """Whether ``teach`` trained only the last linear layer of the model in ``folder``."""
    results = results_of(folder)
    role = section(section(results, "recipe"), "teacher")
    return results.get("kind") == "teach" and role.get("trains") == "head"


def trained_in(folder: Path | None) -> tuple[Literal["fp32", "bf16"], bool] | None:
    """The precision of the training in ``folder``, and whether it was channels-last: its model runs
    as a teacher in the same way. None without a finished run. Raises RunFolderError: its results
    are damaged."""
    if not (results := results_of(folder)):
        return None
    try:
        role = results["recipe"]["teacher" if results["kind"] == "teach" else "student"]
        precision = role["training"]["precision"]
        if precision not in ("fp32", "bf16"):
            raise ValueError(precision)
        return precision, bool(role["training"]["channels_last"])
    except (KeyError, TypeError, ValueError):
        raise RunFolderError(
            f"{folder}/results.json is damaged: it has no precision of the training"
        ) from None
