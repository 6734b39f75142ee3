"""docs/objectives.md, which docs/objectives_page.py generates from the docstrings."""

from __future__ import annotations

import dataclasses
import importlib
import re
from pathlib import Path

import pytest
import yaml

from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.objectives import DKD, OBJECTIVES, FeatureObjective
from frugalkd.teachers.encodings import ENCODINGS, encoding_for

ROOT = Path(__file__).parents[2]


@pytest.fixture
def page(monkeypatch) -> str:
    monkeypatch.syspath_prepend(str(ROOT / "docs"))
    return importlib.import_module("objectives_page").page()


@pytest.mark.parametrize("name", OBJECTIVES)
def test_a_card_has_its_sections_and_settings(page, name):
    made_of = OBJECTIVES[name]
    card = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    said = re.findall(r"^\*(?!Needs)([\w ]+)(?::\*|\*, )", card, re.MULTILINE)
    weights = ["Weights"] if made_of.mixes_rows else []
    reading = ["Our reading"] if made_of.needs_targets else []
    settings = [field.name for field in dataclasses.fields(made_of)]  # pyright: ignore
    assert said == ["Loss", *reading, *weights, *["Settings"] * bool(settings)]
    assert re.findall(r"^- `(\w+)`, ", card, re.MULTILINE) == settings
    assert f"`{made_of.__name__}`: " in card


@pytest.mark.parametrize("name", OBJECTIVES)
def test_the_table_lists_the_sufficient_encodings(page, name):
    row = next(line for line in page.splitlines() if line.startswith(f"| [`{name}`]"))
    _, rows, needs = row.strip("| ").split(" | ")
    made_of = OBJECTIVES[name]
    assert rows == ("batch" if made_of.mixes_rows else "alone")
    if issubclass(made_of, FeatureObjective):
        assert needs == "any, with features"
        return
    known = set(ENCODINGS) - (set() if made_of.output == "embeddings" else {"int8"})
    enough = {
        each
        for each in known
        if encoding_for(made_of.output or "one-class", each).keeps >= made_of.reads
    }
    assert set(needs.split(", ")) == (enough if made_of.needs_targets else {"none"})


def test_sums_and_schedules_on_the_page_are_valid(page):
    terms = re.search(r"```yaml\nobjective:\n(.*?)```", page, re.DOTALL)
    schedule = re.search(r"`(\{name: kd, temperature: .*?\}\})`", page)
    own = re.search(r"`(\{path: .*?\}\})`", page)
    assert terms is not None
    assert schedule is not None
    assert own is not None
    for said in (yaml.safe_load(terms[1]), *(yaml.safe_load(each[1]) for each in (schedule, own))):
        recipe = load_recipe("digits")
        override(recipe, {"student.objective": said, "student.targets.kind": "live"})


def test_the_recipe_on_the_page_is_valid(page):
    found = re.search(r"`(student\.objective)='(\{.*?\})'`", page)
    assert found is not None
    recipe = load_recipe("digits", [f"{found[1]}={found[2]}"])
    assert recipe.student.objective.build() == DKD(beta=4.0)
