"""What a figure shows, as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from frugalkd.errors import PlotError, nearest
from frugalkd.experiments.runs.schema import Arm, Comparison, Run

FIGURES = ("frontier", "participation")


@dataclass(frozen=True)
class Family:
    """Arms that differ in their budget alone. ``place`` says colour and marker; 0 is the
    reference's."""

    name: str
    place: int
    arms: list[Arm]


@dataclass(frozen=True)
class Line:
    """Parts of the samples, and the epochs that they are of; ``dash`` 0 is solid."""

    name: str
    place: int
    dash: int
    shares: list[float]
    epochs: list[float]


@dataclass(frozen=True)
class Content:
    """Panels from the left, and what is in them."""

    panels: list[str]
    lines: list[Line]
    seeds: list[int]
    caption: str
    families: list[Family] = field(default_factory=list)
    dashes: list[str] = field(default_factory=list)  # what they stand for, where they stand for it
    accuracy: str = "accuracy"
    reference: str = ""

    @property
    def arms(self) -> list[str]:
        """The names of the arms that are shown."""
        return [arm.arm for family in self.families for arm in family.arms]


def of_run(run: Run, figure: str | None) -> Content:
    """A single run: what trained, what failed its gate, what was looked at.

    Raises:
        PlotError: it has no epochs, or a frontier is asked for.
    """
    if figure == "frontier":
        raise PlotError("one run has no frontier: name the folder of a comparison")
    shares = run.shares
    if shares is None or not shares.trained:
        raise PlotError("there is nothing to plot: the run has no epochs")
    own = {
        "trained": shares.trained,
        "failed the gate": shares.participations,
        "screened": shares.screened,
    }
    lines = [
        Line(name, place + 1, place, parts, shares.epochs)
        for place, (name, parts) in enumerate(own.items())
    ]
    # A line that the first would cover says nothing.
    others = [line for line in lines[1:] if any(line.shares) and line.shares != lines[0].shares]
    caption = "Samples of one run by epoch, as parts of the training set."
    return Content(["participation"], [lines[0], *others], [run.seed], caption)


def of_comparison(found: Comparison, figure: str | None, wanted: Sequence[str]) -> Content:
    """A comparison, or those of its arms that are ``wanted``.

    Raises:
        PlotError: an arm that it does not have, or nothing to show.
    """
    arms = _chosen(found, wanted)
    places = {family: place for place, family in enumerate(_families(found), start=1)}
    places[found.reference] = 0
    budgets = sorted({arm.budget_asked for arm in arms if arm.budget_asked is not None})
    measured = [a for a in arms if a.accuracy.mean is not None and a.budget.mean is not None]
    lines = [
        Line(
            arm.family,
            places[arm.family],
            0 if arm.budget_asked is None else budgets.index(arm.budget_asked),
            arm.history.trained,
            arm.history.epochs,
        )
        for arm in arms
        if arm.history is not None and arm.history.trained
    ]
    there = {"frontier": measured, "participation": lines}
    panels = [name for name in FIGURES if there[name] and figure in (None, name)]
    if not panels:
        what = "no run of these arms is finished" if not measured else "their histories are missing"
        raise PlotError(f"there is nothing to plot: {what}")
    families = [
        Family(name, places[name], sorted(own, key=lambda arm: arm.budget.mean or 0))
        for name in places
        if (own := [arm for arm in measured if arm.family == name])
    ]
    families.sort(key=lambda family: family.place)
    shares = [f"{100 * budget:g} %" for budget in budgets]
    split = f"{found.split} accuracy" if found.split else "accuracy"
    return Content(
        panels, lines, found.seeds, _caption(panels, measured, found), families,
        shares if len(shares) > 1 else [], split, found.reference,
    )  # fmt: skip


def _chosen(found: Comparison, wanted: Sequence[str]) -> list[Arm]:
    known = dict.fromkeys(name for arm in found.arms for name in (arm.family, arm.arm))
    for name in wanted:
        if name not in known:
            raise PlotError(f"unknown arm {name[:100]!r}: {nearest(name[:100], known)}")
    return [a for a in found.arms if not wanted or a.arm in wanted or a.family in wanted]


def _families(found: Comparison) -> list[str]:
    """In the comparison's order, whichever are chosen: an arm looks alike in all its figures."""
    names = dict.fromkeys(arm.family for arm in found.arms)
    return [name for name in names if name != found.reference]


def _caption(panels: Sequence[str], measured: Sequence[Arm], found: Comparison) -> str:
    said = []
    if "frontier" in panels:
        seeds = [len(arm.seeds) for arm in measured]
        of = f"{min(seeds)}" if min(seeds) == max(seeds) else f"{min(seeds)} to {max(seeds)}"
        bars = any(arm.accuracy.ci95 is not None for arm in measured)
        said.append(
            "Accuracy over samples backpropagated, of full distillation over the same epochs: the "
            f"mean of {of} seed{'s' if max(seeds) > 1 else ''}"
            f"{'; bars are 95 % intervals' if bars else ', without an interval'}. Arms of the same "
            "samples stand side by side."
        )
    if "participation" in panels:
        said.append("Samples that trained by epoch, as parts of the training set.")
    broken = [arm.arm for arm in measured if arm.collapsed]
    if broken:
        said.append(f"Runs collapsed or failed in: {', '.join(broken)}.")
    if not found.complete:
        said.append("The comparison is not complete.")
    return " ".join(said)
