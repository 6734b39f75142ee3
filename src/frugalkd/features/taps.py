"""Features of a model as it runs: what modules of it returned, kept by hooks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

Features = dict[str, Tensor]
"""By module path, (rows, ...) each."""


class Taps:
    """Keeps what the modules at ``paths`` return, from ``__enter__`` to ``__exit__``.

    The model is not changed: its modules have a hook each meanwhile, and none afterwards. Where a
    module returns a tuple or a list, its first item counts.

    Args:
        model: any module.
        paths: names of its modules, as ``named_modules`` has them.
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
            module = self._model.get_submodule(path)
            self._hooks.append(module.register_forward_hook(self._keeper(path)))
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

    def _keeper(self, path: str) -> Any:
        kept, always = self._kept, self._always

        def keep(module: nn.Module, args: Any, output: Any) -> None:
            if always or torch.is_grad_enabled():
                kept[path] = first_of(output)

        return keep


def first_of(output: Any) -> Any:
    """A module's output, or the first item where it is several."""
    return output[0] if isinstance(output, tuple | list) and output else output
