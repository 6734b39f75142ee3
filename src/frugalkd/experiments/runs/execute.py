"""Executing a recipe: teach, distill."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch.utils.data import Dataset

import frugalkd
from frugalkd.data import Samples
from frugalkd.data.class_names import class_names
from frugalkd.data.probe import digests_kept
from frugalkd.data.source import mixed_of
from frugalkd.distributed.launch import ranks_of
from frugalkd.errors import ModelError
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.folder import SCHEMA, RunFolder
from frugalkd.experiments.runs.from_recipe import (
    STORE_SEED,
    RunContext,
    data_digests,
    ids_used,
    make_data,
    make_model,
    refuse_other_data,
    sampling_of,
    with_path,
)
from frugalkd.experiments.runs.progress import Progress, features_progress
from frugalkd.experiments.runs.scores import scores_for
from frugalkd.experiments.runs.summary import Predicted, write_summary
from frugalkd.experiments.runs.targets import TeacherPool, sources_of
from frugalkd.experiments.runs.token_targets import token_encoding_of
from frugalkd.experiments.tracking.trackers import Tracked, Tracking, settings_of
from frugalkd.files.tensors import save_weights
from frugalkd.language.corpus import Corpus
from frugalkd.language.loss import check_token_objective
from frugalkd.language.models import CausalModel
from frugalkd.language.named import save_causal, tokenizer_of
from frugalkd.ledger.ledger import Ledger, ledger_file
from frugalkd.models.export import WEIGHTS
from frugalkd.models.identity import libraries_of, warn_of_torch
from frugalkd.models.saved import write_model_card
from frugalkd.objectives.criterion import check_paths
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import Ids, Sampling
from frugalkd.policies.replay import plans_digest, save_plan
from frugalkd.runtime.devices import resolve_device
from frugalkd.selection.checks import labels_of
from frugalkd.training.api import check_tokens, train_teacher
from frugalkd.training.api import distill as distill_model
from frugalkd.training.evaluation import predict
from frugalkd.training.heads import train_head
from frugalkd.training.run import Run
from frugalkd.training.settings import Listener, RunOptions, Stop

Train = Callable[[RunContext, dict[str, Any]], tuple[Run, dict[str, Any]]]
"""A training, from its keywords: the run, and notes for its results."""


def teach(
    recipe: Recipe,
    out: Path,
    *,
    resume: bool = False,
    on_epoch_end: Listener | None = None,
    progress: Progress | None = None,
    should_stop: Stop | None = None,
) -> dict[str, Any]:
    """Train the recipe's teacher into the folder ``out``; returns ``results.json``.

    A finished run is not run again. Processes that torchrun or accelerate launch started train it
    together, and the first of them writes the folder.

    Raises:
        FrugalKDError: with one line; see the subclasses.
    """
    role = recipe.teacher
    if role.weights is not None:
        raise ModelError(
            f"teacher.weights is {role.weights}, so that there is nothing to train: run 'frugalkd "
            "distill', which needs no --teacher, or set it to null"
        )

    def train(context: RunContext, keywords: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
        policy = role.policy.build()
        scores, scoring = scores_for(context, policy)
        data, fit = context.run_data.train, train_teacher
        model = make_model(role.model, data, recipe.seed)
        if role.trains == "head":
            fit = train_head
            if isinstance(data, Samples):
                data = data.without_augmentation()
        objective = role.objective.build()
        learns = "tokens" if isinstance(data, Corpus) else objective.learns
        dynamics = role.dynamics and OUTPUTS[learns].dynamics
        sampling = Sampling(
            policy=policy, scores=scores, dynamics=dynamics, class_weights=role.class_weights
        )
        run = fit(model, data, sampling=sampling, objective=objective, **keywords)
        notes = {"teacher": None, "targets": None, "scoring": scoring, "features": run.features}
        return run, notes

    options = RunOptions(
        resume=resume, on_epoch_end=on_epoch_end, should_stop=should_stop,
        on_progress=features_progress(progress),
    )  # fmt: skip
    return _execute("teach", recipe, out, train, options, progress=progress)


def distill(
    recipe: Recipe,
    out: Path,
    *,
    teacher: Path | None = None,
    ledger: Path | None = None,
    resume: bool = False,
    stores: Path | None = None,
    on_epoch_end: Listener | None = None,
    progress: Progress | None = None,
    should_stop: Stop | None = None,
    record_plans: bool = False,
) -> dict[str, Any]:
    """Distil the recipe's student into the folder ``out``; returns ``results.json``, as
    :func:`teach` does.

    Args:
        teacher: a folder made by :func:`teach`; without one the recipe's pretrained teacher.
        ledger: of significance, in place of the teacher's: a file, or the folder that holds it.
        resume: from a checkpoint in ``out``.
        stores: a folder that several runs share: it keeps the stored targets of pretrained
            teachers, and scores where there is no teacher's folder, in place of ``out``.
        on_epoch_end, should_stop: as in :class:`frugalkd.RunOptions`.
        progress: receives, in words, how far a scoring run or the filling of a store is.
        record_plans: keep each epoch's plan in ``out/plans``, for :class:`~.policies.Replay`.

    Raises:
        LedgerError: the mode weighs by significance and the teacher has no ledger.
        FrugalKDError: with one line; see the subclasses.
    """
    role = recipe.student

    def train(context: RunContext, keywords: dict[str, Any]) -> tuple[Run, dict[str, Any]]:
        objective, run_data = role.objective.build(), context.run_data
        sampling = sampling_of(recipe, teacher, run_data, ledger)
        scores, scoring = scores_for(context, sampling.policy)
        notes: dict[str, Any] = dict.fromkeys(("teacher", "targets", "features"))
        notes["scoring"] = scoring
        if isinstance(run_data.train, Corpus):  # refused before the teacher runs
            check_tokens(role.training, None, run_data.eval_dataset, run_data.train)
            if role.targets.kind == "stored":
                check_token_objective(objective, token_encoding_of(recipe))
        student = make_model(with_path(recipe, teacher), run_data.train, recipe.seed)
        check_paths(objective, student)
        keywords |= {"sampling": replace(sampling, scores=scores), "objective": objective}
        if not objective.needs_targets:
            return distill_model(student, run_data.train, teacher=None, **keywords), notes
        if isinstance(run_data.train, Corpus):  # measured once, beside the teacher, at the end
            held_out: Any = keywords.pop("eval_dataset")
            CausalModel(student, run_data.train.vocabulary).check(held_out or run_data.train)
        with TeacherPool(context, student, ids_used(sampling, run_data)) as pool:
            run = distill_model(student, run_data.train, teacher=pool.open(), **keywords)
        return run, notes | pool.conclude(run)

    options = RunOptions(resume=resume, on_epoch_end=on_epoch_end, should_stop=should_stop)
    return _execute(
        "distill", recipe, out, train, options, teacher=teacher, ledger=ledger, stores=stores,
        progress=progress, record_plans=record_plans,
    )  # fmt: skip


def _execute(
    kind: Literal["teach", "distill"],
    recipe: Recipe,
    out: Path,
    train: Train,
    given: RunOptions,
    *,
    progress: Progress | None,
    teacher: Path | None = None,
    ledger: Path | None = None,
    stores: Path | None = None,
    record_plans: bool = False,
) -> dict[str, Any]:
    """Claim the folder, train, and write the folder."""
    if ledger is not None:
        ledger = ledger_file(ledger)
        Ledger.load(ledger)  # refused before the folder is claimed
    digest = run_digest(kind, recipe, teacher, ledger)
    resolved = recipe.model_dump(mode="json")
    role, view_seed = recipe.teacher, recipe.seed
    if kind == "distill":
        role, sources = recipe.student, sources_of(recipe, teacher).values()
        if any(source.targets.kind == "stored" for source in sources):
            view_seed = STORE_SEED
    with (
        ranks_of(recipe.device, recipe.threads) as ranks,
        RunFolder(out, ranks.first) as folder,
        Tracking() as tracking,
        digests_kept(),
    ):
        done = ranks.from_first(lambda: folder.begin(digest, resolved, kind, given.resume))
        if done is not None:
            ranks.from_first(lambda: refuse_other_data(done, recipe, folder.path))
            with contextlib.suppress(KeyError, TypeError):
                warn_of_torch(done["versions"]["torch"], "this finished run")
            return done
        if ranks.first:
            _start_trackers(tracking, recipe, kind, digest, folder)
        run_data = make_data(recipe, role.augment, view_seed)
        data = data_digests(run_data)
        if kind == "distill" and isinstance(run_data.train, Corpus):
            drawn = run_data.train.drawn(recipe.student.positions, recipe.seed)
            run_data = replace(run_data, train=drawn)
        ranks.check_same_inputs(
            lambda: {"recipe": digest, "data": data["train"], "held-out data": data["held_out"]}
        )

        def log(record: dict[str, Any]) -> None:
            tracking.log(record)
            folder.append_metrics(record)
            if given.on_epoch_end is not None:
                given.on_epoch_end(record)

        on_plan = partial(save_plan, folder.plans) if record_plans else None
        keywords = {
            "training": role.training,
            "seed": recipe.seed,
            "eval_dataset": run_data.eval_dataset,
            "device": recipe.device,
            "run": replace(
                given, folder=folder.checkpoints, checkpointing=recipe.checkpoints,
                on_epoch_end=log, on_plan=on_plan,
            ),
        }  # fmt: skip
        context = RunContext(
            recipe, role, run_data, folder, teacher, stores, progress, given.should_stop
        )
        run, notes = train(context, keywords)
        samples, meters = len(run.ledger), run.meters.summary()
        epochs, train_data = role.training.epochs, run_data.train
        tokens = train_data.whole.rows if isinstance(train_data, Corpus) else None
        filling = (notes["targets"] or {}).get("filling") or {"rows": 0}
        results = {
            "schema": SCHEMA,
            "kind": kind,
            "digest": digest,
            "recipe": resolved,
            "data": data,
            "ranks": ranks.world,
            "versions": {
                "frugalkd": frugalkd.__version__,
                "torch": torch.__version__,
                "numpy": np.__version__,
                "python": platform.python_version(),
                "machine": platform.machine(),
            },
            "seed": recipe.seed,
            "threads": recipe.threads,
            "device": resolve_device(recipe.device).type,
            "split": run_data.split,
            "train_samples": samples,
            "epochs": run.ledger.epochs,
            "budget": meters["samples_backpropagated"] / (samples * epochs),
            "token_budget": None
            if tokens is None
            else meters["tokens_backpropagated"] / (tokens * epochs),
            "cost": run.meters.cost(samples, filled=filling["rows"]),
            "meters": meters,
            "evaluation": run.evaluation,
            "plans": plans_digest(folder.plans) if record_plans else None,
            **notes,
            "history": run.history,
        }

        def write() -> dict[str, Any]:
            weights = "teacher.safetensors" if kind == "teach" else "student.safetensors"
            if run.output == "tokens":
                weights, tokenizer = WEIGHTS, tokenizer_of(recipe.data.name, recipe.data.options)
                save_causal(folder.path, run.model, tokenizer)
            else:
                save_weights(folder.path / weights, run.model)
            run.ledger.save(folder.path / "ledger.safetensors")
            libraries = libraries_of(run.model)
            output = OUTPUTS[run.output]
            write_model_card(folder.path, role.model, run_data.train, weights, libraries, output)
            if run.projection is not None:
                save_weights(folder.path / "projection.safetensors", run.projection)
            write_summary(folder.path, kind, run.ledger, _predicted(run, run_data.train))
            tracking.conclude(results)
            folder.finish(results)
            return results

        return ranks.from_first(write)


def _predicted(run: Run, data: Dataset) -> Predicted | None:
    """Predictions for training samples, and their labels; None of one class, whose names say as
    much, without labels, and of data whose own views are mixed."""
    output = OUTPUTS[run.output]
    if output.by_top_class or output.by_loss or labels_of(data, output) is None:
        return None
    plain = data.without_augmentation() if isinstance(data, Samples) else data
    if mixed_of(plain) is not None:
        return None

    def predicted(ids: Ids) -> Any:
        names, found = class_names(data), predict(run.model, plain, ids=ids, output=output)
        return tuple([output.words(row, names) for row in part] for part in found)  # pyright: ignore

    return predicted


def _start_trackers(
    tracking: Tracking, recipe: Recipe, kind: str, digest: str, folder: RunFolder
) -> None:
    """Start the recipe's trackers; a resumed run continues in the tracker's own run."""
    if not recipe.trackers.chosen:
        return
    run = Tracked(recipe.name, folder.path.absolute().name, kind, folder.path)
    said = recipe.model_dump(mode="json", exclude={"arms", "teachers", "checkpoints", "trackers"})
    settings = settings_of({**said, "kind": kind, "digest": digest, "folder": str(folder.path)})
    trackers, known = recipe.trackers.chosen, folder.notes().trackers
    found = tracking.start(trackers, run, settings, known=known, before=folder.records)
    folder.note(trackers={**known, **found})
