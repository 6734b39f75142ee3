"""One store of a filling: of the logits, or of the features of one module."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from frugalkd.errors import TargetsError
from frugalkd.files.lock import FILE as LOCK
from frugalkd.files.lock import Lock
from frugalkd.models.features import Shape
from frugalkd.policies.policy import Ids
from frugalkd.teachers._feature_stores import shape_of
from frugalkd.teachers.store import FILE, Header, Store, create_store

Announce = Callable[[Header], None]
"""Told of a store before its space is taken; ``header.disk_bytes`` says how much that is."""


class Opening(NamedTuple):
    """How a filling opens its stores: as of :class:`frugalkd.teachers.filling.Filler`."""

    write: Sequence[int] | None
    wait: bool
    announce: Announce | None


class Part:
    """A store that is made when there is something to keep in it.

    Args:
        folder: of the store.
        header: of rows of a shape, in a number of shards.
        shards: None: as many as there are, 1 for a new store.
        opening: how it is opened.

    Attributes:
        store: None until there is one.

    Raises:
        TargetsError: ``folder`` holds a store of another header.
    """

    def __init__(
        self,
        folder: Path,
        header: Callable[[Shape, int], Header],
        shards: int | None,
        opening: Opening,
    ):
        self.folder, self._header, self._shards = folder, header, shards
        self._opening, self._writing = opening, False
        self.store: Store | None = None
        if (folder / FILE).exists():
            store = Store(folder)
            there = store.header
            there.refuse_other(header(shape_of(there), shards or there.shards), folder)
            self.store = store

    def missing(self, ids: Ids, views: Ids) -> NDArray[np.bool_]:
        """Which rows it lacks."""
        if self.store is None:
            return np.ones(len(ids), dtype=bool)
        return ~self.store.present(ids, views)

    def open(self, ids: Ids, views: Ids) -> None:
        """Open a store that lacks one of the rows, to write; what another process has written by
        then is known. Raises TargetsError."""
        if self.store is not None and not self._writing and self.missing(ids, views).any():
            self.store = self._open()

    def add(self, ids: Ids, views: Ids, values: Tensor) -> None:
        """Store those of the rows ``values`` (rows, ...) that it lacks. Raises TargetsError."""
        shape = tuple(values.shape[1:])
        if self.store is None:
            self.store = self._create(shape)
        header = self.store.header
        if (feature := header.about.get("feature")) is not None and shape != shape_of(header):
            raise TargetsError(
                f"features of {feature} are of shape {shape_of(header)} in one batch and {shape} "
                "in another, as padded texts are: store what the last layer gets (head:input), or "
                "set targets.kind to live"
            )
        lacking = self.missing(ids, views)
        if lacking.any():
            rows = values.detach().float().flatten(1).cpu().numpy()
            self.store.write(ids[lacking], views[lacking], rows[lacking])

    def close(self) -> None:
        """Make what was added durable and let other processes write. Raises TargetsError."""
        if self.store is not None and self._writing:
            self._writing = False
            try:
                self.store.sync()
            finally:
                self.store.close()

    def _create(self, shape: Shape) -> Store:
        header = self._header(shape, self._shards or 1)
        header.encoding.record(header.classes)
        if self._opening.announce is not None:
            self._opening.announce(header)
        create_store(self.folder, header)
        return self._open()

    def _open(self) -> Store:
        if (self.folder / LOCK).exists():  # left by a process that was killed as it made the store
            Lock(self.folder, wait=True).release()
        store = Store(self.folder, write=self._opening.write, wait=self._opening.wait)
        self._writing = True
        return store
