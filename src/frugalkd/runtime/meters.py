"""What a run cost: counts of rows, seconds by phase, memory."""

from __future__ import annotations

import resource
import sys
import time
from collections import defaultdict
from dataclasses import dataclass, field, fields

import torch

_TOKENS = ("tokens_backpropagated", "tokens_forwarded", "token_queries")


@dataclass
class Meters:
    """The meters of one run.

    Attributes:
        samples_backpropagated: rows that went through the objective's backward pass.
        student_forwards: rows through the trained model, screening passes and the first pass of
            gate-now included. A teacher's own training counts here too: it is the trained model.
        teacher_queries: rows through the teacher, filling a store included.
        tokens_backpropagated, tokens_forwarded, token_queries: of language models, the learned
            tokens of these rows: a prompt's and padding are none.
        queries_of: the same of each, where there are several teachers, by name.
        flops: floating point operations, by what they were for (see :mod:`frugalkd.models.flops`).
        wall_seconds: the whole training, evaluation apart.
        eval_seconds: evaluation.
        phases: seconds by phase of the training; what is in none of them is ``other``.
    """

    samples_backpropagated: int = 0
    student_forwards: int = 0
    teacher_queries: int = 0
    tokens_backpropagated: int = 0
    tokens_forwarded: int = 0
    token_queries: int = 0
    queries_of: dict[str, int] = field(default_factory=dict)
    flops: dict[str, float] = field(default_factory=dict)
    wall_seconds: float = 0.0
    eval_seconds: float = 0.0
    phases: dict[str, float] = field(default_factory=lambda: defaultdict(float))

    _inner = 0.0  # seconds of inner phases; not a meter

    def phase(self, name: str) -> Phase:
        """Add the time of a block to the phase ``name``; an inner phase is not counted twice."""
        return Phase(self, name)

    def add(self, other: Meters) -> None:
        """Add the costs of another run."""
        for name, value in other._values().items():
            mine = getattr(self, name)
            if isinstance(value, dict):
                mine |= {key: mine.get(key, 0) + more for key, more in value.items()}
            else:
                setattr(self, name, mine + value)

    def move(self, seconds: float, *, out_of: str, into: str) -> None:
        """Count ``seconds`` of one phase as another's, where both happened within one call."""
        self.phases[out_of] -= seconds
        self.phases[into] += seconds

    def cost(self, samples: float, *, filled: int = 0) -> dict[str, float | None]:
        """What the training cost, in epochs of full distillation from stored targets: (3 x
        backpropagated + screened + r x teacher queries) / (3 x ``samples``).

        A backward pass counts as two forward passes; ``r`` is the teacher's forward pass over the
        trained model's, by FLOPs. Evaluation is not included.

        Args:
            samples: of the training set.
            filled: how many of the queries filled stores ahead of the training.

        Returns:
            ``epochs``, without these; ``filling``, their cost; ``teacher_ratio``, r. None for what
            is not known, where the operations of a model that was used could not be counted.
        """
        trained, screened = self.samples_backpropagated, self.student_forwards
        screened -= trained
        ratio, queried = None, self.teacher_queries - filled
        own, teacher = (self.flops.get(f"{name}_forward") for name in ("student", "teacher"))
        if own and teacher and self.teacher_queries:
            ratio = (teacher / self.teacher_queries) / (own / self.student_forwards)

        def epochs(rows: float, queries: int) -> float | None:
            if queries and ratio is None:
                return None
            return (rows + (queries * ratio if ratio else 0.0)) / (3 * samples)

        return {
            "epochs": epochs(3 * trained + screened, queried),
            "filling": epochs(0.0, filled),
            "teacher_ratio": ratio,
        }

    def summary(self) -> dict:
        """All meters as plain values, phases completed by ``other``, memory read now."""
        said = self._values()
        for name in ("queries_of", *_TOKENS):  # what most trainings do not have
            if not said[name]:
                del said[name]
        said["phases"]["other"] = max(0.0, self.wall_seconds - sum(self.phases.values()))
        return {**said, "peak_memory_bytes": peak_memory_bytes()}

    def state(self) -> dict:
        """What a checkpoint keeps."""
        return {name: value for name, value in self._values().items() if name != "flops"}

    def restore(self, state: dict) -> None:
        """Continue from a checkpoint's :meth:`state`."""
        for name, value in state.items():
            setattr(self, name, defaultdict(float, value) if name == "phases" else value)

    def _values(self) -> dict:
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: dict(v) if isinstance(v, dict) else v for name, v in values.items()}


class Phase:
    """The clock of one block: the overhead of a generator is noticeable in small steps."""

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
