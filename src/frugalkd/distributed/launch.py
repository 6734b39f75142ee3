"""Processes that a launcher started together: torchrun, accelerate launch, mpirun.

torch is imported only where a process group is made: the command line reads the environment too.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from frugalkd.errors import RankError
from frugalkd.files.parsing import one_line
from frugalkd.runtime.process import rank_and_world

if TYPE_CHECKING:
    from frugalkd.distributed.ranks import Ranks

_RESTARTS = "TORCHELASTIC_RESTART_COUNT"


def started_again() -> bool:
    """Whether torchrun restarted these processes after one of them had failed."""
    return os.environ.get(_RESTARTS, "0") != "0"


@contextmanager
def quiet_unless_first() -> Iterator[None]:
    """Inside, only the first of several processes prints: the others would print the same."""
    if rank_and_world()[0] == 0:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


@contextmanager
def ranks_of(device: str, threads: int) -> Iterator[Ranks]:
    """This process among those of its launcher, in a process group that ends with the block: gloo
    on ``device`` cpu, else what Accelerate chooses. ``threads``: of torch, in each process.

    Raises:
        ModelError: the device is not available.
        RecipeError: too many threads for this machine.
        RankError: torch cannot make a process group.
    """
    from torch import distributed
    from torch.distributed.rendezvous import rendezvous

    from frugalkd.distributed.ranks import Ranks
    from frugalkd.runtime.devices import resolve_device, use_threads

    use_threads(threads)
    _, world = rank_and_world()
    if world == 1 or distributed.is_initialized():  # alone, or in the caller's group
        yield Ranks.here()
        return
    from accelerate import PartialState

    # Else Accelerate chooses, with a warning.
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    on_cpu = resolve_device(device).type == "cpu"
    try:
        if started_again():
            # torchrun's agent keeps the addresses of processes that have ended.
            store, rank, _ = next(rendezvous("env://"))
            prefix = f"restart-{os.environ[_RESTARTS]}"
            store = distributed.distributed_c10d.PrefixStore(prefix, store)
            backend = "gloo" if on_cpu else None
            distributed.init_process_group(backend, store=store, rank=rank, world_size=world)
        PartialState(cpu=on_cpu)
    except (RuntimeError, ValueError) as error:
        reason = one_line(error)
        raise RankError(
            f"the {world} processes of this launch cannot connect to each other: {reason}"
        ) from None
    use_threads(threads)
    try:
        yield Ranks.here()
    finally:
        distributed.destroy_process_group()
