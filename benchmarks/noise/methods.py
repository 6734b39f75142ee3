"""What is compared. Each method returns scores (the lower, the more suspicious) or measures of a
student, and what it did; all train the same network from the same initial weights."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from benchmarks.noise.data import Noisy, Task
from frugalkd import KD, Sampling, distill, train_teacher
from frugalkd.data import ImageData, Samples
from frugalkd.data.labels import with_labels
from frugalkd.experiments.runs.from_recipe import make_model
from frugalkd.ledger.audit import ranked
from frugalkd.ledger.ledger import Ledger
from frugalkd.policies import All, Policy, SelfRegulation
from frugalkd.selection import Selection
from frugalkd.training.evaluation import predict
from frugalkd.training.optimizers import make_optimizer
from frugalkd.training.run import Run

FOLDS = 5
GATE = SelfRegulation(max_skip=4)
COST = 0.35
"""Of the gated student, as a fraction of full distillation."""

NAMED = 1000
"""Labels that a corrected set leaves out or changes: of Banking77 a tenth."""

EARLY = 0.25
"""Epochs of an early-stopped teacher, of the others' epochs."""

Scores = dict[str, NDArray[np.float64]]
Found = tuple[Scores, dict[str, Any]]


def _train(task: Task, data: Any, seed: int, policy: Policy, **more: Any) -> Run:
    settings = {"training": task.training, "seed": seed, "device": "cpu", **more}
    sampling = Sampling(policy=policy, dynamics=True)
    return train_teacher(make_model(task.model, data, seed), data, sampling=sampling, **settings)


def _cost(run: Run) -> float:
    """In epochs of full training, without a teacher's queries; a backward pass counts as two
    forward passes."""
    trained = run.meters.samples_backpropagated
    return (2 * trained + run.meters.student_forwards) / (3 * len(run.ledger))


def _audit(run: Run, noisy: Noisy) -> Found:
    ledger, wrong = run.ledger, noisy.wrong
    started = time.perf_counter()
    order = ranked(ledger)
    seconds = time.perf_counter() - started
    scores = {name: ledger[name].astype(np.float64) for name in ("margin", "probability")}
    assert len(order) == len(ledger), "every sample was visited"
    scores["audit"] = np.argsort(order).astype(np.float64)
    right = (ledger["other"] == noisy.truth)[wrong]
    notes = {
        "audit_seconds": seconds,
        "suggestion_right": float(right.mean()) if wrong.any() else None,
        "cost": _cost(run),
        "evaluation": run.evaluation,
    }
    return scores, {**notes, **_disbelief(run, wrong)}


def _disbelief(run: Run, wrong: NDArray[np.bool_]) -> dict[str, Any]:
    """How many labels were disbelieved in the end, and how many of these are wrong."""
    if "disbelieved" not in run.ledger.columns:
        return {}
    found = run.ledger["disbelieved"] > 0
    count, hits = int(found.sum()), int((found & wrong).sum())
    return {"disbelieved": {"count": count, "wrong": hits}}


def teach(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """frugalkd's audit of a self-regulated teacher."""
    return _audit(_train(task, noisy.train, seed, GATE, eval_dataset=noisy.test), noisy)


def teach_auto(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """The same with ``label_noise: auto``."""
    policy = replace(GATE, label_noise="auto")
    return _audit(_train(task, noisy.train, seed, policy, eval_dataset=noisy.test), noisy)


def aum(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """AUM by its own protocol (Pleiss et al., NeurIPS 2020): two trainings at the peak learning
    rate, over half of the epochs, each with another part N / (classes + 1) of the samples in a
    class of its own; of each sample the mean of the trainings in which it had its own label."""
    data: Any = noisy.train
    rows = len(data)
    part = rows // (data.num_classes + 1)
    order = np.random.default_rng(seed).permutation(rows)
    total, count, thresholds = np.zeros(rows), np.zeros(rows), []
    for turn in range(2):
        aside = order[turn * part : (turn + 1) * part]
        labels = data.labels.clone()
        labels[aside] = data.num_classes
        made = ImageData(
            data.pixels(torch.arange(rows)), labels, (*data.classes, "threshold"),
            mean=data.mean, std=data.std, augmentation=data.augmentation, seed=data.seed,
        )  # fmt: skip
        margins = _margins(task, made, seed)
        own = np.setdiff1d(np.arange(rows), aside)
        total[own] += margins[own]
        count[own] += 1
        thresholds.append(float(np.percentile(margins[aside], 99)))
    return {"aum": total / count}, {"thresholds": thresholds, "cost": task.training.epochs}


def _margins(task: Task, data: ImageData, seed: int) -> NDArray[np.float64]:
    """The mean margin of each sample's label over all epochs, half as many as others train."""
    settings, total = task.training, np.zeros(len(data))
    epochs = settings.epochs / 2
    model = make_model(task.model, data, seed).train()
    optimizer = make_optimizer(model, settings.optimizer)
    for epoch in Selection(data, epochs=epochs, batch_size=settings.batch_size, seed=seed):
        for batch in epoch:
            x, y = batch.data
            warm = min(1.0, batch.progress_after / max(settings.schedule.warmup, 1e-9))
            for group in optimizer.param_groups:
                group["lr"] = settings.optimizer.lr * warm
            with torch.autocast("cpu", torch.bfloat16, enabled=settings.precision == "bf16"):
                logits = model(x)
            F.cross_entropy(logits.float(), y).backward()
            optimizer.step()
            optimizer.zero_grad()
            shown = logits.detach().float()
            label = shown.gather(1, y[:, None])[:, 0]
            rest = shown.scatter(1, y[:, None], -torch.inf).amax(dim=1)
            total[batch.ids] += (label - rest).double().numpy()
            batch.observe(logits, y)
    return total / epochs


def _out_of_sample(
    noisy: Noisy, seed: int, fit: Callable[[NDArray, NDArray], NDArray]
) -> NDArray[np.float64]:
    """Probabilities (rows, classes) of each sample by a model of the other folds; ``fit`` gets
    the ids to train on and those to predict."""
    from sklearn.model_selection import StratifiedKFold

    labels = noisy.train.labels.numpy()
    found = np.zeros((len(labels), noisy.train.num_classes))
    for inside, outside in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(
        labels, labels
    ):
        found[outside] = fit(inside, outside)
    return found


def _cleanlab_scores(noisy: Noisy, probabilities: NDArray[np.float64]) -> Scores:
    from cleanlab.rank import get_label_quality_scores

    names = ("self_confidence", "normalized_margin", "confidence_weighted_entropy")
    labels = noisy.train.labels.numpy()
    return {
        name: get_label_quality_scores(labels, probabilities, method=name).astype(np.float64)
        for name in names
    }


def cleanlab(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """cleanlab 2.9: its three scores of probabilities by five trainings of the same network."""
    cost, kept = 0.0, cache / "probabilities.npy"

    def fit(inside: NDArray, outside: NDArray) -> NDArray:
        nonlocal cost
        run = _train(task, noisy.train.subset(inside), seed, All())
        cost += _cost(run) * len(inside) / len(noisy.train)
        return predict(run.model, noisy.train.without_augmentation().subset(outside))[0]

    found = _out_of_sample(noisy, seed, fit)
    np.save(kept, found.astype(np.float32))
    return _cleanlab_scores(noisy, found), {"cost": cost}


def cleanlab_head(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """cleanlab 2.9 on the features of a frozen encoder, with a linear head."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.preprocessing import StandardScaler

    features = _features(task, noisy, cache)

    def fit(inside: NDArray, outside: NDArray) -> NDArray:
        scale = StandardScaler().fit(features[inside])
        head = LogisticRegression(max_iter=200, C=0.01)
        head.fit(scale.transform(features[inside]), noisy.train.labels.numpy()[inside])
        return head.predict_proba(scale.transform(features[outside]))

    return _cleanlab_scores(noisy, _out_of_sample(noisy, seed, fit)), {}


def _features(task: Task, noisy: Noisy, cache: Path) -> NDArray[np.float32]:
    """Of the frozen encoder, kept beside the jobs for all of them: they read no label."""
    from frugalkd.models.initial import head_of

    if task.features is None:
        raise ValueError("this task has no frozen encoder")
    plain: Any = noisy.train.without_augmentation()
    pixels = plain.pixels(torch.arange(len(plain))).numpy()
    digest = hashlib.sha256(repr(task.features).encode() + pixels.tobytes()).hexdigest()[:16]
    kept = cache.parent / f"features-{digest}.npy"
    if not kept.is_file():
        model, parts = make_model(task.features, plain, 0), []
        hook = head_of(model)[1].register_forward_hook(
            lambda _, inputs, __: parts.append(inputs[0].float().numpy())
        )
        predict(model, plain, batch_size=64)
        hook.remove()
        np.save(cache / kept.name, np.concatenate(parts).astype(np.float16))
        (cache / kept.name).replace(kept)
    return np.load(kept).astype(np.float32)


def _student(
    task: Task, noisy: Noisy, seed: int, teacher: Run, sampling: Sampling, data: Any = None
) -> Found:
    data = noisy.train if data is None else data
    student = make_model(task.model, data, seed + 1000)
    run = distill(
        student, data, teacher=teacher.model, sampling=sampling, objective=KD(alpha=1.0),
        training=task.training, eval_dataset=noisy.test, seed=seed, device="cpu",
    )  # fmt: skip
    notes = {
        "evaluation": run.evaluation,
        "teacher": teacher.evaluation,
        "cost": _cost(run),
        "teacher_cost": _cost(teacher),
    }
    return {}, {**notes, **_disbelief(run, noisy.wrong)}


def student_full(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """Full distillation from a teacher trained on everything."""
    teacher = _train(task, noisy.train, seed, All(), eval_dataset=noisy.test)
    return _student(task, noisy, seed, teacher, Sampling(policy=All()))


def student_early(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """Full distillation from an early-stopped teacher, with alpha = 1."""
    early = replace(task.training, epochs=EARLY * task.training.epochs)
    teacher = _train(task, noisy.train, seed, All(), training=early, eval_dataset=noisy.test)
    return _student(task, noisy, seed, teacher, Sampling(policy=All()))


def student_cleanlab(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """Full distillation on what cleanlab leaves, of the probabilities of its five trainings."""
    from cleanlab.filter import find_label_issues

    probabilities = cache.parent / cache.name.replace("student-cleanlab", "cleanlab")
    found = np.load(probabilities / "probabilities.npy").astype(np.float64)
    found /= found.sum(axis=1, keepdims=True)
    issues = find_label_issues(noisy.train.labels.numpy(), found)
    data = noisy.train.subset(np.flatnonzero(~issues))
    teacher = _train(task, data, seed, All(), eval_dataset=noisy.test)
    found = _student(task, noisy, seed, teacher, Sampling(policy=All()), data)
    found[1]["removed"] = int(issues.sum())
    return found


def student_gate(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """A gated student of a gated teacher, both under ``label_noise: auto``, at a cost."""
    teacher = _train(
        task, noisy.train, seed, replace(GATE, label_noise="auto"),
        eval_dataset=noisy.test,
    )  # fmt: skip
    sampling = Sampling(regulation=replace(GATE, label_noise="auto"), cost=COST)
    return _student(task, noisy, seed, teacher, sampling)


def _corrected(
    task: Task, noisy: Noisy, seed: int, change: Callable[[Ledger], Samples] | None = None
) -> Found:
    """A training on what ``change`` makes of the data by the ledger of an audit, which is part of
    its cost, and its macro F1 on the test data."""
    from sklearn.metrics import f1_score

    data, cost = noisy.train, 0.0
    if change is not None:
        audit = _train(task, noisy.train, seed, GATE)
        data, cost = change(audit.ledger), _cost(audit)
    run = _train(task, data, seed, All(), eval_dataset=noisy.test)
    cost += _cost(run) * len(data) / len(noisy.train)
    predicted = predict(run.model, noisy.test)[0].argmax(axis=1)
    f1 = float(f1_score(noisy.test.labels.numpy(), predicted, average="macro"))
    return {}, {"f1": f1, "named": NAMED, "evaluation": run.evaluation, "cost": cost}


def untouched(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """A training on the data as they are."""
    return _corrected(task, noisy, seed)


def removed(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """A training without the samples that the audit names first."""
    everything = np.arange(len(noisy.train))
    return _corrected(
        task, noisy, seed,
        lambda ledger: noisy.train.subset(np.setdiff1d(everything, ranked(ledger, NAMED))),
    )  # fmt: skip


def relabelled(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """A training in which these have the class that the audit suggests."""

    def change(ledger: Ledger) -> Samples:
        named, labels = ranked(ledger, NAMED), noisy.train.labels.numpy().copy()
        labels[named] = ledger["other"][named]
        return with_labels(noisy.train, labels)

    return _corrected(task, noisy, seed, change)


def removed_at_random(task: Task, noisy: Noisy, seed: int, cache: Path) -> Found:
    """A training without as many samples of each class as the audit names, drawn at random."""

    def change(ledger: Ledger) -> Samples:
        labels, stream = noisy.train.labels.numpy(), np.random.default_rng(seed)
        named, order = ranked(ledger, NAMED), stream.permutation(len(labels))
        counts = np.bincount(labels[named], minlength=noisy.train.num_classes)
        gone = [order[labels[order] == each][:count] for each, count in enumerate(counts)]
        return noisy.train.subset(np.setdiff1d(order, np.concatenate(gone)))

    return _corrected(task, noisy, seed, change)


Method = Callable[[Task, Noisy, int, Path], Found]

CORRECTED: dict[str, Method] = {
    "untouched": untouched,
    "removed": removed,
    "relabelled": relabelled,
    "removed-at-random": removed_at_random,
}
"""For data whose own labels are partly wrong."""

METHODS: dict[str, Method] = {
    "teach": teach,
    "teach-auto": teach_auto,
    "aum": aum,
    "cleanlab": cleanlab,
    "cleanlab-head": cleanlab_head,
    "student-full": student_full,
    "student-early": student_early,
    "student-cleanlab": student_cleanlab,
    "student-gate": student_gate,
    **CORRECTED,
}

NEEDS = {"student-cleanlab": "cleanlab"}
"""Methods that read what another one left."""
