"""Run it again: the page's own words make the very same runs."""

from __future__ import annotations

import json
import shlex

import pytest
import yaml
from made_up import make_arm, make_comparison

from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.experiments.report.sections import compare_command, recipe_yaml, run_command
from frugalkd.experiments.runs.schema import Comparison, RunRecord


def digests(cli, *arguments):
    code, out, err = cli("compare", *arguments, "--list", "--json")
    assert code == 0, err
    return {(row["kind"], row["name"], row["seed"]): row["digest"] for row in json.loads(out)}


@pytest.mark.parametrize(
    ("arms", "more", "first"),
    [
        (["vanilla", "hybrid", "short:hybrid", "random:hybrid"], [], 0),
        (["vanilla", "regulated", "random"], ["--budgets", "0.25,0.5"], 7),
    ],
)
def test_command_and_recipe_make_the_same_digests(cli, tmp_path, arms, more, first):
    seeds = ["--seeds", "2", *["--first-seed", str(first)] * (first > 0)]
    before = digests(cli, "digits", "--arms", ",".join(arms), *more, *seeds, "--out", "unused")
    rows = []
    for arm in arms:
        budgets = (0.25, 0.5) if more and arm != "vanilla" else [None]
        for at in budgets:
            name = arm if at is None else f"{arm}@{at}"
            rows.append(make_arm(name, 0.9, budget_asked=at))
    recipe = load_recipe("digits").model_dump(mode="json")
    comparison = Comparison.model_validate(
        make_comparison(rows, recipe=recipe, seeds=[first, first + 1])
    )
    words = shlex.split(compare_command(comparison))
    assert words[:3] == ["frugalkd", "compare", "recipe.yaml"]
    (tmp_path / "recipe.yaml").write_text(recipe_yaml(comparison.recipe), encoding="utf-8")
    assert digests(cli, str(tmp_path / "recipe.yaml"), *words[3:]) == before
    assert len(before) > 4


def test_claims_and_hostile_names_are_quoted():
    claim = {"arm": "a", "against": "b", "claim": "no worse", "p_holm": 1.0, "holds": False,
             "difference": {"mean": 0.0}}  # fmt: skip
    name = "$(rm -rf ~); `id` '\"\n--out /"
    content = make_comparison([make_arm(name, 0.9), make_arm("a", 0.9)], claims=[claim])
    words = shlex.split(compare_command(Comparison.model_validate(content)))
    assert words[words.index("--arms") + 1] == f"{name},a"
    assert words[words.index("--claim") + 1] == "a >= b"
    recipe = {"name": "<b>\u202e: [", "seed": 0, "x": None, "y": [1.5, "é"]}
    assert yaml.safe_load(recipe_yaml(recipe)) == recipe


@pytest.mark.parametrize(("margin", "words"), [(0.005, []), (0.01, ["--margin", "1"])])
def test_a_command_names_a_margin_of_its_own(margin, words):
    claim = {"arm": "a", "against": "b", "claim": "no worse", "margin": margin, "p_holm": 1.0,
             "holds": False, "difference": {"mean": 0.0}}  # fmt: skip
    content = make_comparison([make_arm("a", 0.9)], claims=[claim, claim])
    found = shlex.split(compare_command(Comparison.model_validate(content)))
    assert found[found.index("a >= b", found.index("a >= b") + 1) + 1 : -2] == words


@pytest.mark.parametrize(("kind", "digest"), [("teach", None), ("distill", "d"), ("distill", None)])
def test_a_run_s_command_names_seed_and_teacher(kind, digest):
    run = RunRecord.model_validate(
        {"kind": kind, "digest": "d", "recipe": {}, "versions": {}, "seed": 7, "threads": 1,
         "split": "test", "train_samples": 1, "budget": 1.0, "meters": {}, "history": [],
         "teacher": {"digest": digest}}
    )  # fmt: skip
    words = shlex.split(run_command(run))
    assert words[:5] == ["frugalkd", kind, "recipe.yaml", "--seed", "7"]
    assert ("--teacher" in words) == (digest is not None)
