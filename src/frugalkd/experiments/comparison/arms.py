"""Arms: the rows of a comparison, from names to resolved recipes; and controls: the cheap
alternatives, made to cost as many samples as the run that they match."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from frugalkd.errors import ModelError, RecipeError, UnknownName
from frugalkd.experiments.recipes.load import override
from frugalkd.experiments.recipes.schema import Arm, ControlName, Recipe, StudentRole
from frugalkd.policies import POLICIES, SelfRegulation
from frugalkd.policies.modes import MODES, spread

Settings = dict[str, Any]


@dataclass(frozen=True)
class Control:
    """``about``: what it does, with a place for the ``{arm}`` that it matches; ``at_budget``: the
    same at a budget, or "" where it copies a run epoch by epoch and has no budget of its own."""

    about: str
    at_budget: str = ""


CONTROLS: dict[ControlName, Control] = {
    "random": Control("random, as many as {arm}", "random, redrawn"),
    "random-static": Control("fixed random subset, as {arm}", "fixed random subset"),
    "short": Control("all, fewer epochs, as {arm}", "all, fewer epochs"),
    "permuted": Control("{arm}'s plan, others of each class"),
    "random-cost": Control("random, at the cost of {arm}"),
    "short-cost": Control("all, fewer epochs, at {arm}'s cost"),
    "permuted-cost": Control("{arm}'s plan, others, at its cost"),
}

_NO_POLICY = {"student.policy": None, "student.weighting": None}
_NO_COST = {"student.cost": None}
_OF_TRAINING = ("train_size", "noise", "relabel", "exclude", "options.in_memory")
"""What may differ between arms of their data: what changes the training part alone, or no data."""

_GATES: dict[str, dict[str, Any]] = {
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


def _built_in() -> dict[str, dict[str, Any]]:
    arms: dict[str, dict[str, Any]] = {mode: {"student.mode": mode, **_NO_POLICY} for mode in MODES}
    arms["ce"] = {**arms["vanilla"], "student.objective": {"name": "cross-entropy"}}
    for name, gate in _GATES.items():
        settings = {f"student.regulation.{key}": value for key, value in gate.items()}
        arms[name] = {"student.mode": "regulated", **settings, **_NO_POLICY}
    for name in POLICIES:
        if name not in ("all", "random", "self-regulation"):
            policy = {"student.policy": {"name": name}, "student.weighting": "uniform"}
            arms[name] = {"student.mode": None, **policy}
    return arms


BUILT_IN = {name: Arm.model_validate({"set": settings}) for name, settings in _built_in().items()}
"""Arms that every recipe has: the modes, variants of the gate, and the rivals, by their policies'
names; a recipe's own arm of the same name replaces one."""

_ABOUT = {
    "vanilla": "all, in every epoch",
    "significance": "all, weighted by teacher",
    "regulated": "only what it still needs",
    "hybrid": "what it needs, weighted",
}
_ABOUT_GATES = {
    "keep_probability": "the gate, unbiased",
    "label_source": "the gate, by the teacher",
    "final_full_epochs": "the gate, then all",
    "budget_schedule": "the gate, early",
    "budget_rule": "the gate, random draw",
    "ceiling": "the gate, with a ceiling",
}


@dataclass(frozen=True)
class ResolvedArm:
    """One row of a comparison. A ``control`` copies the samples of the arm ``match``, whose recipe
    it has, and sets ``settings`` on top. ``teacher`` is the one of the recipe's teachers that it
    learns from (None: no trained one), ``about`` what it does in about five words, ``budget`` the
    one that was set for it (None: it spends its own)."""

    name: str
    recipe: Recipe
    teacher: str | None
    about: str
    control: ControlName | None = None
    match: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    budget: float | None = None


def folder_name(name: str) -> str:
    """``name`` with everything but letters, digits, ``_``, ``.`` and ``-`` replaced, as a folder's
    name on every system."""
    return re.sub(r"[^\w.-]+", "--", name)


def known_arms(recipe: Recipe) -> list[str]:
    """The names of arms that ``recipe`` offers, without the controls ``CONTROL:ARM``."""
    return sorted({**BUILT_IN, **recipe.arms})


def resolve_arms(
    recipe: Recipe, names: Sequence[str], budgets: Sequence[float] = ()
) -> list[ResolvedArm]:
    """The arms ``names``, in that order; an arm that a control matches comes before it.

    An arm ``NAME@BUDGET`` is the arm NAME at that budget: its policy's threshold, ratio or quota is
    set for it, and a control is one of that budget instead of another arm's;
    ``CONTROL:NAME@BUDGET`` is the control of ``NAME@BUDGET``, and spends what that did. With
    ``budgets`` each arm that supports them comes once at each; another comes once, at its own.

    Raises:
        UnknownName: an arm, or an arm's teacher, that the recipe does not know.
        RecipeError: no arm, an arm that sets what the comparison decides, controls in a circle, a
            budget outside (0, 1], or one that the arm does not support.
    """
    if not names:
        raise RecipeError(f"no arm to compare: name some of {', '.join(known_arms(recipe))}")
    for budget in budgets:
        _check_budget(budget, "--budgets")
    resolved: dict[str, ResolvedArm] = {}
    for name in names:
        at_budgets = "@" not in name and budgets and _supports_budgets(recipe, name)
        for each in [f"{name}@{budget:g}" for budget in budgets] if at_budgets else [name]:
            _resolve(recipe, each, resolved, ())
    return list(resolved.values())


def _check_budget(budget: float, where: str) -> None:
    if not 0 < budget <= 1:
        hint = f" ({budget:g} % is {budget / 100:g})" if 1 < budget <= 100 else ""
        raise RecipeError(
            f"{where}: a budget is a fraction of all samples, in (0, 1], not {budget:g}{hint}"
        )


def _supports_budgets(recipe: Recipe, name: str) -> bool:
    if name in CONTROLS and name not in recipe.arms:
        return bool(CONTROLS[name].at_budget)
    arm = _definition(recipe, name)
    if arm.control is not None and arm.match is not None:
        own = ":" not in name and CONTROLS[arm.control].at_budget
        return bool(own) or _supports_budgets(recipe, arm.match)
    return _policy_at(_trained(recipe, arm).recipe, 0.5) is not None


def _resolve(
    recipe: Recipe, name: str, resolved: dict[str, ResolvedArm], path: tuple[str, ...]
) -> ResolvedArm:
    if name in resolved:
        return resolved[name]
    if name in path:
        raise RecipeError(f"controls match each other in a circle: {' -> '.join((*path, name))}")
    base, budget = name, None
    if "@" in name and name not in recipe.arms:
        base, _, budget = name.rpartition("@")
    of_no_arm = budget is not None and base in CONTROLS and base not in recipe.arms
    if of_no_arm:
        arm = Arm.model_validate({"control": base, "match": base})
    else:
        arm = _definition(recipe, base)
    decided = {key.split(".")[0] for key in arm.set} & {"seed", "teacher", "teachers", "arms"}
    if decided:
        raise RecipeError(
            f"arms.{base}.set: {', '.join(sorted(decided))} cannot differ between arms: the "
            "comparison sets the seed, and other teachers belong under 'teachers'"
        )
    _refuse_held_out(f"arms.{base}.set", arm.set, recipe)
    control = None if arm.control is None else CONTROLS[arm.control]
    if control is None or of_no_arm or (budget and ":" not in base and control.at_budget):
        made = _trained(recipe, arm) if budget is None else _at_budget(recipe, base, arm, budget)
        made = replace(made, name=name)
    else:
        match = f"{arm.match}" if budget is None else f"{arm.match}@{budget}"
        matched = _resolve(recipe, match, resolved, (*path, name))
        made = replace(
            matched,
            name=name,
            teacher=arm.teacher or matched.teacher,
            about=control.about.format(arm=matched.name),
            control=arm.control,
            match=match,
            settings=dict(arm.set),
        )
    resolved[name] = made
    return made


def _refuse_held_out(where: str, settings: Settings, recipe: Recipe) -> None:
    """Raises RecipeError where ``settings`` can change the data that all arms are measured on."""
    of_data = {key: value for key, value in settings.items() if key.split(".")[0] == "data"}
    own, data = _by_key(recipe), _by_key(override(recipe, of_data))
    allowed = {*_OF_TRAINING, *(["options.positions"] if recipe.reads_corpus else [])}
    differ = {key for key in own | data if own.get(key, ...) != data.get(key, ...)} - allowed
    if differ:
        named = ", ".join(f"data.{key}" for key in sorted(differ))
        free = ", ".join(f"data.{key}" for key in sorted(allowed))
        raise RecipeError(
            f"{where}: {named} cannot differ in a comparison, whose runs are measured on the same "
            f"data ({free} can): make a recipe of it, and compare by that"
        )


def _by_key(recipe: Recipe) -> Settings:
    """The settings of a recipe's data, those of its options with ``options.`` before them."""
    data = recipe.data.model_dump(mode="json")
    options = data.pop("options")
    return data | {f"options.{key}": value for key, value in options.items()}


def _definition(recipe: Recipe, name: str) -> Arm:
    own = {**BUILT_IN, **recipe.arms}
    if name in own:
        return own[name]
    control, _, match = name.partition(":")
    if control in CONTROLS and match:
        return Arm.model_validate({"control": control, "match": match})
    controls = [f"{control}{of}" for control in CONTROLS for of in (":ARM", "@BUDGET")]
    raise UnknownName("arm", name, [*own, *controls])


def _at_budget(recipe: Recipe, base: str, arm: Arm, text: str) -> ResolvedArm:
    """The arm ``base`` at the budget ``text``."""
    where = f"arm '{base}@{text}'"
    try:
        budget = float(text)
    except ValueError:
        raise RecipeError(f"{where}: write NAME@BUDGET, as in {base}@0.25") from None
    _check_budget(budget, where)
    if arm.control is not None:
        settings = {**budget_settings(arm.control, recipe, budget), **arm.set}
        made = _trained(recipe, arm.model_copy(update={"set": settings}))
        return replace(made, about=CONTROLS[arm.control].at_budget, budget=budget)
    made = _trained(recipe, arm)
    # A budget is of the recipe's epochs; an arm of fewer spends more of it in each.
    own, full = made.recipe.student.training.epochs, recipe.student.training.epochs
    if budget * (full / own) > 1 + 1e-9:
        raise RecipeError(f"{where}: its {own:g} epochs cannot spend {budget:.0%} of {full:g}")
    settings = _policy_at(made.recipe, min(1.0, budget * (full / own)))
    if settings is None:
        raise RecipeError(
            f"{where}: {base} cannot be made to spend a budget, it has its own: name it without @"
        )
    return replace(made, recipe=override(made.recipe, settings), budget=budget)


def _policy_at(recipe: Recipe, budget: float) -> dict[str, Any] | None:
    """What makes the student's policy spend ``budget``, in place of a cost; None where nothing
    does."""
    student = recipe.student
    driven = student.chosen_policy.at_budget(budget)
    if driven is None:
        return None
    settings = asdict(driven)  # pyright: ignore[reportArgumentType]
    if student.policy is None:
        return {**_NO_COST, "student.regulation": settings}
    called = student.policy.called
    if not student.policy.imports:
        return {**_NO_COST, "student.policy": {"name": called, **settings}}
    own = {**_NO_COST, "student.policy": {"path": called, "options": settings}}
    with suppress(ModelError):  # a function has options of its own
        return own if override(recipe, own).student.chosen_policy == driven else None
    return None


def _trained(recipe: Recipe, arm: Arm) -> ResolvedArm:
    """An arm that is not a control, without its name: its recipe, and its teacher if it needs one.
    The recipe's cost is its gate's: other arms are what that is compared with."""
    settings = {**_NO_COST, **arm.set}
    whole, cost = override(recipe, settings), recipe.student.cost
    if "student.cost" not in arm.set and isinstance(whole.student.chosen_policy, SelfRegulation):
        settings["student.cost"] = cost
        whole = override(recipe, settings)
    teacher = arm.teacher
    if teacher is None and needs_teacher(whole) and recipe.teacher.weights is None:
        teacher = next(iter(recipe.teachers), None)
        if teacher is None:
            raise RecipeError(
                "no arm has a teacher: name one under teachers (teachers: {conventional: {}}), or "
                "set teacher.weights"
            )
    if teacher is not None:
        whole = override(teacher_recipe(recipe, teacher), settings)
    return ResolvedArm("", whole, teacher, _about(whole))


def teacher_recipe(recipe: Recipe, name: str) -> Recipe:
    """The recipe of one of ``recipe.teachers``.

    Raises:
        UnknownName: there is no such teacher.
        RecipeError: it sets data that decide what is held out.
    """
    if name not in recipe.teachers:
        raise UnknownName("teacher", name, recipe.teachers)
    _refuse_held_out(f"teachers.{name}", recipe.teachers[name], recipe)
    return override(recipe, recipe.teachers[name])


def needs_teacher(recipe: Recipe) -> bool:
    """Whether the student needs the run's own teacher: for soft targets, or for its ledger."""
    return recipe.student.weighted or recipe.student.queries_own_teacher


def _about(recipe: Recipe) -> str:
    student = recipe.student
    if student.mode == "regulated":
        plain = type(student.regulation)()
        for setting, about in _ABOUT_GATES.items():
            if getattr(student.regulation, setting) != getattr(plain, setting):
                return about
    if student.mode is not None and student.mode != "vanilla":
        return _ABOUT[student.mode]
    if not needs_teacher(recipe):
        others = student.objective.build().needs_targets
        return "no teacher of the recipe's" if others else "no teacher: labels only"
    if student.mode is not None:
        return _ABOUT[student.mode]
    weighted = ", by significance" if student.weighting == "significance" else ""
    return f"policy {student.policy.called}{weighted}"  # pyright: ignore[reportOptionalMemberAccess]


def copies_plans(control: str | None) -> bool:
    """Whether a control follows the plans of the run that it matches."""
    return control is not None and control.startswith("permuted")


def control_settings(
    control: ControlName, student: StudentRole, results: dict[str, Any], folder: Path
) -> Settings:
    """What turns the recipe of a finished run into its control ``control``.

    The objective, the teacher and the rest of the training stay; weights become uniform, those of
    *permuted* are the run's. A short last batch trains, or the control could not match.

    Args:
        control: a key of :data:`CONTROLS`.
        student: of the matched run's recipe.
        results: the matched run's ``results.json``.
        folder: of that run.

    Raises:
        RecipeError: nothing can match the run: it trained on nothing, costs more than all samples
            or has no known cost, has a last epoch in part (permuted), or recorded no plans.
    """
    training, samples = results["recipe"]["student"]["training"], results["train_samples"]
    epochs = training["epochs"]
    rows = [int(record["rows"]) for record in results["history"]]
    trained = sum(rows)
    if not trained:
        raise RecipeError("the run that it matches trained on no sample: nothing can match it")
    total = _rows_at_cost(results) if control.endswith("-cost") else trained
    fraction = total / (samples * epochs)
    # How much of each epoch is trained: 1, the last one perhaps less.
    own = epochs if student.cost is None else results["epochs"]
    parts = [min(1.0, own - epoch) for epoch in range(len(rows))]
    if control.startswith("short"):
        settings = _short(total / samples)
    elif copies_plans(control):
        if parts[-1] < 1:
            raise RecipeError(f"{control} copies whole epochs: the run's last one is a part")
        if results.get("plans") is None:
            raise RecipeError(f"{folder} recorded no plans: delete it, and it is run again")
        screened = [int(record["screened"]) for record in results["history"]]
        policy = student.chosen_policy
        planned = policy.planned_rows(samples, spread(epochs, student.cost, policy))
        extra = _divided(total - trained, screened if sum(screened) else parts)
        paid = []  # the samples whose screening counts towards what was planned
        if planned is not None and getattr(policy, "cost", None):
            paid = screened if control == "permuted" else paid
            planned -= sum(extra)
        settings = _with_policy(
            name="replay", folder=str(folder / "plans"), digest=results["plans"], permuted=True,
            rows=planned, screened=paid, extra=extra if any(extra) else (),
        )  # fmt: skip
        settings["student.training.epochs"] = own
    else:
        if fraction > 1 + 1e-9:
            raise RecipeError(
                f"the run costs {fraction:.0%} of full distillation, and no subset costs that much"
            )
        if student.cost is not None:  # over the epochs that it was given
            parts = [min(1.0, epochs - epoch) for epoch in range(math.ceil(epochs))]
        # The constant fraction, to a row in every epoch: a fraction alone would be rounded the
        # same way in every epoch, and few rows would then not match.
        rows = _divided(total, parts)
        counts = [
            min(samples, round(wanted / part)) for wanted, part in zip(rows, parts, strict=True)
        ]
        settings = _random(control, min(1.0, fraction), counts=counts)
    return {**settings, **_NO_COST, "student.training.drop_last": False}


def _rows_at_cost(results: dict[str, Any]) -> int:
    """As many trained rows, none of them screened, as cost what the run did."""
    cost, meters = results.get("cost") or {}, results["meters"]
    if cost.get("epochs") is None:
        raise RecipeError(
            "the cost of the run that it matches is not known: delete its folder, and it is run "
            "again; where the FLOPs of a model cannot be counted, match samples instead"
        )
    forwards = 3 * results["train_samples"] * cost["epochs"]  # of the student, that cost as much
    trained = meters["samples_backpropagated"]
    queries = forwards - 2 * trained - meters["student_forwards"]
    return round(forwards / (3 + min(cost["teacher_ratio"] or 0.0, queries / trained)))


def _divided(total: int, shares: Sequence[float]) -> list[int]:
    """``total`` rows, divided in proportion to ``shares``."""
    ends = [round(total * end / sum(shares)) for end in accumulate(shares, initial=0.0)]
    return [end - start for start, end in pairwise(ends)]


def budget_settings(control: ControlName, recipe: Recipe, budget: float) -> Settings:
    """What turns ``recipe`` into its control ``control`` that spends ``budget``, a fraction of all
    samples over the recipe's epochs, instead of another run's.

    Raises:
        RecipeError: a control that copies a run epoch by epoch, which needs that run.
    """
    if not CONTROLS[control].at_budget:
        raise RecipeError(f"{control} copies a run's epochs: write {control}:ARM@{budget:g}")
    if control == "short":
        settings = _short(budget * recipe.student.training.epochs)
    else:
        settings = _random(control, budget)
    return {**settings, **_NO_COST}


def _short(epochs: float) -> Settings:
    return {**_with_policy(name="all"), "student.training.epochs": epochs}


def _random(control: str, fraction: float, **more: Any) -> Settings:
    redraw = control != "random-static"
    return _with_policy(name="random", fraction=fraction, redraw=redraw, **more)


def _with_policy(**policy: Any) -> Settings:
    return {"student.mode": None, "student.weighting": "uniform", "student.policy": policy}
