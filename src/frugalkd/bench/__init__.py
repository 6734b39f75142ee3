"""Benchmarks of time: cases, each some arms that take turns on one machine.

What is exported here needs no torch; :mod:`frugalkd.bench.run` carries a case out.
"""

from frugalkd.bench.asking import Ask
from frugalkd.bench.case import Arm, Case, Figure, Measurement, Ratio, Teacher, find_case
from frugalkd.bench.cases import CASES

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
