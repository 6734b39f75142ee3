"""How to run it again: the command, and the recipe."""

from __future__ import annotations

import shlex
from typing import Any

import yaml

from frugalkd.errors import ReportError
from frugalkd.experiments.runs.schema import Comparison, Run

_SIGNS = {"better": ">", "no worse": ">="}
FILE = "recipe.yaml"


def compare_command(comparison: Comparison) -> str:
    """The command line of ``frugalkd compare`` that makes these arms, seeds and claims."""
    names = comparison.planned or [arm.arm for arm in comparison.arms]
    words = ["frugalkd", "compare", FILE, "--arms", ",".join(names)]
    words += ["--seeds", str(max(comparison.seeds, default=0) + 1)]
    for claim in comparison.claims:
        words += ["--claim", f"{claim.arm} {_SIGNS.get(claim.claim, '>')} {claim.against}"]
    return shlex.join([*words, "--out", "runs/comparison"])


def run_command(run: Run) -> str:
    """The command line of ``frugalkd teach`` or ``frugalkd distill``."""
    words = ["frugalkd", run.kind, FILE, "--seed", str(run.seed)]
    if run.kind == "distill" and run.teacher is not None and run.teacher.digest is not None:
        words += ["--teacher", "runs/teacher"]
    return shlex.join([*words, "--out", "runs/again"])


def recipe_yaml(recipe: dict[str, Any]) -> str:
    """A recipe as resolved, as YAML. Raises ReportError where it is nested too deeply to be one."""
    try:
        return yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True, width=88)
    except RecursionError:
        raise ReportError(
            "the recipe of this report is damaged: it is nested too deeply; make it again"
        ) from None
