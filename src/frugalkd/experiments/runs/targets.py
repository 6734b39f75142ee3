"""The soft targets that a recipe asks for: live, from a store, or into one."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.utils import send_to_device
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.probe import streams_restored
from frugalkd.data.source import open_source
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import FrugalKDWarning, RankError, Stopped, TargetsError
from frugalkd.experiments.recipes.schema import Recipe, TargetsRole
from frugalkd.experiments.runs.folder import read_results, trained_in
from frugalkd.files.opening import named
from frugalkd.files.parsing import one_line
from frugalkd.models.identity import TORCH
from frugalkd.policies.policy import Ids
from frugalkd.runtime.devices import device_of
from frugalkd.selection.checks import labels_of
from frugalkd.teachers import FirstVisitTargets, LiveTeacher, StoredTargets, Targets
from frugalkd.teachers.about import describe_asking
from frugalkd.teachers.encodings import Dense, Encoding, make_encoding
from frugalkd.teachers.filling import Announce, Filler, Layout, fill, shards_of
from frugalkd.teachers.store import read_header

Progress = Callable[[str], None]
"""Receives, now and then, how far something is that comes before a training's epochs."""

_COMPARED, _FEWEST_COMPARED = 128, 32

STORE_SEED = 0
"""The seed of the views that stored targets speak of: one store serves students of every seed."""


def encoding_of(recipe: Recipe) -> Encoding:
    """The student's encoding; its temperature is the objective's."""
    targets = recipe.student.targets
    temperature = getattr(recipe.student.objective.build(), "temperature", None) or 1.0
    return make_encoding(targets.encoding, targets.k, temperature)


def ask_live(recipe: Recipe, model: nn.Module, teacher: Path | None) -> LiveTeacher:
    """``model`` asked in the precision and memory format in which it was trained: those that its
    folder says, or, for a pretrained one, the recipe."""
    said = recipe.teacher.training
    precision, channels_last = said.precision, said.channels_last
    if teacher is not None:
        precision, channels_last = trained_in(teacher) or (precision, channels_last)
    return LiveTeacher(model, precision=precision, channels_last=channels_last)


def compare_accuracy(live: LiveTeacher, eval_dataset: Dataset | None, folder: Path | None) -> None:
    """A FrugalKDWarning where the teacher of a run's ``folder`` finds less than half as many labels
    of some held-out samples as it found in its own run: classes of the same names may mean
    something else here. No query is counted."""
    if eval_dataset is None or folder is None or not (folder / "results.json").is_file():
        return
    labels, evaluation = labels_of(eval_dataset), read_results(folder).get("evaluation")
    known = evaluation.get("accuracy") if isinstance(evaluation, dict) else None
    if labels is None or len(labels) < _FEWEST_COMPARED or not isinstance(known, float):
        return
    ids = np.unique(np.linspace(0, len(labels) - 1, _COMPARED).astype(np.int64))
    with streams_restored(), open_source(eval_dataset) as source:
        batch = next(source.batches([(ids, np.zeros_like(ids))]))
    logits = live.look(send_to_device(batch, device_of(live.teacher)))
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
    live: LiveTeacher,
    data: Dataset,
    *,
    places: Sequence[Path],
    out: Path | None,
    ids: Ids | None,
    device: torch.device,
    spec: TargetsRole | None = None,
    name: str = "targets",
    kept: Callable[[], None] | None = None,
    progress: Progress | None = None,
    ranks: Ranks | None = None,
) -> Targets:
    """The soft targets of ``recipe.student.targets``. ``queries`` says for how many rows the
    teacher was queried here.

    Args:
        recipe: its student section counts.
        live: the teacher, on ``device``.
        data: what the student trains on.
        spec: in the place of ``recipe.student.targets``, where there are several teachers.
        name: of the folder in ``out`` that is filled at first visits.
        places: folders that may keep what is filled ahead, the first choice first: one that lacks
            some of it and cannot be written is passed over. There is one at least.
        out: the run's folder, which keeps what is filled at first visits.
        ids: the samples that may take part, None for all; the teacher runs on no others.
        device: where the teacher runs.
        progress: receives how far a filling ahead is, in words.
        kept, ranks: as of :meth:`StoredTargets.fill`.

    Raises:
        RankError: several ranks, and targets that are stored at first visits.
        TargetsError: as :meth:`StoredTargets.fill`.
    """
    spec = spec or recipe.student.targets
    if spec.kind != "stored":
        return live
    encoding = encoding_of(recipe)
    folder = None if spec.folder is None else named(spec.folder)
    if folder is not None:
        read_header(folder)  # a recipe names a store; it does not make one anywhere on the disk
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
        key = store_name(live, data, spec.views, encoding)
        found = [named(place) / key for place in places]
        serving = (where for where in found if _serves(where, ids, spec.views, spec.features))
        folder = next(serving, found[-1])

    def tell(done: int, total: int) -> None:
        if progress is not None:
            progress(f"storing soft targets, {done:,} of {total:,}")

    return StoredTargets.fill(
        live, data, folder, views=spec.views, encoding=encoding, features=spec.features, ids=ids,
        device=device, listener=tell, kept=kept, ranks=ranks,
    )  # fmt: skip


def held_out_logits(
    live: LiveTeacher,
    data: Dataset,
    places: Sequence[Path],
    device: torch.device,
    stop: Callable[[], bool] | None = None,
    ranks: Ranks | None = None,
) -> np.ndarray:
    """The teacher's logits float32 (samples, classes) on held-out data, kept in the first of
    ``places`` that has them or can be written. Several ``ranks`` compute them together.

    Raises:
        Stopped: ``stop``, asked after each batch, said so.
    """

    def heed(done: int, total: int) -> None:
        if stop is not None and stop():
            raise Stopped("stopped in an evaluation")

    encoding = Dense("float32")
    key = store_name(live, data, 1, encoding)
    found = [named(place) / key for place in places]
    where = next((where for where in found if _serves(where, None, 1)), None)
    return StoredTargets.fill(
        live, data, where, encoding=encoding, device=device, listener=heed, ranks=ranks
    ).all_logits()


def places_of(*folders: Path | None) -> list[Path]:
    """Those of the folders that there are, in which runs share what they make."""
    return [folder for folder in folders if folder is not None]


def store_name(live: LiveTeacher, data: Dataset, views: int, encoding: Encoding) -> str:
    """The name of the folder that keeps these targets: the same for all runs that read them."""
    about = describe_asking(live, data)
    del about[TORCH]
    said = {**about, "views": views, "encoding": encoding.settings}
    key = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
    return f"targets-{key}"


def _serves(where: Path, ids: Ids | None, views: int, features: Sequence[str] = ()) -> bool:
    """Whether a store at ``where`` has all that is needed, or can be filled: folders of others may
    be read-only."""
    if os.access(where if where.exists() else where.parent, os.W_OK):
        return True
    try:
        targets = StoredTargets(where)
        paths = targets.feature_shapes(features, None) if features else {}
    except TargetsError:
        return False
    stores = [targets.store, *(targets.features.stores[path] for path in paths)]
    ids = np.arange(targets.store.header.samples) if ids is None else ids
    rows = [(ids, np.full(len(ids), view)) for view in range(views)]
    return all(store.present(*each).all() for store in stores for each in rows)


def fill_shards(
    recipe: Recipe,
    live: LiveTeacher,
    data: Dataset,
    out: Path,
    *,
    ids: Ids | None,
    device: torch.device,
    shard: tuple[int, int] = (0, 1),
    announce: Announce | None = None,
    listener: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> dict[str, Any]:
    """Fill one of ``shard[1]`` shards of a store at ``out``, or with several ``ranks`` each its
    shards of all; returns what it has come to: ``asked`` and ``rows`` of ``of`` rows, ``bytes``,
    ``encoding``, ``features`` (the teacher's modules).

    Raises:
        TargetsError: ``out`` holds other targets, another process fills this shard, the disk is
            full.
    """
    (index, shards), out = shard, named(out)
    if not 0 <= index < shards:
        raise TargetsError(f"shard {index}/{shards}: give 0/N .. N-1/N")
    ranks, write = ranks or Ranks(), [index]
    if not ranks.alone:
        shards, write = shards_of(out, ranks)
    spec = recipe.student.targets
    layout = Layout(spec.views, encoding_of(recipe), shards, spec.features)
    filler = Filler(live, data, out, layout, write=write, announce=announce)
    try:
        fill(filler, data, ids=ids, device=device, listener=listener)
    finally:
        filler.close()
    asked = int(ranks.sum([live.queries])[0])  # once all are done
    targets = StoredTargets(out)
    header = targets.store.header
    return {
        "asked": asked,
        "rows": targets.store.count(),
        "of": header.samples * header.views,
        "bytes": header.disk_bytes + targets.features.disk_bytes,
        "encoding": header.encoding.settings,
        "features": list(targets.features.stores),
    }
