"""Features by module path (``layer3.2``, the glob ``stages.*``, the input ``fc:input``): recording
them with hooks, probing their shapes, and adapting a student's to the teacher's shape."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.hooks import RemovableHandle

from frugalkd.errors import ModelError
from frugalkd.models.identity import inference_mode

INPUT = ":input"
"""After a module's path: its first positional input in place of its output."""

Features = dict[str, Tensor]
"""By module path, (rows, ...) each."""

Shape = tuple[int, ...]
"""Of one row's feature: (channels, height, width), (channels,), (tokens, width), ..."""


def feature_paths(model: nn.Module) -> list[str]:
    """All features of ``model`` by path: each module's output, and its input."""
    names = [name for name, _ in model.named_modules() if name]
    return [*names, *(name + INPUT for name in names)]


def find_paths(patterns: Sequence[str], names: Iterable[str], where: str) -> tuple[str, ...]:
    """The ``names`` that match ``patterns``, each once, in the order of the patterns and for one
    pattern in that of the names. ``*``, ``?`` and ``[..]`` match as in a shell, within one part of
    a path: ``stages.*`` matches ``stages.0``, not ``stages.0.conv1``.

    Raises ModelError where a pattern matches none of them; it lists the nearest ones. ``where``:
    whose they are, such as ``the student``.
    """
    known = [name for name in names if name]
    found: dict[str, None] = {}
    for pattern in patterns:
        matching = [name for name in known if means(pattern, name)]
        if not matching:
            similar = [name for name in known if name.endswith(INPUT) == pattern.endswith(INPUT)]
            near = difflib.get_close_matches(pattern, similar, n=3, cutoff=0.0)
            hint = f"did you mean {' or '.join(near)}?" if near else "it has none"
            raise ModelError(f"{where} has no module {pattern[:100]!r}: {hint}")
        found |= dict.fromkeys(matching)
    return tuple(found)


def is_glob(pattern: str) -> bool:
    """Whether it may match several features."""
    return any(mark in pattern for mark in "*?[")


def means(pattern: str, name: str) -> bool:
    """Whether ``pattern`` matches the feature ``name``."""
    if pattern.endswith(INPUT) != name.endswith(INPUT):
        return False
    parts, steps = pattern.split("."), name.split(".")
    return len(parts) == len(steps) and all(map(fnmatchcase, steps, parts))


class Taps:
    """Records the features at ``paths``, from ``__enter__`` to ``__exit__``, with a hook on each of
    these modules. Of a tuple or a list the first item is the feature. Forward passes without
    gradients (screening, evaluation, the refreshing of BatchNorm's statistics) are recorded only
    with ``always``."""

    def __init__(self, model: nn.Module, paths: Sequence[str], *, always: bool = False):
        self.paths = tuple(paths)
        self._model, self._always = model, always
        self._recorded: Features = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Taps:
        self._hooks = [_hook(self._model, path, partial(self._record, path)) for path in self.paths]
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def take(self) -> Features:
        """The features of the last forward pass, which are then no longer kept here."""
        recorded, self._recorded = self._recorded, {}
        return recorded

    def _record(self, path: str, feature: Any) -> None:
        if self._always or torch.is_grad_enabled():
            self._recorded[path] = feature


def _hook(model: nn.Module, path: str, record: Callable[[Any], None]) -> RemovableHandle:
    """Call ``record`` with the feature at ``path`` whenever its module runs; None for no input."""
    module = model.get_submodule(path.removesuffix(INPUT))
    if path.endswith(INPUT):
        return module.register_forward_pre_hook(
            lambda module, args: record(args[0] if args else None)
        )

    def after(module: nn.Module, args: Any, output: Any) -> None:
        record(output[0] if isinstance(output, tuple | list) and output else output)

    return module.register_forward_hook(after)


def probe_features(
    model: nn.Module, patterns: Sequence[str], run: Callable[[], Tensor], where: str
) -> dict[str, Shape]:
    """The features that match ``patterns``, and their shapes without the rows, in the order of
    :func:`find_paths`. ``run`` runs the model on some rows, and returns its logits (rows, classes).

    Raises ModelError where a pattern matches no module, or one that gives no feature: it does not
    run, or runs several times, or returns no tensor of as many rows, or its output is changed in
    place.
    """
    paths = find_paths(patterns, feature_paths(model), where)
    seen: dict[str, list[tuple[Any, int]]] = {path: [] for path in paths}

    def record(path: str, feature: Any) -> None:
        seen[path].append((feature, feature._version if isinstance(feature, Tensor) else 0))

    with ExitStack() as hooks, inference_mode(model):
        for path in paths:
            hooks.callback(_hook(model, path, partial(record, path)).remove)
        rows = len(run())
    return {path: _shape(f"module {path} of {where}", seen[path], rows) for path in paths}


def _shape(what: str, seen: list[tuple[Any, int]], rows: int) -> Shape:
    if len(seen) != 1:
        how = f"runs {len(seen)} times" if seen else "does not run"
        raise ModelError(f"{what} {how} in a forward pass: name one that runs once")
    tensor, version = seen[0]
    if not isinstance(tensor, Tensor) or not tensor.dtype.is_floating_point:
        kind = f"{tensor.dtype}" if isinstance(tensor, Tensor) else type(tensor).__name__
        raise ModelError(f"{what} returns {kind}: name one that returns floating-point features")
    if tensor.ndim < 2 or len(tensor) != rows:
        raise ModelError(
            f"{what} returns features of shape {tuple(tensor.shape)} for {rows} rows: (rows, ...) "
            "are needed"
        )
    if tensor._version != version:
        raise ModelError(
            f"the output of {what} is changed in place afterwards: name the module that does that, "
            "or build the model with inplace=False"
        )
    return tuple(tensor.shape[1:])


@final
class Adapter(nn.Module):
    """From features (rows, \\*``given``) to (rows, \\*``wanted``).

    A shape is (channels, height, width), (tokens, width) or (channels,). Sizes other than the
    channels' are averaged down or interpolated up (bilinearly) first; where the channels differ (or
    ``always``), a 1x1 convolution or a linear layer with a bias follows. A map becomes a vector by
    its mean. Raises ModelError where that is not possible.
    """

    def __init__(self, given: Shape, wanted: Shape, *, always: bool = False):
        super().__init__()
        self.wanted = wanted
        if len(given) > 3 or len(wanted) > len(given) or (len(wanted) == 2 != len(given)):
            raise ModelError(
                f"no adapter makes features of shape {wanted} of ones of {given}: name modules "
                "whose features have as many sizes, or a teacher's without height and width"
            )
        self.project: nn.Module = nn.Identity()
        of, to = channels_of(given), channels_of(wanted)
        if of != to or always:
            self.project = nn.Conv2d(of, to, 1) if len(wanted) == 3 else nn.Linear(of, to)

    def forward(self, features: Tensor, like: Tensor | None = None) -> Tensor:
        """To the sizes of ``like``, (rows, ...), where given: those of padded texts differ by
        batch."""
        wanted = self.wanted if like is None else tuple(like.shape[1:])
        return self.project(resized(features, wanted))


def channels_of(shape: Shape) -> int:
    """How many channels features of ``shape`` have; of tokens, their width."""
    return shape[-1] if len(shape) == 2 else shape[0]


def resized(features: Tensor, wanted: Shape) -> Tensor:
    """``features`` (rows, ...) with the sizes of ``wanted`` except for the channels, which stay."""
    if features.ndim == 2 and len(wanted) == 1:
        return features
    if len(wanted) == 1:  # the mean over all but the channels
        return features.flatten(2).mean(2) if features.ndim > 3 else features.mean(1)
    if len(wanted) == 2:
        return _tokens(features.transpose(1, 2), wanted[0]).transpose(1, 2)
    height, width = wanted[1:]
    if tuple(features.shape[2:]) == (height, width):
        return features
    # Down first, so that a side that shrinks is averaged and one that grows is interpolated.
    least = min(features.shape[2], height), min(features.shape[3], width)
    features = F.adaptive_avg_pool2d(features, least)
    if least == (height, width):
        return features
    return F.interpolate(features, (height, width), mode="bilinear", align_corners=False)


def _tokens(features: Tensor, length: int) -> Tensor:
    if features.shape[2] == length:
        return features
    if features.shape[2] > length:
        return F.adaptive_avg_pool1d(features, length)
    return F.interpolate(features, length, mode="linear", align_corners=False)
