"""Benchmarks of time: cases, each some arms that take turns on one machine."""

from frugalkd.bench.case import Arm, Case, Ratio, Teacher, find_case
from frugalkd.bench.cases import CASES
from frugalkd.bench.run import Ask, bench

__all__ = ["CASES", "Arm", "Ask", "Case", "Ratio", "Teacher", "bench", "find_case"]
