"""Processes that a launcher started to do one thing together: torchrun, accelerate launch, mpirun.

What it tells them in the environment becomes torch's process group, through Accelerate. No torch
until that is asked for: the command line reads the environment too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from frugalkd.files.parsing import one_line

if TYPE_CHECKING:
    from frugalkd.ranks import Ranks

_NAMES = (
    ("RANK", "WORLD_SIZE"),  # torchrun, accelerate launch
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    ("PMI_RANK", "PMI_SIZE"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE"),
)

_RESTARTS = "TORCHELASTIC_RESTART_COUNT"

_SIGNS = ("connection closed by peer", "connection reset by peer", "broken pipe", "read error")
"""What gloo says where the other end of a connection is gone."""


def rank_and_world() -> tuple[int, int]:
    """Which process this is, from 0, and of how many, as the launcher says: (0, 1) without one."""
    for rank, world in _NAMES:
        told = os.environ.get(rank, ""), os.environ.get(world, "")
        if all(number.isdecimal() for number in told):
            return int(told[0]), int(told[1])
    return 0, 1


def started_again() -> bool:
    """Whether torchrun started these processes anew after one of them had failed."""
    return os.environ.get(_RESTARTS, "0") != "0"


@contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Inside, only the first of several processes prints; the others would say the same."""
    if rank_and_world()[0] == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def ranks_of(device: str, threads: int) -> Iterator[Ranks]:
    """This process among those of its launcher, who meet here and may part at the end.

    Args:
        device: that they train on, by name: ``cpu`` ranks speak through gloo, others through what
            Accelerate chooses for them.
        threads: of torch, in each of them.

    Raises:
        ModelError: the device is not here.
        RecipeError: too many threads for this machine.
        RankError: torch cannot make a group of them.
    """
    from torch import distributed

    from frugalkd.devices import resolve_device, use_threads
    from frugalkd.errors import RankError
    from frugalkd.ranks import Ranks

    use_threads(threads)
    _, world = rank_and_world()
    if world == 1 or distributed.is_initialized():  # alone, or a group of the caller's
        yield Ranks.here()
        return
    from accelerate import PartialState

    # Else Accelerate chooses, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    on_cpu = resolve_device(device).type == "cpu"
    try:
        if started_again():
            _meet_anew("gloo" if on_cpu else None)
        PartialState(cpu=on_cpu)
    except (RuntimeError, ValueError) as error:
        reason = one_line(error)
        raise RankError(f"the {world} processes of this launch cannot meet: {reason}") from None
    use_threads(threads)
    try:
        yield Ranks.here()
    finally:
        distributed.destroy_process_group()


def _meet_anew(backend: str | None) -> None:
    """Make torch's process group where there was one before: torchrun's agent keeps the addresses
    of processes that are gone, and who meets there might call them."""
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    store, rank, world = next(rendezvous("env://"))
    store = distributed.distributed_c10d.PrefixStore(f"restart-{os.environ[_RESTARTS]}", store)
    distributed.init_process_group(backend, store=store, rank=rank, world_size=world)


def is_parting(error: BaseException) -> bool:
    """Whether ``error`` is what torch says when another rank is gone."""
    if not isinstance(error, RuntimeError) or rank_and_world()[1] == 1:
        return False
    said = str(error).lower()
    return any(sign in said for sign in _SIGNS)
