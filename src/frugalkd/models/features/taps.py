"""Features of a model as it runs: what modules of it returned or got, kept by hooks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from frugalkd.models.features.paths import INPUT, module_of

Features = dict[str, Tensor]
"""By module path, (rows, ...) each."""


class Taps:
    """Keeps what the modules at ``paths`` return, from ``__enter__`` to ``__exit__``.

    The model is not changed: its modules have a hook each meanwhile, and none afterwards. Where a
    module returns a tuple or a list, its first item counts.

    Args:
        model: any module.
        paths: as :func:`~frugalkd.models.features.paths.feature_paths` has them.
        always: keep features of forward passes without gradients, too. Otherwise looks (screening,
            evaluation, the refreshing of BatchNorm's statistics) leave nothing here.
    """

    def __init__(self, model: nn.Module, paths: Sequence[str], *, always: bool = False):
        self.paths = tuple(paths)
        self._model, self._always = model, always
        self._kept: Features = {}
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> Taps:
        for path in self.paths:
            self._hooks.append(hook(self._model, path, self._keeper(path)))
        return self

    def __exit__(self, *_: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def take(self) -> Features:
        """The features of the last forward pass, of which nothing is kept here any longer."""
        kept = dict(self._kept)
        self._kept.clear()
        return kept

    def _keeper(self, path: str) -> Callable[[Any], None]:
        kept, always = self._kept, self._always

        def keep(feature: Any) -> None:
            if always or torch.is_grad_enabled():
                kept[path] = feature

        return keep


def hook(model: nn.Module, path: str, keep: Callable[[Any], None]) -> RemovableHandle:
    """Have ``keep`` told of the feature at ``path``, whenever its module runs: of the first one
    where it returns or gets several, None where it gets none by position."""
    module = module_of(model, path)
    if path.endswith(INPUT):
        return module.register_forward_pre_hook(
            lambda module, args: keep(args[0] if args else None)
        )
    return module.register_forward_hook(lambda module, args, output: keep(first_of(output)))


def first_of(output: Any) -> Any:
    """A module's output, or the first item where it is several."""
    return output[0] if isinstance(output, tuple | list) and output else output
