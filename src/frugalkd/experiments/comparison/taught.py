"""Teachers that ``frugalkd teach`` made, in place of those that a comparison would train."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from frugalkd.data.images import Augmentation
from frugalkd.errors import RecipeError, RunFolderError, UnknownName, few
from frugalkd.experiments.comparison.arms import teacher_recipe
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import what_decides
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.from_recipe import data_digests, make_data, make_teacher
from frugalkd.experiments.runs.targets import live_teacher
from frugalkd.files import StrPath
from frugalkd.files.opening import Resolved, named

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


def check_given(folder: Path, recipe: Recipe) -> dict[str, str | None]:
    """The digests of the ``recipe``'s data, on which the teacher in ``folder`` was trained.

    Raises:
        RunFolderError: it was trained on other data.
        FrugalKDError: what ``distill`` refuses of a teacher: its classes or tokenizer are not the
            data's, its code may not be imported, it cannot be loaded.
    """
    run_data = make_data(recipe, Augmentation(), recipe.seed)
    digests, theirs = data_digests(run_data), read_results(folder).get("data") or {}
    parts = {"train": "training data", "held_out": "held-out data"}
    if other := [what for part, what in parts.items() if theirs.get(part) != digests[part]]:
        raise RunFolderError(
            f"the teacher in {folder} was trained with other {' and '.join(other)} than this "
            "comparison's: name one of the same data, or leave it out, and one is trained"
        )
    model = make_teacher(recipe, folder, run_data.train)
    live_teacher(recipe, model, folder).check(run_data.train)
    return digests


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
