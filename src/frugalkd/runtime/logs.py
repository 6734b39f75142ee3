"""frugalkd's log, as lines on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from frugalkd.files.parsing import printable

_FRUGALKD = logging.getLogger("frugalkd")


class _Lines(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        print(printable(" ".join(record.getMessage().split())), file=sys.stderr)


@contextmanager
def logged() -> Iterator[None]:
    """Inside, what frugalkd logs, from level INFO on, is a line on stderr."""
    handler, level = _Lines(), _FRUGALKD.level
    _FRUGALKD.addHandler(handler)
    _FRUGALKD.setLevel(logging.INFO)
    try:
        yield
    finally:
        _FRUGALKD.removeHandler(handler)
        _FRUGALKD.setLevel(level)
