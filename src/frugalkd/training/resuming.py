"""Which training a checkpoint is of, so that no other one goes on from it."""

from __future__ import annotations

import hashlib
import re
from dataclasses import asdict
from typing import Any

import numpy as np
from torch import nn
from torch.utils.data import Dataset

from frugalkd.errors import RunFolderError
from frugalkd.models.identity import build_digest, differences, this_torch
from frugalkd.objectives import Objective
from frugalkd.policies import All, Policy
from frugalkd.teachers import Targets
from frugalkd.teachers.about import describe
from frugalkd.training.settings import Training

IDLE = ("num_workers", "fsdp")
"""Settings of a training that decide nothing of its result."""


def describe_training(
    model: nn.Module,
    data: Dataset,
    *,
    policy: Policy | None,
    objective: Objective,
    training: Training,
    label_free: bool,
    targets: Targets | None,
    teacher: nn.Module | None,
    **arrays: np.ndarray | None,
) -> dict[str, str]:
    """What decides a training's result, by name; ``model`` is trained, but for its weights, and
    ``arrays`` are of one value a sample.

    What has no text of its own that is the same in another process counts by its type.
    """
    asked = teacher if targets is None else None
    about = describe(asked, data) | getattr(targets, "about", {})
    about |= {**this_torch(), "model": build_digest(model)}
    about |= {"policy": str(policy or All()), "objective": str(objective)}
    about["labels"] = "not read" if label_free else "read"
    about["soft targets"] = "none"
    if targets is not None:
        about["soft targets"] = f"views {targets.views}, temperature {targets.temperature}"
    about |= {f"training.{name}": str(value) for name, value in asdict(training).items()}
    for name, values in arrays.items():
        about[name] = "none" if values is None else hashlib.sha256(values.tobytes()).hexdigest()
    for name in IDLE:
        del about[f"training.{name}"]
    return {name: re.sub(r" at 0x[0-9a-f]+", "", text) for name, text in about.items()}


def check_same_training(kept: dict[str, Any], about: dict[str, str]) -> None:
    """Refuse to go on with ``about`` from a checkpoint of ``kept``.

    Raises:
        RunFolderError: naming in what they differ.
    """
    differing = differences(kept, about, "the checkpoint")
    if differing:
        raise RunFolderError(
            f"the checkpoint is of another training (other {', '.join(differing[:4])}"
            f"{', ...' if len(differing) > 4 else ''}): give what it was made with, or start anew "
            "in another folder"
        )
