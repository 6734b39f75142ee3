"""Features of a model that does not change: the inputs of its last linear layer, computed once for
each sample, and kept for all trainings and evaluations of a head on the same data."""

from __future__ import annotations

import hashlib
import json
import logging
import platform
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from frugalkd.data.class_names import class_names
from frugalkd.data.images import Augmentation
from frugalkd.data.probe import data_digest, randomness
from frugalkd.data.source import Collate, check_map_style, refuse_mixed
from frugalkd.errors import (
    FolderBusy,
    FrugalKDWarning,
    ModelError,
    RunFolderError,
    UnsupportedData,
    WriteFailed,
)
from frugalkd.files.arrays import load_arrays, save_arrays
from frugalkd.files.cache import cache_root
from frugalkd.files.lock import Lock
from frugalkd.files.writing import make_folder, sweep
from frugalkd.models.identity import identity, identity_of_body
from frugalkd.models.initial import head_of
from frugalkd.policies.policy import Ids
from frugalkd.selection.checks import check_listed, labels_of
from frugalkd.teachers.live import describe
from frugalkd.training.evaluation import in_order, predict

FILE = "features.safetensors"
SCHEMA = 1
_BATCH = 256
_PROBED = 32
"""Samples whose features are computed even where all are kept."""
_NEAR = {"fp32": 1e-3, "bf16": 3e-2}
"""How far features may be from those of other batches, as a part of the largest."""
_AGAIN = "it is made again"

_log = logging.getLogger(__name__)


@final
class HeadFeatures(TensorDataset):
    """``features`` float32 (N, width) and ``labels`` int64 (N,), in memory; ``made_of`` names the
    data and the model that they are of.

    Attributes:
        labelled: whether the data have these labels; else they are the model's own top classes.
        seconds: that computing them took, in this process or in an earlier one.
        file: where an earlier process kept them; None: they were computed now.
    """

    labelled: bool = True
    seconds: float = 0.0
    file: Path | None = None

    def __init__(self, features: Tensor, labels: Tensor, classes: tuple[str, ...], made_of: str):
        super().__init__(features, labels)
        self.features, self.labels, self.classes = features, labels, classes
        self._made_of = made_of

    @property
    def note(self) -> dict[str, Any]:
        """Their source, for the results of a run: plain values."""
        file = None if self.file is None else str(self.file)
        return {"rows": len(self), "seconds": self.seconds, "reused_from": file}

    @property
    def row_bytes(self) -> int:
        return 4 * self.features.shape[1] + 8

    def digest(self) -> str:
        """Of ``made_of``: the last digits of features may differ between ranks."""
        return hashlib.sha256(self._made_of.encode()).hexdigest()

    def batch(self, ids: Any, views: Any) -> tuple[Tensor, Tensor]:
        rows = torch.from_numpy(np.array(ids, dtype=np.int64))
        return self.features.index_select(0, rows), self.labels.index_select(0, rows)


def features_of(
    model: nn.Module,
    dataset: Dataset,
    *,
    precision: str = "fp32",
    collate_fn: Collate | None = None,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> HeadFeatures:
    """The input of the model's last linear layer for each sample, in eval mode, by
    :func:`predict`'s arguments. ``on_progress`` receives rows done and rows to do.

    They are kept in :func:`~frugalkd.files.cache.cache_root`, and read from there by whoever needs
    the same, where all that decides them has a digest or a version (docs/text.md). Those of a few
    samples are computed in any case: kept ones that differ are made again, with a FrugalKDWarning.

    Raises:
        ModelError: the logits are not what that layer computes from its input.
        UnsupportedData: random data.
        Stopped: ``should_stop`` returned True.
    """
    check_map_style(dataset)
    refuse_mixed(dataset)
    samples = len(dataset)  # pyright: ignore[reportArgumentType]
    if not samples:
        raise UnsupportedData("the data set is empty: there is nothing to train on")
    if randomness(dataset):
        raise UnsupportedData(
            "this data set gives other inputs at each access, and so has no features to keep: give "
            "it a method view(id, view), or train the whole model"
        )
    run = partial(
        _run, model, dataset, precision=precision, collate_fn=collate_fn, should_stop=should_stop
    )
    kept = None if collate_fn is not None else _Kept.of(model, dataset, precision)
    found = None if kept is None else kept.read(run)
    with ExitStack() as held:
        if found is None and kept is not None:
            found = kept.claim(held, run)
        if found is None:
            started = time.perf_counter()
            found = run(np.arange(samples), on_progress=on_progress)
            found.seconds = time.perf_counter() - started
            if kept is not None:
                kept.write(found)
    names, made_of = class_names(dataset), f"{data_digest(dataset)} {identity(model)} {precision}"
    if found.labels is not None:
        labels = torch.from_numpy(found.labels)
        if (listed := labels_of(dataset)) is not None:
            check_listed(labels, listed, np.arange(samples))
    else:
        unlabelled = HeadFeatures(found.features, torch.zeros(samples).long(), names, made_of)
        top = predict(head_of(model)[1], unlabelled, precision=precision)[0]
        labels = torch.from_numpy(top.argmax(axis=1))
    made = HeadFeatures(found.features, labels, names, made_of)
    made.labelled, made.seconds, made.file = found.labels is not None, found.seconds, found.file
    return made


def predict_by_head(
    model: nn.Module, dataset: Dataset, *, precision: str = "fp32", **options: Any
) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
    """As :func:`predict`, by the model's last linear layer on :func:`features_of`, whose
    ``options`` it takes."""
    features = features_of(model, dataset, precision=precision, **options)
    probabilities, labels = predict(head_of(model)[1], features, precision=precision)
    return probabilities, labels if features.labelled else None


@dataclass
class _Rows:
    """Of some samples, in their order: ``features`` float32 (rows, width), and ``labels`` int64
    (rows,) where there are some. ``seconds`` and ``file`` as of :class:`HeadFeatures`."""

    features: Tensor
    labels: NDArray[np.int64] | None
    seconds: float = 0.0
    file: Path | None = None


def _run(
    model: nn.Module,
    dataset: Dataset,
    ids: Ids,
    *,
    should_stop: Callable[[], bool] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **options: Any,
) -> _Rows:
    """A forward pass of the model on the samples ``ids``. Raises ModelError."""
    turn, done = in_order(dataset, ids), 0
    features, outputs = torch.empty(0), torch.empty(0)

    def keep(_: nn.Module, inputs: tuple[Tensor], output: Tensor) -> None:
        nonlocal features, outputs, done
        if not len(features):
            features = torch.empty(len(ids), inputs[0].shape[-1])
            outputs = torch.empty(len(ids), output.shape[-1])
        rows = torch.from_numpy(turn[done : done + len(output)])
        if inputs[0].ndim == 2 and len(rows) == len(output):  # else this is not the last layer
            features[rows] = inputs[0].float().cpu()
            outputs[rows] = torch.softmax(output.float(), dim=1).cpu()
        done += len(output)

    def after_batch() -> bool:
        if on_progress is not None:
            on_progress(done, len(ids))
        return should_stop is not None and should_stop()

    hook = head_of(model)[1].register_forward_hook(keep)
    try:
        probabilities, labels = predict(
            model, dataset, batch_size=_BATCH, ids=ids, should_stop=after_batch, **options
        )
    finally:
        hook.remove()
    found = torch.from_numpy(probabilities)
    if done != len(ids) or outputs.shape != found.shape or not torch.allclose(outputs, found):
        raise ModelError(
            "the model's logits are not what its last linear layer gives: a head to train has to "
            "be the last thing that the model does"
        )
    return _Rows(features, labels)


def _identity(model: nn.Module, dataset: Dataset, precision: str) -> dict[str, Any] | None:
    """All that decides the features, plain values; None where code does that no version names."""
    body = identity_of_body(model, head_of(model)[0])
    if body is None:
        return None
    data = describe(None, dataset)
    if getattr(dataset, "augmentation", None) in (None, Augmentation()):
        del data["augmentation"]  # the seed of no augmentation
    parameters = list(model.parameters())
    device = parameters[0].device  # the head has some
    name = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    return {
        "schema": SCHEMA,
        **body,
        **data,
        "precision": f"{precision} {torch.get_float32_matmul_precision()}",
        "memory format": sorted({str(p.stride()) for p in parameters if p.ndim == 4}),
        "device": f"{device.type} {name}, threads: {torch.get_num_threads()}",
    }


class _Kept:
    """The file of the features of ``samples`` samples that ``about`` decides."""

    def __init__(self, root: Path, about: dict[str, Any], samples: int, near: float):
        digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
        self._folder = root / f"features-{digest[:16]}"
        self._file, self._about = self._folder / FILE, about
        self._samples, self._near = samples, near
        self._what = f"the features of {samples:,} samples"

    @classmethod
    def of(cls, model: nn.Module, dataset: Dataset, precision: str) -> _Kept | None:
        """None where nothing can be kept."""
        root = cache_root()
        about = None if root is None else _identity(model, dataset, precision)
        if root is None or about is None:
            return None
        return cls(root, about, len(dataset), _NEAR[precision])  # pyright: ignore

    def read(self, run: Callable[[Ids], _Rows]) -> _Rows | None:
        """None where there are none, or, with a warning, damaged ones or others than ``run`` gives
        for a few samples."""
        if not self._file.is_file():
            return None
        try:
            arrays, about = load_arrays(
                self._file, "features", what="file of features", schema=SCHEMA,
                error=RunFolderError, again=_AGAIN,
            )  # fmt: skip
            if about.get("made_of") != self._about:
                raise RunFolderError(f"{self._file} holds the features of others: {_AGAIN}")
            found = self._checked(arrays, about["seconds"], run)
        except (RunFolderError, KeyError) as error:
            return _warn(f"{error}" if _AGAIN in f"{error}" else f"{error}; {_AGAIN}")
        _log.info(f"{self._what} are reused from {self._file}, computed in {found.seconds:.1f} s")
        return found

    def _checked(
        self, arrays: Mapping[str, NDArray], seconds: float, run: Callable[[Ids], _Rows]
    ) -> _Rows:
        """Raises RunFolderError."""
        probed = np.linspace(0, self._samples - 1, min(self._samples, _PROBED)).astype(np.int64)
        here, labels = run(probed), arrays.get("labels")
        found = _Rows(torch.from_numpy(arrays["features"]), labels, float(seconds), self._file)
        same = found.features.shape == (self._samples, here.features.shape[1])
        if same:
            gap = (found.features[probed] - here.features).abs().max()
            same = bool(gap <= self._near * here.features.abs().max())
        if labels is None or here.labels is None:
            same = same and labels is here.labels
        else:
            same = same and np.array_equal(labels[probed], here.labels)
        if not same:
            raise RunFolderError(f"{self._file} does not hold what this model gives: {_AGAIN}")
        return found

    def claim(self, held: ExitStack, run: Callable[[Ids], _Rows]) -> _Rows | None:
        """Keep other processes from computing the same until ``held`` ends. Returns what another
        one kept meanwhile."""
        before = self._stamp()
        try:
            make_folder(self._folder)
            try:
                held.enter_context(Lock(self._folder))
            except FolderBusy:
                _log.info(f"waiting for another process, which computes {self._what}")
                held.enter_context(Lock(self._folder, wait=True))
            sweep(self._folder)
        except WriteFailed:
            return None  # as writing says
        return None if self._stamp() == before else self.read(run)

    def _stamp(self) -> tuple[int, int] | None:
        with suppress(OSError):
            found = self._file.stat()
            return found.st_ino, found.st_mtime_ns
        return None

    def write(self, found: _Rows) -> None:
        """A folder that cannot be written is a warning: the training can do without."""
        arrays = {"features": found.features.numpy()}
        if found.labels is not None:
            arrays["labels"] = found.labels
        about = {"schema": SCHEMA, "made_of": self._about, "seconds": found.seconds}
        try:
            save_arrays(self._file, "features", arrays, about)
        except WriteFailed as error:
            return _warn(f"{self._what} are not kept: {error}")
        size = found.features.nbytes / 1e6
        _log.info(f"{self._what} are kept in {self._file} ({size:,.1f} MB)")


def _warn(line: str) -> None:
    warnings.warn(line, FrugalKDWarning, stacklevel=5)
