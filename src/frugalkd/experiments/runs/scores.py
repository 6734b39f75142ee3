"""The scores that a recipe's policy needs: computed once, and kept for every student."""

from __future__ import annotations

import hashlib
import math
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from frugalkd.data.images import Pictures
from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import RunFolderError
from frugalkd.experiments.recipes.schema import Recipe, Role
from frugalkd.experiments.runs.digest import digest_of, resolve_model
from frugalkd.experiments.runs.from_recipe import STORE_SEED, RunContext, make_model, place_for
from frugalkd.experiments.runs.progress import Eta
from frugalkd.experiments.scoring import score, trainings
from frugalkd.files.arrays import load_arrays, save_arrays
from frugalkd.files.lock import Lock
from frugalkd.files.writing import make_folder, sweep
from frugalkd.policies import Policy, Scoring
from frugalkd.runtime.devices import resolve_device
from frugalkd.runtime.meters import Meters
from frugalkd.teachers.live import describe

FILE = "scores.safetensors"
SCHEMA = 1
_COST = ("samples_backpropagated", "student_forwards", "wall_seconds")
_AGAIN = "delete it: the scoring run is then made again"


def load_scores(
    path: Path, made_of: dict[str, Any] | None = None
) -> tuple[NDArray[np.float32], dict[str, Any]]:
    """The scores (samples,) in a file, and their cost by meter. Raises RunFolderError, also where
    something else than ``made_of`` decided them."""
    arrays, about = load_arrays(
        path, "scores", what="file of scores", schema=SCHEMA, error=RunFolderError, again=_AGAIN
    )
    if made_of is not None and about.get("made_of") != made_of:
        raise RunFolderError(f"{path} holds the scores of another scoring run: {_AGAIN}")
    try:
        return arrays["score"], {name: about["meters"][name] for name in _COST}
    except (KeyError, TypeError):
        raise RunFolderError(
            f"{path} is damaged: it lacks scores or their cost; {_AGAIN}"
        ) from None


def scores_for(
    run: RunContext, policy: Policy | None
) -> tuple[NDArray[np.float32] | None, dict[str, Any] | None]:
    """The scores that ``policy`` needs, and their note for the results; None where it needs none.

    They are kept in the first of the teacher's folder, ``stores`` and the run's folder that can be
    written, and do not depend on the recipe's seed: students of all seeds share them. Of two
    processes that need the same, one computes them and the other waits. Model and training are
    those of the run's role. Raises RunFolderError: a file of scores is damaged; WriteFailed;
    Stopped.
    """
    if policy is None or policy.scoring is None:
        return None, None
    data = run.run_data.train
    if isinstance(data, Pictures):
        data = data.with_augmentation(data.augmentation, STORE_SEED)
    made_of = _made_of(run.recipe, run.role, policy.scoring, data)
    name = f"scores-{digest_of(made_of)[:16]}"
    places = [run.teacher, run.stores, run.folder.path]
    where = place_for(name, places, lambda kept: (kept / FILE).exists())
    assert where is not None, "the run's own folder can be written"
    file, ranks = where / FILE, Ranks.here()
    with ExitStack() as held:

        def lacking() -> bool:
            """Whether the scores have to be computed by this process, which then has the lock."""
            if file.exists():
                return False
            make_folder(where)
            held.enter_context(Lock(where, wait=True))
            sweep(where)
            return not file.exists()

        if ranks.from_first(lacking):
            scores, meters = _compute(run, policy.scoring, data)
            if ranks.first:
                run.folder.note(scored=True)
                about = {"schema": SCHEMA, "made_of": made_of, "meters": meters.summary()}
                save_arrays(file, "scores", {"score": scores}, about)
            ranks.wait()
    scores, cost = load_scores(file, made_of)
    return scores, {
        **asdict(policy.scoring),
        **cost,
        "made_here": run.folder.notes().scored,
        "file": f"{where.name}/{FILE}",
        "digest": hashlib.sha256(scores.tobytes()).hexdigest(),
    }


def _made_of(recipe: Recipe, role: Role, scoring: Scoring, data: Dataset) -> dict[str, Any]:
    """All that decides the scores, plain values: neither the objective nor the teacher."""
    training = role.model_dump(mode="json")["training"]
    del training["epochs"], training["fsdp"]
    model = role.model.model_dump(mode="json")
    path = model["options"].get("path")  # others have no files; their libraries were in no scores
    if model["init_weights"] or (isinstance(path, str) and Path(path).is_dir()):
        resolve_model(model)
    return {
        "scoring": asdict(scoring),
        "seed": STORE_SEED,
        "model": model,
        "training": training,
        "data": recipe.data.model_dump(mode="json", exclude={"root"}),
        "threads": recipe.threads,
        "device": resolve_device(recipe.device).type,
        **describe(None, data),
    }


def _compute(
    run: RunContext, scoring: Scoring, data: Dataset
) -> tuple[NDArray[np.float32], Meters]:
    begun, eta = 0, Eta(run.progress)
    each, count = math.ceil(scoring.epochs), trainings(scoring)

    def report(record: dict[str, Any]) -> None:
        nonlocal begun
        begun += record["epoch"] == 0
        epoch = record["epoch"] + 1
        said = f"scoring run ({scoring.kind}), training {begun}"
        said += f" of {count}" if count > 1 else ""
        done = each * (begun - 1) + epoch
        eta(f"{said}, epoch {epoch} of {scoring.epochs:g}", done, each * count)

    return score(
        scoring, lambda seed: make_model(run.role.model, data, seed), data,
        training=run.role.training, seed=STORE_SEED, device=run.recipe.device, on_epoch_end=report,
        should_stop=run.should_stop,
    )  # fmt: skip
