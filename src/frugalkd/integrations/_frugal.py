"""Common to the integrations: teacher, selection, clock and checkpoint state, and epochs for a
trainer that computes the number of its steps in advance."""

from __future__ import annotations

import math
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from torch import Tensor, nn

from frugalkd.data import Augmentation, Pictures, Samples
from frugalkd.data.source import is_view_indexed
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import (
    FrugalKDWarning,
    RankError,
    RunFolderError,
    SelectionMisuse,
    SettingError,
)
from frugalkd.files import StrPath
from frugalkd.language.corpus import Corpus
from frugalkd.ledger.ledger import Ledger
from frugalkd.objectives import (
    KD,
    BinaryCrossEntropy,
    CrossEntropy,
    EmbedDistill,
    MultiLabelKD,
    Objective,
    RegressionKD,
    SquaredError,
    WeightedSum,
)
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Sampling
from frugalkd.policies.modes import OutputName
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import check_types
from frugalkd.selection import Batch, Epoch, Selection
from frugalkd.selection.checks import check_pair
from frugalkd.selection.rows import batches_of
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, Targets
from frugalkd.teachers.encodings import encoding_for
from frugalkd.training.api import check_soft_targets, with_output_of
from frugalkd.training.checkpoints import check_same_training, describe_choice

_DEFAULTS: dict[OutputName, tuple[Callable[[], Objective], Callable[[], Objective]]] = {
    "one-class": (CrossEntropy, KD),
    "tokens": (CrossEntropy, partial(KD, temperature=1.0)),
    "regression": (SquaredError, RegressionKD),
    "several-labels": (BinaryCrossEntropy, MultiLabelKD),
    "embeddings": (EmbedDistill, EmbedDistill),
}
"""The objectives without and with a teacher."""

IDLE_STORE = (
    "store keeps what a live teacher gives, and none runs here: pass a model as teacher=, or leave "
    "store out"
)


class Frugal:
    """Base of a trainer or callback that trains with a selection."""

    selection: Selection | None = None
    """The selection of the last training; ``ledger``, ``meters`` and ``budget`` are its own."""
    planned: PlannedEpochs
    """Its epochs."""
    _started = 0.0

    def _take_settings(
        self,
        store: StrPath | None,
        sampling: Sampling | None,
        objective: Objective | None,
        cost: float | None,
        dataset: object = None,
    ) -> None:
        self.sampling = with_output_of(sampling, objective, dataset).at_cost(cost)
        self.policy = self.sampling.chosen_policy
        self.objective, self._store = objective, store

    def _take_teacher(self, teacher: nn.Module | Targets | None, model: nn.Module) -> None:
        """Check the teacher against the model to train."""
        self.teacher = teacher
        if teacher is not None and self.objective is None:
            self.objective = default_objective(teacher, self.sampling.output)
        reads = self.objective is not None and self.objective.needs_targets
        if self._store is not None and not (reads and isinstance(teacher, nn.Module)):
            raise SettingError(IDLE_STORE)
        known = LiveTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
        check_types(teacher=(known, nn.Module | Targets | None))
        for each in () if known is None else known.live_teachers.values():
            check_pair(model, each.teacher)
        if self.objective is not None:
            check_soft_targets(known, self.objective)
            self.sampling = self.sampling.fitted(known if self.objective.needs_targets else None)
            self.policy = self.sampling.chosen_policy

    def _targets(
        self, dataset: Any, forward: Callable[[Any], Tensor] | None = None
    ) -> Targets | None:
        """None where the objective reads none; ``forward`` gets the teacher's logits. Raises
        RankError where several ranks would visit."""
        if self.objective is None or not self.objective.needs_targets:
            return None
        visits = self._store is not None or getattr(self.teacher, "fills_as_visited", False)
        if visits and not Ranks.here().alone:
            raise RankError(
                "a store that is filled at first visits is for one process, since a sample's first "
                "visit is on one rank and the next one on another: fill it before "
                "(StoredTargets.fill), and give StoredTargets(folder) as the teacher"
            )
        if not isinstance(self.teacher, nn.Module):
            return self.teacher
        live = LiveTeacher(self.teacher, forward)
        if self._store is None:
            return live
        if _has_views(dataset):
            warnings.warn(
                "store= keeps one view of each sample, so all epochs are trained on that of epoch "
                "0: for more, fill a store before (StoredTargets.fill(..., views=8))",
                FrugalKDWarning,
                stacklevel=2,
            )
        # Values may lie far from 0, where float16 has few digits of their differences.
        name = "float32" if self.sampling.output == "regression" else "float16"
        encoding = encoding_for(self.sampling.output, name)
        return FirstVisitTargets(live, dataset, self._store, encoding=encoding)

    @property
    def ledger(self) -> Ledger:
        return self._made().ledger

    @property
    def meters(self) -> Meters:
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
        """Which training a checkpoint belongs to."""
        return describe_choice(
            dataset=dataset, sampling=self.sampling, objective=self.objective,
            targets=self._made().targets,
            teacher=self.teacher if isinstance(self.teacher, nn.Module) else None,
        )  # fmt: skip

    def _kept(self, state: dict[str, Any], dataset: Any) -> dict[str, Any]:
        """What a checkpoint holds of ``state``, the selection's."""
        if (targets := self._made().targets) is not None:
            targets.sync()
        self._read_clock()
        return {
            "about": self._about(dataset), "selection": state, "meters": self.meters.state(),
            "full_steps": self.planned.full_steps,
        }  # fmt: skip

    def _restore(
        self, kept: dict[str, Any] | None, dataset: Any, *, full_steps: int, by_steps: bool
    ) -> None:
        """Resume from what :meth:`_kept` returned; None: from the beginning. ``full_steps`` as of
        :class:`PlannedEpochs`; ``by_steps``: the training ends after a number of steps.

        Raises:
            RunFolderError: the checkpoint is of another training, or of other steps.
            RankError: ranks found different ones.
        """
        selection = self._made()
        selection.ranks.check_same_inputs(
            lambda: {"the checkpoint": kept and kept["selection"]["columns"]["visits"]}
        )
        if kept is None:
            return
        check_same_training(kept["about"], self._about(dataset))
        if by_steps and kept["full_steps"] != full_steps:
            raise RunFolderError(
                f"the length of an epoch that uses everything was {kept['full_steps']} where the "
                f"checkpoint was written and is {full_steps} here, and max_steps counts steps: "
                "limit the epochs instead, or use as many processes and as large batches"
            )
        selection.load_state_dict(kept["selection"])
        self.meters.restore(kept["meters"])

    def _close_data(self) -> None:
        if self.selection is not None:
            self.selection.source.close()
            if isinstance(self.selection.targets, FirstVisitTargets):
                self.selection.targets.close()


def default_objective(
    teacher: object, output: OutputName = "one-class", smoothing: float = 0.0
) -> Objective:
    """``KD()`` where there is a teacher (of tokens at temperature 1), else cross-entropy, with
    labels smoothed by as much; or what takes their place in another kind of output. Raises
    SettingError."""
    if smoothing and output not in ("one-class", "tokens"):
        raise SettingError(
            f"label_smoothing_factor={smoothing:g} is for one class a sample, and the model "
            f"gives {OUTPUTS[output].plural}: set it to 0"
        )
    made = _DEFAULTS[output][teacher is not None]()
    if not smoothing:
        return made
    if not isinstance(made, KD):
        return CrossEntropy(smoothing)
    terms = (KD(made.temperature, alpha=1.0), CrossEntropy(smoothing))
    return WeightedSum(terms, (made.alpha, 1 - made.alpha))


def torchs_start_method() -> Any:
    """How torch's DataLoader starts its workers by default: as every trainer does."""
    return multiprocessing.get_start_method(True) or multiprocessing.get_all_start_methods()[0]


def full_epoch(rows: int, batch: int, *, world: int, drop_last: bool, accumulation: int = 1) -> int:
    """Batches of each of ``world`` ranks in an epoch that uses all of ``rows`` samples. Several
    ranks take whole steps of ``accumulation`` batches."""
    if world == 1:
        return batches_of(rows, batch, drop_last=drop_last)
    return rows // (world * batch * accumulation) * accumulation


def _has_views(dataset: Any) -> bool:
    """Whether a sample may be another one at each visit."""
    if isinstance(dataset, Pictures):
        return dataset.augmentation != Augmentation()
    return not isinstance(dataset, Samples | Corpus) and is_view_indexed(dataset)


class PlannedEpochs:
    """A selection's epochs, one after another, and the place of each batch in a training whose
    number of steps is computed in advance. Each loop over it yields the next epoch that has a
    batch; its length is that of an epoch that uses everything.

    Args:
        selection: of the batches.
        dataset: for a trainer that counts its samples.
        accumulation: the selection's.
        epochs: of full training, as they were given; a cost makes the selection's more, or fewer.
        batches: of an epoch that uses everything.
        full_steps: steps of such an epoch where the checkpoint was written. If there were more of
            them than here, on fewer ranks, they remain the measure of the steps that a trainer has
            taken and of its schedule.
    """

    def __init__(
        self,
        selection: Selection,
        dataset: Any,
        accumulation: int = 1,
        *,
        epochs: float,
        batches: int,
        full_steps: int = 0,
    ):
        self.selection, self.dataset, self.accumulation = selection, dataset, accumulation
        self._given = epochs
        self.epoch: Epoch | None = None
        """The current one, or the last one."""
        self.batch: Batch | None = None
        """The last one that was read."""
        self.ended = False
        """Whether the policy ended the training: there was no next epoch."""
        less = math.ceil(batches / accumulation) < full_steps
        self._full = full_steps * accumulation if less else batches
        self._epochs = iter(selection)
        self.batches: Iterator[Batch] = iter(())
        """Those that are left of the current epoch; each can be read once."""

    def __len__(self) -> int:
        return self._full

    @property
    def full_steps(self) -> int:
        """Steps of an epoch that uses everything."""
        return math.ceil(self._full / self.accumulation)

    def __iter__(self) -> Iterator[Batch]:
        while self.advance():
            steps = 0
            for batch in self.batches:
                steps += 1
                yield batch
            if steps:
                return

    def advance(self) -> bool:
        """Plan the next epoch; False where there is none left. One without batches ends here."""
        epoch = next(self._epochs, None)
        if epoch is None:
            self.ended = True
            return False
        self.epoch, self.batches = epoch, self._read(epoch)
        if len(epoch) == epoch.resumed:
            next(self.batches, None)
        return True

    def _read(self, epoch: Epoch) -> Iterator[Batch]:
        for batch in epoch:
            self.batch = batch
            yield batch

    @property
    def current(self) -> tuple[Epoch, Batch]:
        """The epoch and the batch of the training step that runs now."""
        assert self.epoch is not None and self.batch is not None, "a batch was read"  # noqa: PT018
        return self.epoch, self.batch

    def finish(self) -> None:
        """End an epoch whose last batch was trained on: a trainer that counts steps reads no
        more."""
        if self.epoch is None or self.batch is None or not self.batch.ends_step:
            return
        if self.epoch.summary["steps"] == math.ceil(len(self.epoch) / self.accumulation):
            next(self.batches, None)

    @property
    def done(self) -> bool:
        """Whether the last epoch has ended."""
        epoch, selection = self.epoch, self.selection
        return epoch is not None and epoch.finished and epoch.index + 1 >= selection.epochs

    def position(self, batch: Batch, total: int, accumulation: int) -> float:
        """Where a schedule of ``total`` steps of ``accumulation`` batches, those of full training
        over the epochs as given, is at a batch's progress: where everything is used, the step's
        number."""
        epoch, _ = self.current
        share = (batch.index / accumulation) / math.ceil(len(epoch) / accumulation)
        whole = math.ceil(len(self) / accumulation) * self._given
        begin, end = (whole * epoch.progress_at(share) for share in (0, 1))
        if epoch.index + 1 >= self.selection.epochs:
            end = total
        return round(begin + (end - begin) * share, 6)

    @property
    def epochs_done(self) -> float:
        """Epochs that are done once the last batch that was read is."""
        if self.epoch is None or self.batch is None:
            return 0.0
        part = 1.0
        if not self.epoch.finished:
            part = (self.batch.index + 1) / len(self.epoch)
        return min(self.epoch.index + part, self.selection.epochs)
