"""docs/stability.md says what the code says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import frugalkd
from frugalkd.experiments.comparison import summary
from frugalkd.experiments.recipes import load
from frugalkd.experiments.runs import chain, folder, scores
from frugalkd.experiments.runs import summary as run_summary
from frugalkd.files import tensors
from frugalkd.language import corpus
from frugalkd.ledger import ledger
from frugalkd.teachers import store as store_module

PAGE = (Path(__file__).parents[2] / "docs/stability.md").read_text(encoding="utf-8")


def test_the_public_names_are_those_of_the_package():
    said = PAGE.partition("**The names of `frugalkd`**:")[2].partition(": their")[0]
    assert re.findall(r"`(\w+)`", said) == sorted(frugalkd.__all__)
    for name in frugalkd.__all__:
        assert getattr(frugalkd, name).__doc__, name


@pytest.mark.parametrize(
    ("file", "schema"),
    [
        ("recipe", load.SCHEMA),
        ("`run.json`, `results.json`, `model.json`", folder.SCHEMA),
        ("`comparison.json`", summary.SCHEMA),
        ("`chain.json`", chain.SCHEMA),
        ("`notes.json` of an unfinished run", folder.SCHEMA),
        ("`summary.json`", run_summary.SCHEMA),
        ("`ledger.safetensors`", ledger.SCHEMA),
        ("`scores-*/scores.safetensors`", scores.SCHEMA),
        ("store of soft targets", store_module.SCHEMA),
        ("corpus of tokens", corpus.SCHEMA),
        ("checkpoints", tensors._TREE_SCHEMA),
    ],
)
def test_the_schemas_are_those_of_the_code(file, schema):
    assert f"\n| {file} | {schema} | " in PAGE
