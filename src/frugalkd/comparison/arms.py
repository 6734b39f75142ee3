"""Arms: the rows of a comparison, from names to resolved recipes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from frugalkd.comparison.controls import CONTROLS
from frugalkd.errors import RecipeError, UnknownName
from frugalkd.modes import MODES
from frugalkd.recipes.load import override
from frugalkd.recipes.schema import Arm, Recipe

_NO_POLICY = {"student.policy": None, "student.weighting": None}

BUILT_IN: dict[str, Arm] = {
    name: Arm.model_validate({"set": {**settings, **_NO_POLICY}})
    for name, settings in {
        **{mode: {"student.mode": mode} for mode in MODES},
        "ce": {"student.mode": "vanilla", "student.objective": {"name": "cross-entropy"}},
    }.items()
}
"""Arms that every recipe has; a recipe's own arm of the same name takes the place of one."""

_ABOUT = {
    "vanilla": "all, in every epoch",
    "significance": "all, weighted by teacher",
    "regulated": "only what it still needs",
    "hybrid": "what it needs, weighted",
}


@dataclass(frozen=True)
class ResolvedArm:
    """One row of a comparison.

    Attributes:
        name: as asked for.
        recipe: the arm's whole recipe; of a control, the recipe of the arm that it matches.
        teacher: which of the recipe's teachers it learns from; None: no trained one.
        control: how a control copies the arm ``match``, or None.
        match: the arm whose samples a control copies, or None.
        settings: what a control sets on top of copying.
        about: what it does, in about five words.
    """

    name: str
    recipe: Recipe
    teacher: str | None
    control: str | None
    match: str | None
    settings: dict[str, Any]
    about: str

    @property
    def folder(self) -> str:
        """The name as a folder's name on every system."""
        return folder_name(self.name)


def folder_name(name: str) -> str:
    """``name`` with everything but letters, digits, ``_``, ``.`` and ``-`` replaced."""
    return re.sub(r"[^\w.-]+", "--", name)


def known_arms(recipe: Recipe) -> list[str]:
    """The names of arms that ``recipe`` offers, without the controls ``CONTROL:ARM``."""
    return sorted({**BUILT_IN, **recipe.arms})


def resolve_arms(recipe: Recipe, names: Sequence[str]) -> list[ResolvedArm]:
    """The arms ``names``, in that order; an arm that a control matches comes in before it.

    Raises:
        UnknownName: an arm, or an arm's teacher, that the recipe does not know.
        RecipeError: no arm, an arm that sets what the comparison decides, or controls in a circle.
    """
    if not names:
        raise RecipeError(f"no arm to compare: name some of {', '.join(known_arms(recipe))}")
    resolved: dict[str, ResolvedArm] = {}
    for name in names:
        _resolve(recipe, name, resolved, ())
    return list(resolved.values())


def _resolve(
    recipe: Recipe, name: str, resolved: dict[str, ResolvedArm], path: tuple[str, ...]
) -> ResolvedArm:
    if name in resolved:
        return resolved[name]
    if name in path:
        raise RecipeError(f"controls match each other in a circle: {' -> '.join((*path, name))}")
    arm = _definition(recipe, name)
    decided = {key.split(".")[0] for key in arm.set} & {"seed", "teacher", "teachers", "arms"}
    if decided:
        raise RecipeError(
            f"arms.{name}.set: {', '.join(sorted(decided))} cannot differ between arms: the "
            "comparison sets the seed, and other teachers belong under 'teachers'"
        )
    if arm.control is not None and arm.match is not None:
        matched = _resolve(recipe, arm.match, resolved, (*path, name))
        about = CONTROLS[arm.control].about.format(arm=matched.name)
        teacher = arm.teacher or matched.teacher
        made = ResolvedArm(
            name, matched.recipe, teacher, arm.control, arm.match, dict(arm.set), about
        )
    else:
        made = _trained(recipe, name, arm)
    resolved[name] = made
    return made


def _definition(recipe: Recipe, name: str) -> Arm:
    """What ``name`` stands for."""
    own = {**BUILT_IN, **recipe.arms}
    if name in own:
        return own[name]
    control, _, match = name.partition(":")
    if control in CONTROLS and match:
        return Arm.model_validate({"control": control, "match": match})
    raise UnknownName("arm", name, [*own, *(f"{control}:ARM" for control in CONTROLS)])


def _trained(recipe: Recipe, name: str, arm: Arm) -> ResolvedArm:
    """An arm that is no control: its recipe, and its teacher where it needs one."""
    whole = override(recipe, arm.set)
    teacher = None
    if arm.teacher is not None or needs_teacher(whole):
        teacher = arm.teacher or next(iter(recipe.teachers), None)
    if recipe.teacher.weights is not None and arm.teacher is None:
        teacher = None  # the pretrained one that the recipe names
    if teacher is not None:
        whole = override(teacher_recipe(recipe, teacher), arm.set)
    return ResolvedArm(name, whole, teacher, None, None, {}, _about(whole))


def teacher_recipe(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one of ``recipe.teachers``.

    Raises:
        UnknownName: there is no such teacher.
    """
    if name not in recipe.teachers:
        raise UnknownName("teacher", name, recipe.teachers)
    return override(recipe, recipe.teachers[name])


def needs_teacher(recipe: Recipe) -> bool:
    """Whether the student asks a teacher: for soft targets, or for its ledger."""
    student = recipe.student
    weighted = MODES[student.mode].weighted if student.mode else student.weighting == "significance"
    return weighted or student.objective.build().needs_targets


def _about(recipe: Recipe) -> str:
    student = recipe.student
    if student.mode is not None and student.mode != "vanilla":
        return _ABOUT[student.mode]
    if not needs_teacher(recipe):
        return "no teacher: labels only"
    if student.mode is not None:
        return _ABOUT[student.mode]
    weighted = ", by significance" if student.weighting == "significance" else ""
    policy = student.policy.model_dump()["name"]  # pyright: ignore[reportOptionalMemberAccess]
    return f"policy {policy}{weighted}"
