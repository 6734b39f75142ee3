"""The run folder: what a run leaves on disk, and how to tell whether it is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from frugalkd.errors import RunFolderError
from frugalkd.files import write_atomic, write_json

SCHEMA = 1
_FILLING = "filling.json"


class RunFolder:
    """One run's folder; ``run.json`` says which run it is, ``results.json`` that it is done.

    Raises:
        RunFolderError: the folder cannot be made or written.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._metrics: list[dict[str, Any]] = []

    @property
    def checkpoints(self) -> Path:
        return self.path / "checkpoints"

    def begin(
        self, digest: str, recipe: dict[str, Any], kind: str, resume: bool
    ) -> dict[str, Any] | None:
        """Claim the folder for a run; the results, where this very run is done already.

        Raises:
            RunFolderError: it holds another run, or an unfinished one and ``resume`` is off.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunFolderError(f"cannot make {self.path}: {error.strerror}") from None
        begun = any(self.checkpoints.glob("epoch-*")) or (self.path / "results.json").exists()
        if begun:
            found = read_json(self.path / "run.json")
            if found.get("digest") != digest:
                raise RunFolderError(
                    f"{self.path} holds another run ({found.get('kind')}, other settings): choose "
                    "another --out, or delete it"
                )
            if (self.path / "results.json").exists():
                return read_results(self.path)
            if not resume:
                raise RunFolderError(
                    f"{self.path} holds this run, unfinished: add --resume to go on, or delete it"
                )
        elif any(self.path.iterdir()) and not (self.path / "run.json").exists():
            raise RunFolderError(f"{self.path} is not empty and holds no run: choose another --out")
        write_json(
            self.path / "run.json",
            {"schema": SCHEMA, "kind": kind, "digest": digest, "recipe": recipe},
        )
        if begun and (self.path / "metrics.jsonl").exists():
            lines = (self.path / "metrics.jsonl").read_text().splitlines()
            self._metrics = [json.loads(line) for line in lines]
        return None

    def append_metrics(self, record: dict[str, Any]) -> None:
        """Add an epoch's record; what a resumed run does again replaces what was there."""
        self._metrics = [old for old in self._metrics if old["epoch"] < record["epoch"]]
        self._metrics.append(record)
        lines = "".join(json.dumps(line) + "\n" for line in self._metrics)
        write_atomic(self.path / "metrics.jsonl", lines.encode())

    def add_filling(self, **spent: float) -> None:
        """Note what filling a store before the training has taken, beside what earlier processes
        of this run took; ``spent``: ``teacher_queries``, ``seconds``, ``teacher_seconds``."""
        before = self.filling()
        now = {name: before[name] + value for name, value in spent.items()}
        write_json(self.path / _FILLING, {"schema": SCHEMA, **now})

    def filling(self) -> dict[str, float]:
        """All that :meth:`add_filling` noted."""
        names = ("teacher_queries", "seconds", "teacher_seconds")
        if not (self.path / _FILLING).exists():
            return dict.fromkeys(names, 0.0)
        noted = read_json(self.path / _FILLING)
        try:
            return {name: float(noted[name]) for name in names}
        except (KeyError, TypeError, ValueError):
            raise RunFolderError(
                f"{self.path / _FILLING} is damaged: delete it; the filling is then not counted"
            ) from None

    def finish(self, results: dict[str, Any]) -> None:
        """Write the results, which says that the run is done, and let the checkpoints go."""
        write_json(self.path / "results.json", results)
        (self.path / _FILLING).unlink(missing_ok=True)
        for checkpoint in self.checkpoints.glob("epoch-*"):
            checkpoint.unlink()
        if self.checkpoints.exists():
            self.checkpoints.rmdir()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file of ours.

    Raises:
        RunFolderError: the file is missing, damaged, or of another schema.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RunFolderError(f"cannot read {path}: {error.strerror}") from None
    except ValueError:
        raise RunFolderError(f"{path} is damaged: it is not JSON") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise RunFolderError(f"{path} is not of schema {SCHEMA}: it is from another version")
    return value


def read_results(path: Path) -> dict[str, Any]:
    """``results.json`` of a finished run.

    Raises:
        RunFolderError: there is none in ``path``, or it is damaged or of another schema.
    """
    if not (path / "results.json").is_file():
        raise RunFolderError(f"{path} holds no finished run (no results.json)")
    return read_json(path / "results.json")
