"""Soft targets that are stored as a side effect of first visits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.errors import TargetsError
from frugalkd.files import StrPath
from frugalkd.files.opening import named
from frugalkd.policies.policy import Ids
from frugalkd.runtime.settings import check_integer, check_types
from frugalkd.teachers.about import check_about
from frugalkd.teachers.encodings import Dense, Encoding
from frugalkd.teachers.filling import Announce, Filler, Layout
from frugalkd.teachers.live import LiveTeacher
from frugalkd.teachers.store import Store
from frugalkd.teachers.stored import on_device
from frugalkd.teachers.targets import Targets


class FirstVisitTargets(Targets):
    """Asks the teacher for a sample's view when it is first visited, and keeps the answer: what
    never takes part is never asked for.

    A later visit reads what the first one stored; the first one gets the decoded row as well. A
    store with some rows in it is gone on with. :meth:`close` makes the rows durable.

    Args:
        teacher, dataset, folder, views, encoding, announce: as of :meth:`StoredTargets.fill`.

    Raises:
        TargetsError: as there, or another process is filling ``folder``.
    """

    fills_as_visited = True

    def __init__(
        self,
        teacher: nn.Module | LiveTeacher,
        dataset: Dataset,
        folder: StrPath,
        *,
        views: int = 1,
        encoding: Encoding | None = None,
        announce: Announce | None = None,
    ):
        self._live = teacher if isinstance(teacher, LiveTeacher) else LiveTeacher(teacher)
        check_integer("views", views, 1)
        encoding = Dense() if encoding is None else encoding
        check_types(encoding=(encoding, Encoding))
        layout = Layout(views, encoding)
        self._filler = Filler(self._live, dataset, named(folder), layout, announce=announce)
        self.about = self._filler.about
        self.views = views
        self.temperature = layout.encoding.temperature
        self.knows_top = layout.encoding.knows_top
        self.keeps = layout.encoding.keeps
        self._asked_before, self._spent_before = self._live.queries, self._live.seconds

    @property
    def queries(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._live.queries - self._asked_before

    @property
    def seconds(self) -> float:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._live.seconds - self._spent_before

    @property
    def live_teachers(self) -> Mapping[str, LiveTeacher]:
        return {"teacher": self._live}

    @property
    def store(self) -> Store | None:
        """None until the teacher was first asked."""
        return self._filler.store

    def classes(self, data: Any) -> int | None:
        return self._live.classes(data) if self.store is None else self.store.header.classes

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        views = views % self._filler.layout.views
        return on_device(self._filler.add(ids, views, data).read(ids, views), data)

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        raise TargetsError(
            "targets filled at first visits are not known beforehand, and a ceiling asks for them: "
            "set targets.fill to ahead"
        )

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:
        check_about(self.about, teacher, dataset)

    def sync(self) -> None:
        if self._filler.store is not None:
            self._filler.store.sync()

    def close(self) -> None:
        """Make what was stored durable, and let other processes fill the store."""
        self._filler.close()

    def __enter__(self) -> FirstVisitTargets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
