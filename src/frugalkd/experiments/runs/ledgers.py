"""``frugalkd ledger make``: significance for a teacher that is trained already; and the names of a
ledger's samples."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest, names_of
from frugalkd.errors import DataError, LedgerError, SettingError
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.folder import MADE, SCHEMA, recipe_of
from frugalkd.experiments.runs.from_recipe import (
    STORE_SEED,
    data_of_run,
    make_data,
    make_teacher,
)
from frugalkd.experiments.runs.progress import Progress, features_progress
from frugalkd.experiments.runs.summary import write_summary
from frugalkd.files.opening import named
from frugalkd.files.writing import make_folder, write_json
from frugalkd.ledger.from_log import ledger_from_log
from frugalkd.ledger.ledger import Ledger, ledger_file
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Sampling, SelfRegulation
from frugalkd.runtime.devices import use_threads
from frugalkd.runtime.imports import Allowed
from frugalkd.selection.checks import labels_of
from frugalkd.training.heads import train_head
from frugalkd.training.settings import Listener, Optimizer, RunOptions, Schedule, Stop, Training

FILE = "ledger.safetensors"

HEAD = Training(
    epochs=20,
    batch_size=128,
    optimizer=Optimizer(name="adamw", lr=0.003, weight_decay=0.01),
    schedule=Schedule(shape="linear"),
)
"""The training of a head for its ledger alone."""

REACH, FASTEST = 0.05, HEAD.optimizer.lr
"""The largest learning rate x steps of an epoch, and the largest rate: Adam moves a weight by about
its rate in each step, and a head on many samples would learn before most were used once, which
gives them a significance of 0. Chosen by the rank correlation with full self-regulated training on
digits and Fashion-MNIST."""


def make_ledger(
    recipe: Recipe,
    out: Path,
    *,
    teacher: Path | None = None,
    log: Path | None = None,
    epochs: float | None = None,
    on_epoch_end: Listener | None = None,
    progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> dict[str, Any]:
    """Write ``out/ledger.safetensors``: from a self-regulated training of a new head alone, on the
    teacher's features; or, with ``log``, from a log of the teacher's own training. The gate is that
    of the recipe's teacher, where its policy is self-regulation, else the default.

    Args:
        teacher: the folder of the teacher; without one the recipe's pretrained teacher.
        log: a table of confidences, see :mod:`frugalkd.ledger.from_log`; no teacher is then needed.
        epochs: of the head's training; default that of ``HEAD``.
        on_epoch_end, should_stop: as in :class:`frugalkd.RunOptions`.
        progress: receives, in words, how far the features are.

    Returns:
        ``made`` (head, log), ``samples``, ``epochs``, ``took_part`` (samples of a significance
        above 0), ``mean_significance``, ``seconds`` and, of a head, its training's ``meters``.

    Raises:
        LedgerError: the log is damaged or of other data, or no sample or every sample was used.
        FrugalKDError: as in :func:`frugalkd.experiments.runs.execute.teach`.
    """
    started = time.perf_counter()
    use_threads(recipe.threads)
    data = make_data(recipe, None, STORE_SEED).train
    if recipe.reads_corpus:
        raise SettingError(
            "a ledger of a corpus's blocks is made by training: 'frugalkd teach', with "
            "teacher.policy self-regulation"
        )
    samples = len(data)  # pyright: ignore[reportArgumentType]
    output = OUTPUTS[recipe.teacher.objective.build().learns]
    if log is None and not output.by_top_class:
        raise SettingError(
            f"a new head is trained on classes, and teacher.objective learns {output.plural}: "
            "train the teacher with 'frugalkd teach', or give --log"
        )
    policy = recipe.teacher.policy.build()
    gate = policy if isinstance(policy, SelfRegulation) else SelfRegulation()
    made = "head" if log is None else "log"
    said: dict[str, Any] = {"schema": SCHEMA, "made": made}
    if log is not None:
        labels = labels_of(data, output) if output.by_top_class else None
        ledger = ledger_from_log(log, samples, confidence=gate.confidence, labels=labels)
        ledger.about |= {"data": data_digest(data), "policy": f"confidence {gate.confidence}"}
        if names := class_names(data):
            ledger.about["classes"] = "\n".join(names)
    else:
        training = replace(
            HEAD,
            epochs=HEAD.epochs if epochs is None else epochs,
            precision=recipe.teacher.training.precision,
            optimizer=replace(HEAD.optimizer, lr=_rate(samples)),
        )
        gate = replace(
            gate, warmup=0, final_full_epochs=0, budget=None, cost=None, ceiling=None,
            keep_probability=None,
        )  # fmt: skip
        run = train_head(
            make_teacher(recipe, teacher, data),
            data,
            sampling=Sampling(
                policy=gate, dynamics=True, class_weights=recipe.teacher.class_weights
            ),
            training=training,
            seed=recipe.seed,
            reset_head=True,
            device=recipe.device,
            run=RunOptions(
                on_epoch_end=on_epoch_end,
                should_stop=should_stop,
                on_progress=features_progress(progress),
            ),
        )
        ledger = run.ledger
        said |= {"training": asdict(training), "meters": run.meters.summary()}
    ledger.about["made"] = f"by 'frugalkd ledger make' from a {made}"
    significance = ledger.significance
    if not significance.any() or (significance == 1).all():
        which = "every sample was used" if significance.any() else "no sample was used"
        raise LedgerError(
            f"{which} in every epoch of this {made}, which gives no significance: set "
            "teacher.policy.confidence to another value"
        )
    out = named(out)
    make_folder(out)
    ledger.save(out / FILE)
    write_summary(out, "ledger", ledger)
    said |= {
        "samples": samples,
        "epochs": ledger.epochs,
        "policy": str(gate),
        "took_part": int(np.count_nonzero(significance)),
        "mean_significance": float(significance.mean()),
        "seconds": time.perf_counter() - started,
    }
    write_json(out / MADE, {**said, "recipe": recipe.model_dump(mode="json")})
    return said


def _rate(samples: int) -> float:
    return min(FASTEST, REACH / math.ceil(samples / HEAD.batch_size))


def names_of_run(
    path: Path, ledger: Ledger, allowed: Allowed, ids: Sequence[int] | None = None
) -> list[str]:
    """The names of the samples ``ids`` (None: all) in the data that a run's folder names; ``path``
    is the folder, or the file of ``ledger``. Raises what :func:`data_of_run` does, LedgerError for
    a ledger of other data, DataError where samples have no names."""
    folder = ledger_file(path).parent
    data = data_of_run(recipe_of(folder), f"the recipe in {folder}", allowed).train
    if data_digest(data) != ledger.about.get("data"):
        raise LedgerError(f"the data that the recipe in {folder} names are not those of the ledger")
    names = names_of(data, range(len(ledger)) if ids is None else ids)
    if names is None:
        raise DataError(
            f"the data that the recipe in {folder} names have no sample names: leave out --data"
        )
    return names
