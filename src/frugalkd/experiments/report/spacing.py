"""Where points stand in a figure that would cover each other."""

from __future__ import annotations

from collections.abc import Mapping

_ASIDE, _GROUP = 0.01, 0.03  # of the axis: between neighbours, and from the first to the last


def side_by_side(places: Mapping[str, float]) -> dict[str, float]:
    """Where the names stand on the axis: in place, but those that share one next to each other, so
    that their intervals can be seen."""
    axis = max(places.values())
    groups: list[list[str]] = []
    for name in sorted(places, key=lambda name: places[name]):
        if not groups or places[name] - places[groups[-1][0]] > _ASIDE * axis:
            groups.append([])
        groups[-1].append(name)
    found = {}
    for group in groups:
        middle = sum(places[name] for name in group) / len(group)
        step = axis * min(_ASIDE, _GROUP / max(len(group) - 1, 1))
        # In the order of the figure's legend, which is that of ``places``.
        for number, name in enumerate(sorted(group, key=list(places).index)):
            aside = step * (number - (len(group) - 1) / 2)
            found[name] = places[name] if len(group) == 1 else middle + aside
    return found
