"""Launchers: what they say in the environment, and who prints."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from frugalkd.cli import main
from frugalkd.distributed import launch
from frugalkd.files.parsing import parse_json
from frugalkd.runtime import failures, process

SETTINGS = ("teacher.training.epochs=3", "student.training.epochs=3", "student.targets.views=2")


@pytest.fixture
def launched(monkeypatch):
    """``launched(1, 2)``: as if a launcher had started this process as rank 1 of 2."""
    for names in process._RANKS:
        for name in names:
            monkeypatch.delenv(name, raising=False)

    def launched(rank: int, world: int, names: tuple[str, str] = ("RANK", "WORLD_SIZE")) -> None:
        for name, number in zip(names, (rank, world), strict=True):
            monkeypatch.setenv(name, str(number))

    return launched


@pytest.mark.parametrize("names", process._RANKS)
def test_every_launcher_says_which_process_this_is(launched, names):
    assert process.rank_and_world() == (0, 1)
    launched(3, 4, names)
    assert process.rank_and_world() == (3, 4)


def test_a_number_that_is_none_says_nothing(launched, monkeypatch):
    launched(1, 2)
    monkeypatch.setenv("WORLD_SIZE", "two")
    assert process.rank_and_world() == (0, 1)


def test_whether_torchrun_restarted(monkeypatch):
    monkeypatch.delenv("TORCHELASTIC_RESTART_COUNT", raising=False)
    assert not launch.started_again()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    assert not launch.started_again()
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "2")
    assert launch.started_again()


def test_the_first_process_alone_prints(launched, capsys):
    for rank in range(2):
        launched(rank, 2)
        with launch.quiet_unless_first():
            print(f"out {rank}")
            print(f"err {rank}", file=sys.stderr)
    assert capsys.readouterr() == ("out 0\n", "err 0\n")


def test_one_process_is_alone_and_has_the_threads(launched):
    import torch

    before = torch.get_num_threads()
    with launch.ranks_of("cpu", 1) as ranks:
        assert ranks.alone
        assert torch.get_num_threads() == 1
    torch.set_num_threads(before)


def test_commands_of_one_process_refuse_several(launched, capsys):
    launched(0, 2)
    assert main(["compare", "digits", "--out", "never"]) == 2
    assert capsys.readouterr().err == (
        "error: 'frugalkd compare' runs in one process, and this launch has 2: start it without "
        "torchrun or accelerate launch, which are for teach, distill, store\n"
    )
    launched(1, 2)
    assert main(["demo", "--out", "never"]) == 2
    assert capsys.readouterr().err.startswith("rank 1: error: 'frugalkd demo' runs in one")


def test_a_lost_rank_is_recognised(launched):
    gone = RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]")
    assert not failures.is_parting(gone)
    launched(0, 2)
    assert failures.is_parting(gone)
    assert not failures.is_parting(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    assert not failures.is_parting(ValueError("connection closed by peer"))


def start(launcher: list[str], folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """``frugalkd`` under a launcher, in ``folder``; its output is one text."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    name, *rest = arguments  # whose settings come later, and so count
    command = [sys.executable, "-m", *launcher, "-m", "frugalkd", name, *settings, *rest]
    names = [name for pair in process._RANKS for name in pair]
    alone = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.Popen(
        command,
        cwd=folder,
        env={**alone, "OMP_NUM_THREADS": "1", "COLUMNS": "80"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        said, _ = process.communicate(timeout=400)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, said
    return said


def torchrun(ranks: int, *more: str) -> list[str]:
    return ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *more]


ACCELERATE = [
    "accelerate.commands.launch", "--multi_gpu", "--num_processes=2", "--num_machines=1",
    "--mixed_precision=no", "--dynamo_backend=no", "--main_process_port=0",
]  # fmt: skip


@pytest.mark.heavy
@pytest.mark.parametrize("launcher", [torchrun(2), torchrun(4), ACCELERATE])
def test_the_command_line_under_a_launcher(tmp_path, launcher):
    ranks = 4 if launcher == torchrun(4) else 2
    said = finish(start(launcher, tmp_path, "teach", "digits", "--out", "t"))
    assert said.count("teach digits: mlp, seed 0") == 1
    assert said.count("teach digits: epoch 3,") == 1
    said = finish(start(launcher, tmp_path, "store", "digits", "--teacher", "t", "--out", "s"))
    assert said.count("2,874 of 2,874") == 1
    assert len(list((tmp_path / "s").glob("rows-*.bin"))) == ranks
    arguments = ("distill", "digits", "--mode", "hybrid", "--teacher", "t", "--out", "d")
    said = finish(start(launcher, tmp_path, *arguments))
    assert said.count("distill digits: mlp, seed 0") == 1
    results = parse_json((tmp_path / "d" / "results.json").read_bytes())
    assert results["ranks"] == ranks
    assert results["meters"]["samples_backpropagated"] % (64 * ranks) == 0


@pytest.mark.heavy
def test_a_killed_rank_is_started_again_and_the_run_finishes(tmp_path):
    many = ("--set", "teacher.training.epochs=60")
    run = start(torchrun(2, "--max-restarts=2"), tmp_path, "teach", "digits", "--out", "t", *many)
    checkpoints = tmp_path / "t" / "checkpoints"
    deadline = time.monotonic() + 300
    while not list(checkpoints.glob("epoch-*")):
        assert run.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    children = Path(f"/proc/{run.pid}/task/{run.pid}/children").read_text().split()
    ranks = [pid for pid in children if b"frugalkd" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(int(ranks[-1]), signal.SIGKILL)
    said = finish(run)
    results = parse_json((tmp_path / "t" / "results.json").read_bytes())
    assert [record["epoch"] for record in results["history"]] == list(range(60))
    assert "exitcode: -9" in said
    assert said.count("teach digits: mlp, seed 0") == 1
