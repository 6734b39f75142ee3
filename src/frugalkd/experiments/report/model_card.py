"""A run's model on the Hugging Face hub, with a card that is made from the run's own records."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from frugalkd.data.text import WORDS
from frugalkd.errors import ModelError, ReportError
from frugalkd.experiments.comparison.summary import FIELDS
from frugalkd.experiments.report.blocks import Table, in_a_terminal
from frugalkd.experiments.report.collect import collect
from frugalkd.experiments.report.headline import role_of, run_headline
from frugalkd.experiments.report.sections import (
    arms_table,
    claims_table,
    run_costs,
    run_numbers,
)
from frugalkd.experiments.runs.schema import Comparison, RunRecord, called, section
from frugalkd.experiments.runs.use import load_run
from frugalkd.files.writing import make_folder
from frugalkd.models import hub
from frugalkd.models.export import export, saves_itself
from frugalkd.models.saved import Loaded, encoder_of
from frugalkd.runtime.imports import Allowed


def push_run(
    run: Path,
    repo_id: str,
    *,
    license: str | None = None,
    out: Path | None = None,
    allowed: Allowed = Allowed(),  # noqa: B008
    **options: Any,
) -> str:
    """Push the model of ``run``, its ``model.json`` and its card to the hub, as ``repo_id``.

    Neither results.json nor the recipe is pushed: they may name folders of this machine.

    Args:
        license: of the model, as the hub names it: ``apache-2.0``.
        out: write these files to this folder, and contact no hub.
        options: as of :func:`frugalkd.models.hub.push`.

    Returns:
        The URL of the commit, or ``out``.

    Raises:
        ModelError: others could not load the model, or as of :func:`frugalkd.models.hub.push`.
        ReportError: ``run`` holds no finished run. What ``load_run`` raises, and WriteFailed.
    """
    record = collect(run)
    if not isinstance(record, RunRecord):
        raise ReportError(f"{run} is a comparison: name one of its runs, in runs/ there")
    loaded = _for_others(load_run(run, allowed))

    def write(folder: Path) -> None:
        make_folder(folder)
        [weights] = export(loaded, folder, "safetensors")
        _write_card(folder, repo_id, record, run, loaded, weights, license)

    if out is None:
        return hub.push(write, repo_id, **options)
    write(out)
    return str(out)


def _for_others(loaded: Loaded) -> Loaded:
    """With a card that holds no path of this machine. Raises ModelError where it needs one."""
    model = {key: value for key, value in loaded.card["model"].items() if key != "init_weights"}
    if loaded.output.name == "tokens":  # which transformers builds from its own files
        options = {key: value for key, value in model["options"].items() if key != "path"}
        model["options"] = options
    card = {**loaded.card, "model": model}
    if loaded.texts is not None:
        card["tokenizer"] = loaded.texts.tokenizer
    encoder = encoder_of(model)
    for name, do in (
        (card.get("tokenizer", WORDS), "give its name there with --tokenizer"),
        (WORDS if encoder is None else encoder, "train with its name there as model.options.path"),
    ):
        if name != WORDS and os.path.isdir(name):
            raise ModelError(
                f"this model needs {name}, a folder of this machine: push it to the hub, and {do}"
            )
    return replace(loaded, card=card)


def _write_card(
    folder: Path,
    repo_id: str,
    run: RunRecord,
    place: Path,
    loaded: Loaded,
    weights: Path,
    license: str | None,
) -> None:
    data, fetched = _data(section(run.recipe, "data"))
    sections = {
        "": f"{in_a_terminal(run_headline(run))}. {_ABOUT}",
        "Load it": _loading(repo_id, loaded, weights),
        "How it was made": _markdown(_made(run, loaded, data)),
        "The numbers": "\n\n".join(map(_markdown, (run_numbers(run), *_tables(run)))),
    }
    if (comparison := _comparison(place, run)) is not None:
        sections["The comparison that it is part of"] = _compared(comparison, run)
    hub.write_card(
        folder, repo_id, sections,
        license=license, tags=[role_of(run)], pipeline_tag=_task(loaded), datasets=fetched or None,
    )  # fmt: skip


def _task(loaded: Loaded) -> str | None:
    """The hub's name for what the model does; None where it has none."""
    if loaded.output.name == "tokens":
        return "text-generation"
    given = {"text": loaded.texts, "image": loaded.preprocess, "tabular": loaded.columns}
    of = next((name for name, part in given.items() if part is not None), None)
    what = {
        "one-class": f"{of}-classification",
        "several-labels": f"{of}-classification",
        "regression": "tabular-regression" if of == "tabular" else None,
        "embeddings": "sentence-similarity" if of == "text" else f"{of}-feature-extraction",
    }
    return None if of is None else what[loaded.output.name]


_ABOUT = "Trained with frugalkd, which distils a model with a fraction of the samples."


def _loading(repo_id: str, loaded: Loaded, weights: Path) -> str:
    path = loaded.card["model"].get("path")
    more = "" if path is None else f", imports=[{path!r}]"
    lines = ["import frugalkd", "", f'model = frugalkd.load("{repo_id}", download=True{more})']
    inputs = "texts)" if loaded.columns is None else "table)  # of frugalkd.data.table.read_table"
    if loaded.preprocess is not None:
        shape = ", ".join(map(str, loaded.preprocess.shape))
        inputs = f"pictures)  # uint8 (N, {shape}), or PIL images"
    if loaded.output.name == "tokens":
        return hub.own_loading(loaded.model, repo_id, weights)
    if all(part is None for part in (loaded.texts, loaded.preprocess, loaded.columns)):
        lines.append("outputs = model.model(batch)  # prepared as its own data set does")
    elif loaded.output.by_top_class:
        lines.append(f"classes, probabilities = model.predict({inputs}")
        if loaded.classes:
            lines.append("names = [model.classes[each] for each in classes]")
    else:
        names = {"embeddings": "embeddings", "several-labels": "probabilities"}
        lines.append(f"{names.get(loaded.output.name, 'values')} = model.outputs({inputs}")
    code = hub.fenced(lines)
    if not saves_itself(loaded.model):
        return code
    return f"{code}\n\nOr:\n\n{hub.own_loading(loaded.model, repo_id, weights)}"


def _data(data: dict[str, Any]) -> tuple[str, list[str]]:
    """The data's name, without a folder of this machine, and what of them the hub has."""
    name = str(data.get("name") or data.get("path") or "not known")
    source = str(section(data, "options").get("path") or "")
    if name != "hugging-face" or not source:
        return name, []
    if os.path.exists(source) or source.startswith((".", "/", "~")):
        return f"{name}, {Path(source).name}", []
    return f"{name}, {source}", [source]


def _made(run: RunRecord, loaded: Loaded, data: str) -> Table:
    student = section(run.recipe, "student")
    model = loaded.card["model"]
    facts: dict[str, Any] = {"model": f"{model.get('name') or model.get('path')}"}
    if model.get("options"):
        facts["its options"] = ", ".join(
            f"{key}: {model['options'][key]}" for key in model["options"]
        )
    if run.kind == "distill":
        facts["distilled from"] = ", ".join(_teachers(run)) or "no teacher: labels alone"
        facts["mode"] = student.get("mode") or called(student, "policy")
        facts["objective"] = called(student, "objective")
        facts["limit of its cost"] = student.get("cost")
        facts["limit of its samples"] = section(student, "regulation").get("budget")
    facts["data"] = data
    if run.data is not None:
        facts["SHA-256 of its training data"] = run.data.train
        facts["SHA-256 of its held-out data"] = run.data.held_out
    facts["seed"] = run.seed
    facts["versions"] = ", ".join(f"{name} {run.versions[name]}" for name in sorted(run.versions))
    facts["digest of the run"] = run.digest
    rows = [[name, str(value)] for name, value in facts.items() if value is not None]
    return Table("", ["what", "which"], rows)


def _teachers(run: RunRecord) -> Iterator[str]:
    several = section(section(section(run.recipe, "student"), "teachers"), "of")
    if run.targets is None:
        return
    if run.targets.kind == "ema":
        yield "the moving average of its own weights"
        return
    for name, each in (several or {"": section(run.recipe, "teacher")}).items():
        model = section(each, "model") or section(section(run.recipe, "teacher"), "model")
        built = model.get("name") or model.get("path") or "stored targets"
        yield f"{name}: {built}" if name else str(built)
    if run.teacher is not None and run.teacher.digest is not None:
        yield f"digest of its run {run.teacher.digest}"


def _tables(run: RunRecord) -> Iterator[Table]:
    yield from (block for block in run_costs(run) if isinstance(block, Table))


def _comparison(place: Path, run: RunRecord) -> Comparison | None:
    """That of the folder two above, where it has this very run."""
    file = place.absolute().parents[1] / "comparison.json"
    if not file.is_file():
        return None
    found = collect(file)
    assert isinstance(found, Comparison)
    return found if any(run.digest in arm.digests.values() for arm in found.arms) else None


def _compared(found: Comparison, run: RunRecord) -> str:
    """The claims that its arm is named in, and that arm beside those, its controls and the
    reference."""
    own = {arm.arm for arm in found.arms if run.digest in arm.digests.values()}
    claims = [claim for claim in found.claims if own & {claim.arm, claim.against}]
    shown = own | {found.reference} | {name for it in claims for name in (it.arm, it.against)}
    arms = [arm for arm in found.arms if arm.arm in shown or arm.control_of in own]
    part = found.model_copy(update={"arms": arms, "claims": claims})
    notes = [note for note in found.notes if note not in FIELDS]
    state = "" if found.complete else " It is not complete: no claim holds yet."
    parts = [
        f"{', '.join(sorted(own))} over {len(found.seeds)} seeds, on {found.split} data.{state} "
        "± is half of the 95 % interval over seeds, differences are paired, in points.",
        _markdown(arms_table(part)),
        _markdown(claims_table(part)) if claims else "No claim about it was declared.",
        *notes,
    ]
    return "\n\n".join(parts)


def _markdown(table: Table) -> str:
    rows = [[f"{it.text} ({it.note})" if it.note else it.text for it in r] for r in table.cells]
    caption = f"{table.caption}:\n\n" if table.caption else ""
    return caption + hub.table(table.headings, rows)
