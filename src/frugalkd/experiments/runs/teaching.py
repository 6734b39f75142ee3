"""The teachers of a recipe's student: loaded, run, stored, metered."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from frugalkd.data.class_names import class_names
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import TargetsError
from frugalkd.experiments.recipes.schema import OneOfSeveral, TargetsRole
from frugalkd.experiments.runs.folder import read_results
from frugalkd.experiments.runs.material import RunContext, make_teacher
from frugalkd.experiments.runs.targets import (
    ONE,
    compare_accuracy,
    folder_of,
    held_out_logits,
    live_teacher,
    open_targets,
    places_of,
    targets_of,
    teachers_of,
)
from frugalkd.models.initial import take_classifier
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import device_of, resolve_device
from frugalkd.teachers import (
    EMATeacher,
    FirstVisitTargets,
    LiveTeacher,
    ModelTeacher,
    SeveralTeachers,
    StoredTargets,
    Targets,
)
from frugalkd.teachers.several import mean_logits, mean_softmax
from frugalkd.training.api import teacher_flops
from frugalkd.training.trainer import Run


@dataclass
class Source:
    """One teacher.

    Attributes:
        targets: the source of its soft targets.
        live: its model; None for a store alone.
        folder: of the run that made it, where there is one.
        opened: its soft targets.
    """

    targets: TargetsRole
    live: ModelTeacher | None
    folder: Path | None = None
    opened: Targets | None = None


class TeacherPool:
    """The teachers of one run: a context, in which their soft targets may be used.

    ``ids`` are the samples that may be used (None: all). Stored targets of a teacher without a
    folder that can be written are kept in the run's ``stores``, or in its own folder.

    Raises:
        FrugalKDError: a teacher is missing or cannot be loaded.
    """

    together: Targets
    """The soft targets of all teachers, as one; set by :meth:`open`."""

    def __init__(self, run: RunContext, student: nn.Module, ids: Ids | None):
        self._run, self._recipe, self._material = run, run.recipe, run.material
        self._student, self._ids, self._device = student, ids, resolve_device(run.recipe.device)
        self._ranks = Ranks.here()
        self.sources = {name: self._source(one) for name, one in teachers_of(run.recipe).items()}

    def _source(self, one: OneOfSeveral) -> Source:
        recipe, targets = self._recipe, targets_of(self._recipe, one)
        training = recipe.student.training
        if one.store is not None:
            stored = StoredTargets(one.store)  # refused before any teacher runs
            stored.match_classes(class_names(self._material.train), targets.classes)
            return Source(targets, None, opened=stored)
        if targets.kind == "ema":
            average = EMATeacher(
                self._student.to(self._device), targets.decay, precision=training.precision,
                channels_last=training.channels_last,
            )  # fmt: skip
            return Source(targets, average)
        folder = folder_of(one, self._run.teacher)
        model = make_teacher(recipe, folder, self._material.train, one)
        sharded = training.fsdp and targets.kind == "live" and not self._ranks.alone
        if not sharded:  # else it may be too large for the device, until it is
            model.to(self._device)
        if recipe.student.model.reuse_classifier_dim is not None:
            take_classifier(self._student, model)
        live = live_teacher(recipe, model, folder)
        if not sharded:
            compare_accuracy(live, self._material.eval_dataset, folder)
        return Source(targets, live, folder)

    def __enter__(self) -> TeacherPool:
        return self

    def __exit__(self, *reason: object) -> None:
        for source in self.sources.values():
            if isinstance(source.opened, FirstVisitTargets):
                source.opened.close()

    @property
    def _lives(self) -> dict[str, ModelTeacher]:
        return {name: one.live for name, one in self.sources.items() if one.live is not None}

    def open(self) -> Targets:
        """The soft targets; stores are filled, where they are to be filled ahead."""
        started, before = time.perf_counter(), self._run.folder.filling()

        def note(ranks: Ranks = Ranks()) -> None:  # noqa: B008
            """Queries before a stop or a kill are not repeated, and count: of this process, or of
            all ``ranks``."""
            lives, known = self._lives, before["queries_of"]
            rows = ranks.sum([lives[name].queries if name in lives else 0 for name in self.sources])
            if not rows.any():
                return
            spent = ranks.mean(sum(live.seconds for live in lives.values()))
            self._run.folder.note_filling(
                queries_of={
                    name: known.get(name, 0) + int(count)
                    for name, count in zip(self.sources, rows, strict=True)
                },
                seconds=before["seconds"] + time.perf_counter() - started,
                teacher_seconds=before["teacher_seconds"] + spent,
            )

        finished = Ranks()
        try:
            for name, source in self.sources.items():
                if source.live is None:
                    continue
                source.opened = open_targets(
                    self._recipe, source.live, self._material.train, spec=source.targets,
                    places=[*places_of(source.folder, self._run.stores), self._run.folder.path],
                    out=self._run.folder.path, ids=self._ids, device=self._device, kept=note,
                    name="targets" if name == ONE else f"targets-{name}",
                    progress=self._run.progress, ranks=self._ranks,
                )  # fmt: skip
            finished = self._ranks
        finally:
            note(finished)
        self.together = self._combined()
        return self.together

    def _combined(self) -> Targets:
        opened = {name: one.opened for name, one in self.sources.items() if one.opened is not None}
        several, temperature = self._recipe.student.teachers, None
        if several is None:
            return opened[ONE]
        if several.average == "softmax":
            objective = self._recipe.student.objective.build()
            temperature = getattr(objective, "temperature", None)
            if temperature is None:
                raise TargetsError(
                    f"teachers.average: softmax is at the objective's temperature, and "
                    f"{type(objective).__name__} has none: set it to logits"
                )
        return SeveralTeachers(
            opened, several.combine, weights=several.weights, temperature=temperature,
            seed=self._recipe.seed,
        )  # fmt: skip

    def charge(self, run: Run) -> None:
        """Add the queries before the training to ``run``'s meters."""
        meters, filling = run.meters, self._run.folder.filling()
        rows = dict(meters.queries_of) or {ONE: meters.teacher_queries}
        for name, source in self.sources.items():
            rows[name] += filling["queries_of"].get(name, 0)
            store = getattr(source.opened, "store", None)
            if store is not None and store.folder.is_relative_to(self._run.folder.path):
                # Rows that a killed process stored after its last checkpoint or note.
                rows[name] = max(rows[name], store.count())
        meters.teacher_queries = sum(rows.values())
        if meters.queries_of:
            meters.queries_of = rows
        if filling["queries_of"]:
            meters.wall_seconds += filling["seconds"]
            meters.phases["store"] += filling["seconds"]
            meters.move(filling["teacher_seconds"], out_of="store", into="teacher")
        meters.flops["teacher_forward"] = teacher_flops(self._lives, self._material.train, meters)

    def notes(self, run: Run) -> dict[str, Any]:
        """``teacher`` and ``targets`` of the results; adds the agreement to the evaluation. Raises
        Stopped where the run's ``stop`` returns True."""
        queries = run.meters.queries_of or {ONE: run.meters.teacher_queries}
        targets = {name: _describe(one, queries[name]) for name, one in self.sources.items()}
        teachers = {name: _origin(one.folder) for name, one in self.sources.items()}
        self._add_agreement(run)
        filling = self._run.folder.filling()
        rows = sum(filling.pop("queries_of").values())
        cost = {"filling": {"rows": rows, **filling}} if rows else {}
        several = self._recipe.student.teachers
        if several is None:
            return {"teacher": teachers[ONE], "targets": {**targets[ONE], **cost}}
        together = {
            "kind": "several",
            "views": self.together.views,
            "filled_here": any(note["filled_here"] for note in targets.values()),
            "combine": several.combine,
            "average": several.average,
            "weights": several.weights,
        }
        return {
            "teacher": {"digest": None, "evaluation": None, "of": teachers},
            "targets": {**together, **cost, "of": targets},
        }

    def _add_agreement(self, run: Run) -> None:
        """How often the student and its teachers predict the same class on held-out data: several
        teachers by their mean, weighted where they have weights; none for a store alone."""
        held_out = self._material.eval_dataset
        if held_out is None or run.evaluation is None or len(self._lives) < len(self.sources):
            return
        started, logits = time.perf_counter(), []
        for name, live in self._lives.items():
            if live.changes:  # the student's average, which is final now
                live = LiveTeacher(
                    live.teacher, precision=live.precision, channels_last=live.channels_last
                )
            places = places_of(self.sources[name].folder, self._run.stores)
            device = device_of(live.teacher)
            found = held_out_logits(live, held_out, places, device, self._run.stop, self._ranks)
            logits.append(torch.from_numpy(found))
        mean, together = logits[0], self.together
        if isinstance(together, SeveralTeachers):
            shares = torch.tensor(together.shares)
            mean = mean_logits(logits, shares)
            if together.temperature is not None:
                mean = mean_softmax(logits, shares, together.temperature)
        assert run.probabilities is not None, "it was evaluated"
        agreement = np.mean(mean.numpy().argmax(1) == run.probabilities.argmax(1))
        run.evaluation["teacher_agreement"] = float(agreement)
        run.meters.eval_seconds += time.perf_counter() - started


def _describe(source: Source, queries: int) -> dict[str, Any]:
    """The source of soft targets, for the results, after a training (killed processes included)
    with ``queries`` of the teacher."""
    if isinstance(source.opened, ModelTeacher):
        return {"kind": source.targets.kind, "views": None, "filled_here": False}
    note = {"kind": "stored", "views": source.targets.views, "filled_here": queries > 0}
    store = getattr(source.opened, "store", None)
    if store is not None:
        note |= {
            "views": store.header.views,
            "fill": None if source.live is None else source.targets.fill,
            "encoding": store.header.encoding.settings,
            "rows": store.count(),
            "bytes": store.header.disk_bytes,
        }
    features = getattr(source.opened, "features", None)
    if features:
        note["features"] = list(features)
        note["bytes"] += sum(each.header.disk_bytes for each in features.values())
    return note


def _origin(folder: Path | None) -> dict[str, Any]:
    """The run that made a teacher, for the results."""
    if folder is None or not (folder / "results.json").is_file():
        return {"digest": None, "evaluation": None}
    results = read_results(folder)
    return {"digest": results["digest"], "evaluation": results["evaluation"]}
