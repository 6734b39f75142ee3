"""Trained runs that the tests of the command line share; none of them is changed."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_runs import FEW

from frugalkd.cli import main


@pytest.fixture(scope="session")
def runs(tmp_path_factory) -> Path:
    """A folder with the run folders ``teacher`` and ``student`` on the digits."""
    folder = tmp_path_factory.mktemp("runs")
    teacher, student = str(folder / "teacher"), str(folder / "student")
    assert main(["teach", "digits", "--out", teacher, *FEW]) == 0
    arguments = ["distill", "digits", "--mode", "hybrid", "--teacher", teacher, "--out", student]
    assert main([*arguments, *FEW]) == 0
    return folder
