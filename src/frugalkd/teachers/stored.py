"""Soft targets that were asked for once and are kept in a folder."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate.utils import find_device
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.class_names import Match, class_names, class_order, names_from, names_text
from frugalkd.data.source import Collate
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import TargetsError
from frugalkd.files import StrPath
from frugalkd.files.opening import named
from frugalkd.models.features import Features, Shape
from frugalkd.policies.policy import Ids
from frugalkd.runtime.settings import check_integer, check_types
from frugalkd.teachers._feature_stores import FeatureStores, shape_of
from frugalkd.teachers.about import check_about
from frugalkd.teachers.encodings import Dense, Encoding
from frugalkd.teachers.filling import Announce, Filler, Layout, fill, shards_of
from frugalkd.teachers.live import LiveTeacher
from frugalkd.teachers.store import Store
from frugalkd.teachers.targets import Targets

_CHUNK = 4096


class StoredTargets(Targets):
    """The teacher's soft targets from a folder, in as many views as the student will cycle through.

    ``fetch`` gives what the encoding decodes to: see :mod:`frugalkd.teachers.encodings`.

    Args:
        folder: made by :meth:`fill`, by ``FirstVisitTargets``, or by ``frugalkd store``.

    Attributes:
        about: identity of the teacher and the data that the targets belong to.
        class_names: what the columns are called, () where that is not known.

    Raises:
        TargetsError: there is no store in ``folder``, or it is damaged.
    """

    def __init__(self, folder: StrPath):
        folder = named(folder)
        self.store = Store(folder)
        header = self.store.header
        self.about = dict(header.about)
        self.class_names = names_from(self.about.get("classes", ""))
        self._order: NDArray[np.int64] | None = None
        self.views = header.views
        self.row_bytes = 4 * header.classes
        self.temperature = header.encoding.temperature
        self.knows_top = header.encoding.knows_top
        self.keeps = header.encoding.keeps
        self.queries = 0
        self.features = FeatureStores(folder, header)

    @classmethod
    def fill(
        cls,
        teacher: nn.Module | LiveTeacher,
        dataset: Dataset,
        folder: StrPath | None = None,
        *,
        views: int = 1,
        encoding: Encoding | None = None,
        features: Sequence[str] = (),
        ids: Ids | None = None,
        batch_size: int = 256,
        device: torch.device | str = "cpu",
        collate_fn: Collate | None = None,
        announce: Announce | None = None,
        listener: Callable[[int, int], None] | None = None,
        kept: Callable[[], None] | None = None,
        ranks: Ranks | None = None,
    ) -> StoredTargets:
        """Ask ``teacher`` for every sample of ``dataset``, ``views`` times, but for what ``folder``
        holds already; ``queries`` of the answer says for how many rows.

        Args:
            teacher: a model, or a LiveTeacher that says how to ask it.
            dataset: map-style, with views of its own where its samples are augmented.
            folder: where to keep the targets; None: in a temporary file without a name, which goes
                away with this object.
            views: of each sample.
            encoding: default ``Dense("float16")``.
            features: module paths or globs of the teacher, whose features are kept too, float16.
            ids: samples to ask for; default all.
            batch_size, device, collate: how the teacher is asked.
            announce: told of the header before space is taken on the disk.
            listener: told of rows done and rows to do.
            kept: told, from time to time, that all that was asked for so far is durable.
            ranks: that fill ``folder`` together, each its shards of it; all of them have to call
                this, and ``queries`` are those of all. Without a folder each fills its own.

        Raises:
            TargetsError: the data set has a randomness of its own, so that what is stored would
                belong to other pixels than the student sees; ``folder`` holds other targets; the
                disk is full.
        """
        if folder is None:
            # The mapping outlives the names.
            with tempfile.TemporaryDirectory(prefix="frugalkd-") as nameless:
                return cls.fill(
                    teacher, dataset, nameless, views=views, encoding=encoding,
                    features=features, ids=ids, batch_size=batch_size, device=device,
                    collate_fn=collate_fn, announce=announce, listener=listener, kept=kept,
                )  # fmt: skip
        live = teacher if isinstance(teacher, LiveTeacher) else LiveTeacher(teacher)
        queries, seconds = live.queries, live.seconds
        check_integer("views", views, 1)
        ranks, folder = ranks or Ranks(), named(folder)
        shards, write = shards_of(folder, ranks)
        encoding = Dense() if encoding is None else encoding
        check_types(encoding=(encoding, Encoding))
        layout = Layout(views, encoding, shards, tuple(features))
        filler = Filler(live, dataset, folder, layout, write=write, wait=True, announce=announce)
        try:
            fill(
                filler, dataset, ids=ids, batch_size=batch_size, device=device,
                collate_fn=collate_fn, listener=listener, kept=kept,
            )  # fmt: skip
        finally:
            filler.close()
        asked = ranks.sum([live.queries - queries, live.seconds - seconds])  # once all are done
        targets = cls(folder)
        targets.queries, targets.seconds = int(asked[0]), float(asked[1]) / ranks.world
        return targets

    def classes(self, data: Any) -> int | None:
        return self.store.header.classes

    def match_classes(self, names: Sequence[str], match: Match = "by-name") -> None:
        """Make the columns those of the data, whose classes are ``names``: ``by-name`` reorders
        them. Raises TargetsError where the names do not match."""
        order = class_order(self.class_names, names, match, "the store")
        if order is not None:
            self._order = order
            self.about["class order"] = hashlib.sha256(order.tobytes()).hexdigest()
        if self.class_names and names:
            self.class_names = tuple(names)
            self.about["classes"] = names_text(names)

    def _read(self, ids: Ids, views: Ids) -> NDArray[np.float32]:
        logits = self.store.read(ids, views)
        return logits if self._order is None else logits[:, self._order]

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        return on_device(self._read(ids, views % self.store.header.views), data)

    def feature_shapes(self, patterns: Sequence[str], data: Any) -> dict[str, Shape]:
        return self.features.shapes(patterns)

    def fetch_features(
        self, ids: Ids, views: Ids, data: Any, paths: Sequence[str]
    ) -> tuple[Tensor, Features]:
        found = {}
        for path in paths:
            store = self.features.stores[path]
            values = store.read(ids, views % store.header.views)
            found[path] = on_device(values.reshape(-1, *shape_of(store.header)), data)
        return self.fetch(ids, views, data), found

    def all_logits(self, view: int = 0) -> NDArray[np.float32]:
        """Decoded logits (samples, classes) of one view, NaN where nothing is stored."""
        header = self.store.header
        logits = np.full((header.samples, header.classes), np.nan, dtype=np.float32)
        ids = np.arange(header.samples)
        ids = ids[self.store.present(ids, np.full(len(ids), view))]
        for start in range(0, len(ids), _CHUNK):
            block = ids[start : start + _CHUNK]
            logits[block] = self._read(block, np.full(len(block), view))
        return logits

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        """As the seam says; of the first view.

        Raises:
            TargetsError: the encoding does not know the probability at temperature 1.
        """
        if self.temperature is not None:
            name = self.store.header.encoding.settings["name"]
            raise TargetsError(
                f"{name} soft targets do not say the teacher's probability of a label, which a "
                "ceiling asks for: set targets.encoding to float16"
            )
        logits = torch.from_numpy(self.all_logits())
        labels = logits.argmax(dim=1) if labels is None else labels.cpu()
        probabilities = torch.softmax(logits, dim=1)
        return probabilities.gather(1, labels.unsqueeze(1)).squeeze(1).numpy()

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:
        class_order(self.class_names, class_names(dataset), "same", "the store")
        check_about(self.about, teacher, dataset)


def on_device(logits: NDArray[np.float32], data: Any) -> Tensor:
    """Where the student's batch is."""
    device = find_device(data) or torch.device("cpu")
    tensor = torch.from_numpy(logits)
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
