"""A loaded model as a file that others serve: ONNX, torch.export or safetensors.

An ONNX or torch.export file holds what its user needs to know, as JSON under the name ``frugalkd``:
how inputs are prepared and what the outputs are called (:func:`description`).
"""

from __future__ import annotations

import io
import json
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, final, get_args

import torch
from accelerate.utils import patch_environment
from torch import Tensor, nn

from frugalkd.data.batches import call
from frugalkd.data.text import from_transformers, quiet
from frugalkd.errors import ModelError, RunFolderError
from frugalkd.files import StrPath
from frugalkd.files.opening import named
from frugalkd.files.parsing import read_json
from frugalkd.files.tensors import read_state, save_weights
from frugalkd.files.writing import make_folder, write_atomic, write_json, writing
from frugalkd.models.identity import inference_mode
from frugalkd.runtime.failures import blame
from frugalkd.runtime.imports import require_extra

if TYPE_CHECKING:
    from frugalkd.models.saved import Loaded

Format = Literal["onnx", "torch-export", "safetensors"]
_KEY = "frugalkd"
WEIGHTS = "model.safetensors"
"""The weights in a folder of transformers."""
_ENDINGS = {"onnx": ".onnx", "torch-export": ".pt2", "safetensors": ".safetensors"}
_CALIBRATED_TOGETHER = 32
_NEAR = 1e-3
"""Of the largest logit: a file whose logits differ by more from the model's is not written."""


def export(
    loaded: Loaded, folder: StrPath, to: Format, *, int8: bool = False, calibration: Any = None
) -> list[Path]:
    """The files written, as :meth:`frugalkd.models.saved.Loaded.export` describes them."""
    if to not in get_args(Format):
        raise ModelError(f"unknown format {to!r}: give one of {', '.join(get_args(Format))}")
    if int8 and to != "onnx":
        raise ModelError(f"int8 is for ONNX alone, not for {to}: leave it out, or export to onnx")
    folder = named(folder)
    file = folder / Path(loaded.card["weights"]).with_suffix(_ENDINGS[to]).name
    if to == "safetensors":
        _refuse_changed(loaded, folder)
        make_folder(folder)
        file = save_model(file, loaded.model, loaded.classes)
        if (loaded.folder / "tokenizer_config.json").is_file():  # of a language model
            with writing(folder):
                from_transformers("AutoTokenizer", str(loaded.folder)).save_pretrained(folder)
        write_json(folder / "model.json", {**loaded.card, "weights": file.name})
        return [file]
    if loaded.output.name == "tokens":
        raise ModelError(
            f"{loaded.folder} is a model of transformers: other libraries read that folder, or "
            "export it to safetensors"
        )
    if to == "onnx":
        needs = "exports to ONNX need onnx, onnxruntime and onnxscript"
        require_extra("onnx", needs, ModelError, "onnx", "onnxruntime", "onnxscript")
    if int8 and loaded.preprocess is not None and calibration is None:
        raise ModelError(
            "int8 of a model of pictures needs the range of its activations: give pictures of its "
            "training data as calibration (on the command line --data own)"
        )
    said = description(loaded)
    batches = [example_batch(loaded, rows) for rows in (3, 1, 2)]
    model = (_Pictures if loaded.texts is None else _Texts)(deepcopy(loaded.model).cpu())
    with inference_mode(model):
        content = _onnx if to == "onnx" else _torch_export
        written = {file: content(_program(model, batches[0]), list(batches[0]), said)}
        _refuse_other_logits(model, opened(written[file], to), batches)
    if int8:
        small = file.with_name(f"{file.stem}-int8.onnx")
        written[small] = _int8(written[file], loaded, calibration, said)
    make_folder(folder)
    for path, each in written.items():
        write_atomic(path, each)
    return list(written)


def saves_itself(model: nn.Module) -> bool:
    """Whether ``model`` is one of transformers, whose inputs and outputs no hook changes."""
    transformers = sys.modules.get("transformers")
    if transformers is None or not isinstance(model, transformers.PreTrainedModel):
        return False
    return not (model._forward_pre_hooks or model._forward_hooks)


def save_model(file: Path, model: nn.Module, classes: Sequence[str] = ()) -> Path:
    """Write the weights of ``model`` to ``file``, one of transformers also as its own
    ``from_pretrained`` reads it, with the names of its ``classes``. Returns the file that has all
    of its state dict. Raises WriteFailed."""
    if saves_itself(model):
        import transformers

        config: Any = model.config
        if len(classes) == config.num_labels:
            config.id2label = dict(enumerate(classes))
            config.label2id = {name: place for place, name in enumerate(classes)}
        with writing(file), quiet(transformers.utils.logging):
            model.save_pretrained(file.parent)  # pyright: ignore
        saved = file.with_name(WEIGHTS)
        # Not of tied weights, which are saved once, nor where they have other names in files.
        if saved.is_file() and read_state(saved).keys() == model.state_dict().keys():
            return saved
    save_weights(file, model)
    return file


def description(loaded: Loaded) -> dict[str, Any]:
    """What an exported file says of itself: how its inputs are prepared (``preprocessing``), the
    names of its outputs (``classes``), how its model was built, frugalkd's version."""
    card, prepare = loaded.card, {}
    if loaded.preprocess is not None:
        mean, std = list(loaded.preprocess.mean), list(loaded.preprocess.std)
        rule = "(pixel / 255 - mean) / std, float32 (batch, channels, height, width)"
        prepare = {"shape": list(loaded.preprocess.shape), "mean": mean, "std": std, "rule": rule}
    elif loaded.texts is not None:
        prepare = {name: card[name] for name in ("vocabulary", "max_length")}
        prepare["tokenizer"] = loaded.texts.tokenizer
    return {
        "preprocessing": prepare,
        "classes": list(loaded.classes),
        "model": card["model"],
        "version": version("frugalkd"),
    }


def example_batch(loaded: Loaded, rows: int, tokens: int = 5) -> dict[str, Tensor]:
    """Random inputs of ``rows``: ``pixel_values`` float32 (rows, C, H, W); or ``input_ids`` and
    ``attention_mask`` int64 (rows, ``tokens``), the last row padded. Raises ModelError where the
    model's inputs are not known."""
    stream = torch.Generator().manual_seed(rows)
    if loaded.preprocess is not None:
        shape = (rows, *loaded.preprocess.shape)
        pixels = torch.randint(256, shape, generator=stream, dtype=torch.uint8)
        return {"pixel_values": loaded.preprocess.normalise(pixels)}
    if loaded.columns is not None:
        raise ModelError(
            "models of tables are not exported to this format: export it to safetensors, or call "
            "torch.onnx.export on .model, whose inputs are those of .columns"
        )
    if loaded.texts is None:
        raise ModelError(
            "this model was trained on a data set of your own, whose inputs model.json does not "
            "describe: export it to safetensors, or call torch.onnx.export on .model"
        )
    shape = (rows, min(tokens + rows, loaded.texts.max_length))
    ids = torch.randint(int(loaded.card["vocabulary"]), shape, generator=stream)
    mask = torch.ones_like(ids)
    mask[-1, (shape[1] + 1) // 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


@final
class Served(nn.Module):
    """An exported file as a module of the student's inputs, on the CPU."""

    def __init__(self, run: Callable[..., Tensor], names: Sequence[str]) -> None:
        super().__init__()
        self._run, self._names = run, tuple(names)

    def forward(self, *inputs: Tensor, **by_name: Tensor) -> Tensor:
        given = dict(zip(self._names, inputs, strict=False)) | by_name
        return self._run(*(given[name] for name in self._names))


def opened(file: bytes, to: Format) -> Served:
    """The model in the content of an ONNX or torch.export file; ONNX with as many threads as torch
    uses."""
    if to == "torch-export":
        with _failing("torch.export cannot open its file"):
            program = torch.export.load(io.BytesIO(file))
        # A bound method: torch allows no eval() on the module itself.
        return Served(program.module().__call__, program.graph_signature.user_inputs)  # type: ignore
    onnxruntime = _without_telemetry()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [each.name for each in session.get_inputs()]

    def run(*inputs: Tensor) -> Tensor:
        feed = {name: given.numpy() for name, given in zip(names, inputs, strict=True)}
        return torch.from_numpy(session.run(None, feed)[0])

    return Served(run, names)


def _without_telemetry() -> Any:
    """The module onnxruntime. Its own builds report each session, with hashes of the model, to
    their maker, unless this variable is set when the module is imported: nothing is sent here."""
    with patch_environment(ORT_DISABLE_TELEMETRY="1"):
        import onnxruntime
    onnxruntime.disable_telemetry_events()
    return onnxruntime


class _Pictures(nn.Module):
    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: Tensor) -> Tensor:
        return call(self.model, pixel_values).float()


class _Texts(_Pictures):
    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return call(self.model, {"input_ids": input_ids, "attention_mask": attention_mask}).float()


@contextmanager
def _failing(what: str) -> Iterator[None]:
    """Any failure inside is a ModelError; what torch and onnxruntime warn of is theirs."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:
        blame(error, ModelError, what)


def _program(model: nn.Module, batch: dict[str, Tensor]) -> torch.export.ExportedProgram:
    """``model`` for a batch of any size, and texts of any length."""
    axes = range(2 if "input_ids" in batch else 1)
    shapes = {name: dict.fromkeys(axes, torch.export.Dim.DYNAMIC) for name in batch}
    with _failing("torch.export cannot trace this model with a batch of any size"):
        return torch.export.export(model, tuple(batch.values()), dynamic_shapes=shapes)


def _torch_export(program: Any, names: list[str], said: dict[str, Any]) -> bytes:
    made = io.BytesIO()
    with _failing("torch.export cannot save this model"):
        torch.export.save(program, made, extra_files={_KEY: json.dumps(said)})
    return made.getvalue()


def _onnx(program: Any, names: list[str], said: dict[str, Any]) -> bytes:
    with _failing("this model cannot be written as ONNX"):
        made = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=names, output_names=["logits"]
        )
        assert made is not None
        made.model.metadata_props[_KEY] = json.dumps(said)
        return made.model_proto.SerializeToString()


def _int8(onnx_file: bytes, loaded: Loaded, calibration: Any, said: dict[str, Any]) -> bytes:
    """The ONNX file in 8 bits. Of a model of texts, activations are quantised as they come; of one
    of pictures, by the range that they have on ``calibration``, and weights by channel."""
    import onnx

    _without_telemetry()
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with (
        tempfile.TemporaryDirectory(prefix="frugalkd-") as place,
        _failing("onnxruntime cannot quantise this model"),
    ):
        folded, made = Path(place, "folded.onnx"), Path(place, "int8.onnx")
        Path(place, "float.onnx").write_bytes(onnx_file)
        quant_pre_process(str(Path(place, "float.onnx")), str(folded), skip_symbolic_shape=True)
        if loaded.preprocess is None:
            how = "int8 weights, activations quantised at run time"
            quantization.quantize_dynamic(folded, made, weight_type=quantization.QuantType.QInt8)
        else:
            pixels = loaded.preprocess(calibration)
            how = f"int8 weights and activations, calibrated on {len(pixels)} pictures"
            level = logging.root.level
            rows = ({"pixel_values": part.numpy()} for part in pixels.split(_CALIBRATED_TOGETHER))
            logging.root.setLevel(logging.ERROR)
            try:
                quantization.quantize_static(
                    folded,
                    made,
                    _Reader(rows),  # pyright: ignore
                    per_channel=True,
                )
            finally:
                logging.root.setLevel(level)
        proto = onnx.load(made)
        onnx.helper.set_model_props(proto, {_KEY: json.dumps({**said, "quantisation": how})})
        return proto.SerializeToString()


class _Reader:
    """Batches for onnxruntime's calibration."""

    def __init__(self, batches: Iterator[dict[str, Any]]) -> None:
        self._batches = batches

    def get_next(self) -> dict[str, Any] | None:
        return next(self._batches, None)


def _refuse_other_logits(model: nn.Module, made: Served, batches: list[dict[str, Tensor]]) -> None:
    """Raises ModelError where the file gives other logits than the model, for batches of several
    sizes."""
    for batch in batches:
        want = model(**batch)
        with _failing("the exported model fails"):
            apart = float((made(**batch) - want).abs().max())
        if not apart <= _NEAR * max(1.0, float(want.abs().max())):
            raise ModelError(
                f"the exported model's logits are off by {apart:.2g} in a batch of {len(want)}: it "
                "does something that cannot be traced; nothing was written"
            )


def _refuse_changed(loaded: Loaded, folder: Path) -> None:
    """Raises where ``model.json`` would not describe the model, or another one is in ``folder``."""
    if loaded.classes != tuple(loaded.card.get("classes", ())):
        raise ModelError("reorder_classes changed this model: load it again, then export it")
    card = folder / "model.json"
    if card.exists() and read_json(card).get("model") != loaded.card["model"]:
        raise RunFolderError(f"{folder} holds another model: choose another folder")
