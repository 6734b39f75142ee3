"""From a recipe's sections to objects: data, models, teachers, samplings."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data import Samples, TableData, TextData, check_data, hold_out, load_data, take
from frugalkd.data.class_names import Match, class_names
from frugalkd.data.images import Augmentation, Pictures
from frugalkd.data.labels import corrections, with_noise
from frugalkd.data.probe import data_digest
from frugalkd.data.samples import Splits, located
from frugalkd.data.source import check_map_style
from frugalkd.errors import (
    AccessRefused,
    DataError,
    FrugalKDError,
    FrugalKDWarning,
    ImportRefused,
    LedgerError,
    ModelError,
    RunFolderError,
)
from frugalkd.experiments.recipes.load import import_paths
from frugalkd.experiments.recipes.schema import OneOfSeveral, Recipe, Role
from frugalkd.experiments.runs.folder import RunFolder
from frugalkd.experiments.runs.progress import Progress
from frugalkd.files.opening import named
from frugalkd.files.parsing import one_line, read_json
from frugalkd.files.tensors import load_weights
from frugalkd.language.corpus import Corpus
from frugalkd.language.named import CORPORA, fetched, make_causal
from frugalkd.ledger.ledger import Ledger, ledger_file
from frugalkd.models.building import (
    ModelSettings,
    add_input_transform,
    build,
    input_sizes_of,
    note_spec,
    refuse_reduced,
)
from frugalkd.models.initial import PRETRAINED
from frugalkd.models.origin import (
    InputColumnsHook,
    InputTransformHook,
    match_classes,
    note_origin,
    origin_of,
)
from frugalkd.models.saved import CARD, card_beside, known_from, load
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Sampling
from frugalkd.policies.policy import Ids
from frugalkd.runtime.imports import Allowed, make_object
from frugalkd.selection.inputs import weights_of
from frugalkd.training.settings import Stop

STORE_SEED = 0
"""The seed of the views in a store: one store serves students of every seed."""


@dataclass(frozen=True)
class RunData:
    """The data of a run: for training, and for evaluation (``split``: test or validation)."""

    train: Dataset
    eval_dataset: Dataset | None
    split: str


@dataclass(frozen=True)
class RunContext:
    """One run; ``teacher`` is its own teacher's folder, ``stores`` one that several runs share;
    ``progress`` receives, in words, how far it is before its epochs."""

    recipe: Recipe
    role: Role
    run_data: RunData
    folder: RunFolder
    teacher: Path | None
    stores: Path | None
    progress: Progress | None
    should_stop: Stop | None


def place_for(
    name: str, places: Sequence[Path | None], complete: Callable[[Path], bool]
) -> Path | None:
    """The first folder ``name`` in ``places`` that can be written or is ``complete``."""
    for place in filter(None, places):
        folder = named(place) / name
        if os.access(folder if folder.exists() else place, os.W_OK) or complete(folder):
            return folder
    return None


def make_data(recipe: Recipe, augment: Augmentation | None, seed: int) -> RunData:
    """The recipe's data; ``augment`` with views drawn from ``seed`` on the training part, in its
    place that of the user's own pictures where it is the default; None leaves out both. Raises
    DataError: they cannot be found, read, cut or augmented; ModelError: a user's own cannot be
    imported, or fail."""
    spec = recipe.data
    split, what = "test", spec.path or f"data set {spec.name!r}"
    if spec.root is not None and spec.name in ("digits", "tiny-lm"):
        raise DataError(f"{what} comes with a package: leave data.root out")
    if spec.name in CORPORA:
        train, test = CORPORA[spec.name](spec.root, **spec.options)
    elif spec.name is not None:
        check_data(spec.name, spec.options)  # none of them starts a download
        splits = load_data(spec.name, spec.root, **spec.options)
        train, test = splits.train, splits.test
    else:
        made = make_object(spec.path or "", spec.options)
        if isinstance(made, Splits):
            made = made.train, made.test
        elif not isinstance(made, tuple):
            made = made, None
        if len(made) != 2:
            raise DataError(
                f"{spec.path} made {len(made)} data sets: a training and a test set, or one"
            )
        train, test = made
        if isinstance(train, Corpus):
            raise DataError(f"{spec.path} made a Corpus: set data.name to corpus, with its path")
    if augment not in (None, Augmentation()) and not isinstance(train, Pictures):
        raise DataError(
            f"{what} is not an ImageData: augment is for those; augment your own data set yourself "
            "(with a method view(id, view))"
        )
    changes = ("train_size", "validation", "noise", "relabel", "exclude")
    if any(getattr(spec, name) for name in changes) and not isinstance(train, Samples):
        raise DataError(
            f"{what} has no labels that are known ahead: {', '.join(changes)} are for pictures, "
            "texts and tables; change your own data set yourself"
        )
    if isinstance(train, Samples):
        if spec.validation:
            with located("data.validation"):
                train, test = hold_out(train, spec.validation)
            split = "validation"
        if spec.train_size:
            with located("data.train_size"):
                train = take(train, spec.train_size)
        if spec.noise is not None:
            with located("data.noise"):
                train = with_noise(train, spec.noise)
        if (made := corrections(spec.exclude, spec.relabel)) is not None:
            with located(" and ".join(filter(None, (spec.exclude, spec.relabel)))):
                train = made.apply(train)
    if isinstance(train, Pictures):
        own, plain = train.augmentation, Augmentation()
        if augment not in (None, plain) and own != plain:
            raise DataError(
                f"{what} is augmented ({own}), and augment of the recipe as well: leave out one"
            )
        chosen = plain if augment is None else own if augment == plain else augment
        with located("augment"):
            train = train.with_augmentation(chosen, seed)
    if isinstance(test, Samples):
        test = test.without_augmentation()
    return RunData(train, test, split)


def data_of_run(said: Any, where: str, allowed: Allowed) -> RunData:
    """The data of the recipe ``said`` in the file ``where`` of a run's folder, not augmented.
    Raises AccessRefused, ImportRefused where that is not allowed, with the options that allow it;
    RunFolderError where ``said`` is not a recipe; and what :func:`make_data` does."""
    try:
        recipe = Recipe.model_validate(said)
    except ValueError:
        raise RunFolderError(f"{where} is damaged: it holds no recipe") from None
    spec = recipe.data
    options, error = [], AccessRefused
    if not allowed.data:
        options.append("--data")
    if not allowed.download and fetched(spec.name, spec.options, spec.root):
        options.append("--download")
    if spec.path is not None and spec.path not in allowed.imports:
        options.append(f"--import {shlex.quote(spec.path[:200])}")
        error = ImportRefused
    if options:
        said = one_line(spec.model_dump(exclude_defaults=True))
        raise error(
            f"{where} names the data {said}: they are read only where you allow it, with "
            f"{' '.join(options)}"
        )
    return make_data(recipe, None, recipe.seed)


def data_digests(run_data: RunData) -> dict[str, str | None]:
    """SHA-256 (hex) of the training data and of the held-out data, None where there are none."""
    held_out = run_data.eval_dataset
    check_map_style(run_data.train)
    return {
        "train": data_digest(run_data.train),
        "held_out": None if held_out is None else data_digest(held_out),
    }


def known_data(run_data: RunData) -> tuple[dict[str, str | None], dict[str, Any]]:
    """What :func:`refuse_other_data` compares: the digests, which are of what a model reads, and
    the names and units that its card has, as ``classes`` and ``columns``."""
    card = {"classes": class_names(run_data.train), **input_sizes_of(run_data.train)}
    kept = {key: card[key] for key in ("classes", "columns") if card.get(key)}
    return data_digests(run_data), json.loads(json.dumps(kept))


def refuse_other_data(
    results: Mapping[str, Any], recipe: Recipe, folder: Path, known: dict[str, Any] | None = None
) -> None:
    """Refuse to use the finished run in ``folder`` again after the data of its ``recipe`` have
    changed. ``known`` keeps :func:`known_data` by data section, where many runs are checked. Raises
    RunFolderError."""
    known = {} if known is None else known
    if (section := recipe.data.model_dump_json()) not in known:
        known[section] = None
        try:
            known[section] = known_data(make_data(recipe, None, 0))
        except FrugalKDError as error:
            warnings.warn(
                f"whether the data of {folder} have changed since that run is not checked: {error}",
                FrugalKDWarning,
                stacklevel=2,
            )
    digests, sizes = known[section] or (None, {})
    card = read_json(folder / CARD) if (folder / CARD).is_file() else {}
    other = {key for key, value in sizes.items() if card.get(key, value) != value}
    if digests not in (None, results.get("data")) or other:
        raise RunFolderError(
            f"{folder} holds a finished run on other data than its recipe's data are now: restore "
            "these files, or choose another --out; or delete that folder, and it is run again"
        )


def make_model(spec: ModelSettings, data: Dataset, seed: int) -> nn.Module:
    """A model with weights drawn from ``seed``, or its ``init_weights``: the same in every arm of a
    seed. Raises UnknownName, ModelError: it cannot be made, or it is not a torch module."""
    torch.manual_seed(seed)
    if isinstance(data, Corpus):
        if spec.init_weights is not None or spec.input_transform is not None:
            raise ModelError("a language model begins with the weights of its option path")
        return make_causal(spec.name, spec.path, spec.options, data)
    if spec.name is not None and not isinstance(data, Pictures | TextData | TableData):
        raise ModelError(
            f"model {spec.name!r} takes its sizes from pictures, texts or tables: give your own "
            "model by import path for other data"
        )
    model = build(spec, input_sizes_of(data), spec.init_weights)
    if spec.input_transform is not None:
        if not isinstance(data, Pictures):
            raise ModelError("model.input_transform: these data are not an ImageData, to resize")
        refuse_reduced(spec.input_transform, None, data)
        add_input_transform(model, spec.input_transform, data.mean, data.std)
    note_spec(model, spec)
    return model


def with_path(recipe: Recipe, teacher: Path | None) -> ModelSettings:
    """The student's model; a causal-lm without a path begins at its teacher's: the folder
    ``teacher``, or the recipe's path."""
    spec, own = recipe.student.model, recipe.teacher.model.options.get("path")
    if spec.name != "causal-lm" or spec.options.get("path"):
        return spec
    path = str(own or "") if teacher is None else str(teacher)
    return spec.model_copy(update={"options": {**spec.options, "path": path}})


def make_teacher(
    recipe: Recipe, teacher: Path | None, data: Dataset, one: OneOfSeveral | None = None
) -> nn.Module:
    """The teacher of a folder, or the recipe's pretrained one; or ``one`` of several teachers. As
    its ``model.json`` says, its inputs are normalised as in its training, and its classes matched
    with the data's.

    Raises:
        ImportRefused: its folder names code that the recipe does not.
        ModelError, RunFolderError: there is none, or it cannot be loaded.
        TargetsError: its classes are not the data's, or it gives another kind of output.
    """
    match = (one and one.classes) or recipe.student.targets.classes
    tokens = isinstance(data, Corpus)
    output = OUTPUTS["tokens" if tokens else recipe.student.objective.build().learns]
    if teacher is not None:
        loaded = load(teacher, imports=import_paths(recipe))
        loaded.check_output(output, f"the teacher in {one_line(teacher)}")
        card = loaded.card
        if tokens:
            return loaded.model
        trained = card["shape"][1:] if loaded.preprocess is not None else None
        refuse_reduced(ModelSettings.model_validate(card["model"]).input_transform, trained, data)
        return _fitted(loaded.model, data, match, f"the teacher in {one_line(teacher)}")
    spec, weights = recipe.teacher.model, recipe.teacher.weights
    if one is not None and one.model is not None and one.weights is not None:
        spec, weights = one.model, one.weights
    if weights is None:
        raise ModelError(
            "no teacher: name a folder with --teacher DIR (made by 'frugalkd teach'), or set "
            "teacher.weights to a pretrained state dict, or to pretrained (sentence-encoder, "
            "causal-lm)"
        )
    model = make_model(spec, data, recipe.seed)
    if weights == PRETRAINED:
        return model.eval()
    load_weights(model, Path(weights))
    if (card := card_beside(Path(weights))) is not None:
        known = known_from(card)
        if spec.input_transform is not None and spec.input_transform.mean is not None:
            known |= {"mean": (), "std": ()}  # the recipe's are used
        note_origin(model, **known)
    return _fitted(model.eval(), data, match, f"the teacher of {one_line(weights)}")


def _fitted(model: nn.Module, data: Dataset, match: Match, what: str) -> nn.Module:
    """``model`` for the normalisation, the columns and the classes of ``data``."""
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
            as_trained = InputTransformHook.between(None, given, trained)
            model.register_forward_pre_hook(as_trained, prepend=True)  # before its own transform
            note_origin(model, mean=data.mean, std=data.std)
    if isinstance(data, TableData) and origin.columns.columns not in ((), data.columns.columns):
        as_trained = InputColumnsHook.between(data.columns, origin.columns, what)
        warnings.warn(
            f"{what} was trained on another part of a table, or on its columns in another order: "
            "its inputs are converted",
            FrugalKDWarning,
            stacklevel=2,
        )
        model.register_forward_pre_hook(as_trained, prepend=True)
        note_origin(model, columns=data.columns)
    match_classes(model, class_names(data), match, what)
    return model


def sampling_of(
    recipe: Recipe, teacher: Path | None, run_data: RunData, ledger_at: Path | None = None
) -> Sampling:
    """The student's sampling, by its mode or its own policy; the ledger is the teacher's, or that
    at ``ledger_at``. Raises LedgerError where it is needed and missing."""
    role = recipe.student
    ledger = None
    if role.weighted:
        if ledger_at is None and (teacher is None or not ledger_file(teacher).is_file()):
            raise LedgerError(
                f"mode {role.mode or 'with significance weights'} needs the significance ledger "
                "of a self-regulated teacher: run 'frugalkd teach RECIPE --out DIR' and pass "
                "--teacher DIR, or for a teacher that you have 'frugalkd ledger make', and pass "
                "--ledger DIR; vanilla and regulated need none"
            )
        ledger = Ledger.load(ledger_at or teacher)  # pyright: ignore[reportArgumentType]
    if role.policy is None:
        return Sampling(
            mode=role.mode, ledger=ledger, regulation=role.regulation, gamma=role.gamma,
            label_free=role.label_free, cost=role.cost, dynamics=role.dynamics,
            class_weights=role.class_weights,
        )  # fmt: skip
    weights = None
    if ledger is not None:
        by_ledger = Sampling(mode="significance", ledger=ledger, gamma=role.gamma)
        weights = weights_of(by_ledger, run_data.train)
    return Sampling(
        policy=role.policy.build(), weights=weights, label_free=role.label_free, cost=role.cost,
        dynamics=role.dynamics, class_weights=role.class_weights,
    )  # fmt: skip


def ids_used(sampling: Sampling, run_data: RunData) -> Ids | None:
    """The samples that may be used, None for all."""
    weights = weights_of(sampling, run_data.train)
    return None if weights is None else np.flatnonzero(weights)
