"""The figures of a page, as plain dicts for plotly.js. They hold no colour: a trace's ``meta``
says which of the page's colours it takes, and whether it is shown from the start."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from typing import Any

from frugalkd.experiments.report.blocks import Cell, Figure, Table
from frugalkd.experiments.report.text import inline, number, percent, seconds, short
from frugalkd.experiments.runs.schema import Arm, LedgerSummary, Shares

SHOWN = 12
"""Lines of a figure that are shown from the start; the others by a click on their names."""

CLASSES = 40
"""Bars of the figure of classes: of more, half of them from either end."""

_SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "pentagon", "star", "hexagon")
_COLOURS = 10
_TOLD = 5
"""Courses of participation that are told in words."""
_STEADY = 0.005
"""What changes by less, as a part of the samples, is steady to a reader."""


def label(name: str) -> str:
    """A name that plotly takes for text and nothing else."""
    return html.escape(short(name, 32))


def styles(arms: Sequence[Arm], reference: str) -> dict[str, dict[str, Any]]:
    """Colour, symbol and place of each family of arms, the same in all figures: the reference has
    the first colour to itself, the others come in their order."""
    families = dict.fromkeys(arm.family for arm in sorted(arms, key=lambda a: a.arm != reference))
    return {
        family: {
            "colour": _colour(place),
            "symbol": _SYMBOLS[place % len(_SYMBOLS)],
            "shown": place < SHOWN,
        }
        for place, family in enumerate(families)
    }


def _colour(place: int) -> int:
    return 0 if place == 0 else 1 + (place - 1) % (_COLOURS - 1)


def participation(lines: Sequence[tuple[str, Shares, Mapping[str, Any]]]) -> Figure:
    """Which part of the samples trained, by epoch; ``lines``: name, shares, colour and symbol."""
    traces = [
        {
            "type": "scatter",
            "mode": "lines+markers" if len(shares.trained) < 2 else "lines",
            "name": label(name),
            "x": shares.epochs,
            "y": [100 * share for share in shares.trained],
            "line": {"width": 2, "dash": style.get("dash", "solid")},
            "hovertemplate": "%{fullData.name}<br>epoch %{x}: %{y:.1f} %<extra></extra>",
            "meta": {"colour": style["colour"], "shown": style["shown"]},
        }
        for name, shares, style in lines
    ]
    rows = []
    for name, shares, _ in lines:
        first, last = shares.trained[0], shares.trained[-1]
        mean = sum(shares.trained) / len(shares.trained)
        failed = sum(shares.participations) / max(len(shares.participations), 1)
        rows.append(
            [Cell(short(name)), *(Cell(percent(v), v) for v in (first, last, mean, failed))]
        )
    told: dict[str, list[str]] = {}
    for name, shares, _ in lines:
        told.setdefault(_course(shares), []).append(inline(name))
    said = [f"{', '.join(names)}: {course}" for course, names in told.items()]
    every = max(shares.every for _, shares, _ in lines)
    epoch = "epoch" if every == 1 else "epochs"
    return Figure(
        "participation",
        "Samples that trained, by epoch",
        plot_of(traces, x="epoch", y="samples that trained, %", from_zero=True),
        f"From the first {epoch} to the last: {'; '.join(said[:_TOLD])}"
        + ("; the others are in the table." if len(said) > _TOLD else ".")
        + ("" if every == 1 else f" Of many epochs up to {every} at a time are averaged."),
        Table(
            "Samples that trained",
            ["", f"first {epoch}", f"last {epoch}", "mean", "of these failing their gate, mean"],
            rows,
            [False, True, True, True, True],
        ),
    )


def _course(shares: Shares) -> str:
    """How the samples that trained went, from the first epoch to the last."""
    trained = shares.trained
    if max(trained) - min(trained) < _STEADY:
        return f"{percent(sum(trained) / len(trained))} throughout"
    return f"{percent(trained[0])} to {percent(trained[-1])}"


def by_class(summary: LedgerSummary, what: str) -> Figure:
    """Mean significance (of a student: participation) of each class."""
    classes = summary.classes
    half = CLASSES // 2
    few = len(classes) <= CLASSES
    shown = classes if few else [*classes[:half], *classes[-half:]]
    # Places, not names: two classes may be cut to the same name.
    places = [place + (not few and place >= half) for place in range(len(shown))]
    bars = {
        "type": "bar",
        "orientation": "h",
        "name": what,
        "y": places,
        "x": [record.mean for record in shown],
        "text": [label(record.name) for record in shown],
        "textposition": "none",
        "hovertemplate": "%{text}: %{x:.3f}<extra></extra>",
        "meta": {"colour": 1, "shown": True},
    }
    plot = plot_of([bars], x=f"mean {what}", y="", height=90 + 24 * (places[-1] + 1))
    plot["layout"]["yaxis"] |= _names(places, [record.name for record in shown])
    plot["layout"]["xaxis"]["range"] = [0, 1]
    left_out = summary.classes_left_out
    ends = f"Class {inline(classes[0].name)} has the highest mean {what}: {classes[0].mean:.3f}"
    if len(classes) > 1:
        ends += f"; {inline(classes[-1].name)} the lowest: {classes[-1].mean:.3f}"
    return Figure(
        "classes",
        f"Mean {what} by class",
        plot,
        f"{ends}."
        + ("" if few else f" The {half} highest and the {half} lowest are drawn.")
        + (f" {left_out:,} classes in between are left out." if left_out else ""),
        Table(
            f"{what.capitalize()} by class",
            ["class", "samples", "mean", "never took part", "in every epoch"],
            [
                [
                    Cell(short(record.name)),
                    Cell(number(record.samples), record.samples),
                    Cell(f"{record.mean:.3f}", record.mean),
                    Cell(percent(record.never), record.never),
                    Cell(percent(record.always), record.always),
                ]
                for record in classes
            ],
            [False, True, True, True, True],
        ),
    )


def histogram(summary: LedgerSummary, what: str) -> Figure:
    """How many samples have how much of it."""
    counts = summary.histogram
    width = 1 / len(counts)
    bins = [f"{k / len(counts):.1f}–{(k + 1) / len(counts):.1f}" for k in range(len(counts))]
    bars = {
        "type": "bar",
        "name": "samples",
        "x": [(place + 0.5) * width for place in range(len(counts))],
        "y": counts,
        "width": 0.9 * width,
        "text": bins,
        "textposition": "none",
        "hovertemplate": "%{text}: %{y:,} samples<extra></extra>",
        "meta": {"colour": 1, "shown": True},
    }
    plot = plot_of([bars], x=what, y="samples", height=260, from_zero=True)
    plot["layout"]["xaxis"] |= {"range": [0, 1], "dtick": 0.2}
    return Figure(
        "histogram",
        f"Samples by {what}",
        plot,
        f"{percent(summary.never)} of {number(summary.samples)} samples never took part, "
        f"{percent(summary.always)} in every epoch; the mean is {summary.mean:.3f}.",
        Table(
            f"Samples by {what}",
            [what, "samples"],
            [[Cell(name), Cell(number(n), n)] for name, n in zip(bins, counts, strict=True)],
            [False, True],
        ),
    )


def phases(rows: Sequence[tuple[str, Mapping[str, float]]]) -> Figure:
    """Seconds of training by what they went into; ``rows``: name, seconds by phase."""
    total = {}
    for _, spent in rows:
        for phase, value in spent.items():
            total[phase] = total.get(phase, 0.0) + value
    spent_on = [phase for phase in total if total[phase] > 0]
    names = sorted(spent_on, key=lambda phase: (phase == "other", -total[phase]))
    places = list(range(len(rows)))
    traces = [
        {
            "type": "bar",
            "orientation": "h",
            "name": label(phase),
            "y": places,
            "x": [spent.get(phase, 0.0) for _, spent in rows],
            "text": [label(name) for name, _ in rows],
            "textposition": "none",
            "hovertemplate": "%{text}<br>%{fullData.name}: %{x:.1f} s<extra></extra>",
            "meta": {"colour": "quiet" if phase == "other" else _colour(place), "shown": True},
        }
        for place, phase in enumerate(names, start=1)
    ]
    plot = plot_of(traces, x="seconds of training", y="", height=100 + 26 * len(rows))
    plot["layout"]["barmode"] = "stack"
    plot["layout"]["yaxis"] |= _names(places, [name for name, _ in rows])
    longest = max(rows, key=lambda row: sum(row[1].values()))
    who = f"{inline(longest[0])} takes longest, " if len(rows) > 1 else "It took "
    who += seconds(sum(longest[1].values()))
    most = max(longest[1], key=lambda phase: longest[1][phase], default="nothing")
    return Figure(
        "phases",
        "Seconds of training, by phase",
        plot,
        f"{who}, most of it in {short(most)}.",
        Table(
            "Seconds by phase",
            ["", "all", *map(short, names)],
            [
                [
                    Cell(short(name)),
                    Cell(f"{sum(spent.values()):.1f}", sum(spent.values())),
                    *(Cell(f"{spent.get(p, 0.0):.1f}", spent.get(p, 0.0)) for p in names),
                ]
                for name, spent in rows
            ],
            [False, *[True] * (len(names) + 1)],
        ),
    )


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


def plot_of(
    traces: list[dict[str, Any]], *, x: str, y: str, height: int = 420, from_zero: bool = False
) -> dict[str, Any]:
    """plotly's figure of ``traces`` with titles on its axes; ``height`` is in pixels."""
    layout: dict[str, Any] = {
        "xaxis": {"title": {"text": x}},
        "yaxis": {"title": {"text": y}},
        "height": height,
    }
    if from_zero:
        layout["yaxis"]["rangemode"] = "tozero"
    return {"data": traces, "layout": layout}
