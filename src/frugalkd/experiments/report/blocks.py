"""Numbers and names as a reader sees them, and the parts of a page, as plain text and numbers: the
template escapes them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from frugalkd.experiments.runs.schema import Spread
from frugalkd.files.parsing import printable
from frugalkd.runtime import formatting

NOTHING = "–"
_SPACE = "\u00a0"
_ISOLATE, _END = "\u2068", "\u2069"
_NAME = 60


def percent(fraction: float | None, digits: int = 1) -> str:
    """``0.123`` as ``12.3 %``, with a space that does not break."""
    return NOTHING if fraction is None else formatting.percent(fraction, digits, f"{_SPACE}%")


def number(value: float | None, digits: int = 0) -> str:
    """With commas between thousands."""
    return NOTHING if value is None else formatting.number(value, digits)


def seconds(value: float | None) -> str:
    """A duration, with spaces that do not break."""
    return NOTHING if value is None else formatting.duration(value).replace(" ", _SPACE)


def points(value: Spread | None, *, signed: bool = False) -> str:
    """A mean in points with half of its 95 % interval: ``89.93 ± 0.20``."""
    if value is None or value.mean is None:
        return NOTHING
    mean = round(100 * value.mean, 2) + 0.0  # never -0.00
    said = f"{mean:{'+' if signed and mean else ''}.2f}"
    if value.ci95 is None:
        return said
    return f"{said} ± {50 * (value.ci95[1] - value.ci95[0]):.2f}"


def inline(name: object) -> str:
    """A name inside a sentence, whose direction of writing the name does not change."""
    text = short(name)
    turned = any(unicodedata.bidirectional(sign) in ("R", "AL", "AN") for sign in text)
    return f"{_ISOLATE}{text}{_END}" if turned else text


def in_a_terminal(sentence: str) -> str:
    """A sentence for a terminal: plain spaces, and no invisible characters."""
    return sentence.replace(_SPACE, " ").replace(_ISOLATE, "").replace(_END, "")


def short(name: object, most: int = _NAME) -> str:
    """A name from a file, without invisible characters, cut where it is long."""
    text = printable(name, " ")
    return text if len(text) <= most else text[: most - 1] + "…"


@dataclass(frozen=True)
class Cell:
    """The text of a cell, and the number that it is sorted by (None: by its text)."""

    text: str
    value: float | None = None
    note: str = ""


def amount(value: float | None, digits: int = 0) -> Cell:
    """A number, with commas between thousands."""
    return Cell(number(value, digits), value)


def fraction(value: float | None) -> Cell:
    """A fraction in percent."""
    return Cell(percent(value), value)


def estimate(value: Spread | None, *, signed: bool = False) -> Cell:
    """A mean over seeds with half of its interval, in points; empty where there is none."""
    if value is None:
        return Cell("")
    return Cell(points(value, signed=signed), value.mean)


@dataclass(frozen=True)
class Table:
    """Rows under headings; a string stands for a cell without a number. A table with a ``name`` can
    be sorted and copied; one that is ``folded`` is opened by a click."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell | str]]
    name: str = ""
    folded: bool = False

    @property
    def cells(self) -> list[list[Cell]]:
        """The rows, all of their strings as cells."""
        return [[Cell(it) if isinstance(it, str) else it for it in row] for row in self.rows]

    @property
    def numeric(self) -> list[bool]:
        """For each column: whether some of its cells have numbers."""
        cells = self.cells
        return [any(row[k].value is not None for row in cells) for k in range(len(self.headings))]


@dataclass(frozen=True)
class Figure:
    """A plot: ``plot`` is plotly's figure without colours (each trace's ``meta`` has the number of
    one); ``summary`` and ``table`` say the same to readers who do not see it."""

    name: str
    title: str
    plot: dict[str, Any]
    summary: str
    table: Table


@dataclass(frozen=True)
class Picture:
    """A sample: a picture (``source``, a data URL) or a ``text``; the ``name`` of its class;
    ``details``, of which the first names the sample."""

    name: str
    details: Sequence[str]
    source: str = ""
    text: str = ""


@dataclass(frozen=True)
class Gallery:
    """Samples side by side."""

    title: str
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Suspect:
    """A label to review: the sample, and the ``given`` and the ``suggested`` class as cells of a
    table of decisions."""

    id: int
    picture: Picture
    given: str
    suggested: str


@dataclass(frozen=True)
class Review:
    """Labels to decide about: a table of decisions is made from it, with the names of ``classes``
    to choose from, and the beginning of the ``data``'s digest."""

    title: str
    suspects: Sequence[Suspect]
    classes: Sequence[str]
    data: str


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    title: str
    text: str
    name: str


Block = Table | Figure | Gallery | Review | Code | str
"""A part of a section; a string is a paragraph."""


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading."""

    id: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Page:
    """A complete page."""

    title: str
    kicker: str
    headline: str
    detail: str
    sections: Sequence[Section] = field(default_factory=list)


def page(title: str, kicker: str, headline: str, detail: str, sections: Sequence[Section]) -> Page:
    """A page of the sections that show something. The others are listed with their reasons in one
    section, the last but one, so that no link leads to an empty place."""
    shown, missing = [], []
    for section in sections:
        reasons = [block for block in section.blocks if isinstance(block, str)]
        if len(reasons) == len(section.blocks):
            missing.append([section.title, " ".join(reasons)])
        else:
            shown.append(section)
    if missing:
        table = Table("What is missing, and why", ["section", "why"], missing)
        shown.insert(-1, Section("missing", "Not shown", [table]))
    return Page(title, kicker, headline, detail, shown)
