"""Numbers and names as a reader sees them."""

from __future__ import annotations

import unicodedata

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


def points(value: Spread | None, *, signed: bool = False, digits: int = 2) -> str:
    """A mean in points with half of its 95 % interval: ``89.93 ± 0.20``."""
    if value is None or value.mean is None:
        return NOTHING
    mean = round(100 * value.mean, digits) + 0.0  # never -0.00
    said = f"{mean:{'+' if signed and mean else ''}.{digits}f}"
    if value.ci95 is None:
        return said
    return f"{said} ± {50 * (value.ci95[1] - value.ci95[0]):.{digits}f}"


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
