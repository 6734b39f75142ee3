"""Carrying out a case without arms: one process measures all of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.timing.asking import Ask, Listener
from benchmarks.timing.case import Measurement
from benchmarks.timing.process import in_process, read_object
from benchmarks.timing.summary import SCHEMA, summarise_figures
from frugalkd.files.atomic import write_json
from frugalkd.files.writing import make_folder


def measure_figures(case: Measurement, ask: Ask, say: Listener) -> dict[str, Any]:
    """As ``run.bench``, for a measurement: what is measured is not measured again."""
    label, folder = ask.label(case.name), _folder(case, ask)
    make_folder(folder)
    failed: dict[str, str] = {}
    samples = _samples(case, ask)
    kept = _kept(case, ask)
    if kept is not None:
        say(f"{label} (done before)")
    else:
        say(f"{label}: {samples:,} samples ...")
        job = {"kind": case.name, "samples": samples, "folder": str(folder)}
        answer = in_process(job, folder / "measured", threads=1)
        if "error" in answer:
            failed["measured"] = answer["error"]
            say(f"failed: {label}: {answer['error']}")
        else:
            kept = {"schema": SCHEMA, **answer}
            write_json(folder / "measured.json", kept)
    content = summarise_figures(case, kept, failed, ask.quick)
    write_json(ask.out / f"{label}.json", content)
    return content


def planned_figures(case: Measurement, ask: Ask) -> dict[str, Any]:
    """As ``run.planned``: one run."""
    kept = _kept(case, ask)
    run = {"arm": case.name, "epochs": None, "of": None, "runs": 1, "done": int(kept is not None)}
    return {
        "case": case.name,
        "quick": ask.quick,
        "takes": case.takes,
        "samples": _samples(case, ask),
        "teacher": None,
        "arms": [{**run, "seconds": None}],
    }


def _samples(case: Measurement, ask: Ask) -> int:
    return case.quick_samples if ask.quick else case.samples


def _folder(case: Measurement, ask: Ask) -> Path:
    return ask.out / "runs" / ask.label(case.name)


def _kept(case: Measurement, ask: Ask) -> dict[str, Any] | None:
    kept = read_object(_folder(case, ask) / "measured.json") or {}
    same = kept.get("schema") == SCHEMA and kept.get("samples") == _samples(case, ask)
    return kept if same else None
