"""Paths of features that arms read, looked up before a teacher is trained for them."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from frugalkd.errors import ModelError
from frugalkd.experiments.comparison.arms import ResolvedArm
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.material import RunData, make_data, make_model
from frugalkd.models.features import feature_paths, find_paths
from frugalkd.objectives.criterion import check_paths
from frugalkd.objectives.objective import features_read


def check_feature_paths(arms: Sequence[ResolvedArm]) -> None:
    """Refuse an arm whose objective reads a module that its student or its teacher does not have.
    Models are built for that, and data read, where an objective reads features at all.

    Raises:
        ModelError: as it says, with the arm's name and the nearest paths.
        FrugalKDError: the data or a model cannot be made.
    """
    read: dict[str, RunData] = {}
    found_right = set()
    for arm in arms:
        recipe, role = arm.recipe, arm.recipe.student
        if role.objective.imports or not features_read(role.objective.build()):
            continue
        parts = (recipe.data, role.augment, role.model, recipe.teacher.model, role.objective)
        said = [part.model_dump_json() for part in parts]
        if tuple(said) in found_right:
            continue
        where = "".join(said[:2])
        if where not in read:
            read[where] = make_data(recipe, role.augment, recipe.seed)
        try:
            with torch.random.fork_rng(devices=[]):
                _check(recipe, read[where])
        except ModelError as error:
            raise ModelError(f"arm {arm.name}: {error}") from None
        found_right.add(tuple(said))


def _check(recipe: Recipe, material: RunData) -> None:
    objective = recipe.student.objective.build()
    student = make_model(recipe.student.model, material.train, recipe.seed)
    check_paths(objective, student)
    teacher = make_model(recipe.teacher.model, material.train, recipe.seed)
    find_paths(features_read(objective), feature_paths(teacher), "the teacher")
