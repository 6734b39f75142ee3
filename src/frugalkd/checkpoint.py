"""Checkpoints: a tree of plain values and tensors in one safetensors file, no pickle."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from frugalkd.errors import RunFolderError
from frugalkd.files import write_atomic

_FORMAT = "frugalkd-checkpoint"


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts and lists of tensors and JSON values, atomically.

    Keys that are integers come back as integers (optimisers number their parameters).
    """
    tensors: dict[str, Tensor] = {}
    plain = _strip(tree, tensors)
    meta = {"format": _FORMAT, "schema": "1", "tree": json.dumps(plain)}
    write_atomic(path, serialise(tensors, metadata=meta))


def load_tree(path: Path) -> Any:
    """Read what :func:`save_tree` wrote.

    Raises:
        RunFolderError: the file is missing, damaged, or no checkpoint.
    """
    try:
        with safe_open(path, framework="pt") as file:
            meta = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise RunFolderError(f"{path} is not a readable checkpoint: {error}") from None
    if meta.get("format") != _FORMAT or meta.get("schema") != "1":
        raise RunFolderError(f"{path} is not a checkpoint of schema 1")
    try:
        return _fill(json.loads(meta["tree"]), tensors)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError):
        raise RunFolderError(f"{path} is a damaged checkpoint") from None


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


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The global random streams that a model may draw from (dropout)."""
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    """Put back what :func:`random_state` gave."""
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)
