"""Several gloo ranks on this machine, for tests: started fast, never waited for in vain."""

from __future__ import annotations

import io
import multiprocessing
import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

import torch

LIMIT = 120
"""Seconds after which ranks count as hanging; a busy machine is slow, too."""

_SERVER = multiprocessing.get_context("forkserver")
_PRELOADED = ["numpy", "pytest", "torch._dynamo", "torch.distributed.fsdp", "frugalkd.training.api"]
_SERVER.set_forkserver_preload(_PRELOADED)


def preload(*modules: str) -> None:
    """Import ``modules`` once for all ranks, where none has been started yet."""
    _PRELOADED.extend(modules)
    _SERVER.set_forkserver_preload(_PRELOADED)


def as_launched() -> None:
    """On a rank: the environment in which a launcher would have started it, and the start method
    of its own processes."""
    if torch.distributed.is_initialized():
        default, *_ = multiprocessing.get_all_start_methods()
        multiprocessing.set_start_method(default, force=True)
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
        os.environ |= {"RANK": f"{rank}", "LOCAL_RANK": f"{rank}", "WORLD_SIZE": f"{world}"}
        os.environ |= {"LOCAL_WORLD_SIZE": f"{world}", "OMP_NUM_THREADS": "1"}


def on_ranks(world: int, work: Callable[..., Any], *args: Any) -> list[Any]:
    """What ``work(*args)`` returns on each of ``world`` ranks; an error of any is raised here, with
    the rank's own traceback as its text. ``work`` has to be at the top of a module."""
    with tempfile.TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        started = [_Rank(rank, world, meeting, work, args) for rank in range(world)]
        try:
            results: dict[Any, Any] = {}
            while len(results) < world:  # an error may leave the others waiting
                open_ones = [rank.results for rank in started if rank.results not in results]
                ready = wait(open_ones, LIMIT)
                if not ready:
                    raise TimeoutError(f"{len(open_ones)} of {world} ranks hang")
                for rank in started:
                    if rank.results in ready:
                        results[rank.results] = rank.result()
            return [results[rank.results] for rank in started]
        finally:
            for rank in started:
                rank.end()


class _Rank:
    def __init__(self, rank: int, world: int, meeting: Path, work: Any, args: Any):
        self.rank = rank
        self.results, sending = _SERVER.Pipe(duplex=False)
        # No daemon, since these have no children: a rank's loader may have workers.
        self.process = _SERVER.Process(
            target=_work, args=(sending, rank, world, meeting, work, _packed(args))
        )
        self.process.start()
        sending.close()

    def result(self) -> Any:
        try:
            error, value = _unpacked(self.results.recv())
        except EOFError:
            raise RuntimeError(f"rank {self.rank} died") from None
        if error is not None:
            raise RuntimeError(f"rank {self.rank}: {error}")
        return value

    def end(self) -> None:
        self.process.join(1)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self.process.close()
        self.results.close()


def _work(sending: Any, rank: int, world: int, meeting: Path, work: Any, args: bytes) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=rank,
        world_size=world,
        timeout=timedelta(seconds=LIMIT),
    )
    try:
        sending.send(_packed((None, work(*_unpacked(args)))))
    except BaseException:
        sending.send(_packed((traceback.format_exc(), None)))
    torch.distributed.barrier()  # no rank ends before all are done
    torch.distributed.destroy_process_group()


def _packed(value: Any) -> bytes:
    """Tensors by value: what sends them shares memory, with processes that have ended by then."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


def _unpacked(value: bytes) -> Any:
    return torch.load(io.BytesIO(value), weights_only=False)
