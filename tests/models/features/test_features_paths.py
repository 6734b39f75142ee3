"""What a path or a glob means."""

from __future__ import annotations

import pytest
from torch import nn

from frugalkd.errors import ModelError
from frugalkd.models.features import feature_paths, find_paths

NAMES = ["", "stem", "stages", "stages.0", "stages.0.conv1", "stages.1", "stages.10", "head"]


@pytest.mark.parametrize(
    ("patterns", "found"),
    [
        (["head"], ["head"]),
        (["stages.*"], ["stages.0", "stages.1", "stages.10"]),
        (["stages.?", "stem"], ["stages.0", "stages.1", "stem"]),
        (["*.*.conv[12]"], ["stages.0.conv1"]),
        (["stages.1", "stages.*"], ["stages.1", "stages.0", "stages.10"]),
        (["*"], ["stem", "stages", "head"]),
    ],
)
def test_a_pattern_means_names_of_as_many_parts_in_their_order(patterns, found):
    assert find_paths(patterns, NAMES, "the student") == tuple(found)


@pytest.mark.parametrize("wrong", ["stage.0", "stages.0.conv2", "hed", "", "stages.0.*.x"])
def test_a_pattern_that_means_nothing_lists_the_nearest_names(wrong):
    with pytest.raises(ModelError) as caught:
        find_paths([wrong], NAMES, "the student")
    said = str(caught.value)
    assert said.startswith(f"the student has no module {wrong!r}: did you mean ")
    assert said.count(" or ") == 2
    assert "\n" not in said


def test_of_a_model_without_modules_it_says_so():
    with pytest.raises(ModelError, match="the teacher has no module 'head': it has none"):
        find_paths(["head"], [""], "the teacher")


def test_the_nearest_names_are_near():
    with pytest.raises(ModelError, match=r"did you mean stages\.0\.conv1 or "):
        find_paths(["stages.0.conv2"], NAMES, "the student")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("fc:input", ["fc:input"]), ("*", ["body", "fc"]), ("*:input", ["body:input", "fc:input"])],
)
def test_an_input_is_meant_by_those_that_say_so(pattern, found):
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    assert find_paths([pattern], feature_paths(model), "the student") == tuple(found)


def test_the_nearest_inputs_are_inputs():
    model = nn.ModuleDict({"body": nn.Linear(2, 2), "fc": nn.Linear(2, 2)})
    with pytest.raises(ModelError, match=r"did you mean fc:input or body:input\?"):
        find_paths(["fx:input"], feature_paths(model), "the student")
