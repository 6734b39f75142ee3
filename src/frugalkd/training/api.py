"""frugalkd from Python: train a teacher, distil a student."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Optional

import numpy as np
import torch
from accelerate import Accelerator
from numpy.typing import NDArray
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest, digests_kept
from frugalkd.data.source import Collate, check_map_style
from frugalkd.distributed.ranks import Ranks, is_sharded
from frugalkd.errors import (
    DataError,
    ModelError,
    NonFiniteLoss,
    RankError,
    TargetsError,
)
from frugalkd.files import StrPath, path_of
from frugalkd.ledger.ledger import Ledger
from frugalkd.models.flops import flops_of_call, flops_of_data
from frugalkd.models.origin import note_origin, trained_on
from frugalkd.objectives import KD, CrossEntropy, Objective
from frugalkd.objectives.criterion import bind
from frugalkd.policies import All, Policy, Sampling, SelfRegulation
from frugalkd.policies.modes import ModeName
from frugalkd.policies.policy import check_kind
from frugalkd.runtime.devices import autocast, device_of
from frugalkd.runtime.failures import memory_for
from frugalkd.runtime.meters import Meters
from frugalkd.runtime.settings import check_seed, check_types
from frugalkd.selection import DataLoading, Selection
from frugalkd.selection.checks import (
    check_first_batch,
    check_held_out,
    check_pair,
    check_trainable,
    explained,
    labels_of,
    look_at_held_out,
    of_held_out,
    read_first,
)
from frugalkd.selection.inputs import weights_of
from frugalkd.teachers import LiveTeacher, SeveralTeachers, Targets
from frugalkd.teachers.fidelity import too_little
from frugalkd.training.checkpoints import Checkpoints
from frugalkd.training.evaluation import measure, predict
from frugalkd.training.fsdp import placed
from frugalkd.training.resuming import describe_training
from frugalkd.training.settings import Checkpointing, Training
from frugalkd.training.trainer import ForwardFn, Listener, Run, Trainer, accelerator_for

Stop = Callable[[], bool]


@digests_kept()
def train_teacher(
    model: nn.Module,
    data: Dataset,
    *,
    policy: Policy | None = None,
    scores: NDArray[np.float32] | None = None,
    objective: Objective | None = None,
    training: Training | None = None,
    seed: int = 0,
    eval_dataset: Dataset | None = None,
    device: str = "auto",
    collate_fn: Collate | None = None,
    checkpoints: StrPath | None = None,
    checkpointing: Checkpointing | None = None,
    resume: bool = False,
    listener: Listener | None = None,
    stop: Stop | None = None,
) -> Run:
    """Train ``model`` in place, by default under self-regulation.

    Args:
        model: any module that returns logits (rows, classes).
        data: a map-style data set of (inputs, class index).
        policy: who takes part; default ``SelfRegulation()``, ``All()`` trains conventionally.
        scores: float32 (samples,), for a policy that needs them:
            :func:`frugalkd.experiments.scoring.score` makes them.
        objective: default cross-entropy.
        training: epochs, batch size, optimiser, schedule, precision.
        seed: of the order of samples and of dropout. The model's first weights are the caller's.
        eval_dataset: data to measure the trained model on.
        device: ``auto``, ``cpu``, ``cuda`` or ``mps``.
        collate: how samples become a batch, as in torch's DataLoader.
        checkpoints: a folder for checkpoints.
        checkpointing: when to write them; default after each epoch and every ten minutes.
        resume: go on from the newest checkpoint there, which has to be of this very training.
        listener: told of each epoch's record.
        stop: asked after each step and each look, in the evaluation too; where it says True there
            is a checkpoint to go on from, and Stopped is raised.

    Returns:
        The run: the model, and the ledger whose ``significance`` says who took part how often.

    Raises:
        UnsupportedData: iterable data, or labels that are not class indices.
        NonFiniteLoss: the training diverged.
        RunFolderError: the checkpoint to go on from is of another training: other data, another
            policy, objective or setting.
        RankError: ranks differ in data, held-out data, settings or the model (of its weights the
            first rank's count), or ``training.fsdp`` asks for what cannot be cut.
        Stopped: ``stop`` said so.
    """
    return _train(
        model,
        data,
        policy=SelfRegulation() if policy is None else policy,
        weights=None,
        scores=scores,
        targets=None,
        teacher=None,
        objective=CrossEntropy() if objective is None else objective,
        label_free=False,
        training=Training() if training is None else training,
        seed=seed,
        eval_dataset=eval_dataset,
        device=device,
        collate_fn=collate_fn,
        checkpoints=checkpoints,
        checkpointing=checkpointing,
        resume=resume,
        listener=listener,
        stop=stop,
    )


@digests_kept()
def distill(
    student: nn.Module,
    data: Dataset,
    *,
    teacher: nn.Module | Targets | Sequence[nn.Module | Targets] | None,
    mode: ModeName | None = None,
    ledger: Ledger | None = None,
    regulation: SelfRegulation | None = None,
    gamma: float = 1.0,
    policy: Policy | None = None,
    weights: NDArray[np.float32] | None = None,
    scores: NDArray[np.float32] | None = None,
    objective: Objective | None = None,
    label_free: bool = False,
    training: Training | None = None,
    seed: int = 0,
    eval_dataset: Dataset | None = None,
    device: str = "auto",
    collate_fn: Collate | None = None,
    checkpoints: StrPath | None = None,
    checkpointing: Checkpointing | None = None,
    resume: bool = False,
    listener: Listener | None = None,
    stop: Stop | None = None,
) -> Run:
    """Distil ``student`` in place from ``teacher``.

    Args:
        student: any module that returns logits (rows, classes).
        data: a map-style data set of (inputs, class index), or of inputs alone: the teacher's top
            class then stands in for the label.
        teacher: a model (asked live), soft targets of one or of several, a list of these (their
            mean), or None with an objective that needs none.
        mode: ``vanilla``, ``significance``, ``regulated`` or ``hybrid``: sugar for policy and
            weights. Default ``vanilla``, unless ``policy`` or ``weights`` are given.
        ledger: the teacher's; *significance* and *hybrid* need it.
        regulation: the student's own gate, for *regulated* and *hybrid*.
        gamma: weights are significance ** gamma.
        policy: who takes part, instead of a mode.
        weights: float32 (samples,), instead of a mode; 0 leaves a sample out.
        scores: float32 (samples,), for a policy that needs them:
            :func:`frugalkd.experiments.scoring.score` makes them.
        objective: default ``KD()``: T = 4, alpha = 0.9.
        label_free: read no label of ``data``, even where there are some: the teacher's top class
            stands in, in the loss and in gates. Held-out data are still measured by their labels.
        training, seed, eval_dataset, device, collate, checkpoints, checkpointing, resume, listener,
            stop: as in :func:`train_teacher`.

    Raises:
        LedgerError: the mode needs a ledger and there is none, or it is of other data.
        TargetsError: the objective needs a teacher and there is none, or the stored targets are of
            other data or another augmentation, or keep less of the teacher than the objective
            reads.
        UnknownName: no such mode.
        SelectionMisuse: what needs a label, where ``label_free`` reads none.
        UnsupportedData, NonFiniteLoss, RunFolderError, RankError, Stopped: as in
            :func:`train_teacher`.
    """
    objective = KD() if objective is None else objective
    check_types(objective=(objective, Objective))
    if mode is None:
        policy, regulation = All() if policy is None else policy, None
    sampling = Sampling(
        policy=policy, mode=mode, ledger=ledger, regulation=regulation, gamma=gamma,
        weights=weights, scores=scores, label_free=label_free,
    )  # fmt: skip
    policy, weights = sampling.chosen_policy, weights_of(sampling, data)
    if isinstance(teacher, Sequence) and not isinstance(teacher, str):
        teacher = SeveralTeachers(teacher)
    targets: Any = LiveTeacher(teacher) if isinstance(teacher, nn.Module) else teacher
    check_types(teacher=(targets, nn.Module | Targets | list | None))
    check_soft_targets(targets, objective)
    check_map_style(data)
    return _train(
        student,
        data,
        policy=policy,
        weights=weights,
        scores=scores,
        targets=targets if objective.needs_targets else None,
        teacher=teacher if isinstance(teacher, nn.Module) else None,
        objective=objective,
        label_free=label_free,
        training=training or Training(),
        seed=seed,
        eval_dataset=eval_dataset,
        device=device,
        collate_fn=collate_fn,
        checkpoints=checkpoints,
        checkpointing=checkpointing,
        resume=resume,
        listener=listener,
        stop=stop,
    )


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
    asked = getattr(objective, "temperature", None)
    if targets.temperature is not None and asked != targets.temperature:
        raise TargetsError(
            f"these soft targets were stored for temperature {targets.temperature:g}, the "
            f"objective's is {'none' if asked is None else asked}: fill a store for it, or set "
            "targets.encoding to float16"
        )


def _train(
    model: nn.Module,
    data: Dataset,
    *,
    policy: Policy | None,
    weights: NDArray[np.float32] | None,
    scores: NDArray[np.float32] | None,
    targets: Targets | None,
    teacher: nn.Module | None,
    objective: Objective,
    label_free: bool,
    training: Training,
    seed: int,
    eval_dataset: Dataset | None,
    device: str,
    collate_fn: Collate | None,
    checkpoints: StrPath | None,
    checkpointing: Checkpointing | None,
    resume: bool,
    listener: Listener | None,
    stop: Stop | None,
) -> Run:
    """What a teacher's and a student's training share."""
    function = Optional[Callable]  # noqa: UP045
    check_types(
        objective=(objective, Objective), training=(training, Training),
        checkpointing=(checkpointing, Checkpointing | None), collate_fn=(collate_fn, function),
        listener=(listener, function), stop=(stop, function),
    )  # fmt: skip
    seed = check_seed(seed)
    if checkpoints is not None:
        checkpoints = path_of(checkpoints, "checkpoints")
    if policy is not None:
        check_kind(policy)
    check_trainable(model)
    check_pair(model, teacher)
    check_map_style(data)
    if eval_dataset is not None:
        check_map_style(eval_dataset)
        check_held_out(data, eval_dataset)
    asked = {} if targets is None else targets.live_teachers
    for live in asked.values():
        check_pair(model, live.teacher)
    if is_sharded(model):
        raise RankError(
            "give the model whole, and set training.fsdp: it is then cut over the ranks here"
        )
    accelerator = accelerator_for(training.precision, device)
    labels = None if label_free else labels_of(data)
    about_ledger = _about(data, policy)  # reads the data, before memory is taken for all of them
    ledger = Ledger.new(
        len(data),  # pyright: ignore[reportArgumentType]
        labels=labels,
        extra={} if policy is None else policy.columns,
        folder=checkpoints,
    )
    ledger.about = about_ledger
    ranks, keeper, about = Ranks.here(), None, {}
    if checkpoints is not None:
        keeper = Checkpoints(checkpoints, checkpointing or Checkpointing())
    if keeper is not None or not ranks.alone:
        about = describe_training(
            model, data, policy=policy, objective=objective, training=training,
            label_free=label_free, targets=targets, teacher=teacher, weights=weights, scores=scores,
        )  # fmt: skip
    ranks.check_alike(
        lambda: {
            **about,
            "seed": seed,
            "model": (
                about["model"],
                {name: tensor.shape for name, tensor in model.state_dict().items()},
            ),
            "held-out data": eval_dataset is None or data_digest(eval_dataset),
            "training.fsdp": training.fsdp,
            "checkpoints": (checkpoints is not None, resume),
        }
    )
    memory = memory_for(*_what_to_lower(training))
    with memory, placed(model, targets, training, accelerator.device, ranks) as place:
        caller = ForwardFn(place.model, training, accelerator)
        at = {"forward": caller.eagerly, "device": accelerator.device, "collate_fn": collate_fn}
        selection = Selection(
            data,
            epochs=training.epochs,
            batch_size=training.batch_size,
            sampling=Sampling(policy=policy, weights=weights, scores=scores, label_free=label_free),
            model=place.model,
            forward=caller,
            targets=targets,
            seed=seed,
            ledger=ledger,
            loading=DataLoading(
                collate_fn=collate_fn,
                num_workers=training.num_workers,
                pin_memory=accelerator.device.type == "cuda",
                device=accelerator.device,
                drop_last=training.drop_last,
                length_bucket_batches=training.length_bucket_batches,
                gradient_accumulation_steps=training.gradient_accumulation_steps,
                screen_batch=training.screen_batch,
            ),
        )
        if training.drop_last and len(selection.pool) < training.batch_size:
            raise DataError(
                f"training.drop_last leaves nothing of {len(selection.pool)} samples in batches of "
                f"{training.batch_size}: lower training.batch_size, or set drop_last to false"
            )
        classes = check_first_batch(
            place.model, data, targets, pool=selection.pool, label_free=label_free, **at
        )
        if eval_dataset is not None:
            look_at_held_out(place.model, eval_dataset, **at)
        if labels is None:
            selection.reader.classes = classes
        criterion = bind(
            objective,
            place.model,
            targets,
            batch=lambda: read_first(data, selection.pool, accelerator.device, collate_fn),
            forward=caller.eagerly,
            samples=len(ledger),
            labels=labels,
            seed=seed,
        )
        selection.features = criterion.features
        torch.manual_seed(seed + selection.ranks.rank)
        trainer = Trainer(
            place.model, selection, criterion, training, accelerator, keeper, listener or _silent,
            stop or _never, about,
        )  # fmt: skip
        try:
            with criterion:
                if resume:
                    trainer.resume()
                history = trainer.fit()
                place.take_back()
        except NonFiniteLoss as error:
            raise explained(error, place.model, data, targets, **at) from None
        finally:
            selection.source.close()
        run = Run(place.model, ledger, selection.meters, history)
        if eval_dataset is not None:
            if teacher is not None:  # who was not asked is still compared with
                teacher = asked["teacher"].teacher if asked else teacher.to(accelerator.device)
            evaluate(
                run,
                teacher,
                eval_dataset,
                training,
                accelerator,
                collate_fn,
                trainer.stop,
                trainer.ranks,
            )
    run.model = model.eval()
    note_origin(model, **trained_on(data))
    meters = run.meters
    counted = trainer.ranks.from_first(
        lambda: _flops(model, data, training, meters, asked, collate_fn)
    )
    meters.flops = counted["student"]
    if criterion.features:
        rows = min(training.batch_size, len(selection.pool))
        row = criterion.flops_per_row(rows, classes, accelerator.device)
        meters.flops |= {
            f"objective_{way}": row[way] * meters.samples_backpropagated for way in row
        }
    meters.flops |= counted["teacher"]
    return run


def _flops(
    model: nn.Module,
    data: Dataset,
    training: Training,
    meters: Meters,
    asked: Mapping[str, LiveTeacher],
    collate_fn: Collate | None,
) -> dict[str, dict[str, float]]:
    """Operations of what ``meters`` counted, of the student and of those who were ``asked``."""
    precision = partial(autocast, model, training.precision)
    row = flops_of_data(model, data, device_of(model), collate_fn, precision)
    of_student = {
        "student_forward": row["forward"] * meters.student_forwards,
        "student_backward": row["backward"] * meters.samples_backpropagated,
    }
    of_teacher = {}
    if asked:
        of_teacher["teacher_forward"] = teacher_flops(asked, data, meters, collate_fn)
    return {"student": of_student, "teacher": of_teacher}


def teacher_flops(
    asked: Mapping[str, LiveTeacher],
    data: Dataset,
    meters: Meters,
    collate_fn: Collate | None = None,
) -> float:
    """Operations of all that ``meters`` say that ``asked`` were asked, each on its device."""
    total = 0.0
    for name, live in asked.items():
        rows = meters.queries_of.get(name, 0) if meters.queries_of else meters.teacher_queries
        device = device_of(live.teacher)
        if live.own_forward:
            total += rows * flops_of_call(live.look, data, device, collate_fn)
        else:  # on a copy, which no hook of the user's sees
            row = flops_of_data(live.teacher, data, device, collate_fn, live.asking, backward=False)
            total += rows * row["forward"]
    return total


def _never() -> bool:
    return False


def _what_to_lower(training: Training) -> tuple[str, str]:
    """What memory is needed for, and what a user can do about it."""
    what = f"batches of {training.batch_size} (screenings of {training.screen_batch})"
    advice = "lower training.batch_size or training.screen_batch"
    return what, advice if training.precision == "bf16" else f"{advice}, or set precision: bf16"


def _silent(record: dict[str, Any]) -> None:
    pass


def _about(data: Dataset, policy: Policy | None) -> dict[str, str]:
    """What the ledger's file says of itself."""
    about = {"data": data_digest(data), "policy": str(policy)}
    if names := class_names(data):
        about["classes"] = "\n".join(names)
    return about


def evaluate(
    run: Run,
    teacher: nn.Module | None,
    eval_dataset: Dataset,
    training: Training,
    accelerator: Accelerator,
    collate_fn: Collate | None,
    stop: Stop | None,
    ranks: Ranks | None = None,
) -> None:
    """Measure the run's model on held-out data, on a clock of its own; each rank its share."""
    started = time.perf_counter()
    look = partial(
        predict, accelerator=accelerator, num_workers=training.num_workers, collate_fn=collate_fn,
        stop=stop, ranks=ranks,
    )  # fmt: skip
    with of_held_out():
        probabilities, labels = look(run.model, eval_dataset)
        if labels is None:
            raise ModelError("data without labels measure nothing: give labels, or predict")
        of_teacher = None
        if teacher is not None:
            of_teacher, _ = look(teacher, eval_dataset)
        run.probabilities = probabilities
        run.evaluation = measure(probabilities, labels, of_teacher)
    run.meters.eval_seconds += time.perf_counter() - started
