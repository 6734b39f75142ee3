"""A run's model as a file that others serve, and what that file is worth: its size, its speed, and
on held-out data its accuracy and its agreement with the student."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frugalkd.data import DATA, Pictures, load_data
from frugalkd.errors import DataError, ModelError
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.from_recipe import data_of_run
from frugalkd.experiments.runs.use import load_run, on_data, refuse_changed
from frugalkd.models.export import Format, example_batch, opened
from frugalkd.models.identity import inference_mode
from frugalkd.models.origin import name_classes
from frugalkd.models.saved import Loaded
from frugalkd.runtime.imports import Allowed

_CALIBRATION = 512
"""Pictures of the training data that int8 is calibrated on."""
_BATCHES, _ROUNDS, _SECONDS = (1, 64), 5, 0.05
"""Rows in a batch that is timed, how often each is, and for how long at least."""


def export_run(
    run: Path,
    out: Path,
    to: Format,
    *,
    int8: bool = False,
    data: str | None = None,
    allowed: Allowed = Allowed(),  # noqa: B008
) -> dict[str, Any]:
    """Export the model of ``run`` to the folder ``out`` and measure the files.

    ``data`` (a data set's name or a folder of pictures), or the run's held-out data where
    ``allowed`` has ``data``, are what accuracy and agreement are measured on; without either these
    are None. int8 of pictures is calibrated on the training part of the same data.

    Returns:
        ``files``; ``table``, a row for the student and each file that can be run: its bytes, its
        milliseconds by batch size (the median of interleaved rounds), accuracy, agreement;
        ``threads``; ``tokens`` of the texts that were timed; what was measured on.

    Raises:
        What ``evaluate_run`` and ``Loaded.export`` raise; DataError: int8 of pictures has no
        training data to be calibrated on.
    """
    loaded = load_run(run, allowed)
    if (data is not None or allowed.data) and not loaded.output.by_top_class:
        raise ModelError(
            f"{run} gives {loaded.output.plural}, and exports are compared by their classes: leave "
            "--data out"
        )
    pictures = None
    if int8 and loaded.preprocess is not None:
        pictures = _calibration(run, loaded, data, allowed)
    files = loaded.export(out, to, int8=int8, calibration=pictures)
    models, sizes = {"student": loaded.model}, {"student": loaded.folder / loaded.card["weights"]}
    for file in files:
        name = f"{to} int8" if file.stem.endswith("-int8") else to
        sizes[name] = file
        if to != "safetensors":
            models[name] = opened(file.read_bytes(), to)
    rows = {
        name: {"model": name, "file": str(file), "bytes": file.stat().st_size}
        for name, file in sizes.items()
    }
    tokens = None if loaded.texts is None else loaded.texts.max_length
    if loaded.texts is not None or loaded.preprocess is not None:
        for name, milliseconds in _milliseconds(models, loaded, tokens).items():
            rows[name]["milliseconds"] = milliseconds
    on = samples = None
    if data is not None or allowed.data:
        of_student = None
        for name, model in models.items():
            name_classes(model, loaded.classes)
            found, labels, on = on_data(run, replace(loaded, model=model), data, allowed)
            predicted = found.argmax(axis=1)
            of_student = predicted if of_student is None else of_student
            rows[name]["accuracy"] = float((predicted == labels).mean())
            rows[name]["agreement"] = float((predicted == of_student).mean())
            samples = len(labels)
    return {
        "run": str(run),
        "to": to,
        "files": [str(file) for file in files],
        "data": on,
        "samples": samples,
        "calibrated_on": None if pictures is None else len(pictures),
        "threads": torch.get_num_threads(),
        "tokens": tokens,
        "table": list(rows.values()),
    }


def _calibration(run: Path, loaded: Loaded, data: str | None, allowed: Allowed) -> Tensor:
    """uint8 (rows, C, H, W): of all classes where the training data are sorted by class."""
    if data is None and not allowed.data:
        raise DataError(
            "int8 of a model of pictures is calibrated on training data: allow the run's with "
            "--data own, or name a data set with --data"
        )
    if data is None:
        said = read_results(run).get("recipe")
        train: Any = data_of_run(said, str(run / "results.json"), allowed).train
        refuse_changed(run, "train", train)
    elif data in DATA:
        train = load_data(data, download=allowed.download).train
    else:
        raise DataError(
            f"int8 is calibrated on training data, which {data} has not: give --data own, or the "
            "name of a data set"
        )
    takes = None if loaded.preprocess is None else loaded.preprocess.shape
    if not isinstance(train, Pictures) or train.shape != takes:
        raise DataError(f"the training data are not pictures of {takes}, which the model takes")
    places = np.unique(np.linspace(0, len(train) - 1, _CALIBRATION).astype(np.int64))
    return train.pixels(torch.from_numpy(places))


def _milliseconds(
    models: Mapping[str, nn.Module], loaded: Loaded, tokens: int | None
) -> dict[str, dict[str, float]]:
    """Of a forward pass, by model and rows in a batch."""
    found: dict[str, dict[str, float]] = {name: {} for name in models}
    for rows in _BATCHES:
        batch = example_batch(loaded, rows, tokens or 0)
        inputs = () if tokens else tuple(batch.values())
        named = batch if tokens else {}
        taken: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(_ROUNDS):
            for name, model in models.items():
                with inference_mode(model):
                    taken[name].append(_seconds(partial(model, *inputs, **named)))
        for name, seconds in taken.items():
            found[name][str(rows)] = round(1000 * float(np.median(seconds)), 4)
    return found


def _seconds(run: Callable[[], Any]) -> float:
    """Of one call, the mean over ``_SECONDS``, or of a single one that takes longer."""
    run()
    calls, taken, started = 0, 0.0, time.perf_counter()
    while not calls or taken < _SECONDS:
        run()
        calls, taken = calls + 1, time.perf_counter() - started
    return taken / calls
