"""Weights in files: safetensors with a checksum, and what others saved, read without pickle."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from frugalkd.errors import ModelError, nearest
from frugalkd.files import StrPath
from frugalkd.files.atomic import write_atomic
from frugalkd.files.checkpoint import checksum
from frugalkd.files.parsing import LARGEST_JSON, header_bytes, one_line

_CHECKSUM = "frugalkd-weights-crc32"
_AGAIN = "take a sound copy, or train it again"


def save_weights(path: Path, model: nn.Module) -> None:
    """Write ``model``'s state dict as safetensors, atomically, with a checksum that is compared
    when it is loaded. Raises WriteFailed."""
    # Copies: safetensors takes no two names of one tensor.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in model.state_dict().items()
    }
    # One entry: safetensors writes several in an order of its own, other bytes each time.
    write_atomic(path, safetensors.torch.save(state, {_CHECKSUM: checksum("", state)}))


def load_weights(model: nn.Module, path: StrPath) -> None:
    """Fill ``model`` with a state dict: ``.safetensors``, or ``.pt``/``.pth`` read without pickle
    (``weights_only=True``). A state dict under the key ``state_dict`` or ``model`` is found.

    Raises:
        ModelError: the file is missing, unreadable, damaged or of another kind, or does not fit the
            model.
    """
    path = Path(path)
    state = read_state(path)
    refuse_misfit(model.state_dict(), state, path)
    model.load_state_dict(state)


def fill(model: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """As :func:`load_weights`, of a state that is read already, for a model whose modules load
    nothing in a way of their own: in time that grows with the tensors, not with their square.
    Raises ModelError where it does not fit."""
    own = model.state_dict()
    refuse_misfit(own, state, path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def refuse_misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ModelError unless ``state``, from the file ``path``, has ``own``'s names and
    shapes."""
    missing, unexpected = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    if missing or unexpected:
        raise ModelError(f"{path} does not fit the model: {_difference(missing, unexpected)}")
    for name, tensor in own.items():
        if tensor.shape != state[name].shape:
            raise ModelError(
                f"{path} does not fit the model: {name} is {tuple(state[name].shape)} there and "
                f"{tuple(tensor.shape)} in the model"
            )


def _difference(missing: list[str], unexpected: list[str]) -> str:
    parts = []
    for what, names, others in (
        ("it lacks", missing, unexpected),
        ("it has the unknown", unexpected, missing),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            hint = f" ({nearest(names[0], others[:20])})" if others and what == "it lacks" else ""
            parts.append(f"{what} {names[0]}{more}{hint}")
    return "; ".join(parts)


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a state dict's file, by name, as :func:`load_weights` finds them. Raises
    ModelError."""
    if not path.is_file():
        raise ModelError(f"no weights at {path}")
    try:
        if path.suffix == ".safetensors":
            if header_bytes(path) > LARGEST_JSON:
                raise ModelError(
                    f"{path} cannot be read as weights: its header is too large; {_AGAIN}"
                )
            return _checked_state(path)
        if path.suffix not in (".pt", ".pth", ".bin"):
            raise ModelError(f"{path}: weights end in .safetensors, .pt, .pth or .bin")
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                    raise ModelError(f"{path} is compressed, which torch.save does not do: refused")
        state = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise ModelError(
            f"{path} holds more than weights, which would need pickle: save model.state_dict(), "
            "best as safetensors"
        ) from None
    except ModelError:
        raise
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror or one_line(error)}") from None
    except Exception as error:  # a damaged file makes the readers fail in many ways
        reason = one_line(error) or type(error).__name__
        raise ModelError(f"{path} cannot be read as weights: {reason}; {_AGAIN}") from None
    for key in ("state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(key), dict):
            state = state[key]
    if not isinstance(state, dict) or not all(isinstance(v, Tensor) for v in state.values()):
        raise ModelError(f"{path} is not a state dict: save model.state_dict()")
    return {str(name): tensor for name, tensor in state.items()}


def _checked_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, which are those that were saved where it has a checksum:
    those of others and of earlier versions have none."""
    with safetensors.safe_open(path, framework="pt") as file:
        said = (file.metadata() or {}).get(_CHECKSUM)
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    if said is not None and said != checksum("", state):
        raise ModelError(f"{path} is damaged: its checksum is wrong; {_AGAIN}")
    return state
