"""Write the tables of BENCHMARKS.md from the result files beside this script.

    python benchmarks/write.py            # rewrite what stands between the markers
    python benchmarks/write.py --check    # fail if that would change anything

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``; the numbers in it come from
``benchmarks/results/*.json`` (each the ``comparison.json`` of a command that BENCHMARKS.md names)
and from nowhere else.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

from frugalkd.comparison.statistics import accuracies, claims, differences, spread

HERE = Path(__file__).parent
PAGE = HERE.parent / "BENCHMARKS.md"

CLAIMS = [
    ("regulated", "vanilla", "no worse"),
    ("regulated-now", "vanilla", "no worse"),
    ("regulated-loose", "vanilla", "no worse"),
    ("regulated", "random:regulated", "better"),
    ("regulated", "short:regulated", "better"),
    ("regulated-now", "random:regulated-now", "better"),
    ("regulated-now", "short:regulated-now", "better"),
]
"""Declared before the final runs, corrected together."""


def read(name: str) -> dict[str, Any]:
    return json.loads((HERE / "results" / f"{name}.json").read_text())


def points(value: dict[str, Any] | None, sign: str = "") -> str:
    """A mean of accuracies in points, with half of its 95 % interval."""
    if value is None or value["mean"] is None:
        return ""
    mean = f"{100 * value['mean']:{sign}.2f}"
    if value["ci95"] is None:
        return mean
    return f"{mean} ± {50 * (value['ci95'][1] - value['ci95'][0]):.2f}"


def arms_table(comparison: dict[str, Any]) -> str:
    reference = comparison["reference"]
    lines = [
        f"| arm | seeds | accuracy % | against {reference} | samples % | forwards % | time ratio |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in comparison["arms"]:
        cells = [
            f"`{row['arm']}`",
            str(len(row["seeds"])),
            points(row["accuracy"]),
            points(row["difference"], "+"),
            f"{100 * row['budget']['mean']:.1f}",
            f"{100 * row['forwards']['mean']:.1f}",
            f"{row['wall_ratio']['mean']:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    collapsed = [row["arm"] for row in comparison["arms"] if row["collapsed"]]
    note = f"Collapsed or failed runs: {', '.join(collapsed) if collapsed else 'none'}."
    return "\n".join([*lines, "", note])


def claims_table(comparison: dict[str, Any]) -> str:
    lines = [
        "| claim | difference, points | 95 % interval | p (Holm) | holds |",
        "|---|---:|---:|---:|---|",
    ]
    for claim in claims(comparison, CLAIMS):  # pyright: ignore[reportArgumentType]
        low, high = claim["difference"]["ci95"]
        said = f"`{claim['arm']}` {claim['claim']} than `{claim['against']}`"
        if claim["margin"]:
            said += f" (margin {100 * claim['margin']:.1f})"
        cells = [
            said,
            f"{100 * claim['difference']['mean']:+.2f}",
            f"{100 * low:+.2f} to {100 * high:+.2f}",
            f"{claim['p_holm']:.1e}",
            "yes" if claim["holds"] else f"no: {claim['why']}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def reference_table(comparison: dict[str, Any]) -> str:
    """Both candidates for the reference, and the gate against the one that it was not."""
    ours, other = accuracies(comparison, "regulated"), accuracies(comparison, "vanilla-self")
    _, found = differences(ours, other)
    difference = points(spread(found), "+")
    return f"{arms_table(comparison)}\n\n`regulated` against `vanilla-self`: {difference} points."


TABLES = {
    "teacher": lambda: arms_table(read("fashion-mnist-teacher")),
    "claims": lambda: claims_table(read("fashion-mnist-claims")),
    "students": lambda: arms_table(read("fashion-mnist-claims")),
    "modes": lambda: arms_table(read("fashion-mnist-modes")),
    "reference": lambda: reference_table(read("fashion-mnist-reference")),
    "controls": lambda: arms_table(read("fashion-mnist-controls")),
}


def filled(page: str) -> str:
    """``page`` with every marked table written anew."""
    for name, table in TABLES.items():
        marked = re.compile(f"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        if not marked.search(page):
            sys.exit(f"{PAGE.name} has no place for the table {name!r}")
        text = table()
        page = marked.sub(lambda found, text=text: f"{found[1]}{text}\n{found[2]}", page)
    return page


def main() -> None:
    before = PAGE.read_text()
    after = filled(before)
    if "--check" in sys.argv[1:]:
        if before != after:
            sys.exit(f"{PAGE.name} differs from benchmarks/results: run benchmarks/write.py")
    else:
        PAGE.write_text(after)


if __name__ == "__main__":
    main()
