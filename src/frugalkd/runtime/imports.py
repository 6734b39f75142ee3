"""Objects by import path, for what no registry holds, and checks of the options they take."""

from __future__ import annotations

import importlib
import inspect
import os
import re
import shlex
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from frugalkd.errors import FrugalKDError, ImportRefused, ModelError, nearest
from frugalkd.files.parsing import one_line
from frugalkd.runtime.failures import blame


@dataclass(frozen=True)
class Allowed:
    """What a user allows a run folder to name; nothing else is imported, read or fetched for it.

    Attributes:
        imports: import paths (``package.module:Name``).
        data: whether the data of its recipe are read.
        download: whether names on the Hugging Face hub are fetched, of data and tokenizers.
        tokenizer: in place of the one that it names; a folder is read only if it is this one.
    """

    imports: Collection[str] = ()
    data: bool = False
    download: bool = False
    tokenizer: str | None = None


_NAME = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FORM = re.compile(rf"({_NAME}):({_NAME})")


def import_object(path: str) -> Any:
    """The object that ``"package.module:Name"`` names (``Name`` may have dots). The current
    directory becomes importable, after everything that is installed, also for the workers of data
    loaders. Raises ModelError."""
    form = _FORM.fullmatch(path)
    if form is None:
        raise ModelError(f"{path!r} is not an import path: write package.module:Name")
    reached, name = form.groups()
    found = _import_module(reached)
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            names = [name for name in dir(found) if not name.startswith("_")]
            hint = nearest(part, names) if names else "it defines no name"
            raise ModelError(f"{reached} has no {part!r}: {hint}") from None
        reached = f"{reached}.{part}"
    return found


def make_object(path: str, options: Mapping[str, Any]) -> Any:
    """What the callable at an import path makes of ``options``. Raises ModelError."""
    maker = import_object(path)
    if not callable(maker):
        raise ModelError(f"{path} is a {type(maker).__name__}: name a class or a function")
    with suppress(TypeError, ValueError):  # some built-in callables have no signature
        check_options(maker, options, fixed=(), what=path, error=ModelError)
    try:
        return maker(**options)
    except Exception as error:
        blame(error, ModelError, f"{path} failed with options {one_line(options)}")


def inside_package(name: str) -> Path | None:
    """The file or folder that ``package/place/within`` names in an installed package, or None.
    Nothing is imported."""
    package, _, inside = name.partition("/")
    if not inside or not package.isidentifier():
        return None
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):  # __main__ has none
        return None
    for place in (spec and spec.submodule_search_locations) or ():
        if os.path.exists(found := Path(place, inside)):
            return found
    return None


def require_extra(extra: str, needs: str, error: type[FrugalKDError], *packages: str) -> None:
    """Raises ``error``, which says ``needs`` ("plots need matplotlib") and how to get ``extra``,
    unless the ``packages`` (import names) are installed. Imports nothing."""
    for name in packages:
        try:
            found = sys.modules[name] if name in sys.modules else find_spec(name)
        except ImportError:
            found = None
        if found is None:
            raise error(f"{needs}: pip install 'frugalkd[{extra}]'")


def refuse_unlisted(path: str, allowed: Collection[str], where: str) -> None:
    """Raises ImportRefused unless ``path``, named by the file ``where``, is among ``allowed``."""
    if path not in allowed:
        raise ImportRefused(
            f"{where} names the import path {path[:200]!r}, which can run any code: if you trust "
            f"it, allow it (--import {shlex.quote(path[:200])}, in Python imports=[...]), or name "
            "it in the recipe"
        )


def _import_module(name: str) -> Any:
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.append(here)
    importlib.invalidate_caches()  # the user may have written the file a moment ago
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            raise ModelError(
                f"no module {missing!r}: install it, or run in the folder that contains "
                f"{missing.split('.')[0]}"
            ) from error
        raise ModelError(f"module {name!r} needs {missing!r}, which is not installed") from error
    except Exception as error:
        blame(error, ModelError, f"importing {name!r} failed")


def check_options(
    function: Callable[..., Any],
    options: Collection[str],
    *,
    fixed: Collection[str],
    what: str,
    error: type[FrugalKDError],
) -> None:
    """Raises ``error`` where ``function`` does not take one of the keyword ``options``, or needs
    another one; ``fixed`` are parameters that the caller gives itself."""
    parameters = inspect.signature(function).parameters.values()
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return
    known = [p.name for p in parameters if p.name not in fixed]
    for option in options:
        if option not in known:
            hint = nearest(option[:100], known) if known else "it takes none"
            raise error(f"{what} takes no option {option[:100]!r}: {hint}")
    for p in parameters:
        needed = p.kind is p.KEYWORD_ONLY and p.default is p.empty and p.name not in fixed
        if needed and p.name not in options:
            raise error(f"{what} needs the option {p.name}")
