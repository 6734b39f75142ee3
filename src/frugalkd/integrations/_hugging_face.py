"""What transformers' data sets, batches, models and arguments give to a selection."""

from __future__ import annotations

import inspect
import math
import os
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import transformers
from accelerate import Accelerator, DistributedType
from accelerate.utils import parse_flag_from_env
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from frugalkd.data.batches import call, checked_labels, form, inputs_of, split
from frugalkd.data.probe import streams_restored
from frugalkd.data.text import check_vocabulary, from_transformers, vocabulary_of
from frugalkd.distributed.ranks import world_here
from frugalkd.errors import (
    FrugalKDWarning,
    ModelError,
    SelectionMisuse,
    TargetsError,
    UnsupportedData,
    few,
)
from frugalkd.files import StrPath, path_of
from frugalkd.files.parsing import one_line
from frugalkd.models.origin import origin_of
from frugalkd.models.saved import CARD, Loaded, load
from frugalkd.outputs import ONE_CLASS, Output
from frugalkd.policies import All, Sampling


def check_devices(
    args: transformers.TrainingArguments, accelerator: Accelerator, model: object = None
) -> None:
    """Raises SelectionMisuse for ways to use several devices in which a rank would not train the
    rows that the plan gives it."""
    kind = accelerator.distributed_type
    wanted = {
        name: getattr(args, name.lower(), None) or parse_flag_from_env(f"ACCELERATE_USE_{name}")
        for name in ("DEEPSPEED", "FSDP")
    }
    parallel = getattr(accelerator, "parallelism_config", None)
    loading, why = accelerator.dataloader_config, None
    if args.n_gpu > 1:
        why = (
            f"one process with {args.n_gpu} devices (DataParallel) splits each batch: start one "
            f"process a device (torchrun --nproc-per-node {args.n_gpu}), or set "
            "CUDA_VISIBLE_DEVICES"
        )
    elif wanted["DEEPSPEED"] or kind == DistributedType.DEEPSPEED:
        why = "DeepSpeed is not supported: leave it out, and start with torchrun (DDP)"
    elif wanted["FSDP"] and kind != DistributedType.FSDP:
        why = (
            f"Accelerate ignores FSDP on {accelerator.device.type}, and would train with DDP: "
            "leave it out, or shard with frugalkd.distill and Training(fsdp=True)"
        )
    elif kind == DistributedType.FSDP and (args.torch_compile or not accelerator.is_fsdp2):
        why = (
            "FSDP version 1, and FSDP with torch_compile, are not supported: set the version of "
            "fsdp_config to 2, and torch_compile to False"
        )
    elif not (kind in ("NO", "FSDP") or kind.startswith("MULTI_")):
        why = f"{kind.value} is not supported: start with torchrun (DDP)"
    elif (parallel is not None and parallel.non_data_parallel_size > 1) or getattr(
        model, "is_distributed_loading_by_transformers", False
    ):
        why = (
            "tensor, context and sequence parallelism, and models that are sharded as they are "
            "loaded, are not supported: leave parallelism_config and distributed_config out"
        )
    elif loading.dispatch_batches or loading.split_batches:
        why = (
            "each process reads its own rows of the plan: leave dispatch_batches and split_batches "
            "out of accelerator_config"
        )
    elif args.auto_find_batch_size and args.world_size > 1:
        why = "auto_find_batch_size may find another size on each process: set the batch size"
    elif args.world_size != world_here():
        why = (
            f"the arguments name {args.world_size} processes and torch.distributed "
            f"{world_here()}: make TrainingArguments before any process group"
        )
    if why is not None:
        raise SelectionMisuse(why)


def set_rates(scheduler: Any, at: float, factor: float) -> None:
    """Set the learning rates to those of ``scheduler`` at step ``at``, which need not be a whole
    number, times ``factor``. A schedule that is not a function of the step is stepped until it has
    as many steps. Raises SelectionMisuse where ``factor`` is to scale that one."""
    if not isinstance(scheduler, LambdaLR):
        if factor != 1:
            raise SelectionMisuse(
                f"this policy scales the learning rate, and {type(scheduler).__name__} has no "
                "function of the step: choose lr_scheduler_type linear, cosine or another LambdaLR"
            )
        done = _steps_of(scheduler)
        with warnings.catch_warnings():  # that epochs without a step came before the first one
            warnings.filterwarnings("ignore", ".*lr_scheduler.step.. before .optimizer.step")
            for _ in range(0 if done is None else math.floor(at) - done):
                scheduler.step()
        return
    functions = zip(scheduler.base_lrs, scheduler.lr_lambdas, strict=True)
    rates = [base * function(at) * factor for base, function in functions]  # pyright: ignore
    for group, rate in zip(scheduler.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    scheduler._last_lr = rates


def _by_metric(scheduler: Any) -> bool:
    """Whether a schedule goes by a metric, and not by steps."""
    return bool(
        {cls.__name__ for cls in type(scheduler).__mro__} & {"ReduceLROnPlateau", "GreedyLR"}
    )


def _steps_of(scheduler: Any) -> int | None:
    """How many steps a schedule has made; None where it goes by a metric or that is not known."""
    if _by_metric(scheduler) or not isinstance(scheduler, LRScheduler):
        return None
    first = (getattr(scheduler, "_schedulers", None) or [None])[0]  # a ChainedScheduler's
    return getattr(scheduler, "last_epoch", getattr(first, "last_epoch", None))


def warn_of_schedule(scheduler: Any, sampling: Sampling) -> None:
    """Warn of a schedule that cannot follow the training's progress."""
    if isinstance(scheduler, LambdaLR) or _by_metric(scheduler):
        return
    kind, why, cost = type(scheduler).__name__, None, sampling.cost
    if _steps_of(scheduler) is None:
        if cost is None and isinstance(sampling.chosen_policy, All):
            return  # each step is one of full training
        why = f"{kind} is stepped once a step of the training, and fewer steps end it too early"
    elif cost is not None and cost > 1:
        why = (
            f"{kind} has no function of the step, and cannot wait where cost={cost:g} makes more "
            "steps than it has"
        )
    if why is not None:
        warnings.warn(
            f"{why}: choose an lr_scheduler_type, or give a LambdaLR", FrugalKDWarning, stacklevel=2
        )


def as_dict(collate_fn: Callable[[list[Any]], Any], samples: list[Any]) -> dict[str, Any]:
    """What the data collator makes of ``samples``, as a plain dictionary."""
    batch = collate_fn(samples)
    if not isinstance(batch, Mapping):
        raise UnsupportedData(
            f"the data collator returns a {type(batch).__name__}: return a dictionary with the "
            "model's arguments and 'labels'"
        )
    return dict(batch)


def logits_of(outputs: Any) -> Tensor:
    """The logits (rows, classes) of what ``compute_loss`` returns. Raises ModelError."""
    found = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if found is None and isinstance(outputs, tuple | list) and len(outputs) > 1:
        found = outputs[1]
    if not isinstance(found, Tensor):
        raise ModelError(
            f"compute_loss returns a {type(outputs).__name__} without logits: with "
            "return_outputs=True return (loss, outputs), and logits among the outputs"
        )
    return found


def labels_in(batch: Mapping[str, Any], name: str, output: Output = ONE_CLASS) -> Tensor | None:
    """What a batch holds under ``name``, or as ``labels`` or ``label``."""
    return checked_labels(batch[name], output) if name in batch else split(batch, output)[1]


def without(batch: Any, name: str) -> Any:
    """The inputs of a batch whose labels are called ``name``."""
    inputs = inputs_of(batch)
    return {key: inputs[key] for key in inputs if key != name}


def label_column_of(data: Any, label: str) -> NDArray[np.int64] | None:
    """A Hugging Face data set's column of class indices, None where it is not one."""
    features = getattr(data, "features", None) or {}
    for name in dict.fromkeys((label, "label", "labels", "label_ids")):
        if str(getattr(features.get(name), "dtype", "")).startswith("int"):
            return np.asarray(data.with_format("numpy")[name][:], dtype=np.int64)
    return None


def columns_of(data: Any) -> list[str]:
    """The columns of a data set, or the keys of its first row."""
    names = getattr(data, "column_names", None)
    if isinstance(names, list) or not len(data):
        return names or []
    with streams_restored():
        first = data[0]
    return list(first) if isinstance(first, Mapping) else []


def lengths_in(data: Any, column: str) -> NDArray[Any]:
    """A data set's ``column`` of lengths, or else how many tokens its rows have or, before these
    are made, how many characters their texts. Raises UnsupportedData."""
    with streams_restored():
        first = data[0]
        names = list(first) if isinstance(first, Mapping) else []
        if column in names:
            return np.array(list(_column(data, column)))
        found = [name for name in names if isinstance(first[name], str)]
        found = ["input_ids"] if "input_ids" in names else found
        if not found:
            raise UnsupportedData(
                f"group_by_length needs lengths, and rows are {form(first)}: add a column "
                f"{column!r} or 'input_ids', or one of texts, or leave group_by_length out"
            )
        return np.sum([[len(part or "") for part in _column(data, name)] for name in found], axis=0)


def _column(data: Any, name: str) -> Any:
    """The values of a column, without the other ones where these need not be read."""
    if hasattr(data, "with_format") and data.format["type"] != "custom":
        return data.with_format(None)[name]
    return (data[place][name] for place in range(len(data)))


def teacher_from(
    name: StrPath,
    student: nn.Module,
    processing: Any = None,
    output: Output = ONE_CLASS,
    imports: Collection[str] = (),
) -> nn.Module:
    """The classifier, or the model of another kind of ``output``, in a folder or on the hub, for
    the student's kind of inputs, or of a run folder. Raises ModelError; TargetsError where it is
    known to read other tokens, or pictures of another normalisation, than ``processing`` gives, or
    to have another kind of output. What :func:`frugalkd.load` raises."""
    own = vocabulary_of(processing)
    if os.path.isfile(path_of(name) / CARD):
        loaded = load(name, imports=imports)
        loaded.check_output(output, f"the teacher in {one_line(name)}")
        _check_inputs(loaded, processing, own)
        return loaded.model
    pictures = getattr(student, "main_input_name", "input_ids") == "pixel_values"
    kind = (
        transformers.AutoModelForImageClassification
        if pictures
        else transformers.AutoModelForSequenceClassification
    )
    try:
        given = {"trust_remote_code": False, "output_loading_info": True}
        teacher, loading = kind.from_pretrained(name, **given)
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelError(f"no teacher at {str(name)!r}: {one_line(error)[:200]}") from error
    if missing := sorted(loading["missing_keys"]):
        raise ModelError(
            f"{str(name)!r} is not a classifier: it has no weights of {few(missing)}, which would "
            "be random: train it on these classes first"
        )
    with suppress(ModelError):  # a folder of a model alone
        if pictures and _normalisation(processing) is not None:
            theirs = from_transformers("AutoImageProcessor", str(name))
            _check_normalisation(_normalisation(theirs), processing)
        elif own and not pictures:
            check_vocabulary(own, vocabulary_of(from_transformers("AutoTokenizer", str(name))))
    return teacher


def _check_inputs(teacher: Loaded, processing: Any, own: dict[str, int]) -> None:
    """Raises TargetsError where a run's model reads other inputs than ``processing`` gives."""
    origin = origin_of(teacher.model)
    if own and origin.vocabulary not in (0, len(own)):
        raise TargetsError(
            f"the teacher was trained on texts of the tokenizer {origin.tokenizer!r} "
            f"({origin.vocabulary} tokens), and the student's has {len(own)}: train both models "
            "with one tokenizer"
        )
    if own and origin.tokenizer and not os.path.isdir(origin.tokenizer):  # a folder is not read
        with suppress(ModelError):
            found = from_transformers("AutoTokenizer", origin.tokenizer, download=False)
            check_vocabulary(own, vocabulary_of(found))
    known = (np.array(origin.mean), np.array(origin.std)) if origin.mean else None
    _check_normalisation(known, processing)


_Normalisation = tuple[NDArray[Any], NDArray[Any]]


def _normalisation(processing: Any) -> _Normalisation | None:
    """Mean and std (channels,) by which an image processor, or that of several kinds of inputs,
    normalises pixels in [0, 1]; None where that is not known."""
    images = getattr(processing, "image_processor", processing)
    mean, std = getattr(images, "image_mean", None), getattr(images, "image_std", None)
    scaled = getattr(images, "do_rescale", True), getattr(images, "rescale_factor", 1 / 255)
    if mean is None or std is None or not (scaled[0] and math.isclose(scaled[1], 1 / 255)):
        return None
    if not getattr(images, "do_normalize", True):
        mean, std = 0.0, 1.0
    mean, std = np.broadcast_arrays(np.atleast_1d(mean), std)
    return mean, std


def _check_normalisation(theirs: _Normalisation | None, processing: Any) -> None:
    """Raises TargetsError where the teacher's pictures are normalised by other numbers."""
    ours = _normalisation(processing)
    if theirs is None or ours is None:
        return
    channels = {len(theirs[0]), len(ours[0])} - {1}  # one number is for all of them
    if len(channels) < 2 and np.allclose(theirs, ours, atol=1e-4):
        return
    there, here = (f"{mean.tolist()} and {std.tolist()}" for mean, std in (theirs, ours))
    raise TargetsError(
        f"the teacher's pictures are normalised by the mean and std {there}, and processing_class "
        f"normalises by {here}: use one image processor for both, or give the teacher as a model"
    )


def inputs_named(model: nn.Module) -> set[str] | None:
    """The inputs that a model's forward names, of PEFT that of the model within; None where it
    takes any. Further keywords of transformers' own models are options, and not inputs."""
    base: Any = getattr(model, "get_base_model", None)
    inner: Any = base() if callable(base) else model
    forward = inner.forward
    parameters = inspect.signature(forward).parameters.values()
    names = {p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)}
    takes_any = any(p.kind == p.VAR_KEYWORD for p in parameters)
    home = getattr(inspect.unwrap(forward), "__module__", None) or ""
    if not names or (takes_any and home.split(".")[0] != "transformers"):
        return None
    return names


def forward_of(
    model: nn.Module, label: str, without_inputs: Collection[str] = ()
) -> Callable[[Any], Tensor]:
    """A model's logits for a batch, of those inputs that its forward takes, ``without_inputs``."""
    names = inputs_named(model)

    def forward(data: Any) -> Tensor:
        inputs = without(data, label)
        inputs = {name: inputs[name] for name in inputs if name not in without_inputs}
        known = {k: v for k, v in inputs.items() if names is None or k in names}
        if not known and len(inputs) == 1:  # a model of one tensor, whatever it calls it
            (known,) = inputs.values()
        return call(model, known)

    return forward
