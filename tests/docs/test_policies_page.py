"""docs/policies.md, which docs/policies_page.py generates from the docstrings; docs/write.py."""

from __future__ import annotations

import dataclasses
import importlib
import re
import sys
from pathlib import Path

import pytest

from frugalkd.experiments.recipes.load import load_recipe
from frugalkd.policies import POLICIES, All

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def docs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs"))


@pytest.fixture
def page() -> str:
    return importlib.import_module("policies_page").page()


@pytest.mark.parametrize("name", POLICIES)
def test_a_card_has_rule_choices_cost_and_settings(page, name):
    card = page.partition(f"\n## {name}\n")[2].partition("\n## ")[0]
    said = re.findall(r"^\*([\w ]+)(?::\*|\*, )", card, re.MULTILINE)
    settings = [field.name for field in dataclasses.fields(POLICIES[name])]  # pyright: ignore
    whole = ["Rule", "What we chose", "Cost", "Settings"]
    assert said == (["Rule", "Cost"] if POLICIES[name] is All else whole)
    assert re.findall(r"^- `(\w+)`, ", card, re.MULTILINE) == settings
    assert f"`{POLICIES[name].__name__}`: " in card
    assert "``" not in card
    row = next(line for line in page.splitlines() if line.startswith(f"| [`{name}`]"))
    drivable = POLICIES[name]().at_budget(0.5) is not None
    assert row.split(" | ")[3] == ("yes" if drivable else "no")


def test_an_undocumented_setting_is_refused(monkeypatch):
    @dataclasses.dataclass(frozen=True)
    class Silent(All):
        """Does not describe its setting."""

        fraction: float = 0.5

    monkeypatch.setitem(POLICIES, "silent", Silent)
    with pytest.raises(ValueError, match="the docstring of Silent does not describe fraction"):
        importlib.import_module("policies_page").card("silent")


def test_the_recipe_on_the_page_is_valid(page):
    found = re.search(r"`(student\.mode=\w+) student\.policy='(\{.*?\})'`", page)
    assert found is not None
    recipe = load_recipe("digits", [found[1], f"student.policy={found[2]}"])
    assert recipe.student.policy is not None
    assert recipe.student.policy.build() == POLICIES["pdd"](threshold=0.2)  # pyright: ignore


def test_the_files_are_checked(monkeypatch, tmp_path):
    write = importlib.import_module("write")
    assert set(write.PAGES) >= {"errors.md", "objectives.md", "policies.md"}
    for name in write.PAGES:  # what they hold takes seconds, and has tests of its own
        monkeypatch.setitem(write.PAGES, name, lambda name=name: f"the page {name}")
    monkeypatch.setattr(write, "HERE", tmp_path)
    monkeypatch.setattr(sys, "argv", ["write.py"])
    write.main()
    for name in write.PAGES:
        monkeypatch.setattr(sys, "argv", ["write.py", "--check"])
        write.main()
        (tmp_path / name).write_text("edited by hand")
        with pytest.raises(SystemExit, match=f"docs/{name} differs from the code: run make pages"):
            write.main()
        (tmp_path / name).unlink()
        with pytest.raises(SystemExit, match=name):
            write.main()
        monkeypatch.setattr(sys, "argv", ["write.py"])
        write.main()
