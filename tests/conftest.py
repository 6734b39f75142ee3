"""What all tests share: one torch thread, no leaks, data that may be absent, the command line."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch

from frugalkd.cli import main
from frugalkd.data import data_root
from leaks import nothing_left

torch.set_num_threads(1)


def pytest_collection_finish() -> None:
    """Trainers of libraries call gc.collect(), which then leaves out all that was imported so far:
    a tenth of the time of all tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def require_data() -> Callable[[str], Path]:
    """``require_data("cifar10/train.parquet")``: its path under the data root (or an absolute
    one). The test skips where it is absent, and fails where the environment has CI."""
    root = data_root().absolute()

    def find(path: str) -> Path:
        found = root / path
        if not found.exists():
            reason = f"{path} is not in the data root (set FRUGALKD_DATA)"
            if os.environ.get("CI"):
                pytest.fail(f"{reason}; CI must have it")
            pytest.skip(reason)
        return found

    return find


@pytest.fixture(scope="session", autouse=True)
def own_allocator() -> Iterator[None]:
    """The command line's setting of the allocator would hold for all tests after it in this
    process, and some of them measure memory."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("frugalkd.cli.keep_freed_memory", lambda: False)
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_kept() -> Iterator[None]:
    """No test reads what another one, or the user, has left in the cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FRUGALKD_CACHE", "")
        yield


@pytest.fixture(scope="session", autouse=True)
def nothing_slow() -> Iterator[None]:
    """No file of a test outlives the machine; without an accelerator torch.manual_seed formats the
    call stack three times, for errors of streams that are not there; the digits are read once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        if not torch.accelerator.is_available():
            for module in ("torch.cuda.random", "torch.xpu.random", "torch.mtia"):
                patch.setattr(f"{module}._lazy_call", lambda call, **kind: None)
        if digits := sys.modules.get("sklearn.datasets"):
            patch.setattr(digits, "load_digits", cache(digits.load_digits))
        yield


@pytest.fixture(scope="session")
def temporary(tmp_path_factory) -> Iterator[Path]:
    """The folder for temporary files of this process and of those that it starts."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("temporary")
        patch.setenv("TMPDIR", str(folder))
        patch.setattr(tempfile, "tempdir", str(folder))
        yield folder


@pytest.fixture(autouse=True)
def leaves_nothing(temporary) -> Iterator[None]:
    """Fails a test after which there are threads, child processes, environment variables or
    temporary files that were not there before."""
    with nothing_left(temporary):
        yield


@pytest.fixture
def cli(capsys, monkeypatch) -> Callable[..., tuple[int, str, str]]:
    """``cli("teach", "digits", ...)``: the exit code, stdout and stderr, in 80 columns."""
    monkeypatch.setenv("COLUMNS", "80")

    def cli(*arguments: str, **application: Any) -> tuple[int, str, str]:
        code = main(arguments, **application)
        out, err = capsys.readouterr()
        return code, out, err

    return cli


@pytest.fixture
def read_only(request) -> Callable[[Path], None]:
    """``read_only(folder)``: until the test ends, nothing below ``folder`` can be written."""

    def as_root(folder: Path) -> None:
        def mount(*words: str) -> None:
            done = subprocess.run(["mount", *words, str(folder)], capture_output=True, text=True)
            if done.returncode:
                pytest.skip(f"this machine mounts nothing: {done.stderr.strip()}")

        mount("--bind", str(folder))
        unmount = ["umount", "--lazy", str(folder)]
        request.addfinalizer(lambda: subprocess.run(unmount, check=True))
        mount("-o", "remount,bind,ro")

    def as_user(folder: Path) -> None:
        for path in [folder, *filter(Path.is_dir, folder.rglob("*"))]:
            request.addfinalizer(partial(path.chmod, path.stat().st_mode))
            path.chmod(0o555)

    return as_root if os.geteuid() == 0 else as_user


@pytest.fixture
def contacted(monkeypatch) -> list[str]:
    """The hosts that the test tries to reach; none is reached."""
    hosts: list[str] = []

    def refuse(host, *rest, **more):
        hosts.append(str(host))
        raise OSError("no network")

    monkeypatch.setattr("socket.getaddrinfo", refuse)
    monkeypatch.setattr("socket.create_connection", refuse)
    return hosts


@pytest.fixture
def steps_done(monkeypatch):
    """A list that grows by one with each step of any training."""
    from frugalkd.training.trainer import Trainer

    done, train_step = [], Trainer.train_step

    def counted(self, batch, epoch):
        done.append(epoch.index)
        return train_step(self, batch, epoch)

    monkeypatch.setattr(Trainer, "train_step", counted)
    return done
