"""Numbers as a reader sees them, in tables, pages and messages; a dash where one is not known."""

from __future__ import annotations

NOTHING = "-"


def percent(fraction: float | None, digits: int = 1, unit: str = " %") -> str:
    """``0.123`` as ``12.3 %``."""
    return NOTHING if fraction is None else f"{100 * fraction:.{digits}f}{unit}"


def number(value: float | None, digits: int = 0) -> str:
    """With commas between thousands: ``12,345``."""
    return NOTHING if value is None else f"{value:,.{digits}f}"


def duration(seconds: float | None) -> str:
    """Seconds with two or three digits: ``0.42 s``, ``53 s``, ``31 min``, ``2 h 5 min``."""
    if seconds is None:
        return NOTHING
    if seconds < 600:
        return f"{seconds:.2g} s" if seconds < 9.95 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
