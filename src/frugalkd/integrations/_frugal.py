"""What both integrations do: a teacher, a selection, its clock and its part of a checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from frugalkd.errors import SelectionMisuse
from frugalkd.files import StrPath
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.identity import this_torch
from frugalkd.objectives import KD, Objective
from frugalkd.policies import Sampling
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import check_types
from frugalkd.selection import Selection
from frugalkd.selection.checks import check_pair
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, Targets
from frugalkd.teachers.about import describe
from frugalkd.training.api import check_soft_targets
from frugalkd.training.resuming import check_same_training


class Frugal:
    """Base of a trainer or callback that trains with a selection."""

    selection: Selection | None = None
    """Of the last training."""
    _started = 0.0

    def _take_settings(
        self, store: StrPath | None, sampling: Sampling | None, objective: Objective | None
    ) -> None:
        self.sampling = Sampling() if sampling is None else sampling
        check_types(sampling=(self.sampling, Sampling), objective=(objective, Objective | None))
        self.policy = self.sampling.chosen_policy
        self.objective, self._store = objective, store

    def _take_teacher(
        self, teacher: nn.Module | Targets | None, model: nn.Module, objective: Objective | None
    ) -> None:
        """Check the teacher against the model to train. ``objective`` is the one where neither a
        teacher nor an objective was given; None: the trainer's own loss."""
        self.teacher = teacher
        self.objective = self.objective or (objective if teacher is None else KD())
        check_pair(model, teacher)
        if self.objective is not None:
            known = LiveTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
            check_soft_targets(known, self.objective)

    def _targets(
        self, dataset: Any, forward: Callable[[Any], Tensor] | None = None
    ) -> Targets | None:
        """None where the objective reads none; ``forward`` gets the teacher's logits."""
        if self.objective is None or not self.objective.needs_targets:
            return None
        if not isinstance(self.teacher, nn.Module):
            return self.teacher
        live = LiveTeacher(self.teacher, forward)
        return live if self._store is None else FirstVisitTargets(live, dataset, self._store)

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

    def _about(self, dataset: Any) -> dict[str, str]:
        """What a checkpoint is of."""
        teacher = self.teacher if isinstance(self.teacher, nn.Module) else None
        about = describe(teacher, dataset) | getattr(self.teacher, "about", {})
        objective = "the trainer's own" if self.objective is None else str(self.objective)
        return about | this_torch() | {"policy": str(self.policy), "objective": objective}

    def _kept(self, state: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """What a checkpoint holds of ``state``, the selection's."""
        if (targets := self._made().targets) is not None:
            targets.sync()
        self._read_clock()
        about = self._about(dataset)
        return {"about": about, "selection": state, "meters": self.meters.state()}

    def _restore(self, kept: dict[str, Any], dataset: Any) -> None:
        """Resume from what :meth:`_kept` returned. Raises RunFolderError for another training."""
        check_same_training(kept["about"], self._about(dataset))
        self._made().load_state_dict(kept["selection"])
        self.meters.restore(kept["meters"])

    def _close_data(self) -> None:
        if self.selection is not None:
            self.selection.source.close()
            if isinstance(self.selection.targets, FirstVisitTargets):
                self.selection.targets.close()
