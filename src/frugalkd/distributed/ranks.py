"""Several processes that train one model: who has which rows, and what they tell each other.

Every rank has the whole ledger and makes the whole plan, the same one. It reads and trains its own
part of each global batch, and what it observed is told to all of them once an epoch.
"""

from __future__ import annotations

import hashlib
import inspect
import re
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
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

_BLOCK = 1 << 24
"""Rows that are told at a time: what waits for them in memory is that many on each rank."""

PATIENCE = timedelta(hours=6)
"""How long a rank waits for what another has to tell, which may have a store to fill first; that
one has died is noticed at once."""

# Newer versions of torch warn of the old name.
_SYNC_BUFFERS = "forward_sync_buffers"
if _SYNC_BUFFERS not in inspect.signature(DistributedDataParallel).parameters:
    _SYNC_BUFFERS = "broadcast_buffers"

Array = TypeVar("Array", bound=np.ndarray)


class Ranks:
    """This process among those that train one model.

    Alone it does nothing: each method then gives back what it was given.

    Args:
        rank: of this process, from 0.
        world: how many there are.
        group: torch's process group of the ranks, one that speaks for tensors in main memory.
    """

    def __init__(self, rank: int = 0, world: int = 1, group: Any = None):
        self.rank, self.world, self._group = rank, world, group

    @classmethod
    def here(cls, rank: int | None = None, world: int | None = None) -> Ranks:
        """What torch.distributed says of this process, and what the arguments say in its place:
        ``world=1`` is a process that trains a model of its own.

        Raises:
            RankError: several ranks are named that torch.distributed knows nothing of.
        """
        begun = distributed.is_available() and distributed.is_initialized()
        there = distributed.get_world_size() if begun else 1
        world = there if world is None else world
        own = distributed.get_rank() if begun and world > 1 else 0
        rank = own if rank is None else rank
        if world != 1 and (world, rank) != (there, own):
            raise RankError(
                f"rank {rank} of {world} is not what torch.distributed says, {own} of {there}: "
                "start with torchrun or accelerate launch, and call init_process_group first"
            )
        if not 0 <= rank < world:
            raise RankError(f"rank {rank} of {world}: ranks are 0 up to world - 1")
        return cls() if world == 1 else cls(rank, world, _in_memory(distributed.group.WORLD))

    @property
    def alone(self) -> bool:
        """Whether this is the only process."""
        return self.world == 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes what all of them have made."""
        return self.rank == 0

    # Who has which rows.

    def share(self, ids: Ids) -> Ids:
        """This rank's part of ``ids``, as long as every other rank's: where they do not come out
        even, the first of them are in two parts."""
        if self.alone or not len(ids):
            return ids
        each = -(-len(ids) // self.world)
        return np.resize(ids, each * self.world)[self.rank * each : (self.rank + 1) * each]

    def part_of(self, plan: Plan, batch: int) -> Plan:
        """What this rank trains of a plan in its order: its ``batch`` rows of each global batch."""
        if self.alone:
            return plan

        def mine(values: Array) -> Array:
            return values.reshape(-1, self.world, batch)[:, self.rank].reshape(-1)  # pyright: ignore

        return replace(
            plan,
            ids=mine(plan.ids),
            weights=None if plan.weights is None else mine(plan.weights),
            forced=None if plan.forced is None else mine(plan.forced),
        )

    # What they tell each other. Every rank has to call these, in the same order.

    def gathered(self, *columns: NDArray) -> list[NDArray]:
        """Each of ``columns``, arrays (rows, ...) of any types, joined over all ranks in order."""
        if self.alone:
            return list(columns)
        lengths = self._told(np.array([len(columns[0])]))[:, 0]
        told: list[list[NDArray]] = [[] for _ in columns]
        for start in range(0, int(lengths.max()), _BLOCK):
            counts = np.clip(lengths - start, 0, _BLOCK)
            for column, parts in zip(columns, told, strict=True):
                here = column[start : start + _BLOCK]
                padded = np.zeros((int(counts.max()), *column.shape[1:]), dtype=column.dtype)
                padded[: len(here)] = here
                everyone = self._told(padded)
                parts += [rows[:count] for rows, count in zip(everyone, counts, strict=True)]
        return [
            np.concatenate(parts) if parts else column
            for column, parts in zip(columns, told, strict=True)
        ]

    def sum(self, numbers: ArrayLike) -> NDArray[np.float64]:
        """float64 numbers, added up over all ranks in their order."""
        numbers = np.asarray(numbers, dtype=np.float64)
        return numbers if self.alone else self._told(numbers).sum(axis=0)

    def mean(self, number: float) -> float:
        """The mean of what each rank has."""
        return number if self.alone else float(self.sum([number])[0]) / self.world

    def means(self, numbers: Sequence[Tensor]) -> Tensor | None:
        """The same of several numbers, on the device, as one tensor; None of none."""
        if self.alone or not numbers:
            return torch.stack(list(numbers)) if numbers else None
        mine = torch.stack(list(numbers))
        return torch.from_numpy(self.sum(mine.cpu().numpy()) / self.world).to(mine)

    def check_same(self, what: str, *arrays: NDArray) -> None:
        """Raises RankError unless ``arrays`` are those of every other rank."""
        if self.alone:
            return
        crc = 0
        for array in arrays:
            crc = zlib.crc32(np.ascontiguousarray(array).data.cast("B"), crc)
        everyone = self._told(np.array([crc, sum(map(len, arrays))]))
        if (everyone != everyone[0]).any():
            other = int(np.argmax((everyone != everyone[0]).any(axis=1)))
            raise RankError(
                f"ranks 0 and {other} differ in {what}: start all of them with the same data, "
                "settings and versions"
            )

    def check_alike(self, describe: Callable[[], Mapping[str, object]]) -> None:
        """Raises RankError, naming in what, unless ``describe`` says the same on every rank: arrays
        count by their bytes, all else by its text without addresses."""
        if self.alone:
            return
        everyone: list[Any] = [None] * self.world
        mine = {name: _text(value) for name, value in describe().items()}
        distributed.all_gather_object(everyone, mine, group=self._group)
        for other, said in enumerate(everyone):
            differing = [name for name in said if said[name] != everyone[0].get(name)]
            if differing:
                raise RankError(
                    f"ranks 0 and {other} differ in {few(differing)}: start all of them with the "
                    "same data, settings and versions"
                )

    def from_first(self, make: Callable[[], Any]) -> Any:
        """What ``make``, called on the first rank alone, gives there: a plain value.

        Raises:
            OtherRankFailed: it raised something; the first rank raises that itself.
        """
        if self.alone:
            return make()
        told: list[Any] = [None, "it was stopped"]
        try:
            if self.first:
                told = [make(), None]
        except Exception as error:
            told[1] = str(error)
            raise
        finally:
            distributed.broadcast_object_list(told, group=self._group)
        if told[1] is not None:
            raise OtherRankFailed(f"the first rank failed: {told[1]}")
        return told[0]

    def take_first(self, tensor: Tensor) -> None:
        """Make ``tensor``, one in main memory, what the first rank has."""
        if not self.alone:
            told = tensor.detach().reshape(-1).contiguous().view(torch.uint8)  # of any type
            distributed.broadcast(told, 0, group=self._group)
            tensor.detach().copy_(told.view(tensor.dtype).reshape(tensor.shape))

    def wait(self) -> None:
        """Until every rank has come here."""
        if not self.alone:
            distributed.barrier(self._group)

    def begin_max(self, number: float) -> Callable[[], float]:
        """Tell ``number``; the answer, once it is asked for, is the largest one told."""
        told = torch.tensor(number)
        work = distributed.all_reduce(
            told, distributed.ReduceOp.MAX, group=self._group, async_op=True
        )

        def answer() -> float:
            assert work is not None, "asynchronous"
            work.wait()
            return float(told)

        return answer

    def worst(self, flag: Tensor) -> None:
        """Make ``flag``, a number on the device, the largest one that any rank has."""
        if not self.alone:
            distributed.all_reduce(flag, distributed.ReduceOp.MAX)

    # The model that they share.

    def share_model(self, model: nn.Module) -> nn.Module:
        """``model`` as it is to be called in training: the first rank's weights on all of them, and
        gradients that are averaged. A sharded one does that by itself.

        BatchNorm's running statistics are each rank's own, until :meth:`share_buffers`.
        """
        if self.alone:
            return model
        if is_sharded(model):
            return model
        device = next(model.parameters()).device
        devices = None if device.type == "cpu" else [device]
        apart: dict[str, Any] = {_SYNC_BUFFERS: False}
        return DistributedDataParallel(model, device_ids=devices, **apart)

    def share_gradients(self, model: nn.Module, now: bool) -> None:
        """Whether the next backward pass of ``model``, a shared one, averages gradients, or only
        adds this rank's to them."""
        if isinstance(model, DistributedDataParallel):
            model.require_backward_grad_sync = now
        elif not self.alone:  # torch's FSDPModule
            model.set_requires_gradient_sync(now)  # pyright: ignore[reportCallIssue]

    def average_gradients(self, module: nn.Module) -> None:
        """The same for a module that is not shared: small ones, which stand beside the model."""
        if not self.alone:
            for parameter in module.parameters():
                if parameter.grad is not None:
                    distributed.all_reduce(parameter.grad)
                    parameter.grad /= self.world

    def refuse_memory(self, parts: nn.Module) -> None:
        """Raises RankError where ``parts``, what an objective made for itself, remember something
        of the rows that they have seen: a rank sees its own alone."""
        if not self.alone and any(buffer.is_floating_point() for buffer in parts.buffers()):
            raise RankError(
                "this objective remembers the rows that it has seen, and each rank sees its own "
                "rows alone: train with one process, or choose another objective"
            )

    def share_buffers(self, model: nn.Module) -> None:
        """Make running statistics the mean of what each rank has: floating-point buffers."""
        if self.alone:
            return
        for buffer in model.buffers():
            if buffer.is_floating_point():
                distributed.all_reduce(buffer)
                buffer /= self.world

    def streams(self) -> Tensor | None:
        """uint8 (world, bytes): torch's random stream of each rank; None of one rank."""
        if self.alone:
            return None
        return torch.from_numpy(self._told(torch.get_rng_state().numpy()))

    def set_stream(self, streams: Tensor | None, seed: int) -> None:
        """Put a rank's own stream back, the first one's excepted; where there were not as many,
        begin one of ``seed`` and the rank."""
        if self.first:
            return
        if streams is not None and len(streams) == self.world:
            torch.set_rng_state(streams[self.rank].clone())  # one with a storage of its own
        else:
            torch.manual_seed(seed + self.rank)

    def _told(self, values: NDArray) -> NDArray:
        """What every rank has, (world, ...); shape and type are the same on all of them."""
        mine = torch.from_numpy(np.ascontiguousarray(values).view(np.uint8))
        everyone = [torch.empty_like(mine) for _ in range(self.world)]
        distributed.all_gather(everyone, mine, group=self._group)
        return np.stack([told.numpy().view(values.dtype) for told in everyone])


def is_sharded(model: nn.Module) -> bool:
    """Whether torch's ``fully_shard`` has cut ``model`` or a part of it."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # nobody has, where it is not imported
    return fsdp is not None and any(isinstance(part, fsdp.FSDPModule) for part in model.modules())


class Agreed:
    """A question that each rank answers for itself, and all of them then in the same way: yes, one
    asking after some rank said so. That much later nobody has to wait for another's answer.

    Args:
        ranks: which have to ask equally often.
        ask: this rank's answer.
    """

    def __init__(self, ranks: Ranks, ask: Callable[[], bool]):
        self._ranks, self._ask = ranks, ask
        self._before: Callable[[], float] = lambda: 0.0

    def __call__(self) -> bool:
        if self._ranks.alone:
            return self._ask()
        before, self._before = self._before, self._ranks.begin_max(float(self._ask()))
        return before() > 0


def _text(value: object) -> str:
    if isinstance(value, Tensor):  # its own text leaves values out
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()}"
    return re.sub(r" at 0x[0-9a-f]+", "", str(value))


@cache
def _in_memory(group: Any) -> Any:
    """The ranks of ``group``, through a backend that speaks for tensors in main memory."""
    return distributed.new_group(distributed.get_process_group_ranks(group), PATIENCE, "gloo")
