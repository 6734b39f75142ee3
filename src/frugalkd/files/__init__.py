"""Files of ours: written whole or not at all, read with suspicion."""

from os import PathLike

StrPath = str | PathLike[str]
"""What a path parameter of the public API takes."""
