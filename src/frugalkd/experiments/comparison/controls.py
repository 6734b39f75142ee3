"""Controls: the cheap alternatives, made to cost as many samples as the run that they match."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any

from frugalkd.errors import RecipeError
from frugalkd.experiments.recipes.schema import Recipe

TOLERANCE = 0.005
"""How far a control's samples may be from those of the run that it matches, as a fraction."""

Settings = dict[str, Any]


@dataclass(frozen=True)
class Control:
    """``about``: what it does, with a place for the ``{arm}`` that it matches; ``at_budget``: the
    same at a budget, or "" where it copies a run epoch by epoch and has no budget of its own."""

    about: str
    at_budget: str = ""


CONTROLS = {
    "random": Control("random, as many as {arm}", "random, redrawn"),
    "random-counts": Control("random, {arm}'s count each epoch"),
    "random-static": Control("fixed random subset, as {arm}", "fixed random subset"),
    "short": Control("all, fewer epochs, as {arm}", "all, fewer epochs"),
}


def control_settings(control: str, results: dict[str, Any]) -> Settings:
    """What turns the recipe of a finished run into its control ``control``.

    The objective, the teacher and the rest of the training stay; weights become uniform. A short
    last batch trains, or the control could not match.

    Args:
        control: a key of :data:`CONTROLS`.
        results: the matched run's ``results.json``.

    Raises:
        RecipeError: the run trained on nothing, so that nothing can match it.
    """
    training, samples = results["recipe"]["student"]["training"], results["train_samples"]
    epochs, warmup = training["epochs"], training["schedule"]["warmup_steps"]
    rows = [int(record["rows"]) for record in results["history"]]
    total = sum(rows)
    if not total:
        raise RecipeError("the run that it matches trained on no sample: nothing can match it")
    fraction = total / (samples * epochs)
    if control == "short":
        settings = _short(total / samples, warmup * fraction)
    else:
        # How much of each epoch is trained: 1, the last one perhaps less.
        parts = [min(1.0, epochs - epoch) for epoch in range(len(rows))]
        if control != "random-counts":
            # The constant fraction, to a row in every epoch: a fraction alone would be rounded the
            # same way in every epoch, and few rows would then not match.
            share = total / sum(parts)
            ends = [round(share * end) for end in accumulate(parts, initial=0.0)]
            rows = [end - start for start, end in pairwise(ends)]
        counts = [
            min(samples, round(wanted / part)) for wanted, part in zip(rows, parts, strict=True)
        ]
        settings = _random(control, min(1.0, fraction), counts=counts)
    return {**settings, "student.training.drop_last": False}


def budget_settings(control: str, recipe: Recipe, budget: float) -> Settings:
    """What turns ``recipe`` into its control ``control`` that spends ``budget``, a fraction of all
    samples over the recipe's epochs, instead of another run's.

    Raises:
        RecipeError: a control that copies a run epoch by epoch, which needs that run.
    """
    if not CONTROLS[control].at_budget:
        raise RecipeError(f"{control} copies a run's epochs: write {control}:ARM@{budget:g}")
    training = recipe.student.training
    if control == "short":
        return _short(budget * training.epochs, budget * training.schedule.warmup_steps)
    return _random(control, budget)


def _short(epochs: float, warmup: float) -> Settings:
    # The warm-up keeps its share of the schedule; all of its steps might never end here.
    schedule = {"student.training.schedule.warmup_steps": round(warmup)}
    return {**_with_policy(name="all"), "student.training.epochs": epochs, **schedule}


def _random(control: str, fraction: float, **more: Any) -> Settings:
    redraw = control != "random-static"
    return _with_policy(name="random", fraction=fraction, redraw=redraw, **more)


def _with_policy(**policy: Any) -> Settings:
    return {"student.mode": None, "student.weighting": "uniform", "student.policy": policy}
