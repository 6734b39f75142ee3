"""A run's model put to use: measured on data, or classifying them into a table."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.data import ImageData, Pictures
from frugalkd.data.class_names import class_names, labels_by_name
from frugalkd.errors import DataError, ModelError
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.material import data_of_run
from frugalkd.experiments.runs.pictures import Images, images_from
from frugalkd.experiments.runs.texts import classify_texts
from frugalkd.files.opening import named_file
from frugalkd.files.parsing import cell, one_line
from frugalkd.files.writing import make_folder, write_atomic
from frugalkd.models.saved import Loaded, load
from frugalkd.runtime.imports import Allowed
from frugalkd.training.evaluation import measure
from frugalkd.training.evaluation import predict as predict_data

_NAMED = 8


@dataclass(frozen=True)
class Predictions:
    """What a model says of the rows of a table.

    Attributes:
        what: they are, ``images`` or ``texts``.
        names: of the rows.
        probabilities: float32 (rows, classes), of those in ``failed`` NaN.
        labels: int64 (rows,), or None where the data know none.
        failed: row -> why it cannot be read.
    """

    what: str
    names: list[str]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    failed: dict[int, str] = field(default_factory=dict)

    def said_of_failed(self) -> str:
        """The first of the rows that cannot be read, and why."""
        said = [f"{one_line(self.names[row])} ({why})" for row, why in self.failed.items()]
        return ", ".join(said[:_NAMED]) + (f" and {len(said) - _NAMED} more" * (len(said) > _NAMED))


def evaluate_run(
    run: Path,
    data: str | None = None,
    allowed: Allowed = Allowed(),  # noqa: B008
) -> tuple[dict[str, Any], str]:
    """Measures of the run's model (see ``evaluation.measure``), and what they were taken on.

    Args:
        run: a run folder.
        data: a data set's name or a folder of class folders; None: what the run held out, which
            ``allowed`` must allow.
        allowed: what the folder may make us import, read and fetch.

    Raises:
        ImportRefused, AccessRefused: the folder names something else.
        RunFolderError, ModelError: the run cannot be used.
        DataError: the data cannot be read, or hold no labels.
    """
    loaded = load(run, imports=allowed.imports, download=allowed.download)
    if data is None:
        probabilities, labels, what = _on_held_out(run, loaded, allowed)
    else:
        found = _predictions(run, loaded, data, allowed)
        probabilities, labels, what = found.probabilities, found.labels, data
        if labels is None:
            raise DataError(
                f"{data} says no classes: give a data set's name, or "
                + ("a .parquet file" if found.what == "texts" else "a folder with one folder of "
                   "pictures a class")
            )  # fmt: skip
        if found.failed:
            raise DataError(
                f"{len(found.failed)} of {len(labels)} files of {data} are no readable pictures, "
                f"take them away: {found.said_of_failed()}"
            )
    measured = measure(probabilities, labels)
    return {key: value for key, value in measured.items() if key != "teacher_agreement"}, what


def _on_held_out(run: Path, loaded: Loaded, allowed: Allowed) -> tuple[Any, Any, str]:
    material = data_of_run(read_results(run).get("recipe"), str(run / "results.json"), allowed)
    if material.eval_dataset is None:
        raise DataError(f"the data of {run} have no held-out part: name some with --data")
    eval_dataset, rows = material.eval_dataset, loaded.rows_at_once
    takes = None if loaded.preprocess is None else loaded.preprocess.shape
    if isinstance(eval_dataset, Pictures) and takes not in (None, eval_dataset.shape):
        raise DataError(
            f"the data that {run} names are pictures of {eval_dataset.shape}, its model takes "
            f"{takes} "
            "(channels, height, width): name other data with --data"
        )
    if isinstance(eval_dataset, ImageData) and loaded.preprocess is not None:
        probabilities = loaded.predict(eval_dataset.images, batch_size=rows)[1]
        labels = eval_dataset.labels.numpy()
    else:
        probabilities, labels = predict_data(loaded.model, eval_dataset, batch_size=rows)
        if labels is None:
            raise DataError(f"the held-out data of {run} have no labels to measure on")
    names, what = class_names(eval_dataset), f"the held-out part of {run}'s data"
    labels = labels_by_name(labels, names, loaded.classes, what)
    return probabilities, labels, f"its {material.split} split"


def predict_to_csv(
    run: Path,
    data: str,
    out: Path,
    with_probabilities: bool = False,
    allowed: Allowed = Allowed(),  # noqa: B008
) -> Predictions:
    """Classify ``data`` (a data set's name; a folder of pictures, an .npy file; for a model of
    texts a .txt or .parquet file) into a CSV file. Columns: sample, class, name, confidence, label
    where the data know it, one probability a class where asked, and error, why a picture cannot be
    read: all else but its name is then empty.

    Raises:
        ImportRefused, RunFolderError, ModelError, DataError: as in :func:`evaluate_run`; DataError
            too where no picture at all can be read.
        WriteFailed: ``out`` cannot be written.
    """
    loaded = load(run, imports=allowed.imports, download=allowed.download)
    found = _predictions(run, loaded, data, allowed)
    if found.failed and len(found.failed) == len(found.names):
        raise DataError(f"no readable picture in {data}: {found.said_of_failed()}")
    out = named_file(out)
    make_folder(out.parent)
    write_atomic(out, _table(loaded, found, with_probabilities).encode())
    return found


def _predictions(run: Path, loaded: Loaded, data: str, allowed: Allowed) -> Predictions:
    if loaded.texts is not None:
        texts = classify_texts(loaded, data)
        return Predictions("texts", list(texts.names), texts.probabilities, texts.labels)
    if loaded.preprocess is None:
        raise ModelError(
            f"{run} was trained on a data set of your own, which alone knows how to prepare an "
            "image: load it in Python with frugalkd.load"
        )
    shape = loaded.preprocess.shape
    images = images_from(data, loaded.classes, shape, download=allowed.download)
    return _of_images(loaded, images)


def _of_images(loaded: Loaded, images: Images) -> Predictions:
    """A batch at a time is read, and forgotten."""
    parts, failed, batch = [], {}, loaded.rows_at_once
    for start in range(0, len(images.names), batch):
        read, lacking = images.read(slice(start, start + batch))
        failed |= {start + place: why for place, why in lacking.items()}
        if len(read):
            parts.append(loaded.predict(read, batch_size=batch)[1])
    found = np.concatenate(parts) if parts else loaded.predict([])[1]
    whole = np.full((len(images.names), found.shape[1]), np.nan, dtype=np.float32)
    whole[[row for row in range(len(whole)) if row not in failed]] = found
    return Predictions("images", list(images.names), whole, images.labels, failed)


def _table(loaded: Loaded, found: Predictions, with_probabilities: bool) -> str:
    probabilities = found.probabilities
    names = loaded.classes
    if len(names) != probabilities.shape[1]:
        names = tuple(str(index) for index in range(probabilities.shape[1]))
    head = ["sample", "class", "name", "confidence"]
    head += ["label"] if found.labels is not None else []
    head += [cell(f"p {name}") for name in names] if with_probabilities else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*head, "error"])
    for row, (sample, said) in enumerate(zip(found.names, probabilities, strict=True)):
        why = found.failed.get(row)
        chosen = int(said.argmax())
        cells: list[Any] = [chosen, cell(names[chosen]), f"{said[chosen]:.6f}"]
        label = [int(found.labels[row])] if found.labels is not None else []
        shares = [f"{p:.6f}" for p in said] if with_probabilities else []
        if why is not None:
            cells, shares = [""] * len(cells), [""] * len(shares)
        writer.writerow([cell(sample), *cells, *label, *shares, cell(why or "")])
    return text.getvalue()
