"""Benchmarks of time: cases, each some arms that take turns on one machine.

What is exported here needs no torch; :mod:`benchmarks.timing.run` carries a case out.
"""

from benchmarks.timing.asking import Ask
from benchmarks.timing.case import Arm, Case, Figure, Measurement, Ratio, Teacher, find_case
from benchmarks.timing.cases import CASES

__all__ = [
    "CASES",
    "Arm",
    "Ask",
    "Case",
    "Figure",
    "Measurement",
    "Ratio",
    "Teacher",
    "find_case",
]
