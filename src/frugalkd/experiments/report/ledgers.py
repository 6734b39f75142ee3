"""What a ledger says, as blocks: significance by class, and the samples at both ends."""

from __future__ import annotations

from typing import Any

from frugalkd.experiments.report import figures
from frugalkd.experiments.report.blocks import Cell, Gallery, Note, Picture, Table
from frugalkd.experiments.report.gallery import Pictures
from frugalkd.experiments.report.text import NOTHING, short
from frugalkd.experiments.runs.schema import LedgerSummary, Sample

_UNKNOWN = (
    "No teacher trained here left a ledger, nor a summary of one: single samples are not known."
)
_ENDS = {
    "significance": (("Most significant", "most"), ("Least significant", "least")),
    "participation": (("Took part most often", "most"), ("Took part least often", "least")),
}


def significance_blocks(summary: LedgerSummary | None, what: str) -> list[Any]:
    """``what`` a ledger counts (significance, or a student's participation), by class, in all."""
    if summary is None:
        return [Note(_UNKNOWN)]
    made: list[Any] = []
    if summary.classes:
        made.append(figures.by_class(summary, what))
    if summary.histogram:
        made.append(figures.histogram(summary, what))
    if summary.always == 1:
        made.insert(0, Note("All took part in all epochs: a conventional training."))
    return made


def gallery_blocks(summary: LedgerSummary | None, pictures: Pictures, what: str) -> list[Any]:
    """The samples at both ends of ``what`` the ledger counts, as ``pictures`` shows them; where it
    does not, as numbers."""
    if summary is None:
        return [Note(_UNKNOWN)]
    seen = pictures(summary)
    if isinstance(seen, str):
        tables = [_table(title, getattr(summary, end), what) for title, end in _ENDS[what]]
        return [Note(f"The samples are not shown: {short(seen, 300)}"), *tables]
    about = (
        f"Of samples of equal {what} one of each class is shown in turn, at the upper end the "
        "least confident first, at the lower the most confident."
    )
    made: list[Any] = [
        Gallery(title, [_picture(sample, seen, what) for sample in getattr(summary, end)
                        if sample.id in seen])
        for title, end in _ENDS[what]
    ]  # fmt: skip
    return [*made, Note(about)]


def _picture(sample: Sample, seen: dict[int, tuple[str, str]], what: str) -> Picture:
    source, text = seen[sample.id]
    name = short(sample.name or "no label", 40)
    confidence = NOTHING if sample.confidence is None else f"{sample.confidence:.2f}"
    known = (f"sample {sample.id}", f"{what} {sample.significance:.2f}", f"confidence {confidence}")
    return Picture(name, known, source, text)


def _table(title: str, samples: list[Sample], what: str) -> Table:
    rows = [
        [
            Cell(str(sample.id), sample.id),
            Cell(short(sample.name or NOTHING)),
            Cell(f"{sample.significance:.3f}", sample.significance),
            Cell(
                NOTHING if sample.confidence is None else f"{sample.confidence:.2f}",
                sample.confidence,
            ),
        ]
        for sample in samples
    ]
    headings = ["sample", "class", what, "confidence"]
    return Table(title, headings, rows, [True, False, True, True])
