"""Failures of other code and of the machine, as torch, numpy and Python really say them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from frugalkd.errors import DataError, ModelError, OutOfMemory, UnknownName
from frugalkd.runtime.failures import blame, is_out_of_memory, memory_for

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


class Mute(Exception):
    def __str__(self):
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (ValueError("a\n\x1b[31mb\tc"), "the forward fails (ValueError: a ?[31mb c)"),
        (AssertionError(), "the forward fails (AssertionError)"),
        (KeyError("x"), "the forward fails (KeyError: 'x')"),
        (Mute(), "the forward fails (Mute)"),
        (
            OSError(2, "No such file", "a.png"),
            "(FileNotFoundError: [Errno 2] No such file: 'a.png')",
        ),
    ],
)
def test_what_other_code_raises_is_one_line_with_its_cause(error, says):
    with pytest.raises(ModelError) as caught:
        blame(error, ModelError, "the forward fails")
    assert says in str(caught.value)
    assert caught.value.__cause__ is error


def test_a_long_reason_is_cut():
    with pytest.raises(ModelError) as caught:
        blame(ValueError("x" * 10_000), ModelError, "the forward fails")
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize("error", [DataError("ours"), MemoryError(), UnknownName("a", "b", "c")])
def test_frugalkds_errors_and_memory_errors_pass(error):
    with pytest.raises(type(error)) as caught:
        blame(error, ModelError, "the forward fails")
    assert caught.value is error
    assert error.__cause__ is None


def test_a_dead_worker_is_not_blamed_on_the_interrupted_code():
    gone = RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. ")
    with pytest.raises(DataError, match=r"^a worker process died \(DataLoader worker \(pid 7\) is"):
        blame(gone, ModelError, "the forward fails")
    with pytest.raises(DataError, match="set num_workers to 0"), memory_for("batches", "lower it"):
        raise gone


def test_an_error_that_cannot_be_printed_is_still_named():
    class Silent(RuntimeError):
        def __str__(self):
            raise ValueError("no text")

    with pytest.raises(DataError, match=r"^sample 3 \(Silent\)$"):
        blame(Silent(), DataError, "sample 3")
