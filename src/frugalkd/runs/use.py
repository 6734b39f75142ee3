"""A run's model put to use: measured on data, or classifying them into a table."""

from __future__ import annotations

import csv
import io
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from frugalkd.data import ImageData
from frugalkd.errors import DataError, ModelError, RunFolderError
from frugalkd.evaluation import measure
from frugalkd.evaluation import predict as predict_data
from frugalkd.files.atomic import write_atomic
from frugalkd.files.writing import make_folder
from frugalkd.imports import refuse_unlisted
from frugalkd.recipes.schema import Augment, Recipe
from frugalkd.runs.folder import read_results
from frugalkd.runs.load import Loaded, load
from frugalkd.runs.material import make_data
from frugalkd.runs.pictures import Images, images_from
from frugalkd.runs.texts import Classified, classify_texts


def evaluate_run(
    run: Path, data: str | None, imports: Collection[str] = ()
) -> tuple[dict[str, Any], str]:
    """Measures of the run's model (see ``evaluation.measure``), and what they were taken on.

    Args:
        run: a run folder.
        data: a data set's name or a folder of class folders; None: what the run held out.
        imports: import paths that the folder's files may name.

    Raises:
        ImportRefused: they name another one.
        RunFolderError, ModelError: the run cannot be used.
        DataError: the data cannot be read, or hold no labels.
    """
    loaded = load(run, imports=imports)
    if data is None:
        probabilities, labels, what = _on_held_out(run, loaded, imports)
    elif loaded.texts is not None:
        found = classify_texts(loaded, data)
        probabilities, labels, what = found.probabilities, found.labels, data
        if labels is None:
            raise DataError(f"{data} says no classes: give a data set's name, or a .parquet file")
    else:
        images = images_from(data, loaded.classes)
        if images.labels is None:
            raise DataError(
                f"{data} says no classes: give a data set's name, or a folder with one folder of "
                "pictures a class"
            )
        probabilities, labels = loaded.predict(images.pixels)[1], images.labels
        what = data
    measured = measure(probabilities, labels)
    return {key: value for key, value in measured.items() if key != "teacher_agreement"}, what


def _on_held_out(run: Path, loaded: Loaded, imports: Collection[str]) -> tuple[Any, Any, str]:
    try:
        recipe = Recipe.model_validate(read_results(run)["recipe"])
    except (KeyError, ValueError):
        raise RunFolderError(f"{run / 'results.json'} is damaged: its recipe is none") from None
    if recipe.data.path is not None:
        refuse_unlisted(recipe.data.path, imports, str(run / "results.json"))
    material = make_data(recipe, Augment(crop=0, flip=False), recipe.seed)
    if material.held_out is None:
        raise DataError(f"the data of {run} have no held-out part: name some with --data")
    held_out = material.held_out
    if isinstance(held_out, ImageData) and loaded.preprocess is not None:
        probabilities, labels = loaded.predict(held_out.images)[1], held_out.labels.numpy()
    else:
        probabilities, labels = predict_data(loaded.model, held_out)
        if labels is None:
            raise DataError(f"the held-out data of {run} have no labels to measure on")
    return probabilities, labels, f"its {material.split} split"


def predict_to_csv(
    run: Path,
    data: str,
    out: Path,
    with_probabilities: bool = False,
    imports: Collection[str] = (),
) -> int:
    """Classify ``data`` (a data set's name; a folder of pictures, an .npy file; for a model of
    texts a .txt or .parquet file) into a CSV file; returns the number of rows. Columns: sample,
    class, name, confidence, label where the data know it, and one probability a class where asked.

    Raises:
        ImportRefused, RunFolderError, ModelError, DataError: as in :func:`evaluate_run`.
        WriteFailed: ``out`` cannot be written.
    """
    loaded = load(run, imports=imports)
    if loaded.texts is not None:
        found = classify_texts(loaded, data)
        classes, probabilities = found.probabilities.argmax(axis=1), found.probabilities
        make_folder(out.parent)
        write_atomic(
            out, _table(loaded, found, classes, probabilities, with_probabilities).encode()
        )
        return len(classes)
    if loaded.preprocess is None:
        raise ModelError(
            f"{run} was trained on a data set of your own, which alone knows how to prepare an "
            "image: load it in Python with frugalkd.load"
        )
    images = images_from(data, loaded.classes)
    make_folder(out.parent)
    with torch.no_grad():
        classes, probabilities = loaded.predict(images.pixels)
    write_atomic(out, _table(loaded, images, classes, probabilities, with_probabilities).encode())
    return len(classes)


def _table(
    loaded: Loaded,
    images: Images | Classified,
    classes: Any,
    probabilities: Any,
    with_probabilities: bool,
) -> str:
    names = loaded.classes or tuple(str(index) for index in range(probabilities.shape[1]))
    head = ["sample", "class", "name", "confidence"]
    head += ["label"] if images.labels is not None else []
    head += [f"p {name}" for name in names] if with_probabilities else []
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(head)
    for row, (sample, found) in enumerate(zip(images.names, classes.tolist(), strict=True)):
        cells: list[Any] = [sample, found, names[found], f"{probabilities[row, found]:.6f}"]
        cells += [int(images.labels[row])] if images.labels is not None else []
        cells += [f"{p:.6f}" for p in probabilities[row]] if with_probabilities else []
        writer.writerow(cells)
    return text.getvalue()
