"""What decides a run's result, as one number."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from typing import Any

from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.folder import SCHEMA, trained_in
from frugalkd.files.parsing import read_json
from frugalkd.models.identity import TORCH, versions
from frugalkd.models.initial import weights_file
from frugalkd.models.libraries import library_of
from frugalkd.models.saved import card_beside
from frugalkd.teachers.ema import DECAY
from frugalkd.teachers.store import FILE as STORE
from frugalkd.teachers.store import read_header

LATER = {
    "gradient_accumulation_steps": 1,
    "when_all_skipped": "wait",
    "compile": False,
    "label_source": "label",
    "keep_probability": None,
    "budget_schedule": "even",
    "length_bucket_batches": 0,
    "balanced": False,
    "ema": None,
    "features": [],
    "decay": DECAY,
    "classes": "same",
}
"""Settings that came after runs had digests: at their defaults they say nothing new, so
that those runs are still known for what they are."""


def run_digest(kind: str, recipe: Recipe, teacher: Path | None, ledger: Path | None = None) -> str:
    """SHA-256 (hex) of everything that decides a run's result, as far as the recipe says it;
    ``ledger`` is the file of one that takes the place of the teacher's."""
    taught: dict[str, Any] = {}
    if teacher is not None:
        taught = {**taught_by(teacher), **_files_of(teacher, ("ledger.safetensors",))}
    elif kind == "distill":
        taught = pretrained(recipe)
    if ledger is not None:
        taught["ledger.safetensors"] = file_digest(ledger)
    said = what_decides(kind, recipe, taught=teacher is not None)
    return digest_of({"schema": SCHEMA, "kind": kind, "recipe": said, "teacher": taught})


def what_decides(kind: str, recipe: Recipe, *, taught: bool) -> dict[str, Any]:
    """The settings that decide the result of a run of ``kind`` (teach, distill), plain values.

    ``taught``: the teacher is a run of its own, so that its settings are not this run's.
    """
    said = recipe.model_dump(
        mode="json", exclude={"name", "summary", "arms", "teachers", "checkpoints", "trackers"}
    )
    for role in (said["teacher"], said["student"]):
        _say_model(role["model"])
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
        if one["classes"] is None:  # came later
            del one["classes"]
        if (folder := one["folder"]) is not None:
            one["folder"] = taught_by(Path(folder))
        if (weights := one["weights"]) is not None and Path(weights).is_file():
            one["weights"] = _weights(Path(weights))
        if (store := one["store"]) is not None and (Path(store) / STORE).is_file():
            header = read_header(Path(store))
            about = {name: said for name, said in header.about.items() if name != TORCH}
            one["store"] = {**about, "views": header.views, **header.encoding.settings}
        if one["model"] is not None:
            _say_model(one["model"])
    return several


def taught_by(folder: Path) -> dict[str, Any]:
    """All that decides what the teacher in a run's folder says, by its files: weights, model card
    (how it is built, normalisation, class names, tokenizer), the versions of the libraries that
    build it, the precision in which it is asked. What is not there says nothing."""
    said: dict[str, Any] = dict(_files_of(folder, (*_MODELS, _CARD)))
    if _CARD in said:
        said["libraries"] = versions(_libraries_of(read_json(folder / _CARD)))
    if (trained := trained_in(folder)) is not None:
        said["asked"] = trained
    return said


def _libraries_of(card: dict[str, Any]) -> list[str]:
    """The packages that built a run's model: those that its card notes, which earlier ones do not,
    and that of its name."""
    noted, spec = card.get("libraries"), card.get("model")
    names = set(noted) if isinstance(noted, dict) else set()
    if isinstance(spec, dict):
        names.update(library_of(str(spec.get("name") or spec.get("path"))))
    return sorted(name for name in names if name.isidentifier())


_MODELS, _CARD = ("teacher.safetensors", "student.safetensors"), "model.json"


def _files_of(folder: Path, names: tuple[str, ...]) -> dict[str, str]:
    """The digests of those of a folder's files ``names`` that are there."""
    return {name: file_digest(folder / name) for name in names if (folder / name).is_file()}


def _say_model(model: dict[str, Any]) -> None:
    """A model is built by a version of a library, and begins with the bytes of a file, wherever it
    lies. What is not set came later, and says nothing."""
    for key in ("init_weights", "input_transform", "reuse_classifier_dim"):
        if model[key] is None:
            del model[key]
    if "init_weights" in model and (file := weights_file(model["init_weights"])).is_file():
        model["init_weights"] = _digest_at(file, file.stat().st_mtime_ns)
    if built_by := versions(library_of(model["name"] or model["path"])):
        model["libraries"] = built_by


def pretrained(recipe: Recipe) -> dict[str, Any]:
    """What the pretrained teacher's file holds, where the recipe names one that is there."""
    if recipe.teacher.weights is None or not Path(recipe.teacher.weights).is_file():
        return {}
    return {"pretrained": _weights(Path(recipe.teacher.weights))}


def _weights(file: Path) -> str | dict[str, Any]:
    """The digest of weights, and of the run's card that lies beside them."""
    card = card_beside(file)
    return file_digest(file) if card is None else {"weights": file_digest(file), "card": card}


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
        settings.pop("fsdp", None)
    for name, default in LATER.items():
        if settings is not None and name in settings and settings[name] == default:
            del settings[name]
