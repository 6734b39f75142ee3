"""Arms: the rows of a comparison, from names to resolved recipes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from frugalkd.errors import RecipeError, UnknownName
from frugalkd.experiments.comparison.controls import CONTROLS, COPYING, budget_settings
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.recipes.schema import Arm, Recipe
from frugalkd.policies import POLICIES
from frugalkd.policies.modes import MODES

_NO_POLICY = {"student.policy": None, "student.weighting": None}

_OURS: dict[str, dict[str, Any]] = {
    "ceiling": {"ceiling": 0.9},
    "ceiling-drawn": {"ceiling": 0.9, "budget_rule": "random"},
    "early": {"budget_rule": "random", "budget_schedule": "early"},
    "ceiling-early": {"ceiling": 0.9, "budget_rule": "random", "budget_schedule": "early"},
    "early-loose": {"confidence": 0.97, "budget_rule": "random", "budget_schedule": "early"},
    "unbiased": {"keep_probability": 0.1},
    "agreement": {"label_source": "teacher"},
    "finale": {"final_full_epochs": 1},
}
"""Variants of the gate: arm -> what it sets of the recipe's regulation."""

_RIVALS = [name for name in POLICIES if name not in ("all", "random", "self-regulation")]

BUILT_IN: dict[str, Arm] = {
    name: Arm.model_validate({"set": settings})
    for name, settings in {
        **{mode: {"student.mode": mode, **_NO_POLICY} for mode in MODES},
        "ce": {
            "student.mode": "vanilla",
            "student.objective": {"name": "cross-entropy"},
            **_NO_POLICY,
        },
        **{
            name: {
                "student.mode": "regulated",
                **{f"student.regulation.{key}": value for key, value in settings.items()},
                **_NO_POLICY,
            }
            for name, settings in _OURS.items()
        },
        **{
            name: {
                "student.mode": None,
                "student.policy": {"name": name},
                "student.weighting": "uniform",
            }
            for name in _RIVALS
        },
    }.items()
}
"""Arms that every recipe has: the modes, variants of the gate, and the rivals, by their policies'
names; a recipe's own arm of the same name takes the place of one."""

_ABOUT = {
    "vanilla": "all, in every epoch",
    "significance": "all, weighted by teacher",
    "regulated": "only what it still needs",
    "hybrid": "what it needs, weighted",
}
_ABOUT_OURS = {
    "keep_probability": "the gate, unbiased",
    "label_source": "the gate, by the teacher",
    "final_full_epochs": "the gate, then all",
    "budget_schedule": "the gate, early",
    "budget_rule": "the gate, awake drawn",
    "ceiling": "the gate, with a ceiling",
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
        budget: the budget that it was made to spend, or None where it spends its own.
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
    budget: float | None = None

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


def resolve_arms(
    recipe: Recipe, names: Sequence[str], budgets: Sequence[float] = ()
) -> list[ResolvedArm]:
    """The arms ``names``, in that order; an arm that a control matches comes in before it.

    An arm ``NAME@BUDGET`` is the arm NAME made to spend that budget: its policy's threshold, ratio
    or quota is set for it, and a control is one of that budget instead of another arm's;
    ``CONTROL:NAME@BUDGET`` is the control of ``NAME@BUDGET``, and spends what that did. With
    ``budgets`` each arm that can be made to comes once for each; one that cannot comes once, at its
    own.

    Raises:
        UnknownName: an arm, or an arm's teacher, that the recipe does not know.
        RecipeError: no arm, an arm that sets what the comparison decides, controls in a circle, a
            budget outside (0, 1], or one that the arm cannot be made to spend.
    """
    if not names:
        raise RecipeError(f"no arm to compare: name some of {', '.join(known_arms(recipe))}")
    for budget in budgets:
        _check_budget(budget, "--budgets")
    resolved: dict[str, ResolvedArm] = {}
    for name in names:
        if "@" not in name and budgets and _spends(recipe, name):
            for budget in budgets:
                _resolve(recipe, f"{name}@{budget:g}", resolved, ())
        else:
            _resolve(recipe, name, resolved, ())
    return list(resolved.values())


def _check_budget(budget: float, where: str) -> None:
    if not 0 < budget <= 1:
        hint = f" ({budget:g} % is {budget / 100:g})" if 1 < budget <= 100 else ""
        raise RecipeError(
            f"{where}: a budget is a part of all samples, in (0, 1], not {budget:g}{hint}"
        )


def _spends(recipe: Recipe, name: str) -> bool:
    """Whether the arm can be made to spend a budget."""
    if name in CONTROLS and name not in {**BUILT_IN, **recipe.arms}:
        return name not in COPYING
    arm = _definition(recipe, name)
    if arm.control is not None and arm.match is not None:
        of_its_own = ":" not in name and arm.control not in COPYING
        return of_its_own or _spends(recipe, arm.match)
    return _policy_at(_trained(recipe, name, arm).recipe, 0.5) is not None


def _resolve(
    recipe: Recipe, name: str, resolved: dict[str, ResolvedArm], path: tuple[str, ...]
) -> ResolvedArm:
    if name in resolved:
        return resolved[name]
    if name in path:
        raise RecipeError(f"controls match each other in a circle: {' -> '.join((*path, name))}")
    copied = _copied(recipe, name)
    if "@" in name and copied is None:
        resolved[name] = made = _at_budget(recipe, name)
        return made
    arm = copied or _definition(recipe, name)
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
            name, matched.recipe, teacher, arm.control, arm.match, dict(arm.set), about,
            matched.budget,
        )  # fmt: skip
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
    controls = [f"{control}{of}" for control in CONTROLS for of in (":ARM", "@BUDGET")]
    raise UnknownName("arm", name, [*own, *controls])


def _copied(recipe: Recipe, name: str) -> Arm | None:
    """Of ``CONTROL:ARM@BUDGET``, and of a recipe's control that copies an arm epoch by epoch at a
    budget, the control of ``ARM@BUDGET``; None for all others."""
    base, _, budget = name.rpartition("@")
    if not base or name in recipe.arms or (base in CONTROLS and base not in recipe.arms):
        return None
    arm = _definition(recipe, base)
    if arm.control is None or (":" not in base and arm.control not in COPYING):
        return None
    return arm.model_copy(update={"match": f"{arm.match}@{budget}"})


def _at_budget(recipe: Recipe, name: str) -> ResolvedArm:
    """The arm ``NAME@BUDGET``."""
    base, _, said = name.rpartition("@")
    try:
        budget = float(said)
    except ValueError:
        raise RecipeError(f"arm {name!r}: write NAME@BUDGET, as in {base}@0.25") from None
    _check_budget(budget, f"arm {name!r}")
    known = {**BUILT_IN, **recipe.arms}
    arm = Arm.model_validate({"control": base, "match": base}) if base in CONTROLS else None
    arm = known[base] if base in known else arm or _definition(recipe, base)
    arm_control = arm.control
    if arm_control is not None:
        settings = {**budget_settings(arm_control, recipe, budget), **arm.set}
        arm = Arm.model_validate({"set": settings, "teacher": arm.teacher})
        made = _trained(recipe, name, arm)
    else:
        made = _trained(recipe, name, arm)
        # A budget is of the recipe's epochs; an arm of fewer spends more of it in each.
        epochs = recipe.student.training.epochs / made.recipe.student.training.epochs
        if budget * epochs > 1 + 1e-9:
            raise RecipeError(
                f"arm {name!r}: its {made.recipe.student.training.epochs:g} epochs cannot spend "
                f"{budget:.0%} of {recipe.student.training.epochs:g}"
            )
        settings = _policy_at(made.recipe, min(1.0, budget * epochs))
        if settings is None:
            raise RecipeError(
                f"arm {name!r}: {base} cannot be made to spend a budget, it has its own: name it "
                "without @"
            )
        made = replace(made, recipe=override(made.recipe, settings))
    about = made.about if arm_control is None else CONTROLS[arm_control].at_budget
    return replace(made, name=name, about=about, budget=budget)


def _policy_at(recipe: Recipe, budget: float) -> dict[str, Any] | None:
    """What makes the student's policy spend ``budget``; None where nothing does."""
    student = recipe.student
    if student.mode is not None and not MODES[student.mode].gated:
        return None
    policy = student.regulation if student.policy is None else student.policy.build()
    driven = policy.at_budget(budget)
    if driven is None:
        return None
    if student.policy is None:
        return {"student.regulation": asdict(driven)}  # pyright: ignore[reportArgumentType]
    name = student.policy.model_dump()["name"]
    return {"student.policy": {"name": name, **asdict(driven)}}  # pyright: ignore


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
    """Whether the student asks the run's own teacher: for soft targets, or for its ledger."""
    return recipe.student.weighted or recipe.student.queries_own_teacher


def _about(recipe: Recipe) -> str:
    student = recipe.student
    if student.mode is not None and student.mode != "vanilla":
        plain = type(student.regulation)()
        for setting, about in _ABOUT_OURS.items():
            if student.mode == "regulated" and getattr(student.regulation, setting) != getattr(
                plain, setting
            ):
                return about
        return _ABOUT[student.mode]
    if not needs_teacher(recipe):
        others = student.objective.build().needs_targets
        return "no teacher of the recipe's" if others else "no teacher: labels only"
    if student.mode is not None:
        return _ABOUT[student.mode]
    weighted = ", by significance" if student.weighting == "significance" else ""
    policy = student.policy.model_dump()["name"]  # pyright: ignore[reportOptionalMemberAccess]
    return f"policy {policy}{weighted}"
