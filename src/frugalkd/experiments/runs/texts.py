"""Texts that a user names: a data set, a file of lines, a table with a column of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from frugalkd.data import DATA, TextData, load_data
from frugalkd.data.class_names import labels_by_name
from frugalkd.data.root import located
from frugalkd.data.texts import read_columns
from frugalkd.errors import DataError, nearest
from frugalkd.models.saved import Loaded

_LARGEST = 1 << 28


@dataclass(frozen=True)
class Classified:
    """What a model says of texts: their names, ``probabilities`` float32 (texts, classes), and
    ``labels`` int64 (texts,) or None."""

    names: Sequence[str]
    probabilities: NDArray[np.float32]
    labels: NDArray[np.int64] | None


def classify_texts(loaded: Loaded, spec: str) -> Classified:
    """Classify what ``spec`` names: a data set of ours (its test part), a ``.txt`` file with a text
    a line, or a ``.parquet`` file with the columns ``text`` and ``label``. The tokenizer is the
    model's.

    Raises:
        DataError: nothing of the kind is there, or it cannot be read, or is of other classes.
        ModelError: the model's tokenizer is not there.
    """
    path, labels = Path(spec), None
    with located(path):
        if spec in DATA:
            texts, labels, names = _test_part(spec)
            labels = labels_by_name(labels, names, loaded.classes, spec)
        elif path.suffix == ".parquet" and path.is_file():
            texts, labels, names = read_columns(path)
            if names != tuple(map(str, range(len(names)))):  # else the file has none
                labels = labels_by_name(labels, names, loaded.classes, "the file")
        elif path.suffix == ".txt" and path.is_file():
            texts = _lines(path)
        else:
            raise DataError(
                f"no such data: {nearest(spec, DATA)}; or name a FILE.txt with a text a line, or a "
                "FILE.parquet with text and label"
            )
    probabilities = loaded.predict(texts)[1]
    return Classified([str(row) for row in range(len(texts))], probabilities, labels)


def _test_part(name: str) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    if "tokenizer" not in signature(DATA[name]).parameters or name == "hugging-face":
        raise DataError(f"data set {name!r} has no texts of its own, which this model takes")
    test = load_data(name).test
    texts = test.texts(range(len(test))) if isinstance(test, TextData) else None
    assert texts is not None, "read from a file that is still there"
    return texts, test.labels.numpy(), test.classes


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"is larger than {_LARGEST >> 20} MiB: cut it")
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text") from None
