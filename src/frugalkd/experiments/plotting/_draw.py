"""A figure's content, drawn by matplotlib without its global state."""

from __future__ import annotations

import contextlib
import io
import math
import warnings
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from frugalkd.experiments.plotting._content import Content, Family
from frugalkd.experiments.report.spacing import side_by_side
from frugalkd.experiments.report.text import short

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from frugalkd.experiments.runs.schema import Arm

_COLUMN, _PAGE = 3.4, 7.0  # inches: one column of a paper that has two, and both
_HEIGHT, _LEGEND_LINE, _ENTRY, _LETTER = 2.3, 0.17, 0.5, 0.054
_REFERENCE = "#222222"
# Okabe and Ito's colours, made to be told apart by people who see few, without yellow and black;
# and four more.
_COLOURS = (
    "#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#6a4c93", "#8c6d31",
    "#a50026", "#8a8a8a",
)  # fmt: skip
_MARKERS = ("o", "s", "^", "v", "P", "X", "p", "<", ">", "h", "d")
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2)), (0, (8, 2)))
_STYLE: dict[Any, Any] = {
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "errorbar.capsize": 2,
    "font.size": 8,
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.5,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "lines.linewidth": 1.2,
    "lines.markersize": 4.5,
    "pdf.fonttype": 42,  # TrueType: many journals refuse matplotlib's default
    "savefig.dpi": 300,
    "svg.fonttype": "path",  # looks alike where the font is missing
    "svg.hashsalt": "frugalkd",  # the same data, the same bytes
    "text.parse_math": False,  # a name is text, whatever stands in it
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}
_UNDATED = {"pdf": {"CreationDate": None}, "svg": {"Date": None}, "png": None}


def draw(content: Content, kind: str) -> bytes:
    """A file of ``kind`` (pdf, png, svg)."""
    with _style(), io.BytesIO() as file:
        composed(content).savefig(file, format=kind, metadata=_UNDATED[kind])
        return file.getvalue()


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Ours alone, whatever a user's matplotlibrc says."""
    with matplotlib.rc_context(), warnings.catch_warnings():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        warnings.filterwarnings("ignore", message="Glyph .* missing from")  # a box stands for it
        yield


def composed(content: Content) -> Figure:
    """The figure of ``content``, one column of a paper wide, or two with two panels."""
    handles = _legend(content)
    width = _PAGE if len(content.panels) > 1 else _COLUMN
    longest = max(len(str(handle.get_label())) for handle in handles)
    columns = max(1, min(len(handles), int((width - 0.1) / (_ENTRY + _LETTER * longest))))
    height = _HEIGHT + _LEGEND_LINE * math.ceil(len(handles) / columns)
    figure = Figure((width, height), layout="constrained")
    figure.get_layout_engine().set(wspace=0.06)  # pyright: ignore
    axes = figure.subplots(1, len(content.panels), squeeze=False)[0]
    for panel, ax in zip(content.panels, axes, strict=True):
        {"frontier": _frontier, "participation": _participation}[panel](ax, content)
    figure.legend(
        handles=handles, loc="outside lower center", ncols=columns, columnspacing=1.4,
        handlelength=2.4,
    )  # fmt: skip
    return figure


def look(place: int) -> dict[str, Any]:
    """Colour and marker; the reference's are its own."""
    if place == 0:
        return {"color": _REFERENCE, "marker": "*", "markersize": 7.5}
    return {
        "color": _COLOURS[(place - 1) % len(_COLOURS)],
        "marker": _MARKERS[(place - 1) % len(_MARKERS)],
    }


def _frontier(ax: Axes, content: Content) -> None:
    places = side_by_side({arm.arm: _x(arm) for family in content.families for arm in family.arms})
    for family in content.families:
        _family(ax, family, [places[arm.arm] for arm in family.arms])
        if family.place == 0:
            best = _y(family.arms[-1])
            ax.axhline(best, color=_REFERENCE, linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
    ax.set_xlabel("samples backpropagated, % of full distillation")
    ax.set_ylabel(f"{content.accuracy}, %")
    ax.set_xlim(left=0)
    ax.margins(y=0.08)


def _x(arm: Arm) -> float:
    return 100 * (arm.budget.mean or 0)


def _y(arm: Arm) -> float:
    return 100 * (arm.accuracy.mean or 0)


def _family(ax: Axes, family: Family, x: Sequence[float]) -> None:
    """A point an arm with its intervals; the budgets are joined."""
    y = [_y(arm) for arm in family.arms]
    spans = [arm.accuracy.ci95 for arm in family.arms]
    low = [0 if s is None else at - 100 * s[0] for at, s in zip(y, spans, strict=True)]
    high = [0 if s is None else 100 * s[1] - at for at, s in zip(y, spans, strict=True)]
    ax.errorbar(
        x, y, yerr=[low, high] if any(spans) else None, elinewidth=0.8, capthick=0.8,
        markeredgecolor="white", markeredgewidth=0.5, zorder=3, **look(family.place),
    )  # fmt: skip


def _participation(ax: Axes, content: Content) -> None:
    for line in content.lines:
        ax.plot(
            line.epochs, [100 * share for share in line.shares],
            linestyle=_DASHES[line.dash % len(_DASHES)],
            marker="." if len(line.epochs) == 1 else "", color=look(line.place)["color"],
            zorder=3 - line.place / 1000,  # where lines cover each other, the first are seen
        )  # fmt: skip
    ax.set_xlabel("epoch")
    ax.set_ylabel("samples that trained, %" if content.families else "samples, %")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    most = max(share for line in content.lines for share in line.shares)
    ax.set_ylim(0, 100 * min(1.03, 1.15 * most) or 1)
    ax.margins(x=0.02)


def _legend(content: Content) -> list[Line2D]:
    """A family's colour and marker, and what dashes stand for: once for all panels."""
    names = {family.place: family.name for family in content.families}
    names |= {line.place: line.name for line in content.lines}
    own = {} if content.families else {line.place: line.dash for line in content.lines}
    handles = []
    for place, name in sorted(names.items()):
        shown = look(place) | {"markeredgecolor": "white", "markeredgewidth": 0.5}
        if "frontier" not in content.panels:
            shown["marker"] = ""
        handles.append(
            Line2D([], [], label=_label(name), linestyle=_DASHES[own.get(place, 0)], **shown)
        )
    if "participation" in content.panels:
        handles += [
            Line2D([], [], color="#777777", linestyle=_DASHES[place % len(_DASHES)], label=said)
            for place, said in enumerate(content.dashes)
        ]
    return handles


def _label(name: str) -> str:
    """matplotlib leaves out a label that begins with an underscore."""
    return f" {short(name, 24)}" if name.startswith("_") else short(name, 24)
