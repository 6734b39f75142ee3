"""Effects and costs in the tables of comparisons, computed again from the committed files."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from benchmarks.comparisons import errors_table, factorial_table, filling

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def read(name):
    return json.loads((RESULTS / f"{name}.json").read_text())


@pytest.mark.parametrize("data", ["fashion-mnist", "cifar10"])
def test_the_main_effects_of_a_factorial(data):
    comparison = read(f"fair-factorial-{data}")
    rows = {row["arm"]: np.array(row["accuracy"]["values"]) for row in comparison["arms"]}
    gate = {(b, w): rows[f"{b}-{w}@0.25"] for b in ("first", "second") for w in ("even", "early")}
    other = {(b, w): rows[f"permuted:{b}-{w}@0.25"] for b, w in gate}
    drawn = {b: rows[f"{b}-random@0.25"] for b in ("first", "second")}
    both = [gate, other]
    wanted = [
        np.mean([gate[cell] - other[cell] for cell in gate], axis=0),
        np.mean([other[b, w] - drawn[b] for b, w in gate], axis=0),
        np.mean([of[b, "early"] - of[b, "even"] for of in both for b in drawn], axis=0),
        np.mean(
            [of["first", w] - of["second", w] for of in both for w in ("even", "early")], axis=0
        ),
    ]
    said = re.findall(r"\| ([+-][\d.]+) ± ([\d.]+) \| (\d+) \|", factorial_table(comparison))
    assert len(said) >= 4
    for effect, (mean, half, seeds) in zip(wanted, said, strict=False):
        width = stats.t.ppf(0.975, len(effect) - 1) * effect.std(ddof=1) / len(effect) ** 0.5
        assert (float(mean), float(half)) == pytest.approx(
            (100 * effect.mean(), 100 * width), abs=0.006
        )
        assert int(seeds) == len(effect)


def test_what_filling_a_store_costs():
    """17 MFLOPs of the teacher for each of the student's 0.27."""
    comparison = read("fair-fashion-mnist")
    assert filling(comparison).endswith("costs 20.7 epochs by the same formula.")
    teacher, student = comparison["teachers"][0]["meters"], comparison["arms"][0]["meters"]
    forwards = [
        each["flops"]["student_forward"] / each["student_forwards"] for each in (teacher, student)
    ]
    assert forwards[0] / forwards[1] / 3 == pytest.approx(20.7, abs=0.05)
    assert filling(read("fair-banking77")) == ""  # only the teacher's head was trained


@pytest.mark.parametrize(
    ("name", "tokens", "seeds"), [("language-students", 4096, 10), ("language-smollm2", 49_152, 3)]
)
def test_perplexities_and_their_ratios(name, tokens, seeds):
    comparison = read(name)
    rows = {row["arm"]: np.array(row["accuracy"]["values"]) for row in comparison["arms"]}
    perplexity = {arm: tokens ** (1 - values) for arm, values in rows.items()}
    table = errors_table(comparison)
    for arm, values in perplexity.items():
        line = next(line for line in table.splitlines() if line.startswith(f"| `{arm}` |"))
        assert line.split(" | ")[2] == f"{stats.gmean(values):.2f}"
        if arm != comparison["reference"]:
            logs = np.log(values / perplexity[comparison["reference"]])
            half = stats.t.ppf(0.975, seeds - 1) * logs.std(ddof=1) / seeds**0.5
            wanted = [100 * np.expm1(logs.mean() + side * half) for side in (0, -1, 1)]
            assert line.split(" | ")[3] == "{:+.2f} ({:+.2f} to {:+.2f})".format(*wanted)
