"""What a selection is given: checks of its arguments, and what the ledger holds beforehand."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch.utils.data import Dataset

from frugalkd.data.class_names import class_names
from frugalkd.data.probe import data_digest, streams_restored
from frugalkd.data.source import mixed_of
from frugalkd.distributed.ranks import is_sharded
from frugalkd.errors import (
    FrugalKDWarning,
    LedgerError,
    SelectionMisuse,
    SettingError,
    TargetsError,
    UnsupportedData,
)
from frugalkd.ledger.ledger import Ledger
from frugalkd.outputs import OUTPUTS, Output
from frugalkd.policies import All, Policy, RandomSubset, Replay, SelfRegulation
from frugalkd.policies.modes import Sampling, significance_weights
from frugalkd.policies.policy import Ids, why_not_weights
from frugalkd.runtime.failures import reason
from frugalkd.runtime.settings import check_types
from frugalkd.selection.checks import labels_of, why_not_label_free
from frugalkd.selection.rows import DataLoading, Reader, no_top
from frugalkd.teachers import Targets

_DECIDING = ("drop_last", "length_bucket_batches", "gradient_accumulation_steps", "screen_batch")
"""What of the loading decides the result."""

FEW_VISITS = 2.0
"""Epochs' worth of samples below which a budget warns: with 1.5 of them a fine-tuned encoder lost
25 to 43 points against as many samples of a longer training."""


def check_fit(
    policy: Policy, sampling: Sampling, loading: DataLoading, *, model: object, targets: object
) -> None:
    """Raise SelectionMisuse where a policy cannot work with what else was given."""
    name, accumulated = type(policy).__name__, loading.gradient_accumulation_steps
    output = OUTPUTS[sampling.output]
    if accumulated > 1 and policy.when == "now":
        raise SelectionMisuse(
            f"gradient_accumulation_steps must be 1 under when: now, not {accumulated}: there "
            "batches are gathered from the rows that fail, so raise batch_size instead"
        )
    if model is None and policy.needs_screening:
        raise SelectionMisuse(
            f"{name} screens samples before training on them: pass model= to the selection"
        )
    if problem := why_not_for(policy, output):
        raise SelectionMisuse(problem)
    if sampling.label_free:
        reads_labels = isinstance(targets, Targets) and targets.reads_labels
        problem = why_not_label_free(
            policy, uses_teacher=targets is not None, targets_read_labels=reads_labels
        )
        if problem is not None:
            raise SelectionMisuse(problem)
    if policy.scoring is not None and sampling.scores is None:
        raise SelectionMisuse(
            f"{name} needs the scores of a scoring run: pass scores=, made by "
            f"frugalkd.experiments.scoring ({policy.scoring.kind!r})"
        )
    if sampling.dynamics and not output.dynamics:
        raise SelectionMisuse(
            f"{output.plural} have no training dynamics, which are those of one class: leave out "
            "dynamics and label_noise"
        )
    if not (output.labelled or output.by_loop or isinstance(targets, Targets)):
        raise TargetsError(f"{output.plural} are learned from a teacher: pass targets")
    by_teacher = sampling.label_free or policy.label_source == "teacher" or not output.labelled
    changes = isinstance(targets, Targets) and any(
        getattr(live, "changes", False) for live in targets.live_teachers.values()
    )
    if output.needs_reference and by_teacher and changes:
        raise TargetsError(
            f"{output.plural} are judged by a teacher that does not change during the training"
        )
    if policy.label_source == "teacher":
        if not isinstance(targets, Targets):
            raise TargetsError("this policy judges by what the teacher says: pass targets")
        if output.by_top_class and not targets.knows_top:
            raise no_top("is what this policy judges by")
    if "teacher_truth" in policy.columns and targets is None:
        raise TargetsError("this policy needs the teacher's confidence in each label: pass targets")


def check_mixed(
    dataset: Dataset, policy: Policy, sampling: Sampling, targets: Targets | None
) -> None:
    """Raise SelectionMisuse or TargetsError where views are mixed with other samples, and something
    needs a label or a verdict of each."""
    mixed = mixed_of(dataset)
    if mixed is None:
        return
    if OUTPUTS[sampling.output].labelled and not sampling.label_free:
        raise SelectionMisuse(
            "views that are mixed with other samples have no label of their own: set label_free "
            "(Sampling(label_free=True), student.label_free: true), so that the teacher's answer "
            "counts, or leave mix out"
        )
    kept = isinstance(policy, All | RandomSubset | Replay | SelfRegulation)
    if not kept or policy.when == "now":
        raise SelectionMisuse(
            f"{type(policy).__name__} judges every view that it trains on, and one that is mixed "
            "with another sample has no verdict: choose self-regulation with when: last-visit, "
            "all or random, or leave mix out"
        )
    if targets is not None and targets.views is not None:
        ids = np.arange(len(dataset))  # pyright: ignore[reportArgumentType]
        lost = np.logical_and.reduce([mixed(ids, ids * 0 + view) for view in range(targets.views)])
        if lost.any():
            raise TargetsError(
                f"of sample {np.flatnonzero(lost)[0]} all views that are stored ({targets.views}) "
                "are mixed with other samples, and the gate needs a plain one: store more "
                "(targets.views), or lower mix.part"
            )


def warn_of_few_visits(policy: Policy, epochs: float) -> None:
    """Warn where the budget of ``policy`` trains the mean sample less than :data:`FEW_VISITS` times
    over ``epochs``."""
    budget = getattr(policy, "budget", None)
    if budget is not None and budget < 1 and budget * epochs < FEW_VISITS:
        warnings.warn(
            f"a budget of {budget:g} over {epochs:g} epochs trains each sample "
            f"{budget * epochs:.2g} times on average, which is too few to select by: set a cost "
            "in place of the budget, or more epochs",
            FrugalKDWarning,
            stacklevel=3,
        )


def why_not_for(policy: Policy, output: Output) -> str | None:
    """Why ``policy`` is impossible for a kind of output, in one line; None where it is possible."""
    if output.by_top_class:
        return None
    name, needs = type(policy).__name__, None
    if policy.needs_labels and not policy.labels_optional:
        needs = "plans by class: choose another budget_rule"
    elif policy.scoring is not None:
        needs = "is scored by trainings on classes: choose another policy"
    elif policy.needs_entropy:
        needs = "goes by the entropy of a softmax: choose another policy"
    elif "teacher_truth" in policy.columns:
        needs = "has a ceiling, a part of the teacher's probability of a class: leave it out"
    elif policy.label_source == "teacher" and output.by_loss:
        needs = "judges by the teacher's class: leave label_source out, the loss decides"
    elif output.by_loss and getattr(policy, "probe", 0) and getattr(policy, "cost", 1) is None:
        needs = "has a probe, which counts right answers: leave it out"
    return needs and f"{output.plural} are not one class a sample, and {name} {needs}"


def inputs_to_compare(
    dataset: Dataset,
    targets: Targets | None,
    sampling: Sampling,
    loading: DataLoading,
    **settings: object,
) -> dict[str, object]:
    """What decides a selection, by name, for ranks to compare; of the large ones digests."""
    given: dict[str, object] = {
        "data": data_digest(dataset),
        "policy": sampling.chosen_policy,
        "cost": sampling.cost,
        "weights": weights_of(sampling, dataset),
        "scores": sampling.scores,
        "label_free": sampling.label_free,
        "output": sampling.output,
        "dynamics": sampling.dynamics,
        **{name: getattr(loading, name) for name in _DECIDING},
        **settings,
    }
    if targets is not None:
        # Before a model is cut over the ranks, the training has compared it.
        cut = any(is_sharded(live.teacher) for live in targets.live_teachers.values())
        given |= {} if cut else getattr(targets, "about", {})
        given["soft targets"] = (targets.views, targets.temperature)
    return given


def weights_of(sampling: Sampling, data: Dataset) -> NDArray[np.float32] | None:
    """What samples weigh: as given, or by the significance of the mode's ledger, and by class; None
    for 1. Raises LedgerError where the ledger was made on other data, or holds no significance,
    SettingError as :func:`class_weights`."""
    ledger, made = sampling.weighing_ledger, sampling.weights
    if ledger is not None:
        _refuse_other_data(ledger, data, "train a teacher on these")
        made = significance_weights(ledger, sampling.gamma)
    if sampling.class_weights is None:
        return made
    by_class = class_weights(sampling.class_weights, data)
    return by_class if made is None else by_class * np.asarray(made, dtype=np.float32)


def class_weights(wanted: str | Sequence[float], data: Dataset) -> NDArray[np.float32]:
    """float32 (samples,), of mean 1: what the class of each sample weighs, by ``balanced`` the
    inverse of how many samples it has. Raises SettingError: there is no weight for a class, all are
    0, or ``data`` do not list their labels."""
    labels = labels_of(data)
    if labels is None:
        raise SettingError("class_weights need data.labels, the classes of all samples: add them")
    counts = np.bincount(labels)
    each = 1 / np.maximum(counts, 1) if isinstance(wanted, str) else np.asarray(wanted, float)
    classes = len(names) if (names := class_names(data)) else len(counts)
    if len(each) not in (len(counts), classes):
        raise SettingError(f"class_weights are {len(each)}, and there are {classes} classes")
    made = each[labels]
    if not made.any():
        raise SettingError("class_weights are 0 for all classes that there are")
    return (made / made.mean()).astype(np.float32)


def checked_weights(weights: ArrayLike, samples: int) -> NDArray[np.float32]:
    """One weight a sample, float32. Raises SettingError."""
    made = _numbers("weights", weights)
    if made.shape != (samples,) or not made.any():
        raise SettingError(
            f"weights: {samples} finite values, 0 or more, are needed, some of them above 0"
        )
    problem = why_not_weights(made)
    if problem is None and len(lost := np.flatnonzero((made == 0) & (np.asarray(weights) != 0))):
        problem = f"sample {lost[0]} weighs too little for float32: make it 0"
    if problem is not None:
        raise SettingError(f"weights: {problem}")
    return made


def checked_ledger(ledger: Ledger | None, sampling: Sampling, data: Dataset) -> Ledger:
    """A new ledger, or the one that is given. Raises SettingError where that is not a ledger,
    LedgerError where it is of other data, records a training, or lacks a column of the policy's or
    of training dynamics."""
    policy, dynamics = sampling.chosen_policy, sampling.dynamics
    if ledger is None:
        samples = len(data)  # pyright: ignore[reportArgumentType]
        return Ledger.new(samples, extra=policy.columns, dynamics=dynamics)
    check_types(ledger=(ledger, Ledger))
    missing = [name for name in policy.columns if name not in ledger.columns]
    if missing:
        raise LedgerError(
            f"the ledger has no column {', '.join(missing)}, which {type(policy).__name__} needs: "
            "make it by Ledger.new(samples, extra=policy.columns)"
        )
    output = OUTPUTS[sampling.output]
    if ledger.has_dynamics and not output.dynamics:
        raise LedgerError(
            f"the ledger has training dynamics, and {output.plural} have none: make it by "
            "Ledger.new(samples)"
        )
    if dynamics and not ledger.has_dynamics:
        raise LedgerError(
            "the ledger has no columns of training dynamics, which sampling.dynamics records: make "
            "it by Ledger.new(samples, dynamics=True)"
        )
    _refuse_other_data(ledger, data, "start with a new one")
    some = ledger["visits"][:: max(1, len(ledger) // 4096)]
    if ledger.epochs or ledger.reference or some.any():
        raise LedgerError(
            "the ledger is the record of another training: start with a new one (Ledger.new), or "
            "resume that training by load_state_dict"
        )
    return ledger


def _refuse_other_data(ledger: Ledger, data: Dataset, advice: str) -> None:
    samples = len(data)  # pyright: ignore[reportArgumentType]
    if len(ledger) != samples:
        raise LedgerError(f"the ledger is of {len(ledger)} samples, the data have {samples}")
    known = ledger.about.get("data")
    if known is not None and known != data_digest(data):
        raise LedgerError(f"the ledger was made on other data, or these have changed: {advice}")


def fill(
    ledger: Ledger, policy: Policy, dataset: Any, sampling: Sampling, *, reader: Reader, pool: Ids
) -> None:
    """Enter what ``policy`` needs of every sample: classes, the teacher's confidence (NaN where
    :meth:`Reader.truth` has to compute it), scores.
    Raises UnsupportedData, TargetsError or SettingError where these are not known."""
    wanted = policy.needs_labels or getattr(policy, "label_noise", "off") == "auto"
    if wanted and reader.output.by_top_class and not sampling.label_free:
        listed = labels_of(dataset)
        if listed is not None:
            ledger.labels = listed.astype(np.int32)
        elif policy.needs_labels and ledger.labels is None:
            raise UnsupportedData(
                "a plan that is balanced by class needs all labels before the first epoch: give "
                "the data set an attribute 'labels', int64 (samples,)"
            )
    if "teacher_truth" in ledger.columns:
        assert reader.targets is not None, "checked before"
        labels, listed = None, True
        if not (sampling.label_free or policy.label_source == "teacher"):
            labels = ledger.labels if reader.listed is None else reader.listed
            with streams_restored():
                listed = labels is not None or reader.first_labels(pool[:1]) is None
        labels = None if labels is None else torch.from_numpy(labels).long()
        # Of what is stored, view 0 of each sample; where it may be mixed, plain views are read.
        truth = None if reader.mixes else reader.targets.truth(labels)
        # NaN where these, labels, or the teacher's outputs have to be read before the first epoch.
        ledger["teacher_truth"][:] = np.nan if truth is None or not listed else truth
    if policy.scoring is not None and sampling.scores is not None:
        scores = _numbers("scores", sampling.scores)
        if scores.shape != (len(ledger),) or np.isnan(scores).any():
            raise SettingError(f"scores: {len(ledger)} numbers are needed, none of them NaN")
        ledger["score"][:] = scores


def _numbers(what: str, values: ArrayLike) -> NDArray[np.float32]:
    try:
        made = np.asarray(values)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{what}: numbers are needed ({reason(error)})") from error
    if made.dtype.kind not in "biuf":
        raise SettingError(f"{what}: numbers are needed, not values of type {made.dtype}")
    with np.errstate(over="ignore"):  # what is infinite then is refused
        return made.astype(np.float32, copy=False)
