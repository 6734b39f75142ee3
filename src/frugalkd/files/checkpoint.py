"""Checkpoints: a tree of plain values and tensors in one safetensors file, no pickle."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor

from frugalkd.errors import RunFolderError
from frugalkd.files.atomic import write_atomic
from frugalkd.files.parsing import LARGEST_JSON, header_bytes, one_line

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
