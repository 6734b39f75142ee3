"""Benchmarks of time: cases, each some arms that take turns on one machine."""

from frugalkd.bench.asking import Ask
from frugalkd.bench.case import Arm, Case, Figure, Measurement, Ratio, Teacher, find_case
from frugalkd.bench.cases import CASES
from frugalkd.bench.run import bench, planned

__all__ = [
    "CASES",
    "Arm",
    "Ask",
    "Case",
    "Figure",
    "Measurement",
    "Ratio",
    "Teacher",
    "bench",
    "find_case",
    "planned",
]
