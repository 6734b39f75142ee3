"""Texts that a user names: a data set, a file of lines, a table with a column of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from frugalkd.data import DATA, TextData, load_data
from frugalkd.data.root import located
from frugalkd.data.texts import read_columns
from frugalkd.errors import DataError, nearest
from frugalkd.evaluation import predict
from frugalkd.runs.load import Loaded

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
    a line, or a ``.parquet`` file with the columns ``text`` and ``label``.

    Raises:
        DataError: nothing of the kind is there, or it cannot be read.
        ModelError: the model's tokenizer is not there.
    """
    assert loaded.texts is not None
    path = Path(spec)
    if spec in DATA:
        test = _test_part(loaded, spec)
        probabilities, labels = predict(loaded.model, test)
        return Classified([str(id) for id in range(len(test))], probabilities, labels)
    labels = None
    with located(path):
        if path.suffix == ".parquet" and path.is_file():
            texts, labels, _ = read_columns(path)
        elif path.suffix == ".txt" and path.is_file():
            texts = _lines(path)
        else:
            raise DataError(
                f"no such data: {nearest(spec, DATA)}; or name a FILE.txt with a text a line, or a "
                "FILE.parquet with text and label"
            )
    probabilities = loaded.predict(texts)[1]
    return Classified([str(row) for row in range(len(texts))], probabilities, labels)


def _test_part(loaded: Loaded, name: str) -> TextData:
    texts: Any = loaded.texts
    try:
        test = load_data(name, tokenizer=texts.tokenizer, max_length=texts.max_length).test
    except DataError as error:
        if "takes no option" in str(error):  # no data set of texts
            raise DataError(f"data set {name!r} has no texts, which this model takes") from None
        raise
    assert isinstance(test, TextData)
    return test


def _lines(path: Path) -> list[str]:
    try:
        if path.stat().st_size > _LARGEST:
            raise DataError(f"is larger than {_LARGEST >> 20} MiB: cut it")
        return path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise DataError("is not UTF-8 text") from None
