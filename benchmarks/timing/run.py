"""Run a case: its teacher, its stores, then its arms, interleaved. Finished runs are kept."""

from __future__ import annotations

import contextlib
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.timing.case import Arm, Case, Measurement
from benchmarks.timing.figures import measure_figures, planned_figures
from benchmarks.timing.options import Listener, Options
from benchmarks.timing.process import in_process, read_object
from benchmarks.timing.runners import Task, as_plain
from benchmarks.timing.summary import SCHEMA, summarise
from frugalkd.errors import FrugalKDError, RunFolderError
from frugalkd.experiments.recipes.load import load_recipe, override
from frugalkd.experiments.recipes.schema import Recipe
from frugalkd.experiments.runs.digest import run_digest
from frugalkd.experiments.runs.folder import read_results
from frugalkd.files.writing import make_folder, write_json

QUICK = {"data.train_size": 2000, "teacher.training.epochs": 2, "student.training.epochs": 2}
"""The sizes of a quick run, instead of those of the case."""


def bench(
    case: Case | Measurement, options: Options, listener: Listener = lambda line: None
) -> dict[str, Any]:
    """Run ``case`` and write ``out/CASE.json`` after each run; returns its content.

    Each run has a fresh process, one at a time. The order of the arms rotates from round to round,
    and the round is the seed. Finished runs in ``options.out`` are not repeated. A failed run is
    reported, and the others are still run.

    Raises:
        UnknownName: an arm that the case does not have.
        FrugalKDError: the teacher cannot be trained or read.
    """
    if isinstance(case, Measurement):
        return measure_figures(case, options, listener)
    return _Bench(case, options, listener).run()


def planned(case: Case | Measurement, options: Options) -> dict[str, Any]:
    """What :func:`bench` would do: for each arm the epochs of a run, the number of runs, the
    finished runs and their median seconds; whether the teacher exists. Nothing is run or written.

    Raises:
        UnknownName: an arm that the case does not have.
        RunFolderError: the teacher's folder contains a teacher with other settings.
    """
    if isinstance(case, Measurement):
        return planned_figures(case, options)
    return _Bench(case, options, lambda line: None).planned()


@dataclass(frozen=True)
class _Spec:
    """A run: the ``name`` of its files, and its tasks."""

    name: str
    tasks: list[Task]


class _Bench:
    """One case in progress."""

    def __init__(self, case: Case, options: Options, say: Listener):
        self.case, self.options, self.say = case, options, say
        self.label = options.label(case.name)
        self.folder = options.out / "runs" / self.label
        wanted = [arm.name for arm in case.arms] if options.arms is None else list(options.arms)
        self.wanted = [case.arm(name) for name in dict.fromkeys(wanted)]
        self.rounds = options.rounds or case.rounds
        self.recipes = {arm.name: self._recipe(arm) for arm in case.arms}
        self.teacher: Path | None = None
        self.failed: dict[str, str] = {}

    def run(self) -> dict[str, Any]:
        make_folder(self.folder)
        self.teacher = self._found_teacher() or self._train_teacher()
        if self.case.together:
            self._run_together()
        else:
            stored = {arm.name for arm in self.wanted if self._store(arm)}
            for turn in range(self.rounds):
                for arm in _turned(self.wanted, turn):
                    if arm.name in stored:
                        self._run_once(arm, turn)
        return self._write()

    def planned(self) -> dict[str, Any]:
        spec = self.case.teacher
        self.teacher = self._found_teacher()
        arms = [self._planned(arm) for arm in self.wanted]
        return {
            "case": self.case.name,
            "quick": self.options.quick,
            "takes": self.case.takes,
            "samples": None,
            "teacher": None if spec is None else {"name": spec.name, "there": bool(self.teacher)},
            "arms": arms,
        }

    def _planned(self, arm: Arm) -> dict[str, Any]:
        epochs = self._epochs(arm)
        kept = []
        if self.case.together:
            found = self._found(self._together())
            place = self.wanted.index(arm)
            kept = [turn[place] for turn in found["rounds"] if turn[place]] if found else []
        elif self.teacher is not None or self.case.teacher is None:
            kept = [self._kept(arm, turn) for turn in range(self.rounds)]
        seconds = [record["seconds"] for record in kept if record]
        return {
            "arm": arm.name,
            "epochs": self._part(arm) or epochs,
            "of": epochs,
            "runs": self.rounds,
            "done": len(seconds),
            "seconds": median(seconds) if seconds else None,
        }

    def _recipe(self, arm: Arm) -> Recipe:
        settings = {**self.case.set, **arm.set}
        recipe = override(load_recipe(arm.recipe or self.case.recipe), settings)
        return _quick(recipe) if self.options.quick else recipe

    def _found_teacher(self) -> Path | None:
        """The folder of the case's teacher, if it exists and is finished."""
        spec = self.case.teacher
        if spec is None:
            return None
        if spec.name in self.options.teachers:
            folder = self.options.teachers[spec.name]
            read_results(folder)
            return folder
        folder, recipe = self._teacher()
        if not (folder / "results.json").is_file():
            return None
        made = Recipe.model_validate(read_results(folder)["recipe"])
        # Compare recipes, not digests: a setting added since then has its default.
        if run_digest("teach", made, None) != run_digest("teach", recipe, None):
            raise RunFolderError(f"{folder} holds a teacher with other settings: delete it")
        return folder

    def _train_teacher(self) -> Path | None:
        spec = self.case.teacher
        if spec is None:
            return None
        folder, recipe = self._teacher()
        self.say(f"teacher {spec.name} ...")
        make_folder(folder)
        made = _Spec(f"teacher-{spec.name}", [Task("teach", recipe, folder)])
        answer = self._process("teach", made)
        if "error" in answer:
            raise FrugalKDError(f"teacher {spec.name}: {answer['error']}")
        return folder

    def _teacher(self) -> tuple[Path, Recipe]:
        """The folder of the teacher that this case trains, and its recipe."""
        spec = self.case.teacher
        assert spec is not None
        recipe = override(load_recipe(spec.recipe), spec.set)
        folder = self.options.out / "teachers" / self.options.label(spec.name)
        return folder, _quick(recipe) if self.options.quick else recipe

    def _store(self, arm: Arm) -> bool:
        """Fill the store of an arm with ``filling: apart``; False if that failed."""
        if arm.options.get("filling") != "apart" or "teacher_precision" in arm.options:
            return True
        kept = self.folder / f"filling-{arm.name}.json"
        answer = self._process("targets", _Spec(f"filling-{arm.name}", [self._task(arm, 0)]))
        if "error" in answer:
            self._fail(arm.name, f"filling the store: {answer['error']}")
            return False
        if answer["rows"] or read_object(kept) is None:
            write_json(kept, answer)
        return True

    def _run_once(self, arm: Arm, turn: int) -> None:
        title = f"{self.label} round {turn + 1}/{self.rounds}: {arm.name}"
        if self._kept(arm, turn) is not None:
            self.say(f"{title} (done before)")
            return
        self.say(f"{title} ...")
        spec = self._spec(arm, turn)
        answer = self._process("run", spec)
        if "error" in answer:
            self._fail(spec.name, answer["error"])
            return
        accuracy = answer.get("accuracy")
        result = "" if accuracy is None else f", accuracy {100 * accuracy:.2f} %"
        self.say(f"{title}: {answer['seconds']:.2f} s{result}")
        self._write()

    def _run_together(self) -> None:
        spec = self._together()
        found = self._found(spec)
        if found is None or len(found["rounds"]) < self.rounds or any(found["errors"]):
            count = len(spec.tasks)
            self.say(f"{self.label}: {self.rounds} rounds of {count} arms in one process ...")
            found = self._process("together", spec)
        else:
            self.say(f"{self.label} (done before)")
        if "error" in found:
            self._fail("together", found["error"])
            return
        for arm, error in zip(self.wanted, found["errors"], strict=True):
            if error is not None:
                self._fail(arm.name, error)

    def _fail(self, name: str, error: str) -> None:
        self.failed[name] = error
        self.say(f"failed: {self.label} {name}: {error}")

    def _part(self, arm: Arm) -> int | None:
        """The number of epochs that an arm runs; None for all."""
        if not arm.constant or self.options.whole or self.options.quick:
            return None
        part = self.options.part or arm.part
        return part if part is not None and part < self._epochs(arm) else None

    def _epochs(self, arm: Arm) -> float:
        """The epochs of an arm's complete training."""
        recipe = self.recipes[arm.name]
        return (recipe.teacher if arm.runner == "teach" else recipe.student).training.epochs

    def _task(self, arm: Arm, turn: int) -> Task:
        recipe = self.recipes[arm.name]
        recipe = override(recipe, {"seed": recipe.seed + turn})
        folder = self.folder / f"{turn}-{arm.name}.scratch"
        return Task(arm.runner, recipe, folder, dict(arm.options), self.teacher, self._part(arm))

    def _spec(self, arm: Arm, turn: int) -> _Spec:
        task = self._task(arm, turn)
        return _Spec(f"{turn}-{arm.name}{'' if task.part is None else '.part'}", [task])

    def _together(self) -> _Spec:
        """All arms in one process; with ``--arms``, the file has another name."""
        chosen = (
            "" if self.options.arms is None else "." + "+".join(arm.name for arm in self.wanted)
        )
        return _Spec(f"together{chosen}"[:200], [self._task(arm, 0) for arm in self.wanted])

    def _process(self, kind: str, spec: _Spec) -> dict[str, Any]:
        """Run in a fresh process, and keep the result together with its tasks."""
        runs = kind in ("run", "together")
        for task in spec.tasks if runs else ():
            with contextlib.suppress(OSError):
                shutil.rmtree(task.folder)
            make_folder(task.folder)
        tasks = [as_plain(task) for task in spec.tasks]
        threads = max(task.recipe.threads for task in spec.tasks)
        job = {"kind": kind, "tasks": tasks, "rounds": self.rounds}
        try:
            answer = in_process(job, self.folder / spec.name, threads)
        finally:
            for task in spec.tasks if runs else ():
                with contextlib.suppress(OSError):
                    shutil.rmtree(task.folder)
        if runs and "error" not in answer:
            record = {"schema": SCHEMA, "tasks": _comparable(spec.tasks), **answer}
            write_json(self.folder / f"{spec.name}.json", record)
        return answer

    def _kept(self, arm: Arm, turn: int) -> dict[str, Any] | None:
        """The record of an arm's run in this round, if it is finished. A complete run also replaces
        a partial one."""
        spec = self._spec(arm, turn)
        whole = [replace(task, part=None) for task in spec.tasks]
        return self._found(_Spec(f"{turn}-{arm.name}", whole)) or self._found(spec)

    def _found(self, spec: _Spec) -> dict[str, Any] | None:
        """The kept record of this run, if its tasks are the same."""
        kept = read_object(self.folder / f"{spec.name}.json")
        if kept is None or kept.get("schema") != SCHEMA:
            return None
        try:
            for task in kept["tasks"]:
                filled = Recipe.model_validate(task["recipe"])  # defaults for newer settings
                task["recipe"] = filled.model_dump(mode="json")
        except (KeyError, TypeError, ValueError):
            return None
        return kept if kept["tasks"] == _comparable(spec.tasks) else None

    def _write(self) -> dict[str, Any]:
        records: dict[str, list[dict[str, Any] | None]] = {arm.name: [] for arm in self.case.arms}
        if self.case.together:
            found = self._found(self._together()) or {"rounds": []}
            for turn in found["rounds"]:
                for arm, record, first in zip(self.wanted, turn, found["first"], strict=True):
                    if record is not None:
                        record |= {"machine": found["machine"], "first": first["seconds"]}
                    records[arm.name].append(record)
        else:
            for arm in self.case.arms:
                rounds = range(_rounds_in(self.folder))
                records[arm.name] = [self._kept(arm, turn) for turn in rounds]
        fillings = {
            arm.name: read_object(self.folder / f"filling-{arm.name}.json")
            for arm in self.case.arms
        }
        content = summarise(
            self.case, self.recipes, records, fillings, self.failed, self.options.quick
        )
        write_json(self.options.out / f"{self.label}.json", content)
        return content


def _quick(recipe: Recipe) -> Recipe:
    size = min(QUICK["data.train_size"], recipe.data.train_size or QUICK["data.train_size"])
    return override(recipe, {**QUICK, "data.train_size": size})


def _turned(arms: list[Arm], turn: int) -> list[Arm]:
    """``arms``, rotated each round: temporary slowness of the machine affects all of them."""
    start = turn % len(arms)
    return arms[start:] + arms[:start]


def _rounds_in(folder: Path) -> int:
    rounds = [file.name.partition("-")[0] for file in folder.glob("*-*.json")]
    return max((int(turn) + 1 for turn in rounds if turn.isdecimal()), default=0)


def _comparable(tasks: list[Task]) -> list[dict[str, Any]]:
    """The tasks without folders and with the teacher's digest: equal for equal runs."""
    comparable = []
    for task in tasks:
        plain = as_plain(task)
        del plain["folder"]
        if task.teacher is not None:
            plain["teacher"] = read_results(task.teacher)["digest"]
        comparable.append(plain)
    return json.loads(json.dumps(comparable))
