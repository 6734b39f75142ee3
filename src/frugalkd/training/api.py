"""frugalkd from Python: train a teacher, distil a student."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, Optional

import torch
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest, digests_kept
from frugalkd.data.source import Collate, check_map_style
from frugalkd.distributed.ranks import Ranks, is_sharded
from frugalkd.errors import (
    DataError,
    NonFiniteLoss,
    RankError,
    SettingError,
    TargetsError,
)
from frugalkd.files import StrPath
from frugalkd.language.corpus import Corpus
from frugalkd.language.criterion import TokenCriterion, check_held_out_corpus, token_targets
from frugalkd.language.evaluation import measure_tokens
from frugalkd.language.loss import check_token_objective
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.flops import flops_of_call, flops_of_data, or_warned
from frugalkd.models.origin import note_origin, trained_on
from frugalkd.objectives import KD, CrossEntropy, Objective
from frugalkd.objectives.criterion import Criterion, bind
from frugalkd.outputs import OUTPUTS
from frugalkd.policies import All, Sampling
from frugalkd.runtime.devices import autocast, device_of
from frugalkd.runtime.failures import memory_for
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.selection import DataLoading, Selection
from frugalkd.selection.checks import (
    Forward,
    check_held_out,
    check_held_out_batch,
    check_pair,
    check_trainable,
    explained,
    labels_of,
    read_first,
)
from frugalkd.teachers import LiveTeacher, ModelTeacher, SeveralTeachers, Targets
from frugalkd.teachers.encodings import too_little
from frugalkd.training.checkpoints import describe_training
from frugalkd.training.evaluation import evaluate, predict
from frugalkd.training.fsdp import placed
from frugalkd.training.run import Run
from frugalkd.training.settings import RunOptions, Stop, Training
from frugalkd.training.trainer import ForwardFn, Trainer, accelerator_for


def train_teacher(
    model: nn.Module,
    dataset: Dataset,
    *,
    sampling: Sampling | None = None,
    objective: Objective | None = None,
    training: Training | None = None,
    eval_dataset: Dataset | None = None,
    collate_fn: Collate | None = None,
    seed: int = 0,
    device: str = "auto",
    run: RunOptions | None = None,
) -> Run:
    """Train ``model`` in place, by default under self-regulation.

    Args:
        model: any module that returns logits (rows, classes).
        dataset: map-style, of (inputs, class index).
        sampling: which samples are used and what they weigh; default: mode *regulated*.
            ``Sampling(policy=All())`` trains conventionally.
        objective: default cross-entropy.
        training: epochs, batch size, optimiser, schedule, precision.
        eval_dataset: data to measure the trained model on.
        collate_fn: as in torch's DataLoader.
        seed: of the order of samples and of dropout. The model's initial weights are the caller's.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        run: where checkpoints are saved, whether to resume, and functions to call.

    Returns:
        The run: the model, and the ledger whose ``significance`` is the fraction of epochs that
        used a sample.

    Raises:
        UnsupportedData: iterable data, or labels that are not class indices.
        NonFiniteLoss: the training diverged.
        RunFolderError: the checkpoint to resume from is of another training: other data, another
            policy, objective or setting.
        RankError: ranks differ in data, held-out data, settings or the model (except its weights,
            which are the first rank's), or ``training.fsdp`` cannot shard the model.
        Stopped: ``run.should_stop`` returned True.
    """
    objective = CrossEntropy() if objective is None else objective
    return distill(
        model, dataset, teacher=None, sampling=sampling, objective=objective, training=training,
        eval_dataset=eval_dataset, collate_fn=collate_fn, seed=seed, device=device, run=run,
    )  # fmt: skip


@digests_kept()
def distill(
    student: nn.Module,
    dataset: Dataset,
    *,
    teacher: nn.Module | Targets | Sequence[nn.Module | Targets] | None,
    cost: float | None = None,
    sampling: Sampling | None = None,
    objective: Objective | None = None,
    training: Training | None = None,
    eval_dataset: Dataset | None = None,
    collate_fn: Collate | None = None,
    seed: int = 0,
    device: str = "auto",
    run: RunOptions | None = None,
) -> Run:
    """Distil ``student`` in place from ``teacher``.

    Args:
        student: any module that returns logits (rows, classes), or, where the objective learns
            these, embeddings (rows, width).
        dataset: map-style, of (inputs, class index), or of inputs alone: the teacher's top class
            then stands in for the label. Of embeddings no label is read. A
            :class:`~frugalkd.language.Corpus` for a causal language model of transformers.
        teacher: a model (run live), soft targets of one or of several, a list of these (their
            mean), or None with an objective that needs none. Of a corpus a causal language model,
            LiveTokens or StoredTokens.
        cost: short for ``sampling=Sampling(cost=cost)``, or for the ``cost`` of a sampling that has
            none: what the training may cost, as a fraction of full training.
        objective: default ``KD()``: T = 4, alpha = 0.9; of a corpus T = 1.
        sampling, training, eval_dataset, collate_fn, seed, device, run: as in
            :func:`train_teacher`.

    Raises:
        SettingError: both ``cost`` and ``sampling`` limit the cost, or it cannot be limited.
        LedgerError: the mode's ledger is of other data, or holds no significance.
        TargetsError: the objective needs a teacher and there is none, or the stored targets are of
            other data or another augmentation, or keep less of the teacher than the objective
            reads.
        SelectionMisuse: what needs a label, where ``sampling.label_free`` reads none, or what
            needs classes, where the objective learns something else.
        ObjectiveError: the objective learns embeddings and couples the rows of a batch.
        UnsupportedData, NonFiniteLoss, RunFolderError, RankError, Stopped: as in
            :func:`train_teacher`.
    """
    corpus = dataset if isinstance(dataset, Corpus) else None
    if objective is None:
        objective = KD() if corpus is None else KD(temperature=1.0)
    check_types(objective=(objective, Objective))
    sampling = with_output_of(sampling, objective, dataset)
    training = Training() if training is None else training
    run = RunOptions() if run is None else run
    if isinstance(teacher, Sequence) and not isinstance(teacher, str) and corpus is None:
        teacher = SeveralTeachers(teacher)
    targets: Any = teacher
    if corpus is None and isinstance(teacher, nn.Module):
        targets = LiveTeacher(teacher)
    check_types(
        training=(training, Training), run=(run, RunOptions),
        collate_fn=(collate_fn, Optional[Callable]),  # noqa: UP045
        teacher=(targets, nn.Module | Targets | list | None),
    )  # fmt: skip
    sampling = sampling.at_cost(cost)
    seed = check_seed(seed)
    check_trainable(student, classifier=corpus is None)
    if corpus is None:
        check_soft_targets(targets, objective)
    else:
        check_tokens(training, collate_fn, eval_dataset, corpus)
        precision = training.precision
        targets = token_targets(targets, corpus, student=student, precision=precision)
        check_token_objective(objective, targets)
    check_map_style(dataset)
    if eval_dataset is not None:
        check_map_style(eval_dataset)
        check_held_out(dataset, eval_dataset)
    compared = teacher if isinstance(teacher, nn.Module) else None
    live = {} if targets is None else targets.live_teachers
    for each in live.values():
        check_pair(student, each.teacher)
    if not objective.needs_targets:
        targets, live = None, {}
    if is_sharded(student):
        raise RankError(
            "give the model unsharded, and set training.fsdp: it is then sharded over the ranks"
        )
    accelerator, ranks = accelerator_for(training.precision, device), Ranks.here()
    about = {}
    if run.folder is not None or not ranks.alone:
        about = describe_training(
            student, training, dataset=dataset, sampling=sampling, objective=objective,
            targets=targets, teacher=compared,
        )  # fmt: skip
    ranks.check_same_inputs(
        lambda: {
            **about,
            "seed": seed,
            "model": (about["model"], {k: v.shape for k, v in student.state_dict().items()}),
            "held-out data": eval_dataset is None or data_digest(eval_dataset),
            "training.fsdp": training.fsdp,
            "checkpoints": (run.folder is not None, run.resume),
        }
    )
    advice = "lower training.batch_size or training.screen_batch"
    if training.precision != "bf16":
        advice += ", or set precision: bf16"
    rows = f"batches of {training.batch_size} (screenings of {training.screen_batch})"
    with (
        memory_for(rows, advice),
        placed(student, targets, training, accelerator.device, ranks) as (model, take_back),
    ):
        forward, tokens = ForwardFn(model, training, accelerator), None
        eagerly: Forward = forward.eagerly
        if corpus is not None:
            tokens = TokenCriterion(objective, model, corpus)
            eagerly = partial(tokens.outcomes, forward)
            if isinstance(eval_dataset, Corpus):
                tokens.model.check(eval_dataset)
        output = OUTPUTS[sampling.output]
        labels = labels_of(dataset, output)
        loading = DataLoading(
            collate_fn=collate_fn, device=accelerator.device, num_workers=training.num_workers,
            pin_memory=accelerator.device.type == "cuda", drop_last=training.drop_last,
            length_bucket_batches=training.length_bucket_batches,
            gradient_accumulation_steps=training.gradient_accumulation_steps,
            screen_batch=training.screen_batch,
        )  # fmt: skip
        selection = new_selection(
            dataset=dataset, sampling=sampling, epochs=training.epochs,
            batch_size=training.batch_size, model=model,
            forward=forward if tokens is None else eagerly, targets=targets,
            seed=seed, loading=loading, labels=labels, folder=run.folder,
        )  # fmt: skip
        classes = selection.check_first_batch(eagerly)
        at: dict[str, Any] = {
            "forward": eagerly, "device": accelerator.device, "collate_fn": collate_fn,
            "output": output,
        }  # fmt: skip
        if eval_dataset is not None:
            check_held_out_batch(model, eval_dataset, **at)
        criterion = tokens or bind(
            objective, model, targets, forward=eagerly, seed=seed,
            batch=lambda: read_first(dataset, selection.pool, accelerator.device, collate_fn),
            samples=len(selection.ledger),
            labels=labels if output.by_top_class and not sampling.label_free else None,
        )  # fmt: skip
        torch.manual_seed(seed + ranks.rank)
        trainer = Trainer(model, selection, criterion, training, accelerator, run, about)
        try:
            with criterion:
                if run.resume:
                    trainer.resume()
                history = trainer.fit()
                take_back()
        except NonFiniteLoss as error:
            raise explained(error, model, dataset, targets, **at) from None
        finally:
            selection.source.close()
        done = Run(
            model, selection.ledger, selection.meters, selection.budget, history,
            projection=criterion.projection, output=sampling.output,
        )  # fmt: skip
        if eval_dataset is not None:
            if compared is not None:  # a teacher that was not queried is still compared with
                compared = live["teacher"].teacher if live else compared.to(accelerator.device)
            _measure(
                done, compared, eval_dataset, training,
                collate_fn=collate_fn, should_stop=trainer.should_stop, ranks=ranks,
            )  # fmt: skip
    done.model = student.eval()
    known = trained_on(dataset)
    note_origin(student, **(known if output.labelled else {**known, "classes": ()}))
    done.meters.flops = ranks.from_first(
        lambda: _flops(
            done, dataset, live, criterion, training,
            classes=classes, pool=len(selection.pool), collate_fn=collate_fn,
        )
    )  # fmt: skip
    return done


def _measure(
    done: Run,
    teacher: nn.Module | None,
    held_out: Any,
    training: Training,
    *,
    collate_fn: Collate | None,
    should_stop: Stop,
    ranks: Ranks,
) -> None:
    """Enter what the trained model is on held-out data, beside a teacher where there is one."""
    precision = training.precision
    if isinstance(held_out, Corpus):
        started = time.perf_counter()
        done.evaluation = measure_tokens(
            done.model, held_out, teacher, precision=precision, should_stop=should_stop
        )
        done.meters.eval_seconds += time.perf_counter() - started
        return
    predictions: Any = partial(
        predict, precision=precision, num_workers=training.num_workers,
        output=OUTPUTS[done.output], collate_fn=collate_fn, should_stop=should_stop, ranks=ranks,
    )  # fmt: skip
    evaluate(done, teacher, held_out, predictions)


def _flops(
    done: Run,
    dataset: Dataset,
    live: Mapping[str, ModelTeacher],
    criterion: Criterion,
    training: Training,
    *,
    classes: int,
    pool: int,
    collate_fn: Collate | None,
) -> dict[str, float]:
    """Operations of the training by what made them; a FrugalKDWarning where some are unknown."""
    student, meters, counted = done.model, done.meters, dict[str, float]()
    device = device_of(student)
    with or_warned("not all operations are counted"):
        precision = partial(autocast, student, training.precision)
        row = flops_of_data(student, dataset, device, collate_fn, precision)
        counted["student_forward"] = row["forward"] * meters.student_forwards
        counted["student_backward"] = row["backward"] * meters.samples_backpropagated
        if live:
            counted["teacher_forward"] = teacher_flops(live, dataset, meters, collate_fn)
        if len(criterion.parts) or criterion.features:
            rows = min(training.batch_size, pool)
            for way, each in criterion.flops_per_row(rows, classes, device).items():
                counted[f"objective_{way}"] = each * meters.samples_backpropagated
    return counted


def check_tokens(
    training: Training, collate_fn: object, eval_dataset: object, corpus: Corpus
) -> None:
    """Raises what says why a language model cannot be trained so: SettingError, UnsupportedData."""
    for name in ("compile", "fsdp", "channels_last"):
        if getattr(training, name):
            raise SettingError(
                f"training.{name} is not supported for language models: leave it out"
            )
    if collate_fn is not None:
        raise SettingError("a Corpus makes its batches itself: leave collate_fn out")
    check_held_out_corpus(eval_dataset, corpus)


def with_output_of(
    sampling: Sampling | None, objective: Objective | None, dataset: object = None
) -> Sampling:
    """``sampling`` (default: a mode's, of a corpus all blocks) for the kind of output that
    ``objective`` learns from ``dataset``. Raises SettingError where it names another kind."""
    tokens = isinstance(dataset, Corpus)
    if sampling is None:
        sampling = Sampling(policy=All()) if tokens else Sampling()
    check_types(sampling=(sampling, Sampling), objective=(objective, Objective | None))
    learns = sampling.output
    if tokens or objective is not None:
        learns = "tokens" if tokens else objective.learns  # pyright: ignore
    if OUTPUTS[learns].by_loop or OUTPUTS[sampling.output].by_loop:
        raise SettingError("distances are for a loop of your own, over a frugalkd.Selection")
    if sampling.output not in ("one-class", learns):
        raise SettingError(
            f"sampling.output is {sampling.output}, and {type(objective or dataset).__name__} "
            f"learns {learns}: leave output out"
        )
    return replace(sampling, output=learns)


def new_selection(
    dataset: Dataset,
    *,
    sampling: Sampling,
    loading: DataLoading,
    labels: NDArray[Any] | None,
    folder: StrPath | None = None,
    **more: Any,
) -> Selection:
    """A :class:`Selection` with a new ledger in ``folder``, which keeps ``labels`` that are one
    class a sample."""
    targets = more.get("targets")
    sampling = sampling.fitted(targets)
    policy = sampling.chosen_policy
    # The digest reads the data, before memory is reserved for all of them.
    about = {"data": data_digest(dataset), "policy": str(policy)}
    if names := class_names(dataset):
        about["classes"] = "\n".join(names)
    samples = len(dataset)  # pyright: ignore[reportArgumentType]
    if sampling.label_free or not OUTPUTS[sampling.output].by_top_class:
        labels = None
    ledger = Ledger.new(
        samples, labels=labels, extra=policy.columns, folder=folder, dynamics=sampling.dynamics
    )
    selection = Selection(dataset, sampling=sampling, ledger=ledger, loading=loading, **more)
    ledger.about = about
    if loading.drop_last and len(selection.pool) < selection.batch_size:
        raise DataError(
            f"drop_last leaves nothing of {len(selection.pool)} samples in batches of "
            f"{selection.batch_size}: lower the batch size, or set drop_last to false"
        )
    return selection


def check_soft_targets(targets: Targets | None, objective: Objective) -> None:
    """Refuse an objective without the teacher that it needs, targets that keep less of the teacher
    than it reads, or that are the teacher's at another temperature than the objective's."""
    if not objective.needs_targets:
        return
    if targets is None:
        raise TargetsError(
            f"{type(objective).__name__} needs a teacher: pass teacher=, or CrossEntropy() to do "
            "without"
        )
    if targets.keeps < objective.reads:
        raise TargetsError(too_little(type(objective).__name__, objective.reads, targets.keeps))
    own = getattr(objective, "temperature", None)
    if targets.temperature is not None and own != targets.temperature:
        raise TargetsError(
            f"these soft targets were stored for temperature {targets.temperature:g}, the "
            f"objective's is {'none' if own is None else own}: fill a store for it, or set "
            "targets.encoding to float16"
        )


def teacher_flops(
    live: Mapping[str, ModelTeacher],
    dataset: Dataset,
    meters: Meters,
    collate_fn: Collate | None = None,
) -> float:
    """Operations of all rows that ``live`` teachers ran, as ``meters`` count them."""
    total = 0.0
    for name, each in live.items():
        rows = meters.queries_of.get(name, 0) if meters.queries_of else meters.teacher_queries
        where = dataset, device_of(each.teacher), collate_fn
        if each.own_forward:
            total += rows * flops_of_call(each.run, *where)
        else:
            row = flops_of_data(each.teacher, *where, each.autocast, backward=False)
            total += rows * row["forward"]
    return total
