"""Models back from run folders, with their preprocessing and class names; weights from files."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.batches import call
from frugalkd.checkpoint import checksum
from frugalkd.errors import FrugalKDError, ModelError, RunFolderError, nearest
from frugalkd.files import write_atomic
from frugalkd.imports import make_object, refuse_unlisted
from frugalkd.looking import looking
from frugalkd.models import build_model, build_text_model
from frugalkd.parsing import LARGEST_JSON, header_bytes, one_line
from frugalkd.runs.folder import read_json
from frugalkd.runs.preprocess import Preprocess, TextPreprocess

_LONGEST_NAME = 255
"""Bytes of a file's name, on the file systems that there are."""

_CHECKSUM = "frugalkd-weights-crc32"
_AGAIN = "take a sound copy, or train it again"


@dataclass(frozen=True)
class Loaded:
    """A model from a run folder.

    Attributes:
        model: in eval mode, on the CPU.
        preprocess: raw images -> normalised float32 (N, C, H, W); None where the run's data were
            the user's own and only they know how to prepare a picture.
        classes: the names of the classes, or () where the run does not know them.
        card: ``model.json`` as it is.
        texts: raw texts -> token ids; None where the model is not one of texts.
    """

    model: nn.Module
    preprocess: Preprocess | None
    classes: tuple[str, ...]
    card: dict[str, Any]
    texts: TextPreprocess | None = None

    def predict(
        self, images: Any, *, batch_size: int = 1000
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes int64 (N,) and probabilities float32 (N, classes) of raw ``images``, in any form
        that :class:`Preprocess` takes; or, for a model of texts, of a text or a list of them.

        Raises:
            ModelError: the run has no preprocessing of its own.
            DataError: the images do not fit.
        """
        if self.texts is not None:
            return self._asked(self.texts.batches(images, batch_size))
        if self.preprocess is None:
            raise ModelError(
                "this model was trained on a data set of your own: prepare a batch as that does, "
                "and call .model on it"
            )
        # One batch at a time becomes float32, four times the size of the pixels.
        arrays = self.preprocess.pixels(images)
        normalise = self.preprocess.normalise
        return self._asked(
            normalise(arrays[start : start + batch_size])
            for start in range(0, len(arrays), batch_size)
        )

    def _asked(self, batches: Iterable[Any]) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """What the model says of all batches of inputs."""
        device = next(self.model.parameters()).device
        with looking(self.model):
            parts = [
                torch.softmax(call(self.model, send_to_device(batch, device)).float(), dim=1).cpu()
                for batch in batches
            ]
        if not parts:
            return np.empty(0, np.int64), np.empty((0, len(self.classes)), np.float32)
        probabilities = torch.cat(parts).numpy()
        return probabilities.argmax(axis=1), probabilities


def load(path: str | Path, *, imports: Collection[str] = ()) -> Loaded:
    """The model of a run folder made by ``frugalkd teach`` or ``frugalkd distill``.

    Args:
        path: the folder.
        imports: import paths (``package.module:Name``) that ``model.json`` may name. Following one
            can run any code, and so nothing is followed that the caller does not name.

    Raises:
        ImportRefused: the model is made by an import path that is not among ``imports``.
        RunFolderError: no such folder, or no model in it, or a damaged ``model.json``.
        ModelError: the model cannot be built, or the weights do not fit it.
    """
    path = Path(path)
    if not path.is_dir():
        raise RunFolderError(f"no folder {path}: make one with 'frugalkd teach' or 'distill'")
    if not (path / "model.json").is_file():
        raise RunFolderError(f"{path} holds no finished model (no model.json)")
    card = read_json(path / "model.json")
    try:
        weights = _inside(path, card["weights"])
        if "path" in card["model"]:
            refuse_unlisted(str(card["model"]["path"]), imports, str(path / "model.json"))
        model = _build(card, weights)
        preprocess = Preprocess.of(card) if "shape" in card else None
        texts = TextPreprocess.of(card) if "vocabulary" in card else None
        classes = tuple(str(name) for name in card.get("classes", ()))
    except FrugalKDError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        reason = one_line(f"{type(error).__name__}: {error}")
        raise RunFolderError(f"{path / 'model.json'} is damaged ({reason})") from None
    return Loaded(model.eval(), preprocess, classes, card, texts)


def _inside(folder: Path, name: Any) -> Path:
    """The file ``name`` of ``folder``, and of no other."""
    if (
        not isinstance(name, str)
        or Path(name).name != name
        or name in ("", "..")
        or "\\" in name
        or not name.isprintable()
        or len(name.encode()) > _LONGEST_NAME
    ):
        raise RunFolderError(
            f"{folder / 'model.json'} names the weights {str(name)[:100]!r}: only a file in the "
            "same folder is read"
        )
    return folder / name


def _build(card: Mapping[str, Any], weights: Path) -> nn.Module:
    """The card's model with its weights. What the card claims takes no memory before the weights
    are known to fit it."""
    spec = card["model"]
    options = dict(spec.get("options", {}))
    # Building draws weights that are thrown away: the caller's random stream is not touched.
    with torch.random.fork_rng(devices=[]):
        if "path" in spec:
            model = make_object(spec["path"], options)
            if not isinstance(model, nn.Module):
                raise ModelError(f"{spec['path']} made a {type(model).__name__}, not a module")
            load_weights(model, weights)
            return model

        def build() -> nn.Module:
            if "vocabulary" in card:
                if spec["name"] == "text-encoder":  # its weights are all in the file
                    options["pretrained"] = False
                return build_text_model(
                    spec["name"],
                    num_classes=card["num_classes"],
                    vocabulary=card["vocabulary"],
                    **options,
                )
            channels, height, width = card["shape"]
            return build_model(
                spec["name"],
                num_classes=card["num_classes"],
                in_channels=channels,
                image_size=(height, width),
                **options,
            )

        state = _read_state(weights)
        with torch.device("meta"):
            _refuse_misfit(build().state_dict(), state, weights)
        model = build()
        model.load_state_dict(state)
        return model


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


def load_weights(model: nn.Module, path: str | Path) -> None:
    """Fill ``model`` with a state dict: ``.safetensors``, or ``.pt``/``.pth`` read without pickle
    (``weights_only=True``). A state dict under the key ``state_dict`` or ``model`` is found.

    Raises:
        ModelError: the file is missing, unreadable, damaged or of another kind, or does not fit the
            model.
    """
    path = Path(path)
    state = _read_state(path)
    _refuse_misfit(model.state_dict(), state, path)
    model.load_state_dict(state)


def _refuse_misfit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Raises ModelError unless ``state`` from ``path`` has ``own``'s names and shapes."""
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


def _read_state(path: Path) -> dict[str, Tensor]:
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
