"""The run folder: what a run leaves on disk, and how to tell whether it is done."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from frugalkd.errors import RunFolderError, WriteFailed
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

if TYPE_CHECKING:  # the report reads run folders without torch
    from frugalkd.distributed.ranks import Ranks

SCHEMA = 1
_FILLING = "filling.json"
_SCORING = "scoring.json"
_TRACKERS = "trackers.json"


class RunFolder:
    """One run's folder; ``run.json`` says which run it is, ``results.json`` that it is done.

    A context: from :meth:`begin` to its end the folder is this process's alone; of several ranks
    it is the first one's, and what the others would write is what it writes.

    Raises:
        WriteFailed: the folder cannot be made or written.
    """

    def __init__(self, path: StrPath, ranks: Ranks | None = None):
        self.path, self._ranks = named(path), ranks
        self._writes = ranks is None or ranks.first
        self._metrics: list[dict[str, Any]] = []
        self._lock: Lock | None = None

    def __enter__(self) -> RunFolder:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def begin(
        self, digest: str, recipe: dict[str, Any], kind: str, resume: bool
    ) -> dict[str, Any] | None:
        """Claim the folder for a run; the results, where this very run is done already.

        Raises:
            RunFolderError: it holds another run, or an unfinished one and ``resume`` is off, or
                another process is at work in it.
            OtherRankFailed: as much, on the other ranks.
        """
        if self._ranks is None:
            return self._begin(digest, recipe, kind, resume)
        return self._ranks.from_first(lambda: self._begin(digest, recipe, kind, resume))

    def _begin(
        self, digest: str, recipe: dict[str, Any], kind: str, resume: bool
    ) -> dict[str, Any] | None:
        make_folder(self.path)
        if not self._done():  # what is done can be read anywhere, locked or not
            self._lock = Lock(self.path)
        begun = any(_checkpoints(self.checkpoints)) or self._done()
        if begun:
            found = read_json(self.path / "run.json")
            if found.get("digest") != digest:
                other = one_line(found.get("kind"), 20)
                raise RunFolderError(
                    f"{self.path} holds another run ({other}, other settings): choose another "
                    "--out, or delete it"
                )
            if self._done():
                results = read_results(self.path)
                if self.checkpoints.exists() or (self.path / LOCK).exists():
                    # Stopped while it let them go, or still at it, or not to be written by us.
                    with contextlib.suppress(RunFolderError, WriteFailed), Lock(self.path):
                        self._drop_checkpoints()
                return results
            if not resume:
                raise RunFolderError(
                    f"{self.path} holds this run, unfinished: add --resume to go on, or delete it"
                )
        elif self._foreign():
            raise RunFolderError(f"{self.path} is not empty and holds no run: choose another --out")
        elif (self.path / "run.json").exists():
            self._forget_other(digest)
        for folder in (self.path, self.checkpoints):
            sweep(folder)
        write_json(
            self.path / "run.json",
            {"schema": SCHEMA, "kind": kind, "digest": digest, "recipe": recipe},
        )
        if begun:
            self._metrics = read_metrics(self.path)
        return None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add an epoch's record; what a resumed run does again replaces what was there."""
        self._metrics = [old for old in self._metrics if old["epoch"] < record["epoch"]]
        self._metrics.append(record)
        self._write_metrics()

    def note_filling(
        self, *, queries_of: Mapping[str, int], seconds: float, teacher_seconds: float
    ) -> None:
        """Note what filling stores before the training has taken until now, by this process and
        earlier ones of this run: rows asked of each teacher, by name, and seconds."""
        spent = {"seconds": seconds, "teacher_seconds": teacher_seconds}
        if self._writes:
            write_json(self.path / _FILLING, {"schema": SCHEMA, "queries_of": queries_of, **spent})

    def filling(self) -> dict[str, Any]:
        """What :meth:`note_filling` noted last; nobody and zeros where it noted nothing."""
        names = ("seconds", "teacher_seconds")
        if not (self.path / _FILLING).exists():
            return {"queries_of": {}, **dict.fromkeys(names, 0.0)}
        again = "delete it; the filling is then not counted"
        noted = read_json(self.path / _FILLING, again=again)
        try:
            spent = {name: float(noted[name]) for name in names}
            return {"queries_of": {k: int(v) for k, v in noted["queries_of"].items()}, **spent}
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError):
            raise RunFolderError(f"{self.path / _FILLING} is damaged: {again}") from None

    def note_scoring(self) -> None:
        """Note that this run made the scores that it trains with, whichever of its processes."""
        if self._writes:
            write_json(self.path / _SCORING, {"schema": SCHEMA})

    @property
    def scored(self) -> bool:
        """Whether :meth:`note_scoring` was called for this run."""
        return (self.path / _SCORING).exists()

    def note_tracked(self, known: Mapping[str, str]) -> None:
        """Note by what trackers find this run again, a name each."""
        write_json(self.path / _TRACKERS, {"schema": SCHEMA, "runs": dict(known)})

    def tracked(self) -> dict[str, str]:
        """What :meth:`note_tracked` noted last, {} where it noted nothing."""
        path = self.path / _TRACKERS
        if not path.exists():
            return {}
        again = "delete it; trackers then begin a new run"
        noted = read_json(path, again=again).get("runs")
        if not isinstance(noted, dict) or not all(isinstance(id, str) for id in noted.values()):
            raise RunFolderError(f"{path} is damaged: {again}")
        return noted

    @property
    def records(self) -> list[dict[str, Any]]:
        """Of the epochs that are done, as metrics.jsonl holds them."""
        return list(self._metrics)

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, which says that the run is done, and let the checkpoints go."""
        if self._metrics != results["history"]:  # stopped between a checkpoint and its record
            self._metrics = list(results["history"])
            self._write_metrics()
        write_json(self.path / "results.json", results)
        self._drop_checkpoints()

    def _drop_checkpoints(self) -> None:
        """The run is done, whatever stays of them."""
        with contextlib.suppress(OSError):
            for noted in (_FILLING, _SCORING):
                remove(self.path / noted)
            sweep(self.checkpoints)
            for name in _checkpoints(self.checkpoints):
                remove(self.checkpoints / name)
            remove_folder(self.checkpoints)

    def _forget_other(self, digest: str) -> None:
        """What another run noted before it took a step is none of this one's."""
        with contextlib.suppress(RunFolderError):
            if read_json(self.path / "run.json").get("digest") == digest:
                return
        for noted in (_FILLING, _SCORING, _TRACKERS):
            with writing(self.path / noted):
                remove(self.path / noted)

    def _done(self) -> bool:
        return (self.path / "results.json").exists()

    def _foreign(self) -> bool:
        """Whether there is something in the folder and no run that put it there."""
        ours = ("run.json", LOCK)
        names = [name for name in list_folder(self.path) if not is_left_aside(name)]
        return "run.json" not in names and any(name not in ours for name in names)

    def _write_metrics(self) -> None:
        lines = "".join(json.dumps(line) + "\n" for line in self._metrics)
        write_atomic(self.path / "metrics.jsonl", lines.encode())


def _checkpoints(folder: Path) -> list[str]:
    """The names of checkpoints in a folder. Raises PathRefused where it is a link."""
    return [name for name in list_folder(folder) if name.startswith("epoch-")]


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The records of ``metrics.jsonl`` in a run folder, [] where there is none.

    Raises:
        RunFolderError: it is damaged.
    """
    file = path / "metrics.jsonl"
    try:
        records = []
        for record in parse_json_lines(read_bounded(file, LARGEST_JSON)):
            if not isinstance(record, dict) or type(record.get("epoch")) is not int:
                raise ValueError("a record names no epoch")
            records.append(record)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise RunFolderError(f"cannot read {file}: {error.strerror}") from None
    except ValueError as error:
        raise RunFolderError(
            f"{file} is damaged ({one_line(error, 100)}): delete it, the run writes it anew"
        ) from None
    return records


def asked_in(folder: Path) -> tuple[Literal["fp32", "bf16"], bool] | None:
    """The precision in which the run in ``folder`` trained its model, and whether channels last:
    how it is asked as a teacher. None where there is no finished run.

    Raises:
        RunFolderError: its results are damaged.
    """
    if not (folder / "results.json").is_file():
        return None
    results = read_results(folder)
    try:
        said = results["recipe"]["teacher" if results["kind"] == "teach" else "student"]["training"]
        precision, channels_last = said["precision"], bool(said["channels_last"])
        if precision not in ("fp32", "bf16"):
            raise ValueError(precision)
    except (KeyError, TypeError, ValueError):
        raise RunFolderError(
            f"{folder / 'results.json'} is damaged: it does not say the training's precision"
        ) from None
    return precision, channels_last


def read_results(path: Path) -> dict[str, Any]:
    """``results.json`` of a finished run.

    Raises:
        RunFolderError: there is none in ``path``, or it is damaged or of another schema.
    """
    if not (path / "results.json").is_file():
        raise RunFolderError(f"{path} holds no finished run (no results.json)")
    return read_json(path / "results.json")
