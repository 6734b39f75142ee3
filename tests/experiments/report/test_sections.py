"""Whatever stands in a file that a report is made of: one line, or a page without infinities."""

from __future__ import annotations

import copy
import json

import pytest
from made_up import make_arm, make_comparison, make_summary

from frugalkd.errors import ReportError, RunFolderError
from frugalkd.experiments.report import collect
from frugalkd.experiments.report.blocks import Figure
from frugalkd.experiments.report.page import json_in_html
from frugalkd.experiments.report.sections import comparison_page, recipe_yaml, run_page
from frugalkd.experiments.runs.schema import Comparison

EXTREMES = [0, -1e308, 5e-324, 10**400]


def show(path):
    """All that a page says but for its pictures and its template."""
    found = collect(path)
    if isinstance(found, Comparison):
        page = comparison_page(found, lambda summary: "none")
    else:
        page = run_page(found, lambda summary: "none")
    for section in page.sections:
        for block in section.blocks:
            if isinstance(block, Figure):
                json_in_html(block.plot)


def numbers(value, at=()):
    """Where the numbers of a JSON value are."""
    if isinstance(value, (dict, list)):
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        return [place for key, part in parts for place in numbers(part, (*at, key))]
    return [at] if type(value) in (int, float) else []


def changed(value, at, new):
    value = copy.deepcopy(value)
    here = value
    for key in at[:-1]:
        here = here[key]
    here[at[-1]] = new
    return value


def run_results():
    return {
        "schema": 1, "kind": "distill", "digest": "d", "recipe": {}, "versions": {}, "seed": 0,
        "threads": 1, "split": "test", "train_samples": 100, "budget": 0.5, "epochs": 2.0,
        "meters": make_arm("a", 0.9)["meters"],
        "targets": {"kind": "stored", "rows": 5, "bytes": 7},
        "scoring": {"kind": "el2n", "samples_backpropagated": 5, "wall_seconds": 1.0},
        "evaluation": {"samples": 9, "accuracy": 0.5, "worst_class_accuracy": 0.5,
                       "expected_calibration_error": 0.1},
        "history": [{"epoch": 0, "samples": 100, "rows": 50, "participations": 5}],
    }  # fmt: skip


SOUND = {
    "comparison.json": make_comparison(
        [
            make_arm("vanilla", 0.9, mode="vanilla", seeds=2),
            make_arm("hybrid@0.3", 0.89, 0.3, mode="hybrid", budget_asked=0.3, seeds=2),
            make_arm("random@0.3", 0.88, 0.3, budget_asked=0.3, seeds=2),
        ],
        seeds=[0, 1],
        recipe={},
    ),
    "results.json": run_results(),
    "summary.json": {
        "schema": 1,
        "kind": "distill",
        **make_summary(),
    },
}


@pytest.mark.parametrize("extreme", EXTREMES, ids=lambda number: f"{str(number)[:8]}")
@pytest.mark.parametrize("name", SOUND)
@pytest.mark.heavy
def test_a_number_of_any_size(tmp_path, name, extreme):
    if name == "summary.json":
        (tmp_path / "results.json").write_text(json.dumps(SOUND["results.json"]))
    (tmp_path / name).write_text(json.dumps(SOUND[name]))
    show(tmp_path)
    said = []
    for place in numbers(SOUND[name]):
        (tmp_path / name).write_text(json.dumps(changed(SOUND[name], place, extreme)))
        try:
            show(tmp_path)
        except (ReportError, RunFolderError) as error:
            said.append(str(error))
    assert all("\n" not in line and name in line for line in said)
    assert len(said) > 10 or abs(extreme) <= 1


@pytest.mark.parametrize("wrong", [5, [], ["hybrid"], {"set": 5}, {"set": {"student.mode": []}}])
def test_a_recipe_of_any_shape(tmp_path, wrong):
    old = make_comparison([make_arm("mine", 0.9), make_arm("vanilla", 0.9)])
    for recipe in ({"arms": wrong}, {"arms": {"mine": wrong}}):
        (tmp_path / "a.json").write_text(json.dumps({**old, "recipe": recipe}))
        show(tmp_path / "a.json")
    for recipe in ({"student": wrong}, {"student": {"policy": wrong}}):
        (tmp_path / "results.json").write_text(json.dumps({**run_results(), "recipe": recipe}))
        show(tmp_path)


def test_a_recipe_nested_too_deeply_is_refused():
    recipe = {}
    for _ in range(900):
        recipe = {"a": recipe}
    with pytest.raises(ReportError, match="nested too deeply; make it again"):
        recipe_yaml(recipe)
