"""The scores that a recipe's policy needs: computed once, and kept for every student."""

from __future__ import annotations

import hashlib
import os
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from frugalkd.data.images import Pictures
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import RunFolderError, Stopped
from frugalkd.experiments.recipes.schema import Recipe, Role
from frugalkd.experiments.runs.digest import digest_of
from frugalkd.experiments.runs.material import STORE_SEED, RunContext, make_model, places_of
from frugalkd.experiments.scoring import score
from frugalkd.files.arrays import load_arrays, save_arrays
from frugalkd.files.lock import Lock
from frugalkd.files.opening import named
from frugalkd.files.writing import make_folder, sweep
from frugalkd.policies import Policy, Scoring
from frugalkd.runtime.devices import resolve_device
from frugalkd.teachers.live import describe
from frugalkd.training.settings import Stop

FILE = "scores.safetensors"
SCHEMA = 1
_COUNTS = ("samples_backpropagated", "student_forwards")
_AGAIN = "delete it: the scoring run is then made again"


@dataclass(frozen=True)
class Scores:
    """The result of a scoring run: finite ``values`` float32 (samples,), and the summary of its
    ``meters``."""

    values: NDArray[np.float32]
    meters: dict[str, Any]

    def save(self, path: Path, made_of: dict[str, Any]) -> None:
        """Write a file; ``made_of`` is all that decides the scores. Raises WriteFailed."""
        about = {"schema": SCHEMA, "made_of": made_of, "meters": self.meters}
        save_arrays(path, "scores", {"score": self.values}, about)

    @classmethod
    def load(cls, path: Path, made_of: dict[str, Any], samples: int) -> Scores:
        """Read a file. Raises RunFolderError if it is damaged, or of another scoring run."""
        arrays, about = load_arrays(
            path, "scores", what="file of scores", schema=SCHEMA, error=RunFolderError, again=_AGAIN
        )
        if about.get("made_of") != made_of:
            raise RunFolderError(f"{path} holds the scores of another scoring run: {_AGAIN}")
        values, meters = arrays.get("score"), about.get("meters")
        if (
            values is not None
            and values.dtype == np.float32
            and values.shape == (samples,)
            and np.isfinite(values).all()
            and isinstance(meters, dict)
            and type(meters.get("wall_seconds")) is float
            and all(type(meters.get(name)) is int for name in _COUNTS)
        ):
            return cls(values, meters)
        raise RunFolderError(
            f"{path} is damaged: {samples} scores and their cost are not there; {_AGAIN}"
        )


def scores_for(
    run: RunContext, policy: Policy | None
) -> tuple[NDArray[np.float32] | None, dict[str, Any] | None]:
    """The scores that ``policy`` needs, and their note for the results; None where it needs none.

    They are kept in the first of the teacher's folder, ``stores`` and the run's folder that exists
    and can be written. They do not depend on the recipe's seed: students of all seeds share them.
    Of two processes that need the same, one computes them and the other waits; a scoring run that
    was stopped or killed starts again. Its model and training are those of the run's role.

    Raises:
        RunFolderError: a file of scores is damaged.
        WriteFailed: they cannot be kept.
        Stopped: ``run.should_stop`` returned True.
    """
    if policy is None or policy.scoring is None:
        return None, None
    data = run.material.train
    if isinstance(data, Pictures):
        data = data.with_augmentation(data.augmentation, STORE_SEED)
    made_of = _made_of(run.recipe, run.role, policy.scoring, data)
    where = _place(
        f"scores-{digest_of(made_of)[:16]}", places_of(run.teacher, run.stores), run.folder.path
    )
    ranks = Ranks.here()
    with ExitStack() as held:

        def lacking() -> bool:
            """Whether the scores have to be computed by this process, which then has the lock."""
            if (where / FILE).exists():
                return False
            make_folder(where)
            held.callback(_locked(where, run.should_stop).release)
            sweep(where)
            return not (where / FILE).exists()

        if ranks.from_first(lacking):
            made = _compute(run, policy.scoring, data)
            if ranks.first:
                run.folder.note_scoring()
                made.save(where / FILE, made_of)
            ranks.wait()
    scores = Scores.load(where / FILE, made_of, len(data))  # pyright: ignore[reportArgumentType]
    return scores.values, {
        **asdict(policy.scoring),
        **{name: scores.meters[name] for name in (*_COUNTS, "wall_seconds")},
        "made_here": run.folder.scored,
        "file": f"{where.name}/{FILE}",
        "digest": hashlib.sha256(scores.values.tobytes()).hexdigest(),
    }


def _made_of(recipe: Recipe, role: Role, scoring: Scoring, data: Dataset) -> dict[str, Any]:
    """All that decides the scores, plain values: neither the objective nor the teacher."""
    training = role.model_dump(mode="json")["training"]
    del training["epochs"], training["fsdp"]
    return {
        "scoring": asdict(scoring),
        "seed": STORE_SEED,
        "model": role.model.model_dump(mode="json"),
        "training": training,
        "data": recipe.data.model_dump(mode="json", exclude={"root"}),
        "threads": recipe.threads,
        "device": resolve_device(recipe.device).type,
        **describe(None, data),
    }


def _place(name: str, shared: list[Path], run: Path) -> Path:
    """The folder ``name`` that has the file, or can be written: shared folders may be read-only."""
    for place in shared:
        kept = named(place) / name
        if (kept / FILE).exists() or os.access(kept if kept.exists() else place, os.W_OK):
            return kept
    return named(run) / name


def _locked(folder: Path, should_stop: Stop | None) -> Lock:
    """The lock of the folder, once no other process holds it."""
    while True:
        try:
            return Lock(folder)
        except RunFolderError:
            if should_stop is not None and should_stop():
                raise Stopped(f"stopped while another process makes {folder / FILE}") from None
            time.sleep(0.1)


def _compute(run: RunContext, scoring: Scoring, data: Dataset) -> Scores:
    trainings = 0

    def report(record: dict[str, Any]) -> None:
        nonlocal trainings
        trainings += record["epoch"] == 0
        if run.progress is not None:
            epoch = f"epoch {record['epoch'] + 1} of {scoring.epochs:g}"
            run.progress(f"scoring run ({scoring.kind}), training {trainings}, {epoch}")

    values, meters = score(
        scoring, lambda seed: make_model(run.role.model, data, seed), data,
        training=run.role.training, seed=STORE_SEED, device=run.recipe.device, on_epoch_end=report,
        should_stop=run.should_stop,
    )  # fmt: skip
    return Scores(values, meters.summary())
