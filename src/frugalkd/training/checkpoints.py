"""When checkpoints are written, which ones stay, and what they hold of the random streams."""

from __future__ import annotations

import fnmatch
import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from frugalkd.errors import FrugalKDWarning, RunFolderError
from frugalkd.files import StrPath
from frugalkd.files.opening import list_folder, named, remove
from frugalkd.files.tensors import load_tree, save_tree
from frugalkd.files.writing import make_folder, writing
from frugalkd.training.settings import Checkpointing


class Checkpoints:
    """The checkpoints of one training, in a folder of their own.

    Args:
        folder: made when the first one is written.
        settings: when to write, how many to keep.
    """

    def __init__(self, folder: StrPath, settings: Checkpointing):
        self.folder, self._settings = named(folder), settings
        self._last = time.monotonic()

    def due(self, step: int) -> bool:
        """Whether one is to be written after ``step`` steps, counted from 1."""
        steps, minutes = self._settings.steps, self._settings.minutes
        late = minutes > 0 and time.monotonic() - self._last >= 60 * minutes
        return late or (steps > 0 and step % steps == 0)

    def save(self, epoch: int, step: int, tree: Any) -> None:
        """Write one: ``epoch`` epochs and ``step`` steps are done. Once it is safe, all go but the
        newest ``keep``; those of a run that was not gone on with are among what goes. Raises
        WriteFailed."""
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
        """What the newest readable checkpoint holds, None where there is none at all.

        Raises:
            RunFolderError: there are some, and none can be read.
        """
        found = self._found()
        for path in reversed(found):
            try:
                return load_tree(path)
            except RunFolderError as error:
                if path == found[0]:
                    raise RunFolderError(
                        f"{error}; there is no other: delete {self.folder} and start anew"
                    ) from None
                warnings.warn(
                    f"{error}: going on from the one before it", FrugalKDWarning, stacklevel=2
                )
        return None

    def _found(self) -> list[Path]:
        names = fnmatch.filter(list_folder(self.folder), "epoch-*.safetensors")
        return [self.folder / name for name in names]


def random_state(device: torch.device) -> dict[str, Any]:
    """The global random streams that a model or a data set may draw from."""
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state = {
        "cpu": torch.get_rng_state(),
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), position, has_gauss, cached],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    if device.type == "mps":
        state["mps"] = torch.mps.get_rng_state()
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), *rest))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
    if device.type == "mps" and "mps" in state:
        torch.mps.set_rng_state(state["mps"])
