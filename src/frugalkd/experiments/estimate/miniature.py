"""The very training in small: fewer samples, and perhaps fewer epochs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from frugalkd.experiments.estimate.forecast import Curve
from frugalkd.experiments.estimate.part import Part
from frugalkd.policies import SelfRegulation
from frugalkd.training.settings import Training
from frugalkd.training.trainer import Run

LEAST_EPOCHS = 5
_LEAST_BATCHES = 16


@dataclass(frozen=True)
class Scale:
    """Of a miniature: rows and whole epochs; ``whole`` is the training itself."""

    rows: int
    epochs: int
    whole: bool


def choose_scale(
    row_seconds: float, seconds: float, samples: int, epochs: float, batch_size: int
) -> Scale:
    """The largest miniature for ``seconds``, where a row takes ``row_seconds`` in an epoch.

    All epochs where that leaves 16 batches to an epoch, else fewer, but 5 at least (or all there
    are). At least 4 batches, whatever the time.
    """
    whole = max(1, int(epochs))
    visits = seconds / row_seconds
    if visits >= samples * whole:
        return Scale(samples, whole, True)
    few = min(whole, max(LEAST_EPOCHS, int(visits / (_LEAST_BATCHES * batch_size))))
    rows = min(samples, max(4 * batch_size, int(visits / few)))
    return Scale(rows, few, rows == samples and few == whole)


def run_miniature(
    train: Callable[[Part, Training, SelfRegulation], Run],
    part: Part,
    training: Training,
    regulation: SelfRegulation,
    epochs: int,
    pool: int | None = None,
) -> tuple[Curve, Run]:
    """Train on ``part`` for ``epochs`` under ``regulation``, without its forced epochs.

    Args:
        train: carries it out.
        part: of the data.
        training: of the whole; warm-up steps shrink with the number of steps.
        regulation: the gate.
        epochs: of the miniature.
        pool: rows of ``part`` that may take part, where they are not all.
    """
    rows = len(part.ids) if pool is None else pool
    shrunk = len(part.ids) * epochs / (part.whole * training.epochs)
    schedule = training.schedule
    warmup = round(schedule.warmup_steps * min(1.0, shrunk))
    small = replace(
        training,
        epochs=float(epochs),
        schedule=replace(schedule, warmup_steps=warmup),
        recalibrate_bn=0,
    )
    free = replace(regulation, warmup=0, final_full_epochs=0)
    run = train(part, small, free)
    if regulation.when == "now":
        screened = [record["planned"] for record in run.history]
    else:
        screened = [record["screened"] for record in run.history]
    kept = tuple(record["rows"] / rows for record in run.history)
    return Curve(rows, kept, tuple(count / rows for count in screened)), run
