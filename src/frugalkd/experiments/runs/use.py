"""Using a run's model: measures on data, or a table of predictions.

Data are named as a user names them: a data set, a folder of pictures, an array in a file; for a
model of texts a file of lines, or a table with a column of texts.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data import DATA, ImageData, Pictures, TextData, load_data
from frugalkd.data.class_names import class_names, class_order, labels_by_name
from frugalkd.data.images import ENDINGS, decoded, require_pillow
from frugalkd.data.named import read_columns, read_lines, visible
from frugalkd.data.probe import data_digest
from frugalkd.data.samples import located
from frugalkd.data.table import TableData, read_table, table_file, target_columns, whole_numbers
from frugalkd.errors import AccessRefused, DataError, ModelError, SettingError, few, nearest
from frugalkd.experiments.runs.folder import head_alone, read_results, results_of, trained_in
from frugalkd.experiments.runs.from_recipe import data_of_run
from frugalkd.experiments.runs.schema import section
from frugalkd.files.opening import named_file
from frugalkd.files.parsing import cell, one_line
from frugalkd.files.writing import make_folder, write_atomic
from frugalkd.language.corpus import Corpus, tokenize_corpus
from frugalkd.language.evaluation import measure_tokens
from frugalkd.language.generation import complete, read_prompts
from frugalkd.language.models import load_causal, load_tokenizer
from frugalkd.language.named import fetched
from frugalkd.language.targets import LiveTokens
from frugalkd.models.saved import Loaded, load
from frugalkd.runtime.devices import use_threads
from frugalkd.runtime.imports import Allowed
from frugalkd.training.evaluation import measured
from frugalkd.training.evaluation import predict as predict_data
from frugalkd.training.frozen import predict_by_head

Read = Callable[[slice], tuple[Any, dict[int, str]]]
"""Of some rows: the images, in any form that ``Preprocess`` takes, and why others of them, by their
place in the slice, cannot be read. Those are left out of the images."""

Labels = NDArray[Any] | None


@dataclass(frozen=True)
class Predictions:
    """Predictions for ``what`` (images, texts, rows): ``probabilities`` float32 (rows, classes), or
    the outputs of another kind, NaN in the rows of ``failed``, which says why; ``labels`` int64
    (rows,), or (rows, targets), if known."""

    what: str
    names: Sequence[str]
    probabilities: NDArray[np.float32]
    labels: Labels
    failed: dict[int, str] = field(default_factory=dict)

    def describe_failed(self) -> str:
        """The first of the rows that cannot be read, and why."""
        return few([f"{one_line(self.names[row])} ({why})" for row, why in self.failed.items()])


def evaluate_run(
    run: Path,
    data: str | None = None,
    allowed: Allowed = Allowed(),  # noqa: B008
    teacher: str | None = None,
) -> tuple[dict[str, Any], str]:
    """Measures of the run's model (see ``evaluation.MEASURES``), and the name of the data.

    ``data`` is a data set's name, a folder of class folders or a table; None: the run's held-out
    data, which ``allowed`` must allow. ``teacher``, what :func:`frugalkd.language.load_causal`
    takes, is compared with a language model. Raises ImportRefused, AccessRefused, RunFolderError
    and ModelError where the run, or the teacher, cannot be used, TargetsError where the teacher has
    another vocabulary, SettingError for the teacher of another model, DataError where the data
    cannot be read or hold no labels.
    """
    loaded = load_run(run, allowed)
    if loaded.output.name == "tokens":
        return _on_tokens(run, loaded, data, allowed, teacher)
    if teacher is not None:
        raise SettingError(
            "a teacher is compared with language models: of other runs results.json has how often "
            "they agree on held-out data"
        )
    predictions, labels, what = on_data(run, loaded, data, allowed)
    found = measured(loaded.output, predictions, labels)
    return {key: value for key, value in found.items() if not key.startswith("teacher")}, what


def _on_tokens(
    run: Path, loaded: Loaded, data: str | None, allowed: Allowed, teacher: str | None
) -> tuple[dict[str, Any], str]:
    """Measures of a language model on the held-out part of its own data, or on ``data``: a source
    of :func:`frugalkd.language.tokenize_corpus`, cut into blocks as those of its training."""
    if data is None:
        recipe, where = read_results(run).get("recipe"), str(run / "results.json")
        corpus: Any = data_of_run(recipe, where, allowed).eval_dataset
        if not isinstance(corpus, Corpus):
            raise DataError(f"the data of {run} have no held-out text: name some with --data")
        refuse_changed(run, "held_out", corpus)
        what = "its held-out text"
    else:
        named = section(section(results_of(run), "recipe"), "data").get("options") or {}
        if fetched("corpus", {"path": data}, None) and not allowed.download:
            raise AccessRefused(
                f"there is no {data} here, and a data set of the hub is fetched only with "
                "--download: name a file or a folder of texts"
            )
        most = getattr(loaded.model.config, "max_position_embeddings", None) or 1024
        given: dict[str, Any] = {"length": min(1024, most)}  # pyright: ignore
        given |= {key: named[key] for key in ("length", "packing") if key in named}
        tokenizer = load_tokenizer(
            allowed.tokenizer or str(loaded.folder), download=allowed.download
        )
        corpus, what = tokenize_corpus(data, tokenizer, **given), data
    live = None
    if teacher is not None:
        model, tokenizer = load_causal(teacher, download=allowed.download)
        live = LiveTokens(model, corpus, tokenizer)
    return measure_tokens(loaded.model, corpus, live), what


def on_data(
    run: Path, loaded: Loaded, data: str | None, allowed: Allowed
) -> tuple[NDArray[np.float32], NDArray[np.int64], str]:
    """Probabilities (rows, classes), or values, labels (rows, ...) and the name of the data of
    :func:`evaluate_run`, which raises the same."""
    refuse_without_labels(run, loaded)
    if data is None:
        return _on_held_out(run, loaded, allowed)
    found = _predictions(run, loaded, data, allowed)
    if found.labels is None:
        other = {
            "texts": "a .csv or .parquet file with labels",
            "rows": f"a table with {', '.join(loaded.classes)}",
        }.get(found.what, "a folder with one folder of pictures a class")
        raise DataError(f"{data} has no labels: give a data set's name, or {other}")
    if found.failed:
        raise DataError(
            f"{len(found.failed)} of {len(found.labels)} files of {data} are not readable "
            f"pictures, remove them: {found.describe_failed()}"
        )
    return found.probabilities, found.labels, data


def refuse_without_labels(run: Path, loaded: Loaded) -> None:
    """Raises ModelError for a model whose outputs have no labels."""
    if loaded.output.name == "tokens":
        raise ModelError(f"{run} is a language model, whose folder transformers reads as it is")
    if not loaded.output.labelled:
        raise ModelError(
            f"{run} gives {loaded.output.name}, measured against their teacher's while that is "
            "there: results.json in the run's folder has the measures"
        )


def load_run(run: Path, allowed: Allowed) -> Loaded:
    """The model of a run folder, under what is ``allowed``."""
    return load(
        run, imports=allowed.imports, download=allowed.download, tokenizer=allowed.tokenizer
    )


def _on_held_out(run: Path, loaded: Loaded, allowed: Allowed) -> tuple[Any, Any, str]:
    run_data = data_of_run(read_results(run).get("recipe"), str(run / "results.json"), allowed)
    held_out = run_data.eval_dataset
    if held_out is None:
        raise DataError(f"the data of {run} have no held-out part: name some with --data")
    takes = None if loaded.preprocess is None else loaded.preprocess.shape
    if isinstance(held_out, Pictures) and takes not in (None, held_out.shape):
        raise DataError(
            f"the data that {run} names are pictures of {held_out.shape}, its model takes {takes} "
            "(channels, height, width): name other data with --data"
        )
    refuse_changed(run, "held_out", held_out, loaded)
    if head_alone(run) and (trained := trained_in(run)) is not None:
        # As the run itself: its features are kept, and so are those of its students' teacher.
        threads = read_results(run).get("threads")
        use_threads(threads if type(threads) is int and threads > 0 else 1)
        memory = torch.channels_last if trained[1] else torch.preserve_format
        model = loaded.model.to(memory_format=memory)  # pyright: ignore[reportCallIssue]
        probabilities, labels = predict_by_head(model, held_out, precision=trained[0])
    else:
        rows = loaded.rows_at_once
        probabilities, labels = predict_data(
            loaded.model, held_out, batch_size=rows, output=loaded.output
        )
    if labels is None:
        raise DataError(f"the held-out data of {run} have no labels to measure on")
    what = f"the held-out part of {run}'s data"
    if not loaded.output.by_top_class:
        class_order(loaded.classes, class_names(held_out), "same", "the model", what)
        return probabilities, labels, f"its {run_data.split} split"
    labels = labels_by_name(labels, class_names(held_out), loaded.classes, what)
    return probabilities, labels, f"its {run_data.split} split"


def refuse_changed(run: Path, part: str, data: Any, loaded: Loaded | None = None) -> None:
    """Raises DataError where ``data`` are not the ``part`` (train, held_out) of the run's data any
    more, by their digest, or by the columns of its ``loaded`` model; older runs have none."""
    known = section(read_results(run), "data").get(part)
    other = isinstance(known, str) and data_digest(data) != known
    if loaded is not None and loaded.columns is not None and isinstance(data, TableData):
        other = other or data.columns != loaded.columns
    if other:
        raise DataError(
            f"the data that {run} names have changed since that run: restore these files, or name "
            "the data to use with --data"
        )


def predict_to_csv(
    run: Path,
    data: str | None,
    out: Path,
    with_probabilities: bool = False,
    allowed: Allowed = Allowed(),  # noqa: B008
) -> Predictions:
    """Classify, or embed, ``data`` (a data set's name; a folder of pictures, an .npy file; for a
    model of texts a .txt, .csv or .parquet file; None: the run's held-out data, which ``allowed``
    must allow) into a CSV file. Columns: sample, class, name,
    confidence, label where the data have it, one probability a class on request, and error, why a
    picture cannot be read: all else but its name and label is then empty. Of embeddings and of
    regression: sample, their values, the labels, and error; of several labels: sample, labels,
    wanted, a probability each on request, and error. A table is a .csv, .parquet or .npz file.

    Raises:
        ImportRefused, RunFolderError, ModelError, DataError: as in :func:`evaluate_run`; DataError
            too where no picture at all can be read.
        SettingError: ``with_probabilities`` where the outputs are none.
        WriteFailed: ``out`` cannot be written.
    """
    loaded = load_run(run, allowed)
    if with_probabilities and loaded.output.name not in ("one-class", "several-labels"):
        raise SettingError(
            f"{loaded.output.plural} have no probabilities to write: leave out --probabilities"
        )
    if data is None:
        values, labels, _ = on_data(run, loaded, None, allowed)
        found = Predictions("samples", list(map(str, range(len(values)))), values, labels)
    elif loaded.output.name == "tokens":
        return _generated(run, loaded, data, named_file(out), allowed)
    else:
        found = _predictions(run, loaded, data, allowed)
    if found.failed and len(found.failed) == len(found.names):
        raise DataError(f"no readable picture in {data}: {found.describe_failed()}")
    out = named_file(out)
    make_folder(out.parent)
    write_atomic(out, _csv(_table(loaded, found, with_probabilities)))
    return found


def _csv(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def _generated(run: Path, loaded: Loaded, data: str, out: Path, allowed: Allowed) -> Predictions:
    """A table of what a language model writes after each prompt: the lines of a .txt file, or the
    ``prompt`` or ``messages`` of the rows of a .jsonl file."""
    tokenizer = load_tokenizer(allowed.tokenizer or str(loaded.folder), download=allowed.download)
    with located(Path(data)):
        prompts = read_prompts(data)
    rows: list[list[Any]] = [["sample", "prompt", "completion"]]
    for row, (prompt, options) in enumerate(prompts):
        said = prompt if isinstance(prompt, str) else prompt[-1].get("content", "")
        rows.append([row, cell(said), cell(complete(loaded.model, tokenizer, prompt, **options))])
    make_folder(out.parent)
    write_atomic(out, _csv(rows))
    nothing = np.empty((0, 0), np.float32)
    return Predictions("prompts", [str(row) for row in range(len(prompts))], nothing, None)


def _table(loaded: Loaded, found: Predictions, with_probabilities: bool) -> Iterator[list[Any]]:
    if not loaded.output.by_top_class:
        yield from _others(loaded, found, with_probabilities)
        return
    classes = found.probabilities.shape[1]
    names = loaded.classes if len(loaded.classes) == classes else [str(n) for n in range(classes)]
    head = ["sample", "class", "name", "confidence"]
    head += ["label"] if found.labels is not None else []
    head += [cell(f"p {name}") for name in names] if with_probabilities else []
    yield [*head, "error"]
    for row, (sample, shares) in enumerate(zip(found.names, found.probabilities, strict=True)):
        why = found.failed.get(row, "")
        best = int(shares.argmax())
        cells: list[Any] = [best, cell(names[best]), f"{shares[best]:.6f}"]
        label = [int(found.labels[row])] if found.labels is not None else []
        more = [f"{share:.6f}" for share in shares] if with_probabilities else []
        if why:
            cells, more = [""] * len(cells), [""] * len(more)
        yield [cell(sample), *cells, *label, *more, cell(why)]


def _others(loaded: Loaded, found: Predictions, with_probabilities: bool) -> Iterator[list[Any]]:
    """The table of several labels, or of values."""
    output, known = loaded.output, found.labels is not None
    several, width = output.name == "several-labels", found.probabilities.shape[1]
    numbered = "{}" if several else "value {}"
    names: Sequence[str] = [numbered.format(place) for place in range(width)]
    names = loaded.classes if len(loaded.classes) == width else names
    head = [*names, *(f"label {name}" for name in names if known)]
    if several:
        shares = [f"p {name}" for name in names if with_probabilities]
        head = ["labels", *["wanted"] * known, *shares]
    yield ["sample", *map(cell, head), "error"]
    for row, (sample, values) in enumerate(zip(found.names, found.probabilities, strict=True)):
        both = [values] if found.labels is None else [values, found.labels[row]]
        if several:
            cells = [cell(output.words(each, names)) for each in both]
            cells += [f"{value:.6f}" for value in values if with_probabilities]
        else:
            cells = [f"{value:.6g}" for each in both for value in each]
        if why := found.failed.get(row, ""):
            cells = [""] * len(head)
        yield [cell(sample), *cells, cell(why)]


def _predictions(run: Path, loaded: Loaded, data: str, allowed: Allowed) -> Predictions:
    if loaded.columns is not None:
        file = table_file(data)
        with located(file):
            of_texts = [column.name for column in loaded.columns.columns if column.texts]
            table = read_table(file, texts=of_texts)
            names = [f"row {row}" for row in range(len(next(iter(table.values()), ())))]
            label = str(loaded.card.get("label", ""))
            several = loaded.output.name == "several-labels"
            labels = target_columns(table, loaded.classes, label, several=several)
            return Predictions("rows", names, loaded.outputs(table), labels)
    by_class = loaded.output.by_top_class  # else the labels of these data are of another kind
    classes = loaded.classes if by_class else ()
    if loaded.texts is not None:
        with located(Path(data)):
            about = section(section(results_of(run), "recipe"), "data")
            texts, labels = _texts(classes, data, section(about, "options"))
        names, labels = [str(row) for row in range(len(texts))], labels if by_class else None
        return Predictions("texts", names, loaded.outputs(texts), labels)
    if loaded.preprocess is None:
        raise ModelError(
            f"{run} was trained on a data set of your own, which alone knows how to prepare an "
            "image: load it in Python with frugalkd.load"
        )
    names, labels, read = _images(classes, data, loaded.preprocess.shape, allowed.download)
    labels = labels if by_class else None
    parts, failed, batch = [], {}, loaded.rows_at_once
    for start in range(0, len(names), batch):  # a batch at a time is in memory
        images, lacking = read(slice(start, start + batch))
        failed |= {start + place: why for place, why in lacking.items()}
        if len(images):
            parts.append(loaded.outputs(images, batch_size=batch))
    found = np.concatenate(parts) if parts else loaded.outputs([])
    probabilities = np.full((len(names), found.shape[1]), np.nan, dtype=np.float32)
    probabilities[[row for row in range(len(names)) if row not in failed]] = found
    return Predictions("images", names, probabilities, labels, failed)


def _texts(
    classes: Sequence[str], data: str, options: Mapping[str, Any]
) -> tuple[Sequence[str], Labels]:
    """Texts, and labels where they are known; a table has the columns that the ``options`` of the
    run's own data name."""
    path = Path(data)
    text, label = (str(options.get(name) or name) for name in ("text", "label"))
    if data in DATA:
        if "tokenizer" not in signature(DATA[data]).parameters or data == "hugging-face":
            raise DataError(f"data set {data!r} has no texts of its own, which this model takes")
        test = load_data(data).test
        texts = test.texts(range(len(test))) if isinstance(test, TextData) else None
        assert texts is not None, "read from a file that is still there"
        return texts, labels_by_name(test.labels.numpy(), test.classes, classes, data)
    if path.suffix == ".parquet" and path.is_file() and (text, label) == ("text", "label"):
        texts, labels, names = read_columns(path)
        if names != tuple(map(str, range(len(names)))):  # else the file has none
            labels = labels_by_name(labels, names, classes, "the file")
        return texts, labels
    if path.suffix in (".csv", ".parquet") and path.is_file():
        table = read_table(path, {text, label, "text", "label"})
        texts, given = table.get(text, table.get("text")), table.get(label, table.get("label"))
        if texts is None or texts.dtype != object:
            raise DataError(f"there is no column {text!r} of texts")
        if given is not None and given.dtype != object:
            return texts.tolist(), _numbered(given, classes)
        known = {} if given is None else {label: given}
        return texts.tolist(), target_columns(known, classes, label) if classes else None
    if path.suffix == ".txt" and path.is_file():
        return read_lines(path), None
    if path.suffix in (".csv", ".parquet", ".txt"):
        raise DataError("there is no such file")
    raise DataError(
        f"no such data: {nearest(data, DATA)}; or name a FILE.txt with a text a line, or a "
        f"FILE.csv or FILE.parquet with the columns {text} and {label}"
    )


def _numbered(given: NDArray[np.float64], classes: Sequence[str]) -> NDArray[np.int64]:
    """Indices of the ``classes`` whose names the numbers ``given`` are; numbers are themselves
    indices where no class has a number for its name. Raises DataError for others."""
    labels = whole_numbers(given)
    if any(name.lstrip("-").isdecimal() for name in classes):
        numbers, places = np.unique(labels, return_inverse=True)
        return labels_by_name(places, tuple(map(str, numbers.tolist())), classes, "the label")
    if classes and len(labels) and not 0 <= labels.min() <= labels.max() < len(classes):
        raise DataError(
            f"labels lie in {labels.min()} .. {labels.max()}: the model has the classes 0 .. "
            f"{len(classes) - 1}"
        )
    return labels


def _images(
    classes: Sequence[str], data: str, shape: tuple[int, ...], download: bool
) -> tuple[Sequence[str], Labels, Read]:
    """The images' names, their labels where they are known, and how to read them."""
    path, labels = Path(data), None
    if path.is_dir() and data not in DATA:
        return _folder(path, classes, shape)
    if data in DATA:
        test = load_data(data, download=download).test
        if not isinstance(test, ImageData):
            raise DataError(f"{data} is read by a recipe: name its folder of pictures here")
        array: Any = test.images
        labels = labels_by_name(test.labels.numpy(), test.classes, classes, data)
    elif path.suffix == ".npy":
        array = _array(path, shape)
    else:
        raise DataError(
            f"no data {data!r}: {nearest(data, DATA)}; or name a folder of pictures, or a FILE.npy"
        )
    return [str(id) for id in range(len(array))], labels, lambda rows: (array[rows], {})


def _array(path: Path, shape: tuple[int, ...]) -> NDArray[Any]:
    """Memory-mapped: batches are read from the file, whatever size its header claims."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(array, np.ndarray):  # an archive of several, under another ending
            raise ValueError
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except (ValueError, EOFError):
        raise DataError(f"{path} is not an array of numbers in numpy's format") from None
    channels, height, width = shape
    one = array.shape in (shape, (height, width, channels)) or array.ndim < 3
    return array[None] if one else array


def _folder(
    path: Path, classes: Sequence[str], shape: tuple[int, ...]
) -> tuple[Sequence[str], Labels, Read]:
    require_pillow()
    files = sorted(
        file
        for file in path.rglob("*")
        if file.suffix.lower() in ENDINGS and visible(file, path) and file.is_file()
    )
    if not files:
        raise DataError(f"no pictures in {path} (known are {', '.join(ENDINGS)})")
    parents = [file.relative_to(path).parts[0] for file in files]
    labels = None
    if classes and set(parents) <= set(classes):
        places = {name: place for place, name in enumerate(classes)}
        labels = np.array([places[parent] for parent in parents], dtype=np.int64)

    def read(rows: slice) -> tuple[torch.Tensor, dict[int, str]]:
        pixels, failed = [torch.empty((0, *shape), dtype=torch.uint8)], {}
        for place, file in enumerate(files[rows]):
            try:
                pixels.append(decoded(file, shape)[None])
            except DataError as error:
                failed[place] = str(error)
        return torch.cat(pixels), failed

    return [file.relative_to(path).as_posix() for file in files], labels, read
