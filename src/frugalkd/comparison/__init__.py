"""Comparisons: arms x seeds, paired, with controls that cost the same, and what may be claimed."""

from frugalkd.comparison.arms import known_arms, resolve_arms
from frugalkd.comparison.controls import CONTROLS
from frugalkd.comparison.demo import demo
from frugalkd.comparison.run import compare
from frugalkd.comparison.statistics import claims
from frugalkd.comparison.table import claims_table, comparison_table, markdown_table

__all__ = [
    "CONTROLS",
    "claims",
    "claims_table",
    "compare",
    "comparison_table",
    "demo",
    "known_arms",
    "markdown_table",
    "resolve_arms",
]
