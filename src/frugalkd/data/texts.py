"""Text data by name: Banking77 and TREC-6, from Parquet files with a text and a label."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from frugalkd.data.root import NAME_A_ROOT, data_root, located
from frugalkd.data.splits import Splits
from frugalkd.data.text import TextData, Tokens
from frugalkd.data.tokenizers import MAX_LENGTH, WORDS, tokenize
from frugalkd.errors import DataError
from frugalkd.files import StrPath
from frugalkd.files.parsing import most_unpacked
from frugalkd.runtime.imports import require_extra


def load_banking77(
    root: StrPath | None = None, *, tokenizer: str = WORDS, max_length: int = MAX_LENGTH
) -> Splits:
    """Banking77 (Casanueva et al., 2020; CC BY 4.0), 10,003 and 3,080 questions of a bank's
    customers with 77 intents, from ``<root>/banking77/{train,test}.parquet``.

    ``tokenizer`` and ``max_length`` are those of :func:`frugalkd.data.tokenizers.tokenize`. Raises
    DataError for files that are missing or wrong, ModelError for a tokenizer that is not there.
    """
    return _load("banking77", root, tokenizer, max_length)


def load_trec6(
    root: StrPath | None = None, *, tokenizer: str = WORDS, max_length: int = MAX_LENGTH
) -> Splits:
    """TREC's questions with six kinds of answers (Li and Roth, 2002), 5,452 and 500, from
    ``<root>/trec6/{train,test}.parquet``; 10 test questions are among those for training.

    Options and errors are those of :func:`load_banking77`.
    """
    return _load("trec6", root, tokenizer, max_length)


def _load(name: str, root: StrPath | None, tokenizer: str, max_length: int) -> Splits:
    return Splits(
        *(
            read_texts(data_root(root) / name / f"{part}.parquet", tokenizer, max_length)
            for part in ("train", "test")
        )
    )


def read_texts(path: Path, tokenizer: str = WORDS, max_length: int = MAX_LENGTH) -> TextData:
    """The texts of a Parquet file with the columns ``text`` and ``label``; names of classes come
    from what the Hugging Face hub notes in such files. Raises DataError, ModelError."""
    if not path.is_file():
        raise DataError(f"{path} is not there: put the Parquet file there, {NAME_A_ROOT}")
    about = path.stat()
    with located(path):
        tokens, labels, names = _read(path, about.st_size, about.st_mtime_ns, tokenizer, max_length)
        return TextData(tokens, torch.from_numpy(labels), names, partial(_read_again, path))


@lru_cache(maxsize=4)  # a comparison's process asks for them in each of its runs
def _read(
    path: Path, size: int, changed: int, tokenizer: str, max_length: int
) -> tuple[Tokens, NDArray[np.int64], tuple[str, ...]]:
    """What is in a file that has ``size`` bytes and was last ``changed`` then."""
    texts, labels, names = read_columns(path)
    return tokenize(texts, tokenizer, max_length=max_length), labels, names


def _read_again(path: Path, rows: list[int]) -> list[str]:
    """The texts of these rows. Raises DataError."""
    with located(path):
        texts = read_columns(path)[0]
        if max(rows, default=0) >= len(texts):
            raise DataError(f"has {len(texts)} texts now: it changed since it was read")
    return [texts[row] for row in rows]


def read_columns(path: Path) -> tuple[list[str], NDArray[np.int64], tuple[str, ...]]:
    """The columns ``text`` and ``label`` of a Parquet file, and the names of the classes, which are
    numbers where the file does not know them. Raises DataError."""
    require_extra("parquet", f"reading {path.name} needs pyarrow", DataError, "pyarrow")
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        # As a dictionary: a file may repeat one text without holding it more than once.
        with pq.ParquetFile(path, read_dictionary=["text"]) as file:
            schema = file.schema_arrow
            types = {name: schema.field(name).type for name in schema.names}
            text, label = types.get("text", pa.null()), types.get("label", pa.null())
            text = getattr(text, "value_type", text)
            if not (
                (pa.types.is_string(text) or pa.types.is_large_string(text))
                and pa.types.is_integer(label)
            ):
                columns = ", ".join(f"{name}: {kind}" for name, kind in types.items())
                raise DataError(f"the columns are ({columns}): need text and label (integer)")
            # A row takes more than a bit, so that a header cannot claim what is not there.
            if file.metadata.num_rows > 8 * path.stat().st_size:
                raise DataError(f"claims {file.metadata.num_rows} texts: get the file again")
            most = most_unpacked(path.stat().st_size)
            claimed = _unpacked(file.metadata)
            if claimed > most:
                raise DataError(f"claims {claimed} bytes, more than 64 times its size")
            table = file.read(columns=["text", "label"])
            known = _names(schema.metadata or {})
        if table["text"].null_count or table["label"].null_count:
            raise DataError("a row has no text or no label: get the file again")
        if sum(_length(part) for part in table["text"].chunks) > most:
            raise DataError("repeats its texts to more than 64 times its size")
        texts, labels = table["text"].to_pylist(), table["label"].to_numpy().astype(np.int64)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"cannot be read ({reason}): get the file again") from error
    highest = int(labels.max(initial=-1))
    if known and len(known) > highest:
        return texts, labels, known
    if highest >= len(labels):
        raise DataError(f"a label is {highest}, of {len(labels)} texts: count classes from 0")
    return texts, labels, tuple(map(str, range(highest + 1)))


def _unpacked(metadata: Any) -> int:
    """Bytes of the two columns before their compression, as the file says."""
    groups = [metadata.row_group(place) for place in range(metadata.num_row_groups)]
    columns = [group.column(place) for group in groups for place in range(group.num_columns)]
    read = [column for column in columns if column.path_in_schema in ("text", "label")]
    return sum(column.total_uncompressed_size for column in read)


def _length(part: Any) -> int:
    """Signs of all texts of a dictionary array."""
    lengths = np.array([len(text) for text in part.dictionary.to_pylist()], dtype=np.int64)
    return int(lengths[part.indices.to_numpy()].sum())


def _names(metadata: Mapping[bytes, bytes]) -> tuple[str, ...]:
    """The names of ``label``'s classes, as the hub notes them in a Parquet file."""
    try:
        said: Any = json.loads(metadata.get(b"huggingface", b"{}"))
        names = said["info"]["features"]["label"]["names"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return ()
    strings = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if strings else ()
