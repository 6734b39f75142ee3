"""Filling a store of soft targets, apart from any training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from frugalkd.data.probe import digests_kept
from frugalkd.distributed.launch import ranks_of
from frugalkd.errors import RankError
from frugalkd.experiments.recipes.schema import OneOfSeveral, Recipe
from frugalkd.experiments.runs.material import RunData, make_data, make_teacher
from frugalkd.experiments.runs.participants import pool, sampling_of
from frugalkd.experiments.runs.targets import (
    STORE_SEED,
    Progress,
    ask_live,
    compare_accuracy,
    fill_shards,
    held_out_logits,
    open_targets,
    places_of,
)
from frugalkd.experiments.runs.teaching import folder_of, targets_of, teachers_of
from frugalkd.runtime.devices import resolve_device, use_threads
from frugalkd.teachers import LiveTeacher
from frugalkd.teachers.filling import Announce


@digests_kept()
def ensure_targets(
    recipe: Recipe,
    teacher: Path | None,
    stores: Path | None = None,
    *,
    note: Callable[[dict[str, float]], None] | None = None,
    progress: Progress | None = None,
) -> dict[str, float]:
    """Fill ahead all stored targets that ``distill`` would fill, before several runs share them.

    Args:
        recipe: its student and teachers.
        teacher: the run's own teacher's folder; None: the recipe's pretrained one.
        stores: as of :class:`~frugalkd.experiments.runs.teaching.Teaching`.
        note: receives what is returned, as it is so far, whenever what was stored is durable.
        progress: receives how far it is.

    Returns:
        ``rows`` that the teachers were queried for and ``seconds``; zeros where nothing was
        missing.
    """
    material = _material(recipe)
    done = {"rows": 0, "seconds": 0.0}
    for one in teachers_of(recipe).values():
        targets = targets_of(recipe, one)
        if targets.kind != "stored" or one.store is not None:
            continue
        folder = folder_of(one, teacher)
        places = places_of(folder, stores)
        live, device = _teacher(recipe, folder, material, one)
        if targets.fill == "ahead":
            ids = pool(sampling_of(recipe, teacher, material), material)
            clock = _Clock(live, done, note)
            try:
                open_targets(
                    recipe, live, material.train, places=places, out=None, ids=ids, device=device,
                    spec=targets, kept=clock.tell, progress=progress,
                )  # fmt: skip
            finally:  # what a stop leaves is in the store, and counts
                clock.tell()
            done = clock.spent
        if material.eval_dataset is not None:
            held_out_logits(live, material.eval_dataset, places, device)
    return done


class _Clock:
    """What a filling has cost since this was made, on top of what was ``done`` before."""

    def __init__(
        self,
        live: LiveTeacher,
        done: dict[str, float],
        note: Callable[[dict[str, float]], None] | None,
    ):
        self._live, self._done, self._note = live, done, note
        self._started = time.perf_counter()

    @property
    def spent(self) -> dict[str, float]:
        """``rows`` and ``seconds``, which count only where the teacher ran at all."""
        rows = self._live.queries
        seconds = time.perf_counter() - self._started if rows else 0.0
        return {"rows": self._done["rows"] + rows, "seconds": self._done["seconds"] + seconds}

    def tell(self) -> None:
        if self._note is not None:
            self._note(self.spent)


@digests_kept()
def store(
    recipe: Recipe,
    out: Path,
    *,
    teacher: Path | None = None,
    shard: tuple[int, int] = (0, 1),
    announce: Announce | None = None,
    listener: Callable[[int, int], None] | None = None,
) -> dict[str, Any]:
    """Fill a store at ``out`` with the soft targets of all that may take part in the recipe's
    student's training; one that is half filled is gone on with.

    Args:
        recipe: its student section says the views, the encoding, and who takes part.
        out: the store's folder.
        teacher: a folder made by ``teach``; without one the recipe's pretrained teacher.
        shard: (i, n): fill the i-th of n parts; other processes fill the others. Processes that
            torchrun or accelerate launch started take theirs by themselves.
        announce: told of the header (``disk_bytes``) before space is taken.
        listener: told of rows done and rows to do.

    Returns:
        ``asked``, ``rows``, ``of``, ``bytes``, ``encoding``, ``features``, ``seconds``.

    Raises:
        FrugalKDError: with one line; see the subclasses.
    """
    with ranks_of(recipe.device, recipe.threads) as ranks:
        if shard[1] > 1 and not ranks.alone:
            raise RankError(
                f"--shard {shard[0]}/{shard[1]} is for processes that know nothing of each other: "
                f"leave it out, and the {ranks.world} of this launch share the work"
            )
        material = _material(recipe)
        live, device = _teacher(recipe, teacher, material)
        ids = pool(sampling_of(recipe, teacher, material), material)
        started = time.perf_counter()
        done = fill_shards(
            recipe, live, material.train, out, ids=ids, device=device, shard=shard,
            announce=announce, listener=listener, ranks=ranks,
        )  # fmt: skip
        return {**done, "seconds": time.perf_counter() - started}


def _material(recipe: Recipe) -> RunData:
    """The data with the student's stored views."""
    use_threads(recipe.threads)
    return make_data(recipe, recipe.student.augment, STORE_SEED)


def _teacher(
    recipe: Recipe, folder: Path | None, material: RunData, one: OneOfSeveral | None = None
) -> tuple[LiveTeacher, torch.device]:
    """The teacher of a folder, or pretrained, on its device."""
    device = resolve_device(recipe.device)
    model = make_teacher(recipe, folder, material.train, one).to(device)
    live = ask_live(recipe, model, folder)
    compare_accuracy(live, material.eval_dataset, folder)
    return live, device
