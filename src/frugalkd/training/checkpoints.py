"""Checkpoints: when they are saved, which are kept, and which training they are of."""

from __future__ import annotations

import fnmatch
import hashlib
import random
import time
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from frugalkd.distributed.ranks import Agreed, Ranks, text_of
from frugalkd.errors import FrugalKDWarning, RunFolderError, few
from frugalkd.files import StrPath
from frugalkd.files.opening import list_folder, named, remove
from frugalkd.files.tensors import load_tree, save_tree
from frugalkd.files.writing import make_folder, writing
from frugalkd.models.identity import build_digest, differences, this_torch
from frugalkd.objectives import Objective
from frugalkd.policies import Sampling
from frugalkd.selection.inputs import weights_of
from frugalkd.teachers import Targets
from frugalkd.teachers.live import describe
from frugalkd.training.settings import Checkpointing, Training

IDLE = ("num_workers", "fsdp")
"""Settings of a training that do not change its result."""


class Checkpoints:
    """The checkpoints of one training, in their own ``folder``, which the first rank makes with the
    first of them."""

    def __init__(self, folder: StrPath, settings: Checkpointing, ranks: Ranks | None = None):
        self.folder, self._settings, self._ranks = named(folder), settings, ranks or Ranks()
        self._last, self._step = time.monotonic(), 0
        self._late = Agreed(self._ranks, self._is_late)

    def due(self, step: int) -> bool:
        """Whether the settings' steps or minutes have passed after ``step`` steps. Every rank has
        to call this, and gets the same answer."""
        self._step = step
        return self._late()

    def _is_late(self) -> bool:
        steps, minutes = self._settings.steps, self._settings.minutes
        late = minutes > 0 and time.monotonic() - self._last >= 60 * minutes
        return self._ranks.first and (late or (steps > 0 and self._step % steps == 0))

    def save(self, epoch: int, step: int, tree: Any) -> None:
        """Write one on the first rank: ``epoch`` epochs and ``step`` steps are done. Once it is
        written, all but the newest ``keep`` are deleted, and those of a run that was not resumed.
        Raises WriteFailed."""
        if not self._ranks.first:
            return
        make_folder(self.folder)
        path = self.folder / f"epoch-{epoch:05d}-step-{step:09d}.safetensors"
        save_tree(path, tree)
        older = [other for other in self._found() if other < path]
        later = [other for other in self._found() if other > path]
        for other in [*older[: max(0, len(older) + 1 - self._settings.keep)], *later]:
            with writing(other):
                remove(other)
        self._last = time.monotonic()

    def newest(self) -> Any:
        """What the newest readable checkpoint holds; None without any checkpoint. Raises
        RunFolderError where none of them can be read."""
        found = self._found()
        for path in reversed(found):
            try:
                return load_tree(path)
            except RunFolderError as error:
                if path == found[0]:
                    raise RunFolderError(
                        f"{error}; there is no other: delete {self.folder} and start again"
                    ) from None
                warnings.warn(
                    f"{error}: resuming from the one before it", FrugalKDWarning, stacklevel=2
                )
        return None

    def _found(self) -> list[Path]:
        names = fnmatch.filter(list_folder(self.folder), "epoch-*.safetensors")
        return [self.folder / name for name in names]


def random_state(device: torch.device) -> dict[str, Any]:
    """The global random streams that a model or a data set may draw from."""
    kind, keys, *rest = np.random.get_state(legacy=True)
    numpys = [kind, np.asarray(keys).tolist(), *rest]
    state: dict[str, Any] = {
        "cpu": torch.get_rng_state(),
        "python": random.getstate(),
        "numpy": numpys,
    }
    if device.type != "cpu":
        state[device.type] = torch.get_device_module(device).get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    if device.type != "cpu" and device.type in state:  # else it was made on another device
        torch.get_device_module(device).set_rng_state(state[device.type])


def describe_choice(
    *,
    dataset: Dataset,
    sampling: Sampling,
    objective: Objective | None,
    targets: Targets | None,
    teacher: nn.Module | None,
) -> dict[str, str]:
    """What decides which samples are used and what is learned from them, by name. What has no text
    that is the same in another process counts by its type."""
    known = getattr(targets, "about", None)
    about = describe(teacher if known is None else None, dataset) | (known or {}) | this_torch()
    about["policy"], about["cost"] = str(sampling.chosen_policy), str(sampling.cost)
    about["objective"] = "the trainer's own" if objective is None else str(objective)
    about["labels"] = "not read" if sampling.label_free else "read"
    about["soft targets"] = "none"
    if targets is not None:
        about["soft targets"] = f"views {targets.views}, temperature {targets.temperature}"
    arrays = {"weights": weights_of(sampling, dataset), "scores": sampling.scores}
    for name, given in arrays.items():
        kind = np.float32 if name == "weights" else np.float64
        values = None if given is None else np.ascontiguousarray(given, dtype=kind)
        about[name] = "none" if values is None else hashlib.sha256(values.tobytes()).hexdigest()
    return {name: text_of(text) for name, text in about.items()}


def describe_training(model: nn.Module, training: Training, **choice: Any) -> dict[str, str]:
    """What decides a training's result, by name, except the weights of ``model``, which is trained.
    ``choice``: as of :func:`describe_choice`."""
    own = {"model": build_digest(model)}
    settings = asdict(training)
    own |= {f"training.{key}": str(settings[key]) for key in settings if key not in IDLE}
    return describe_choice(**choice) | {name: text_of(text) for name, text in own.items()}


def check_same_training(kept: dict[str, Any], about: dict[str, str]) -> None:
    """Raises RunFolderError, naming what differs, unless a checkpoint's ``kept`` is ``about``."""
    differing = differences(kept, about, "the checkpoint")
    if differing:
        raise RunFolderError(
            f"the checkpoint is of another training (other {few(differing)}): give what it was "
            "made with, or start in another folder"
        )
