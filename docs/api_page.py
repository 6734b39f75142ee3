"""Generate docs/api.md from the code: every public name and what it is for."""

from __future__ import annotations

import inspect
import re
from importlib import import_module
from typing import get_origin

HEAD = """\
# Public API

Generated from the code by `make pages`; do not edit it by hand.

These are the names to import; [stability.md](stability.md) describes what stays the same between
versions. A name that is not listed here is internal, also where it has no underscore. Names from
`frugalkd.policies` and `frugalkd.objectives` that a first script needs, such as
`frugalkd.SelfRegulation` and `frugalkd.KD`, can be imported from `frugalkd`, too. Shapes, dtypes
and errors are in the docstrings: `help(frugalkd.distill)`.
"""

# Each heading: what stands below it, and the module and its names ("*": all of ``__all__``).
GROUPS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "Train and distil": (
        "One call trains a teacher or a student.",
        {"frugalkd": ["train_teacher", "distill", "Run", "train_head"]},
    ),
    "Settings": (
        "Frozen dataclasses that the calls above, `Selection` and the trainers share.",
        {
            "frugalkd": [
                "Sampling",
                "Training",
                "Optimizer",
                "Schedule",
                "RunOptions",
                "Checkpointing",
                "DataLoading",
            ]
        },
    ),
    "In a training loop of your own": (
        "`Selection` yields epochs of batches; `gate` is the rule for a batch by itself.",
        {"frugalkd": ["Selection", "gate", "Ledger", "Meters", "significance_weights"]},
    ),
    "In other trainers": (
        "Each module needs its own extra ([trainers.md](trainers.md)).",
        {
            "frugalkd.integrations.transformers": ["FrugalTrainer"],
            "frugalkd.integrations.lightning": ["FrugalCallback", "FrugalLoader"],
        },
    ),
    "Policies": (
        "Which samples are used: one card each in [policies.md](policies.md).",
        {"frugalkd.policies": ["*"]},
    ),
    "Objectives": (
        "One loss per sample: one card each in [objectives.md](objectives.md).",
        {"frugalkd.objectives": ["*"]},
    ),
    "Teachers": (
        "Where soft targets come from ([teachers.md](teachers.md), [store.md](store.md)).",
        {
            "frugalkd": [
                "Targets",
                "LiveTeacher",
                "StoredTargets",
                "FirstVisitTargets",
                "SeveralTeachers",
                "EMATeacher",
            ],
            "frugalkd.teachers": ["FillOptions"],
        },
    ),
    "Data and models": (
        "Optional helpers: any map-style dataset and any module work ([data.md](data.md)).",
        {
            "frugalkd": [
                "load_data",
                "ImageData",
                "Augmentation",
                "build_model",
                "reuse_classifier",
                "load",
            ],
            "frugalkd.models": ["name_classes", "reorder_classes"],
        },
    ),
    "Language models": (
        "Needs the extra `transformers` ([language.md](language.md)).",
        {"frugalkd.language": ["*"]},
    ),
    "Experiments": (
        "What the command line runs.",
        {
            "frugalkd": ["compare"],
            "frugalkd.experiments.scoring": ["score"],
            "frugalkd.experiments.estimate": ["estimate"],
        },
    ),
    "Errors": (
        "Every exception derives from one class: [errors.md](errors.md) lists messages and causes.",
        {"frugalkd": ["FrugalKDError"]},
    ),
}


def page() -> str:
    """The content of docs/api.md."""
    lines = [HEAD]
    for heading, (about, modules) in GROUPS.items():
        lines += [f"## {heading}", "", about, "", "| name | what it is |", "|---|---|"]
        lines += [
            f"| `{module}.{name}` | {_first_line(getattr(import_module(module), name))} |"
            for module, names in modules.items()
            for name in _names(module, names)
        ]
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def listed() -> set[str]:
    """All names on the page, such as ``frugalkd.distill``."""
    return {
        f"{module}.{name}"
        for _, modules in GROUPS.values()
        for module, names in modules.items()
        for name in _names(module, names)
    }


def _names(module: str, names: list[str]) -> list[str]:
    return sorted(import_module(module).__all__, key=str.lower) if names == ["*"] else names


def _first_line(named: object) -> str:
    """The first sentence of a docstring, with Sphinx roles as plain code."""
    if not callable(named) or get_origin(named) is not None:
        return "a type of arrays" if not isinstance(named, dict) else "the table of names"
    paragraph = inspect.cleandoc(named.__doc__ or "").partition("\n\n")[0]
    sentence = re.split(r"(?<=[.])\s", " ".join(paragraph.split()) + " ")[0]
    sentence = re.sub(r":\w+:`~?([\w.]+)`", r"`\1`", sentence).replace("``", "`")
    return sentence.rstrip(":").replace("|", "\\|")
