"""Tokens of documents in memory-mapped files, and the blocks of them that are samples.

Format: docs/language.md.
"""

from __future__ import annotations

import copy
import hashlib
import json
import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset

from frugalkd.errors import DataError
from frugalkd.files import StrPath, headers
from frugalkd.files.cache import VARIABLE, cache_root
from frugalkd.files.lock import FILE as LOCK
from frugalkd.files.lock import Lock
from frugalkd.files.opening import Resolved, list_folder, named, open_file, open_new
from frugalkd.files.writing import make_folder, sweep, sync_folder, write_at, writing
from frugalkd.language.documents import (
    Document,
    Part,
    Renderer,
    read_rows,
    rendering_of,
    tokenizer_digest,
)
from frugalkd.outputs.tokens import IGNORED
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.settings import check_bounds, check_integer, check_seed, check_types

FILE = "header.json"
FORMAT, SCHEMA = "frugalkd-corpus", 1

_STREAM, _VISITS = draws.stream("positions that are learned"), draws.stream("positions of a visit")
_AT_ONCE = 1 << 22
"""Tokens that are in memory at a time."""
_TYPES = {"loss": "|u1", "documents": "<i8", "blocks": "<i8", "rows": "<i8"}
"""Of the files beside ``tokens``."""

Packing = Literal["packed", "padded"]
TokenBatch = dict[str, Tensor]
"""``input_ids``, ``position_ids`` and ``labels``, int64 (B, L). Positions begin with 0 at each
document, and at the padding after a block, by which transformers' models keep documents apart;
``labels`` are the tokens themselves, unshifted, -100 where there is no loss."""


@final
class Corpus(Dataset[TokenBatch]):
    """Blocks of tokens, made by :func:`tokenize_corpus`, mapped from files: nothing is read before
    a batch needs it.

    A sample is a block. Its *rows* are the positions of it that carry a loss, in order; the rows of
    all blocks have the numbers 0 .. ``whole.rows`` - 1, which token stores use. A row is a token
    that is learned, never the first one of a document or a block, which nothing before it predicts.

    Raises DataError: there is no corpus in ``folder``, or it is damaged.
    """

    def __init__(self, folder: StrPath):
        self.folder = named(folder)
        self._header = _read_header(self.folder)
        self.about: dict[str, str] = self._header["about"]
        """What decides the tokens and their context, by name."""
        self.vocabulary: int = self._header["vocabulary"]
        """How many tokens the tokenizer has."""
        self.tokens: int = self._header["tokens"]
        self.rows: int = self._header["rows"]
        self.longest: int = self._header["longest"]
        """Tokens of the longest block."""
        self.documents: int = self._header["documents"]
        self._blocks: int = self._header["blocks"]
        self._arrays: dict[str, NDArray] = {}
        for name, (kind, count) in _layout(self._header).items():
            self._arrays[name] = _mapped(self.folder / f"{name}.bin", kind, count)
        self.draw: tuple[float, int] = (1.0, 0)
        """The part of the rows that a visit learns, and the seed (:meth:`drawn`)."""
        self._whole: Corpus | None = None
        self.tokenizer: Any = None
        """Of transformers, where a recipe names it."""

    @property
    def whole(self) -> Corpus:
        """The corpus of which all rows are learned."""
        return self._whole or self

    @property
    def augmentation(self) -> str | None:
        """What differs between the views of a block."""
        return None if self.draw[0] == 1 else f"{self.draw[0]!r} of the rows are learned"

    @property
    def seed(self) -> int | None:
        return None if self.draw[0] == 1 else self.draw[1]

    def drawn(self, part: float, seed: int = 0) -> Corpus:
        """The same blocks, of which each visit learns another ``part`` of the rows, in (0, 1]: of n
        rows of a block ceil(part n), at random, a function of (seed, block, view). What is not
        learned is not a row of a batch: it has no logits, no loss, and is not read from a store."""
        check_types(part=(part, float | int))
        check_bounds("in (0, 1]", part=part)
        if part == 1:
            return self.whole
        made = copy.copy(self)
        made._whole = self.whole
        made.draw = (float(part), check_seed(seed))
        made.rows = int(made.row_counts(np.arange(len(self))).sum())
        return made

    def __len__(self) -> int:
        return self._blocks

    def __getitem__(self, id: int) -> TokenBatch:
        """The block ``id``: as of :meth:`batch`, int64 (L,)."""
        return {name: part[0] for name, part in self.batch([id], [0]).items()}

    @cached_property
    def lengths(self) -> NDArray[np.int64]:
        """int64 (N,), tokens of each block."""
        return np.diff(self._arrays["blocks"], prepend=0)

    def batch(self, ids: Any, views: Any) -> TokenBatch:
        """The blocks ``ids`` (B,), padded to the longest of them. Raises IndexError for ids outside
        ``0 .. N - 1``."""
        begins, ends = self._spans("blocks", ids)
        columns = np.arange(int((ends - begins).max(initial=0)))
        known = columns < (ends - begins)[:, None]
        places = np.minimum(begins[:, None] + columns, ends[:, None] - 1)
        tokens = np.where(known, self._arrays["tokens"][places], self._header["padding"])
        tokens = tokens.astype(np.int64)
        learned = known & (self._arrays["loss"][places] != 0)
        if self.draw[0] < 1:
            learned[learned] = self._drawn(ids, views)
        documents = self._arrays["documents"]
        before = np.searchsorted(documents, places, side="right")
        starts = np.where(before > 0, documents[np.maximum(before - 1, 0)], 0)
        starts = np.maximum(starts, begins[:, None])
        positions = np.where(known, places - starts, columns - (ends - begins)[:, None])
        return {
            "input_ids": torch.from_numpy(tokens),
            "position_ids": torch.from_numpy(positions),
            "labels": torch.from_numpy(np.where(learned, tokens, IGNORED)),
        }

    def join(self, batches: Sequence[TokenBatch]) -> TokenBatch:
        """Batches as one, in their order, padded to the longest row."""
        width = max(batch["input_ids"].shape[1] for batch in batches)
        fills = {"input_ids": self._header["padding"], "labels": IGNORED}

        def wide(batch: TokenBatch, name: str) -> Tensor:
            missing = width - batch[name].shape[1]
            if name in fills:
                return F.pad(batch[name], (0, missing), value=fills[name])
            more = torch.arange(missing).expand(len(batch[name]), -1)
            return torch.cat([batch[name], more], dim=1)

        return {name: torch.cat([wide(b, name) for b in batches]) for name in batches[0]}

    def collate(self, rows: Sequence[TokenBatch]) -> TokenBatch:
        """What items of this corpus, or of another one of its tokenizer, are as a batch."""
        return self.join([{name: part[None] for name, part in row.items()} for row in rows])

    def rows_of(self, ids: Any, views: Any = 0) -> Ids:
        """int64 (rows,), the numbers of the rows of the blocks ``ids`` in these ``views``, block by
        block: those of ``labels != -100`` in a batch of these. Raises IndexError."""
        rows, _ = self._all_rows(ids)
        return rows if self.draw[0] == 1 else rows[self._drawn(ids, views)]

    def row_counts(self, ids: Any) -> Ids:
        """int64 (B,), rows of each of the blocks ``ids``. Raises IndexError."""
        begins, ends = self._spans("rows", ids)
        return np.ceil((ends - begins) * self.draw[0] - 1e-9).astype(np.int64)

    def _all_rows(self, ids: Any) -> tuple[Ids, Ids]:
        """The rows of the blocks, whether a visit learns them or not, and how many each has."""
        begins, ends = self._spans("rows", ids)
        counts = ends - begins
        return np.arange(int(counts.sum())) + np.repeat(ends - np.cumsum(counts), counts), counts

    def _drawn(self, ids: Any, views: Any) -> NDArray[np.bool_]:
        """Which of all rows of the blocks are learned in these views."""
        rows, counts = self._all_rows(ids)
        block = np.repeat(np.arange(len(counts)), counts)
        view = np.broadcast_to(np.asarray(views, dtype=np.int64), counts.shape)[block]
        order = np.lexsort((draws.hash64(self.draw[1], _VISITS, rows, view), block))
        place = np.empty_like(order)
        place[order] = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts)
        return place < self.row_counts(ids)[block]

    def digest(self) -> str:
        """SHA-256 (hex) of all tokens, of which are learned, and of documents and blocks, as they
        were when the corpus was made (:meth:`verify`); a draw does not enter."""
        return self._header["digest"]

    def verify(self) -> None:
        """Raises DataError unless the files are still those of :meth:`digest`. Reads all."""
        if _digest(self._arrays) != self.digest():
            raise DataError(f"{self.folder} is damaged: delete it and tokenise again")

    def _spans(self, name: str, ids: Any) -> tuple[Ids, Ids]:
        ids = np.asarray(ids, dtype=np.int64)
        if len(ids) and not 0 <= ids.min() <= ids.max() < len(self):
            raise IndexError(f"ids reach from {ids.min()} to {ids.max()}: 0 .. {len(self) - 1}")
        array = self._arrays[name]
        begins = np.where(ids > 0, array[np.maximum(ids - 1, 0)], 0)
        return begins, np.asarray(array[ids])


def tokenize_corpus(
    source: Any,
    tokenizer: Any,
    folder: StrPath | None = None,
    *,
    length: int = 1024,
    packing: Packing = "packed",
    positions: float = 1.0,
    split: str = "train",
    part: Part | None = None,
) -> Corpus:
    """Tokenise ``source`` into ``folder``, once: a corpus that is there and of the same source,
    tokenizer and settings is opened.

    Args:
        source, split: as of :func:`frugalkd.language.documents.read_rows`.
        tokenizer: of transformers.
        folder: where the tokens are kept; None: this machine's cache
            (:func:`frugalkd.files.cache.cache_root`).
        length: the most tokens of a block.
        packing: ``packed``: a block holds documents one after another, whole where they fit into
            one; a plain text that is longer than a block is cut, and each piece begins without
            what was before it. ``padded``: a block is one document.
        positions: the part of the positions that carry a loss, in (0, 1], always the same ones.
        part: a part of the documents, for training or held out; None: all.

    Raises:
        DataError: ``source`` has no tokens, a document is too long or cannot be tokenised, or
            ``folder`` holds something else.
        SettingError: an impossible setting.
        WriteFailed: the files cannot be written.
    """
    check_integer("length", length, 2)
    check_types(packing=(packing, Packing), positions=(positions, float))
    check_bounds("in (0, 1]", positions=positions)
    rows, digest = read_rows(source, split)
    about = {
        "source": digest,
        **tokenizer_digest(tokenizer),
        **rendering_of(source, rows),
        "blocks": f"{packing}, at most {length} tokens",
        "positions": f"{positions:g}",
    }
    if part is not None:
        check_bounds("in (0, 1)", fraction=part.fraction)
        about["documents"] = f"{'' if part.held_out else 'all but '}{part.fraction:g}"
        rows = part.of(rows)
    folder = _cached(about) if folder is None else named(folder)
    make_folder(folder)
    with Lock(folder, wait=True):
        if (folder / FILE).exists():
            found = Corpus(folder)
            names = {*about, *found.about}
            others = sorted(name for name in names if found.about.get(name) != about.get(name))
            if others:
                raise DataError(
                    f"{folder} holds tokens of another {' and another '.join(others)}: delete it, "
                    "or name another folder"
                )
            return found
        own = {LOCK, *(f"{name}.bin" for name in ("tokens", *_TYPES))}
        sweep(folder)
        if not own.issuperset(list_folder(folder)):
            raise DataError(f"{folder} is not empty and holds no corpus: name another folder")
        with writing(folder):
            vocabulary = len(tokenizer)
            ends_of = (tokenizer.pad_token_id, tokenizer.eos_token_id)
            documents = Renderer(tokenizer).documents(rows)
            what = source if isinstance(source, str | os.PathLike) else "the corpus is empty"
            what = os.fspath(what) + ("" if part is None else f", {part}")
            ends = _write_tokens(folder, documents, vocabulary, length, packing, what)
            blocks = _blocks(ends, length) if packing == "packed" else np.asarray(ends)
            header = {
                "about": about,
                "vocabulary": vocabulary,
                "padding": next((id for id in ends_of if id is not None), 0),
                "documents": len(ends),
                "tokens": int(ends[-1]),
                "blocks": len(blocks),
                "longest": int(np.diff(blocks, prepend=0).max()),
                "rows": 0,
            }  # fmt: skip
            _save(folder / "documents.bin", np.asarray(ends))
            _save(folder / "blocks.bin", blocks)
            _save(
                folder / "rows.bin", _mark_rows(folder, header, np.asarray(ends), blocks, positions)
            )
            arrays = {
                name: _mapped(folder / f"{name}.bin", kind, count)
                for name, (kind, count) in _layout(header).items()
            }
            header["rows"] = int(arrays["rows"][-1])
            if not header["rows"]:
                raise DataError("no position carries a loss: give longer documents")
            header["digest"] = _digest(arrays)
            headers.write_header(folder / FILE, FORMAT, SCHEMA, header)
            sync_folder(folder.parent)
        return Corpus(folder)


def _cached(about: dict[str, str]) -> Resolved:
    """The folder of this machine's cache for what ``about`` decides. Raises DataError."""
    root = cache_root()
    if root is None:
        raise DataError(f"there is no cache to keep tokens in: name a folder, or set {VARIABLE}")
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode()).hexdigest()
    return named(root / f"corpus-{digest[:16]}")


def _read_header(folder: Path) -> dict[str, Any]:
    path, again = folder / FILE, "delete the folder and tokenise again"
    if not path.is_file():
        raise DataError(f"{folder} holds no corpus ({FILE}): make one by tokenize_corpus")
    value = headers.read_header(path, FORMAT, SCHEMA, what="a corpus", error=DataError, again=again)
    sizes = ("vocabulary", "padding", "documents", "tokens", "blocks", "longest", "rows")
    whole = all(type(value.get(name)) is int and 0 <= value[name] < 1 << 48 for name in sizes)
    if not whole or not value["blocks"] or not isinstance(value.get("about"), dict):
        raise DataError(f"{path} is damaged: {again}")
    return value


def _layout(header: dict[str, Any]) -> dict[str, tuple[str, int]]:
    """Dtype and length of each file's array."""
    tokens, blocks = header["tokens"], header["blocks"]
    counts = {"loss": tokens, "documents": header["documents"], "blocks": blocks, "rows": blocks}
    return {
        "tokens": (_dtype(header["vocabulary"]), tokens),
        **{name: (_TYPES[name], count) for name, count in counts.items()},
    }


def _dtype(vocabulary: int) -> str:
    return "<u2" if vocabulary <= 1 << 16 else "<u4"


def _mapped(path: Path, kind: str, count: int, *, write: bool = False) -> NDArray:
    """A file's array. Raises DataError where it is missing or of another size."""
    wanted = count * np.dtype(kind).itemsize
    try:
        with os.fdopen(open_file(path, write=write), "r+b" if write else "rb") as file:
            found = os.fstat(file.fileno()).st_size
            if found == wanted:
                return np.memmap(file, dtype=kind, mode="r+" if write else "r", shape=(count,))
    except FileNotFoundError:
        found = None
    what = "is missing" if found is None else f"is damaged: {found} bytes, not {wanted}"
    raise DataError(f"{path} {what}; delete {path.parent} and tokenise again")


def _save(path: Path, array: NDArray) -> None:
    with os.fdopen(open_new(path), "r+b") as file:
        write_at(file.fileno(), np.ascontiguousarray(array, "<i8").data, 0)
        os.fsync(file.fileno())


def _write_tokens(
    folder: Path,
    documents: Iterator[Document],
    vocabulary: int,
    length: int,
    packing: str,
    what: str,
) -> list[int]:
    """Write tokens and which are learned; returns where each document ends. ``what`` the documents
    are of, in words."""
    ends: list[int] = []
    kinds = {"tokens": np.dtype(_dtype(vocabulary)), "loss": np.dtype(_TYPES["loss"])}
    files = {name: os.fdopen(open_new(folder / f"{name}.bin"), "r+b") for name in kinds}
    try:
        for document in documents:
            ids, end = document.ids, ends[-1] if ends else 0
            if not 0 <= ids.min() <= ids.max() < vocabulary:
                raise DataError(
                    f"document {document.number} has tokens {ids.min()} .. {ids.max()}, and the "
                    f"tokenizer 0 .. {vocabulary - 1}: give the tokenizer that made them"
                )
            if len(ids) > length and (document.whole or packing == "padded"):
                raise DataError(
                    f"document {document.number} has {len(ids)} tokens, and a block {length}: "
                    "raise length, or leave it out"
                )
            for name, values in (("tokens", ids), ("loss", document.loss)):
                files[name].write(values.astype(kinds[name]).tobytes())
            ends.append(end + len(ids))
        if not ends:
            raise DataError(f"{what}: no document has a token: give more text")
        for file in files.values():
            file.flush()
            os.fsync(file.fileno())
    finally:
        for file in files.values():
            file.close()
    return ends


def _blocks(ends: list[int], length: int) -> NDArray[np.int64]:
    """Where blocks of at most ``length`` tokens end: before a document that fits into a block and
    not into the rest of this one."""
    blocks, start = [], 0
    while start < ends[-1]:
        first = bisect_right(ends, start + length)  # the first document that ends beyond
        if first == len(ends):
            end = ends[-1]
        else:
            before = ends[first - 1] if first else 0
            fits = before > start and ends[first] - before <= length
            end = before if fits else start + length
        blocks.append(end)
        start = end
    return np.array(blocks, dtype=np.int64)


def _mark_rows(
    folder: Path,
    header: dict[str, Any],
    ends: NDArray[np.int64],
    blocks: NDArray[np.int64],
    positions: float,
) -> NDArray[np.int64]:
    """Leave those learned tokens in ``loss`` that are rows; returns how many there are up to the
    end of each block."""
    loss = _mapped(folder / "loss.bin", _TYPES["loss"], header["tokens"], write=True)
    loss[0] = 0
    for firsts in (ends[:-1], blocks[:-1]):
        loss[firsts] = 0
    if positions < 1:
        for start in range(0, len(loss), _AT_ONCE):
            part = loss[start : start + _AT_ONCE]
            part[draws.uniform(0, _STREAM, np.arange(start, start + len(part))) >= positions] = 0
    counts = np.add.reduceat(loss, np.concatenate([[0], blocks[:-1]]), dtype=np.int64)
    loss.flush()  # pyright: ignore[reportAttributeAccessIssue]
    return np.cumsum(counts)


def _digest(arrays: dict[str, NDArray]) -> str:
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {len(array)}\n".encode())
        for start in range(0, len(array), _AT_ONCE):
            digest.update(np.ascontiguousarray(array[start : start + _AT_ONCE]).data)
    return digest.hexdigest()
