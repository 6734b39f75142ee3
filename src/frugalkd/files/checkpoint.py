"""Checkpoints: a tree of plain values and tensors in one safetensors file, no pickle."""

from __future__ import annotations

import fnmatch
import json
import random
import time
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from frugalkd.errors import FrugalKDWarning, RunFolderError
from frugalkd.files import StrPath
from frugalkd.files.atomic import write_atomic
from frugalkd.files.opening import list_folder, named, remove
from frugalkd.files.parsing import LARGEST_JSON, header_bytes, one_line
from frugalkd.files.writing import make_folder, writing
from frugalkd.training import Checkpointing

_FORMAT, _SCHEMA = "frugalkd-checkpoint", "2"


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts and lists of tensors and JSON values, atomically.

    Keys that are integers come back as integers (optimisers number their parameters).
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_strip(tree, tensors))
    meta = {"format": _FORMAT, "schema": _SCHEMA, "tree": text, "crc32": checksum(text, tensors)}
    write_atomic(path, serialise(tensors, metadata=meta))


def load_tree(path: Path) -> Any:
    """Read what :func:`save_tree` wrote.

    Raises:
        RunFolderError: the file is missing, damaged, or no checkpoint.
    """
    try:
        if header_bytes(path) > LARGEST_JSON:
            raise RunFolderError(f"{path} is not a readable checkpoint: its header is too large")
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} is not a readable checkpoint: {one_line(error)}") from None
    if meta.get("format") != _FORMAT:
        raise RunFolderError(f"{path} is a safetensors file but not a checkpoint")
    if meta.get("schema") != _SCHEMA:
        raise RunFolderError(
            f"{path} is not of schema {_SCHEMA}: another version of frugalkd wrote it; go on with "
            "that version"
        )
    try:
        if meta["crc32"] != checksum(meta["tree"], tensors):
            raise ValueError("checksum")
        return _fill(json.loads(meta["tree"]), tensors)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError):
        raise RunFolderError(f"{path} is a damaged checkpoint") from None


def checksum(text: str, tensors: dict[str, Tensor]) -> str:
    """CRC-32 (8 hex digits) of a text and of tensors in main memory with their names: of all that a
    checkpoint holds, since a flipped bit would be trained on."""
    crc = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name]
        crc = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), crc)
        flat = tensor.as_strided((tensor.numel(),), (1,))  # contiguous, whatever a size of 1 says
        crc = zlib.crc32(flat.view(torch.uint8).numpy().data, crc)
    return f"{crc:08x}"


def _strip(value: Any, tensors: dict[str, Tensor]) -> Any:
    """``value`` with its tensors moved to ``tensors`` and a mark in their place."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _strip(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_strip(item, tensors) for item in value]}
    return {"value": value}


def _fill(mark: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = mark.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "dict":
        return {key: _fill(item, tensors) for key, item in content}
    if kind == "list":
        return [_fill(item, tensors) for item in content]
    return content


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
