"""What is to be estimated: the recipe's data and models, and what is known of the teacher."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data import Augmentation, Pictures
from frugalkd.errors import RecipeError, RunFolderError
from frugalkd.experiments.estimate.result import Share, exactly
from frugalkd.experiments.recipes.load import import_paths
from frugalkd.experiments.recipes.schema import Recipe, TeacherRole
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.material import make_data, make_model, make_teacher
from frugalkd.experiments.runs.targets import STORE_SEED, live_teacher
from frugalkd.files.parsing import one_line
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import SelfRegulation
from frugalkd.runtime.devices import resolve_device, use_threads
from frugalkd.runtime.imports import refuse_unlisted
from frugalkd.selection.inputs import weights_from
from frugalkd.teachers import LiveTeacher


@dataclass
class Setting:
    """One model pair and what is known of it.

    Attributes:
        recipe: the student's section counts.
        device: where everything runs.
        data: the student's training data, with its views.
        teacher_data: the same samples with the teacher's views.
        teacher_role: how the teacher is, or was, trained.
        live: the teacher, asked as it will be.
        known: whether its weights are those of a training.
        weights: float32 (samples,) of its significances, or None where there are none.
        counted: what its self-regulated training kept and screened, by its folder; or None.
        folder_seconds: what that training took, on whatever machine; or None.
        regulation: the student's gate.
        warnings: what to doubt the figures for.
    """

    recipe: Recipe
    device: torch.device
    data: Any
    teacher_data: Any
    teacher_role: TeacherRole
    live: LiveTeacher
    known: Literal["folder", "pretrained", "untrained"]
    weights: NDArray[np.float32] | None
    counted: Share | None
    folder_seconds: float | None
    regulation: SelfRegulation
    warnings: list[str] = field(default_factory=list)

    @property
    def samples(self) -> int:
        return len(self.data)


def prepare(recipe: Recipe, teacher: Path | None) -> Setting:
    """Read the data, make the models, and read what the teacher's folder says.

    Raises:
        LedgerError: the teacher's ledger is of other data.
        RecipeError: there are several teachers, or the student is its own.
        RunFolderError, ModelError, DataError: as a distillation would.
    """
    if recipe.student.teachers is not None or recipe.student.targets.kind == "ema":
        raise RecipeError(
            "an estimate reckons with one teacher that is trained before: set student.teachers to "
            "null, and student.targets.kind to stored or live"
        )
    use_threads(recipe.threads)
    device = resolve_device(recipe.device)
    data = make_data(recipe, recipe.student.augment, STORE_SEED).train
    results = None
    if teacher is not None and (teacher / "results.json").is_file():
        results = read_results(teacher)
    role = _role_of(results, recipe)
    untrained = teacher is None and recipe.teacher.weights is None
    if untrained:
        model = make_model(recipe.teacher.model, data, recipe.seed).eval()
    else:
        model = make_teacher(recipe, teacher, data)
    live = live_teacher(recipe, model.to(device), teacher)
    views = data
    if isinstance(data, Pictures):
        views = data.with_augmentation(Augmentation(role.augment.crop, role.augment.flip), 0)
    setting = Setting(
        recipe=recipe,
        device=device,
        data=data,
        teacher_data=views,
        teacher_role=role,
        live=live,
        known="untrained" if untrained else "pretrained" if teacher is None else "folder",
        weights=None,
        counted=None,
        folder_seconds=None,
        regulation=recipe.student.regulation,
    )
    _read_ledger(setting, teacher, results)
    _read_policy(setting)
    return setting


def _role_of(results: dict[str, Any] | None, recipe: Recipe) -> TeacherRole:
    """How the teacher was trained, by its folder; else how the recipe would train it."""
    if results is None or results.get("kind") != "teach":
        return recipe.teacher
    try:
        role = TeacherRole.model_validate(results["recipe"]["teacher"])
    except (KeyError, TypeError, ValueError):
        raise RunFolderError(
            "the teacher's results.json is damaged: it does not say how it was trained"
        ) from None
    # It is trained in miniature: what its folder names is followed where the recipe names it too.
    for path in (role.model.path, *role.objective.imports):
        if path is not None:
            refuse_unlisted(path, import_paths(recipe), "the teacher's results.json")
    if role.model.init_weights not in (None, recipe.teacher.model.init_weights):
        raise RunFolderError(
            f"the teacher's results.json names {one_line(role.model.init_weights)} to begin "
            "with, and the "
            "recipe does not: set teacher.model.init_weights to that"
        )
    return role


def _read_ledger(setting: Setting, teacher: Path | None, results: dict[str, Any] | None) -> None:
    if teacher is None or not (teacher / "ledger.safetensors").is_file():
        return
    ledger = Ledger.load(teacher)
    if (ledger.significance == 1).all():
        setting.warnings.append(
            "this teacher was trained conventionally: its ledger tells no sample from another, so "
            "significance and hybrid are only bounded"
        )
        return
    setting.weights = weights_from(ledger, setting.data, setting.recipe.student.gamma)
    if results is not None and results["kind"] == "teach":
        _count(setting, results)


def _count(setting: Setting, results: dict[str, Any]) -> None:
    """What the folder's training cost, in rows and in seconds."""
    try:
        meters, whole = results["meters"], results["train_samples"]
        whole *= setting.teacher_role.training.epochs
        kept = meters["samples_backpropagated"] / whole
        looked = meters["student_forwards"] / whole - kept
        setting.folder_seconds = float(meters["wall_seconds"])
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        raise RunFolderError(
            "the teacher's results.json is damaged: it does not say what its training cost"
        ) from None
    rate = looked / (1 - kept) if kept < 1 else 0.0
    setting.counted = Share(exactly(kept), screen_rate=rate)


def _read_policy(setting: Setting) -> None:
    """The gate that a recipe without a mode has, if it is ours."""
    role = setting.recipe.student
    if role.mode is not None or role.policy is None:
        return
    policy = role.policy.build()
    if isinstance(policy, SelfRegulation):
        setting.regulation = policy
        return
    setting.warnings.append(
        f"the recipe's own policy ({role.policy.name}) is not estimated: the rows "  # pyright: ignore[reportAttributeAccessIssue]
        "are the modes"
    )


def gate_of(role: TeacherRole) -> SelfRegulation:
    """The teacher's gate; the default one where it is trained conventionally."""
    policy = role.policy.build()
    return policy if isinstance(policy, SelfRegulation) else SelfRegulation()
