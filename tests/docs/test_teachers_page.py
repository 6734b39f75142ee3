"""What docs/teachers.md says beside its examples, which tests/docs runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

from frugalkd.data.class_names import Match
from frugalkd.experiments.recipes.schema import Several
from frugalkd.objectives import CrossEntropy
from frugalkd.policies import POLICIES, RandomSubset

PAGE = (Path(__file__).parents[2] / "docs/teachers.md").read_text(encoding="utf-8")


def test_what_it_says_of_combining_is_all_that_there_is():
    combine, classes = PAGE.split("## Classes in another order")
    table = set(re.findall(r"^\| `(\w+)` \|", combine, flags=re.MULTILINE)) - {"combine"}
    assert set(re.findall(r"^\| `([\w-]+)` \|", classes, flags=re.MULTILINE)) == set(
        get_args(Match)
    )
    assert table == set(get_args(Several.model_fields["combine"].annotation))


def test_what_it_says_of_labels_is_so():
    scored = {name for name, made in POLICIES.items() if made().scoring is not None}
    said = re.search(r"policies with a scoring run \((.*?)\)", PAGE, flags=re.DOTALL)
    assert said is not None
    assert set(re.findall(r"`([\w-]+)`", said[1])) == scored
    assert not CrossEntropy.needs_targets
    assert RandomSubset(balanced=True).needs_labels
