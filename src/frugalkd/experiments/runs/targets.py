"""The soft targets of each teacher: live, from a store, or into one."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.probe import digests_kept, streams_restored
from frugalkd.data.source import open_source
from frugalkd.distributed.launch import ranks_of
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import FrugalKDWarning, RankError, Stopped, TargetsError
from frugalkd.experiments.recipes.schema import OneOfSeveral, Recipe, TargetsRole
from frugalkd.experiments.runs.digest import digest_of
from frugalkd.experiments.runs.folder import read_results, trained_in
from frugalkd.experiments.runs.material import (
    STORE_SEED,
    Progress,
    RunData,
    ids_used,
    make_data,
    make_teacher,
    sampling_of,
)
from frugalkd.files.opening import named
from frugalkd.files.parsing import one_line
from frugalkd.models.identity import TORCH
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import device_of, resolve_device, use_threads
from frugalkd.selection.checks import labels_of
from frugalkd.teachers import (
    FirstVisitTargets,
    LiveTeacher,
    ModelTeacher,
    StoredTargets,
    Targets,
)
from frugalkd.teachers.about import describe_live
from frugalkd.teachers.encodings import Dense, Encoding, make_encoding
from frugalkd.teachers.filling import Announce, Filler, Layout, fill, shards_of
from frugalkd.teachers.store import read_header
from frugalkd.training.settings import Stop

ONE = "teacher"
"""The name of a single teacher."""

_COMPARED, _FEWEST_COMPARED = 128, 32


def teachers_of(recipe: Recipe) -> dict[str, OneOfSeveral]:
    """The student's teachers by name; a single one is :data:`ONE`."""
    several = recipe.student.teachers
    return {ONE: OneOfSeveral.model_validate({})} if several is None else several.of


def targets_of(recipe: Recipe, one: OneOfSeveral) -> TargetsRole:
    """The source of the soft targets of ``one`` of the teachers."""
    targets = recipe.student.targets
    kind, classes = one.kind or targets.kind, one.classes or targets.classes
    return targets.model_copy(update={"kind": kind, "classes": classes})


def folder_of(one: OneOfSeveral, teacher: Path | None) -> Path | None:
    """The run folder of ``one`` of the teachers; ``teacher``: that of the run's own."""
    if one.folder is not None or one.weights is not None:
        return None if one.folder is None else Path(one.folder)
    return teacher


def encoding_of(recipe: Recipe) -> Encoding:
    """The student's encoding; its temperature is the objective's."""
    targets = recipe.student.targets
    temperature = getattr(recipe.student.objective.build(), "temperature", None) or 1.0
    return make_encoding(targets.encoding, targets.k, temperature)


def live_teacher(recipe: Recipe, model: nn.Module, folder: Path | None) -> LiveTeacher:
    """``model`` in the precision and memory format of its training: those of its ``folder``, or,
    for a pretrained one, of the recipe."""
    training = recipe.teacher.training
    known = None if folder is None else trained_in(folder)
    precision, channels_last = known or (training.precision, training.channels_last)
    return LiveTeacher(model, precision=precision, channels_last=channels_last)


def compare_accuracy(live: ModelTeacher, held_out: Dataset | None, folder: Path | None) -> None:
    """A FrugalKDWarning if the teacher of a run's ``folder`` is right on less than half as many
    held-out samples as in its own run: classes of the same names may have other meanings here. The
    query is not counted."""
    if held_out is None or folder is None or not (folder / "results.json").is_file():
        return
    labels, evaluation = labels_of(held_out), read_results(folder).get("evaluation")
    known = evaluation.get("accuracy") if isinstance(evaluation, dict) else None
    if labels is None or len(labels) < _FEWEST_COMPARED or not isinstance(known, float):
        return
    ids = np.unique(np.linspace(0, len(labels) - 1, _COMPARED).astype(np.int64))
    with streams_restored(), open_source(held_out) as source:
        batch = next(source.batches([(ids, np.zeros_like(ids))]))
    logits = live.run(send_to_device(batch, device_of(live.teacher)))
    found = float(np.mean(logits.argmax(1).cpu().numpy() == labels[ids]))
    if found < known / 2:
        warnings.warn(
            f"the teacher in {one_line(folder)} is right on {found:.0%} of {len(ids)} held-out "
            f"samples, and was on {known:.0%} in its own run: see whether its classes mean the "
            "same here (folders that were renamed, labels in another order)",
            FrugalKDWarning,
            stacklevel=2,
        )


def open_targets(
    recipe: Recipe,
    live: ModelTeacher,
    data: Dataset,
    *,
    spec: TargetsRole,
    places: Sequence[Path],
    out: Path | None,
    ids: Ids | None,
    device: torch.device,
    name: str = "targets",
    kept: Callable[[], None] | None = None,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Targets:
    """The soft targets of ``live``, which runs on ``device`` for the samples ``ids`` (None: all).

    Filled ahead, they are kept in the first of ``places`` that is complete or can be written; at
    first visits, in the folder ``name`` of ``out``. ``kept`` and ``ranks`` are those of
    :meth:`StoredTargets.fill`.

    Raises:
        RankError: several ranks, and targets that are stored at first visits.
        TargetsError: as :meth:`StoredTargets.fill`.
    """
    if spec.kind != "stored":
        return live
    encoding = encoding_of(recipe)
    folder = None if spec.folder is None else named(spec.folder)
    if folder is not None:
        read_header(folder)  # a recipe names a store; it cannot make one anywhere on the disk
    if spec.fill == "first-visit":
        if out is None:
            raise TargetsError("targets.fill: first-visit needs a run folder to fill")
        if ranks is not None and not ranks.alone:
            raise RankError(
                "targets.fill: first-visit is for one process, since a sample's first visit is on "
                "one rank and the next one on another: set targets.fill to ahead"
            )
        where = folder or named(out) / name
        return FirstVisitTargets(live, data, where, views=spec.views, encoding=encoding)
    if folder is None:
        key = _store_name(live, data, spec.views, encoding)
        found = [named(place) / key for place in places]
        serving = (where for where in found if _serves(where, ids, spec.views, spec.features))
        folder = next(serving, found[-1])

    def report(done: int, total: int) -> None:
        if progress is not None:
            progress(f"storing soft targets, {done:,} of {total:,}")

    return StoredTargets.fill(
        live, data, folder, views=spec.views, encoding=encoding, features=spec.features, ids=ids,
        device=device, listener=report, kept=kept, ranks=ranks,
    )  # fmt: skip


def held_out_logits(
    live: ModelTeacher,
    data: Dataset,
    places: Sequence[Path],
    device: torch.device,
    stop: Stop | None = None,
    ranks: Ranks | None = None,
) -> np.ndarray:
    """The teacher's logits float32 (samples, classes) on held-out data, kept in the first of
    ``places`` that has them or can be written. Raises Stopped where ``stop`` returns True after a
    batch."""

    def check_stop(done: int, total: int) -> None:
        if stop is not None and stop():
            raise Stopped("stopped in an evaluation")

    encoding = Dense("float32")
    key = _store_name(live, data, 1, encoding)
    found = [named(place) / key for place in places]
    where = next((where for where in found if _serves(where, None, 1)), None)
    return StoredTargets.fill(
        live, data, where, encoding=encoding, device=device, listener=check_stop, ranks=ranks
    ).all_logits()


def places_of(*folders: Path | None) -> list[Path]:
    """The folders in which runs share what they make, without None."""
    return [folder for folder in folders if folder is not None]


def _store_name(live: ModelTeacher, data: Dataset, views: int, encoding: Encoding) -> str:
    """The name of the folder that keeps these targets, for all runs that read them."""
    about = describe_live(live, data)
    del about[TORCH]
    decides = {**about, "views": views, "encoding": encoding.settings}
    return f"targets-{digest_of(decides)[:16]}"


def _serves(where: Path, ids: Ids | None, views: int, features: Sequence[str] = ()) -> bool:
    """Whether a store at ``where`` is complete, or can be written."""
    if os.access(where if where.exists() else where.parent, os.W_OK):
        return True
    try:
        targets = StoredTargets(where)
        paths = targets.feature_shapes(features, None) if features else {}
    except TargetsError:
        return False
    stores = [targets.store, *(targets.features[path] for path in paths)]
    ids = np.arange(targets.store.header.samples) if ids is None else ids
    rows = [(ids, np.full(len(ids), view)) for view in range(views)]
    return all(store.present(*each).all() for store in stores for each in rows)


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

    Returns ``rows`` through the teachers and ``seconds``, zeros where nothing was missing; ``note``
    receives the same whenever stored rows are durable. ``stores``: as of :class:`TeacherPool`.
    """
    material, spent = _data_of_views(recipe), {"rows": 0, "seconds": 0.0}
    for one in teachers_of(recipe).values():
        targets = targets_of(recipe, one)
        if targets.kind != "stored" or one.store is not None:
            continue
        folder = folder_of(one, teacher)
        places = places_of(folder, stores)
        live, device = _on_device(recipe, folder, material, one)
        started, before = time.perf_counter(), dict(spent)

        def count(
            live: ModelTeacher = live, started: float = started, before: dict[str, float] = before
        ) -> None:
            if live.queries:
                spent["rows"] = before["rows"] + live.queries
                spent["seconds"] = before["seconds"] + time.perf_counter() - started
            if note is not None:
                note(dict(spent))

        if targets.fill == "ahead":
            ids = ids_used(sampling_of(recipe, teacher, material), material)
            try:
                open_targets(
                    recipe, live, material.train, spec=targets, places=places, out=None, ids=ids,
                    device=device, kept=count, progress=progress,
                )  # fmt: skip
            finally:  # rows that were stored before a stop count
                count()
        if material.eval_dataset is not None:
            held_out_logits(live, material.eval_dataset, places, device)
    return spent


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
    """Fill a store at ``out`` with the soft targets of all samples that may be used in the recipe's
    student's training; an unfinished one is continued.

    Args:
        recipe: its student section gives the views, the encoding, and which samples are used.
        out: the store's folder.
        teacher: a folder made by ``teach``; without one the recipe's pretrained teacher.
        shard: (i, n): fill the i-th of n parts; other processes fill the others. Processes that
            torchrun or accelerate launch started share the work without it.
        announce: receives the header (``disk_bytes``) before space is allocated.
        listener: receives rows done and rows in total.

    Returns:
        ``queries`` (rows through the teacher), ``rows`` of ``of`` rows, ``bytes``, ``encoding``,
        ``features`` (the teacher's modules), ``seconds``.

    Raises:
        TargetsError: ``out`` holds other targets, another process fills this shard, the disk is
            full.
        FrugalKDError: with one line; see the subclasses.
    """
    index, shards = shard
    with ranks_of(recipe.device, recipe.threads) as ranks:
        if shards > 1 and not ranks.alone:
            raise RankError(
                f"--shard {index}/{shards} is for processes that were started separately: "
                f"leave it out, and the {ranks.world} of this launch share the work"
            )
        material = _data_of_views(recipe)
        live, device = _on_device(recipe, teacher, material)
        ids = ids_used(sampling_of(recipe, teacher, material), material)
        started, out = time.perf_counter(), named(out)
        if not 0 <= index < shards:
            raise TargetsError(f"shard {index}/{shards}: give 0/N .. N-1/N")
        count, write = (shards, [index]) if ranks.alone else shards_of(out, ranks)
        spec = recipe.student.targets
        layout = Layout(spec.views, encoding_of(recipe), count, spec.features)
        filler = Filler(live, material.train, out, layout, write=write, announce=announce)
        try:
            fill(filler, material.train, ids=ids, device=device, listener=listener)
        finally:
            filler.close()
        queries = int(ranks.sum([live.queries])[0])  # once all are done
        targets = StoredTargets(out)
        header = targets.store.header
        return {
            "queries": queries,
            "rows": targets.store.count(),
            "of": header.samples * header.views,
            "bytes": sum(
                each.header.disk_bytes for each in (targets.store, *targets.features.values())
            ),
            "encoding": header.encoding.settings,
            "features": list(targets.features),
            "seconds": time.perf_counter() - started,
        }


def _data_of_views(recipe: Recipe) -> RunData:
    """The data with the student's stored views."""
    use_threads(recipe.threads)
    return make_data(recipe, recipe.student.augment, STORE_SEED)


def _on_device(
    recipe: Recipe, folder: Path | None, material: RunData, one: OneOfSeveral | None = None
) -> tuple[LiveTeacher, torch.device]:
    """The teacher of a folder, or pretrained, on its device."""
    device = resolve_device(recipe.device)
    model = make_teacher(recipe, folder, material.train, one).to(device)
    live = live_teacher(recipe, model, folder)
    compare_accuracy(live, material.eval_dataset, folder)
    return live, device
