"""Filling a store of soft targets, apart from any training."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from frugalkd.devices import resolve_device
from frugalkd.errors import RankError
from frugalkd.launch import ranks_of
from frugalkd.recipes.schema import Recipe
from frugalkd.runs.material import Material, make_data, make_teacher
from frugalkd.runs.participants import pool, who_takes_part
from frugalkd.runs.targets import (
    STORE_SEED,
    ask_live,
    fill_shards,
    held_out_logits,
    open_targets,
)
from frugalkd.teachers import LiveTeacher
from frugalkd.teachers.filling import Announce


def ensure_targets(recipe: Recipe, teacher: Path) -> dict[str, float]:
    """Fill the stored targets that ``distill`` would fill, before several runs share them.

    Returns:
        ``rows`` that the teacher was asked for and ``seconds``; zeros where nothing was missing.
    """
    role = recipe.student
    if role.targets.kind != "stored":
        return {"rows": 0, "seconds": 0.0}
    live, material, device = _ask(recipe, teacher)
    rows, seconds = 0, 0.0
    if role.targets.fill == "ahead":
        ids = pool(who_takes_part(recipe, teacher, material), material)
        started = time.perf_counter()
        rows = open_targets(
            recipe, live, material.train, teacher=teacher, out=None, ids=ids, device=device
        ).queries
        seconds = time.perf_counter() - started if rows else 0.0
    if material.held_out is not None:
        held_out_logits(live, material.held_out, teacher, device)
    return {"rows": rows, "seconds": seconds}


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
        live, material, device = _ask(recipe, teacher)
        ids = pool(who_takes_part(recipe, teacher, material), material)
        started = time.perf_counter()
        done = fill_shards(
            recipe, live, material.train, out, ids=ids, device=device, shard=shard,
            announce=announce, listener=listener, ranks=ranks,
        )  # fmt: skip
        return {**done, "seconds": time.perf_counter() - started}


def _ask(recipe: Recipe, teacher: Path | None) -> tuple[LiveTeacher, Material, torch.device]:
    """The teacher and the data with the student's stored views."""
    torch.set_num_threads(recipe.threads)
    device = resolve_device(recipe.device)
    material = make_data(recipe, recipe.student.augment, STORE_SEED)
    model = make_teacher(recipe, teacher, material.train).to(device)
    return ask_live(recipe, model, teacher), material, device
