"""Several processes (ranks) that train one model: which rows each has, and what they exchange.

Every rank has the complete ledger, makes the complete plan, and trains its own part of each global
batch. Observations are exchanged once an epoch.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from functools import cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel

from frugalkd.errors import OtherRankFailed, RankError, few
from frugalkd.policies.policy import Ids, Plan
from frugalkd.runtime.failures import is_out_of_memory, reason

_BLOCK = 1 << 24
"""Rows of one exchange, which bounds the memory that it needs on each rank."""

PATIENCE = timedelta(hours=6)
"""How long a rank waits for another one, which may have a store to fill first."""

# Newer versions of torch warn about the old name.
_SYNC_BUFFERS = "forward_sync_buffers"
if _SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "broadcast_buffers"

Array = TypeVar("Array", bound=np.ndarray)


@contextmanager
def _exchange() -> Iterator[None]:
    """Raises RankError where another rank has ended."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise RankError(
            "another rank has failed, and its own error says why: start all of them again and "
            f"resume ({reason(error)})"
        ) from error


class Ranks:
    """This process, ``rank`` of ``world``, among those that train one model. Alone, each method
    returns what it receives. ``group``: torch's process group, for tensors in main memory.
    """

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None):
        self.rank, self.world, self._group = rank, world, group
        self.alone = world == 1
        """Whether this is the only process."""
        self.first = rank == 0
        """Whether this is the rank that writes files."""

    @classmethod
    def here(cls) -> Ranks:
        """This process as torch.distributed knows it."""
        if world_here() == 1:
            return cls()
        with _exchange():
            group = _in_memory(distributed.group.WORLD)
            return cls(distributed.get_rank(), distributed.get_world_size(), group)

    # Which rows this rank has.

    def share(self, ids: Ids) -> Ids:
        """This rank's part of ``ids``. All parts have the same length; where the ids do not divide
        evenly, the first of them are in two parts."""
        if self.alone or not len(ids):
            return ids
        each = -(-len(ids) // self.world)
        return np.resize(ids, each * self.world)[self.rank * each : (self.rank + 1) * each]

    def part_of(self, plan: Plan, batch: int) -> Plan:
        """The part of an ordered plan that this rank trains: its ``batch`` rows of each global
        batch."""
        if self.alone:
            return plan

        def mine(values: Array | None) -> Array | None:
            if values is None:
                return None
            return values.reshape(-1, self.world, batch)[:, self.rank].reshape(-1)  # pyright: ignore

        return replace(
            plan, ids=mine(plan.ids), weights=mine(plan.weights), forced=mine(plan.forced)
        )

    # What they exchange. Every rank has to call these, in the same order.

    def gathered(self, *columns: NDArray) -> list[NDArray]:
        """Each of ``columns``, arrays (rows, ...) of any types, joined over all ranks in order."""
        if self.alone:
            return list(columns)
        lengths = self._all(np.array([len(columns[0])]))[:, 0]
        joined: list[list[NDArray]] = [[] for _ in columns]
        for start in range(0, int(lengths.max()), _BLOCK):
            counts = np.clip(lengths - start, 0, _BLOCK)
            for column, parts in zip(columns, joined, strict=True):
                here = column[start : start + _BLOCK]
                padded = np.zeros((int(counts.max()), *column.shape[1:]), dtype=column.dtype)
                padded[: len(here)] = here
                rows = zip(self._all(padded), counts, strict=True)
                parts += [each[:count] for each, count in rows]
        return [
            np.concatenate(parts) if parts else column
            for column, parts in zip(columns, joined, strict=True)
        ]

    def sum(self, numbers: ArrayLike) -> NDArray[np.float64]:
        """float64 numbers, summed over all ranks in their order."""
        numbers = np.asarray(numbers, dtype=np.float64)
        return numbers if self.alone else self._all(numbers).sum(axis=0)

    def mean(self, number: float) -> float:
        """The mean over all ranks."""
        return number if self.alone else float(self.sum([number])[0]) / self.world

    def means(self, numbers: Sequence[Tensor]) -> Tensor | None:
        """The means of several numbers, as one tensor on their device; None of none."""
        if not numbers:
            return None
        mine = torch.stack(list(numbers))
        if self.alone:
            return mine
        return torch.from_numpy(self.sum(mine.cpu().numpy()) / self.world).to(mine)

    def check_same(self, what: str, *arrays: NDArray) -> None:
        """Raises RankError unless ``arrays`` are the same on every rank."""
        self.check_same_inputs(lambda: {what: [text_of(array) for array in arrays]})

    def check_same_inputs(self, describe: Callable[[], Mapping[str, object]]) -> None:
        """Raises RankError, naming what differs, unless ``describe`` returns the same on every
        rank: arrays are compared by their bytes, all else by its text without addresses."""
        if self.alone:
            return
        everyone: list[Any] = [None] * self.world
        mine = {name: text_of(value) for name, value in describe().items()}
        with _exchange():
            distributed.all_gather_object(everyone, mine, group=self._group)
        for other, values in enumerate(everyone):
            differing = [name for name in values if values[name] != everyone[0].get(name)]
            if differing:
                raise RankError(
                    f"ranks 0 and {other} differ in {few(differing)}: start all of them with the "
                    "same data, settings and versions"
                )

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make`` returns on the first rank, the only one that calls it: a plain value.
        Raises OtherRankFailed where it failed; the first rank raises its error itself."""
        if self.alone:
            return make()
        sent: list[Any] = [None, "it was stopped"]
        try:
            if self.first:
                sent = [make(), None]
        except Exception as error:
            sent[1] = str(error)
            raise
        finally:
            with _exchange():
                distributed.broadcast_object_list(sent, group=self._group)
        if sent[1] is not None:
            raise OtherRankFailed(f"the first rank failed: {sent[1]}")
        return sent[0]

    def take_first(self, tensor: Tensor) -> None:
        """Give ``tensor``, in main memory, the values that it has on the first rank."""
        if not self.alone:
            sent = tensor.detach().reshape(-1).contiguous().view(torch.uint8)  # of any type
            with _exchange():
                distributed.broadcast(sent, 0, group=self._group)
            tensor.detach().copy_(sent.view(tensor.dtype).reshape(tensor.shape))

    @_exchange()
    def wait(self) -> None:
        """Until every rank has called this."""
        if not self.alone:
            distributed.barrier(self._group)

    @_exchange()
    def begin_max(self, number: float) -> Callable[[], float]:
        """Send ``number``; the function that is returned waits for the largest one of all ranks."""
        sent, largest = torch.tensor(number), distributed.ReduceOp.MAX
        work = distributed.all_reduce(sent, largest, group=self._group, async_op=True)

        @_exchange()
        def answer() -> float:
            assert work is not None, "asynchronous"
            work.wait()
            return float(sent)

        return answer

    @_exchange()
    def worst(self, flag: Tensor) -> None:
        """Make ``flag``, a number on the device, the largest one that any rank has."""
        if not self.alone:
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)

    # The model that they share.

    def share_model(self, model: nn.Module) -> nn.Module:
        """``model`` as training calls it: with the first rank's weights on all ranks, and gradients
        that are averaged. BatchNorm's running statistics stay each rank's own."""
        if self.alone or is_sharded(model):
            return model
        device = next(model.parameters()).device
        devices = None if device.type == "cpu" else [device]
        separate: dict[str, Any] = {_SYNC_BUFFERS: False}
        with _exchange():
            return DistributedDataParallel(model, device_ids=devices, **separate)

    def share_gradients(self, model: nn.Module, now: bool) -> None:
        """Whether the next backward pass of ``model``, a shared one, averages gradients."""
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = now
        elif not self.alone:  # torch's FSDPModule
            model.set_requires_gradient_sync(now)  # pyright: ignore[reportCallIssue]

    def average_gradients(self, module: nn.Module) -> None:
        """The same for a small module beside the model, which is not shared."""
        if not self.alone:
            self._average([p.grad for p in module.parameters() if p.grad is not None])

    def share_buffers(self, model: nn.Module) -> None:
        """Make running statistics (floating-point buffers) the mean over the ranks."""
        if not self.alone:
            self._average([buffer for buffer in model.buffers() if buffer.is_floating_point()])

    def streams(self) -> Tensor | None:
        """uint8 (world, bytes): torch's random stream of each rank; None of one rank."""
        return None if self.alone else torch.from_numpy(self._all(torch.get_rng_state().numpy()))

    def set_stream(self, streams: Tensor | None, seed: int) -> None:
        """Restore this rank's stream, except the first one's; from ``seed`` and the rank where
        ``streams`` are of another number of ranks."""
        if self.first:
            return
        if streams is not None and len(streams) == self.world:
            torch.set_rng_state(streams[self.rank].clone())  # one with its own storage
        else:
            torch.manual_seed(seed + self.rank)

    def _all(self, values: NDArray) -> NDArray:
        """The values of every rank, (world, ...); shape and type are the same on all of them."""
        mine = torch.from_numpy(np.ascontiguousarray(values).view(np.uint8))
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        with _exchange():
            distributed.all_gather(everyone, mine, group=self._group)
        return np.stack([each.numpy().view(values.dtype) for each in everyone])

    @_exchange()
    def _average(self, tensors: list[Tensor]) -> None:
        for tensor in tensors:
            distributed.all_reduce(tensor)
            tensor /= self.world


def world_here() -> int:
    """How many processes torch.distributed knows of; no rank waits for another one."""
    begun = distributed.is_available() and distributed.is_initialized()
    return distributed.get_world_size() if begun else 1


def is_sharded(model: nn.Module) -> bool:
    """Whether torch's ``fully_shard`` has cut ``model`` or a part of it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # not imported: nothing is cut
    return fsdp is not None and any(isinstance(part, fsdp.FSDPModule) for part in model.modules())


class Agreed:
    """A yes-or-no question that all ranks answer the same way: yes, one call after ``here`` said
    yes on any of them, so that no rank waits. All of them have to call it equally often."""

    def __init__(self, ranks: Ranks, here: Callable[[], bool]):
        self._ranks, self._here = ranks, here
        self._before: Callable[[], float] = lambda: 0.0

    def __call__(self) -> bool:
        if self._ranks.alone:
            return self._here()
        before, self._before = self._before, self._ranks.begin_max(float(self._here()))
        return before() > 0


def text_of(value: object) -> str:
    """What ``value`` is, the same in another process: of arrays a digest."""
    if isinstance(value, Tensor):  # its own text leaves values out
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@cache
def _in_memory(group: Any) -> Any:
    """The ranks of ``group``, through a backend for tensors in main memory."""
    return distributed.new_group(distributed.get_process_group_ranks(group), PATIENCE, "gloo")
