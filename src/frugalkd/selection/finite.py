"""Whether gradients, weights and what is kept with them are finite."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from frugalkd.distributed.ranks import Ranks
from frugalkd.errors import NonFiniteLoss
from frugalkd.policies import Ids

_ONE_PASS = ("cpu", "cuda")
"""Devices on which every torch that is supported has the check of its gradient scaler."""


@torch.no_grad()
def mark(bad: Tensor, tensors: Iterable[Tensor]) -> None:
    """Set ``bad``, a float32 number, to 1 unless all ``tensors``, real numbers on its device, are
    finite. Does not wait for the device."""
    by_type: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        by_type.setdefault(tensor.dtype, []).append(_values(tensor))
    one = torch.ones_like(bad)
    for group in by_type.values():
        if bad.device.type in _ONE_PASS:  # multiplies by 1, and marks in the same pass
            torch._amp_foreach_non_finite_check_and_unscale_(group, bad, one)  # pyright: ignore
        else:
            finite = torch.stack([_largest(values) for values in group]).isfinite().all()
            bad.copy_(torch.where(finite, bad, one))


def gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """The gradients, without parameters that have none."""
    return [p.grad for p in parameters if p.grad is not None]


def bad_gradients(optimizer: torch.optim.Optimizer) -> Tensor:
    """A float32 number on the device, 0 where the gradients of ``optimizer`` are finite, else 1."""
    found = gradients(p for group in optimizer.param_groups for p in group["params"])
    bad = torch.zeros((), device=found[0].device if found else "cpu")
    mark(bad, found)
    return bad


class Watch:
    """The weights, buffers and optimiser state that have to stay finite: all that are finite when
    the watch begins (a mask of -inf is not), and all that come later. ``modules`` by what their
    names begin with."""

    def __init__(
        self, modules: Mapping[str, nn.Module], optimizer: torch.optim.Optimizer | None = None
    ):
        self._modules, self._optimizer = modules, optimizer
        self._spared = frozenset(self._bad())

    def first_bad(self) -> str | None:
        """What stopped being finite, by its name; None where nothing did. Waits for the device."""
        return next((name for name in self._bad() if name not in self._spared), None)

    def check(self, ranks: Ranks, *, epoch: int, step: int, ids: Ids) -> None:
        """Raises NonFiniteLoss, on every rank, where on any of them something stopped being finite;
        each gives its samples of the step. Every rank has to call this at the same place."""
        name = self.first_bad()
        if ranks.sum([name is not None]).any():
            (together,) = ranks.gathered(ids)
            raise NonFiniteLoss(
                epoch=epoch, step=step, ids=together.tolist(), what=name or "a weight"
            )

    @torch.no_grad()
    def _bad(self) -> list[str]:
        read = [(name, tensor) for name, tensor in self._tensors() if _is_read(tensor)]
        if not read:
            return []
        device = read[0][1].device
        largest = [_largest(_values(tensor)).to(device) for _, tensor in read]
        finite = torch.stack(largest).isfinite().tolist()
        return [name for (name, _), good in zip(read, finite, strict=True) if not good]

    def _tensors(self) -> Iterator[tuple[str, Tensor]]:
        names: dict[Any, str] = {}
        for prefix, module in self._modules.items():
            for name, parameter in module.named_parameters(prefix):
                names[parameter] = name
                yield f"the weight {name}", parameter
            for name, buffer in module.named_buffers(prefix):
                yield f"the buffer {name}", buffer
        state: Mapping[Any, Any] = {} if self._optimizer is None else self._optimizer.state
        for parameter, values in state.items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {key} of {names[parameter]}", value


def _is_read(tensor: Tensor) -> bool:
    """Whether a tensor holds numbers of a type that can be anything but finite."""
    return (
        not is_lazy(tensor)
        and tensor.is_floating_point()
        and tensor.element_size() > 1
        and tensor.numel() > 0
    )


def _largest(values: Tensor) -> Tensor:
    """The largest absolute value; not finite where one is not. Needs no memory."""
    return torch.linalg.vector_norm(values, torch.inf) if values.numel() else values.new_zeros(())


def _values(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor that is sharded or sparse."""
    if tensor.is_sparse:
        return tensor._values()
    local = getattr(tensor, "to_local", None)
    return tensor if local is None else local()
