"""Malformed files of every kind: each gives a typed error of one line or a correct result, within
twice the file's size and 64 MiB of memory, and within seconds.

``python tests/torture/fuzz.py --cases 2000`` reads 2,000 files of each kind and prints a table; it
exits with 1 where one of them did something else, and keeps that file. The files are read in a
child process, so that a crash of the interpreter or a hang is seen and counted.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import fuzz_runs

SPARE = 64 << 20
SECONDS = 10
"""Of one file; a hang is what takes longer."""

KINDS = (
    "recipe", "ledger", "scores", "store-header", "store-rows", "store-presence", "checkpoint",
    "results", "run", "metrics", "filling", "card", "weights", *fuzz_runs.KINDS,
)  # fmt: skip


@dataclass
class Tally:
    """What became of the files of one kind. ``worst`` is the most memory above twice the file, in
    bytes; ``failures`` name a case and say what went wrong."""

    cases: int = 0
    refused: int = 0
    read: int = 0
    worst: int = 0
    slowest: float = 0.0
    failures: list[str] = field(default_factory=list)


# The parent: children, and what they say.


def fuzz(cases: int, seed: int, kinds: tuple[str, ...], keep: Path) -> dict[str, Tally]:
    """Read ``cases`` malformed files of each kind; files that did harm are kept in ``keep``."""
    tallies = {kind: Tally() for kind in kinds}
    at = Place(kinds[0] if kinds else "", 0)
    while at.kind:
        at = _child(at, cases, seed, keep, tallies)
    return tallies


@dataclass(frozen=True)
class Place:
    """A case of a kind; no kind: the end."""

    kind: str
    case: int


def _child(at: Place, cases: int, seed: int, keep: Path, tallies: dict[str, Tally]) -> Place:
    """Read from ``at`` on, until something ends the child; returns where to continue."""
    keep.mkdir(parents=True, exist_ok=True)
    kinds = list(tallies)
    command = [sys.executable, __file__, "--child", "--start", str(at.case)]
    command += ["--kinds", ",".join(kinds[kinds.index(at.kind) :])]
    command += ["--cases", str(cases), "--seed", str(seed), "--keep", str(keep)]
    with (
        tempfile.TemporaryDirectory(prefix="frugalkd-fuzz-") as temporary,  # a crash leaves files
        subprocess.Popen(
            command, stdout=subprocess.PIPE, text=True, env={**os.environ, "TMPDIR": temporary}
        ) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            said = json.loads(line)
            if "at" in said:
                at = Place(*said["at"])
                continue
            done, tally = said["done"], tallies[said["kind"]]
            for name in ("cases", "refused", "read", "failures"):
                setattr(tally, name, getattr(tally, name) + done[name])
            tally.worst = max(tally.worst, done["worst"])
            tally.slowest = max(tally.slowest, done["slowest"])
        code = process.wait()
    if code == 0:
        return Place("", 0)
    if code > 0:
        raise RuntimeError(f"the fuzzer itself failed at {at.kind} case {at.case}")
    # The second alarm ends a child that no Python code can interrupt.
    what = "hung" if code == -signal.SIGALRM else f"crashed the interpreter ({code})"
    tally = tallies[at.kind]
    tally.failures.append(f"{at.kind} case {at.case} {what}")
    tally.cases += 1
    if at.case + 1 < cases:
        return Place(at.kind, at.case + 1)
    return Place("".join(kinds[kinds.index(at.kind) + 1 :][:1]), 0)


def table(tallies: dict[str, Tally]) -> str:
    """The tallies for a reader."""
    heads = ("files", "refused", "read", "failed", "MiB*", "slowest")
    lines = [f"{'kind':15}" + "".join(f"{head:>9}" for head in heads)]
    for kind, tally in tallies.items():
        counts = (tally.cases, tally.refused, tally.read, len(tally.failures))
        said = "".join(f"{count:9,}" for count in counts)
        lines.append(f"{kind:15}{said}{tally.worst / 2**20:9.1f}{tally.slowest:7.2f} s")
    whole = sum(tally.cases for tally in tallies.values())
    failed = sum(len(tally.failures) for tally in tallies.values())
    lines.append(f"{'all':15}{whole:9,}{'':18}{failed:9,}")
    return "\n".join([*lines, "* the most memory that a file took beyond twice its size"])


# The child: cases, and a guard around each.


class Hung(BaseException):
    """A file took too long."""


@contextmanager
def guard(size: int) -> Iterator[Callable[[], int]]:
    """Time and memory are bounded inside; it yields the memory taken so far."""

    def pages() -> tuple[int, int]:
        fields = Path("/proc/self/statm").read_text().split()
        page = resource.getpagesize()
        return int(fields[0]) * page, int(fields[1]) * page

    def peak() -> int:
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) << 10
        return 0

    def alarm(*_: object) -> None:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(SECONDS)  # for code that does not come back to Python
        raise Hung

    Path("/proc/self/clear_refs").write_text("5")
    mapped, resident = pages()
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    signal.signal(signal.SIGALRM, alarm)
    signal.alarm(SECONDS)
    resource.setrlimit(resource.RLIMIT_AS, (mapped + 2 * size + SPARE, hard))
    try:
        yield lambda: peak() - resident
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (hard, hard))
        signal.alarm(0)


@dataclass
class Kind:
    """One kind of file: a sound one, how to read it, and how to write an edited one.

    ``read`` raises AssertionError where what was read is not correct. ``hurt`` are files to begin
    with.
    """

    path: Path
    read: Callable[[], object]
    value: Any
    written: Callable[[Any], bytes]
    hurt: list[bytes]
    group: tuple[Path, ...] = ()

    def __post_init__(self) -> None:
        self.sound = self.path.read_bytes()


def run_child(kind_name: str, start: int, cases: int, seed: int, keep: Path) -> Tally:
    """A third of the cases has edited structure, the others changed bytes."""
    import malformed
    from hypothesis import HealthCheck, Phase, given, settings
    from hypothesis import seed as seeded

    from frugalkd.errors import FrugalKDError

    warnings.simplefilter("error")
    tally, folder = Tally(), Path(tempfile.mkdtemp(prefix="frugalkd-fuzz-"))
    try:
        kind = make_kind(kind_name, folder)
        kind.read()  # what is imported late, and is not the file's fault
        case = start

        def one(content: bytes) -> None:
            nonlocal case
            print(json.dumps({"at": [kind_name, case]}), flush=True)
            kind.path.write_bytes(content)
            size = len(content) + sum(path.stat().st_size for path in kind.group)
            began, wrong = time.monotonic(), None
            try:
                with guard(size) as taken:
                    try:
                        kind.read()
                        tally.read += 1
                    except FrugalKDError as error:
                        tally.refused += 1
                        said = str(error)
                        if "\n" in said or "\r" in said or len(said) > 2000 or not said.strip():
                            wrong = f"not one line: {said[:300]!r}"
                        elif "\x1b" in said or "\x00" in said:
                            wrong = f"control signs in the line: {said[:300]!r}"
                    over = taken() - 2 * size
                tally.worst = max(tally.worst, over)
                if over > SPARE:
                    wrong = f"took {over / 2**20:.0f} MiB beyond twice its size"
            except Hung:
                wrong = f"took more than {SECONDS} s"
            except (Exception, KeyboardInterrupt) as error:
                place = ""
                trace = error.__traceback__
                while trace is not None:
                    place = f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
                    trace = trace.tb_next
                wrong = f"{type(error).__name__} at {place}: {str(error)[:200]}"
            tally.slowest = max(tally.slowest, time.monotonic() - began)
            tally.cases += 1
            if wrong is not None:
                (keep / f"{kind_name}-{case}").write_bytes(content)
                tally.failures.append(f"{kind_name} case {case}: {wrong}")
            case += 1

        for content in kind.hurt[start:]:
            if case < cases:
                one(content)
        structured = (cases - case) // 3
        while case < cases - structured:
            draw = random.Random(f"{seed} {kind_name} {case}")
            one(malformed.changed(kind.sound, draw))

        @seeded(seed)
        @settings(
            max_examples=max(structured, 1),
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
        )
        @given(value=malformed.edited(kind.value))
        def edited(value: Any) -> None:
            if case < cases:
                one(kind.written(value))

        while case < cases:  # hypothesis may end early, where it has seen all
            before = case
            edited()
            if case == before:
                break
        while case < cases:
            draw = random.Random(f"{seed} {kind_name} {case}")
            one(malformed.changed(kind.sound, draw))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return tally


def make_kind(name: str, folder: Path) -> Kind:
    """Sound files by a short run, or by their writers."""
    import malformed
    import numpy as np
    import torch
    from safetensors import safe_open

    from frugalkd.errors import FrugalKDError, FrugalKDWarning
    from frugalkd.experiments.recipes.load import check_names, load_recipe, override, recipe_text
    from frugalkd.experiments.runs.digest import run_digest
    from frugalkd.experiments.runs.execute import teach
    from frugalkd.experiments.runs.folder import RunFolder, read_results
    from frugalkd.experiments.runs.scores import load_scores
    from frugalkd.files.arrays import save_arrays
    from frugalkd.files.tensors import load_tree, save_tree
    from frugalkd.ledger.ledger import Ledger
    from frugalkd.ledger.summary import summarise
    from frugalkd.models.saved import load
    from frugalkd.policies.modes import significance_weights
    from frugalkd.teachers.encodings import make_encoding
    from frugalkd.teachers.store import Header, Store, create_store

    bombs = malformed.bombs()

    def json_kind(path: Path, read: Callable[[], object]) -> Kind:
        return Kind(path, read, json.loads(path.read_bytes()), malformed.as_json, bombs["json"])

    def safetensors_kind(path: Path, read: Callable[[], object], *group: Path) -> Kind:
        content = path.read_bytes()
        end = 8 + int.from_bytes(content[:8], "little")
        written = malformed.as_safetensors(content[end:])
        header = json.loads(content[8:end])
        return Kind(path, read, header, written, bombs["safetensors"], group)

    if name == "recipe":
        path = folder / "recipe.yaml"
        path.write_text(recipe_text("digits"))

        def read_recipe() -> None:
            recipe = load_recipe(str(path))
            check_names(recipe)
            recipe.model_dump(mode="json")
            run_digest("teach", recipe, None)

        import yaml

        value = yaml.safe_load(path.read_text())
        return Kind(path, read_recipe, value, malformed.as_yaml, bombs["recipe"])

    if name == "ledger":
        path = folder / "ledger.safetensors"
        draw = np.random.default_rng(0)
        sound = Ledger.new(60, labels=draw.integers(0, 3, 60))
        sound.columns["participations"][:] = draw.integers(0, 4, 60)
        sound.epochs, sound.about = 4.0, {"policy": "p", "classes": "a\nb\nc", "data": "d"}
        sound.save(path)

        def read_ledger() -> None:
            found = Ledger.load(path)
            for use in (summarise, significance_weights):
                with suppress(FrugalKDError):
                    use(found)
            with safe_open(path, framework="np") as file:
                checked = not file.metadata()["frugalkd-ledger"].startswith("{")
            if checked:  # then whatever was read is what was written
                for column in sound.columns:
                    assert np.array_equal(found[column], sound[column], equal_nan=True), column
                assert found.about == sound.about, "what it says of itself"

        kind = safetensors_kind(path, read_ledger)
        # One without a checksum: only the structure is checked.
        kind.value["__metadata__"]["frugalkd-ledger"] = json.dumps(
            {"schema": "1", "epochs": "4.0", **sound.about}
        )
        return kind

    if name == "scores":
        path = folder / "scores.safetensors"
        values = np.random.default_rng(0).random(60, np.float32)
        said = {"scoring": {"kind": "el2n", "epochs": 2.0, "seeds": 1}, "data set": "d"}
        cost = {"samples_backpropagated": 120, "student_forwards": 180, "wall_seconds": 1.5}
        about = {"schema": 1, "made_of": said, "meters": cost}
        save_arrays(path, "scores", {"score": values}, about)

        def read_scores() -> None:
            found, spent = load_scores(path)
            with safe_open(path, framework="np") as file:
                checked = not file.metadata()["frugalkd-scores"].startswith("{")
            if checked:  # then whatever was read is what was written
                assert np.array_equal(found, values), "other scores"
                assert spent == cost, "what they cost"

        kind = safetensors_kind(path, read_scores)
        # One without a checksum: only the structure is checked.
        kind.value["__metadata__"]["frugalkd-scores"] = json.dumps(about)
        return kind

    if name.startswith("store"):
        warnings.simplefilter("ignore", FrugalKDWarning)  # a torn record is reported
        store = folder / "store"
        draw = np.random.default_rng(0)
        logits = draw.standard_normal((2, 300, 12)).astype(np.float32)
        header = Header(300, 2, 12, make_encoding("top-k", 4, 4.0), {"teacher": "t"}, shards=1)
        create_store(store, header)
        filled = Store(store, write=None)
        ids = np.arange(0, 300, 2)
        for view in range(2):
            filled.write(ids, np.full(150, view), logits[view][ids])
        filled.sync()
        filled.close()
        right = [filled.read(ids, np.full(150, view)) for view in range(2)]

        def read_store() -> None:
            found = Store(store)
            if found.header != header:  # it says that it is another one
                everything = np.arange(min(found.header.samples, 1000))
                there = found.present(everything, np.zeros(len(everything), np.int64))
                found.read(everything[there], np.zeros(int(there.sum()), np.int64))
                return
            for view in range(2):
                there = ids[found.present(ids, np.full(150, view))]
                got = found.read(there, np.full(len(there), view))
                assert np.array_equal(got, right[view][np.isin(ids, there)]), "other rows"
                odd = ids + 1
                assert not found.present(odd, np.full(150, view)).any() or not _readable(
                    found, odd, view
                ), "rows that were never written"

        files = {
            "store-header": store / "header.json",
            "store-rows": store / "rows-00000.bin",
            "store-presence": store / "presence-00000.bin",
        }
        path = files.pop(name)
        value = json.loads((store / "header.json").read_bytes()) if "header" in name else [0]
        written = malformed.as_header if "header" in name else malformed.as_json
        hurt = (
            bombs["json"] if "header" in name else [b"", bytes(path.stat().st_size), b"\xff" * 384]
        )
        return Kind(path, read_store, value, written, hurt, tuple(files.values()))

    if name == "checkpoint":
        path = folder / "epoch-00001.safetensors"
        model = torch.nn.Linear(5, 3)
        optimizer = torch.optim.AdamW(model.parameters())
        model(torch.ones(2, 5)).sum().backward()
        optimizer.step()
        save_tree(
            path,
            {
                "model": dict(model.state_dict()),
                "optimizer": optimizer.state_dict(),
                "step": 3,
                "history": [{"epoch": 0, "loss": 0.5}],
                "random": {"cpu": torch.get_rng_state()},
            },
        )
        return safetensors_kind(path, lambda: load_tree(path))

    if name in fuzz_runs.KINDS:
        return json_kind(*fuzz_runs.sound_file(name, folder))

    recipe = override(
        load_recipe("digits"),
        {
            "data.train_size": 60,
            "teacher.model": {"name": "mlp", "options": {"hidden": [4]}},
            "teacher.training.epochs": 2,
        },
    )
    run = folder / "run"
    teach(recipe, run)
    results = json.loads((run / "results.json").read_bytes())
    if name == "results":
        from frugalkd.experiments.runs.use import evaluate_run
        from frugalkd.runtime.imports import Allowed

        def read_it() -> None:
            read_results(run)
            evaluate_run(run, None, Allowed(data=True))

        return json_kind(run / "results.json", read_it)
    if name == "card":
        images = np.zeros((1, 1, 8, 8), np.uint8)

        def read_card() -> None:
            found = load(run)
            if found.preprocess is not None and found.preprocess.shape == (1, 8, 8):
                found.predict(images)

        return json_kind(run / "model.json", read_card)
    if name == "weights":
        path = run / "teacher.safetensors"
        right = load(run).model.state_dict()

        def read_weights() -> None:
            found = load(run).model.state_dict()
            with safe_open(path, framework="np") as file:
                checked = "frugalkd-weights-crc32" in (file.metadata() or {})
            if checked:  # then whatever was read is what was written
                assert all(torch.equal(found[key], right[key]) for key in right), "other weights"

        kind = safetensors_kind(path, read_weights)
        # One without a checksum: only the structure is checked.
        kind.value.pop("__metadata__", None)
        return kind

    if name == "filling":
        with RunFolder(run) as stopped:
            stopped.note(queries_of={"teacher": 5}, seconds=1.5, teacher_seconds=0.5)
            return json_kind(run / "notes.json", stopped.notes)

    # A run that was stopped, to resume.
    (run / "results.json").unlink()
    (run / "checkpoints").mkdir()
    (run / "checkpoints" / "epoch-00001.safetensors").touch()
    at_first = {path: path.read_bytes() for path in (run / "run.json", run / "metrics.jsonl")}

    def go_on() -> None:
        with RunFolder(run) as claimed:
            claimed.begin(results["digest"], results["recipe"], "teach", resume=True)
            claimed.append_metrics({"epoch": 7})

    if name == "run":

        def begin() -> None:
            (run / "metrics.jsonl").write_bytes(at_first[run / "metrics.jsonl"])
            go_on()

        return json_kind(run / "run.json", begin)

    def metrics() -> None:
        (run / "run.json").write_bytes(at_first[run / "run.json"])
        go_on()

    path = run / "metrics.jsonl"
    value = [json.loads(line) for line in path.read_bytes().splitlines()]
    return Kind(path, metrics, value, malformed.as_lines, bombs["json"])


def _readable(store: Any, ids: Any, view: int) -> bool:
    """Whether rows come out of a store."""
    import numpy as np

    from frugalkd.errors import FrugalKDError

    there = ids[store.present(ids, np.full(len(ids), view))]
    try:
        store.read(there, np.full(len(there), view))
    except FrugalKDError:
        return False
    return True


def main() -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=2000, help="files of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--keep", type=Path, default=Path("runs/fuzz"), help="for what did harm")
    parser.add_argument("--json", type=Path, help="write the tallies there as well")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--start", type=int, default=0, help=argparse.SUPPRESS)
    options = parser.parse_args()
    kinds = tuple(options.kinds.split(","))
    if options.child:
        for place, kind in enumerate(kinds):
            start = 0 if place else options.start
            done = run_child(kind, start, options.cases, options.seed, options.keep)
            print(json.dumps({"kind": kind, "done": vars(done)}), flush=True)
        return 0
    tallies = fuzz(options.cases, options.seed, kinds, options.keep)
    print(f"seed {options.seed}")
    print(table(tallies))
    for tally in tallies.values():
        for failure in tally.failures[:20]:
            print(failure)
    if options.json:
        names = ("torch", "safetensors", "pyyaml")
        content = {
            "seed": options.seed,
            "versions": {name: version(name) for name in names},
            "kinds": {kind: vars(tally) for kind, tally in tallies.items()},
        }
        options.json.write_text(json.dumps(content, indent=2) + "\n")
    return int(any(tally.failures for tally in tallies.values()))


if __name__ == "__main__":
    sys.exit(main())
