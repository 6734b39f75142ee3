"""What a model card may claim: no more than the weights beside it bear out.

The card of a folder from elsewhere may name layers without number, or buffers of any size. The file
of weights lists its tensors, and is read first.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registering
from torch.overrides import TorchFunctionMode

from frugalkd.errors import ModelError
from frugalkd.files.tensors import refuse_misfit

MOST_TENSORS = 10_000
"""Of a model that is built by name; the deepest of timm's has 2,500."""

_FREE_NUMBER = 1 << 16
"""Any number of a card may be this large."""
_FREE_BYTES = 1 << 28
"""That a model may take beyond its weights, for buffers that are not saved; timm's take 6 MB."""


def refuse_larger(card: Mapping[str, Any], state: Mapping[str, Tensor], weights: Path) -> None:
    """Raises ModelError where ``weights`` has more tensors than a model that is built by name, or
    where a number of the card's classes or options is larger than any side of them."""
    if len(state) > MOST_TENSORS:
        raise ModelError(f"{weights} has {len(state):,} tensors: {MOST_TENSORS:,} at most")
    largest = max((side for tensor in state.values() for side in tensor.shape), default=0)
    for number in _integers([card["num_classes"], card["model"].get("options", {})]):
        if abs(number) > max(_FREE_NUMBER, largest):
            raise ModelError(
                f"{weights} does not fit the model: model.json says {number}, and no tensor there "
                f"has a side of more than {largest}"
            )


def _integers(value: Any) -> Iterator[int]:
    if isinstance(value, int):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _integers(each)


def build_checked(
    build: Callable[[], nn.Module], state: Mapping[str, Tensor], weights: Path
) -> nn.Module:
    """What ``build`` makes, after a build on the meta device has shown that it has the tensors of
    ``state`` and takes little more memory than they do. Raises ModelError."""
    with _bounded_by(state, weights):
        empty = without_memory(build)
        refuse_misfit(empty.state_dict(), state, weights)
        # The weights may be saved in a quarter of the bytes (float8).
        most = _FREE_BYTES + 4 * sum(tensor.nbytes for tensor in state.values())
        size = sum(tensor.nbytes for tensor in (*empty.parameters(), *empty.buffers()))
        if size > most:
            raise ModelError(
                f"{weights} does not fit the model: as model.json describes it, it takes "
                f"{size >> 20:,} MiB, and for these weights {most >> 20:,} MiB are allowed"
            )
        return build()


@contextmanager
def _bounded_by(state: Mapping[str, Tensor], weights: Path) -> Iterator[None]:
    """Inside, a model that grows far beyond the tensors of ``state`` is a ModelError at once."""
    most, thread, made = 1000 + 10 * len(state), threading.get_ident(), 0

    def count(*registered: Any) -> None:
        nonlocal made
        made += threading.get_ident() == thread
        if made > most:
            raise ModelError(
                f"{weights} does not fit the model: it has {len(state):,} tensors, and model.json "
                "describes many more"
            )

    with ExitStack() as hooks:
        for register in (
            registering.register_module_parameter_registration_hook,
            registering.register_module_buffer_registration_hook,
            registering.register_module_module_registration_hook,
        ):
            hooks.callback(register(count).remove)
        yield


def without_memory(build: Callable[[], nn.Module]) -> nn.Module:
    """What ``build`` makes, its weights on the meta device."""
    try:
        with torch.device("meta"):
            return build()
    except NotImplementedError:  # it computes its sizes with tensors, which need values
        with _Unfilled():
            return build()


class _Unfilled(TorchFunctionMode):
    """Tensors that are created to be filled later are on the meta device, others are not."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.empty, torch.zeros, torch.ones, torch.full):
            kwargs["device"] = "meta"
        return func(*args, **kwargs)
