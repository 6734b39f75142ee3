"""Small things that many tests need: data that know their ids, a net with everything in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

from frugalkd.data import Augmentation, ImageData, Samples
from frugalkd.policies import Plan, Sampling, SelfRegulation
from frugalkd.policies.policy import Ungated
from frugalkd.runtime import draws
from frugalkd.training.settings import RunOptions, Schedule, Training

CLASSES = 4


def as_images(data: Samples) -> ImageData:
    """A named data set that is known to be of pictures in RAM."""
    assert isinstance(data, ImageData)
    return data


class Ids(Dataset):
    """Every sample is its own id and a label."""

    def __init__(self, labels):
        self.labels = torch.as_tensor(labels, dtype=torch.int64)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, id):
        return torch.tensor([float(id)]), int(self.labels[id])


class IdsAndViews(Ids):
    """Gives whole batches of (id, view)."""

    def batch(self, ids, views):
        rows = torch.from_numpy(np.stack([ids, views], axis=1))
        return rows, self.labels[rows[:, 0]]


def images(samples=37, seed=0, augmented=True) -> ImageData:
    """Small images, each class with a pattern of its own under noise."""
    stream = torch.Generator().manual_seed(seed)
    labels = torch.randint(CLASSES, (samples,), generator=stream)
    patterns = torch.randint(256, (CLASSES, 1, 6, 6), generator=stream)
    noise = torch.randint(256, (samples, 1, 6, 6), generator=stream)
    pixels = ((patterns[labels] + noise) // 2).to(torch.uint8)
    return ImageData(
        pixels,
        labels,
        tuple(map(str, range(CLASSES))),
        mean=(0.5,),
        std=(0.25,),
        augmentation=Augmentation(crop=1, flip=True) if augmented else Augmentation(),
        seed=seed,
    )


class OneBadRow(torch.utils.data.Dataset):
    """Small images; that of the sample ``bad`` is not finite."""

    def __init__(self, samples, bad):
        self.images, self.bad = images(samples, augmented=False), bad

    def __len__(self):
        return len(self.images)

    def __getitem__(self, id):
        pixels, labels = self.images.batch(np.array([id]), np.array([0]))
        return pixels[0] * (float("nan") if id == self.bad else 1), int(labels[0])


@dataclass(frozen=True)
class NothingPasses(SelfRegulation):
    """A gate that every sample fails."""

    def needs_training(self, outcome, ids, ledger, at):
        return np.ones(len(ids), dtype=bool)


def net(seed=0, width=4) -> Any:
    """A convolution, BatchNorm, dropout and a linear layer."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.Dropout(0.3),
            nn.Flatten(),
            nn.Linear(width * 36, CLASSES),
        )


KINDS = ("ant", "bee", "cat", "dog")


def kinds(
    classes=KINDS, samples=60, test=40, mean=0.5, std=0.25, seed=5, flip=False
) -> tuple[ImageData, ImageData]:
    """Training and test images of four kinds, which ``classes`` puts in an order; names that are
    none of ``KINDS`` mean these in turn."""
    data = images(samples + test, seed=seed, augmented=False)
    named = {name: name if name in KINDS else KINDS[place] for place, name in enumerate(classes)}
    places = torch.tensor([[named[name] for name in classes].index(kind) for kind in KINDS])

    def part(rows):
        return ImageData(
            data.images[rows], places[data.labels[rows]], tuple(classes), mean=(mean,), std=(std,),
            augmentation=Augmentation(flip=flip),
        )  # fmt: skip

    return part(slice(samples)), part(slice(samples, None))


class Scaled(nn.Module):
    """A linear model of those images whose logits are multiplied."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale, self.head = scale, nn.Linear(36, CLASSES)

    def forward(self, x):
        return self.scale * self.head(x.flatten(1))


def kinds_recipe(**settings) -> Any:
    """A teacher and a student of :func:`kinds`, both :class:`Scaled`; ``settings`` are dotted, with
    ``__`` in place of the dots."""
    from frugalkd.experiments.recipes.load import override
    from frugalkd.experiments.recipes.schema import Recipe

    training = {"epochs": 8, "batch_size": 10, "optimizer": {"name": "adamw", "lr": 0.02}}
    plain = {
        "name": "kinds",
        "data": {"path": "toys:kinds"},
        "teacher": {
            "model": {"path": "toys:Scaled"},
            "policy": {"name": "all"},
            "training": training,
        },
        "student": {"model": {"path": "toys:Scaled"}, "mode": "vanilla", "training": training},
    }
    dotted = {name.replace("__", "."): value for name, value in settings.items()}
    return override(Recipe.model_validate(plain), dotted)


def write_kinds(folder, samples=3, level=60):
    """A folder of tiny pictures of :data:`KINDS`; returns the ``data`` section of a recipe."""
    from PIL import Image

    for part in ("train", "test"):
        for place, name in enumerate(KINDS):
            (folder / part / name).mkdir(parents=True, exist_ok=True)
            for each in range(samples):
                at = folder / part / name / f"{each}.png"
                Image.new("L", (6, 6), level * place + each).save(at)
    return {"name": "image-folder", "options": {"path": str(folder), "channels": 1}}


def tokenizer_of(words) -> Any:
    """A tokenizer of transformers that knows ``words``, numbered from 2 on."""
    import tokenizers
    import transformers

    numbers = {word: number for number, word in enumerate(["[PAD]", "[UNK]", *words])}
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel(numbers, unk_token="[UNK]"))
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]"
    )


def grouped(**settings) -> dict[str, Any]:
    """Keywords of :func:`frugalkd.distill`: those of Sampling and RunOptions within these."""
    for name, kind in {"sampling": Sampling, "run": RunOptions}.items():
        own = {field.name for field in fields(kind)} & set(settings)
        if own:
            settings[name] = kind(**{each: settings.pop(each) for each in own})
    return settings


def order(samples, seed, epoch):
    """The order of an epoch, for a plain loop."""
    ids = np.arange(samples) if isinstance(samples, int) else np.asarray(samples)
    return draws.order(ids, seed, draws.stream("order"), epoch)


def rate(training: Training, progress: float, after: float) -> float:
    """The learning rate of a plain loop, written again."""
    schedule: Schedule = training.schedule
    shape = {"cosine": 0.5 * (1 + math.cos(math.pi * progress)), "linear": 1 - progress}
    warm = 1.0 if after >= schedule.warmup else after / schedule.warmup
    down = schedule.final + (1 - schedule.final) * shape.get(schedule.shape, 1.0)
    return training.optimizer.lr * (warm * down)


def same_state(one: nn.Module, other: nn.Module) -> bool:
    """Whether all parameters and buffers of two models are equal bit for bit."""
    left, right = one.state_dict(), other.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[k], right[k]) for k in left)


def same_columns(one, other) -> bool:
    """Whether two ledgers hold the same, bit for bit (NaN equals NaN)."""
    return one.columns.keys() == other.columns.keys() and all(
        one[name].dtype == other[name].dtype and one[name].tobytes() == other[name].tobytes()
        for name in one.columns
    )


def logits_for(batch, keep_probability=False):
    """Logits that fail the gate, or that pass it with certainty."""
    labels = batch.data[1]
    return 50.0 * nn.functional.one_hot(labels, 4).float() * keep_probability


@dataclass(frozen=True)
class Wild(Ungated):
    """A learning rate beyond all measure in one epoch."""

    epoch: int
    factor: float = 1e42

    def plan(self, ledger, pool, at):
        return Plan(pool, lr_factor=self.factor if at.epoch == self.epoch else 1.0)


class Spoil(torch.autograd.Function):
    """Gives back what it gets; its gradient is ``value``, whatever comes."""

    @staticmethod
    def forward(ctx, x, value=math.nan):
        ctx.value = value
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # pyright: ignore[reportIncompatibleMethodOverride]
        return torch.full_like(gradient, ctx.value), None


def count_dynamics(outcomes, label, epochs) -> dict[str, Any]:
    """Training dynamics by their definitions, from all ``outcomes`` (epoch, logits) of a sample."""
    first = {epoch: list(map(float, row)) for epoch, row in reversed(outcomes)}
    margins, sure, votes = {}, {}, []
    for epoch, row in sorted(first.items()):
        others = {k: value for k, value in enumerate(row) if k != label}
        votes.append(max(others, key=lambda k: others[k]))
        margins[epoch] = row[label] - others[votes[-1]]
        sure[epoch] = 1 / sum(math.exp(value - row[label]) for value in row)
    learned = [margin >= 0 for margin in margins.values()]
    early = [epoch for epoch in margins if epoch < max(1, epochs / 2)]
    candidate, lead = 65535, 0
    for vote in votes:
        if not lead:
            candidate = vote
        lead += 1 if vote == candidate else -1

    def of(values, how):
        return how([values[epoch] for epoch in early]) if early else math.nan

    return {
        "margin": of(margins, np.mean),
        "probability": of(sure, np.mean),
        "variability": of(sure, np.std),
        "counted": len(early),
        "first_learned": min((e for e in margins if margins[e] >= 0), default=65535),
        "forgotten": sum(old and not new for old, new in pairwise(learned)),
        "other": candidate,
        "other_votes": lead,
    }


def check_dynamics(ledger, outcomes, labels, epochs) -> None:
    """A ledger's training dynamics against :func:`count_dynamics`; ``outcomes`` of each sample."""
    found = [count_dynamics(*pair, epochs) for pair in zip(outcomes, labels, strict=True)]
    for name in ("margin", "probability", "variability"):
        wanted = [row[name] for row in found]
        np.testing.assert_allclose(ledger[name], wanted, rtol=2e-5, atol=2e-6, err_msg=name)
    for name in ("counted", "first_learned", "forgotten", "other", "other_votes"):
        assert ledger[name].tolist() == [row[name] for row in found], name


def train_by_hand(selection, student, objective, rate: float) -> None:
    """The loop of a user's own that comes to what ``distill`` does with AdamW and a cosine."""
    groups = [
        [p for p in student.parameters() if (p.ndim > 1) == matrix] for matrix in (True, False)
    ]
    optimizer = torch.optim.AdamW(
        [{"params": group} for group in groups], weight_decay=0.0, fused=True
    )
    for epoch in selection:
        for batch in epoch:
            for group in optimizer.param_groups:
                group["lr"] = rate * (1 + np.cos(np.pi * batch.progress)) / 2
            inputs, labels = batch.data
            outputs = student(inputs)
            losses = objective(outputs, batch.targets, labels)
            batch.reduce(losses).backward()
            batch.observe(outputs, labels, losses)
            optimizer.step()
            optimizer.zero_grad()
