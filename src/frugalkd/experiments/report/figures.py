"""The figures of a page and of a paper, as plain dicts for plotly.js (:mod:`.paper` draws the same
with matplotlib). They hold no colour: a trace's ``meta`` has the number of its colour, and whether
the page shows it from the start."""

from __future__ import annotations

import html
from collections.abc import Collection, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple

from frugalkd.experiments.report.blocks import (
    Figure,
    Table,
    amount,
    estimate,
    fraction,
    inline,
    number,
    percent,
    seconds,
    short,
)
from frugalkd.experiments.runs.schema import (
    ArmRecord,
    Comparison,
    LedgerSummary,
    RunRecord,
    Shares,
    Spread,
)

SHOWN = 12
"""Lines of a figure that are shown from the start; the others by a click on their names."""

CLASSES = 40
"""Bars of the figure of classes: of more, half of them from either end."""

DASHES = ("solid", "dash", "dot", "dashdot", "longdash")
_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon", "star", "hexagon")
_COLOURS = 10
_IN_WORDS = 6
"""Arms of a figure that its sentence names."""
_STEADY = 0.005
"""A smaller change, as a fraction of the samples, is described as none."""
_BEYOND = 1.1
"""How far an error bar may reach, relative to the most expensive arm's cost."""
_ASIDE, _GROUP = 0.01, 0.03  # of the axis: between neighbours, and from the first to the last


class Axis(NamedTuple):
    """What an arm costs: the field of :class:`Arm` that has it, times ``scale``; how sentences and
    the axis call it; and its ``unit``."""

    field: str
    scale: float
    noun: str
    less: str
    label: str
    unit: str


AXES = {
    "cost": Axis("cost", 1, "cost", "less cost", "cost, epochs of full distillation", "epochs"),
    "budget": Axis(
        "budget", 100, "samples", "fewer samples",
        "samples backpropagated, % of full distillation", "%",
    ),
    "time": Axis(
        "wall_ratio", 100, "time", "less time", "time of training, % of {reference}'s", "%"
    ),
}  # fmt: skip
"""The frontiers, in the order of the page."""

Styles = Mapping[str, Mapping[str, Any]]
"""``colour``, ``symbol`` and ``shown`` of each family of arms."""


def label(name: str) -> str:
    """A name that plotly takes for text and nothing else."""
    return html.escape(short(name, 32))


def styles(arms: Sequence[ArmRecord], reference: str, shown: Collection[str] = ()) -> Styles:
    """Colour and symbol of each family of arms, the same in all figures: the first colour is the
    reference's alone, the others follow in their order. Families in ``shown`` are shown from the
    start, whatever their place."""
    families = dict.fromkeys(arm.family for arm in sorted(arms, key=lambda a: a.arm != reference))
    return {
        family: {
            "colour": _colour(place),
            "symbol": _SYMBOLS[place % len(_SYMBOLS)],
            "shown": place < SHOWN or family in shown,
        }
        for place, family in enumerate(families)
    }


def _colour(place: int) -> int:
    return 0 if place == 0 else 1 + (place - 1) % (_COLOURS - 1)


def frontier(
    comparison: Comparison,
    axis: str,
    styles: Styles,
    named: Collection[str] = (),
) -> Figure | None:
    """Accuracy over what it costs (``axis`` is one of :data:`AXES`); the budgets of an arm are
    joined by a line. Arms in ``named`` have their names beside their points; those at the same
    place are drawn side by side. None where no arm has both a cost and an accuracy."""
    at = AXES[axis]
    cost = attrgetter(at.field)
    costs = {a.arm: cost(a).mean for a in comparison.arms if a.accuracy.mean is not None}
    x = {name: at.scale * mean for name, mean in costs.items() if mean is not None}
    if not x:
        return None
    known = sorted((arm for arm in comparison.arms if arm.arm in x), key=lambda arm: x[arm.arm])
    y = {arm.arm: 100 * (arm.accuracy.mean or 0.0) for arm in known}
    best = [arm for arm in known if arm.frontier is not None and getattr(arm.frontier, axis)]
    places = x if axis == "time" else side_by_side(x)
    edge = max(places.values()) / 5  # left of it there is no room for a name
    hover = (
        f"%{{hovertext}}<br>%{{y:.2f}} %, {at.noun} %{{customdata:.1f}} {at.unit}<extra></extra>"
    )
    traces: list[dict[str, Any]] = [
        {
            "mode": "lines",
            "x": [x[arm.arm] for arm in best],
            "y": [y[arm.arm] for arm in best],
            "name": "frontier",
            "line": {"shape": "hv", "dash": "dot", "width": 2},
            "hoverinfo": "skip",
            "meta": {"colour": "quiet", "shown": True},
        }
    ]
    for family, style in styles.items():
        own = [arm for arm in known if arm.family == family]
        if not own:
            continue
        with_name = [arm.arm in named for arm in own]
        traces.append(
            {
                "mode": "lines+" * (len(own) > 1) + "markers" + "+text" * any(with_name),
                "name": label(family),
                "x": [places[arm.arm] for arm in own],
                "y": [y[arm.arm] for arm in own],
                "text": [label(a.arm) * has for a, has in zip(own, with_name, strict=True)],
                "textposition": [
                    f"{'bottom' if a.control else 'top'} {'right' if x[a.arm] <= edge else 'left'}"
                    for a in own
                ],
                "hovertext": [label(arm.arm) for arm in own],
                "customdata": [x[arm.arm] for arm in own],  # not moved aside
                "error_x": _error_bars(
                    [cost(arm) for arm in own], at.scale, _BEYOND * max(places.values())
                ),
                "error_y": _error_bars([arm.accuracy for arm in own], 100, 100),
                "marker": {
                    "symbol": style["symbol"],
                    "size": [13 if has else 10 for has in with_name],
                },
                "line": {"width": 1.5},
                "hovertemplate": hover,
                "meta": {"colour": style["colour"], "shown": style["shown"]},
            }
        )
    digits = 1 if axis == "cost" else 0
    names = [
        f"{inline(arm.arm)} ({percent(arm.accuracy.mean)}, {at.noun} "
        f"{number(x[arm.arm], digits)} {at.unit})"
        for arm in best
    ]
    if len(names) > _IN_WORDS + 1:
        names[_IN_WORDS:] = [f"and {len(names) - _IN_WORDS} more"]
    split = f"{label(comparison.split)} " if comparison.split else ""
    what = label(comparison.measure)
    to = at.label.format(reference=label(comparison.reference))
    plot = _plot(traces, x=to, y=f"{split}{what}, %")
    plot["layout"]["xaxis"]["rangemode"] = "tozero"
    rows = []
    for arm in known:
        spent, on_it = amount(x[arm.arm], 1), "yes" if arm in best else "no"
        rows.append([short(arm.arm), spent, estimate(arm.accuracy), on_it])
    return Figure(
        f"frontier-{axis}",
        f"{what.capitalize()} over {at.noun}",
        plot,
        f"{len(best)} of {len(known)} arms are on the frontier: no other arm is as good with "
        f"{at.less}. From the left: {', '.join(names) or 'none'}.",
        Table(
            f"{what.capitalize()} over {at.noun}",
            ["arm", f"{at.noun}, {at.unit}", f"{what} %", "on the frontier"],
            rows,
        ),
    )


def _error_bars(values: Sequence[Spread], scale: float, most: float) -> dict[str, Any]:
    """95 % intervals times ``scale``, within 0 and ``most``: the interval of two seeds may be
    longer than the axis."""
    bars: dict[str, Any] = {"symmetric": False, "array": [], "arrayminus": []}
    for value in values:
        mean = value.mean or 0.0
        low, high = value.ci95 or (mean, mean)
        bars["array"].append(max(0.0, min(scale * high, most) - scale * mean))
        bars["arrayminus"].append(max(0.0, scale * (mean - max(low, 0.0))))
    return bars


def side_by_side(places: Mapping[str, float]) -> dict[str, float]:
    """Where points of the given ``places`` are drawn: those that share one next to each other, so
    that their intervals can be seen."""
    axis = max(places.values())
    groups: list[list[str]] = []
    for name in sorted(places, key=lambda name: places[name]):
        if not groups or places[name] - places[groups[-1][0]] > _ASIDE * axis:
            groups.append([])
        groups[-1].append(name)
    found = dict(places)
    order = list(places)  # that of the figure's legend
    for group in (group for group in groups if len(group) > 1):
        middle = sum(places[name] for name in group) / len(group)
        step = axis * min(_ASIDE, _GROUP / (len(group) - 1))
        for place, name in enumerate(sorted(group, key=order.index)):
            found[name] = middle + step * (place - (len(group) - 1) / 2)
    return found


def participation(
    comparison: Comparison, styles: Styles, shown: Collection[str] = ()
) -> Figure | None:
    """Which fraction of the samples each arm trained on, by epoch: a colour for each family, a dash
    for each budget. None where no arm has a history."""
    budgets = sorted({a.target_budget for a in comparison.arms if a.target_budget is not None})
    lines = []
    for arm in comparison.arms:
        if arm.history is not None and arm.history.trained:
            style = {**styles[arm.family], "shown": arm.arm in shown, "family": label(arm.family)}
            if arm.target_budget is not None:
                style["dash"] = DASHES[budgets.index(arm.target_budget) % len(DASHES)]
                style["budget"] = f"{100 * arm.target_budget:g} %"
            lines.append((arm.arm, arm.history, style))
    return _by_epoch(lines, "samples that trained, %") if lines else None


def run_participation(run: RunRecord) -> Figure | None:
    """What a run trained on by epoch, what of it failed the gate, and what was screened. None where
    it has no epochs."""
    shares = run.shares
    if shares is None or not shares.trained:
        return None
    lines = [("trained", shares, {"colour": 1, "shown": True})]
    for place, (name, other) in enumerate(
        (("failed the gate", shares.participations), ("screened", shares.screened)), start=1
    ):
        if any(other) and other != shares.trained:  # the first line would cover it
            style = {"colour": 1 + place, "shown": True, "dash": DASHES[place]}
            lines.append((name, shares.model_copy(update={"trained": other}), style))
    return _by_epoch(lines, "samples, %")


def _by_epoch(lines: Sequence[tuple[str, Shares, Mapping[str, Any]]], y: str) -> Figure:
    """``lines``: name, shares, style."""
    traces = [
        {
            "mode": "lines+markers" if len(shares.trained) < 2 else "lines",
            "name": label(name),
            "legendgroup": style.get("family", label(name)),
            "x": shares.epochs,
            "y": [100 * share for share in shares.trained],
            "line": {"width": 2, "dash": style.get("dash", "solid")},
            "hovertemplate": "%{fullData.name}<br>epoch %{x}: %{y:.1f} %<extra></extra>",
            "meta": {key: style[key] for key in ("colour", "shown", "budget") if key in style},
        }
        for name, shares, style in lines
    ]
    courses: dict[str, list[str]] = {}
    rows = []
    for name, shares, _ in lines:
        first, last, mean = shares.trained[0], shares.trained[-1], _mean(shares.trained)
        steady = max(shares.trained) - min(shares.trained) < _STEADY
        course = f"{percent(mean)} throughout" if steady else f"{percent(first)} to {percent(last)}"
        courses.setdefault(course, []).append(inline(name))
        parts = (first, last, mean, _mean(shares.participations))
        rows.append([short(name), *map(fraction, parts)])
    in_words = [f"{', '.join(names)}: {course}" for course, names in courses.items()]
    every = max(shares.every for _, shares, _ in lines)
    epoch = "epoch" if every == 1 else "epochs"
    headings = ["", f"first {epoch}", f"last {epoch}", "mean", "of these failing their gate, mean"]
    return Figure(
        "participation",
        "Samples that trained, by epoch",
        _plot(traces, x="epoch", y=y, from_zero=True),
        f"From the first {epoch} to the last: {'; '.join(in_words[: _IN_WORDS - 1])}"
        + ("; the others are in the table." if len(in_words) >= _IN_WORDS else ".")
        + ("" if every == 1 else f" Of many epochs up to {every} at a time are averaged."),
        Table("Samples that trained", headings, rows),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / max(len(values), 1)


def by_class(summary: LedgerSummary, what: str) -> Figure:
    """Mean significance (of a student: participation) of each class."""
    classes = summary.classes
    half = CLASSES // 2
    few = len(classes) <= CLASSES
    shown = classes if few else [*classes[:half], *classes[-half:]]
    # Places, not names: two classes may be cut to the same name.
    places = [place + (not few and place >= half) for place in range(len(shown))]
    names = [record.name for record in shown]
    means = [record.mean for record in shown]
    bars = _bars(what, 1, names, "%{text}: %{x:.3f}", x=means, y=places, orientation="h")
    plot = _plot([bars], x=f"mean {what}", y="", height=90 + 24 * (places[-1] + 1))
    plot["layout"]["yaxis"] |= _names(places, names)
    plot["layout"]["xaxis"]["range"] = [0, 1]
    said = f"Class {inline(classes[0].name)} has the highest mean {what}: {classes[0].mean:.3f}"
    if len(classes) > 1:
        said += f"; {inline(classes[-1].name)} the lowest: {classes[-1].mean:.3f}"
    said += "." if few else f". The {half} highest and the {half} lowest are drawn."
    if summary.classes_left_out:
        said += f" {summary.classes_left_out:,} classes in between are left out."
    headings = ["class", "samples", "mean", "never used", "in every epoch"]
    rows = [
        [short(c.name), amount(c.samples), amount(c.mean, 3), fraction(c.never), fraction(c.always)]
        for c in classes
    ]
    table = Table(f"{what.capitalize()} by class", headings, rows)
    return Figure("classes", f"Mean {what} by class", plot, said, table)


def histogram(summary: LedgerSummary, what: str) -> Figure:
    """How many samples have how much of it."""
    counts = summary.histogram
    width = 1 / len(counts)
    bins = [f"{k / len(counts):.1f}–{(k + 1) / len(counts):.1f}" for k in range(len(counts))]
    middles = [(place + 0.5) * width for place in range(len(counts))]
    hover = "%{text}: %{y:,} samples"
    bars = _bars("samples", 1, bins, hover, x=middles, y=counts, width=0.9 * width)
    plot = _plot([bars], x=what, y="samples", height=260, from_zero=True)
    plot["layout"]["xaxis"] |= {"range": [0, 1], "dtick": 0.2}
    rows = [[name, amount(count)] for name, count in zip(bins, counts, strict=True)]
    return Figure(
        "histogram",
        f"Samples by {what}",
        plot,
        f"{percent(summary.never)} of {number(summary.samples)} samples were never used, "
        f"{percent(summary.always)} in every epoch; the mean is {summary.mean:.3f}.",
        Table(f"Samples by {what}", [what, "samples"], rows),
    )


def phases(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Figure:
    """Seconds of training by phase; ``rows``: name, seconds of each phase."""
    total = {phase: sum(of.get(phase, 0.0) for _, of in rows) for _, of in rows for phase in of}
    used = [phase for phase in total if total[phase] > 0]
    order = sorted(used, key=lambda phase: (phase == "other", -total[phase]))
    names, places = [name for name, _ in rows], list(range(len(rows)))
    traces = [
        _bars(
            label(phase), "quiet" if phase == "other" else _colour(place), names,
            "%{text}<br>%{fullData.name}: %{x:.1f} s", orientation="h",
            x=[spent.get(phase, 0.0) for _, spent in rows], y=places,
        )
        for place, phase in enumerate(order, start=1)
    ]  # fmt: skip
    plot = _plot(traces, x="seconds of training", y="", height=100 + 26 * len(rows))
    plot["layout"]["barmode"] = "stack"
    plot["layout"]["yaxis"] |= _names(places, names)
    longest, spent = max(rows, key=lambda row: sum(row[1].values()))
    said = f"{inline(longest)} takes longest, " if len(rows) > 1 else "It took "
    most = max(spent, key=lambda phase: spent[phase], default="nothing")
    table = [
        [short(name), amount(sum(of.values()), 1), *(amount(of.get(p, 0.0), 1) for p in order)]
        for name, of in rows
    ]
    return Figure(
        "phases",
        "Seconds of training, by phase",
        plot,
        f"{said}{seconds(sum(spent.values()))}, most of it in {short(most)}.",
        Table("Seconds by phase", ["", "all", *map(short, order)], table),
    )


def _bars(
    name: str, colour: int | str, texts: Sequence[str], hover: str, **own: Any
) -> dict[str, Any]:
    return {
        "type": "bar",
        "name": name,
        "text": [label(text) for text in texts],
        "textposition": "none",
        "hovertemplate": f"{hover}<extra></extra>",
        "meta": {"colour": colour, "shown": True},
        **own,
    }


def _names(places: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    """An axis of names, the first on top; ``narrow`` are those where there is little room."""
    return {
        "tickmode": "array",
        "tickvals": list(places),
        "ticktext": [label(name) for name in names],
        "narrow": [label(short(name, 18)) for name in names],
        "autorange": "reversed",
        "automargin": True,
    }


def _plot(
    traces: list[dict[str, Any]], *, x: str, y: str, height: int = 420, from_zero: bool = False
) -> dict[str, Any]:
    """plotly's figure with titles on its axes; ``height`` is in pixels."""
    rangemode = {"rangemode": "tozero"} if from_zero else {}
    return {
        "data": traces,
        "layout": {
            "xaxis": {"title": {"text": x}},
            "yaxis": {"title": {"text": y}, **rangemode},
            "height": height,
        },
    }
