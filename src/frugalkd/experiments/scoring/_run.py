"""What every scoring needs: a training of its own, and a look at what came of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.augmentation import Augmentation
from frugalkd.data.samples import Pictures
from frugalkd.data.source import Collate
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import UnsupportedData
from frugalkd.objectives import CrossEntropy
from frugalkd.policies import All, Policy, Sampling
from frugalkd.policies.policy import Ids
from frugalkd.runtime import draws
from frugalkd.runtime.meters import Meters
from frugalkd.training.api import distill
from frugalkd.training.evaluation import predict
from frugalkd.training.settings import Listener, RunOptions, Stop, Training
from frugalkd.training.trainer import Run, accelerator_for

MakeModel = Callable[[int], nn.Module]
"""A fresh model, its weights drawn from a seed."""


@dataclass
class ScoringRun:
    """Trainings for the sake of scores.

    Attributes:
        make_model, data, device, collate, listener, stop: as in
            :func:`frugalkd.experiments.scoring.score`.
        training: the settings, with the epochs of the scoring.
        meters: what all of it has cost so far.
    """

    make_model: MakeModel
    data: Dataset
    training: Training
    device: str = "auto"
    collate_fn: Collate | None = None
    listener: Listener | None = None
    stop: Stop | None = None
    meters: Meters = field(default_factory=Meters)

    @property
    def samples(self) -> int:
        return len(self.data)  # pyright: ignore[reportArgumentType]

    @staticmethod
    def seed_of(seed: int, index: int) -> int:
        """The seed of one training, which no student's training has by its own counting."""
        return int(draws.hash64(seed, draws.stream("scoring"), index)[0] >> np.uint64(32))

    def train(
        self,
        seed: int,
        *,
        policy: Policy | None = None,
        weights: NDArray[np.float32] | None = None,
    ) -> Run:
        """A fresh model, trained on the labels; by default everything takes part."""
        run = distill(
            self.make_model(seed),
            self.data,
            teacher=None,
            sampling=Sampling(policy=policy or All(), weights=weights),
            objective=CrossEntropy(),
            training=replace(self.training, fsdp=False),
            seed=seed,
            device=self.device,
            collate_fn=self.collate_fn,
            run=RunOptions(on_epoch_end=self.listener, should_stop=self.stop),
        )
        self.meters.add(run.meters)
        return run

    def look(
        self, run: Run, ids: Ids | None = None
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """The trained model's probabilities float32 (rows, classes) for ``ids`` (default: all), and
        their labels int64 (rows,): of view 0, and of images without augmentation."""
        data, started = self.data, time.perf_counter()
        if isinstance(data, Pictures):
            data = data.with_augmentation(Augmentation())
        probabilities, labels = predict(
            run.model,
            data,
            accelerator=accelerator_for(self.training.precision, self.device),
            batch_size=self.training.screen_batch,
            num_workers=self.training.num_workers,
            collate_fn=self.collate_fn,
            should_stop=self.stop,
            ids=ids,
            ranks=Ranks.here(),
        )
        if labels is None:
            raise UnsupportedData("these data have no labels: a scoring run learns from labels")
        spent, rows = Meters(), len(labels)
        spent.student_forwards = rows
        per_row = run.meters.flops["student_forward"] / max(1, run.meters.student_forwards)
        spent.flops = {"student_forward": per_row * rows}
        spent.wall_seconds = spent.phases["screen"] = time.perf_counter() - started
        self.meters.add(spent)
        return probabilities, labels
