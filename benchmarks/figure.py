"""Draw README's figure from the committed results: accuracy over cost, for a light and a dark page.

    python -m benchmarks.figure

The arms ``short-T`` and ``cost-T`` of benchmarks/hard are points of two lines.
"""

from __future__ import annotations

from pathlib import Path

from frugalkd.experiments.report.paper import plot
from frugalkd.experiments.runs.schema import ArmRecord, Comparison

HERE = Path(__file__).parent
NAMES = {"short": "fewer epochs", "cost": "the gate"}


def named(arm: ArmRecord) -> ArmRecord:
    name, _, cost = arm.arm.rpartition("-")
    return arm.model_copy(update={"arm": f"{NAMES[name]}@{cost}", "target_budget": float(cost)})


def main() -> None:
    file = HERE / "results" / "hard-fashion-mnist.json"
    found = Comparison.model_validate_json(file.read_text())
    found = found.model_copy(
        update={"arms": [named(arm) for arm in found.arms], "reference": f"{NAMES['short']}@1.5"}
    )
    for ending, dark in (("", False), ("-dark", True)):
        to = HERE.parent / "docs" / "figures" / f"cost{ending}.svg"
        plot(found, to, figure="frontier", dark=dark)


if __name__ == "__main__":
    main()
