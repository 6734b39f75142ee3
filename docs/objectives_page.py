"""Generate docs/objectives.md from the code: one card per objective, its docstring and settings."""

from __future__ import annotations

from policies_page import card_of

from frugalkd.objectives import OBJECTIVES, FeatureObjective, Objective
from frugalkd.teachers.encodings import Fidelity

HEAD = """\
# Objectives: the losses of distillation

Generated from the code by `make pages`; do not edit it by hand.

An objective returns one loss per sample, so that each sample can be weighted. In a recipe, set its
name: `student.objective='{name: dkd, beta: 4}'`. In Python, pass the object:
`distill(..., objective=DKD(beta=4.0))`, from `frugalkd.objectives`. In your own training loop, call
`batch.reduce(objective(logits, batch.targets, labels))`.

The objectives are implemented from their formulas, not from their authors' code. Where a formula
leaves a choice open, the card states our choice. If all weights are 1, the mean of the losses is
the published loss of a batch. Defaults follow the publications where we know them. None was tuned
here, and another objective may need another learning rate.

*Rows*: `alone`, or `batch` if the loss of a sample depends on the other samples of the batch. Such
an objective receives the weights: `objective(logits, batch.targets, labels, batch.weights)`. The
weights of the other samples enter the loss of a sample, and its own weight enters in `reduce`. A
pair (i, j) therefore has weight `w_i * w_j`, means over the batch are weighted, and no weight is
applied twice. A sample of weight 0 has no gradient and does not change the loss of any other
sample. The ledger's `loss` excludes the sample's own weight. For a batch objective it may be
negative.

*Soft targets*: the encodings ([store.md](store.md)) that keep what the objective reads of the
teacher's output. A recipe that sets another encoding is refused when it is read. Stored targets of
another encoding are refused before the training. A live teacher works with every objective.

*With features*: the objective reads the outputs of modules of both models. Modules are named by
their paths, or by globs within one part of a path:
`{name: fitnets, student: layer2.0, teacher: 'layer2.*'}`. The suffix `:input` selects the input of
the module instead, for example `fc:input`. A path that matches nothing is refused, and the error
lists the nearest ones. If several modules are named, the losses of the pairs are summed. Neither
model is changed. Such an objective needs a live teacher
(`student.targets.kind: live`) or stored features (`student.targets.features: [layer2.0]`, see
[store.md](store.md)). Parameters that it trains in addition to the student, such as an adapter
between different shapes, are saved for resuming and are not part of the exported student. Their
operations are counted separately (`objective_forward` and `objective_backward` of `meters.flops`).
In Python, use `distill`. In your own training loop, `frugalkd.objectives.criterion.bind` provides
the features; add its parameters to the optimizer:

```python
criterion = bind(objective, student, targets, batch=lambda: x, forward=student, samples=len(data))
selection.attach(features=criterion.features)
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

Texts are padded to a different length in each batch. Objectives that compare positions use all of
them, including the padding. `crd` and stored features need the same shape in all batches, such as
the input of the last layer (`head:input`).

## Weighted sums, schedules and custom objectives

A weighted sum includes the cross-entropy of each term, so set `hard` to 0 in all terms but one:

```yaml
objective:
  name: sum
  terms:
    - {of: {name: kd}}
    - weight: {start: 2, end: 0}
      of: {name: fitnets, student: features.5, teacher: features.7, hard: 0}
```

A weight, and every setting below whose default has a decimal point, may be a schedule. It runs from
`start` to `end` over the progress of the training, with `shape: linear` or `cosine`, as in
`{name: kd, temperature: {start: 8, end: 2, shape: cosine}}`. `until: 0.1` ends it after a tenth of
the training: a warm-up. A temperature that changes, or two
different temperatures in a sum, need soft targets that are valid at every temperature.

Use a custom objective by import path: `{path: mine:Loss, options: {width: 3}}` names a callable
that returns a `frugalkd.objectives.Objective`, a class whose call returns one loss per row, never
reduced (with `needs_targets = False` if it reads no teacher). Reading a recipe imports none of your
code, and `--no-import` refuses such a recipe.

In Python: `WeightedSum((KD(), DIST(hard=0.0)), (1.0, Ramp(2.0, 0.0)))`, and
`scheduled(KD(), temperature=Ramp(8.0, 2.0, "cosine"))`. In your own training loop,
`objective.at(batch.progress)` is the objective of that step.
"""

ENCODINGS = {
    Fidelity.DRAWS: "float32, float16, top-k, sampled",
    Fidelity.SOFTMAX: "float32, float16, top-k",
    Fidelity.DIFFERENCES: "float32, float16",
    Fidelity.VALUES: "float32, float16",
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
    needs += ", int8" if made_of.output == "embeddings" else ""
    if issubclass(made_of, FeatureObjective):
        needs = "any, with features"
    return [f"[`{name}`](#{name})", rows, needs]
