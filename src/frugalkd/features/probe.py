"""A look at a model's features, to learn their shapes before a training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from frugalkd.errors import ModelError
from frugalkd.features.paths import find_paths
from frugalkd.features.taps import first_of
from frugalkd.looking import looking

Shape = tuple[int, ...]
"""Of one row's feature: (channels, height, width), (channels,), (tokens, width), ..."""


def probe_features(
    model: nn.Module, patterns: Sequence[str], run: Callable[[], Tensor], where: str
) -> dict[str, Shape]:
    """The modules that ``patterns`` mean, and the shapes of what they return, in the order of
    :func:`~frugalkd.features.paths.find_paths`. Nothing of the model changes.

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
    names = [name for name, _ in model.named_modules()]
    paths = find_paths(patterns, names, where)
    seen: dict[str, list[tuple[Any, int]]] = {path: [] for path in paths}
    hooks = []
    for path in paths:

        def keep(module: nn.Module, args: Any, output: Any, path: str = path) -> None:
            tensor = first_of(output)
            seen[path].append((tensor, tensor._version if isinstance(tensor, Tensor) else 0))

        hooks.append(model.get_submodule(path).register_forward_hook(keep))
    try:
        with looking(model):
            rows = len(run())
    finally:
        for hook in hooks:
            hook.remove()
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
