"""Whom a recipe's student learns from: one teacher or several, made, asked, metered, noted."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from frugalkd.data.class_names import class_names
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import TargetsError
from frugalkd.experiments.recipes.schema import OneOfSeveral, Recipe, TargetsRole
from frugalkd.experiments.runs.folder import RunFolder, read_results
from frugalkd.experiments.runs.material import RunData, make_teacher
from frugalkd.experiments.runs.targets import (
    Progress,
    ask_live,
    compare_accuracy,
    held_out_logits,
    open_targets,
    places_of,
)
from frugalkd.models.initial import take_classifier
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import device_of
from frugalkd.teachers import (
    EMATeacher,
    FirstVisitTargets,
    LiveTeacher,
    SeveralTeachers,
    StoredTargets,
    Targets,
)
from frugalkd.teachers.combining import mean_logits, mean_softmax
from frugalkd.training.api import teacher_flops
from frugalkd.training.settings import Stop
from frugalkd.training.trainer import Run

ONE = "teacher"
"""What the only teacher is called."""


def teachers_of(recipe: Recipe) -> dict[str, OneOfSeveral]:
    """The student's teachers by name; one alone is :data:`ONE`."""
    several = recipe.student.teachers
    return {ONE: OneOfSeveral.model_validate({})} if several is None else several.of


def targets_of(recipe: Recipe, one: OneOfSeveral) -> TargetsRole:
    """Where the soft targets of ``one`` of the teachers come from."""
    said = recipe.student.targets
    kind, classes = one.kind or said.kind, one.classes or said.classes
    return said.model_copy(update={"kind": kind, "classes": classes})


def folder_of(one: OneOfSeveral, teacher: Path | None) -> Path | None:
    """The folder of the run that made ``one`` of the teachers; ``teacher``: the run's own."""
    if one.folder is not None or one.weights is not None:
        return None if one.folder is None else Path(one.folder)
    return teacher


@dataclass
class Source:
    """One teacher.

    Attributes:
        targets: where its soft targets come from, as a recipe says it.
        live: its model and how it is asked; None of a store alone.
        folder: of the run that made it, where there is one.
        opened: its soft targets.
    """

    targets: TargetsRole
    live: LiveTeacher | None
    folder: Path | None = None
    opened: Targets | None = None

    @property
    def asked(self) -> int:
        """Rows that its model was asked for so far."""
        return 0 if self.live is None else self.live.queries


class TeacherPool:
    """The teachers of one run.

    A context, in which their soft targets may be used.

    Args:
        recipe: its student's ``targets`` and ``teachers``.
        teacher: the run's own teacher's folder; without one the recipe's pretrained teacher.
        material: the data.
        folder: the run's.
        student: which may be its own teacher.
        ids: the samples that may take part, None for all.
        device: where teachers run.
        stores: a folder that several runs share, for stored targets of teachers that have no
            folder (pretrained weights) or one that cannot be written; None: the run's folder.
        progress: receives how far filling stores is.

    Raises:
        FrugalKDError: a teacher is missing or cannot be loaded.
    """

    def __init__(
        self,
        recipe: Recipe,
        teacher: Path | None,
        material: RunData,
        folder: RunFolder,
        *,
        student: nn.Module,
        ids: Ids | None,
        device: torch.device,
        stores: Path | None = None,
        progress: Progress | None = None,
    ):
        self._recipe, self._material, self._folder = recipe, material, folder
        self._student, self._ids, self._device = student, ids, device
        self._stores, self._progress = stores, progress
        self.together: Targets
        """The soft targets of all, as one, once they are opened."""
        self._ranks = Ranks.here()
        self.sources = {
            name: self._source(one, teacher) for name, one in teachers_of(recipe).items()
        }

    def _source(self, one: OneOfSeveral, teacher: Path | None) -> Source:
        recipe, targets = self._recipe, targets_of(self._recipe, one)
        if one.store is not None:
            stored = StoredTargets(one.store)  # refused before any teacher runs
            stored.match_classes(class_names(self._material.train), targets.classes)
            return Source(targets, None, opened=stored)
        if targets.kind == "ema":
            training = recipe.student.training
            asking: dict[str, Any] = {
                "precision": training.precision,
                "channels_last": training.channels_last,
            }
            student = self._student.to(self._device)
            return Source(targets, EMATeacher(student, targets.decay, **asking))
        folder = folder_of(one, teacher)
        model = make_teacher(recipe, folder, self._material.train, one)
        cut = recipe.student.training.fsdp and targets.kind == "live" and not self._ranks.alone
        if not cut:  # else it may be too large for the device, until it is cut
            model.to(self._device)
        if recipe.student.model.reuse_classifier_dim is not None:
            take_classifier(self._student, model)
        live = ask_live(recipe, model, folder)
        if not cut:
            compare_accuracy(live, self._material.eval_dataset, folder)
        return Source(targets, live, folder)

    def __enter__(self) -> TeacherPool:
        return self

    def __exit__(self, *reason: object) -> None:
        for source in self.sources.values():
            if isinstance(source.opened, FirstVisitTargets):
                source.opened.close()

    def open(self) -> Targets:
        """The soft targets; stores are filled, where they are to be filled ahead."""
        started, before = time.perf_counter(), self._folder.filling()

        def note(ranks: Ranks = Ranks()) -> None:  # noqa: B008
            """What was asked for before a stop or a kill is not asked for again, and counts: by
            this process, or by all ``ranks``."""
            asked = ranks.sum([one.asked for one in self.sources.values()])
            if not asked.any():
                return
            lives = [one.live for one in self.sources.values() if one.live is not None]
            known = before["queries_of"]
            spent = ranks.mean(sum(live.seconds for live in lives))
            self._folder.note_filling(
                queries_of={
                    name: known.get(name, 0) + int(rows)
                    for name, rows in zip(self.sources, asked, strict=True)
                },
                seconds=before["seconds"] + time.perf_counter() - started,
                teacher_seconds=before["teacher_seconds"] + spent,
            )

        known_to_be_done = Ranks()
        try:
            for name, source in self.sources.items():
                source.opened = self._opened(name, source, note)
            known_to_be_done = self._ranks
        finally:
            note(known_to_be_done)
        self.together = self._together()
        return self.together

    def _opened(self, name: str, source: Source, note: Callable[[], None]) -> Targets:
        if source.live is None:
            assert source.opened is not None, "a store"
            return source.opened
        return open_targets(
            self._recipe, source.live, self._material.train, spec=source.targets,
            places=[*places_of(source.folder, self._stores), self._folder.path],
            out=self._folder.path, ids=self._ids, device=self._device, kept=note,
            name="targets" if name == ONE else f"targets-{name}", progress=self._progress,
            ranks=self._ranks,
        )  # fmt: skip

    def _together(self) -> Targets:
        """The soft targets of all, as one."""
        opened = {name: one.opened for name, one in self.sources.items() if one.opened is not None}
        said = self._recipe.student.teachers
        if said is None:
            return opened[ONE]
        temperature = None
        if said.average == "softmax":
            objective = self._recipe.student.objective.build()
            temperature = getattr(objective, "temperature", None)
            if temperature is None:
                raise TargetsError(
                    f"teachers.average: softmax is at the objective's temperature, and "
                    f"{type(objective).__name__} has none: set it to logits"
                )
        return SeveralTeachers(
            opened, said.combine, weights=said.weights, temperature=temperature,
            seed=self._recipe.seed,
        )  # fmt: skip

    # What they cost, and what a run's results say of them.

    def charge(self, run: Run) -> None:
        """Count in ``run``'s meters what the teachers were asked before the training, too."""
        meters, filling = run.meters, self._folder.filling()
        rows = dict(meters.queries_of) or {ONE: meters.teacher_queries}
        for name, source in self.sources.items():
            rows[name] += filling["queries_of"].get(name, 0)
            store = getattr(source.opened, "store", None)
            if store is not None and store.folder.is_relative_to(self._folder.path):
                # What a killed process asked for after its last checkpoint or note, and kept.
                rows[name] = max(rows[name], store.count())
        meters.teacher_queries = sum(rows.values())
        if meters.queries_of:
            meters.queries_of = rows
        if filling["queries_of"]:
            meters.wall_seconds += filling["seconds"]
            meters.phases["store"] += filling["seconds"]
            meters.move(filling["teacher_seconds"], out_of="store", into="teacher")
        lives = {name: one.live for name, one in self.sources.items() if one.live is not None}
        meters.flops["teacher_forward"] = teacher_flops(lives, self._material.train, meters)

    def notes(self, run: Run, stop: Stop | None) -> dict[str, Any]:
        """``teacher`` and ``targets`` of the results; enters the agreement into the evaluation.

        Raises:
            Stopped: ``stop`` said so.
        """
        meters, said = run.meters, self._recipe.student.teachers
        asked = meters.queries_of or {ONE: meters.teacher_queries}
        targets = {name: _note(one, asked[name]) for name, one in self.sources.items()}
        teachers = {name: _who(one.folder) for name, one in self.sources.items()}
        self._agree(run, stop)
        filling = self._folder.filling()
        rows = sum(filling.pop("queries_of").values())
        cost = {"filling": {"rows": rows, **filling}} if rows else {}
        if said is None:
            return {"teacher": teachers[ONE], "targets": {**targets[ONE], **cost}}
        here = any(note["filled_here"] for note in targets.values())
        how = {"combine": said.combine, "average": said.average, "weights": said.weights}
        together = {"kind": "several", "views": self.together.views, "filled_here": here}
        return {
            "teacher": {"digest": None, "evaluation": None, "of": teachers},
            "targets": {**together, **how, **cost, "of": targets},
        }

    def _agree(self, run: Run, stop: Stop | None) -> None:
        """How often the student and its teachers name the same class on held-out data. Several
        speak by their mean, weighted where they have weights; a store alone cannot speak of it."""
        lives = [
            (_as_it_is(one.live), one.folder)
            for one in self.sources.values()
            if one.live is not None
        ]
        eval_dataset = self._material.eval_dataset
        if eval_dataset is None or run.evaluation is None or len(lives) < len(self.sources):
            return
        started = time.perf_counter()
        logits = [
            torch.from_numpy(
                held_out_logits(
                    live,
                    eval_dataset,
                    places_of(folder, self._stores),
                    device_of(live.teacher),
                    stop,
                    self._ranks,
                )
            )
            for live, folder in lives
        ]
        said = logits[0]
        together = self.together
        if isinstance(together, SeveralTeachers):
            shares = torch.tensor(together.shares)
            said = mean_logits(logits, shares)
            if together.temperature is not None:
                said = mean_softmax(logits, shares, together.temperature)
        assert run.probabilities is not None, "it was evaluated"
        agreement = np.mean(said.numpy().argmax(1) == run.probabilities.argmax(1))
        run.evaluation["teacher_agreement"] = float(agreement)
        run.meters.eval_seconds += time.perf_counter() - started


def _as_it_is(live: LiveTeacher) -> LiveTeacher:
    """A teacher that no longer changes: the training is over."""
    if not live.changes:
        return live
    return LiveTeacher(live.teacher, precision=live.precision, channels_last=live.channels_last)


def _note(source: Source, asked: int) -> dict[str, Any]:
    """What the results say of where soft targets came from, after a training in which (killed
    processes included) the teacher was asked for ``asked`` rows."""
    if isinstance(source.opened, LiveTeacher):
        return {"kind": source.targets.kind, "views": None, "filled_here": False}
    note = {"kind": "stored", "views": source.targets.views, "filled_here": asked > 0}
    store = getattr(source.opened, "store", None)
    if store is not None:
        header = store.header
        note |= {
            "views": header.views,
            "fill": None if source.live is None else source.targets.fill,
            "encoding": header.encoding.settings,
            "rows": store.count(),
            "bytes": header.disk_bytes,
        }
    features = getattr(source.opened, "features", None)
    if features is not None and features.stores:
        note["features"] = list(features.stores)
        note["bytes"] += features.disk_bytes
    return note


def _who(folder: Path | None) -> dict[str, Any]:
    """The run that made a teacher."""
    if folder is None or not (folder / "results.json").is_file():
        return {"digest": None, "evaluation": None}
    results = read_results(folder)
    return {"digest": results["digest"], "evaluation": results["evaluation"]}
