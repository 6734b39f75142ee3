"""Where this machine keeps what is slow to compute and the same for every run."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from frugalkd.files.opening import Resolved, named

VARIABLE = "FRUGALKD_CACHE"


def cache_root() -> Resolved | None:
    """The folder that the environment's FRUGALKD_CACHE names, else ``frugalkd`` in XDG_CACHE_HOME
    or in ``~/.cache``. None where the variable is empty, or there is no home: nothing is kept."""
    place = os.environ.get(VARIABLE)
    if place is None:
        with suppress(RuntimeError):
            cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
            return named(Path(cache) / "frugalkd")
    return named(place) if place else None
