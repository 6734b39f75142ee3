"""Running out of memory, as torch and numpy really say it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import OutOfMemory
from frugalkd.memory import is_out_of_memory, memory_for

HUGE = 1 << 50


def of_torch():
    torch.empty(HUGE)


def of_numpy():
    np.ones(HUGE)


def of_cuda():
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def of_python():
    raise MemoryError


@pytest.mark.parametrize("exhaust", [of_torch, of_numpy, of_cuda, of_python])
def test_running_out_is_one_line(exhaust):
    with (
        pytest.raises(OutOfMemory) as caught,
        memory_for("batches of 128", "lower training.batch_size"),
    ):
        exhaust()
    assert str(caught.value) == "out of memory for batches of 128: lower training.batch_size"
    assert caught.value.__cause__ is not None


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="mat1 and mat2"), memory_for("batches", "lower it"):
        torch.mm(torch.zeros(2, 3), torch.zeros(2, 3))
    assert not is_out_of_memory(ValueError("out of memory"))
