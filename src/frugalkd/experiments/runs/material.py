"""What a recipe names, made: the data, the models, the teacher."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data import Augmentation, Pictures, Samples, TextData, hold_out, load_with, take
from frugalkd.data.class_names import Match, class_names
from frugalkd.data.probe import data_digest
from frugalkd.data.root import located
from frugalkd.errors import (
    AccessRefused,
    DataError,
    FrugalKDError,
    FrugalKDWarning,
    ImportRefused,
    ModelError,
    RunFolderError,
)
from frugalkd.experiments.recipes.load import fetched_data, import_paths
from frugalkd.experiments.recipes.schema import Augment, OneOfSeveral, Recipe
from frugalkd.files.parsing import one_line
from frugalkd.files.tensors import load_weights
from frugalkd.models import build_text_model
from frugalkd.models.building import (
    build_for,
    finish,
    make_module,
    note_spec,
    refuse_reduced,
    see,
    see_as_trained,
)
from frugalkd.models.initial import init_from
from frugalkd.models.origin import match_classes, note_origin, origin_of
from frugalkd.models.saved import card_beside, known_from, load
from frugalkd.models.settings import ModelSettings
from frugalkd.runtime.imports import Allowed, make_object
from frugalkd.runtime.sections import NamedOrPath


@dataclass(frozen=True)
class RunData:
    """The data of a run: what trains, what is measured on (and which split that is)."""

    train: Dataset
    eval_dataset: Dataset | None
    split: str


def make_data(recipe: Recipe, augment: Augment, seed: int) -> RunData:
    """The recipe's data; ``augment`` with views drawn from ``seed`` on the training part.

    Raises:
        DataError: the data cannot be found or read, or cannot be cut or augmented as asked.
        ModelError: the import path of your own cannot be followed, or what it names fails.
    """
    spec = recipe.data
    if spec.name is not None:
        splits = load_with(spec.name, spec.root, spec.options)
        train, test = splits.train, splits.test
    else:
        train, test = _own_data(spec)
    split = "test"
    what = spec.path or f"data set {spec.name!r}"
    if (augment.crop or augment.flip) and not isinstance(train, Pictures):
        raise DataError(
            f"{what} has no pictures of ours (ImageData): augment is for those; augment your own "
            "data set yourself (with a method view(id, view))"
        )
    if (spec.train_size or spec.validation) and not isinstance(train, Samples):
        raise DataError(
            f"{what} is not an ImageData: train_size and validation are for those; cut your own "
            "data set yourself"
        )
    if isinstance(train, Samples):
        if spec.validation:
            with located("data.validation"):
                train, test = hold_out(train, spec.validation)
            split = "validation"
        if spec.train_size:
            with located("data.train_size"):
                train = take(train, spec.train_size)
    if isinstance(train, Pictures):
        train = train.with_augmentation(Augmentation(augment.crop, augment.flip), seed)
    return RunData(train, test, split)


def data_of_run(said: Any, where: str, allowed: Allowed) -> RunData:
    """The data that a run's folder names, not augmented.

    Args:
        said: the recipe, as its file holds it.
        where: what that is called in an error.
        allowed: what the folder may make us read, fetch and import.

    Raises:
        AccessRefused, ImportRefused: that is not allowed; the message says with which options.
        RunFolderError: there is no recipe in ``said``.
        DataError, ModelError: as :func:`make_data`.
    """
    try:
        recipe = Recipe.model_validate(said)
    except ValueError:
        raise RunFolderError(f"{where} is damaged: its recipe is none") from None
    spec = recipe.data
    options, error = [], AccessRefused
    if not allowed.data:
        options.append("--data")
    if not allowed.download and fetched_data(spec):
        options.append("--download")
    if spec.path is not None and spec.path not in allowed.imports:
        options.append(f"--import {shlex.quote(spec.path[:200])}")
        error = ImportRefused
    if options:
        named = spec.model_dump(exclude_defaults=True)
        raise error(
            f"{where} names the data {one_line(named)}: they are read only where you allow it, "
            f"with {' '.join(options)}"
        )
    return make_data(recipe, Augment(crop=0, flip=False), recipe.seed)


def data_digests(material: RunData) -> dict[str, str | None]:
    """SHA-256 (hex) of the training data and of the held-out data, None where there are none."""
    held_out = material.eval_dataset
    return {
        "train": data_digest(material.train),
        "held_out": None if held_out is None else data_digest(held_out),
    }


def refuse_other_data(
    results: Mapping[str, Any], recipe: Recipe, folder: Path, known: dict[str, Any] | None = None
) -> None:
    """Refuse to use a finished run again after its data have changed. Results of earlier versions,
    which hold no digests of data, are accepted.

    Args:
        results: of the run in ``folder``.
        recipe: whose data section is compared.
        known: digests by data section, where many runs are checked; filled here.

    Raises:
        RunFolderError: the data differ.
    """
    noted = results.get("data")
    if noted is None:
        return
    known = {} if known is None else known
    if (section := recipe.data.model_dump_json()) not in known:
        known[section] = None
        try:
            known[section] = data_digests(make_data(recipe, Augment(crop=0, flip=False), 0))
        except FrugalKDError as error:
            warnings.warn(
                f"whether the data of {folder} have changed since that run is not checked: {error}",
                FrugalKDWarning,
                stacklevel=2,
            )
    if known[section] not in (None, noted):
        raise RunFolderError(
            f"{folder} holds a finished run on other data than its recipe's data are now: restore "
            "these files, or choose another --out; or delete that folder, and it is run again"
        )


def without_augmentation(data: Dataset) -> Dataset:
    """The same samples as they are, where we know how to say so."""
    return data.with_augmentation(Augmentation()) if isinstance(data, Pictures) else data


def _own_data(spec: NamedOrPath) -> tuple[Any, Any]:
    made = make_object(spec.path or "", spec.options)
    if not isinstance(made, tuple):
        return made, None
    if len(made) != 2:
        raise DataError(
            f"{spec.path} made {len(made)} data sets: a training and a test set, or one"
        )
    return made


def make_model(spec: ModelSettings, data: Dataset, seed: int) -> nn.Module:
    """A model with weights drawn from ``seed``, or its start's, so that every arm of a seed starts
    alike.

    Raises:
        UnknownName, ModelError: it cannot be made, or it is not a torch module.
    """
    torch.manual_seed(seed)
    if spec.name is not None and isinstance(data, TextData):
        if spec.init_weights is not None:
            raise ModelError(
                "model.init_weights: a text-encoder begins with the weights of its own path"
            )
        model = build_text_model(
            spec.name,
            num_classes=data.num_classes,
            vocabulary=data.tokens.vocabulary,
            **spec.options,
        )
    elif spec.name is not None:
        if not isinstance(data, Pictures):
            raise ModelError(
                f"model {spec.name!r} takes its sizes from pictures or texts: give your own model "
                "by import path for other data"
            )
        model = build_for(spec, data.num_classes, data.shape, init_weights=spec.init_weights)
    else:
        model = make_module(spec.path or "", spec.options)
        if spec.init_weights is not None:
            init_from(model, spec.init_weights)
    finish(model, spec)
    if spec.input_transform is not None:
        if not isinstance(data, Pictures):
            raise ModelError("model.input_transform: these data have no pictures of ours to resize")
        refuse_reduced(spec.input_transform, None, data)
        see(model, spec.input_transform, data.mean, data.std)
    note_spec(model, spec)
    return model


def make_teacher(
    recipe: Recipe, teacher: Path | None, data: Dataset, one: OneOfSeveral | None = None
) -> nn.Module:
    """The teacher of a folder, or the pretrained one that the recipe names; where it is ``one`` of
    several with weights of its own, that one.

    Where its ``model.json`` says on what it was trained, its inputs are normalised as they were
    then, and its classes are matched with the data's as ``student.targets.classes`` says.

    Raises:
        ImportRefused: its folder names code that the recipe does not.
        ModelError, RunFolderError: there is none, or it cannot be loaded.
        TargetsError: its classes are not the data's.
    """
    match = recipe.student.targets.classes
    if one is not None and one.classes is not None:
        match = one.classes
    if teacher is not None:
        loaded = load(teacher, imports=import_paths(recipe))
        card = loaded.card
        trained = card["shape"][1:] if loaded.preprocess is not None else None
        refuse_reduced(ModelSettings.model_validate(card["model"]).input_transform, trained, data)
        return _fitted(loaded.model, data, match, f"the teacher in {one_line(teacher)}")
    spec, weights = recipe.teacher.model, recipe.teacher.weights
    if one is not None and one.model is not None and one.weights is not None:
        spec, weights = one.model, one.weights
    if weights is None:
        raise ModelError(
            "no teacher: name a folder with --teacher DIR (made by 'frugalkd teach'), or set "
            "teacher.weights to a pretrained state dict"
        )
    model = make_model(spec, data, recipe.seed)
    load_weights(model, Path(weights))
    if (card := card_beside(Path(weights))) is not None:
        known = known_from(card)
        if (
            spec.input_transform is not None and spec.input_transform.mean is not None
        ):  # the recipe says it
            known |= {"mean": (), "std": ()}
        note_origin(model, **known)
    return _fitted(model.eval(), data, match, f"the teacher of {one_line(weights)}")


def _fitted(model: nn.Module, data: Dataset, match: Match, what: str) -> nn.Module:
    """``model`` for pictures that ``data`` may normalise otherwise than those that it was trained
    on, with its outputs in the order of the data's classes where they ``match`` by name.

    Raises:
        TargetsError: the names of the classes do not match.
        ModelError: the pictures are of other channels.
    """
    origin = origin_of(model)
    if isinstance(data, Pictures) and origin.mean:
        trained, given = (origin.mean, origin.std), (data.mean, data.std)
        if trained != given:
            warnings.warn(
                f"{what} was trained on pictures normalised by mean and std {trained}, and the "
                f"data are by {given}: its inputs are converted",
                FrugalKDWarning,
                stacklevel=2,
            )
            see_as_trained(model, trained, given)
            note_origin(model, mean=data.mean, std=data.std)
    match_classes(model, class_names(data), match, what)
    return model
