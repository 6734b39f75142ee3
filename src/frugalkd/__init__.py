"""frugalkd: distil a model with a fraction of the samples, and with a fraction of the time.

The public names below are imported when they are first used, so that ``import frugalkd`` and the
command line's ``--help`` do not wait for torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from frugalkd.data import Augmentation, ImageData, load_data
    from frugalkd.errors import FrugalKDError
    from frugalkd.experiments.comparison import compare
    from frugalkd.ledger.ledger import Ledger
    from frugalkd.models import build_model
    from frugalkd.models.initial import reuse_classifier
    from frugalkd.models.saved import load
    from frugalkd.objectives import KD, CrossEntropy, Objective
    from frugalkd.policies import All, Policy, RandomSubset, Sampling, SelfRegulation
    from frugalkd.policies.modes import significance_weights
    from frugalkd.runtime.meters import Meters
    from frugalkd.selection import DataLoading, Selection
    from frugalkd.selection.observer import gate
    from frugalkd.teachers import (
        EMATeacher,
        FirstVisitTargets,
        LiveTeacher,
        SeveralTeachers,
        StoredTargets,
        Targets,
    )
    from frugalkd.training.api import distill, train_teacher
    from frugalkd.training.heads import train_head
    from frugalkd.training.run import Run
    from frugalkd.training.settings import Checkpointing, Optimizer, RunOptions, Schedule, Training

_NAMES_OF = {
    "data": "Augmentation ImageData load_data",
    "errors": "FrugalKDError",
    "experiments.comparison": "compare",
    "ledger.ledger": "Ledger",
    "models": "build_model",
    "models.initial": "reuse_classifier",
    "models.saved": "load",
    "objectives": "CrossEntropy KD Objective",
    "policies": "All Policy RandomSubset Sampling SelfRegulation",
    "policies.modes": "significance_weights",
    "runtime.meters": "Meters",
    "selection": "DataLoading Selection",
    "selection.observer": "gate",
    "teachers": ("EMATeacher FirstVisitTargets LiveTeacher SeveralTeachers StoredTargets Targets"),
    "training.api": "distill train_teacher",
    "training.heads": "train_head",
    "training.run": "Run",
    "training.settings": "Checkpointing Optimizer RunOptions Schedule Training",
}
_HOMES = {name: module for module, names in _NAMES_OF.items() for name in names.split()}

__all__ = [
    "KD", "All", "Augmentation", "Checkpointing", "CrossEntropy", "DataLoading", "EMATeacher",
    "FirstVisitTargets", "FrugalKDError", "ImageData", "Ledger", "LiveTeacher", "Meters",
    "Objective", "Optimizer", "Policy", "RandomSubset", "Run", "RunOptions", "Sampling", "Schedule",
    "Selection", "SelfRegulation", "SeveralTeachers", "StoredTargets", "Targets", "Training",
    "build_model", "compare", "distill", "gate", "load", "load_data", "reuse_classifier",
    "significance_weights", "train_head", "train_teacher",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'frugalkd' has no attribute {name!r}")
    return getattr(import_module(f"frugalkd.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
