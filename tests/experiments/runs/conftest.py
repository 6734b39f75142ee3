"""A teacher that the tests of a module train once, from their own fixture ``recipe``."""

from __future__ import annotations

import shutil

import pytest

from frugalkd.experiments.runs.execute import teach


@pytest.fixture(scope="module")
def trained(recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "t"
    teach(recipe, folder)
    return folder


@pytest.fixture
def teacher(trained, tmp_path):
    """A copy of the trained teacher's folder, which a test may write to."""
    return shutil.copytree(trained, tmp_path / "teacher")
