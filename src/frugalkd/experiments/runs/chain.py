"""Teacher assistants (Mirzadeh et al., AAAI 2020, arXiv 1902.03393): recipes in a chain, in which
each student is the teacher of the next."""

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
from frugalkd.models.building import ModelSettings
from frugalkd.training.settings import Listener, Stop

FILE, SCHEMA = "chain.json", 1


@dataclass(frozen=True)
class Stage:
    """One training of a chain; ``name`` is that of its folder: ``1-teacher``, ``2-assistant``."""

    name: str
    kind: Literal["teach", "distill"]
    recipe: Recipe

    @property
    def role(self) -> TeacherRole | StudentRole:
        """Its model, and how it is trained."""
        return self.recipe.teacher if self.kind == "teach" else self.recipe.student


def stages_of(recipes: Sequence[Recipe], *, taught: bool = False) -> list[Stage]:
    """The first recipe's teacher, unless it is trained already (``taught``), then each student.
    Raises RecipeError: a recipe has another teacher than the student before it, or other data; or
    it weighs by a significance that no ledger has."""
    if not recipes:
        raise RecipeError("a chain of no recipes: name one or more")
    for before, after in pairwise(recipes):
        # Weights that reuse a teacher's classifier do not belong to the model itself.
        made = before.student.model.model_copy(update={"reuse_classifier_dim": None})
        if after.teacher.model != made:
            raise RecipeError(
                f"recipe {after.name} is taught by {_describe(after.teacher.model)}, and the one "
                f"before it, {before.name}, makes {_describe(made)}: set its teacher.model to that"
            )
        if after.data != before.data:
            raise RecipeError(
                f"recipes {before.name} and {after.name} differ in data: a chain has one data set"
            )
    given = taught or recipes[0].teacher.weights is not None
    stages = [] if given else [Stage("1-teacher", "teach", recipes[0])]
    for place, recipe in enumerate(recipes, start=1):
        name = "student" if place == len(recipes) else "assistant"
        stages.append(Stage(f"{len(stages) + 1}-{name}", "distill", recipe))
    for stage, after in pairwise(stages):
        if after.recipe.student.weighted and not stage.role.gated:
            raise RecipeError(
                f"{after.name} weighs samples by the significance that {stage.name} gives them, "
                "which has no gate: set its mode to regulated or hybrid, or its policy to "
                "self-regulation"
            )
    return stages


def chain(
    recipes: Sequence[Recipe],
    out: StrPath,
    *,
    teacher: StrPath | None = None,
    begin: Callable[[Stage], Listener | None] = lambda stage: None,
    should_stop: Stop | None = None,
) -> dict[str, Any]:
    """Run a chain in the folder ``out``, a run folder a stage; returns the content of
    ``chain.json`` there: ``stages``, and ``meters``, their sums. Finished stages are not run again,
    and a stopped one is resumed.

    Args:
        teacher: of the first one, a folder, where it is trained already; it costs nothing here.
        begin: called as each stage begins; returns a function that receives its epochs' records.
        should_stop: as in :class:`frugalkd.RunOptions`.

    Raises:
        RecipeError: the recipes make no chain.
        FrugalKDError: as in :func:`frugalkd.experiments.runs.execute.distill`.
    """
    out, teacher = named(out), None if teacher is None else named(teacher)
    stages = stages_of(recipes, taught=teacher is not None)
    make_folder(out)
    finished = []
    for stage in stages:
        folder = out / stage.name
        keywords: dict[str, Any] = {"on_epoch_end": begin(stage), "should_stop": should_stop}
        if stage.kind == "teach":
            results = teach(stage.recipe, folder, resume=True, **keywords)
        else:
            results = distill(stage.recipe, folder, teacher=teacher, resume=True, **keywords)
        copied = {name: results[name] for name in ("digest", "evaluation", "budget", "meters")}
        model = _describe(stage.role.model)
        finished.append({"stage": stage.name, "kind": stage.kind, "model": model, **copied})
        teacher = folder
    meters = summed([stage["meters"] for stage in finished])
    whole = {"schema": SCHEMA, "stages": finished, "meters": meters}
    write_json(out / FILE, whole)
    return whole


def summed(meters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of several runs' meters, part by part; of memory the largest."""
    total: dict[str, Any] = {}
    for name in dict.fromkeys(name for one in meters for name in one):
        values = [one[name] for one in meters if name in one]
        if not isinstance(values[0], Mapping):
            total[name] = sum(values)
            continue
        join = max if name == "peak_memory_bytes" else sum
        parts = dict.fromkeys(part for value in values for part in value)
        total[name] = {part: join(value.get(part, 0) for value in values) for part in parts}
    return total


def _describe(model: ModelSettings) -> str:
    options = ", ".join(f"{name}={value}" for name, value in model.options.items())
    return f"{model.name or model.path}({options})"
