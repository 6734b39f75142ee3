"""Saved models: a file of weights, and the card that says how to build and feed the model. A card
from elsewhere may claim any size: the model may be no larger than the weights require."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from pydantic import BaseModel, Field, FiniteFloat, ValidationError
from torch import Tensor, nn
from torch.nn.modules import module as registering
from torch.overrides import TorchFunctionMode
from torch.utils.data import Dataset

from frugalkd.data.batches import call, run_model
from frugalkd.data.class_names import class_names
from frugalkd.data.images import rows_at_once
from frugalkd.data.table import Column, Columns
from frugalkd.data.text import from_transformers
from frugalkd.errors import FrugalKDError, ModelError, RunFolderError, TargetsError
from frugalkd.files import StrPath, path_of
from frugalkd.files.parsing import one_line, read_json
from frugalkd.files.tensors import fill, load_weights, read_state, refuse_misfit
from frugalkd.files.writing import write_json
from frugalkd.models import ENCODERS
from frugalkd.models import export as exporting
from frugalkd.models.building import (
    ModelSettings,
    add_input_transform,
    build,
    causal_from,
    input_sizes_of,
    note_spec,
)
from frugalkd.models.hub import is_repository, on_hub
from frugalkd.models.identity import inference_mode
from frugalkd.models.origin import note_origin, origin_of
from frugalkd.models.preprocess import Preprocess, TextPreprocess
from frugalkd.outputs import ONE_CLASS, OUTPUTS, Output
from frugalkd.runtime.devices import device_of
from frugalkd.runtime.failures import reason
from frugalkd.runtime.imports import refuse_unlisted

CARD = "model.json"
"""How to build a run's model again, and what its inputs are."""

_MOST_TENSORS = 10_000
"""Of a model that is built by name; the deepest of timm's has 2,500."""

_FREE_NUMBER = 1 << 16
"""Any number of a card may be this large."""
_FREE_BYTES = 1 << 28
"""That a model may take beyond its weights, for buffers that are not saved; timm's take 6 MB."""


@dataclass(frozen=True)
class Loaded:
    """A model from a run folder.

    Attributes:
        model: in eval mode, on the CPU.
        preprocess: raw images -> normalised float32 (N, C, H, W); None where the run's data were
            the user's own, so that only their code can prepare an image.
        card: ``model.json`` as it is.
        texts: raw texts -> token ids; None where the model is not one of texts.
        folder: that it was loaded from, of a name on the hub in this machine's cache.
        columns: a table -> its inputs; None where the model is not one of tables.
    """

    model: nn.Module
    preprocess: Preprocess | None
    card: dict[str, Any]
    texts: TextPreprocess | None = None
    folder: Path = Path()
    columns: Columns | None = None

    @property
    def output(self) -> Output:
        """The kind of the model's outputs. Raises RunFolderError where it is not known."""
        name = self.card.get("output", ONE_CLASS.name)
        if name not in OUTPUTS:
            raise RunFolderError(
                f"{CARD} is damaged, or of a later version: its model gives {one_line(name)}"
            )
        return OUTPUTS[name]

    def check_output(self, wanted: Output, what: str) -> None:
        """Raises TargetsError where ``what``, as the error calls the model, gives another kind of
        output, and no embeddings, which any model may have."""
        if self.output is not wanted and wanted.labelled:
            raise TargetsError(
                f"{what} gives {self.output.plural}, and the objective learns {wanted.plural}: "
                "give a teacher that was trained for these"
            )

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the model's outputs in their order, () where they are not known."""
        return origin_of(self.model).classes

    def predict(
        self, images: Any, *, batch_size: int = 1000
    ) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Classes int64 (N,) and probabilities float32 (N, classes) of raw ``images``, in any form
        that :class:`Preprocess` accepts; for a model of texts, of a text or a list of them. Raises
        ModelError: the run has no preprocessing, or its model gives embeddings; DataError: the
        images do not fit."""
        if not self.output.by_top_class:
            raise ModelError(f"this model gives {self.output.plural}, no classes: call .outputs")
        probabilities = self.outputs(images, batch_size=batch_size)
        return probabilities.argmax(axis=1), probabilities

    def outputs(self, images: Any, *, batch_size: int = 1000) -> NDArray[np.float32]:
        """float32 (N, width), of ``images`` as of :meth:`predict`, or a table as of
        :func:`frugalkd.data.table.read_table`: probabilities, or what else the model gives. Raises
        as that does."""
        if self.columns is not None:
            return self._outputs(self.columns.inputs(images).split(batch_size))
        if self.texts is not None:
            return self._outputs(self.texts.batches(images, batch_size))
        if self.preprocess is None:
            raise ModelError(
                "this model was trained on a data set of your own: prepare a batch as that does, "
                "and call .model on it"
            )
        # One batch at a time becomes float32, four times the size of the pixels.
        arrays = self.preprocess.pixels(images)
        starts = range(0, len(arrays), batch_size)
        normalise = self.preprocess.normalise
        return self._outputs(normalise(arrays[start : start + batch_size]) for start in starts)

    def export(
        self,
        folder: StrPath,
        to: exporting.Format = "onnx",
        *,
        int8: bool = False,
        calibration: Any = None,
    ) -> list[Path]:
        """Write the model to ``folder`` as a file that others serve; returns the files.

        Args:
            folder: made where it is missing.
            to: ``onnx`` (NAME.onnx) or ``torch-export`` (NAME.pt2): batches of any size, of
                ``pixel_values`` as ``preprocess`` gives them, or ``input_ids`` and
                ``attention_mask`` of any length; ``logits`` out. The file holds what prepares its
                inputs, and the classes, as JSON under ``frugalkd``. ``safetensors``: the weights
                and ``model.json``, for :func:`load`.
            int8: also write NAME-int8.onnx, by onnxruntime's quantiser: of pictures, static, by the
                ranges on ``calibration``; of texts, dynamic.
            calibration: some hundred pictures of the training data, as :meth:`predict` takes them.

        Raises:
            ModelError: the model's inputs are not known, it cannot be traced or written, the file
                gives other logits, or the extra ``onnx`` is not installed. Nothing is written.
            RunFolderError, WriteFailed: the folder holds another model, or cannot be written.
        """
        return exporting.export(self, folder, to, int8=int8, calibration=calibration)

    @property
    def rows_at_once(self) -> int:
        """How many images are read, and become float32, together."""
        return 1000 if self.preprocess is None else rows_at_once(self.preprocess.shape)

    def _outputs(self, batches: Iterable[Any]) -> NDArray[np.float32]:
        device, output = device_of(self.model), self.output
        with inference_mode(self.model):
            run = partial(run_model, partial(call, self.model), ids=None)
            parts = [
                output.predictions(run(send_to_device(batch, device))).cpu() for batch in batches
            ]
        if not parts:
            return np.empty((0, len(self.classes)), np.float32)
        return torch.cat(parts).numpy()


def load(
    path: StrPath,
    *,
    imports: Collection[str] = (),
    download: bool = False,
    tokenizer: str | None = None,
) -> Loaded:
    """The model of a run folder made by ``frugalkd teach`` or ``frugalkd distill``, or of a name on
    the Hugging Face hub that ``frugalkd push`` pushed.

    Args:
        path: the folder, or USER/NAME where there is no such folder.
        imports: import paths (``package.module:Name``) that ``model.json`` may name. Following one
            can run any code, so only these are imported.
        download: whether the model of a name on the hub, and a tokenizer, or an encoder's
            configuration, that ``model.json`` names there, may be downloaded, where this machine's
            cache does not have it. Nothing else is ever downloaded.
        tokenizer: in place of the one that ``model.json`` names. A folder of this machine is read
            only where it is given here.

    Raises:
        ImportRefused: the model is made by an import path that is not among ``imports``.
        RunFolderError: no such folder, or no model in it, or a damaged ``model.json``.
        ModelError: the model cannot be built or fetched, or the weights do not fit it.
    """
    path, name = path_of(path), os.fspath(path)
    if not path.is_dir():
        found = on_hub(name, download)
        if found is None and is_repository(name):
            raise RunFolderError(
                f"no folder {name}, and no model of that name in this machine's cache of the hub: "
                "make one with 'frugalkd teach' or 'distill', or allow fetching it with --download "
                "(in Python download=True)"
            )
        if found is None:
            raise RunFolderError(f"no folder {path}: make one with 'frugalkd teach' or 'distill'")
        path = found
    if not (path / CARD).is_file():
        raise RunFolderError(
            f"{path} holds no finished model (no model.json): name a folder that 'frugalkd teach' "
            "or 'distill' made, or resume that run (--resume)"
        )
    card = read_json(path / CARD)
    known = known_from(card)
    try:
        name = card["weights"]
        if not isinstance(name, str) or name not in os.listdir(path):
            raise RunFolderError(
                f"{path / CARD} names the weights {str(name)[:100]!r}, which are not in that "
                "folder: only a file in the same folder is read"
            )
        weights = path / name
        if card.get("output") == "tokens":  # a folder of transformers, whatever made it
            model = _language_model(path, weights)
            return Loaded(model.eval(), None, card, folder=path)
        if "path" in card["model"]:
            refuse_unlisted(str(card["model"]["path"]), imports, str(path / CARD))
        # Before the model is built: its size may depend on the images'.
        preprocess = texts = columns = None
        if "shape" in card:
            preprocess = Preprocess(tuple(map(int, card["shape"])), known["mean"], known["std"])
        if "vocabulary" in card:
            own, length = card["tokenizer"], int(card["max_length"])
            texts = TextPreprocess(tokenizer or own, length, download, tokenizer is not None)
        if "columns" in card:
            columns = known["columns"]
        encoder = encoder_of(card["model"])
        if download and encoder is not None:  # into the cache
            from_transformers("AutoConfig", encoder)
        model = _build(card, weights)
        note_origin(model, **known)
    except FrugalKDError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise RunFolderError(f"{path / CARD} is damaged ({reason(error)})") from None
    return Loaded(model.eval(), preprocess, card, texts, path, columns)


def _language_model(folder: Path, weights: Path) -> nn.Module:
    """The model of transformers in ``folder``. Raises ModelError where it is larger than its
    ``weights``, lacks some, or names code for its attention."""
    if weights.name != exporting.WEIGHTS:
        raise ModelError(
            f"{weights} are not the weights of a language model: {exporting.WEIGHTS} are"
        )
    config: Any = from_transformers("AutoConfig", os.fspath(folder))
    import transformers

    if "/" in str(getattr(config, "_attn_implementation", None)):
        raise ModelError(f"{folder / 'config.json'} names code to fetch for its attention")
    state = read_state(weights)
    with _bounded_by(state, weights):
        empty = without_memory(lambda: transformers.AutoModelForCausalLM.from_config(config))
    _refuse_bigger(empty, state, weights)
    del empty, state
    return causal_from(os.fspath(folder), dtype="auto", use_safetensors=True)


def write_model_card(
    folder: Path,
    spec: ModelSettings,
    data: Dataset,
    weights: str,
    libraries: Mapping[str, str],
    output: Output = ONE_CLASS,
) -> None:
    """Write ``model.json``: how to build the model again, with which ``libraries``, and what its
    inputs and outputs are. Raises WriteFailed."""
    card: dict[str, Any] = {
        "schema": 1,
        "model": spec.model_dump(mode="json", exclude_none=True),
        "weights": weights,
        "libraries": dict(libraries),
        **input_sizes_of(data),
    }
    if output is not ONE_CLASS:
        card["output"] = output.name
    if output.labelled and (names := class_names(data)):
        card["classes"] = list(names)
    write_json(folder / CARD, card)


def card_beside(weights: Path) -> dict[str, Any] | None:
    """The card of a file of weights that lies in its run's folder."""
    with suppress(RunFolderError):
        card = read_json(weights.parent / CARD)
        return card if card.get("weights") == weights.name else None
    return None


def known_from(card: Mapping[str, Any]) -> dict[str, Any]:
    """What a card says of its model's training data, as fields of
    :class:`frugalkd.models.origin.Origin`. Raises RunFolderError where it is damaged."""
    try:
        known = _Known.model_validate(card)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise RunFolderError(f"model.json is damaged: {where}: {one_line(first['msg'])}") from None
    if len(known.mean) != len(known.std):
        raise RunFolderError("model.json is damaged: mean and std are of different lengths")
    return known.model_dump() | {"columns": Columns(known.columns)}


class _Known(BaseModel):
    classes: tuple[str, ...] = ()
    mean: tuple[FiniteFloat, ...] = ()
    std: tuple[Annotated[FiniteFloat, Field(ge=2**-32)], ...] = ()
    tokenizer: str = ""
    vocabulary: int = 0
    columns: tuple[Column, ...] = ()


def _build(card: Mapping[str, Any], weights: Path) -> nn.Module:
    """The card's model with its weights, which are compared with its claims first."""
    spec = ModelSettings.model_validate(card["model"])
    own = spec
    if spec.name in ENCODERS:  # its weights are all in the file
        own = spec.model_copy(update={"options": {**spec.options, "pretrained": False}})
    make = partial(build, own, card)
    # Building draws weights that are overwritten: the caller's random stream does not change.
    with torch.random.fork_rng(devices=[]):
        if spec.path is not None:
            model = make()
            load_weights(model, weights)
        else:
            state = read_state(weights)
            _refuse_larger(card, state, weights)
            model = build_checked(make, state, weights)
            fill(model, state, weights)
    if spec.input_transform is not None:
        add_input_transform(model, spec.input_transform, card["mean"], card["std"])
    note_spec(model, spec)
    return model


def encoder_of(model: Mapping[str, Any]) -> str | None:
    """Where the encoder of transformers is that the ``model`` of a card begins with."""
    path = model["options"].get("path") if model.get("name") in ENCODERS else None
    return None if path is None else str(path)


def _refuse_larger(card: Mapping[str, Any], state: Mapping[str, Tensor], weights: Path) -> None:
    """Raises ModelError where ``weights`` has more tensors than a model that is built by name, or
    where a number of the card's classes or options is larger than any side of them."""
    if len(state) > _MOST_TENSORS:
        raise ModelError(f"{weights} has {len(state):,} tensors: {_MOST_TENSORS:,} at most")
    largest = max((side for tensor in state.values() for side in tensor.shape), default=0)
    for number in _integers([card["num_classes"], card["model"].get("options", {})]):
        if abs(number) > max(_FREE_NUMBER, largest):
            raise ModelError(
                f"{weights} does not fit the model: model.json says {number}, and no tensor there "
                f"has a side of more than {largest}"
            )


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _integers(each)


def build_checked(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], weights: Path
) -> nn.Module:
    """What ``build`` makes, after a build on the meta device has shown that it has the tensors of
    ``state`` and takes little more memory than they do. Raises ModelError."""
    with _bounded_by(state, weights):
        empty = without_memory(build)
        refuse_misfit(empty.state_dict(), state, weights)
        _refuse_bigger(empty, state, weights)
        return build()


def _refuse_bigger(empty: nn.Module, state: Mapping[str, Tensor], weights: Path) -> None:
    # The weights may be saved in a quarter of the bytes (float8).
    most = _FREE_BYTES + 4 * sum(tensor.nbytes for tensor in state.values())
    size = sum(tensor.nbytes for tensor in (*empty.parameters(), *empty.buffers()))
    if size > most:
        raise ModelError(
            f"{weights} does not fit the model: as model.json describes it, it takes "
            f"{size >> 20:,} MiB, and for these weights {most >> 20:,} MiB are allowed"
        )


@contextmanager
def _bounded_by(state: Mapping[str, Tensor], weights: Path) -> Iterator[None]:
    """Inside, a model that grows far beyond the tensors of ``state`` is a ModelError at once."""
    most, thread, made = 1000 + 10 * len(state), threading.get_ident(), 0

    def count(*registered: Any) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > most:
            raise ModelError(
                f"{weights} does not fit the model: it has {len(state):,} tensors, and model.json "
                "describes many more"
            )

    with ExitStack() as hooks:
        for register in (
            registering.register_module_parameter_registration_hook,
            registering.register_module_buffer_registration_hook,
            registering.register_module_module_registration_hook,
        ):
            hooks.callback(register(count).remove)
        yield


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` makes, its weights on the meta device."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # it computes its sizes with tensors, which need values
        with _Unfilled():
            return build()


class _Unfilled(TorchFunctionMode):
    """Tensors that are created to be filled later are on the meta device, others are not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.full):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
