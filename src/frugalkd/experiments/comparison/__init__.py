"""Comparisons: arms x seeds, paired, with controls that cost the same, and claims about them."""

from frugalkd.experiments.comparison.arms import CONTROLS, known_arms, resolve_arms
from frugalkd.experiments.comparison.run import compare, demo
from frugalkd.experiments.comparison.statistics import claims

__all__ = ["CONTROLS", "claims", "compare", "demo", "known_arms", "resolve_arms"]
