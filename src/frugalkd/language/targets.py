"""A teacher's distributions of the tokens that are learned: live, or stored in a folder."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from typing import Any, Literal, Protocol, final

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import ModelError, TargetsError, few
from frugalkd.files import StrPath
from frugalkd.files.opening import named
from frugalkd.language.corpus import Corpus
from frugalkd.language.encodings import (
    HeadAndTail,
    TokenEncoding,
    entropy_of,
    label_logs_of,
    make_token_encoding,
)
from frugalkd.language.models import CausalModel, project, rows_at_once
from frugalkd.models.identity import differences, identity, inference_mode, this_torch
from frugalkd.outputs.tokens import IGNORED
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import autocast, check_device
from frugalkd.runtime.failures import blame, memory_for
from frugalkd.runtime.settings import check_integer, check_types
from frugalkd.teachers.encodings import Format
from frugalkd.teachers.filling import ADVICE, FillOptions, shards_of
from frugalkd.teachers.sparse import Sparse
from frugalkd.teachers.store import FILE, Header, Store, create_store, shard_of
from frugalkd.teachers.targets import Targets

TOKENS = "tokens, loss mask and blocks"
"""The name, in a store's header, of the corpus's digest."""


class TokenRows(Protocol):
    """The teacher's distributions of the rows of a batch, some of which are available."""

    def __len__(self) -> int: ...

    def part(self, rows: slice) -> Tensor | Sparse:
        """Of ``rows``: logits (rows, vocabulary), or the distributions by some tokens."""
        ...


@final
@dataclass(frozen=True)
class LiveRows:
    """The teacher's last hidden ``states`` (rows, width), and the head that makes logits of some of
    them, without gradients."""

    states: Tensor
    weight: Tensor
    bias: Tensor | None

    def __len__(self) -> int:
        return len(self.states)

    def part(self, rows: slice) -> Tensor:
        with torch.no_grad():
            return project(self.states[rows], self.weight, self.bias)


class _Tokens(Targets):
    """Of the rows of the blocks of a ``corpus``."""

    by_rows = True
    """Whether rows are found by their numbers, and not in the batch."""

    def __init__(self, corpus: Corpus):
        check_types(corpus=(corpus, Corpus))
        self.corpus = corpus
        self.queries = self.tokens = 0

    def check_fetched(self, found: Any, rows: int) -> None:
        """Each row of a block has its own."""

    def check(self, dataset: Dataset) -> None:
        own = self.corpus
        if not isinstance(dataset, Corpus) or dataset.digest() != own.digest():
            raise TargetsError(f"these soft targets belong to another corpus, {own.folder}")
        if self.by_rows and dataset.draw != own.draw:
            raise TargetsError(
                "these soft targets were made for other token positions than this training uses: "
                "create them with the corpus that you train on"
            )


@final
class LiveTokens(_Tokens):
    """Runs a teacher in eval mode on the student's batches. Its logits are in float32, those of few
    rows at a time: final norm and head run in float32 whatever the precision of the rest.

    Args:
        teacher: a causal language model of transformers.
        corpus: whose blocks it reads.
        tokenizer: the teacher's own, which is compared with the corpus's; None: not known.
        precision: ``bf16`` runs it under autocast.

    Raises:
        ModelError, TargetsError: as :class:`CausalModel`, and its ``check``.
    """

    phase, own_forward, by_rows = "teacher", False, False

    def __init__(
        self,
        teacher: nn.Module,
        corpus: Corpus,
        tokenizer: Any = None,
        *,
        precision: Literal["fp32", "bf16"] = "fp32",
    ):
        super().__init__(corpus)
        check_types(precision=(precision, Literal["fp32", "bf16"]))
        self.views = None
        self.precision: Literal["fp32", "bf16"] = precision
        self.model = CausalModel(teacher, corpus.vocabulary)
        self.model.check(corpus, tokenizer)

    @property
    def about(self) -> dict[str, str]:
        """What decides its outputs, by name; computed at each access, from all weights."""
        about = {**identity(self.model.model), "precision": self.precision}
        digest = self.corpus.digest()
        return {**about, TOKENS: digest, **this_torch()}

    @property
    def teacher(self) -> nn.Module:
        return self.model.model

    @property
    def live_teachers(self) -> Mapping[str, Any]:
        return {"teacher": self}

    def autocast(self) -> AbstractContextManager[Any]:
        return autocast(self.teacher, self.precision)

    def run(self, data: Any, ids: Ids | None = None) -> Tensor:
        """The last hidden states of the rows of a batch; not counted as a query."""
        with inference_mode(self.teacher), self.autocast():
            return self.model.exact_states(data)

    def bad_rows(self, data: Any, rows: int) -> NDArray[np.bool_]:
        """Which of the blocks of a batch have a state that is not finite."""
        bad = ~torch.isfinite(self.run(data)).all(dim=1)
        found = np.zeros(rows, dtype=bool)
        found[torch.nonzero(data["labels"][:, 1:] != IGNORED)[:, 0][bad].cpu().numpy()] = True
        return found

    def fetch(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, ids: Ids, views: Ids, data: Any
    ) -> LiveRows:
        started = time.perf_counter()
        try:
            states = self.run(data)
        except Exception as error:
            blame(error, ModelError, f"the teacher fails on blocks {few(ids.tolist())}")
        rows = LiveRows(states, *self.model.weights())
        self.queries += len(ids)
        self.tokens += len(rows)
        self.seconds += time.perf_counter() - started
        return rows


@final
@dataclass(frozen=True)
class TokenHeader(Header):
    """Of a store of tokens: a *sample* is a row of the corpus, a *view* an independent draw."""

    make_encoding = staticmethod(make_token_encoding)


@final
class StoredTokens(_Tokens):
    """The teacher's distributions from a folder, a record of some bytes for each row of a corpus.

    Args:
        folder: made by :meth:`fill`.
        corpus: the one that it was filled for.

    Attributes:
        about: identity of the teacher and of the tokens that the store belongs to.

    Raises:
        TargetsError: there is no store in ``folder``, it is damaged, or belongs to other tokens.
    """

    def __init__(self, folder: StrPath, corpus: Corpus):
        super().__init__(corpus)
        self.store = Store(named(folder), kind=TokenHeader)
        self._adopt(self.store.header)
        # Draws of rows are of a visit, whatever draw of the teacher it gets.
        if corpus.draw[0] != 1:
            self.views = None
        self._encoding = _of_tokens(self.store.header.encoding)
        if differences(self.about, {TOKENS: corpus.digest()}, str(folder)):
            raise TargetsError(
                f"{folder} belongs to another corpus than {corpus.folder}, whose {TOKENS} differ "
                "(another text, chat template, tokenizer or length of blocks): fill it again"
            )

    @classmethod
    def fill(
        cls,
        teacher: nn.Module | LiveTokens,
        corpus: Corpus,
        folder: StrPath,
        *,
        views: int = 1,
        encoding: TokenEncoding | None = None,
        batch_size: int = 8,
        device: torch.device | str = "cpu",
        options: FillOptions | None = None,
    ) -> StoredTokens:
        """Run ``teacher`` on the blocks of ``corpus``, except for what ``folder`` holds already.

        A stopped filling resumes after what is durable, and ends in the same bytes: batches are
        those of a filling without a stop.

        Args:
            teacher: a causal language model, or a LiveTokens with its precision.
            folder: where to keep the records.
            views: independent draws of each row, which a block's visits cycle through.
            encoding: default ``HeadAndTail()``.
            batch_size, device: of the teacher's forward passes, in blocks.
            options: which processes fill ``folder``, and functions to call meanwhile.

        Raises:
            TargetsError: ``folder`` holds other targets, the disk is full, or outputs are not
                finite.
            DataError: the corpus's files have changed.
        """
        options = FillOptions() if options is None else options
        encoding = HeadAndTail() if encoding is None else encoding
        check_integer("batch_size", batch_size, 1)
        check_types(encoding=(encoding, TokenEncoding))
        live = teacher if isinstance(teacher, LiveTokens) else LiveTokens(teacher, corpus)
        live.check(corpus)
        whole = corpus.whole
        whole.verify()
        device, ranks, folder = check_device(device), options.ranks or Ranks(), named(folder)
        shards, write = shards_of(folder, ranks, options.shard, TokenHeader)
        header = TokenHeader(whole.rows, views, whole.vocabulary, encoding, live.about, shards)
        _ = header.record  # raises where the encoding cannot have so many tokens
        if options.on_create is not None and not (folder / FILE).exists():
            options.on_create(header)
        create_store(folder, header)
        before = live.queries, live.tokens, live.seconds
        store = Store(folder, write=write, wait=options.shard is None, kind=TokenHeader)
        with closing(store):
            try:
                _fill(live, whole, store, batch_size, device, write, options)
            finally:
                store.sync()
        now = live.queries, live.tokens, live.seconds
        spent = ranks.sum([new - old for new, old in zip(now, before, strict=True)])  # all are done
        targets = cls(folder, corpus)
        targets.queries, targets.tokens = int(spent[0]), int(spent[1])
        targets.seconds = float(spent[2]) / ranks.world
        return targets

    def fetch(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, ids: Ids, views: Ids, data: Any
    ) -> Sparse:
        """The distributions of the rows of the blocks ``ids``, block by block, on the device of
        ``data``."""
        found = self._encoding.decode(self._records(ids, views), self.corpus.vocabulary)
        return found.to(data["input_ids"].device, non_blocking=True)

    def statistics(self, ids: Ids, views: Ids) -> tuple[Tensor, Tensor]:
        """Of the same rows, float32 (rows,): the log of the teacher's probability of the label, and
        the teacher's entropy, in nats."""
        records = self._records(ids, views)
        return label_logs_of(records), entropy_of(records)

    def _records(self, ids: Ids, views: Ids) -> NDArray[np.void]:
        ids, views = np.asarray(ids), np.asarray(views)
        each = np.repeat(views % self.store.header.views, self.corpus.row_counts(ids))
        return self.store.records(self.corpus.rows_of(ids, views), each)


def _of_tokens(encoding: Format) -> TokenEncoding:
    assert isinstance(encoding, TokenEncoding), "TokenHeader makes no other"
    return encoding


def _fill(
    live: LiveTokens,
    corpus: Corpus,
    store: Store,
    batch_size: int,
    device: torch.device,
    write: Sequence[int] | None,
    options: FillOptions,
) -> None:
    header, encoding = store.header, _of_tokens(store.header.encoding)
    draws, chunk = range(header.views), rows_at_once(corpus.vocabulary, device, torch.float64)
    batches = []
    for start in range(0, len(corpus), batch_size):
        ids = np.arange(start, min(start + batch_size, len(corpus)))
        rows = corpus.rows_of(ids)
        own = rows
        if write is not None:
            own = rows[np.isin(shard_of(rows, header.samples, header.shards), write)]
        if any(not store.present(own, np.full(len(own), view)).all() for view in draws):
            batches.append(ids)
    done, total = 0, sum(int(corpus.row_counts(ids).sum()) for ids in batches)
    for ids in batches:
        rows = corpus.rows_of(ids)
        with memory_for(f"running the teacher on batches of {batch_size} blocks", ADVICE):
            data = send_to_device(corpus.batch(ids, np.zeros_like(ids)), device)
            labels, targets = live.model.labels(data), live.fetch(ids, np.zeros_like(ids), data)
            for first in range(0, len(rows), chunk):
                part = slice(first, first + chunk)
                logits, here = targets.part(part), rows[part]
                finite = logits.sum(dim=1, dtype=torch.float64).isfinite().cpu().numpy()
                if not finite.all():
                    block = np.repeat(ids, corpus.row_counts(ids))[part][~finite][0]
                    raise TargetsError(
                        f"the teacher's outputs for block {block} are not finite: check its weights"
                    )
                for view in draws:
                    views = np.full(len(here), view)
                    lacking = ~store.present(here, views)
                    if lacking.any():
                        records = encoding.encode(logits, labels[part], here, views)
                        store.put(here[lacking], views[lacking], records[lacking])
        done += len(rows)
        if options.on_durable is not None and not store.pending:
            options.on_durable()
        if options.on_progress is not None:
            options.on_progress(done, total)
