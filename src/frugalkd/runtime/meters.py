"""What a run cost: counts of rows, seconds by phase, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field

import torch


@dataclass
class Meters:
    """The meters of one run.

    Attributes:
        samples_backpropagated: rows that went through the objective's backward pass.
        student_forwards: rows through the trained model, screening and gate-now's first look
            included. A teacher's own training counts here too: it is the model being trained.
        teacher_queries: rows through the teacher, filling a store included.
        queries_of: the same of each, where there are several teachers, by name.
        flops: floating point operations, by what they were for (see :mod:`frugalkd.models.flops`).
        wall_seconds: the whole training, evaluation apart.
        eval_seconds: evaluation.
        phases: seconds by phase of the training; what is in none of them is ``other``.
    """

    samples_backpropagated: int = 0
    student_forwards: int = 0
    teacher_queries: int = 0
    queries_of: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    eval_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    _inner: float = field(default=0.0, init=False, repr=False)  # what inner phases have taken

    def phase(self, name: str) -> Phase:
        """Add the time of a block to the phase ``name``; a phase inside counts on its own only."""
        return Phase(self, name)

    def add(self, other: Meters) -> None:
        """Count what another run has cost, too."""
        self.samples_backpropagated += other.samples_backpropagated
        self.student_forwards += other.student_forwards
        self.teacher_queries += other.teacher_queries
        self.wall_seconds += other.wall_seconds
        self.eval_seconds += other.eval_seconds
        for name, rows in other.queries_of.items():
            self.queries_of[name] = self.queries_of.get(name, 0) + rows
        for name, count in other.flops.items():
            self.flops[name] = self.flops.get(name, 0) + count
        for name, seconds in other.phases.items():
            self.phases[name] += seconds

    def move(self, seconds: float, *, out_of: str, into: str) -> None:
        """Count ``seconds`` of one phase as another's, where both happened within one call."""
        self.phases[out_of] -= seconds
        self.phases[into] += seconds

    def summary(self) -> dict:
        """All meters as plain values, phases completed by ``other``, memory read now."""
        other = max(0.0, self.wall_seconds - sum(self.phases.values()))
        return {
            "samples_backpropagated": self.samples_backpropagated,
            "student_forwards": self.student_forwards,
            "teacher_queries": self.teacher_queries,
            **({"queries_of": dict(self.queries_of)} if self.queries_of else {}),
            "flops": dict(self.flops),
            "wall_seconds": self.wall_seconds,
            "eval_seconds": self.eval_seconds,
            "phases": {**self.phases, "other": other},
            "peak_memory_bytes": peak_memory_bytes(),
        }

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {
            "samples_backpropagated": self.samples_backpropagated,
            "student_forwards": self.student_forwards,
            "teacher_queries": self.teacher_queries,
            "queries_of": dict(self.queries_of),
            "wall_seconds": self.wall_seconds,
            "eval_seconds": self.eval_seconds,
            "phases": dict(self.phases),
        }

    def restore(self, state: dict) -> None:
        """Go on from a checkpoint's :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, defaultdict(float, value) if name == "phases" else value)


class Phase:
    """The clock of one block; a class, because a generator's switches are felt in small steps."""

    __slots__ = ("_meters", "_name", "_outer", "_start")

    def __init__(self, meters: Meters, name: str):
        self._meters, self._name = meters, name

    def __enter__(self) -> None:
        meters = self._meters
        self._outer, meters._inner = meters._inner, 0.0
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        meters = self._meters
        spent = time.perf_counter() - self._start
        meters.phases[self._name] += spent - meters._inner
        meters._inner = self._outer + spent


def peak_memory_bytes() -> dict[str, int]:
    """The largest memory of this process so far, and of the CUDA device where there is one."""
    unit = 1 if sys.platform == "darwin" else 1024
    peak = {"process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}
    if torch.cuda.is_available():
        peak["device"] = torch.cuda.max_memory_allocated()
    return peak
