"""Comparisons: arms x seeds, paired, with controls that cost the same, and what may be claimed."""

from frugalkd.compare.arms import known_arms, resolve_arms
from frugalkd.compare.controls import CONTROLS
from frugalkd.compare.demo import demo
from frugalkd.compare.run import compare
from frugalkd.compare.statistics import claims
from frugalkd.compare.table import comparison_table, markdown_table

__all__ = [
    "CONTROLS",
    "claims",
    "compare",
    "comparison_table",
    "demo",
    "known_arms",
    "markdown_table",
    "resolve_arms",
]
