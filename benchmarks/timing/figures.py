"""Run a case without arms: one process measures all of its figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.timing.case import Measurement
from benchmarks.timing.options import Listener, Options
from benchmarks.timing.process import in_process, read_object
from benchmarks.timing.summary import SCHEMA, summarise_figures
from frugalkd.files.writing import make_folder, write_json


def measure_figures(case: Measurement, options: Options, say: Listener) -> dict[str, Any]:
    """As ``run.bench``, for a measurement. A finished measurement is not repeated."""
    label, folder = options.label(case.name), _folder(case, options)
    make_folder(folder)
    failed: dict[str, str] = {}
    samples = _samples(case, options)
    kept = _kept(case, options)
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
    content = summarise_figures(case, kept, failed, options.quick)
    write_json(options.out / f"{label}.json", content)
    return content


def planned_figures(case: Measurement, options: Options) -> dict[str, Any]:
    """As ``run.planned``, for a measurement: one run."""
    kept = _kept(case, options)
    run = {"arm": case.name, "epochs": None, "of": None, "runs": 1, "done": int(kept is not None)}
    return {
        "case": case.name,
        "quick": options.quick,
        "takes": case.takes,
        "samples": _samples(case, options),
        "teacher": None,
        "arms": [{**run, "seconds": None}],
    }


def _samples(case: Measurement, options: Options) -> int:
    return case.quick_samples if options.quick else case.samples


def _folder(case: Measurement, options: Options) -> Path:
    return options.out / "runs" / options.label(case.name)


def _kept(case: Measurement, options: Options) -> dict[str, Any] | None:
    kept = read_object(_folder(case, options) / "measured.json") or {}
    same = kept.get("schema") == SCHEMA and kept.get("samples") == _samples(case, options)
    return kept if same else None
