"""The digest of everything that determines a run's result."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from frugalkd.data.text import model_folder
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.folder import SCHEMA, trained_in
from frugalkd.files.parsing import read_json
from frugalkd.language.encodings import RECORD_BYTES
from frugalkd.language.models import place_of
from frugalkd.models.export import WEIGHTS
from frugalkd.models.identity import TORCH, versions
from frugalkd.models.initial import PRETRAINED, weights_file
from frugalkd.models.libraries import ENCODERS, library_of
from frugalkd.models.saved import CARD, card_beside
from frugalkd.policies.label_noise import RULE
from frugalkd.teachers.store import FILE as STORE
from frugalkd.teachers.store import read_header

_MODELS = ("teacher.safetensors", "student.safetensors", WEIGHTS, "config.json")


def run_digest(kind: str, recipe: Recipe, teacher: Path | None, ledger: Path | None = None) -> str:
    """SHA-256 (hex) of everything that decides a run's result, as far as the recipe names it;
    ``ledger`` is a file in place of the teacher's."""
    taught: dict[str, Any] = {}
    if teacher is not None:
        taught = teacher_files(teacher)
        if kind == "distill":
            taught.setdefault("precision", _said(recipe))
    elif kind == "distill":
        taught = pretrained(recipe)
    if ledger is not None:
        taught["ledger.safetensors"] = _digest(ledger)
    settings = what_decides(kind, recipe, taught=teacher is not None)
    return digest_of({"schema": SCHEMA, "kind": kind, "recipe": settings, "teacher": taught})


def what_decides(kind: str, recipe: Recipe, *, taught: bool) -> dict[str, Any]:
    """The settings that decide the result of a run of ``kind`` (teach, distill), plain values.

    ``taught``: another run trained the teacher, so that its settings are not this run's.
    """
    settings = recipe.model_dump(
        mode="json", exclude={"name", "summary", "arms", "teachers", "checkpoints", "trackers"}
    )
    _resolve_labels(settings["data"])
    teacher, student = settings["teacher"], settings["student"]
    for role, usual in ((teacher, True), (student, False)):
        del role["training"]["fsdp"]  # changes no result
        newer = (
            (role, "class_weights"),
            (role["augment"], "transforms"),
            (role["augment"], "mix"),
            (role["training"]["schedule"], "path"),
        )
        newer += tuple((role["training"]["optimizer"], name) for name in ("path", "options"))
        if role["augment"]["transforms"]:
            role["augment"]["libraries"] = versions(["torchvision"])
        for part, name in newer:  # what other runs did not have
            if not part[name]:
                del part[name]
        if role["dynamics"] is usual:
            del role["dynamics"]
        resolve_model(role["model"])
    for gate in (teacher["policy"], student["policy"], student["regulation"]):
        if gate and gate.get("label_noise") in ("off", 0):  # YAML reads off as false
            del gate["label_noise"]
        elif gate and "label_noise" in gate:
            gate["disbelief"] = RULE
    for one in (student["teachers"] or {"of": {}})["of"].values():
        _resolve_teacher(one, _said(recipe))
    if student["positions"] == 1:
        del student["positions"]
    student["targets"].pop("folder")  # the other fields determine its content
    if student["targets"]["record_bytes"] == RECORD_BYTES:
        del student["targets"]["record_bytes"]
    if (policy := student["policy"] or {}).get("name") == "replay":
        del policy["folder"]  # the digest determines its content
    if kind == "teach":
        del settings["student"]
    elif taught or student["targets"]["kind"] == "ema":
        del settings["teacher"]
    return settings


def _resolve_labels(data: dict[str, Any]) -> None:
    """In place of files of corrections their digests; what is not set is left out."""
    for key in ("noise", "relabel", "exclude"):
        if data[key] is None:
            del data[key]
        elif key != "noise" and Path(data[key]).is_file():
            data[key] = _digest(Path(data[key]))


def resolve_model(model: dict[str, Any]) -> None:
    """In place of a file of weights its digest; the digests of the files that a model of
    transformers begins with, and the version of the library."""
    if model["init_weights"] and (file := weights_file(model["init_weights"])).is_file():
        model["init_weights"] = _digest(file)
    path = model["options"].get("path")
    if isinstance(path, str) and (
        model["name"] == "causal-lm" or (model["name"] in ENCODERS and Path(path).is_dir())
    ):
        model["files"] = _of_transformers(path)
    if built_by := versions(library_of(model["name"] or model["path"])):
        model["libraries"] = built_by


def _said(recipe: Recipe) -> tuple[str, bool]:
    """How a teacher runs whose folder does not say how it was trained."""
    return recipe.teacher.training.precision, recipe.teacher.training.channels_last


def _resolve_teacher(one: dict[str, Any], said: tuple[str, bool]) -> None:
    """In place of the paths of one of several teachers what their files hold."""
    if one["folder"] is not None:
        one["folder"] = {"precision": said, **taught_by(Path(one["folder"]))}
    if one["weights"] is not None:
        one["precision"] = said
        if Path(one["weights"]).is_file():
            one["weights"] = _weights(Path(one["weights"]))
    if one["store"] is not None and (Path(one["store"]) / STORE).is_file():
        header = read_header(Path(one["store"]))
        about = {name: value for name, value in header.about.items() if name != TORCH}
        one["store"] = {**about, "views": header.views, **header.encoding.settings}
    if one["model"] is not None:
        resolve_model(one["model"])


def teacher_files(folder: Path) -> dict[str, Any]:
    """All that a student of the teacher in ``folder`` reads: :func:`taught_by`, and its ledger."""
    return {**taught_by(folder), **_digests(folder, "ledger.safetensors")}


def taught_by(folder: Path) -> dict[str, Any]:
    """All that decides the outputs of the teacher in a run's folder: the files of its weights and
    its model card (how it is built, normalisation, class names, tokenizer), the versions of the
    libraries that build it, its precision. Missing files are left out."""
    found: dict[str, Any] = _digests(folder, *_MODELS, CARD)
    if CARD in found:
        noted = read_json(folder / CARD).get("libraries")
        names = filter(str.isidentifier, noted if isinstance(noted, dict) else ())
        found["libraries"] = versions(sorted(names))
    if (trained := trained_in(folder)) is not None:
        found["precision"] = trained
    return found


def pretrained(recipe: Recipe) -> dict[str, Any]:
    """The files of the recipe's pretrained teacher, if there is one."""
    if recipe.teacher.weights == PRETRAINED:
        return {"pretrained": _of_transformers(str(recipe.teacher.model.options.get("path")))}
    if recipe.teacher.weights is None or not Path(recipe.teacher.weights).is_file():
        return {}
    return {"pretrained": _weights(Path(recipe.teacher.weights))}


def _of_transformers(path: str) -> dict[str, Any]:
    """The digests of the files of a model of transformers, where they lie on this machine."""
    place, file = place_of(path)
    folder = Path(model_folder(place))
    shards = (each.name for each in folder.glob("model-*.safetensors"))
    names = ("config.json", WEIGHTS, "pytorch_model.bin", *sorted(shards))
    return _digests(folder, *(file.values() or names))


def _weights(file: Path) -> str | dict[str, Any]:
    """The digest of weights, and the card of the run in whose folder they lie."""
    card = card_beside(file)
    return _digest(file) if card is None else {"weights": _digest(file), "card": card}


def digest_of(value: Any) -> str:
    """SHA-256 (hex) of plain values."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _digests(folder: Path, *names: str) -> dict[str, Any]:
    """The digests of those of the files that exist."""
    return {name: _digest(folder / name) for name in names if (folder / name).is_file()}


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
