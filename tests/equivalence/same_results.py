"""Whether a change to the code leaves the results of training as they were, bit for bit.

Runs a fixed set of trainings on scikit-learn's digits through the command line (a teacher, the four
modes, the gate that screens each batch, a comparison at a budget, two ranks) and writes a digest of
each run: its weights, its ledger columns, its counts and its accuracies.

    python tests/equivalence/same_results.py --out before.json     # on the old code
    python tests/equivalence/same_results.py --against before.json # on the new code

Digests are comparable on one machine only: the same processor, torch and thread count.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from safetensors.numpy import load_file

COUNTS = ("samples_backpropagated", "student_forwards", "teacher_queries")
ACCURACIES = ("accuracy", "worst_class_accuracy", "expected_calibration_error", "teacher_agreement")
COLUMNS = ("visits", "participations", "forced", "confidence", "correct", "loss", "streak", "due")
GATE = "{name: self-regulation, confidence: 0.9, when: last-visit, max_skip: 4}"
"""Written out in every run, so that a changed default does not change what is compared."""


def commands(out: Path) -> dict[str, list[str]]:
    """Each run's command line, by name; the runs are in ``out``."""
    teacher = ["--set", "teacher.training.epochs=6", "--set", f"teacher.policy={GATE}"]
    short = ["--set", "student.training.epochs=5"]
    gate = ["--set", "student.regulation={confidence: 0.9, when: last-visit, max_skip: 3}"]
    modes = {
        mode: ["distill", "digits", "--mode", mode, "--teacher", f"{out}/teacher", *short, *gate]
        for mode in ("vanilla", "significance", "regulated", "hybrid")
    }
    now = ["--set", "student.regulation={confidence: 0.9, when: now}"]
    budget = ["--arms", "vanilla,regulated,random,short,infobatch,kakurenbo", "--budgets", "0.25"]
    return {
        "teacher": ["teach", "digits", *teacher],
        **modes,
        "now": [
            "distill",
            "digits",
            "--mode",
            "regulated",
            "--teacher",
            f"{out}/teacher",
            *short,
            *now,
        ],
        "compare": ["compare", "digits", *budget, "--seeds", "2", "--jobs", "1", *teacher, *short],
        "ranks": [
            *modes["regulated"][:4],
            "--teacher",
            f"{out}/teacher",
            *short,
            *gate,
            "--set",
            "student.targets.kind=live",
        ],
    }


def run(arguments: list[str], out: Path, *, ranks: int = 1) -> None:
    """Run one command; its output is shown where it fails."""
    start = [sys.executable, "-m", "frugalkd"]
    if ranks > 1:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        start += [f"--nproc-per-node={ranks}", "-m", "frugalkd"]
    done = subprocess.run(
        [*start, *arguments, "--out", str(out)],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    if done.returncode:
        sys.exit(f"{' '.join(arguments)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")


def digest_of(folder: Path) -> dict[str, Any]:
    """What must not change of a run folder."""
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    said: dict[str, Any] = {name: results["meters"][name] for name in COUNTS}
    said |= {name: results["evaluation"].get(name) for name in ACCURACIES}
    for file in ("teacher.safetensors", "student.safetensors", "ledger.safetensors"):
        if (folder / file).is_file():
            tensors = load_file(folder / file)
            if file.startswith("ledger"):
                tensors = {name: tensors[name] for name in COLUMNS if name in tensors}
            sha = hashlib.sha256()
            for name in sorted(tensors):
                sha.update(f"{name} {tensors[name].dtype} {tensors[name].shape}".encode())
                sha.update(tensors[name].tobytes())
            said[file] = sha.hexdigest()
    return said


def measure(out: Path) -> dict[str, Any]:
    """Run everything below ``out``; the digest of each run by its name."""
    for name, arguments in commands(out).items():
        run(arguments, out / name, ranks=2 if name == "ranks" else 1)
    found = sorted(file.parent for file in out.rglob("results.json"))
    return {name_of(folder.relative_to(out)): digest_of(folder) for folder in found}


def name_of(folder: Path) -> str:
    """A run's name without the digest of its recipe, which changes with every renamed key."""
    return re.sub(r"-[0-9a-f]{12}$", "", str(folder))


def machine() -> dict[str, str]:
    """What the bits of a result depend on, beside the code."""
    cpu = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line]
    return {"torch": torch.__version__, "processor": cpu[0].split(":")[1].strip() if cpu else "?"}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """One line for each run that is missing or differs, naming what differs."""
    lines = []
    for name in sorted({*before, *after}):
        one, other = before.get(name), after.get(name)
        if one is None or other is None:
            lines.append(f"{name}: only {'after' if one is None else 'before'}")
        elif one != other:
            keys = [key for key in {*one, *other} if one.get(key) != other.get(key)]
            lines.append(f"{name}: {', '.join(sorted(keys))}")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, help="write the digests here")
    parser.add_argument("--against", type=Path, help="compare with these digests")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = {"machine": machine(), "runs": measure(Path(folder))}
    if arguments.out is not None:
        arguments.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if arguments.against is not None:
        before = json.loads(arguments.against.read_text(encoding="utf-8"))
        if before["machine"] != found["machine"]:
            sys.exit(f"not comparable: {before['machine']} before, {found['machine']} now")
        if lines := differences(before["runs"], found["runs"]):
            sys.exit("\n".join(lines))
    print(f"{len(found['runs'])} runs" + (", all the same" if arguments.against else ""))


if __name__ == "__main__":
    main()
