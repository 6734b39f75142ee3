"""docs/api.md, which docs/api_page.py generates from the public names."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

import frugalkd

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture
def api_page(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("api_page")


def test_every_public_name_is_on_the_page(api_page):
    listed = {name.rpartition(".")[2] for name in api_page.listed()}
    assert set(frugalkd.__all__) <= listed


def test_every_name_on_the_page_says_what_it_is(api_page):
    rows = [line for line in api_page.page().splitlines() if line.startswith("| `")]
    assert len(rows) == len(api_page.listed())
    assert not [row for row in rows if row.endswith("|  |")]
