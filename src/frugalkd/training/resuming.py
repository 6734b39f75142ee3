"""Which training a checkpoint is of, so that no other training resumes from it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from typing import Any

from torch import nn
from torch.utils.data import Dataset

from frugalkd.errors import RunFolderError
from frugalkd.models.identity import build_digest, differences, this_torch
from frugalkd.objectives import Objective
from frugalkd.policies import Sampling
from frugalkd.selection.inputs import weights_of
from frugalkd.teachers import Targets
from frugalkd.teachers.about import describe
from frugalkd.training.settings import Training

IDLE = ("num_workers", "fsdp")
"""Settings of a training that do not change its result."""


def describe_training(
    model: nn.Module,
    dataset: Dataset,
    *,
    sampling: Sampling,
    objective: Objective,
    training: Training,
    targets: Targets | None,
    teacher: nn.Module | None,
) -> dict[str, str]:
    """What decides a training's result, by name, except the weights of ``model``, which is trained.
    What has no text that is the same in another process counts by its type."""
    about = describe(teacher if targets is None else None, dataset) | getattr(targets, "about", {})
    about |= {**this_torch(), "model": build_digest(model)}
    about |= {"policy": str(sampling.chosen_policy), "objective": str(objective)}
    about["labels"] = "not read" if sampling.label_free else "read"
    about["soft targets"] = "none"
    if targets is not None:
        about["soft targets"] = f"views {targets.views}, temperature {targets.temperature}"
    settings = asdict(training)
    about |= {f"training.{key}": str(settings[key]) for key in settings if key not in IDLE}
    arrays = {"weights": weights_of(sampling, dataset), "scores": sampling.scores}
    for name, values in arrays.items():
        about[name] = "none" if values is None else hashlib.sha256(values.tobytes()).hexdigest()
    return {name: re.sub(r" at 0x[0-9a-f]+", "", text) for name, text in about.items()}


def check_same_training(kept: dict[str, Any], about: dict[str, str]) -> None:
    """Raises RunFolderError, naming what differs, unless a checkpoint's ``kept`` is ``about``."""
    differing = differences(kept, about, "the checkpoint")
    if differing:
        raise RunFolderError(
            f"the checkpoint is of another training (other {', '.join(differing[:4])}"
            f"{', ...' if len(differing) > 4 else ''}): give what it was made with, or start in "
            "another folder"
        )
