"""The figures of accuracy over what it costs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal

from frugalkd.experiments.report.blocks import Cell, Figure, Table
from frugalkd.experiments.report.figures import label, plot_of
from frugalkd.experiments.report.spacing import side_by_side
from frugalkd.experiments.report.text import NOTHING, half_width, inline, percent, points, short
from frugalkd.experiments.runs.schema import Arm, Spread

_BEYOND = 1.1
"""How far a bar may reach, as a part of the dearest arm's cost."""

_TOLD = 6
"""Arms of a frontier that are told in words."""

_COSTS = {
    "budget": "samples backpropagated, % of full distillation",
    "time": "time of training, % of {}'s",
}


def frontier(
    arms: Sequence[Arm],
    look: Mapping[str, Mapping[str, Any]],
    axis: Literal["budget", "time"],
    reference: str,
    named: Collection[str] = (),
) -> Figure:
    """Accuracy over what it costs; arms made to spend several budgets are a line. Those ``named``
    have their names beside their points; those of the same samples stand side by side."""
    known = [a for a in arms if _cost(a, axis).mean is not None and a.accuracy.mean is not None]
    places = {arm.arm: _x(arm, axis) for arm in known}
    if axis == "budget" and places:
        places = side_by_side(places)
    on = sorted((arm for arm in known if _on(arm, axis)), key=lambda arm: _x(arm, axis))
    traces: list[dict[str, Any]] = [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [_x(arm, axis) for arm in on],
            "y": [_y(arm) for arm in on],
            "name": "frontier",
            "line": {"shape": "hv", "dash": "dot", "width": 2},
            "hoverinfo": "skip",
            "meta": {"colour": "quiet", "shown": True},
        }
    ]
    for family, style in look.items():
        own = sorted((a for a in known if a.family == family), key=lambda arm: _x(arm, axis))
        if own:
            traces.append(_line(family, own, axis, style, places, named))
    cost = "samples" if axis == "budget" else "time"
    names = [
        f"{inline(arm.arm)} ({percent(arm.accuracy.mean)} with {percent(_cost(arm, axis).mean, 0)})"
        for arm in on
    ]
    if len(names) > _TOLD + 1:
        names[_TOLD:] = [f"and {len(names) - _TOLD} more"]
    says = (
        f"{len(on)} of {len(known)} arms are on the frontier: none is as accurate with "
        f"{'less time' if cost == 'time' else 'fewer samples'}. From the left: "
        f"{', '.join(names) or 'none'}."
    )
    table = Table(
        f"Accuracy over {cost}",
        ["arm", f"{cost} %", "accuracy %", "on the frontier"],
        [
            [
                Cell(short(arm.arm)),
                Cell(_spread(_cost(arm, axis)), _x(arm, axis)),
                Cell(points(arm.accuracy), _y(arm)),
                Cell("yes" if _on(arm, axis) else "no"),
            ]
            for arm in sorted(known, key=lambda arm: _x(arm, axis))
        ],
        [False, True, True, False],
    )
    plot = plot_of(traces, x=_COSTS[axis].format(label(reference)), y="accuracy, %")
    plot["layout"]["xaxis"]["rangemode"] = "tozero"
    return Figure(
        f"frontier-{axis}",
        f"Accuracy over {cost}",
        plot,
        says,
        table,
    )


def _line(
    family: str,
    arms: Sequence[Arm],
    axis: Literal["budget", "time"],
    style: Mapping[str, Any],
    places: Mapping[str, float],
    named: Collection[str],
) -> dict[str, Any]:
    costs = [_cost(arm, axis) for arm in arms]
    most = _BEYOND * max(places.values())
    unit = "the samples" if axis == "budget" else "the time"
    edge = max(places.values()) / 5  # left of it there is no room for a name
    told = [arm.arm in named for arm in arms]
    sides = ["right" if places[arm.arm] <= edge else "left" for arm in arms]
    mode = ["lines"] * (len(arms) > 1) + ["markers"] + ["text"] * any(told)
    return {
        "type": "scatter",
        "mode": "+".join(mode),
        "name": label(family),
        "x": [places[arm.arm] for arm in arms],
        "y": [_y(arm) for arm in arms],
        "text": [label(arm.arm) if own else "" for arm, own in zip(arms, told, strict=True)],
        "textposition": [
            f"{'bottom' if arm.control else 'top'} {side}"
            for arm, side in zip(arms, sides, strict=True)
        ],
        "hovertext": [label(arm.arm) for arm in arms],
        "customdata": [_x(arm, axis) for arm in arms],  # where it is, if it stands aside
        "error_x": {**_bars(costs, most), "thickness": 1, "width": 3},
        "error_y": {**_bars([arm.accuracy for arm in arms], 100), "thickness": 1.5, "width": 4},
        "marker": {
            "symbol": style["symbol"],
            "opacity": 1,
            "size": [13 if own else 10 for own in told],
        },
        "line": {"width": 1.5},
        "hovertemplate": "%{hovertext}<br>%{y:.2f} % with %{customdata:.1f} % of "
        f"{unit}<extra></extra>",
        "meta": {"colour": style["colour"], "shown": style["shown"]},
    }


def _bars(values: Sequence[Spread], most: float) -> dict[str, Any]:
    """Error bars of means in percent, within 0 and ``most``: the interval of two seeds may be
    longer than the axis."""
    half = [half_width(value) or 0.0 for value in values]
    means = [100 * (value.mean or 0.0) for value in values]
    return {
        "symmetric": False,
        "array": [max(0.0, min(h, most - mean)) for h, mean in zip(half, means, strict=True)],
        "arrayminus": [min(h, mean) for h, mean in zip(half, means, strict=True)],
    }


def _cost(arm: Arm, axis: Literal["budget", "time"]) -> Spread:
    return arm.budget if axis == "budget" else arm.wall_ratio


def _on(arm: Arm, axis: Literal["budget", "time"]) -> bool:
    return arm.frontier is not None and getattr(arm.frontier, axis)


def _x(arm: Arm, axis: Literal["budget", "time"]) -> float:
    return 100 * (_cost(arm, axis).mean or 0.0)


def _y(arm: Arm) -> float:
    return 100 * (arm.accuracy.mean or 0.0)


def _spread(value: Spread) -> str:
    return NOTHING if value.mean is None else points(value, digits=1)
