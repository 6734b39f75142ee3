"""A look at a model's features, to learn their shapes before a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from frugalkd.errors import ModelError
from frugalkd.models.features.paths import feature_paths, find_paths
from frugalkd.models.features.taps import hook
from frugalkd.models.inference import inference_mode

Shape = tuple[int, ...]
"""Of one row's feature: (channels, height, width), (channels,), (tokens, width), ..."""


def probe_features(
    model: nn.Module, patterns: Sequence[str], run: Callable[[], Tensor], where: str
) -> dict[str, Shape]:
    """The features that ``patterns`` mean, and their shapes without the rows, in the order of
    :func:`~frugalkd.models.features.paths.find_paths`. Nothing of the model changes.

    Args:
        model: any module.
        patterns: paths or globs.
        run: asks the model about some rows, and gives its logits (rows, classes).
        where: whose model it is, for errors.

    Raises:
        ModelError: a pattern means no module, or one that gives no feature of its own: it does not
            run, or several times, or returns no tensor of as many rows, or what it returns is
            changed in place afterwards.
    """
    paths = find_paths(patterns, feature_paths(model), where)
    seen: dict[str, list[tuple[Any, int]]] = {path: [] for path in paths}
    hooks = []
    for path in paths:

        def keep(feature: Any, path: str = path) -> None:
            seen[path].append((feature, feature._version if isinstance(feature, Tensor) else 0))

        hooks.append(hook(model, path, keep))
    try:
        with inference_mode(model):
            rows = len(run())
    finally:
        for each in hooks:
            each.remove()
    return {path: _shape(path, seen[path], rows, where) for path in paths}


def _shape(path: str, seen: list[tuple[Any, int]], rows: int, where: str) -> Shape:
    said = f"module {path} of {where}"
    if len(seen) != 1:
        how = f"runs {len(seen)} times" if seen else "does not run"
        raise ModelError(f"{said} {how} in a forward pass: name one that runs once")
    tensor, version = seen[0]
    if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
        what = f"{tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ModelError(f"{said} returns {what}: name one that returns floating-point features")
    if tensor.ndim < 2 or len(tensor) != rows:
        raise ModelError(
            f"{said} returns features of shape {tuple(tensor.shape)} for {rows} rows: (rows, ...) "
            "are needed"
        )
    if tensor._version != version:
        raise ModelError(
            f"what {said} returns is changed in place afterwards: name the module that does that, "
            "or build the model with inplace=False"
        )
    return tuple(tensor.shape[1:])
