"""Tensors in files: weights, also those that others saved, and checkpoints. No pickle is read."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from frugalkd.errors import ModelError, RunFolderError, few, nearest, refuse_schema
from frugalkd.files import StrPath
from frugalkd.files.arrays import UNREADABLE, read_arrays, write_arrays
from frugalkd.files.parsing import one_line

_WEIGHTS, _TREE = "frugalkd-weights-crc32", "frugalkd-checkpoint"
_ALIGNMENT = 64
"""Bytes, to which torch aligns on a CPU."""
_TREE_SCHEMA = 4


def save_weights(path: Path, model: nn.Module) -> None:
    """Write ``model``'s state dict as safetensors, atomically, with a checksum that is compared
    when it is loaded. Raises WriteFailed."""
    write_arrays(path, _WEIGHTS, {name: _plain(t) for name, t in model.state_dict().items()}, "")


def load_weights(model: nn.Module, path: StrPath) -> None:
    """Fill ``model`` with a state dict: ``.safetensors``, or ``.pt``/``.pth`` read without
    pickle (``weights_only=True``). A state dict under the key ``state_dict`` or ``model`` is
    found. Raises ModelError."""
    path = Path(path)
    state = read_state(path)
    refuse_misfit(model.state_dict(), state, path)
    model.load_state_dict(state)


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """:func:`load_weights` of a state that was read from ``path``, for modules without loading
    hooks: its time does not grow with the square of the tensors. Raises ModelError."""
    own = model.state_dict()
    refuse_misfit(own, state, path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def refuse_misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ModelError unless ``state``, from the file ``path``, has ``own``'s names and
    shapes."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    parts = []
    if missing:
        hint = f" ({nearest(missing[0], unexpected[:20])})" if unexpected else ""
        parts.append(f"it lacks {few(missing)}{hint}")
    if unexpected:
        parts.append(f"it has the unknown {few(unexpected)}")
    if parts:
        raise ModelError(f"{path} does not fit the model: {'; '.join(parts)}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ModelError(
                f"{path} does not fit the model: {name} is {tuple(state[name].shape)} there and "
                f"{tuple(tensor.shape)} in the model"
            )


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict's file, by name, as :func:`load_weights` finds them. The file of
    another library, or of an earlier version, has no checksum. Raises ModelError."""
    if not path.is_file():
        raise ModelError(f"no weights at {path}")
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise ModelError(f"{path}: weights end in .safetensors, .pt, .pth or .bin")
    try:
        if path.suffix == ".safetensors":
            return read_arrays(path, _WEIGHTS, "pt")[0]
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                    raise ValueError("it is compressed, which torch.save does not do")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} holds more than weights, which would need pickle: save model.state_dict(), "
            "best as safetensors"
        ) from None
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or one_line(error)}") from None
    except Exception as error:  # a damaged file makes the readers fail in many ways
        reason = one_line(error) or type(error).__name__
        raise ModelError(
            f"{path} cannot be read as weights: {reason}; take a sound copy, or train it again"
        ) from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} is not a state dict: save model.state_dict()")
    return {str(name): tensor for name, tensor in state.items()}


def save_tree(path: Path, tree: Any) -> None:
    """Write nested dicts and lists of tensors and JSON values, atomically. Integer keys stay."""
    tensors: dict[str, Tensor] = {}
    text = json.dumps({"schema": _TREE_SCHEMA, "tree": _strip(tree, tensors)})
    write_arrays(path, _TREE, tensors, text)


def load_tree(path: Path) -> Any:
    """Read what :func:`save_tree` wrote. Raises RunFolderError."""
    try:
        tensors, text = read_arrays(path, _TREE, "pt")
    except (OSError, *UNREADABLE) as error:
        raise RunFolderError(f"{path} is not a readable checkpoint: {one_line(error)}") from None
    if text is None:
        raise RunFolderError(f"{path} is a safetensors file but not a checkpoint")
    try:
        about = json.loads(text)
        again = "resume with the version that wrote it"
        refuse_schema(about["schema"], _TREE_SCHEMA, path, RunFolderError, again)
        return _fill(about["tree"], tensors)
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError):
        raise RunFolderError(f"{path} is a damaged checkpoint") from None


def _plain(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().contiguous()


def _strip(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Moves the tensors of ``value`` to ``tensors``."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = _plain(value)
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[key, _strip(item, tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        return {"list": [_strip(item, tensors) for item in value]}
    return {"value": value}


def _aligned(tensor: Tensor) -> Tensor:
    """A tensor of a file, which begins anywhere in memory, as torch allocates one: the last bits of
    a matrix product depend on that, and a resumed training has to come to the same ones."""
    return tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor


def _fill(mark: dict[str, Any], tensors: dict[str, Tensor]) -> Any:
    ((kind, content),) = mark.items()
    if kind == "tensor":
        return _aligned(tensors[content])
    if kind == "dict":
        return {key: _fill(item, tensors) for key, item in content}
    if kind == "list":
        return [_fill(item, tensors) for item in content]
    return content
