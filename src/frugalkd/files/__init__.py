"""frugalkd's files: written whole or not at all, and never trusted when they are read."""

from os import PathLike
from pathlib import Path

from frugalkd.errors import SettingError

StrPath = str | PathLike[str]
"""What a path parameter of the public API takes."""


def path_of(value: StrPath, name: str = "the path") -> Path:
    """``value`` as a Path. Raises SettingError where it is not a path."""
    if not isinstance(value, str | PathLike) or "\0" in str(value):
        raise SettingError(f"{name} is not a path: give text or a pathlib.Path")
    return value if isinstance(value, Path) else Path(value)  # its kind says what may be a link
