"""What decides a run's result, as one number."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from frugalkd.ema import DECAY
from frugalkd.models.beginning import weights_file
from frugalkd.recipes.schema import Recipe
from frugalkd.runs.folder import SCHEMA
from frugalkd.teachers.store import FILE as STORE
from frugalkd.teachers.store import read_header

LATER = {
    "accumulate": 1,
    "when_all_sleep": "wait",
    "compile": False,
    "judge": "label",
    "passing": None,
    "pace": "even",
    "bucket": 0,
    "balanced": False,
    "ema": None,
    "features": [],
    "decay": DECAY,
}
"""Settings that came after runs had digests: at their defaults they say nothing new, so
that those runs are still known for what they are."""


def run_digest(kind: str, recipe: Recipe, teacher: Path | None, ledger: Path | None = None) -> str:
    """SHA-256 (hex) of everything that decides a run's result, as far as the recipe says it;
    ``ledger`` is the file of one that takes the place of the teacher's."""
    files = {}
    if teacher is not None:
        files = _files_of(teacher, (*_MODELS, "ledger.safetensors"))
    elif kind == "distill":
        files = pretrained(recipe)
    if ledger is not None:
        files["ledger.safetensors"] = file_digest(ledger)
    said = what_decides(kind, recipe, taught=teacher is not None)
    return digest_of({"schema": SCHEMA, "kind": kind, "recipe": said, "teacher": files})


def what_decides(kind: str, recipe: Recipe, *, taught: bool) -> dict[str, Any]:
    """The settings that decide the result of a run of ``kind`` (teach, distill), plain values.

    ``taught``: the teacher is a run of its own, so that its settings are not this run's.
    """
    said = recipe.model_dump(
        mode="json", exclude={"name", "summary", "arms", "teachers", "checkpoints", "trackers"}
    )
    for role in (said["teacher"], said["student"]):
        _say_start(role["model"])
        for part in ("policy", "regulation", "training"):
            forget_later_defaults(role.get(part))
    forget_later_defaults(said["student"]["targets"])
    if said["teacher"]["trains"] == "all":  # came later, too
        del said["teacher"]["trains"]
    if kind == "teach":
        said.pop("student")
    elif taught or said["student"]["targets"]["kind"] == "ema":
        said.pop("teacher")
    if kind == "distill":
        if not said["student"]["label_free"]:  # came later, too
            del said["student"]["label_free"]
        said["student"]["targets"].pop("folder")  # what it must hold is said by the other fields
        if (several := said["student"].pop("teachers")) is not None:
            said["student"]["teachers"] = _say_teachers(several)
    return said


def _say_teachers(several: dict[str, Any]) -> dict[str, Any]:
    """Several teachers by what their files hold, wherever these lie."""
    for one in several["of"].values():
        if (folder := one["folder"]) is not None:
            one["folder"] = _files_of(Path(folder), _MODELS)
        if (weights := one["weights"]) is not None and Path(weights).is_file():
            one["weights"] = file_digest(Path(weights))
        if (store := one["store"]) is not None and (Path(store) / STORE).is_file():
            header = read_header(Path(store))
            one["store"] = {**header.about, "views": header.views, **header.encoding.settings}
        if one["model"] is not None:
            _say_start(one["model"])
    return several


_MODELS = ("teacher.safetensors", "student.safetensors")


def _files_of(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The digests of those of a folder's files ``names`` that are there."""
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}


def _say_start(model: dict[str, Any]) -> None:
    """A model begins with the bytes of a file, wherever it lies. What is not set came later, and
    says nothing."""
    for key in ("start", "sees", "reuses"):
        if model[key] is None:
            del model[key]
    if "start" in model and (file := weights_file(model["start"])).is_file():
        model["start"] = _digest_at(file, file.stat().st_mtime_ns)


def pretrained(recipe: Recipe) -> dict[str, str]:
    """The digest of the pretrained teacher's file, where the recipe names one that is there."""
    if recipe.teacher.weights is None or not Path(recipe.teacher.weights).is_file():
        return {}
    return {"pretrained": file_digest(Path(recipe.teacher.weights))}


def digest_of(said: Any) -> str:
    """SHA-256 (hex) of plain values."""
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()


def file_digest(file: Path) -> str:
    """SHA-256 (hex) of a file."""
    return hashlib.sha256(file.read_bytes()).hexdigest()


@cache
def _digest_at(file: Path, _changed: int) -> str:
    """A comparison asks for that of one file once for each run."""
    return file_digest(file)


def forget_later_defaults(settings: dict[str, Any] | None) -> None:
    """Take what :data:`LATER` names, at its default, out of a section of settings, and what decides
    nothing of a result."""
    if settings is not None:
        settings.pop("shard", None)
    for name, default in LATER.items():
        if settings is not None and name in settings and settings[name] == default:
            del settings[name]
