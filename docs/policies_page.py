"""docs/policies.md from the code: one card a policy, its docstring and its settings' defaults."""

from __future__ import annotations

import dataclasses
import inspect
import re

import numpy as np

from frugalkd.policies import POLICIES, Policy

HEAD = """\
# Who takes part: one card a policy

Written from the code by `make pages`; do not edit it by hand.

A policy decides which samples take part in an epoch. A recipe names one in the place of a mode:
`student.mode=null student.policy='{name: pdd, threshold: 0.2}'`. Python takes the object:
`distill(..., policy=ProgressiveDataDropout(threshold=0.2))`. A comparison has an arm for each of
the rivals, `pdd`, and at a budget `pdd@0.25`.

All of them plan epochs of one engine, so that they differ in whom they choose and in nothing else.
The rules are implemented from their descriptions, not from their authors' code, and what we chose
where a description leaves it open stands on each card. [method.md](method.md) tells of
`self-regulation`.

*Screens*: who goes through the student forward-only, to be judged. *Budget*: whether it can be made
to spend a given part of the samples that full training would. *Scoring run*: whether it needs
trainings before the training. *Bytes*: its own of each sample, on top of the ledger's.
"""


def page() -> str:
    """The content of docs/policies.md."""
    return "\n".join([HEAD, _table(), *(card(name) for name in POLICIES)])


def card(name: str) -> str:
    """One policy's."""
    return card_of(name, POLICIES[name])


def card_of(name: str, made_of: type) -> str:
    """Of a dataclass: its docstring, and its settings with their defaults."""
    about, _, settings = inspect.cleandoc(made_of.__doc__ or "").partition("\n\nAttributes:\n")
    title, _, rest = about.partition("\n")
    defaults = {field.name: field.default for field in dataclasses.fields(made_of)}  # pyright: ignore
    lines = []
    for setting, said in re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", settings, re.M | re.S):
        said = " ".join(said.split())
        default = defaults.pop(setting)
        shown = "required" if default is dataclasses.MISSING else f"`{_plain(default)}`"
        lines.append(f"- `{setting}`, {shown}: {said}")
    if defaults:
        raise ValueError(f"{made_of.__name__}: its docstring does not say {', '.join(defaults)}")
    listed = "\n\n*Settings*, with their defaults:\n\n" + "\n".join(lines) if lines else ""
    text = f"## {name}\n\n`{made_of.__name__}`: {title}\n{rest}{listed}\n"
    return text.replace("``", "`")


def _table() -> str:
    head = ["policy", "gate", "screens", "budget", "scoring run", "bytes"]
    rows = [
        head,
        ["---"] * 5 + ["--:"],
        *(_row(name, made_of()) for name, made_of in POLICIES.items()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(name: str, policy: Policy) -> list[str]:
    screens = "everybody" if policy.when == "now" else "some" if policy.looks else "nobody"
    return [
        f"[`{name}`](#{name})",
        policy.when,
        screens,
        "no" if policy.at_budget(0.5) is None else "yes",
        "yes" if policy.scoring else "no",
        str(sum(np.dtype(dtype).itemsize for dtype in policy.columns.values())),
    ]


def _plain(default: object) -> str:
    return f'"{default}"' if isinstance(default, str) else str(default)
