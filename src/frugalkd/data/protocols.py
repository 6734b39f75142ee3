"""What a data set may offer beyond ``dataset[id]``: a view of a sample, a batch at once."""

from __future__ import annotations

import inspect
from typing import Any, Protocol, TypeGuard, runtime_checkable

from frugalkd.errors import UnsupportedData
from frugalkd.runtime.failures import blame


@runtime_checkable
class ViewIndexed(Protocol):
    """A data set whose augmentation is a pure function of the sample and of the view."""

    def view(self, id: int, view: int) -> Any:
        """Sample ``id`` as augmented for ``view``; the second parameter is called ``view``."""
        ...


@runtime_checkable
class BatchIndexed(Protocol):
    """A data set that gives a whole, collated batch at once.

    It may also have ``row_bytes``, an integer: what a row of a batch takes in memory. That is a
    promise that a row does not depend on its batch (no padding to the longest, no draws); several
    batches are then read at once. Where a batch is padded to its longest row, ``join(batches)``
    makes one of several, and ``lengths``, integers (N,), say how long samples are: rows of like
    length can then be put together (:mod:`frugalkd.data.bucketing`).
    """

    def batch(self, ids: Any, views: Any) -> Any:
        """The samples ``ids`` in the views ``views`` (both int64 (B,)); the second parameter is
        called ``views``."""
        ...


@runtime_checkable
class Digested(Protocol):
    """A data set that says itself what it holds, so that its samples are not read for that."""

    def digest(self) -> str:
        """Text that changes with anything that the samples hold."""
        ...


def is_digested(dataset: object) -> TypeGuard[Digested]:
    """Whether the class of ``dataset`` has a method ``digest()``; one that it passes on from a data
    set inside knows nothing of what it does itself."""
    method = getattr(type(dataset), "digest", None)
    return callable(method) and list(inspect.signature(method).parameters) == ["self"]


def is_view_indexed(dataset: object) -> TypeGuard[ViewIndexed]:
    """Whether ``dataset`` has ``view(id, view)``; a tensor's ``view`` is another thing."""
    return _second_parameter(dataset, "view") == "view"


def is_batch_indexed(dataset: object) -> TypeGuard[BatchIndexed]:
    """Whether ``dataset`` has ``batch(ids, views)``; a Hugging Face data set's ``batch`` is
    another thing."""
    return _second_parameter(dataset, "batch") == "views"


def _second_parameter(dataset: object, method: str) -> str | None:
    try:
        names = list(inspect.signature(getattr(dataset, method)).parameters)
    except AttributeError:
        return None
    except (TypeError, ValueError) as error:
        if callable(inspect.getattr_static(dataset, method, None)):
            return None  # a built-in method has no signature
        blame(error, UnsupportedData, f"data.{method} cannot be read")
    except Exception as error:
        blame(error, UnsupportedData, f"data.{method} cannot be read")
    return names[1] if len(names) > 1 else None
