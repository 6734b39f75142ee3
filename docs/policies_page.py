"""Generate docs/policies.md from the code: one card per policy, its docstring and its settings."""

from __future__ import annotations

import dataclasses
import inspect
import re

import numpy as np

from frugalkd.policies import POLICIES, Policy

HEAD = """\
# Policies: which samples are used for training

Generated from the code by `make pages`; do not edit it by hand.

A policy selects the samples that are used for training in an epoch. In a recipe, set a policy
instead of a mode: `student.mode=null student.policy='{name: pdd, threshold: 0.2}'`. In Python, pass
the object: `Sampling(policy=ProgressiveDataDropout(threshold=0.2))`. A comparison has an arm for
each of the rivals, such as `pdd`, or `pdd@0.25` with a budget.

All policies plan the epochs of the same training loop, so they differ only in the samples that they
select. The rules are implemented from their descriptions, not from their authors' code. Where a
description leaves a choice open, the card states our choice, and where a rule differs from the
published one, what that does. [method.md](method.md) describes `self-regulation`. Samples are
screened in evaluation mode; the public code of `kakurenbo`, `pdd`, `rho-loss`, `unix` and
Composer's `selective-backprop` does it in training mode.

The columns of the table: *gate*: whether samples are judged on the current batch (`now`) or on
their last training forward pass (`last-visit`). *screens*: which samples a screening pass evaluates
without training on them. *budget*: whether the policy can be limited to a given fraction of the
samples of full training. *scoring run*: whether it needs separate trainings beforehand. *bytes*:
additional memory per sample, on top of the ledger's.
"""

OWN = """\
## Your own

A policy of your own is a class with a method that plans an epoch. It trains in the same loop, and a
comparison measures it against the policies of this page and the controls:

```python
# mine.py
from dataclasses import dataclass

import numpy as np

from frugalkd.policies import Plan, Ungated


@dataclass(frozen=True)
class HighestLoss(Ungated):
    \"\"\"In each epoch the samples whose last loss is highest, those that have none first.\"\"\"

    budget: float = 0.5

    def plan(self, ledger, pool, at):
        losses = np.nan_to_num(ledger["loss"][pool], nan=np.inf)
        order = np.lexsort((at.uniform("ties", pool), -losses))
        return Plan(pool[order[: round(self.budget * len(pool))]])
```

In the recipe `mine.yaml`:

```yaml
arms:
  mine: {set: {student.mode: null, student.policy: {path: "mine:HighestLoss"}}}
```

```console
$ frugalkd compare mine.yaml --arms vanilla,regulated@0.25,mine@0.25,random@0.25 \\
    --seeds 5 --out runs/mine
```

`path` names a callable that returns a `frugalkd.policies.Policy`, and `options` are its keyword
arguments. In Python: `Sampling(policy=HighestLoss(0.25))`. `ledger` has the columns `loss`,
`confidence`, `last_epoch` and others ([API](api.md)), `pool` the ids that may be used, sorted, and
`at` the epoch and its random draws. Of the base classes, `Ungated` has no gate; a `Policy` also
says in `needs_training` which rows still fail it, and may screen (`Plan.screen`) and keep numbers
of each sample (`columns`). A dataclass with a field `budget`, of full training over the same
epochs, can be an arm `mine@0.25` where `path` names the class. A subclass of `SelfRegulation` may
have a `student.cost`. Reading a recipe imports none of your code, and `--no-import` refuses such a
recipe.
"""


def page() -> str:
    """The content of docs/policies.md."""
    return "\n".join([HEAD, _table(), OWN, *(card(name) for name in POLICIES)])


def card(name: str) -> str:
    """The card of one policy."""
    return card_of(name, POLICIES[name])


def card_of(name: str, made_of: type) -> str:
    """The card of a dataclass: its docstring, and its settings with their defaults."""
    about, _, _ = inspect.cleandoc(made_of.__doc__ or "").partition("\n\nAttributes:\n")
    title, _, rest = about.partition("\n")
    described: dict[str, str] = {}
    for base in reversed(made_of.__mro__):  # a setting may be described by the class that has it
        described |= _settings_of(base)
    lines = []
    for field in dataclasses.fields(made_of):  # pyright: ignore
        if field.name not in described:
            raise ValueError(f"the docstring of {made_of.__name__} does not describe {field.name}")
        required = field.default is dataclasses.MISSING
        shown = "required" if required else f"`{_plain(field.default)}`"
        lines.append(f"- `{field.name}`, {shown}: {described[field.name]}")
    listed = "\n\n*Settings*, with their defaults:\n\n" + "\n".join(lines) if lines else ""
    text = f"## {name}\n\n`{made_of.__name__}`: {title}\n{rest}{listed}\n"
    return text.replace("``", "`")


def _settings_of(base: type) -> dict[str, str]:
    """The settings that the docstring of ``base`` describes."""
    _, _, settings = inspect.cleandoc(base.__doc__ or "").partition("\n\nAttributes:\n")
    found = re.findall(r"^    (\w+): (.*?)(?=^    \w|\Z)", settings, re.M | re.S)
    return {name: " ".join(said.split()) for name, said in found}


def _table() -> str:
    head = ["policy", "gate", "screens", "budget", "scoring run", "bytes"]
    rows = [
        head,
        ["---"] * 5 + ["--:"],
        *(_row(name, made_of()) for name, made_of in POLICIES.items()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(name: str, policy: Policy) -> list[str]:
    screens = (
        "all samples" if policy.when == "now" else "some" if policy.needs_screening else "none"
    )
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
