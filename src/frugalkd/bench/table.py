"""A case's outcome on a terminal, within 80 columns."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frugalkd.show import percent


def case_view(content: dict[str, Any]) -> RenderableType:
    """The content of ``CASE.json`` as two tables: the arms, and the ratios."""
    arms = [arm for arm in content["arms"] if arm["seconds"] is not None]
    threads = content["threads"]
    title = f"{content['case']}: {content['summary']} ({threads} thread{'s' * (threads > 1)})"
    parts: list[RenderableType] = []
    if content["quick"]:
        parts.append(Text("A quick look at whether it works: no results.", "yellow"))
    parts += [Text(title, "bold"), _arms_table(arms)]
    if any(arm["scaled"] for arm in arms):
        parts.append(Text("* a part of the epochs was run, the seconds are those of all", "dim"))
    ratios = [ratio for ratio in content["ratios"] if ratio["value"] is not None]
    if ratios:
        parts.append(_ratios_table(ratios))
    return Group(*parts)


def _arms_table(arms: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for name in ("runs", "seconds", "min – max", "accuracy", "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        accuracy = arm["accuracy"]
        table.add_row(
            arm["arm"] + ("*" if arm["scaled"] else ""),
            str(arm["seconds"]["n"]),
            seconds(arm["seconds"]["median"]),
            f"{seconds(arm['seconds']['min'])} – {seconds(arm['seconds']['max'])}",
            "-" if accuracy is None else percent(accuracy["median"], 2),
            percent(arm["budget"]["median"]),
        )
    return table


def _ratios_table(ratios: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("ratio of times", overflow="fold")
    for name in ("median", "min – max", "must", "aim"):
        table.add_column(name, justify="right", no_wrap=True)
    for ratio in ratios:
        value = ratio["value"]
        table.add_row(
            ratio["ratio"],
            figure(value["median"]),
            f"{figure(value['min'])} – {figure(value['max'])}",
            bound(ratio, "must"),
            bound(ratio, "aim"),
        )
    return table


def seconds(value: float) -> str:
    """Seconds with as many digits as speak."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def figure(value: float) -> str:
    """A ratio: two decimals, three near 1, where they matter."""
    return (
        f"{value:.1f}" if value >= 10 else f"{value:.3f}" if 0.9 < value < 1.2 else f"{value:.2f}"
    )


def bound(ratio: dict[str, Any], which: str) -> str:
    """A figure to reach, and whether it is: ``≥ 12 yes``."""
    if ratio[which] is None:
        return ""
    sign = "≤" if ratio["at_most"] else "≥"
    return f"{sign} {ratio[which]:g} {'yes' if ratio['reached'][which] else 'no'}"
