"""docs/errors.md, which docs/errors_page.py generates from the code."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import frugalkd
from frugalkd import errors

ROOT = Path(__file__).parents[2]
SOURCES = sorted(Path(frugalkd.__file__).parent.rglob("*.py"))


@pytest.fixture(scope="module")
def page():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        return importlib.import_module("errors_page").page()


def test_every_message_in_the_code_is_on_the_page(page):
    """Found another way: by the first words of each raised message."""
    begins = re.compile(r'raise (\w+)\(\s*f?"([^"{]{8,})')
    found = [
        (path, error, text)
        for path in SOURCES
        for error, text in begins.findall(path.read_text(encoding="utf-8"))
        if hasattr(errors, error) and error != "UnknownName"
    ]
    assert len(found) > 80
    lost = [each for each in found if each[2].replace("`", "'") not in page]
    assert not lost


def test_every_class_has_its_section_and_what_to_do(page):
    sections = re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", page, re.DOTALL | re.MULTILINE)
    names = [name for name, _ in sections]
    assert names == [
        name
        for name, each in vars(errors).items()
        if isinstance(each, type) and issubclass(each, Exception)
    ]
    assert all("What to do: " in about for name, about in sections if name != "FrugalKDError")


@pytest.mark.parametrize(
    ("error", "row"),
    [
        (
            "LedgerError",
            "`experiments/runs/from_recipe.py` | `mode {role.mode} needs the significance ledger",
        ),
        ("UnknownName", "`models/__init__.py` | `unknown model {name}: {nearest}`"),
        ("RecipeError", "`experiments/recipes/load.py` | `no such setting {field}: {nearest}`"),
        ("RecipeError", "`runtime/sections.py` | `give either name or path`"),
        (
            "NonFiniteLoss",
            "`selection/observer.py` | `the loss is not finite at epoch {epoch}, step {step}",
        ),
        ("NonFiniteLoss", "`selection/observer.py` | `the output is not finite at epoch"),
        (
            "FrugalKDWarning",
            "`selection/checks.py` | `no sample that is used is of {missing} of",
        ),
        (
            "SettingError",
            "`policies/self_regulation.py` | `{given} is decided before the epoch",
        ),
        ("ModelError", "`runtime/devices.py` | `unknown device {device}: {hint}`"),
    ],
)
def test_messages_are_listed_with_their_error(page, error, row):
    section = page.partition(f"\n## {error}\n")[2].partition("\n## ")[0]
    assert row in section


def test_the_tables_of_the_page_are_valid(page):
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    assert len(rows) > 200
    for row in rows:
        assert re.fullmatch(r"\| `[\w/]+\.py` \| `[^`]+` \|", row), row
        assert max(map(len, re.findall(r"\{([^}]*)\}", row)), default=0) <= 40, row
