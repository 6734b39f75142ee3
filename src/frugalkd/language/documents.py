"""Documents of text as token ids and the positions that carry a loss.

A document is a row with one of these columns: ``text``; ``prompt`` and ``completion``;
``messages`` of a chat, with ``tools`` and ``chat_template_kwargs`` for its template; or
``input_ids``, which are tokens already: with ``attention_mask``, 0 at padding, and with ``labels``,
-100 where there is no loss, or masks of TRL.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from accelerate.utils import patch_environment
from numpy.typing import NDArray

from frugalkd.data.hugging_face import open_tables
from frugalkd.data.probe import data_digest, files_digest
from frugalkd.data.samples import data_root
from frugalkd.data.text import vocabulary_of
from frugalkd.errors import DataError, FrugalKDError
from frugalkd.files import StrPath
from frugalkd.files.parsing import one_line, parse_json
from frugalkd.outputs.tokens import IGNORED
from frugalkd.runtime import draws
from frugalkd.runtime.failures import blame

_AT_ONCE = 256
_STREAM = draws.stream("documents that are held out")
FILES = (".txt", ".jsonl")
_TABLES = (".parquet", ".arrow")
_COLUMNS = (
    "input_ids", "labels", "position_ids", "attention_mask", "completion_mask", "assistant_masks"
)  # fmt: skip
_RENDERING = "2"
"""Counted up where prompts, completions or conversations become other tokens than before."""
_KEYS = frozenset({"completion", "messages"})
_RENDERED = re.compile(rb'"(completion|messages)"')
_NOT_RULES = frozenset({
    "backend", "chat_template", "model_max_length", "padding_side", "truncation_side", "verbose",
})  # fmt: skip

Row = Mapping[str, Any]
LEFT_OUT: Row = {}
"""A row of another part."""


class Document(NamedTuple):
    """``ids`` int64 (tokens,); ``loss`` bool (tokens,): whether a token is learned; ``whole``:
    whether it has to fit in a block, as a conversation has to; ``number``: of its row, from 0."""

    ids: NDArray[np.int64]
    loss: NDArray[np.bool_]
    whole: bool
    number: int = 0


class Part(NamedTuple):
    """The documents of a source that are ``held_out``, about this ``fraction`` of them, in (0, 1),
    the same ones every time; or all others. Of a single text its end is held out, from an empty
    line on where there is one."""

    fraction: float
    held_out: bool

    def of(self, rows: Iterable[Row]) -> Iterator[Row]:
        """Those of ``rows``, and ``LEFT_OUT`` in the place of each other one."""
        rest = iter(rows)
        first = list(islice(rest, 2))
        alone = len(first) == 1 and isinstance(first[0], Mapping)
        text = first[0].get("text") if alone else None
        if isinstance(text, str):
            yield {"text": cut_text(text, self.fraction)[self.held_out]}
            return
        for number, row in enumerate(chain(first, rest)):
            own = (draws.uniform(0, _STREAM, number)[0] < self.fraction) == self.held_out
            yield row if own else LEFT_OUT

    def __str__(self) -> str:
        return f"the part that is {'held out' if self.held_out else 'not held out'}"


def cut_text(text: str, fraction: float) -> tuple[str, str]:
    """``text`` without about this last ``fraction`` of it, and that; cut after an empty line where
    there is one that leaves less than twice as much."""
    about = round(len(text) * (1 - fraction))
    cut = text.rfind("\n\n", max(0, 2 * about - len(text)), about) + 2
    cut = about if cut == 1 else cut
    return text[:cut], text[cut:]


def read_rows(source: Any, split: str = "train") -> tuple[Iterable[Any], str]:
    """The rows of ``source``, and a digest of it.

    Args:
        source: a ``.txt`` file (one document), a ``.jsonl`` file, a folder of either kind, what
            :func:`frugalkd.data.hugging_face.load_hugging_face` takes as ``path`` (Parquet files
            too), a data set of Hugging Face, or a sequence of rows or of texts.
        split: of a data set of Hugging Face.

    Raises:
        DataError: there is no such file or split, or it cannot be read.
    """
    if not isinstance(source, str | os.PathLike):
        if isinstance(source, Sequence):
            rows = [{"text": row} if isinstance(row, str) else row for row in source]
            said = json.dumps(rows, sort_keys=True, default=_plain)
            return rows, hashlib.sha256(said.encode()).hexdigest()
        return source, data_digest(source)
    paths = text_files(source)
    if paths:
        if split != "train":
            raise DataError(f"{os.fspath(source)} is text files, which have no split {split!r}")
        digest = files_digest(os.path.dirname(paths[0]) or ".", [path.name for path in paths])
        return rows_of_files(paths), digest
    (table,) = open_tables(os.fspath(source), None, None, [split])
    return table, data_digest(table)


def rendering_of(source: Any, rows: Iterable[Any]) -> dict[str, str]:
    """``rendering``: the version of the rules for prompts and conversations, where some of the
    ``rows`` of ``source`` are such; else nothing. A table has the columns of its first row."""
    paths = text_files(source) if isinstance(source, str | os.PathLike) else []
    if paths:
        found = any(_RENDERED.search(line) for path in paths for line in _lines(path))
    else:
        some = rows if isinstance(rows, Sequence) else islice(rows, 1)
        found = any(isinstance(row, Mapping) and not _KEYS.isdisjoint(row) for row in some)
    return {"rendering": _RENDERING} if found else {}


def _lines(path: Path) -> Iterator[bytes]:
    with open(path, "rb") as file:
        yield from file if path.suffix == ".jsonl" else ()


def _plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else str(value)


class Renderer:
    """Rows as documents of a ``tokenizer`` of transformers.

    A text, and a prompt with its completion, end with the tokenizer's end token. Of a conversation
    the tokens of the assistant's turns are learned: those that the chat template marks
    (``{% generation %}``), or, where it marks none, what each of these turns adds to the
    conversation before it.
    """

    def __init__(self, tokenizer: Any):
        self._tokenizer = tokenizer
        template = str(getattr(tokenizer, "chat_template", None) or "")
        self._marks = re.search(r"{%[-+]?\s*generation\s*[-+]?%}", template) is not None

    def documents(self, rows: Iterable[Row]) -> Iterator[Document]:
        """The documents of ``rows``; empty texts are left out.

        Raises:
            DataError: a row has none of the columns; the tokenizer has no end token, or no chat
                template; or nothing of a document is learned.
        """
        place, rest = 0, iter(rows)
        while batch := list(islice(rest, _AT_ONCE)):
            # The library's threads would be more than a run says it has.
            with patch_environment(TOKENIZERS_PARALLELISM="false"):
                found = [
                    self._numbered(number, row)
                    for number, row in enumerate(batch, place)
                    if row is not LEFT_OUT
                ]
            yield from (document for document in found if len(document.ids))
            place += len(batch)

    def _numbered(self, number: int, row: Row) -> Document:
        try:
            return self._document(row)._replace(number=number)
        except FrugalKDError as error:
            raise type(error)(f"document {number}: {error}") from None
        except Exception as error:  # of the tokenizer, or of a template
            blame(error, DataError, f"document {number} cannot be tokenised")

    def _document(self, row: Row) -> Document:
        if not isinstance(row, Mapping):
            raise DataError(f"it is a {type(row).__name__}: give a text, or columns by name")
        if row.get("messages") is not None:
            return self._conversation(row["messages"], template_options(row))
        if row.get("input_ids") is not None:
            return _tokenised(row)
        prompt, completion = row.get("prompt"), row.get("completion")
        if isinstance(prompt, list) and isinstance(completion, list):
            return self._conversation([*prompt, *completion], template_options(row))
        if isinstance(prompt, str) and isinstance(completion, str):
            return self._completed(prompt, completion)
        text = row.get("text")
        if not isinstance(text, str):
            raise DataError(
                f"it has {one_line(', '.join(map(str, row)), 100) or 'no columns'}: a text, prompt "
                "and completion, messages, or input_ids are needed"
            )
        ids = np.array([*self._opened(text), self._end] if text else [], np.int64)
        return Document(ids, np.ones(len(ids), np.bool_), False)

    @property
    def _end(self) -> int:
        end = self._tokenizer.eos_token_id
        if end is None:
            raise DataError("the tokenizer has no end token: set its eos_token")
        return end

    def _opened(self, text: str) -> list[int]:
        return opened(self._tokenizer, text)

    def _completed(self, prompt: str, completion: str) -> Document:
        """Both are tokenised as one text, as TRL does: by itself the completion may begin with a
        space that is not there. Where a token would hold the end of the prompt and more, the prompt
        has the tokens that it has by itself, unless this changes the text."""
        tokenizer, text = self._tokenizer, prompt + completion
        first, ids = self._opened(prompt), self._opened(text)
        loss = np.arange(len(ids) + 1) >= len(first)
        if ids[: len(first)] != first:
            apart = [*first, *token_ids(tokenizer, completion, special=False)]
            if not tokenizer.is_fast or tokenizer.decode(apart) == tokenizer.decode(ids):
                ids, loss = apart, np.arange(len(apart) + 1) >= len(first)
            else:
                both = tokenizer(text, return_offsets_mapping=True, verbose=False)
                ends = np.array(both["offset_mapping"], np.int64)[: len(ids), 1]
                loss = np.append(ends > len(prompt), True)
        return Document(np.array([*ids, self._end], np.int64), loss, True)

    def _conversation(self, messages: Any, options: Mapping[str, Any]) -> Document:
        if not getattr(self._tokenizer, "chat_template", None):
            raise DataError("the tokenizer has no chat template: set its chat_template")
        replies = [place for place, each in enumerate(messages) if each.get("role") == "assistant"]
        if not replies:
            raise DataError("the conversation has no turn of the assistant: leave it out")
        if self._marks:
            ids, loss = self._rendered(messages, mask=True, **options)
        else:
            if replies[0] == 0:
                raise DataError(
                    "the conversation begins with the assistant, and what the chat template writes "
                    "before it is not known: leave that turn out, or mark the assistant's tokens "
                    "in the template ({% generation %})"
                )
            ids, _ = self._rendered(messages, **options)
            loss = np.zeros(len(ids), np.bool_)
            for turn in replies:
                before, _ = self._rendered(messages[:turn], add_generation_prompt=True, **options)
                after, _ = self._rendered(messages[: turn + 1], **options)
                beyond = len(before) >= len(after) or len(after) > len(ids)
                if (
                    beyond
                    or (before != ids[: len(before)]).any()
                    or (after != ids[: len(after)]).any()
                ):
                    raise DataError(
                        f"the chat template writes the turns before turn {turn} in another way "
                        "once it is there, so that its tokens are not known: mark them in the "
                        "template ({% generation %})"
                    )
                loss[len(before) : len(after)] = True
        if not loss.any():
            raise DataError(
                "the chat template marks no token of the assistant: check its {% generation %}"
            )
        return Document(ids, loss, True)

    def _rendered(
        self, messages: Any, *, mask: bool = False, **options: Any
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        found = self._tokenizer.apply_chat_template(
            messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=mask, **options
        )
        ids = np.array(found["input_ids"], np.int64)
        marked = found["assistant_masks"] if mask else np.zeros(len(ids))
        return ids, np.array(marked, np.bool_)


def token_ids(tokenizer: Any, text: str, special: bool = True) -> list[int]:
    """The tokens of ``text``, with the ``special`` ones that the tokenizer adds."""
    # Of a long text transformers says that it is longer than the model's positions.
    return tokenizer(text, add_special_tokens=special, verbose=False)["input_ids"]


def opened(tokenizer: Any, text: str) -> list[int]:
    """The tokens of ``text``, which may be continued: without the end token that some tokenizers
    add by themselves."""
    ids, end = token_ids(tokenizer, text), tokenizer.eos_token_id
    if end is None or ids[-1:] != [end]:
        return ids
    if ids.count(end) == token_ids(tokenizer, text, special=False).count(end):
        return ids
    # It may be the first token, where that is the same one, and the end token the text's.
    adds_one = token_ids(tokenizer, "a")[-1] == end
    return ids[:-1] if adds_one else ids


def template_options(row: Row) -> dict[str, Any]:
    """What a chat template gets beside the messages of a ``row``, from its columns as TRL has them:
    ``tools``, a list or JSON, and ``chat_template_kwargs``. Raises DataError."""
    tools, more = row.get("tools"), row.get("chat_template_kwargs") or {}
    try:
        tools = parse_json(tools) if isinstance(tools, str) else tools
    except ValueError as error:
        raise DataError(f"its tools are not JSON: {one_line(error, 100)}") from None
    if not isinstance(more, Mapping):
        raise DataError(f"its chat_template_kwargs are a {type(more).__name__}: give a mapping")
    return {**({"tools": tools} if tools else {}), **more}


def tokenizer_digest(tokenizer: Any) -> dict[str, str]:
    """What decides the tokens of a text, by name, as SHA-256 (hex): ``vocabulary``, the number of
    each token; ``tokenizer``, also how a text becomes tokens; and the ``chat template``."""
    known = sorted(vocabulary_of(tokenizer).items())
    backend = getattr(tokenizer, "backend_tokenizer", None)
    # Without a backend Python code makes the tokens, by attributes.
    rules = f"{type(tokenizer).__name__} {json.dumps(_rules_of(tokenizer), sort_keys=True)}"
    if backend is not None:  # truncation and padding are those of the last call
        rules = json.dumps(json.loads(backend.to_str()) | {"truncation": None, "padding": None})
    special = sorted((name, str(token)) for name, token in tokenizer.special_tokens_map.items())
    split = [True] if getattr(tokenizer, "split_special_tokens", False) else []
    said = {
        "vocabulary": json.dumps(known),
        "tokenizer": json.dumps([known, rules, special, *split]),
        "chat template": str(getattr(tokenizer, "chat_template", None)),
    }
    return {name: hashlib.sha256(text.encode()).hexdigest() for name, text in said.items()}


def _rules_of(tokenizer: Any) -> dict[str, Any]:
    """The plain attributes of a tokenizer that may decide its tokens."""
    return {
        name: value for name, value in vars(tokenizer).items()
        if isinstance(value, bool | int | float | str) and name not in _NOT_RULES
        and not name.startswith("_") and not name.endswith(("_file", "_path"))
    }  # fmt: skip


def _tokenised(row: Row) -> Document:
    """Padding is left out; without ``labels`` masks decide what is learned."""
    given = [None if row.get(name) is None else np.asarray(row[name]) for name in _COLUMNS]
    ids, labels, positions, attended, *masks = given
    assert ids is not None, "there is a column input_ids"
    shaped = all(each is None or each.shape == ids.shape for each in given)
    if ids.ndim != 1 or ids.dtype.kind not in "iu" or not shaped:
        columns = zip(_COLUMNS, given, strict=True)
        shapes = (f"{name} {each.dtype} {each.shape}" for name, each in columns if each is not None)
        raise DataError(f"{', '.join(shapes)}: whole numbers are needed, one for each token")
    loss = np.ones(len(ids), np.bool_) if labels is None else labels != IGNORED
    if labels is None:
        for mask in masks:
            loss &= True if mask is None else mask != 0
    if attended is not None:
        ids, loss = ids[attended != 0], loss[attended != 0]
        labels = None if labels is None else labels[attended != 0]
        positions = None if positions is None else positions[attended != 0]
    lengths = row.get("seq_lengths")
    one = positions is None or (np.diff(positions) == 1).all()
    if not one or (lengths is not None and len(lengths) > 1):
        raise DataError(
            f"by {'seq_lengths' if one else 'position_ids'} it holds several documents, which "
            "would be learned as one: give each a row, and let tokenize_corpus pack them"
        )
    if labels is not None and (labels != ids)[loss].any():
        raise DataError("labels differ from input_ids where they are not -100: give them unshifted")
    if len(ids) and not loss.any():
        raise DataError("by its labels or masks nothing of it is learned: leave it out")
    return Document(ids.astype(np.int64), loss, not loss.all())


def text_files(source: StrPath) -> list[Path]:
    """The text files that ``source`` names, in the data root or from here; [] where it names
    something else."""
    for place in (Path(source), data_root() / source):
        if place.is_file() and place.suffix in FILES:
            return [place]
        if place.is_dir():
            found = sorted(path for path in place.iterdir() if path.suffix in FILES + _TABLES)
            if len(kinds := {path.suffix for path in found}) > 1 and kinds & {*FILES}:
                raise DataError(
                    f"{place} holds {' and '.join(sorted(kinds))} files: name one of them, or "
                    "move those that are not to be read"
                )
            return [] if kinds & {*_TABLES} else found
    if Path(source).suffix in FILES:
        raise DataError(
            f"{os.fspath(source)} is neither in the current folder nor in {data_root()}: give a "
            "path from there, or a whole one"
        )
    return []


def rows_of_files(paths: list[Path]) -> Iterator[Row]:
    """The rows of text files, in order. Raises DataError."""
    for path in paths:
        try:
            if path.suffix == ".txt":
                yield {"text": path.read_text(encoding="utf-8")}
                continue
            with open(path, "rb") as file:
                for number, line in enumerate(file, 1):
                    if line.strip():
                        try:
                            yield parse_json(line)
                        except ValueError as error:
                            raise DataError(
                                f"{path}, line {number} is not JSON: {one_line(error, 100)}"
                            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read: {one_line(error)}") from None
