"""Figures for papers: the frontier of a comparison, and who took part over the epochs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from frugalkd.errors import PlotError, nearest
from frugalkd.experiments.plotting._content import FIGURES, of_comparison, of_run
from frugalkd.experiments.report.shapes import Comparison, Run
from frugalkd.files.opening import named_file
from frugalkd.files.writing import make_folder, write_atomic

ENDINGS = (".pdf", ".png", ".svg")


def plot(
    found: Comparison | Run, to: Path, *, figure: str | None = None, arms: Sequence[str] = ()
) -> dict[str, Any]:
    """Draw ``found`` (see :func:`frugalkd.experiments.report.collect`) into the file ``to``. The
    same data give the same bytes with the same matplotlib.

    Args:
        found: a comparison; or a run, which has no frontier.
        to: ends in .pdf (TrueType fonts embedded), .svg (text as paths) or .png (300 dpi).
        figure: one of :data:`FIGURES`; by default all that there is, side by side.
        arms: of a comparison these alone, by their names with or without the budget.

    Returns:
        ``file``, ``figures``, ``arms``, ``seeds``, and ``caption``: what the figure does not say.

    Raises:
        PlotError: an unknown ending, figure or arm, nothing to draw, or no matplotlib.
        WriteFailed: ``to`` cannot be written.
    """
    ending = to.suffix.lower()
    if ending not in ENDINGS:
        raise PlotError(f"cannot draw {to.name[:100]!r}: its name must end in .pdf, .png or .svg")
    if figure is not None and figure not in FIGURES:
        raise PlotError(f"unknown figure {figure[:100]!r}: {nearest(figure[:100], FIGURES)}")
    if isinstance(found, Run) and arms:
        raise PlotError("one run has no arms: leave --arms out, or name a comparison's folder")
    if isinstance(found, Run):
        content = of_run(found, figure)
    else:
        content = of_comparison(found, figure, arms)
    try:
        from frugalkd.experiments.plotting._draw import draw
    except ModuleNotFoundError:
        raise PlotError("plots need matplotlib: pip install 'frugalkd[plot]'") from None

    drawn = draw(content, ending.removeprefix("."))
    to = named_file(to)
    make_folder(to.parent)
    write_atomic(to, drawn)
    return {
        "file": str(to),
        "figures": content.panels,
        "arms": content.arms,
        "seeds": content.seeds,
        "caption": content.caption,
    }


__all__ = ["ENDINGS", "FIGURES", "plot"]
