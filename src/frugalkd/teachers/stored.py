"""Soft targets that were asked for once and are kept in memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as serialise
from torch import Tensor, nn
from torch.utils.data import Dataset

from frugalkd.data.source import Collate, data_digest, open_source, randomness
from frugalkd.errors import TargetsError
from frugalkd.files import write_atomic
from frugalkd.looking import model_digest
from frugalkd.policies._policy import Ids
from frugalkd.teachers._targets import Targets
from frugalkd.teachers.live import LiveTeacher


class StoredTargets(Targets):
    """The teacher's logits for every sample, in as many views as the student will cycle through.

    Attributes:
        logits: float32 (views, samples, classes), on the device that trains.
        about: digests of the teacher, the data and the augmentation that the logits belong to.
    """

    def __init__(self, logits: Tensor, about: dict[str, str], queries: int = 0):
        self.logits = logits
        self.about = about
        self.views = logits.shape[0]
        self.queries = queries

    @classmethod
    def fill(
        cls,
        teacher: nn.Module,
        dataset: Dataset,
        *,
        views: int = 1,
        batch_size: int = 1000,
        device: torch.device | str = "cpu",
        collate: Collate | None = None,
    ) -> StoredTargets:
        """Ask ``teacher`` for every sample of ``dataset``, ``views`` times.

        Raises:
            TargetsError: the data set has a randomness of its own, so that what is stored would
                belong to other pixels than the student sees.
        """
        if randomness(dataset):
            raise TargetsError(
                "this data set gives other pixels each time it is asked: give it a method "
                "view(id, view), or use a live teacher"
            )
        live = LiveTeacher(teacher)
        ids = np.arange(len(dataset))  # pyright: ignore[reportArgumentType]
        blocks = np.split(ids, np.arange(batch_size, len(ids), batch_size))
        requests = [(block, np.full(len(block), view)) for view in range(views) for block in blocks]
        with open_source(dataset, collate=collate) as source:
            rows = [
                live.fetch(block, seen_as, send_to_device(data, device))
                for (block, seen_as), data in zip(requests, source.batches(requests), strict=True)
            ]
        logits = torch.cat(rows).reshape(views, len(ids), -1)
        return cls(logits, describe(teacher, dataset), live.queries)

    def fetch(self, ids: Ids, views: Ids, data: Any) -> Tensor:
        rows = torch.from_numpy(ids).to(self.logits.device)
        if self.views == 1:
            return self.logits[0].index_select(0, rows)
        which = torch.from_numpy(views % self.logits.shape[0]).to(self.logits.device)
        return self.logits[which, rows]

    def truth(self, labels: Tensor | None) -> NDArray[np.float32]:
        """As the seam says; of the first view."""
        logits = self.logits[0]
        labels = logits.argmax(dim=1) if labels is None else labels.to(logits.device)
        probabilities = torch.softmax(logits, dim=1)
        return probabilities.gather(1, labels.unsqueeze(1)).squeeze(1).cpu().numpy()

    def check(self, teacher: nn.Module | None, dataset: Dataset) -> None:
        """Refuse targets that belong to another teacher, other data or another augmentation.

        Without a ``teacher`` at hand, data and augmentation alone are checked.

        Raises:
            TargetsError: naming which of them differ.
        """
        expected = describe(teacher, dataset)
        differing = [name for name in expected if self.about.get(name) != expected[name]]
        if differing:
            raise TargetsError(
                f"the stored soft targets belong to another {' and another '.join(differing)}: "
                "delete them, or name the ones that belong to this run"
            )

    def save(self, path: str | Path) -> None:
        """Write a safetensors file, atomically."""
        meta = {**self.about, "format": "frugalkd-targets", "schema": "1"}
        write_atomic(Path(path), serialise({"logits": self.logits.cpu().contiguous()}, meta))

    @classmethod
    def load(cls, path: str | Path, device: torch.device | str = "cpu") -> StoredTargets:
        """Read what :meth:`save` wrote; no teacher is asked.

        Raises:
            TargetsError: there is no such file, or it holds no stored targets.
        """
        try:
            with safe_open(path, framework="pt", device=str(device)) as file:
                about = dict(file.metadata() or {})
                logits = file.get_tensor("logits")
        except (SafetensorError, OSError) as error:
            raise TargetsError(f"{path} holds no readable soft targets: {error}") from None
        if about.pop("format", None) != "frugalkd-targets" or about.pop("schema", None) != "1":
            raise TargetsError(f"{path} holds no soft targets of schema 1: delete it")
        if logits.ndim != 3 or logits.dtype != torch.float32:
            raise TargetsError(f"{path} is damaged: logits {tuple(logits.shape)} {logits.dtype}")
        return cls(logits, about)


def describe(teacher: nn.Module | None, dataset: Dataset) -> dict[str, str]:
    """What stored targets are bound to: digests of the teacher, the data and the augmentation."""
    augmentation = getattr(dataset, "augmentation", None)
    return {
        **({} if teacher is None else {"teacher": model_digest(teacher)}),
        "data set": data_digest(dataset),
        "augmentation": f"{augmentation} seed {getattr(dataset, 'seed', None)}",
    }
