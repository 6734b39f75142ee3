"""What both integrations do with a user's settings and with the selection made of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest
from frugalkd.errors import DataError, SelectionMisuse
from frugalkd.files import StrPath
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.identity import this_torch
from frugalkd.objectives import KD, Objective
from frugalkd.policies import Sampling
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import check_types
from frugalkd.selection import DataLoading, Selection
from frugalkd.selection.checks import check_pair
from frugalkd.selection.inputs import weights_of
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, Targets
from frugalkd.teachers.about import describe
from frugalkd.training.api import check_soft_targets
from frugalkd.training.resuming import check_same_training

ForwardFn = Callable[[Any], Tensor]


class Options:
    """Which samples are used, which teacher a model learns from, and by which objective.

    Args:
        teacher: a model or targets; None: no distillation.
        store: a folder that keeps the outputs of a model at their first use; None: the model runs
            each time.
        sampling, objective: as for :func:`frugalkd.distill`; without an objective and a teacher the
            loss is the trainer's.
    """

    def __init__(
        self,
        *,
        teacher: nn.Module | Targets | None,
        store: StrPath | None,
        sampling: Sampling | None,
        objective: Objective | None,
    ):
        self.sampling = Sampling() if sampling is None else sampling
        check_types(sampling=(self.sampling, Sampling), objective=(objective, Objective | None))
        self.policy = self.sampling.chosen_policy
        self.teacher, self.objective, self._store = teacher, objective, store

    def settle(self, model: nn.Module, objective: Objective | None) -> None:
        """Check the settings against the model to train. ``objective`` is the one where neither a
        teacher nor an objective was given; None: the trainer's own loss.

        Raises:
            ModelError: training the model would change its teacher.
            TargetsError: the objective needs a teacher and there is none, or reads more of it than
                the targets keep.
        """
        teacher = self.teacher
        self.objective = self.objective or (objective if teacher is None else KD())
        check_pair(model, teacher)
        if self.objective is not None:
            known = LiveTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
            check_soft_targets(known, self.objective)

    def targets(self, dataset: Any, forward: ForwardFn | None) -> Targets | None:
        """None where the objective reads none; ``forward`` gets the teacher's logits."""
        if self.objective is None or not self.objective.needs_targets:
            return None
        if not isinstance(self.teacher, nn.Module):
            return self.teacher
        live = LiveTeacher(self.teacher, forward)
        return live if self._store is None else FirstVisitTargets(live, dataset, self._store)

    def select(
        self,
        dataset: Any,
        *,
        epochs: Callable[[int], float],
        batch_size: int,
        model: nn.Module,
        forward: ForwardFn,
        targets: Targets | None,
        seed: int,
        loading: DataLoading,
        known_labels: NDArray[np.int64] | None,
    ) -> Selection:
        """A selection of ``dataset``, once its first batch has passed all checks.

        Args:
            epochs: their number, as a function of the number of samples that may be used.
            known_labels: int64 (samples,), for the ledger.

        The rest is as of :class:`Selection`.

        Raises:
            UnsupportedData, DataError, ModelError, LedgerError, TargetsError: as
                :func:`frugalkd.distill`.
        """
        label_free = self.sampling.label_free
        weights = weights_of(self.sampling, dataset)
        used = len(dataset) if weights is None else int(np.count_nonzero(weights))
        ledger = Ledger.new(
            len(dataset), labels=None if label_free else known_labels, extra=self.policy.columns
        )
        selection = Selection(
            dataset, epochs=epochs(used), batch_size=batch_size, sampling=self.sampling,
            model=model, forward=forward, targets=targets, seed=seed, ledger=ledger,
            loading=loading,
        )  # fmt: skip
        if selection.drop_last and len(selection.pool) < selection.batch_size:
            raise DataError(
                f"dropping the last batch leaves nothing of {len(selection.pool)} samples in "
                f"batches of {selection.batch_size}: lower the batch size"
            )
        selection.check_first_batch()
        ledger.about = {"data": data_digest(dataset), "policy": str(self.policy)}
        if names := class_names(dataset):
            ledger.about["classes"] = "\n".join(names)
        return selection

    def about(self, dataset: Any) -> dict[str, str]:
        """What a checkpoint is of."""
        teacher = self.teacher if isinstance(self.teacher, nn.Module) else None
        about = describe(teacher, dataset) | getattr(self.teacher, "about", {})
        objective = "the trainer's own" if self.objective is None else str(self.objective)
        return about | this_torch() | {"policy": str(self.policy), "objective": objective}


class HasSelection:
    """A trainer's selection, its clock, and its part of a checkpoint."""

    options: Options
    selection: Selection | None = None
    """Of the last training."""
    _started = 0.0

    @property
    def ledger(self) -> Ledger:
        """Of the last training."""
        return self._made().ledger

    @property
    def meters(self) -> Meters:
        """Of the last training."""
        return self._made().meters

    @property
    def budget(self) -> float:
        """Samples backpropagated in the last training, as a fraction of training on all of them."""
        return self._made().budget

    def _made(self) -> Selection:
        if self.selection is None:
            raise SelectionMisuse("there was no training yet: train first")
        return self.selection

    def _read_clock(self) -> None:
        now = time.perf_counter()
        self.meters.wall_seconds += now - self._started
        self._started = now

    def _leave_out(self, seconds: float) -> None:
        """Count ``seconds`` as evaluation, not as training."""
        self.meters.eval_seconds += seconds
        self._started += seconds

    def _kept(self, state: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """What a checkpoint holds of ``state``, the selection's."""
        if (targets := self._made().targets) is not None:
            targets.sync()
        self._read_clock()
        about = self.options.about(dataset)
        return {"about": about, "selection": state, "meters": self.meters.state()}

    def _restore(self, kept: dict[str, Any], dataset: Any) -> None:
        """Resume from what :meth:`_kept` returned. Raises RunFolderError for another training."""
        check_same_training(kept["about"], self.options.about(dataset))
        self._made().load_state_dict(kept["selection"])
        self.meters.restore(kept["meters"])

    def _close_data(self) -> None:
        if self.selection is not None:
            self.selection.source.close()
            if isinstance(self.selection.targets, FirstVisitTargets):
                self.selection.targets.close()
