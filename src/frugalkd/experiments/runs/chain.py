"""Teacher assistants: recipes in a chain, the student of each being the teacher of the next.

Mirzadeh et al. (AAAI 2020, arXiv 1902.03393) put models of a size in between where a teacher is too
large for a student to follow.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from frugalkd.errors import RecipeError
from frugalkd.experiments.recipes.schema import Recipe, StudentRole, TeacherRole
from frugalkd.experiments.runs.execute import distill, teach
from frugalkd.files import StrPath
from frugalkd.files.opening import named
from frugalkd.files.writing import make_folder, write_json
from frugalkd.models.settings import ModelSettings
from frugalkd.training.settings import Listener, Stop

FILE, SCHEMA = "chain.json", 1


@dataclass(frozen=True)
class Stage:
    """One training of a chain.

    Attributes:
        name: of its folder within the chain's: ``1-teacher``, ``2-assistant``, ``3-student``.
        kind: ``teach`` or ``distill``.
        recipe: whose teacher or student is trained.
    """

    name: str
    kind: Literal["teach", "distill"]
    recipe: Recipe

    @property
    def role(self) -> TeacherRole | StudentRole:
        """What it trains, and how."""
        return self.recipe.teacher if self.kind == "teach" else self.recipe.student


def stages_of(recipes: Sequence[Recipe], *, taught: bool = False) -> list[Stage]:
    """The first recipe's teacher, unless it is there already (``taught``), then each one's student.

    Raises:
        RecipeError: a recipe has another teacher than the student before it, or other data; or it
            weighs by a significance that nobody finds out.
    """
    if not recipes:
        raise RecipeError("a chain of no recipes: name one or more")
    for before, after in pairwise(recipes):
        made = before.student.model.model_copy(
            update={"reuse_classifier_dim": None}
        )  # that has no teacher
        if after.teacher.model != made:
            raise RecipeError(
                f"recipe {after.name} is taught by {_said(after.teacher.model)}, and the one "
                f"before it, {before.name}, makes {_said(made)}: set its "
                "teacher.model to that"
            )
        if after.data != before.data:
            raise RecipeError(
                f"recipes {before.name} and {after.name} differ in data: a chain has one data set"
            )
    for stage, after in pairwise(_stages(recipes, taught)):
        if after.recipe.student.weighted and not stage.role.gated:
            raise RecipeError(
                f"{after.name} weighs samples by the significance that {stage.name} gives them, "
                "which has no gate to find it out with: set its mode to regulated or hybrid, or "
                "its policy to self-regulation"
            )
    return _stages(recipes, taught)


def _stages(recipes: Sequence[Recipe], taught: bool) -> list[Stage]:
    kinds: list[Literal["teach", "distill"]] = ["distill"] * len(recipes)
    if not taught:
        kinds.insert(0, "teach")
    of = recipes if taught else [recipes[0], *recipes]
    names = ["assistant"] * len(kinds)
    names[0] = names[0] if taught else "teacher"
    names[-1] = "student"
    rows = zip(names, kinds, of, strict=True)
    return [
        Stage(f"{place}-{name}", kind, recipe)
        for place, (name, kind, recipe) in enumerate(rows, start=1)
    ]


def chain(
    recipes: Sequence[Recipe],
    out: StrPath,
    *,
    teacher: StrPath | None = None,
    begin: Callable[[Stage], Listener | None] = lambda stage: None,
    stop: Stop | None = None,
) -> dict[str, Any]:
    """Carry a chain out in the folder ``out``, a run folder a stage; returns what ``chain.json``
    there holds: ``stages``, and ``meters``, their sums.

    What is done is not run again, and a stage that was stopped goes on.

    Args:
        recipes: the student of each is the teacher of the next.
        out: the folder.
        teacher: of the first one, a folder, where it is trained already; it costs nothing here.
        begin: told of each stage as it begins; gives who is told of its epochs.
        stop: as in :func:`frugalkd.train_teacher`.

    Raises:
        RecipeError: the recipes make no chain.
        FrugalKDError: as in :func:`frugalkd.experiments.runs.execute.distill`.
    """
    out, teacher = named(out), None if teacher is None else named(teacher)
    stages = stages_of(recipes, taught=teacher is not None)
    make_folder(out)
    said = []
    for stage in stages:
        folder, told = out / stage.name, begin(stage)
        if stage.kind == "teach":
            results = teach(stage.recipe, folder, resume=True, listener=told, stop=stop)
        else:
            results = distill(
                stage.recipe, folder, teacher=teacher, resume=True, listener=told, stop=stop
            )
        said.append({
            "stage": stage.name,
            "kind": stage.kind,
            "model": _said(stage.role.model),
            "digest": results["digest"],
            "evaluation": results["evaluation"],
            "budget": results["budget"],
            "meters": results["meters"],
        })  # fmt: skip
        teacher = folder
    whole = {"schema": SCHEMA, "stages": said, "meters": summed([one["meters"] for one in said])}
    write_json(out / FILE, whole)
    return whole


def summed(meters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of several runs' meters, part by part; of memory the largest."""
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in meters for name in one):
        values = [one[name] for one in meters if name in one]
        if name == "peak_memory_bytes":
            total[name] = {part: max(v.get(part, 0) for v in values) for part in _parts(values)}
        elif isinstance(values[0], Mapping):
            total[name] = {part: sum(v.get(part, 0) for v in values) for part in _parts(values)}
        else:
            total[name] = sum(values)
    return total


def _parts(values: Sequence[Mapping[str, Any]]) -> list[str]:
    return list(dict.fromkeys(part for value in values for part in value))


def _said(model: ModelSettings) -> str:
    options = ", ".join(f"{name}={value}" for name, value in model.options.items())
    return f"{model.name or model.path}({options})"
