"""What people tell an integration, whichever trainer it is for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest
from frugalkd.errors import DataError
from frugalkd.files import StrPath
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.identity import this_torch
from frugalkd.objectives import KD, Objective
from frugalkd.policies import All, Policy, Sampling, SelfRegulation
from frugalkd.policies.modes import ModeName
from frugalkd.selection import DataLoading, Selection
from frugalkd.selection.checks import check_first_batch, check_pair
from frugalkd.selection.inputs import weights_of
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, Targets
from frugalkd.teachers.about import describe
from frugalkd.training.api import check_soft_targets

Ask = Callable[[Any], Tensor]


class Setting:
    """Who takes part, from whom a model learns, and by which objective.

    Args:
        teacher: a model or targets; None: no distillation.
        store: a folder in which a model's answers are kept as they are first asked for; None: it is
            asked each time.
        mode, ledger, regulation, gamma, policy, weights, scores, objective: as for
            :func:`frugalkd.distill`; without an objective and a teacher the loss is not ours.

    Raises:
        SettingError, UnknownName, LedgerError: as :class:`frugalkd.Sampling`.
    """

    def __init__(
        self,
        *,
        teacher: nn.Module | Targets | None = None,
        store: StrPath | None = None,
        mode: ModeName | None = None,
        ledger: Ledger | None = None,
        regulation: SelfRegulation | None = None,
        gamma: float = 1.0,
        policy: Policy | None = None,
        weights: NDArray[np.float32] | None = None,
        scores: NDArray[np.float32] | None = None,
        objective: Objective | None = None,
    ):
        if mode is None:
            policy, regulation = All() if policy is None else policy, None
        self.sampling = Sampling(
            policy=policy, mode=mode, ledger=ledger, regulation=regulation, gamma=gamma,
            weights=weights, scores=scores,
        )  # fmt: skip
        self.policy = self.sampling.chosen_policy
        self.teacher, self._store = teacher, store
        self.objective = objective

    def settle(self, model: nn.Module, objective: Objective | None) -> None:
        """Check what was told against the model to train. ``objective`` is what is taken where
        there is no teacher and none was told; None: the trainer's own loss.

        Raises:
            ModelError: training the model would change its teacher.
            TargetsError: the objective needs a teacher and there is none, or reads more of it than
                the targets keep.
        """
        self.objective = self.objective or (objective if self.teacher is None else KD())
        check_pair(model, self.teacher)
        if self.objective is not None:
            teacher = self.teacher
            known = LiveTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
            check_soft_targets(known, self.objective)

    def targets(self, data: Any, ask: Ask | None) -> Targets | None:
        """None where the objective reads none; ``ask`` is how to get a model's logits."""
        if self.objective is None or not self.objective.needs_targets:
            return None
        if not isinstance(self.teacher, nn.Module):
            return self.teacher
        live = LiveTeacher(self.teacher, ask)
        return live if self._store is None else FirstVisitTargets(live, data, self._store)

    def select(
        self,
        data: Any,
        *,
        epochs: Callable[[int], float],
        targets: Targets | None,
        forward: Ask,
        model: nn.Module,
        batch_size: int,
        seed: int,
        loading: DataLoading,
        known_labels: NDArray[np.int64] | None = None,
    ) -> Selection:
        """A selection of ``data``, once a first look has found nothing wrong.

        Args:
            epochs: how many, of the number of samples that may take part.
            targets: :meth:`targets` of the data.
            forward: the model's logits for a batch.
            model, batch_size, seed, loading: as of :class:`Selection`.
            known_labels: int64 (samples,), for the ledger.

        Raises:
            UnsupportedData, DataError, ModelError, LedgerError, TargetsError: as
                :func:`frugalkd.distill`.
        """
        weights = weights_of(self.sampling, data)
        used = len(data) if weights is None else int(np.count_nonzero(weights))
        ledger = Ledger.new(len(data), labels=known_labels, extra=self.policy.columns)
        selection = Selection(
            data, epochs=epochs(used), batch_size=batch_size, sampling=self.sampling, model=model,
            forward=forward, targets=targets, seed=seed, ledger=ledger, loading=loading,
        )  # fmt: skip
        rows = selection.batch_size
        if selection.drop_last and len(selection.pool) < rows:
            raise DataError(
                f"dropping the last batch leaves nothing of {len(selection.pool)} samples in "
                f"batches of {rows}: lower the batch size"
            )
        selection.reader.classes = check_first_batch(
            model, data, targets, pool=selection.pool, forward=forward,
            device=torch.device(loading.device), collate_fn=loading.collate_fn,
        )  # fmt: skip
        ledger.about = {"data": data_digest(data), "policy": str(self.policy)}
        if names := class_names(data):
            ledger.about["classes"] = "\n".join(names)
        return selection

    def about(self, data: Any) -> dict[str, str]:
        """What a checkpoint is of."""
        teacher = self.teacher if isinstance(self.teacher, nn.Module) else None
        about = describe(teacher, data) | getattr(self.teacher, "about", {})
        objective = "the trainer's own" if self.objective is None else str(self.objective)
        return about | this_torch() | {"policy": str(self.policy), "objective": objective}
