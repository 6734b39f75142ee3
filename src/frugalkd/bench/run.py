"""Carrying a case out: its teacher, its stores, then its arms in turn, none of them twice."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from frugalkd.bench.case import Arm, Case
from frugalkd.bench.runners import Task, as_plain
from frugalkd.bench.summary import SCHEMA, summarise
from frugalkd.errors import FrugalKDError, RunFolderError
from frugalkd.files import write_json
from frugalkd.recipes.load import load_recipe, override
from frugalkd.recipes.schema import Recipe
from frugalkd.runs.execute import run_digest
from frugalkd.runs.folder import read_results

Listener = Callable[[str], None]

QUICK = {"data.train_size": 2000, "teacher.training.epochs": 2, "student.training.epochs": 2}
"""What a quick look runs in place of a case's own sizes."""


@dataclass(frozen=True)
class Ask:
    """How a case is to be run.

    Attributes:
        out: the folder of all that is written.
        rounds: of each arm; None for the case's own number.
        arms: names of those to run; None for all. What others have in ``out`` still counts.
        whole: run whole trainings where an arm would run a part.
        part: epochs to run of arms with constant cost, in place of the case's own part.
        quick: a look at whether it works: few rows, two epochs; its figures are no results.
        teachers: folders of teachers that are there already, by the teacher's name.
    """

    out: Path
    rounds: int | None = None
    arms: tuple[str, ...] | None = None
    whole: bool = False
    part: int | None = None
    quick: bool = False
    teachers: Mapping[str, Path] = field(default_factory=dict)


def bench(case: Case, ask: Ask, listener: Listener = lambda line: None) -> dict[str, Any]:
    """Run ``case`` and write ``out/CASE.json`` after each run; returns its content.

    A run is one fresh process, one at a time; the order of the arms is turned from round to round,
    and the round is the seed. Runs that are done in ``ask.out`` are not run again; one that fails
    is named, and the others go on.

    Raises:
        UnknownName: an arm that the case does not have.
        FrugalKDError: the teacher cannot be had.
    """
    return _Bench(case, ask, listener).run()


class _Bench:
    """One case under way."""

    def __init__(self, case: Case, ask: Ask, say: Listener):
        self.case, self.ask, self.say = case, ask, say
        self.label = f"quick-{case.name}" if ask.quick else case.name
        self.folder = ask.out / "runs" / self.label
        wanted = [arm.name for arm in case.arms] if ask.arms is None else list(ask.arms)
        self.wanted = [case.arm(name) for name in dict.fromkeys(wanted)]
        self.rounds = ask.rounds or case.rounds
        self.recipes = {arm.name: self._recipe(arm) for arm in case.arms}
        self.teacher: Path | None = None
        self.failed: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.teacher = self._teacher()
        if self.case.together:
            self._run_together()
        else:
            stored = {arm.name for arm in self.wanted if self._store(arm)}
            for turn in range(self.rounds):
                for arm in _turned(self.wanted, turn):
                    if arm.name in stored:
                        self._run_once(arm, turn)
        return self._write()

    def _recipe(self, arm: Arm) -> Recipe:
        settings = {**self.case.set, **arm.set}
        recipe = override(load_recipe(self.case.recipe), settings)
        return _quick(recipe) if self.ask.quick else recipe

    def _teacher(self) -> Path | None:
        """The folder of the case's teacher, trained where it is not there yet."""
        spec = self.case.teacher
        if spec is None:
            return None
        if spec.name in self.ask.teachers:
            folder = self.ask.teachers[spec.name]
            read_results(folder)
            return folder
        folder = self.ask.out / "teachers" / (f"quick-{spec.name}" if self.ask.quick else spec.name)
        recipe = override(load_recipe(spec.recipe), spec.set)
        recipe = _quick(recipe) if self.ask.quick else recipe
        if (folder / "results.json").is_file():
            made = Recipe.model_validate(read_results(folder)["recipe"])
            # By the recipes, not by the digests: a setting that is new since then has its default.
            if run_digest("teach", made, None) != run_digest("teach", recipe, None):
                raise RunFolderError(f"{folder} holds a teacher of other settings: delete it")
            return folder
        self.say(f"teacher {spec.name}")
        folder.mkdir(parents=True, exist_ok=True)
        answer = self._process("teach", [Task("teach", recipe, folder)], f"teacher-{spec.name}")
        if "error" in answer:
            raise FrugalKDError(f"teacher {spec.name}: {answer['error']}")
        return folder

    def _store(self, arm: Arm) -> bool:
        """Fill the store of an arm whose filling is apart; False where that failed."""
        if arm.options.get("filling") != "apart" or "teacher_precision" in arm.options:
            return True
        kept = self.folder / f"filling-{arm.name}.json"
        before = _read(kept)
        task = self._task(arm, 0)
        answer = self._process("targets", [task], f"filling-{arm.name}", keep=False)
        if "error" in answer:
            self._fail(arm.name, f"filling the store: {answer['error']}")
            return False
        if answer["rows"] or before is None:
            write_json(kept, answer)
        return True

    def _run_once(self, arm: Arm, turn: int) -> None:
        name = f"{turn}-{arm.name}"
        task = self._task(arm, turn)
        title = f"{self.label} round {turn + 1}/{self.rounds}: {arm.name}"
        if self._found(name, [task]) is not None:
            self.say(f"{title} (done before)")
            return
        self.say(f"{title} ...")
        answer = self._process("run", [task], name)
        if "error" in answer:
            self._fail(name, answer["error"])
            return
        accuracy = answer.get("accuracy")
        told = "" if accuracy is None else f", accuracy {100 * accuracy:.2f} %"
        self.say(f"{title}: {answer['seconds']:.2f} s{told}")
        self._write()

    def _run_together(self) -> None:
        tasks = [self._task(arm, 0) for arm in self.wanted]
        found = self._found("together", tasks)
        if found is not None and len(found["rounds"]) >= self.rounds:
            self.say(f"{self.label} (done before)")
            return
        self.say(f"{self.label}: {self.rounds} rounds of {len(tasks)} arms in one process ...")
        answer = self._process("together", tasks, "together")
        if "error" in answer:
            self._fail("together", answer["error"])

    def _fail(self, name: str, error: str) -> None:
        self.failed[name] = error
        self.say(f"failed: {self.label} {name}: {error}")

    def _task(self, arm: Arm, turn: int) -> Task:
        recipe = self.recipes[arm.name]
        recipe = override(recipe, {"seed": recipe.seed + turn})
        part = None
        if arm.constant and not self.ask.whole and not self.ask.quick:
            part = self.ask.part or arm.part
        folder = self.folder / f"{turn}-{arm.name}.scratch"
        return Task(arm.runner, recipe, folder, dict(arm.options), self.teacher, part)

    def _process(
        self, kind: str, tasks: list[Task], name: str, *, keep: bool = True
    ) -> dict[str, Any]:
        """Do ``tasks`` in a fresh process; the answer is kept in ``name``.json with what was asked
        for."""
        file = self.folder / f"{name}.json"
        job_file, answer_file = (self.folder / f"{name}.{end}" for end in ("job", "answer"))
        answer_file.unlink(missing_ok=True)
        job = {
            "kind": kind,
            "tasks": [as_plain(task) for task in tasks],
            "rounds": self.rounds,
            "answer": str(answer_file),
        }
        write_json(job_file, job)
        if kind in ("run", "together"):
            for task in tasks:
                shutil.rmtree(task.folder, ignore_errors=True)
                task.folder.mkdir(parents=True)
        threads = str(max(task.recipe.threads for task in tasks))
        code = _start(job_file, self.folder / f"{name}.log", threads)
        answer = _read(answer_file)
        if answer is None:
            answer = {"error": f"its process ended with code {code}: killed, or out of memory"}
        answer_file.unlink(missing_ok=True)
        job_file.unlink(missing_ok=True)
        if kind in ("run", "together"):
            for task in tasks:
                shutil.rmtree(task.folder, ignore_errors=True)
            if keep:
                write_json(file, {"schema": SCHEMA, "asked": _asked(tasks), **answer})
        return answer

    def _found(self, name: str, tasks: list[Task]) -> dict[str, Any] | None:
        """What is kept of this very run, where it succeeded."""
        kept = _read(self.folder / f"{name}.json")
        if kept is None or kept.get("schema") != SCHEMA or "error" in kept:
            return None
        try:
            for said in kept["asked"]:
                filled = Recipe.model_validate(said["recipe"])  # what is new since has its default
                said["recipe"] = filled.model_dump(mode="json")
        except (KeyError, TypeError, ValueError):
            return None
        return kept if kept["asked"] == _asked(tasks) else None

    def _write(self) -> dict[str, Any]:
        records: dict[str, list[dict[str, Any] | None]] = {arm.name: [] for arm in self.case.arms}
        if self.case.together:
            found = self._found("together", [self._task(arm, 0) for arm in self.wanted])
            for turn in found["rounds"] if found else []:
                for arm, record in zip(self.wanted, turn, strict=True):
                    records[arm.name].append({**record, "machine": found["machine"]})  # pyright: ignore
        else:
            for arm in self.case.arms:
                for turn in range(_rounds_in(self.folder)):
                    found = self._found(f"{turn}-{arm.name}", [self._task(arm, turn)])
                    records[arm.name].append(found)
        fillings = {
            arm.name: _read(self.folder / f"filling-{arm.name}.json") for arm in self.case.arms
        }
        content = summarise(self.case, self.recipes, records, fillings, self.failed, self.ask.quick)
        write_json(self.ask.out / f"{self.label}.json", content)
        return content


def _quick(recipe: Recipe) -> Recipe:
    size = min(QUICK["data.train_size"], recipe.data.train_size or QUICK["data.train_size"])
    return override(recipe, {**QUICK, "data.train_size": size})


def _turned(arms: list[Arm], turn: int) -> list[Arm]:
    """``arms``, begun with another one each round: what is slow on a machine meets all of them."""
    start = turn % len(arms)
    return arms[start:] + arms[:start]


def _rounds_in(folder: Path) -> int:
    turns = [file.name.partition("-")[0] for file in folder.glob("*-*.json")]
    return max((int(turn) + 1 for turn in turns if turn.isdecimal()), default=0)


def _asked(tasks: list[Task]) -> list[dict[str, Any]]:
    """What a kept run must have been asked for, to count as this one."""
    asked = []
    for task in tasks:
        said = as_plain(task)
        del said["folder"]
        if task.teacher is not None:
            said["teacher"] = read_results(task.teacher)["digest"]
        asked.append(said)
    return json.loads(json.dumps(asked))


def _read(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _start(job: Path, log: Path, threads: str) -> int:
    """Run the worker on ``job`` and wait; its messages go to ``log``. It ends with us."""
    environment = {**os.environ, "OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
    command = [sys.executable, "-m", "frugalkd.bench.worker", str(job)]
    with open(log, "wb") as messages:
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=messages,
            stderr=messages,
            env=environment,
            start_new_session=True,  # Ctrl-C is ours: we end the child
        )
        try:
            return process.wait()
        finally:
            process.kill()
            process.wait()
            assert process.stdin is not None
            process.stdin.close()
