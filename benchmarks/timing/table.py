"""The results of a case on a terminal, within 80 columns."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frugalkd.cli.show import TextTable, percent
from frugalkd.files.parsing import printable


def case_view(content: dict[str, Any]) -> RenderableType:
    """The content of ``CASE.json`` as tables: the arms, the ratios, the figures."""
    arms = [arm for arm in content["arms"] if arm["seconds"] is not None]
    threads = content["threads"]
    title = f"{content['case']}: {content['summary']} ({threads} thread{'s' * (threads > 1)})"
    parts: list[RenderableType] = []
    if content["quick"]:
        parts.append(Text("A quick run that only checks that it works: not a result.", "yellow"))
    parts.append(Text(printable(title), "bold"))
    if arms:
        parts.append(_arms_table(arms, content["per_rows"]))
    if any(arm["scaled"] for arm in arms):
        parts.append(Text("* only some epochs were run; the seconds are scaled to all", "dim"))
    ratios = [ratio for ratio in content["ratios"] if ratio["value"] is not None]
    if ratios:
        parts.append(_bounds_table("ratio of times", ratios, "ratio"))
    if content["figures"]:
        parts.append(_bounds_table("figure", content["figures"], "about"))
    return Group(*parts)


def _arms_table(arms: list[dict[str, Any]], per_rows: bool) -> Table:
    table = TextTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    key = "seconds_per_1000" if per_rows else "seconds"
    unit = "s / 1000 rows" if per_rows else "seconds"
    measured = any(arm["accuracy"] is not None for arm in arms)
    for name in ("runs", unit, "min – max", *(["accuracy"] if measured else []), "budget"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in arms:
        accuracy = percent(arm["accuracy"]["median"], 2) if arm["accuracy"] else "-"
        table.add_row(
            arm["arm"] + ("*" if arm["scaled"] else ""),
            str(arm[key]["n"]),
            seconds(arm[key]["median"]),
            f"{seconds(arm[key]['min'])} – {seconds(arm[key]['max'])}",
            *([accuracy] if measured else []),
            percent(arm["budget"]["median"]),
        )
    return table


def _bounds_table(title: str, rows: list[dict[str, Any]], key: str) -> Table:
    table = TextTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column(title, overflow="fold")
    for name in ("median", "min – max", "must", "aim"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        value = row["value"]
        table.add_row(
            row[key],
            figure(value["median"]),
            f"{figure(value['min'])} – {figure(value['max'])}",
            bound(row, "must"),
            bound(row, "aim"),
        )
    return table


def plan_view(plan: dict[str, Any]) -> RenderableType:
    """What would be run (see ``run.planned``)."""
    table = TextTable(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("arm", overflow="fold")
    for name in ("epochs", "runs", "done", "seconds a run"):
        table.add_column(name, justify="right", no_wrap=True)
    for arm in plan["arms"]:
        known = "-" if arm["seconds"] is None else seconds(arm["seconds"])
        table.add_row(arm["arm"], _epochs(arm), str(arm["runs"]), str(arm["done"]), known)
    parts: list[RenderableType] = [Text(_duration(plan), "bold"), table]
    if plan["teacher"] is not None and not plan["teacher"]["there"]:
        parts.append(Text(f"first: teacher {plan['teacher']['name']} is trained", "dim"))
    return Group(*parts)


def _epochs(arm: dict[str, Any]) -> str:
    """The epochs of a run, and the total if only some are run."""
    if arm["epochs"] is None:
        return "-"
    part = "" if arm["epochs"] == arm["of"] else f" of {arm['of']:g}"
    return f"{arm['epochs']:g}{part}"


def _duration(plan: dict[str, Any]) -> str:
    """The expected time: from finished runs, else the estimate of the case."""
    left = [(arm["runs"] - arm["done"], arm["seconds"]) for arm in plan["arms"]]
    runs = sum(missing for missing, _ in left)
    what = "" if plan["samples"] is None else f" on {plan['samples']:,} samples"
    head = f"{plan['case']}: {runs} run{'s' * (runs != 1)} to do{what}"
    if runs == 0:
        return head
    if all(known is not None for missing, known in left if missing):
        rest = sum(missing * known for missing, known in left if missing)
        return f"{head}, about {max(1, round(rest / 60))} minutes, from finished runs"
    if plan["quick"]:
        return f"{head}, a few minutes"
    return f"{head}; the complete case takes about {plan['takes']} on one core"


def seconds(value: float) -> str:
    """Seconds with the significant digits."""
    if value < 0.1:
        return f"{value:.4f}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}" if value >= 10 else f"{value:.2f}"


def figure(value: float) -> str:
    """A ratio with two decimals, three near 1, or two digits below 0.1; a large number with three
    digits."""
    for power, name in _LARGE.items():
        if value >= 999.5 * 10 ** (power - 3):
            return f"{value / 10**power:.3g} {name}"
    if 0 < value < 0.1:
        return f"{value:.2g}"
    return (
        f"{value:.1f}" if value >= 10 else f"{value:.3f}" if 0.9 < value < 1.2 else f"{value:.2f}"
    )


_LARGE = {9: "G", 6: "M", 3: "k"}


def bound(ratio: dict[str, Any], which: str) -> str:
    """A bound, and whether it is reached: ``≥ 12 yes``."""
    if ratio[which] is None:
        return ""
    sign = "≤" if ratio["at_most"] else "≥"
    return f"{sign} {_plain(ratio[which])} {'yes' if ratio['reached'][which] else 'no'}"


def _plain(value: float) -> str:
    return figure(value) if value >= 1000 else f"{value:g}"
