"""Texts held in RAM as token ids; a batch is padded to its own longest row."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from frugalkd.data.samples import Samples
from frugalkd.errors import DataError
from frugalkd.files.parsing import one_line

TextBatch = dict[str, Tensor]
"""``input_ids`` and ``attention_mask`` int64 (B, L), as transformers' models take them, and
``labels`` int64 (B,)."""

ReadTexts = Callable[[list[int]], list[str]]
"""The texts that stand in these rows of where they came from, in this order."""


@dataclass(frozen=True)
class Tokens:
    """Token ids of texts, one after another.

    Attributes:
        ids: int32 (tokens,).
        ends: int64 (texts,), where each text ends.
        vocabulary: how many tokens there are; all ids are below.
        padding: the token that fills up a batch.
        tokenizer: its name or path, and ``max_length``, the tokens of a text at the most: what
            makes the same tokens of other texts.
    """

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    vocabulary: int
    padding: int
    tokenizer: str
    max_length: int

    def __len__(self) -> int:
        return len(self.ends)

    @cached_property
    def starts(self) -> NDArray[np.int64]:
        """int64 (texts,), where each text begins."""
        return np.concatenate([[0], self.ends[:-1]]).astype(np.int64)

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (texts,), tokens of each text."""
        return self.ends - self.starts

    def padded(self, rows: NDArray[np.int64]) -> TextBatch:
        """``input_ids`` and ``attention_mask`` of the texts ``rows``, as wide as the longest."""
        lengths = self.lengths[rows]
        columns = np.arange(max(1, int(lengths.max(initial=0))))
        known = columns < lengths[:, None]
        places = np.where(known, self.starts[rows][:, None] + columns, 0)
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
        within = np.arange(int(lengths.sum())) - np.repeat(ends - lengths, lengths)
        ids = self.ids[np.repeat(self.starts[rows], lengths) + within]
        return Tokens(ids, ends, self.vocabulary, self.padding, self.tokenizer, self.max_length)


@final
class TextData(Samples):
    """Texts as ``tokens``, and ``labels`` int64 (N,), in RAM; the words stay where they are, and
    ``read`` reads them where somebody wants to see them.

    A sample does not change from visit to visit, and so has one view. Raises DataError for labels
    of another length, type or range.
    """

    def __init__(
        self,
        tokens: Tokens,
        labels: Tensor,
        classes: tuple[str, ...],
        read: ReadTexts | None = None,
    ) -> None:
        super().__init__(labels, classes)
        if len(labels) != len(tokens):
            raise DataError(f"{len(labels)} labels for {len(tokens)} texts: give one class a text")
        self.tokens = tokens
        self._read = read

    def texts(self, ids: Any) -> list[str] | None:
        """The texts ``ids`` as they were written, uncut; None where only their tokens are known.
        Raises IndexError for ids outside ``0 .. N - 1``, DataError where they can no longer be
        read."""
        rows: list[int] = self.rows(ids).tolist()
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
        """``input_ids`` and ``attention_mask`` int64 (L,), ``labels`` an int. Raises IndexError
        outside ``0 .. N - 1``."""
        one = self.batch([id], [0])
        return {name: part[0] if name != "labels" else int(part[0]) for name, part in one.items()}

    def batch(self, ids: Any, views: Any) -> TextBatch:
        """The texts ``ids``, int64 (B,), padded to the longest of them. Raises IndexError for ids
        outside ``0 .. N - 1``."""
        rows = self.rows(ids)
        return {**self.tokens.padded(rows.numpy()), "labels": self.labels[rows]}

    def join(self, batches: Sequence[TextBatch]) -> TextBatch:
        """Batches as one, in their order, padded to the longest row."""
        return joined(batches, self.tokens.padding)

    def subset(self, ids: Any) -> TextData:
        """The texts ``ids`` as a data set of its own, renumbered 0, 1, ... in the order given.
        Raises IndexError for ids outside ``0 .. N - 1``."""
        rows = self.rows(ids)
        read = None if self._read is None else partial(_read_of, self._read, rows)
        return TextData(self.tokens.take(rows.numpy()), self.labels[rows], self.classes, read)

    def digest(self) -> str:
        """SHA-256 (hex) of tokens and labels."""
        digest = hashlib.sha256(f"{len(self)} texts".encode())
        for part in (self.tokens.ids, self.tokens.ends, self.labels.numpy()):
            digest.update(np.ascontiguousarray(part).data)
        return digest.hexdigest()


def _read_of(read: ReadTexts, rows: Tensor, ids: list[int]) -> list[str]:
    """Texts of a subset, ``rows`` (int64) being those of the whole."""
    return read(rows[ids].tolist())


def joined(batches: Sequence[TextBatch], padding: int) -> TextBatch:
    """Padded batches as one, in their order; ``padding`` fills up ``input_ids``."""
    width = max(batch["input_ids"].shape[1] for batch in batches)

    def grown(name: str, part: Tensor) -> Tensor:
        if part.ndim < 2 or part.shape[1] == width:
            return part
        value = padding if name == "input_ids" else 0
        return F.pad(part, (0, width - part.shape[1]), value=value)

    return {name: torch.cat([grown(name, b[name]) for b in batches]) for name in batches[0]}
