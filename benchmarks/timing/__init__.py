"""Timing benchmarks: cases whose arms run interleaved on one machine.

The names exported here need no torch; :mod:`benchmarks.timing.run` runs a case.
"""

from benchmarks.timing.case import Arm, Case, Figure, Measurement, Ratio, Teacher, find_case
from benchmarks.timing.cases import CASES
from benchmarks.timing.options import Options

__all__ = [
    "CASES",
    "Arm",
    "Case",
    "Figure",
    "Measurement",
    "Options",
    "Ratio",
    "Teacher",
    "find_case",
]
