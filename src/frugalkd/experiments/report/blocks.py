"""What a page is put together from. Everything here is plain text and numbers: the template
escapes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cell:
    """What a cell says, and the number that it is sorted by (None: the text)."""

    text: str
    value: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Table:
    """Rows under headings. ``numeric`` tells, for each column, whether it holds numbers; a table
    with a ``name`` can be sorted and copied; one that is ``folded`` is opened by a click."""

    caption: str
    headings: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numeric: Sequence[bool]
    name: str = ""
    folded: bool = False

    kind = "table"


@dataclass(frozen=True)
class Figure:
    """A plot: ``plot`` is plotly's figure without colours (each trace's ``meta`` says which), and
    ``says`` and ``table`` are what it shows, for readers who do not see it."""

    name: str
    title: str
    plot: dict[str, Any]
    says: str
    table: Table

    kind = "figure"


@dataclass(frozen=True)
class Picture:
    """A sample: a picture (``source``, a data URL) or a ``text``; the ``name`` of its class, and
    what is known of it, first which one it is."""

    name: str
    details: Sequence[str]
    source: str = ""
    text: str = ""


@dataclass(frozen=True)
class Gallery:
    """Samples side by side."""

    title: str
    pictures: Sequence[Picture]

    kind = "gallery"


@dataclass(frozen=True)
class Code:
    """Text to copy."""

    title: str
    text: str
    name: str

    kind = "code"


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    text: str

    kind = "note"


@dataclass(frozen=True)
class Section:
    """A part of the page with its heading."""

    id: str
    title: str
    blocks: Sequence[Table | Figure | Gallery | Code | Note]


@dataclass(frozen=True)
class Page:
    """All that a page says."""

    title: str
    kicker: str
    headline: str
    detail: str
    sections: Sequence[Section] = field(default_factory=list)


def page(title: str, kicker: str, headline: str, detail: str, sections: Sequence[Section]) -> Page:
    """A page of those sections that show something. Why the others do not stands together in one,
    the last but one, so that no link leads to an empty place."""
    shown, missing = [], []
    for section in sections:
        if all(isinstance(block, Note) for block in section.blocks):
            reasons = " ".join(block.text for block in section.blocks if isinstance(block, Note))
            missing.append([Cell(section.title), Cell(reasons)])
        else:
            shown.append(section)
    if missing:
        table = Table("What is missing, and why", ["section", "why"], missing, [False, False])
        shown.insert(-1, Section("missing", "Not shown", [table]))
    return Page(title, kicker, headline, detail, shown)
