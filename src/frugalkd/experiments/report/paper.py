"""A page's figures as files for a paper: the same traces, drawn by matplotlib."""

from __future__ import annotations

import html
import io
import math
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from frugalkd.errors import PlotError, nearest
from frugalkd.experiments.report import figures
from frugalkd.experiments.report.blocks import short
from frugalkd.experiments.runs.schema import ArmRecord, Comparison, RunRecord
from frugalkd.files.opening import named_file
from frugalkd.files.writing import make_folder, write_atomic
from frugalkd.runtime.imports import require_extra

ENDINGS = (".pdf", ".png", ".svg")
FIGURES = ("frontier", "participation")
_AXES = {
    "cost": "cost (backward passes, screening and teacher queries) in epochs of full distillation",
    "budget": "samples backpropagated, of full distillation over the same epochs",
}

_COLUMN, _PAGE = 3.4, 7.0  # inches: one column of a paper that has two, and both
_HEIGHT, _LEGEND_LINE, _ENTRY, _LETTER = 2.3, 0.17, 0.5, 0.054
# Of all arms but the reference, which has that of the text: Okabe and Ito's colours, made for
# colour-blind readers, without yellow and black; and three more.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a4c93",
    "#8c6d31", "#a50026",
)  # fmt: skip
_QUIET = "#777777"
_MARKERS = {
    "circle": "o", "square": "s", "diamond": "D", "triangle-up": "^", "cross": "P",
    "pentagon": "p", "star": "*", "hexagon": "h",
}  # fmt: skip
_DASHES: dict[str, Any] = {
    "solid": "-", "dash": (0, (4, 1.5)), "dot": (0, (1, 1.2)), "dashdot": (0, (4, 1.2, 1, 1.2)),
    "longdash": (0, (8, 2)),
}  # fmt: skip
_UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": None}


def plot(
    found: Comparison | RunRecord, to: Path, *, figure: str | None = None,
    arms: Sequence[str] = (), dark: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Draw ``found`` (see :func:`frugalkd.experiments.report.collect`) into the file ``to``. The
    same data give the same bytes with the same matplotlib.

    Args:
        found: a comparison; or a run, which has no frontier.
        to: ends in .pdf (TrueType fonts embedded), .svg (text as paths) or .png (300 dpi).
        figure: one of :data:`FIGURES`; by default all that there are, side by side.
        arms: of a comparison these alone, by their names with or without the budget.
        dark: for a dark page: light lines and letters, and no background.

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
    panels, shown, caption = panels_of(found, figure, arms)
    drawn = _draw(list(panels.values()), ending.removeprefix("."), dark)
    to = named_file(to)
    make_folder(to.parent)
    write_atomic(to, drawn)
    return {
        "file": str(to),
        "figures": list(panels),
        "arms": shown,
        "seeds": [found.seed] if isinstance(found, RunRecord) else found.seeds,
        "caption": caption,
    }


def panels_of(
    found: Comparison | RunRecord, figure: str | None = None, wanted: Sequence[str] = ()
) -> tuple[dict[str, dict[str, Any]], list[str], str]:
    """plotly's figures by name, from the left; the arms that they show; and their caption.

    Raises:
        PlotError: an arm that there is not, or nothing to draw.
    """
    if isinstance(found, RunRecord):
        if wanted:
            raise PlotError("one run has no arms: leave --arms out, or name a comparison's folder")
        if figure == "frontier":
            raise PlotError("one run has no frontier: name the folder of a comparison")
        trained = figures.run_participation(found)
        if trained is None:
            raise PlotError("there is nothing to plot: the run has no epochs")
        caption = "Samples of one run by epoch, as fractions of the training set."
        return {"participation": trained.plot}, [], caption
    styles = figures.styles(found.arms, found.reference)  # the same, whichever arms are chosen
    found = found.model_copy(update={"arms": _chosen(found, wanted)})
    measured = [a for a in found.arms if a.accuracy.mean is not None and a.budget.mean is not None]
    axis = "cost" if all(arm.cost.mean is not None for arm in measured) else "budget"
    drawn = {
        "frontier": figures.frontier(found, axis, styles),
        "participation": figures.participation(found, styles),
    }
    panels = {name: it.plot for name, it in drawn.items() if it and figure in (None, name)}
    if not panels:
        what = "no run of these arms is finished" if not measured else "their histories are missing"
        raise PlotError(f"there is nothing to plot: {what}")
    return panels, [arm.arm for arm in measured], _caption(panels, axis, measured, found)


def _chosen(found: Comparison, wanted: Sequence[str]) -> list[ArmRecord]:
    known = dict.fromkeys(name for arm in found.arms for name in (arm.family, arm.arm))
    for name in wanted:
        if name not in known:
            raise PlotError(f"unknown arm {name[:100]!r}: {nearest(name[:100], known)}")
    return [a for a in found.arms if not wanted or a.arm in wanted or a.family in wanted]


def _caption(
    panels: Collection[str], axis: str, measured: Sequence[ArmRecord], found: Comparison
) -> str:
    said = []
    if "frontier" in panels:
        few, most = (pick(len(arm.seeds) for arm in measured) for pick in (min, max))
        seeds = f"{few}" if few == most else f"{few} to {most}"
        bars = any(arm.accuracy.ci95 is not None for arm in measured)
        said.append(
            f"Accuracy over {_AXES[axis]}: the mean of {seeds} seed{'s' if most > 1 else ''}"
            f"{'; bars are 95 % intervals' if bars else ', without an interval'}. No other arm is "
            f"as accurate with {figures.AXES[axis].less} than one on the dotted line. Arms at the "
            "same place are drawn side by side."
        )
    if "participation" in panels:
        said.append("Samples that trained by epoch, as fractions of the training set.")
    if broken := [arm.arm for arm in measured if arm.collapsed]:
        said.append(f"Runs collapsed or failed in: {', '.join(broken)}.")
    if not found.complete:
        said.append("The comparison is not complete.")
    return " ".join(said)


def _draw(panels: Sequence[dict[str, Any]], kind: str, dark: bool) -> bytes:
    """A file of ``kind`` (pdf, png, svg), whatever a user's matplotlibrc says."""
    require_extra("plot", "plots need matplotlib", PlotError, "matplotlib")
    import matplotlib.style

    with matplotlib.rc_context(), warnings.catch_warnings(), io.BytesIO() as file:
        matplotlib.rcdefaults()
        matplotlib.rc_file(Path(__file__).with_name("paper.mplstyle"))
        if dark:
            matplotlib.style.use(Path(__file__).with_name("dark.mplstyle"))
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
        composed(panels).savefig(file, format=kind, metadata=_UNDATED[kind])
        return file.getvalue()


def composed(panels: Sequence[dict[str, Any]]) -> Any:
    """matplotlib's figure: one column of a paper wide, or two with two panels."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    handles = _legend(panels)
    width = _PAGE if len(panels) > 1 else _COLUMN
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int((width - 0.1) / (_ENTRY + _LETTER * longest))))
    height = _HEIGHT + _LEGEND_LINE * math.ceil(len(handles) / columns)
    figure = Figure((width, height), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for panel, ax in zip(panels, axes, strict=True):
        for place, trace in enumerate(panel["data"]):
            # Where traces cover each other, the first are seen; all of them above the frontier.
            bars = trace.get("error_y")
            order = 1 if trace["meta"]["colour"] == "quiet" else 3 - place / 1000
            ax.errorbar(
                trace["x"], trace["y"], elinewidth=0.8, capthick=0.8, zorder=order,
                yerr=[bars["arrayminus"], bars["array"]] if bars else None, **_style_of(trace),
                drawstyle="steps-post" if trace["line"].get("shape") == "hv" else "default",
            )  # fmt: skip
        x, y = panel["layout"]["xaxis"], panel["layout"]["yaxis"]
        ax.set_xlabel(x["title"]["text"])
        ax.set_ylabel(html.unescape(y["title"]["text"]))
        ax.xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10]))
        if x.get("rangemode") == "tozero":
            ax.set_xlim(left=0)
        if y.get("rangemode") == "tozero":
            ax.set_ylim(bottom=0)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.4,
        handlelength=2.4,
    )  # fmt: skip
    return figure


def _style_of(trace: dict[str, Any]) -> dict[str, Any]:
    """Colour, marker and dash of a trace."""
    from matplotlib import rcParams

    colour, mode = trace["meta"]["colour"], trace["mode"]
    colours = (rcParams["text.color"], *_COLOURS)
    symbol = trace.get("marker", {}).get("symbol")
    return {
        "color": _QUIET if colour == "quiet" else colours[colour],
        "marker": _MARKERS[symbol] if symbol else "." if "markers" in mode else "",
        "linestyle": _DASHES[trace["line"].get("dash", "solid")] if "lines" in mode else "",
        "markersize": 7 if symbol == "star" else 4.5,
        "linewidth": 0.8 if colour == "quiet" else 1.2,
    }


def _legend(panels: Sequence[dict[str, Any]]) -> list[Any]:
    """Each family once for all panels, and what the dashes stand for where there are several."""
    from matplotlib.lines import Line2D

    families: dict[str, dict[str, Any]] = {}
    budgets: dict[str, Any] = {}
    for trace in (trace for panel in panels for trace in panel["data"]):
        style = _style_of(trace)
        family = families.setdefault(trace.get("legendgroup", trace["name"]), style)
        if "budget" in trace["meta"]:
            budgets[trace["meta"]["budget"]] = style["linestyle"]
            family["linestyle"] = "-"
        elif style["linestyle"]:
            family["linestyle"] = style["linestyle"]
    handles = [Line2D([], [], label=_label(name), **style) for name, style in families.items()]
    if len(budgets) > 1:
        handles += [
            Line2D([], [], color=_QUIET, linestyle=dash, label=budget)
            for budget, dash in sorted(budgets.items(), key=lambda item: float(item[0][:-2]))
        ]
    return handles


def _label(name: str) -> str:
    """matplotlib leaves out a label that begins with an underscore."""
    name = short(html.unescape(name), 24)
    return f" {name}" if name.startswith("_") else name
