"""Runs that are killed at random moments, and resumed: what they leave is what the undisturbed
run leaves, weights and ledger byte for byte, results but for their times. The undisturbed run
writes no checkpoint within an epoch: that checkpoints change nothing is part of what is shown.

``python tests/torture/torture.py --kills 50`` kills 50 runs of the digits: teaching, distilling in
each mode, filling a store, in turn. It prints a table, and exits with 1 where one of them was not
the same. The moments are drawn from ``--seed`` as fractions of an undisturbed run's time; the
machine decides which step that is.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import itertools
import json
import os
import platform
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from works import Work, works

import frugalkd

AGAIN = 0.3
"""How often a resumed run is killed once more."""


@dataclass(frozen=True)
class Trial:
    """One run: ``moments`` at which it was killed, as fractions of an undisturbed run's seconds;
    ``kept`` what it resumed from each time; ``equal``, the bytes at its end; ``said``, where it
    failed."""

    work: str
    seed: str
    moments: list[float]
    kept: list[str]
    equal: bool
    said: str = ""


def forked(act: Callable[[], object], log: Path, seconds: float | None = None) -> tuple[int, float]:
    """``act`` in a forked process, killed after ``seconds`` if it still runs then; its exit code
    (-9: killed) and how long it ran. torch is imported before and used only in there."""
    began = time.monotonic()
    process = os.fork()
    if process == 0:
        code = 1
        try:
            with open(log, "ab", buffering=0) as said:
                os.dup2(said.fileno(), 1)
                os.dup2(said.fileno(), 2)
            act()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        ran = time.monotonic() - began
        if ended:
            return os.waitstatus_to_exitcode(status), ran
        if seconds is not None and ran >= seconds:
            os.kill(process, signal.SIGKILL)
            seconds = None
        time.sleep(0.0005)


def kept_in(out: Path) -> str:
    """What a resumed run finds: its newest checkpoint, rows of a store, or nothing."""
    checkpoints = sorted(out.glob("checkpoints/epoch-*.safetensors"))
    if checkpoints:
        return checkpoints[-1].stem
    if (out / "results.json").exists():
        return "results"
    rows = sum(p.read_bytes().count(b"\xff") * 8 for p in out.rglob("presence-*.bin"))
    return f"about {rows} rows" if rows else "nothing"


def torture(kills: int, seed: int, folder: Path, report: Callable[[str], None]) -> dict[str, Any]:
    """Kill until ``kills`` is reached; returns what is to be written as JSON."""
    log, teacher = folder / "log", folder / "teacher"
    all_works = works(teacher)
    _must(forked(lambda: all_works[0].run(teacher, False), log), log)
    _import_as(folder, lambda: all_works[-2].run(folder / "first", False), log)
    sound, seconds = {}, {}
    for work in all_works:
        found = []
        for turn in range(3):  # the first one may leave something in the teacher's folder
            out = folder / f"sound-{turn}"
            shutil.rmtree(out, ignore_errors=True)
            act = partial(work.plain, out) if turn == 1 else partial(work.run, out, False)
            seconds[work.name] = _must(forked(act, log), log)
            found.append(work.outcome(out))
        differing = unequal(*found[1:])
        assert not differing, f"{work.name} is not repeatable: {differing}"
        sound[work.name] = found[1]
    trials: list[Trial] = []
    attempts = itertools.count()  # a run that was done before its moment draws another one
    while (done := sum(len(trial.moments) for trial in trials)) < kills:
        work = all_works[len(trials) % len(all_works)]
        own_seed = f"{seed}-{next(attempts)}"
        trial = one(work, own_seed, seconds[work.name], sound[work.name], folder / "run", log)
        if trial.moments:
            trials.append(trial)
            word = "equal" if trial.equal else f"NOT EQUAL {trial.said}"
            report(f"{done + len(trial.moments):3} {work.name:22} {', '.join(trial.kept)}: {word}")
    return {
        "schema": 1,
        "command": f"tests/torture/torture.py --kills {kills} --seed {seed}",
        "seed": seed,
        "kills": sum(len(trial.moments) for trial in trials),
        "runs": len(trials),
        "equal": sum(trial.equal for trial in trials),
        "seconds": seconds,
        "versions": {
            "frugalkd": frugalkd.__version__,
            "torch": torch.__version__,
            "python": platform.python_version(),
            "machine": platform.machine(),
        },
        "trials": [asdict(trial) for trial in trials],
    }


def _import_as(folder: Path, act: Callable[[], object], log: Path) -> None:
    """Import what ``act`` imports late, so that a moment falls on work and not on imports."""
    names = folder / "modules"

    def report() -> None:
        act()
        names.write_text("\n".join(sys.modules))

    _must(forked(report, log), log)
    for name in names.read_text().splitlines():
        with contextlib.suppress(Exception):  # some cannot be imported by themselves
            importlib.import_module(name)


def one(
    work: Work, seed: str, seconds: float, sound: dict[str, bytes], out: Path, log: Path
) -> Trial:
    """One run, killed at least once if it does not end before, and resumed to its end."""
    draw = random.Random(seed)
    shutil.rmtree(out, ignore_errors=True)
    moments, kept = [], []
    while not moments or draw.random() < AGAIN:
        moment = draw.random()
        code, _ = forked(partial(work.run, out, bool(moments)), log, moment * seconds)
        if code != -signal.SIGKILL:
            if code:
                return Trial(work.name, seed, [*moments, moment], kept, False, _last(log))
            break  # done before its moment came
        moments.append(round(moment, 4))
        kept.append(kept_in(out))
    code, _ = forked(lambda: work.run(out, True), log)
    if code:
        return Trial(work.name, seed, moments, kept, False, _last(log))
    found = work.outcome(out)
    left = [p.name for p in out.rglob(".*")] + [p.name for p in out.glob("checkpoints")]
    differing = unequal(sound, found)
    return Trial(work.name, seed, moments, kept, not differing and not left, str(differing + left))


def unequal(one: dict[str, bytes], other: dict[str, bytes]) -> list[str]:
    """In which of their parts two outcomes differ."""
    return sorted(name for name in one.keys() | other if one.get(name) != other.get(name))


def _must(ran: tuple[int, float], log: Path) -> float:
    code, seconds = ran
    if code:
        raise RuntimeError(f"an undisturbed run ended with {code}: {_last(log)}")
    return seconds


def _last(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1] if lines else ""


def table(result: dict[str, Any]) -> str:
    """The result for a reader."""
    lines = [f"{'':22} {'runs':>5} {'kills':>6} {'resumed':>8} {'restarted':>11} {'equal':>6}"]
    for name in result["seconds"]:
        own = [trial for trial in result["trials"] if trial["work"] == name]
        kept = [what for trial in own for what in trial["kept"]]
        restarted = sum(what == "nothing" for what in kept)
        equal = sum(trial["equal"] for trial in own)
        lines.append(
            f"{name:22} {len(own):5} {len(kept):6} {len(kept) - restarted:8} "
            f"{restarted:11} {equal:6}"
        )
    lines.append(
        f"{'all':22} {result['runs']:5} {result['kills']:6} {'':8} {'':11} {result['equal']:6}"
    )
    return "\n".join(lines)


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the result there")
    options = parser.parse_args()
    torch.set_num_threads(1)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="frugalkd-torture-") as folder:
        result = torture(
            options.kills, options.seed, Path(folder), lambda line: print(line, flush=True)
        )
    print(table(result))
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n")
    return int(result["equal"] != result["runs"])


if __name__ == "__main__":
    sys.exit(main())
