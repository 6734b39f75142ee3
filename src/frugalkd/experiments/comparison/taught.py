"""Teachers that ``frugalkd teach`` made, in place of those that a comparison would train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from frugalkd.data.class_names import class_names
from frugalkd.data.table import Columns
from frugalkd.errors import RecipeError, RunFolderError, UnknownName, few
from frugalkd.experiments.comparison.arms import teacher_recipe
from frugalkd.experiments.recipes.load import import_paths
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import what_decides
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.from_recipe import known_data, make_data
from frugalkd.experiments.runs.schema import section
from frugalkd.files import StrPath
from frugalkd.files.opening import Resolved, named
from frugalkd.files.parsing import read_json
from frugalkd.models.origin import match_classes, note_origin
from frugalkd.models.saved import CARD, known_from
from frugalkd.runtime.imports import refuse_unlisted
from frugalkd.teachers import LiveTeacher

Given = StrPath | Mapping[str, StrPath]
"""A run's folder for the recipe's first teacher, which arms have by default; or one by the name of
each teacher that is trained already."""


def given_teachers(recipe: Recipe, given: Given | None) -> dict[str, Resolved]:
    """The folders, by the names of the ``recipe``'s teachers.

    Raises:
        UnknownName: the recipe has no such teacher.
        RecipeError: its teacher is pretrained, or it has none; or the folder's was trained with
            other settings, which the line names.
        RunFolderError: there is no finished run of ``frugalkd teach``, or it is damaged.
    """
    if given is None:
        return {}
    if recipe.teacher.weights is not None:
        raise RecipeError(
            "a folder takes the place of a teacher that a comparison trains, and this recipe's is "
            "pretrained: set teacher.weights to null, or leave the folder out"
        )
    if not recipe.teachers:
        raise RecipeError("this recipe has no teacher to replace: name one under 'teachers'")
    if not isinstance(given, Mapping):
        given = {next(iter(recipe.teachers)): given}
    found = {name: named(folder) for name, folder in given.items()}
    for name, folder in found.items():
        if name not in recipe.teachers:
            raise UnknownName("teacher", name, recipe.teachers)
        _refuse_other_settings(folder, name, recipe)
    return found


def check_given(folder: Path, recipe: Recipe) -> tuple[dict[str, str | None], dict[str, Any]]:
    """The ``known_data`` of the ``recipe``, on which the teacher in ``folder`` was trained. Its
    model is not built: the jobs do that, and refuse one that cannot be.

    Raises:
        RunFolderError: it was trained on other data, or its ``model.json`` is damaged.
        TargetsError: its classes or its vocabulary are not the data's.
        ImportRefused: it names code that the recipe does not.
    """
    run_data = make_data(recipe, None, recipe.seed)
    known, theirs = known_data(run_data), read_results(folder).get("data") or {}
    parts = {"train": "training data", "held_out": "held-out data"}
    if other := [what for part, what in parts.items() if theirs.get(part) != known[0][part]]:
        raise RunFolderError(
            f"the teacher in {folder} was trained with other {' and '.join(other)} than this "
            "comparison's: name one of the same data, or leave it out, and one is trained"
        )
    card = read_json(folder / CARD)
    if path := section(card, "model").get("path"):
        refuse_unlisted(str(path), import_paths(recipe), str(folder / CARD))
    stand_in, match = nn.Identity(), recipe.student.targets.classes
    converted = {"mean": (), "std": (), "columns": Columns(())}  # by the jobs, from the data's
    note_origin(stand_in, **{**known_from(card), **converted})
    match_classes(stand_in, class_names(run_data.train), match, f"the teacher in {folder}")
    LiveTeacher(stand_in).check(run_data.train)
    return known


def _refuse_other_settings(folder: Path, name: str, recipe: Recipe) -> None:
    results = read_results(folder)
    if results.get("kind") != "teach":
        raise RunFolderError(
            f"{folder} holds a student: name a folder of 'frugalkd teach', or set teacher.weights "
            "to the student's weights"
        )
    try:
        own = Recipe.model_validate(results["recipe"])
    except (KeyError, ValueError):
        raise RunFolderError(f"{folder}/results.json is damaged: it holds no recipe") from None
    there, here = (
        what_decides("teach", each, taught=False)["teacher"]
        for each in (own, teacher_recipe(recipe, name))
    )
    if other := list(_differences(there, here, "teacher")):
        raise RecipeError(
            f"the teacher in {folder} is not the recipe's {name}: {few(other, '; ')}: set these in "
            "the recipe (--set), or leave the folder out"
        )


def _differences(there: Any, here: Any, at: str) -> Iterator[str]:
    """What differs between two sections of settings, in words."""
    if isinstance(there, dict) and isinstance(here, dict):
        for key in dict.fromkeys([*there, *here]):
            yield from _differences(there.get(key), here.get(key), f"{at}.{key}")
    elif there != here:
        yield f"{at} is {there!r:.60} there and {here!r:.60} here"
