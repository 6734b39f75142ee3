"""docs/objectives.md from the code: one card an objective, its docstring and its settings."""

from __future__ import annotations

from policies_page import card_of

from frugalkd.fidelity import Fidelity
from frugalkd.objectives import OBJECTIVES, FeatureObjective, Objective

HEAD = """\
# What the student learns by: one card an objective

Written from the code by `make pages`; do not edit it by hand.

An objective gives each sample a loss of its own, so that every one of them can be weighed. A recipe
names one: `student.objective='{name: dkd, beta: 4}'`. Python takes the object:
`distill(..., objective=DKD(beta=4.0))`, from `frugalkd.objectives`. In your own loop,
`batch.reduce(objective(logits, batch.targets, labels))`.

The objectives are implemented from their formulas, not from their authors' code, and what we chose
where a formula leaves it open stands on each card. Where all weights are 1, the mean of the losses
is the published loss of a batch. Defaults follow the publications where we know them; none was
tuned here, and another objective may want another learning rate.

*Rows*: alone, or *batch* where a sample's loss is made with the other samples. Such an objective is
told the weights, `objective(logits, batch.targets, labels, batch.weights)`. Those of the others
count in a sample's loss, and its own in `reduce`: so a pair (i, j) weighs `w_i * w_j`, means over
the batch are weighted, and nothing is weighed twice. A sample of weight 0 has no gradient, and no
part in anybody else's. The ledger's `loss` is without the sample's own weight; of a batch objective
it may be negative.

*Soft targets*: the encodings ([store.md](store.md)) that keep what the objective reads of the
teacher. A recipe that asks for another one is refused when it is read, and so are stored targets of
another one before the training. A live teacher always will do.

*With features*: the objective reads what modules of both models return, named by their paths, or by
globs within one part of a path: `{name: fitnets, student: layer2.0, teacher: 'layer2.*'}`; with
`:input` behind it, a path means what the module gets, `fc:input` for one. A path that matches
nothing is refused with the nearest ones. Neither model is changed. It needs a live teacher
(`student.targets.kind: live`) or stored features (`student.targets.features: [layer2.0]`, see
[store.md](store.md)). What it trains beside the student, such as an adapter where shapes differ, is
saved for resuming and left out of the exported student; its operations are counted apart
(`objective_forward` and `objective_backward` of `meters.flops`). In Python the training is
`distill`; in your own loop, `frugalkd.criterion.bind` hands out the features, and the optimiser
gets what they train:

```python
criterion = bind(objective, student, targets, batch=lambda: x, forward=student, samples=len(data))
selection.features = criterion.features
optimizer = SGD([*student.parameters(), *criterion.parts.parameters()], lr=0.05)
with criterion:
    for epoch in selection:
        for batch in epoch:
            logits = student(batch.data[0])
            losses = criterion(logits, batch.labels, batch)
            optimizer.zero_grad()
            batch.reduce(losses).backward()
            optimizer.step()
            batch.observe(logits, losses=losses)
```

Texts are padded to another length in each batch. Objectives that compare places take them as they
come, the padding with them; `crd` and stored features need one shape in all batches, such as that
of what the last layer gets (`head:input`).

## Sums, schedules, your own

A weighted sum; each term's own cross-entropy is in it, so set `hard` to 0 in all but one:

```yaml
objective:
  name: sum
  terms:
    - {of: {name: kd}}
    - weight: {start: 2, end: 0}
      of: {name: fitnets, student: features.5, teacher: features.7, hard: 0}
```

A weight, and every setting below whose default has a point, may be a schedule: from `start` to
`end` over the progress of the training, `shape: linear` or `cosine`, as in
`{name: kd, temperature: {start: 8, end: 2, shape: cosine}}`. A temperature that changes, or two of
them in a sum, need soft targets that are good at every temperature.

Your own, by import path: `{path: mine:Loss, options: {width: 3}}` names what makes a
`frugalkd.objectives.Objective`, a class with `needs_targets` whose call returns one loss a row,
never reduced. Nothing of yours is imported to read a recipe, and `--no-import` refuses it.

In Python: `WeightedSum((KD(), DIST(hard=0.0)), (1.0, Ramp(2.0, 0.0)))`, and
`scheduled(KD(), temperature=Ramp(8.0, 2.0, "cosine"))`. In your own loop, which knows its progress,
`objective.at(batch.progress)` is the objective of that step.
"""

ENCODINGS = {
    Fidelity.DRAWS: "float32, float16, top-k, sampled",
    Fidelity.SOFTMAX: "float32, float16, top-k",
    Fidelity.DIFFERENCES: "float32, float16",
    Fidelity.LOGITS: "float32",
}


def page() -> str:
    """The content of docs/objectives.md."""
    cards = (card_of(name, made_of) for name, made_of in OBJECTIVES.items())
    return "\n".join([HEAD, _table(), *cards])


def _table() -> str:
    head = ["objective", "rows", "soft targets"]
    rows = [head, ["---"] * 3, *(_row(name, made_of) for name, made_of in OBJECTIVES.items())]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _row(name: str, made_of: type[Objective]) -> list[str]:
    rows = "batch" if made_of.mixes_rows else "alone"
    needs = ENCODINGS[made_of.reads] if made_of.needs_targets else "none"
    if issubclass(made_of, FeatureObjective):
        needs = "any, with features"
    return [f"[`{name}`](#{name})", rows, needs]
