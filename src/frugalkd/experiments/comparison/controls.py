"""Controls: the cheap alternatives, made to cost as many samples as the run that they match."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from frugalkd.errors import RecipeError
from frugalkd.experiments.recipes.schema import Recipe

TOLERANCE = 0.005
"""How far a control's samples may lie from those of the run that it matches, as a part of them."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Matched:
    """What a control needs to know of the finished run that it matches.

    Attributes:
        rows: samples backpropagated, by epoch.
        samples: of the training set.
        epochs: of the run's training; may be fractional.
        warmup_steps: of its schedule.
    """

    rows: tuple[int, ...]
    samples: int
    epochs: float
    warmup_steps: int

    @classmethod
    def of(cls, results: dict[str, Any]) -> Matched:
        """From a run's ``results.json``.

        Raises:
            RecipeError: the run trained on nothing, so that nothing can match it.
        """
        training = results["recipe"]["student"]["training"]
        rows = tuple(int(record["rows"]) for record in results["history"])
        if not sum(rows):
            raise RecipeError("the run that it matches trained on no sample: nothing can match it")
        return cls(
            rows, results["train_samples"], training["epochs"], training["schedule"]["warmup_steps"]
        )

    @property
    def total(self) -> int:
        """Samples backpropagated in all."""
        return sum(self.rows)

    @property
    def fraction(self) -> float:
        """Of full distillation over the same epochs."""
        return self.total / (self.samples * self.epochs)

    @property
    def parts(self) -> list[float]:
        """How much of each epoch is trained: 1, the last one perhaps less."""
        return [min(1.0, self.epochs - epoch) for epoch in range(len(self.rows))]


@dataclass(frozen=True)
class Control:
    """``about``: what it does, with a place for the ``{arm}``, and ``at_budget``, where it matches
    none; ``settings``: what it sets."""

    about: str
    settings: Callable[[Matched], Settings]
    at_budget: str = ""


def control_settings(control: str, results: dict[str, Any]) -> Settings:
    """What turns the recipe of a finished run into its control ``control``.

    The objective, the teacher and all else of the training stay; weights become uniform. A short
    last batch trains, or the control could not match.

    Args:
        control: a key of :data:`CONTROLS`.
        results: the matched run's ``results.json``.
    """
    common = {"student.mode": None, "student.weighting": "uniform"}
    matched = Matched.of(results)
    return {
        **common,
        "student.training.drop_last": False,
        **CONTROLS[control].settings(matched),
    }


def budget_settings(control: str, recipe: Recipe, budget: float) -> Settings:
    """What turns ``recipe`` into its control ``control`` that spends ``budget``, a part of all
    samples over the recipe's epochs, instead of another run's.

    Raises:
        RecipeError: a control that copies a run epoch by epoch, which needs that run.
    """
    if control in COPYING:
        raise RecipeError(f"{control} copies a run's epochs: write {control}:ARM@{budget:g}")
    training = recipe.student.training
    if control == "short":
        settings: Settings = {
            "student.policy": {"name": "all"},
            "student.training.epochs": budget * training.epochs,
            "student.training.schedule.warmup_steps": round(
                budget * training.schedule.warmup_steps
            ),
        }
    else:
        redraw = control == "random"
        settings = {"student.policy": {"name": "random", "fraction": budget, "redraw": redraw}}
    return {"student.mode": None, "student.weighting": "uniform", **settings}


def _subset(matched: Matched, rows: Sequence[int], *, redraw: bool) -> Settings:
    counts = [
        min(matched.samples, round(wanted / part))
        for wanted, part in zip(rows, matched.parts, strict=True)
    ]
    fraction = min(1.0, matched.fraction)
    policy = {"name": "random", "fraction": fraction, "redraw": redraw, "counts": counts}
    return {"student.policy": policy}


def _even(matched: Matched) -> list[int]:
    """The total, spread over the epochs: the constant fraction, to a row in every epoch.

    A fraction alone would be rounded alike in every epoch, and few rows would then not match.
    """
    share = matched.total / sum(matched.parts)
    ends = [round(share * end) for end in accumulate(matched.parts, initial=0.0)]
    return [end - start for start, end in pairwise(ends)]


def _short(matched: Matched) -> Settings:
    return {
        "student.policy": {"name": "all"},
        "student.training.epochs": matched.total / matched.samples,
        # The warm-up keeps its share of the schedule; all of its steps might never end here.
        "student.training.schedule.warmup_steps": round(matched.warmup_steps * matched.fraction),
    }


CONTROLS: dict[str, Control] = {
    "random": Control(
        "random, as many as {arm}",
        lambda run: _subset(run, _even(run), redraw=True),
        at_budget="random, drawn anew",
    ),
    "random-counts": Control(
        "random, {arm}'s count each epoch",
        lambda run: _subset(run, run.rows, redraw=True),
    ),
    "random-static": Control(
        "fixed random subset, as {arm}",
        lambda run: _subset(run, _even(run), redraw=False),
        at_budget="fixed random subset",
    ),
    "short": Control("all, fewer epochs, as {arm}", _short, at_budget="all, fewer epochs"),
}

COPYING = ("random-counts",)
"""Controls that copy a run epoch by epoch: none of them has a budget of its own."""
